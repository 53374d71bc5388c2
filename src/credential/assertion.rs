//! What proves to an issuer who the agent is, or on whose behalf something is asked: a signed token.

use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Failure, SecretPlace,
    jose::{self, Header, SigningKey},
    mint::Tools,
};

/// A signed token that an issuer is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assertion {
    /// The agent's identity, for this audience.
    Identity(String),
    /// One that somebody else gave: it stands somewhere, and is read each time.
    At(SecretPlace),
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
    /// To whom.
    pub audience: String,
}

impl Assertion {
    /// The token as it is now.
    pub(super) async fn read(&self, tools: &Tools) -> Result<Zeroizing<String>, Failure> {
        match self {
            Self::At(place) => place.read().await.map_err(|failure| failure.about("token")),
            Self::Identity(audience) => identity(tools, audience).await,
            Self::Signed(ours) => {
                let Signed { key, key_id, issuer, subject, audience } = &**ours;
                signed(key, key_id.as_deref(), (issuer, subject), audience).await
            }
        }
    }
}

/// The agent's identity, as it proves itself to this audience.
pub(super) async fn identity(tools: &Tools, audience: &str) -> Result<Zeroizing<String>, Failure> {
    let token = tools.identity.token(audience).await;
    token.map_err(|failure| Failure::new(failure.refusal(), failure.to_string()).about("identity"))
}

/// A token of ours, for one use. The key is read each time, so that another one is used from the next time on.
pub(super) async fn signed(
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
