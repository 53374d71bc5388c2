//! Access across two issuers that trust each other: the first gives an assertion about whoever a token is of, made for
//! the second alone (Identity Assertion JWT Authorization Grant).

use zeroize::Zeroizing;

use super::{
    Fields, Oauth, TOKEN_EXCHANGE, answer,
    server::Server,
    shown::{TokenType, Typed},
};
use crate::credential::{Failure, mint::Asking};

/// What gives the assertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdJag {
    /// The issuer that knows who somebody is.
    pub provider: Server,
    /// Whoever it is.
    pub subject: Typed,
    /// The issuer that takes the assertion, by its identifier.
    pub audience: String,
}

impl IdJag {
    /// The assertion: good for one use by one client at one issuer. Anything else that is given is not passed on.
    pub(super) async fn assertion(&self, asking: &Asking<'_>, whole: &Oauth) -> Result<Zeroizing<String>, Failure> {
        let mut fields = Fields::of(TOKEN_EXCHANGE);
        fields.add("requested_token_type", TokenType::IdJag.urn());
        whole.target.ask(&mut fields, asking.scopes, Some(&self.audience));
        let subject = self.subject.shown.read(asking.tools).await;
        fields.take("subject_token", subject.map_err(|failure| failure.about("subject"))?);
        fields.add("subject_token_type", self.subject.token_type.urn());
        let answer = self.provider.ask(asking.tools, &fields, None).await;
        let answer = answer.map_err(|failure| failure.about(FIRST))?;
        let (given, failure) = match answer::read(&answer) {
            Ok(granted) => match granted.assertion_fault(&self.audience, &whole.server.client.id, asking.scopes) {
                Ok(()) => return Ok(granted.access_token),
                Err(failure) => (Some(granted.access_token), failure),
            },
            Err(failure) => (answer::token(&answer), failure),
        };
        // Only the one who gave it can end it, and that is not who the store would ask.
        if let Some(given) = given.filter(|_| self.provider.revocable())
            && self.provider.revoke(asking.tools, &given).await.is_err()
        {
            return Err(failure.about("identity provider, and what it gave could not be revoked"));
        }
        Err(failure.about(FIRST))
    }
}

const FIRST: &str = "identity provider";
