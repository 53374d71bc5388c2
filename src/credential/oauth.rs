//! OAuth 2.0 client credentials (RFC 6749 section 4.4) and revocation (RFC 7009).
//!
//! An answer is taken only if it is exactly what was asked for: a bearer token, with a life that is told and not longer
//! than allowed, and without a scope that was not asked for. A token that can't be used is handed back to be revoked.

use std::time::Duration;

use http::{HeaderValue, StatusCode};
use percent_encoding::utf8_percent_encode;
use serde::{Deserialize, Deserializer};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::{
    Failure, SecretPlace, Source, UNRESERVED, basic_pair,
    client::{Answer, Client, Form},
    file::{self, Look},
    sensitive,
};
use crate::refusal::CredentialRefusal;

/// An authorization server, and who we are there.
#[derive(Clone, Copy)]
pub(super) struct Issuer<'a> {
    token_endpoint: &'a str,
    revocation_endpoint: Option<&'a str>,
    client_id: &'a str,
    client_secret: &'a SecretPlace,
    audience: Option<&'a str>,
}

/// A token as the issuer gave it.
pub(super) struct Token {
    pub(super) value: Zeroizing<String>,
    pub(super) life: Duration,
}

/// Why there is no token, and the one that was given all the same, which should be revoked.
pub(super) struct Unusable {
    pub(super) failure: Failure,
    pub(super) token: Option<Zeroizing<String>>,
}

impl From<Failure> for Unusable {
    fn from(failure: Failure) -> Self {
        Self { failure, token: None }
    }
}

impl<'a> Issuer<'a> {
    /// The issuer behind this source, if it is one.
    pub(super) fn of(source: &'a Source) -> Option<Self> {
        match source {
            Source::File { .. } => None,
            Source::OauthClientCredentials {
                token_endpoint,
                revocation_endpoint,
                client_id,
                client_secret,
                audience,
                scopes: _,
            } => Some(Self {
                token_endpoint,
                revocation_endpoint: revocation_endpoint.as_deref(),
                client_id,
                client_secret,
                audience: audience.as_deref(),
            }),
        }
    }

    /// Asks for a token with these scopes that lives no longer than this.
    pub(super) async fn mint(&self, client: &Client, scopes: &[&str], longest: Duration) -> Result<Token, Unusable> {
        let scope = scopes.join(" ");
        let mut fields = vec![("grant_type", "client_credentials")];
        if !scope.is_empty() {
            fields.push(("scope", &scope));
        }
        if let Some(audience) = self.audience {
            fields.push(("audience", audience));
        }
        let answer = client.post(self.token_endpoint, self.authorization().await?, Form::new(&fields)).await?;
        match answer.status {
            StatusCode::OK => read(&answer)?.accept(scopes, longest),
            _ => Err(refused(&answer).into()),
        }
    }

    /// Ends a token. Tries again while the issuer is unwell, as the token is valid until it says otherwise.
    pub(super) async fn revoke(&self, client: &Client, token: &str) -> Result<(), Failure> {
        let endpoint = self.revocation_endpoint.ok_or_else(|| Failure::malformed("the issuer can't revoke"))?;
        let mut pauses = PAUSES.iter();
        loop {
            let form = Form::new(&[("token", token), ("token_type_hint", "access_token")]);
            let failure = match client.post(endpoint, self.authorization().await?, form).await {
                Ok(answer) if answer.status == StatusCode::OK => return Ok(()),
                Ok(answer) => refused(&answer),
                Err(failure) => failure,
            };
            let unwell = matches!(failure.refusal, CredentialRefusal::Unavailable | CredentialRefusal::Timeout);
            match pauses.next() {
                Some(pause) if unwell => sleep(*pause).await,
                _ => return Err(failure),
            }
        }
    }

