//! What an issuer gave, held against what it was asked for.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::StatusCode;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{dpop::Key, shown::TokenType, target::Target};
use crate::{
    credential::{
        Failure,
        client::Answer,
        jose::Unverified,
        mint::{Handle, Life, Minted, Secret, Unusable},
        reply,
    },
    refusal::CredentialRefusal,
};

/// What was asked for.
pub(super) struct Expected<'a> {
    pub(super) target: &'a Target,
    /// The scopes that policy chose of it.
    pub(super) scopes: &'a [&'a str],
    pub(super) longest: Duration,
    /// The type that was wanted, where one was named.
    pub(super) issued: Option<TokenType>,
    /// Whether it is bound to a key.
    pub(super) bound: bool,
}

/// A successful answer (RFC 6749 section 5.1, RFC 8693 section 2.2). What else it says is ignored, as the standard asks.
#[derive(Deserialize)]
pub(super) struct Granted {
    #[serde(deserialize_with = "reply::wiped_or_empty")]
    pub(super) access_token: Zeroizing<String>,
    #[serde(default)]
    token_type: String,
    issued_token_type: Option<String>,
    #[serde(default)]
    expires_in: Value,
    scope: Option<String>,
    authorization_details: Option<Value>,
    /// Read only to be wiped: nothing here outlives its access token.
    #[serde(default, rename = "refresh_token", deserialize_with = "reply::wiped_or_empty")]
    _refresh_token: Zeroizing<String>,
}

pub(super) fn read(answer: &Answer) -> Result<Granted, Failure> {
    reply::object(answer, StatusCode::OK)
}

/// The token of an answer that can't be read as a whole: whatever was given has to be ended. Of several, the last.
pub(super) fn token(answer: &Answer) -> Option<Zeroizing<String>> {
    struct Lenient<'t>(&'t mut Option<Zeroizing<String>>);

    impl<'de> Visitor<'de> for Lenient<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<(), M::Error> {
            while let Some(name) = members.next_key::<String>()? {
                if name == "access_token" {
                    *self.0 = Some(Zeroizing::new(members.next_value()?));
                } else {
                    members.next_value::<IgnoredAny>()?;
                }
            }
            Ok(())
        }
    }

    let mut token = None;
    // What was read before the fault counts.
    let _ = serde_json::Deserializer::from_slice(&answer.body).deserialize_map(Lenient(&mut token));
    token.filter(|token: &Zeroizing<String>| !token.is_empty())
}

impl Granted {
    /// The credential, if it is exactly what was asked for.
    pub(super) fn accept(
        self,
        expected: &Expected<'_>,
        key: Option<Arc<Key>>,
        revocable: bool,
    ) -> Result<Minted, Unusable> {
        let fault = self.fault(expected);
        let handle = revocable.then(|| Handle::Secret(self.access_token.clone()));
        let life = match fault {
            Ok(life) => Life::For(life),
            Err(failure) => return Err(Unusable { failure, handle }),
        };
        let secret = match key {
            Some(key) => Secret::Bound { token: self.access_token, key },
            None => Secret::Value(self.access_token),
        };
        Ok(Minted { secret, life, handle })
    }

    /// The token's life, or what is wrong with the answer.
    fn fault(&self, expected: &Expected<'_>) -> Result<Duration, Failure> {
        self.whole()?;
        self.typed(expected)?;
        let life = self.life(expected.longest)?;
        self.scoped(expected.scopes)?;
        self.detailed(expected.target)?;
        match Unverified::read(&self.access_token) {
            Some(token) => claims_fault(&token, expected).map(|()| life),
            // An opaque token says nothing; what it is good for is between its issuer and the origin.
            None => Ok(life),
        }
    }

    /// What is wrong with an assertion that another issuer is to take.
    pub(super) fn assertion_fault(&self, audience: &str, client_id: &str, scopes: &[&str]) -> Result<(), Failure> {
        self.whole()?;
        if self.issued_token_type.as_deref() != Some(TokenType::IdJag.urn()) {
            return Err(Failure::malformed("`issued_token_type` is not that of an ID-JAG"));
        }
        // As an access token it would be good for something here already.
        if !self.token_type.eq_ignore_ascii_case(NOT_APPLICABLE) {
            return Err(Failure::malformed("`token_type` is not `N_A`"));
        }
        self.scoped(scopes)?;
        let token = Unverified::read(&self.access_token);
        let token = token.ok_or_else(|| Failure::malformed("the assertion is not a JSON Web Token"))?;
        let typ = token.header.get("typ").and_then(Value::as_str).unwrap_or_default();
        if !typ.eq_ignore_ascii_case("oauth-id-jag+jwt") {
            return Err(Failure::malformed("the assertion's `typ` is not `oauth-id-jag+jwt`"));
        }
        if token.audiences() != Some(vec![audience]) {
            return Err(exceeded("the assertion is not for the one issuer that it was asked for"));
        }
        if token.claims.get("client_id").and_then(Value::as_str) != Some(client_id) {
            return Err(exceeded("the assertion is for another client"));
        }
        Ok(())
    }

