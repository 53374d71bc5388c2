//! The tokens that are shown to an issuer: on whose behalf something is asked, and who asks.

use serde_json::json;
use zeroize::Zeroizing;

use super::server::Server;
use crate::credential::{
    Failure, SecretPlace,
    jose::{self, Header, SigningKey},
    mint::Tools,
};

/// A token, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    /// Where it comes from.
    pub shown: Shown,
    /// What it is.
    pub token_type: TokenType,
}

/// Where a token comes from that is shown to an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// The agent's own identity, for this audience or else for the issuer.
    Identity(Option<String>),
    /// Somebody else gave it.
    Held(SecretPlace),
    /// We sign it ourselves.
    Signed(Box<Signed>),
}

/// A token that we sign ourselves (RFC 7523 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Where the key stands.
    pub key: SecretPlace,
    /// The name that the issuer knows the key by.
    pub key_id: Option<String>,
    /// Who says so.
    pub issuer: String,
    /// About whom.
    pub subject: String,
    /// To whom; the issuer without one.
    pub audience: Option<String>,
}

/// What a token is (RFC 8693 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    /// An access token of the same issuer.
    AccessToken,
    /// An `OpenID` Connect ID token.
    IdToken,
    /// Any JSON Web Token.
    Jwt,
    /// A SAML 2.0 assertion.
    Saml2,
    /// A refresh token.
    RefreshToken,
    /// An assertion about somebody for another issuer.
    IdJag,
}

impl TokenType {
    /// Its registered name.
    pub(super) fn urn(self) -> &'static str {
        match self {
            Self::AccessToken => "urn:ietf:params:oauth:token-type:access_token",
            Self::IdToken => "urn:ietf:params:oauth:token-type:id_token",
            Self::Jwt => "urn:ietf:params:oauth:token-type:jwt",
            Self::Saml2 => "urn:ietf:params:oauth:token-type:saml2",
            Self::RefreshToken => "urn:ietf:params:oauth:token-type:refresh_token",
            Self::IdJag => "urn:ietf:params:oauth:token-type:id-jag",
        }
    }
}

impl Shown {
    /// The token as it is now, for this server to see.
    pub(super) async fn read(&self, tools: &Tools, server: &Server) -> Result<Zeroizing<String>, Failure> {
        match self {
            Self::Held(place) => place.read().await,
            Self::Identity(audience) => identity(tools, audience.as_deref().unwrap_or_else(|| server.audience())).await,
            Self::Signed(signed) => signed.token(server).await,
        }
    }

    pub(super) fn secret(&self) -> Option<&SecretPlace> {
        match self {
            Self::Identity(_) => None,
            Self::Held(place) => Some(place),
            Self::Signed(signed) => Some(&signed.key),
        }
    }
}

impl Signed {
    async fn token(&self, server: &Server) -> Result<Zeroizing<String>, Failure> {
        let Self { key, key_id, issuer, subject, audience } = self;
        let audience = audience.as_deref().unwrap_or_else(|| server.audience());
        assertion(key, key_id.as_deref(), (issuer, subject), audience).await
    }
}

/// The agent's identity, as it proves itself to this audience.
pub(super) async fn identity(tools: &Tools, audience: &str) -> Result<Zeroizing<String>, Failure> {
    let token = tools.identity.token(audience).await;
    token.map_err(|failure| Failure::new(failure.refusal(), failure.to_string()).about("identity"))
}

/// A token of ours, for one use. The key is read each time, so that another one is used from the next time on.
pub(super) async fn assertion(
    key: &SecretPlace,
    key_id: Option<&str>,
    (issuer, subject): (&str, &str),
    audience: &str,
) -> Result<Zeroizing<String>, Failure> {
    let text = key.read().await.map_err(|failure| failure.about("key"))?;
    let key = SigningKey::from_pem(&text).map_err(|failure| failure.about("key"))?;
    let now = jose::now();
    let claims = json!({
        "iss": issuer,
        "sub": subject,
        "aud": audience,
        "jti": jose::unique(),
        "iat": now,
        "exp": now + LIFE,
    });
    Ok(key.sign(Header { typ: "JWT", key_id, with_key: false }, &claims))
}

/// How long an assertion of ours is good, in seconds: for the one request that it goes along with.
const LIFE: u64 = 60;