    /// `Basic`, with both parts encoded as in a form (RFC 6749 section 2.3.1).
    async fn authorization(&self) -> Result<HeaderValue, Failure> {
        let secret = match self.client_secret {
            SecretPlace::Value(value) => value.0.clone(),
            SecretPlace::File(path) => match file::look(path, None).await {
                Ok(Look::Read(secret, _)) => secret,
                Ok(Look::Unchanged) => return Err(Failure::malformed("the client's secret was not read")),
                Err(failure) => {
                    return Err(Failure { detail: format!("client secret: {}", failure.detail), ..failure });
                }
            },
        };
        let mut encoded = Zeroizing::new(String::with_capacity(3 * secret.len()));
        encoded.extend(utf8_percent_encode(&secret, UNRESERVED));
        let user = utf8_percent_encode(self.client_id, UNRESERVED).to_string();
        sensitive(&["Basic ", &basic_pair(&user, &encoded)])
    }
}

/// A successful answer (RFC 6749 section 5.1). What else it says is ignored, as the standard asks.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(deserialize_with = "wiped")]
    access_token: Zeroizing<String>,
    #[serde(default)]
    token_type: String,
    #[serde(default)]
    expires_in: serde_json::Value,
    scope: Option<String>,
    /// Read only to be wiped: nothing here outlives its access token.
    #[serde(default, rename = "refresh_token", deserialize_with = "wiped")]
    _refresh_token: Zeroizing<String>,
}

impl TokenAnswer {
    fn accept(self, scopes: &[&str], longest: Duration) -> Result<Token, Unusable> {
        match self.fault(scopes, longest) {
            Err(failure) => Err(Unusable { failure, token: Some(self.access_token) }),
            Ok(life) => Ok(Token { value: self.access_token, life }),
        }
    }

    /// The token's life, or what is wrong with the answer.
    fn fault(&self, scopes: &[&str], longest: Duration) -> Result<Duration, Failure> {
        if self.access_token.is_empty() || !self.access_token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::malformed("`access_token` is empty or holds characters that it must not"));
        }
        if !self.token_type.eq_ignore_ascii_case("bearer") {
            return Err(Failure::malformed("`token_type` is not `Bearer`"));
        }
        let life = match self.expires_in.as_u64() {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => return Err(Failure::malformed("`expires_in` is missing or not a positive integer")),
        };
        if life > longest {
            let detail = format!("the token lives {life:?}, allowed are {longest:?}");
            return Err(Failure::new(CredentialRefusal::LifetimeExceeded, detail));
        }
        let given = self.scope.as_deref().unwrap_or_default();
        if !scopes.is_empty() && given.split_ascii_whitespace().any(|each| !scopes.contains(&each)) {
            return Err(Failure::new(CredentialRefusal::ScopeExceeded, "the token has a scope that was not asked for"));
        }
        Ok(life)
    }
}

fn read(answer: &Answer) -> Result<TokenAnswer, Failure> {
    // The decoder would take an array for the fields in their order.
    if answer.body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Failure::malformed("the answer is not a JSON object"));
    }
    // The decoder's own message could quote the answer.
    serde_json::from_slice(&answer.body).map_err(|_| Failure::malformed("the answer is not a token response"))
}

/// What an answer other than 200 means.
fn refused(answer: &Answer) -> Failure {
    let status = answer.status;
    let refusal = match status.as_u16() {
        429 | 500..=599 => CredentialRefusal::Unavailable,
        400..=499 => CredentialRefusal::Rejected,
        _ => CredentialRefusal::Malformed,
    };
    let detail = match error_code(&answer.body) {
        Some(code) => format!("the issuer answered {} {code}", status.as_u16()),
        None => format!("the issuer answered {}", status.as_u16()),
    };
    Failure { refusal, detail, retry_after: answer.retry_after }
}

/// The error's name, if it is a known one: whatever else stands there is the issuer's to choose, and not for a log.
fn error_code(body: &[u8]) -> Option<&'static str> {
    #[derive(Deserialize)]
    struct ErrorAnswer<'a> {
        error: &'a str,
    }
    let ErrorAnswer { error } = serde_json::from_slice(body).ok()?;
    ERRORS.iter().find(|known| **known == error).copied()
}

fn wiped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    Ok(Zeroizing::new(Option::<String>::deserialize(deserializer)?.unwrap_or_default()))
}

/// RFC 6749 section 5.2, RFC 7009 section 2.2.1, RFC 8707 section 2.
const ERRORS: [&str; 8] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "unsupported_token_type",
    "invalid_target",
];

