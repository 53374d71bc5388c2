//! What proves to an issuer who the agent is: a signed token, from our identity or from a place where one stands.

use zeroize::Zeroizing;

use super::{Failure, SecretPlace, mint::Tools};

/// A signed token that says who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assertion {
    /// The agent's identity, for this audience.
    Identity(String),
    /// One that stands somewhere, and is read each time.
    At(SecretPlace),
}

impl Assertion {
    /// The token as it is now.
    pub(super) async fn read(&self, tools: &Tools) -> Result<Zeroizing<String>, Failure> {
        match self {
            Self::At(place) => place.read().await.map_err(|failure| failure.about("token")),
            Self::Identity(audience) => {
                let token = tools.identity.token(audience).await;
                token.map_err(|failure| Failure::new(failure.refusal(), failure.to_string()).about("identity"))
            }
        }
    }

    pub(super) fn own_secrets(&self) -> Vec<&SecretPlace> {
        match self {
            Self::Identity(_) => Vec::new(),
            Self::At(place) => vec![place],
        }
    }
}
