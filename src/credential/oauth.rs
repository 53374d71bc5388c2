//! OAuth 2.0 issuers: four grants, and one way of asking.
//!
//! An answer is taken only if it is exactly what was asked for: of the right kind, with a life that is told and not
//! longer than allowed, for no other audience and without a scope that was not asked for. A token that can't be used is
//! handed back to be revoked (RFC 7009). A refresh token is wiped unread: nothing here outlives its access token.

pub mod authentication;
pub mod server;
pub mod shown;
pub mod target;

mod answer;
pub(super) mod dpop;
mod id_jag;
pub(super) mod metadata;

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{
    Failure,
    assertion::Assertion,
    client::Form,
    mint::{Asking, Handle, Minted, Tools, Unusable},
};
use answer::Expected;
pub use id_jag::IdJag;
use server::Server;
use shown::{TokenType, Typed};
use target::Target;

/// A token that an OAuth 2.0 issuer gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oauth {
    /// Why it is given.
    pub grant: Grant,
    /// Who gives it.
    pub server: Server,
    /// What it is good for.
    pub target: Target,
    /// Whether it is bound to a key of ours (RFC 9449), so that it is worth nothing to whoever finds it.
    pub dpop: bool,
}

/// Why a token is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// Because it is us who ask (RFC 6749 section 4.4).
    ClientCredentials,
    /// In exchange for another token (RFC 8693).
    TokenExchange(TokenExchange),
    /// For an assertion (RFC 7523).
    JwtBearer(Assertion),
    /// For an assertion that another issuer, which both trust, gives about whoever a token is of.
    IdJag(Box<IdJag>),
}

/// What is exchanged (RFC 8693 section 2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenExchange {
    /// On whose behalf.
    pub subject: Typed,
    /// Who acts, where that is somebody else.
    pub actor: Option<Typed>,
    /// What is wanted for it.
    pub wants: TokenType,
}

impl Oauth {
    /// The kind as it stands in configuration.
    pub(super) fn kind(&self) -> &'static str {
        match self.grant {
            Grant::ClientCredentials => "oauth_client_credentials",
            Grant::TokenExchange(_) => "oauth_token_exchange",
            Grant::JwtBearer(_) => "oauth_jwt_bearer",
            Grant::IdJag(_) => "id_jag",
        }
    }

    pub(super) fn revocable(&self) -> bool {
        self.server.revocable()
    }

    pub(super) fn scopes(&self) -> &[String] {
        &self.target.scopes
    }

    /// Who is asked first.
    pub(super) fn issuer(&self) -> &str {
        match &self.grant {
            Grant::ClientCredentials | Grant::TokenExchange(_) | Grant::JwtBearer(_) => self.server.name(),
            Grant::IdJag(jag) => jag.provider.name(),
        }
    }

    /// Asks for a token with these scopes that lives no longer than this.
    pub(super) async fn mint(&self, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        let key = self.dpop.then(|| Arc::new(dpop::Key::generate()));
        let fields = self.fields(asking).await?;
        let answer = self.server.ask(asking.tools, &fields, key.as_deref()).await?;
        let issued = match &self.grant {
            Grant::TokenExchange(exchange) => Some(exchange.wants),
            Grant::ClientCredentials | Grant::JwtBearer(_) | Grant::IdJag(_) => None,
        };
        let expected = Expected {
            target: &self.target,
            scopes: asking.scopes,
            longest: asking.longest,
            issued,
            bound: key.is_some(),
        };
        match answer::read(&answer) {
            Ok(granted) => granted.accept(&expected, key, self.revocable()),
            Err(failure) => {
                let given = if self.revocable() { answer::token(&answer) } else { None };
                Err(Unusable { failure, handle: given.map(Handle::Secret) })
            }
        }
    }

    /// All that the request says, but for who asks.
    async fn fields(&self, asking: &Asking<'_>) -> Result<Fields, Failure> {
        let target = &self.target;
        let mut fields;
        match &self.grant {
            Grant::ClientCredentials => {
                fields = Fields::of("client_credentials");
                target.ask(&mut fields, asking.scopes, target.audience.as_deref());
            }
            Grant::TokenExchange(exchange) => {
                fields = exchange.fields(asking.tools).await?;
                target.ask(&mut fields, asking.scopes, target.audience.as_deref());
            }
            Grant::JwtBearer(assertion) => {
                fields = Fields::of(JWT_BEARER);
                fields.take("assertion", assertion.read(asking.tools).await?);
                target.ask(&mut fields, asking.scopes, target.audience.as_deref());
            }
            Grant::IdJag(jag) => {
                fields = Fields::of(JWT_BEARER);
                fields.take("assertion", jag.assertion(asking, self).await?);
                // The assertion says the rest.
                fields.scope(asking.scopes);
            }
        }
        Ok(fields)
    }

    /// Ends a token (RFC 7009).
    pub(super) async fn revoke(&self, tools: &Tools, handle: &Handle) -> Result<(), Failure> {
        match handle {
            Handle::Secret(token) => self.server.revoke(tools, token).await,
            Handle::Reference(_) => Err(Failure::malformed("tokens are revoked by their value")),
        }
    }
}

impl TokenExchange {
    async fn fields(&self, tools: &Tools) -> Result<Fields, Failure> {
        let mut fields = Fields::of(TOKEN_EXCHANGE);
        let subject = self.subject.shown.read(tools).await.map_err(|failure| failure.about("subject"))?;
        fields.take("subject_token", subject);
        fields.add("subject_token_type", self.subject.token_type.urn());
        if let Some(actor) = &self.actor {
            let token = actor.shown.read(tools).await.map_err(|failure| failure.about("actor"))?;
            fields.take("actor_token", token);
            fields.add("actor_token_type", actor.token_type.urn());
        }
        fields.add("requested_token_type", self.wants.urn());
        Ok(fields)
    }
}

/// The fields of a request, in their order.
struct Fields(Vec<(&'static str, Zeroizing<String>)>);

impl Fields {
    fn of(grant_type: &str) -> Self {
        let mut fields = Self(Vec::with_capacity(12));
        fields.add("grant_type", grant_type);
        fields
    }

    fn add(&mut self, name: &'static str, value: &str) {
        self.take(name, Zeroizing::new(value.to_owned()));
    }

    fn take(&mut self, name: &'static str, value: Zeroizing<String>) {
        self.0.push((name, value));
    }

    fn scope(&mut self, scopes: &[&str]) {
        if !scopes.is_empty() {
            self.add("scope", &scopes.join(" "));
        }
    }

    /// The form to post, with what says who asks.
    fn form(&self, asks: &Self) -> Form {
        let all = self.0.iter().chain(&asks.0).map(|(name, value)| (*name, value.as_str()));
        Form::new(&all.collect::<Vec<_>>())
    }
}

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

#[cfg(test)]
mod tests;