/// Between the attempts to revoke.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

#[cfg(test)]
mod tests {
    use super::{
        super::{
            SecretValue,
            endpoint::{Endpoint, Reply, client},
        },
        *,
    };

    const LONGEST: Duration = Duration::from_secs(600);

    fn source(endpoint: &Endpoint) -> Source {
        Source::OauthClientCredentials {
            token_endpoint: endpoint.url(),
            revocation_endpoint: Some(endpoint.revocation_url()),
            client_id: "tollgate:a".into(),
            client_secret: SecretPlace::Value(SecretValue(Zeroizing::new("s e+cret".to_owned()))),
            scopes: vec!["read".into(), "write".into()],
            audience: Some("https://api.test/".into()),
        }
    }

    async fn mint(endpoint: &Endpoint, scopes: &[&str]) -> Result<Token, Unusable> {
        Issuer::of(&source(endpoint)).unwrap().mint(&client(), scopes, LONGEST).await
    }

    #[tokio::test]
    async fn the_request_is_as_the_standard_says() {
        let endpoint = Endpoint::start(|_| Reply::token("canary", 600)).await;
        let token = mint(&endpoint, &["read", "write"]).await.ok().unwrap();
        assert_eq!((token.value.as_str(), token.life), ("canary", LONGEST));
        let seen = endpoint.seen();
        let form = "grant_type=client_credentials&scope=read%20write&audience=https%3A%2F%2Fapi.test%2F";
        assert_eq!(seen[0].body, form);
        // `tollgate%3Aa:s%20e%2Bcret`
        assert_eq!(seen[0].authorization, "Basic dG9sbGdhdGUlM0FhOnMlMjBlJTJCY3JldA==");
    }

