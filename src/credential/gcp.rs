//! Google Cloud by workload identity federation: our token is exchanged (RFC 8693) at Google's token service, and what
//! comes back impersonates a service account for as long as is needed.
//!
//! Google takes no access token back. One that impersonates is asked for with the life that is of use; one that does not
//! has the life that Google gives it.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Failure,
    assertion::Assertion,
    client::Form,
    mint::{Asking, Life, Minted, Secret, Unusable},
    reply, sensitive,
};

/// A workload identity pool's provider, and the service account that it may impersonate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gcp {
    /// Google's token service.
    pub token_endpoint: String,
    /// Google's service for the credentials of service accounts, without a slash at the end.
    pub credentials_api: String,
    /// The provider: `//iam.googleapis.com/projects/…/providers/…`.
    pub audience: String,
    /// What proves who we are.
    pub subject: Assertion,
    /// The service account that is impersonated, by its address; none where the pool itself has the rights.
    pub service_account: Option<String>,
    /// The scopes that may be asked for.
    pub scopes: Vec<String>,
}

/// The token service's answer.
#[derive(Deserialize)]
struct Exchanged {
    #[serde(deserialize_with = "reply::wiped")]
    access_token: Zeroizing<String>,
    issued_token_type: String,
    token_type: String,
    expires_in: u64,
}

/// The answer of `generateAccessToken`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Impersonated {
    #[serde(deserialize_with = "reply::wiped")]
    access_token: Zeroizing<String>,
    expire_time: String,
}

impl Gcp {
    /// Asks for a token.
    pub(super) async fn mint(&self, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        let federated = self.exchange(asking).await?;
        match &self.service_account {
            Some(account) => self.impersonate(account, &federated.access_token, asking).await,
            None => {
                let life = Life::For(Duration::from_secs(federated.expires_in));
                Ok(Minted { secret: Secret::Value(federated.access_token), life, handle: None })
            }
        }
    }

    async fn exchange(&self, asking: &Asking<'_>) -> Result<Exchanged, Failure> {
        let subject = self.subject.read(asking.tools).await?;
        // Impersonation needs this one; the scopes of the call are asked for by the second step.
        let scope = match self.service_account {
            Some(_) => IMPERSONATES.to_owned(),
            None => asking.scopes.join(" "),
        };
        let form = Form::new(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("audience", &self.audience),
            ("scope", &scope),
            ("requested_token_type", ACCESS_TOKEN),
            ("subject_token", &subject),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ]);
        let answer = asking.tools.client.post(&self.token_endpoint, HeaderMap::new(), form).await?;
        let exchanged: Exchanged = reply::object(&answer, StatusCode::OK)?;
        let bearer = exchanged.token_type.eq_ignore_ascii_case("bearer");
        if !bearer || exchanged.issued_token_type != ACCESS_TOKEN || !reply::is_token(&exchanged.access_token) {
            return Err(Failure::malformed("the answer is not the access token that was asked for"));
        }
        Ok(exchanged)
    }

    async fn impersonate(&self, account: &str, federated: &str, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        let wanted = asking.useful.min(LONGEST).max(SHORTEST);
        let body = json!({"scope": asking.scopes, "lifetime": format!("{}s", wanted.as_secs())}).to_string();
        let headers = HeaderMap::from_iter([
            (header::AUTHORIZATION, sensitive(&["Bearer ", federated])?),
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ]);
        let endpoint = format!("{}/v1/projects/-/serviceAccounts/{account}:generateAccessToken", self.credentials_api);
        let body = Zeroizing::new(body.into_bytes());
        let answer = asking.tools.client.call(Method::POST, &endpoint, headers, body).await?;
        let given: Impersonated = reply::object(&answer, StatusCode::OK)?;
        if !reply::is_token(&given.access_token) {
            return Err(Failure::malformed("`accessToken` is empty or holds characters that it must not").into());
        }
        let life = Life::For(reply::life_until(reply::moment(&given.expire_time)?, wanted)?);
        Ok(Minted { secret: Secret::Value(given.access_token), life, handle: None })
    }
}