    fn whole(&self) -> Result<(), Failure> {
        match reply::is_token(&self.access_token) {
            true => Ok(()),
            false => Err(Failure::malformed("`access_token` is empty or holds characters that it must not")),
        }
    }

    fn typed(&self, expected: &Expected<'_>) -> Result<(), Failure> {
        if expected.issued.is_some_and(|wanted| self.issued_token_type.as_deref() != Some(wanted.urn())) {
            return Err(Failure::malformed("`issued_token_type` is not what was asked for"));
        }
        let is = |name: &str| self.token_type.eq_ignore_ascii_case(name);
        match (expected.bound, expected.issued) {
            (true, _) if is("DPoP") => Ok(()),
            (true, _) => Err(Failure::malformed("`token_type` is not `DPoP`")),
            (false, Some(TokenType::Jwt)) if is(NOT_APPLICABLE) => Ok(()),
            (false, _) if is("Bearer") => Ok(()),
            (false, _) => Err(Failure::malformed("`token_type` is not `Bearer`")),
        }
    }

    fn life(&self, longest: Duration) -> Result<Duration, Failure> {
        let life = match self.expires_in.as_u64() {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => return Err(Failure::malformed("`expires_in` is missing or not a positive integer")),
        };
        match life > longest {
            true => Err(reply::outlives(life, longest)),
            false => Ok(life),
        }
    }

    fn scoped(&self, asked: &[&str]) -> Result<(), Failure> {
        match within(self.scope.as_deref().unwrap_or_default(), asked) {
            true => Ok(()),
            false => Err(exceeded("the token has a scope that was not asked for")),
        }
    }

    /// What is permitted in detail must be told, if it was asked for (RFC 9396 section 7).
    fn detailed(&self, target: &Target) -> Result<(), Failure> {
        match &self.authorization_details {
            None | Some(Value::Null) if target.details.is_empty() => Ok(()),
            Some(Value::Array(given)) if target.permits(given) => Ok(()),
            Some(Value::Array(_)) => Err(exceeded("the token permits details that were not asked for")),
            _ => Err(Failure::malformed("`authorization_details` is missing or not a list")),
        }
    }
}

/// What is wrong with what a token says of itself. Nothing in it is trusted: it can only be refused for it.
fn claims_fault(token: &Unverified, expected: &Expected<'_>) -> Result<(), Failure> {
    if expected.target.names_audience() {
        let audiences = token.audiences().unwrap_or_default();
        if !expected.target.covers(&audiences) {
            return Err(exceeded("the token is not for the audience that was asked for"));
        }
    }
    let left = token.expires_at().map(|ends| ends.duration_since(SystemTime::now()).unwrap_or_default());
    if let Some(left) = left.filter(|left| *left > expected.longest.saturating_add(reply::SKEW)) {
        return Err(reply::outlives(left, expected.longest).about("longer than `expires_in` says"));
    }
    for name in ["scope", "scp"] {
        let fits = match token.claims.get(name) {
            Some(Value::String(scopes)) => within(scopes, expected.scopes),
            Some(Value::Array(scopes)) => {
                scopes.iter().all(|scope| scope.as_str().is_some_and(|scope| within(scope, expected.scopes)))
            }
            Some(_) => false,
            None => true,
        };
        if !fits {
            return Err(exceeded("the token says a scope that was not asked for"));
        }
    }
    Ok(())
}

/// Whether these scopes were asked for. Where none were, the issuer gives its default.
fn within(given: &str, asked: &[&str]) -> bool {
    asked.is_empty() || given.split_ascii_whitespace().all(|each| asked.contains(&each))
}

fn exceeded(detail: &str) -> Failure {
    Failure::new(CredentialRefusal::ScopeExceeded, detail)
}

/// The type of what is no access token (RFC 8693 section 2.2.1).
const NOT_APPLICABLE: &str = "N_A";