    #[tokio::test]
    async fn an_answer_that_is_not_exactly_right_is_refused_and_its_token_handed_back() {
        use CredentialRefusal::{LifetimeExceeded, Malformed, ScopeExceeded};
        let table = [
            (r#"{"access_token":"t","token_type":"Bearer","expires_in":601}"#, LifetimeExceeded, Some("t")),
            (r#"{"access_token":"t","token_type":"Bearer","expires_in":0}"#, Malformed, Some("t")),
            (r#"{"access_token":"t","token_type":"Bearer","expires_in":-1}"#, Malformed, Some("t")),
            (r#"{"access_token":"t","token_type":"Bearer","expires_in":"60"}"#, Malformed, Some("t")),
            (r#"{"access_token":"t","token_type":"Bearer","expires_in":1.5}"#, Malformed, Some("t")),
            (r#"{"access_token":"t","token_type":"Bearer"}"#, Malformed, Some("t")),
            (r#"{"access_token":"t","token_type":"DPoP","expires_in":60}"#, Malformed, Some("t")),
            (r#"{"access_token":"t","expires_in":60}"#, Malformed, Some("t")),
            (r#"{"access_token":"t t","token_type":"Bearer","expires_in":60}"#, Malformed, Some("t t")),
            (r#"{"access_token":"","token_type":"Bearer","expires_in":60}"#, Malformed, Some("")),
            (
                r#"{"access_token":"t","token_type":"Bearer","expires_in":60,"scope":"read admin"}"#,
                ScopeExceeded,
                Some("t"),
            ),
            (r#"{"access_token":"t","access_token":"u","token_type":"Bearer","expires_in":60}"#, Malformed, None),
            (r#"{"token_type":"Bearer","expires_in":60}"#, Malformed, None),
            (r#"["t","Bearer",60]"#, Malformed, None),
            (r#"{"access_token":"t","token_type":"Bearer","expires_in":60} x"#, Malformed, None),
            ("", Malformed, None),
            ("<html>", Malformed, None),
        ];
        for (text, refusal, token) in table {
            let endpoint = Endpoint::start(move |_| Reply::json(text)).await;
            let unusable = mint(&endpoint, &["read", "write"]).await.err().expect(text);
            assert_eq!(unusable.failure.refusal, refusal, "{text}");
            assert_eq!(unusable.token.as_ref().map(|token| token.as_str()), token, "{text}");
        }
    }

    #[tokio::test]
    async fn fewer_scopes_unknown_fields_and_a_refresh_token_do_no_harm() {
        let table = [
            r#"{"access_token":"t","token_type":"bearer","expires_in":60,"scope":"read"}"#,
            r#"{"access_token":"t","token_type":"BEARER","expires_in":60,"refresh_token":"r","x":{}}"#,
            r#" {"access_token":"t","token_type":"Bearer","expires_in":60,"scope":null,"refresh_token":null}"#,
        ];
        for text in table {
            let endpoint = Endpoint::start(move |_| Reply::json(text)).await;
            assert!(mint(&endpoint, &["read", "write"]).await.is_ok(), "{text}");
        }
    }

    #[tokio::test]
    async fn scopes_are_not_compared_when_none_were_asked_for() {
        let text = r#"{"access_token":"t","token_type":"Bearer","expires_in":60,"scope":"default"}"#;
        let endpoint = Endpoint::start(move |_| Reply::json(text)).await;
        assert!(mint(&endpoint, &[]).await.is_ok());
        assert!(!endpoint.seen()[0].body.contains("scope"));
    }

    #[tokio::test]
    async fn a_status_says_who_is_at_fault() {
        use CredentialRefusal::{Malformed, Rejected, Unavailable};
        let table = [
            (400, Rejected),
            (401, Rejected),
            (403, Rejected),
            (404, Rejected),
            (429, Unavailable),
            (500, Unavailable),
            (503, Unavailable),
            (201, Malformed),
            (204, Malformed),
            (302, Malformed),
        ];
        for (status, refusal) in table {
            let endpoint = Endpoint::start(move |_| Reply::status(status).header("retry-after", "9")).await;
            let unusable = mint(&endpoint, &[]).await.err().unwrap();
            assert_eq!(unusable.failure.refusal, refusal, "{status}");
            assert_eq!(unusable.failure.retry_after, Some(Duration::from_secs(9)));
        }
    }

    #[tokio::test]
    async fn only_known_errors_are_told() {
        let reply = |error: &str| Reply::status(401).body(&format!(r#"{{"error":"{error}"}}"#));
        let endpoint = Endpoint::start(move |_| reply("invalid_client")).await;
        let unusable = mint(&endpoint, &[]).await.err().unwrap();
        assert_eq!(unusable.failure.detail, "the issuer answered 401 invalid_client");
        let endpoint = Endpoint::start(move |_| reply("canary")).await;
        assert_eq!(mint(&endpoint, &[]).await.err().unwrap().failure.detail, "the issuer answered 401");
    }

    #[tokio::test]
    async fn a_token_is_revoked_with_its_kind_and_again_while_the_issuer_is_unwell() {
        let mut answers = [503, 200].into_iter();
        let endpoint = Endpoint::start(move |_| Reply::status(answers.next().unwrap())).await;
        let source = source(&endpoint);
        assert!(Issuer::of(&source).unwrap().revoke(&client(), "t&t").await.is_ok());
        assert_eq!(endpoint.revoked(2).await, ["token=t%26t&token_type_hint=access_token"; 2]);
    }

    #[tokio::test]
    async fn a_no_to_a_revocation_is_final() {
        let endpoint = Endpoint::start(|_| Reply::status(400)).await;
        let source = source(&endpoint);
        let failure = Issuer::of(&source).unwrap().revoke(&client(), "t").await.unwrap_err();
        assert_eq!(failure.refusal, CredentialRefusal::Rejected);
        assert_eq!(endpoint.seen().len(), 1);
    }

    #[tokio::test]
    async fn a_client_secret_that_is_not_there_is_unavailable_and_nothing_is_sent() {
        let endpoint = Endpoint::start(|_| Reply::token("t", 60)).await;
        let mut source = source(&endpoint);
        if let Source::OauthClientCredentials { client_secret, .. } = &mut source {
            *client_secret = SecretPlace::File("/nowhere/secret".into());
        }
        let minted = Issuer::of(&source).unwrap().mint(&client(), &[], LONGEST).await;
        assert_eq!(minted.err().map(|unusable| unusable.failure.refusal), Some(CredentialRefusal::Unavailable));
        assert!(endpoint.seen().is_empty());
    }
}