/// What is asked for where the configuration names no scope; roles bound what it is good for.
pub const ALL_OF_CLOUD: &str = "https://www.googleapis.com/auth/cloud-platform";
const IMPERSONATES: &str = ALL_OF_CLOUD;
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Google's limits for a token that impersonates.
const LONGEST: Duration = Duration::from_secs(3600);
const SHORTEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::{
        super::{
            SecretPlace, SecretValue,
            endpoint::{Endpoint, Reply, Seen},
            testing::Scene,
        },
        *,
    };
    use crate::refusal::CredentialRefusal;

    fn gcp(endpoint: &Endpoint, service_account: Option<&str>) -> Gcp {
        Gcp {
            token_endpoint: endpoint.url(),
            credentials_api: endpoint.url().trim_end_matches("/token").to_owned(),
            audience: "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x".into(),
            subject: Assertion::At(SecretPlace::Value(SecretValue(Zeroizing::new("subject-canary".to_owned())))),
            service_account: service_account.map(str::to_owned),
            scopes: vec!["https://www.googleapis.com/auth/devstorage.read_only".into()],
        }
    }

    fn exchanged(life: u64) -> Reply {
        Reply::json(&format!(
            r#"{{"access_token":"federated","issued_token_type":"{ACCESS_TOKEN}","token_type":"Bearer","expires_in":{life}}}"#
        ))
    }

    fn impersonated(life: i64) -> Reply {
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(life);
        Reply::json(&format!(r#"{{"accessToken":"ya29.canary","expireTime":"{end}"}}"#))
    }

    const SCOPES: [&str; 1] = ["https://www.googleapis.com/auth/devstorage.read_only"];

    #[tokio::test]
    async fn a_service_account_is_impersonated_for_as_long_as_is_needed() {
        let endpoint = Endpoint::start(|seen: &Seen| match seen.path.as_str() {
            "/token" => exchanged(3600),
            _ => impersonated(300),
        })
        .await;
        let asked = Scene::new();
        let asking = asked.asking(&SCOPES, Duration::from_secs(300));
        let minted = gcp(&endpoint, Some("agent@p.iam.gserviceaccount.com")).mint(&asking).await.ok().unwrap();
        assert_eq!(minted.secret.values(), ["ya29.canary"]);
        assert!(matches!(minted.life, Life::For(life) if life <= Duration::from_secs(300)));
        let seen = endpoint.seen();
        assert!(seen[0].body.contains("subject_token=subject-canary&"), "{}", seen[0].body);
        assert!(seen[0].body.contains("audience=%2F%2Fiam.googleapis.com%2Fprojects"), "{}", seen[0].body);
        assert_eq!(seen[1].path, "/v1/projects/-/serviceAccounts/agent@p.iam.gserviceaccount.com:generateAccessToken");
        assert_eq!(seen[1].authorization, "Bearer federated");
        assert_eq!(seen[1].body, format!(r#"{{"lifetime":"300s","scope":["{}"]}}"#, SCOPES[0]));
    }

    #[tokio::test]
    async fn without_one_the_exchanged_token_is_used() {
        let endpoint = Endpoint::start(|_| exchanged(600)).await;
        let minted = gcp(&endpoint, None).mint(&Scene::new().asking(&SCOPES, LONGEST)).await.ok().unwrap();
        assert_eq!(minted.secret.values(), ["federated"]);
        assert!(matches!(minted.life, Life::For(life) if life == Duration::from_secs(600)));
        assert!(
            endpoint.seen()[0].body.contains("scope=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fdevstorage.read_only")
        );
    }

    #[tokio::test]
    async fn an_answer_that_is_not_what_was_asked_for_is_no_credential() {
        use CredentialRefusal::{LifetimeExceeded, Malformed, Rejected, Unavailable};
        type Answer = fn() -> Reply;
        let table: [(Answer, Answer, CredentialRefusal); 5] = [
            (|| Reply::status(403), || Reply::Never, Rejected),
            (
                || Reply::json(r#"{"access_token":"t","token_type":"Bearer","expires_in":1}"#),
                || Reply::Never,
                Malformed,
            ),
            (|| exchanged(3600), || impersonated(7200), LifetimeExceeded),
            (|| exchanged(3600), || Reply::status(503), Unavailable),
            (
                || exchanged(3600),
                || Reply::json(r#"{"accessToken":"","expireTime":"2999-01-01T00:00:00Z"}"#),
                Malformed,
            ),
        ];
        for (first, second, refusal) in table {
            let endpoint =
                Endpoint::start(move |seen: &Seen| if seen.path == "/token" { first() } else { second() }).await;
            let asked = Scene::new();
            let minted = gcp(&endpoint, Some("a@b")).mint(&asked.asking(&SCOPES, LONGEST)).await;
            assert_eq!(minted.err().map(|unusable| unusable.failure.refusal), Some(refusal));
        }
    }
}
