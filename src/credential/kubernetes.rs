//! Tokens of Kubernetes service accounts, for one audience: asked for (`TokenRequest`), or projected into a file.
//!
//! The API server gives no token less than ten minutes and takes none back: it dies with its time, its service account, or
//! the pod that it is bound to.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Failure, SecretPlace,
    assertion::Assertion,
    jose::Unverified,
    mint::{Asking, Life, Minted, Secret, Unusable},
    reply, sensitive,
};
use crate::refusal::CredentialRefusal;

/// A service account's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Whom the token is for: it is accepted nowhere else.
    pub audience: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a service account's token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The kubelet writes it into a file and renews it.
    Projected(SecretPlace),
    /// The API server is asked for it.
    Request(Box<TokenRequest>),
}

/// How the API server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// Where it is, without a slash at the end.
    pub server: String,
    /// The service account's namespace.
    pub namespace: String,
    /// The service account's name.
    pub name: String,
    /// Who we are: needs `create` on `serviceaccounts/token` for that account.
    pub token: Assertion,
    /// The pod that the token dies with, where there is one.
    pub pod: Option<Pod>,
}

/// A pod, by name and by what tells it from its namesakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// The answer (`authentication.k8s.io/v1`).
#[derive(Deserialize)]
struct Given {
    spec: Spec,
    status: Status,
}

#[derive(Deserialize)]
struct Spec {
    audiences: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(deserialize_with = "reply::wiped")]
    token: Zeroizing<String>,
    expiration_timestamp: String,
}

impl ServiceAccount {
    /// Whether a new one is made, and not only read.
    pub(super) fn minted(&self) -> bool {
        match &self.origin {
            Origin::Projected(_) => false,
            Origin::Request(_) => true,
        }
    }

    /// Who is asked, where someone is.
    pub(super) fn issuer(&self) -> Option<&str> {
        match &self.origin {
            Origin::Projected(_) => None,
            Origin::Request(request) => Some(&request.server),
        }
    }

    /// Asks for a token, or reads it.
    pub(super) async fn mint(&self, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        match &self.origin {
            Origin::Projected(place) => self.projected(place, asking).await,
            Origin::Request(request) => self.request(request, asking).await,
        }
    }

    async fn projected(&self, place: &SecretPlace, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        let token = place.read().await?;
        let claims = Unverified::read(&token).ok_or_else(|| Failure::misconfigured("the file holds no token"))?;
        if claims.audiences().is_none_or(|audiences| audiences != [self.audience.as_str()]) {
            let detail = format!("the projected token is not for the audience {} alone", self.audience);
            return Err(Failure::new(CredentialRefusal::ScopeExceeded, detail).into());
        }
        let ends = claims.expires_at().ok_or_else(|| Failure::malformed("the projected token has no end"))?;
        let ended = |failure: Failure| match failure.refusal {
            CredentialRefusal::Malformed => Failure::new(CredentialRefusal::Expired, "the projected token has ended"),
            _ => failure,
        };
        reply::life_until(ends, asking.longest).map_err(ended)?;
        let life = Life::Standing { ends: Some(ends), again: RECHECK };
        Ok(Minted { secret: Secret::Value(token), life, handle: None })
    }

    async fn request(&self, request: &TokenRequest, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        let TokenRequest { server, namespace, name, token, pod } = request;
        reply::can_be_as_short(SHORTEST, asking.longest)?;
        let own = token.read(asking.tools).await?;
        let life = asking.useful.max(SHORTEST);
        let mut spec = json!({"audiences": [self.audience], "expirationSeconds": life.as_secs()});
        if let Some(Pod { name, uid }) = pod {
            spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        }
        let body = json!({"apiVersion": API, "kind": "TokenRequest", "spec": spec}).to_string();
        let headers = HeaderMap::from_iter([
            (header::AUTHORIZATION, sensitive(&["Bearer ", &own])?),
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ]);
        let endpoint = format!("{server}/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let body = Zeroizing::new(body.into_bytes());
        let answer = asking.tools.client.call(Method::POST, &endpoint, headers, body).await?;
        let Given { spec, status } = reply::object(&answer, StatusCode::CREATED)?;
        if spec.audiences != [self.audience.as_str()] {
            return Err(Failure::new(CredentialRefusal::ScopeExceeded, "the token is for another audience").into());
        }
        if !reply::is_token(&status.token) {
            return Err(Failure::malformed("`token` is empty or holds characters that it must not").into());
        }
        // It may give more than was asked for, and is to give no more than is allowed.
        let life = Life::For(reply::life_until(reply::moment(&status.expiration_timestamp)?, asking.longest)?);
        Ok(Minted { secret: Secret::Value(status.token), life, handle: None })
    }
}

const API: &str = "authentication.k8s.io/v1";

/// The API server gives no less.
pub const SHORTEST: Duration = Duration::from_secs(600);

/// The kubelet renews a projected token at 80 hundredths of its life.
const RECHECK: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::{
        super::{
            SecretValue,
            endpoint::{Endpoint, Reply},
            jose,
            testing::Scene,
        },
        *,
    };

    const LONGEST: Duration = Duration::from_secs(900);

    fn at(text: &str) -> SecretPlace {
        SecretPlace::Value(SecretValue(Zeroizing::new(text.to_owned())))
    }

    fn requested(endpoint: &Endpoint) -> ServiceAccount {
        let request = TokenRequest {
            server: endpoint.url().trim_end_matches("/token").to_owned(),
            namespace: "agents".into(),
            name: "reader".into(),
            token: Assertion::At(at("own-canary")),
            pod: Some(Pod { name: "agent-0".into(), uid: "u1".into() }),
        };
        ServiceAccount { audience: "https://kubernetes.test".into(), origin: Origin::Request(Box::new(request)) }
    }

    fn given(audience: &str, life: i64) -> Reply {
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(life);
        Reply::status(201).body(&format!(
            r#"{{"kind":"TokenRequest","spec":{{"audiences":["{audience}"]}},"status":{{"token":"sa-canary","expirationTimestamp":"{end}"}}}}"#
        ))
    }

    #[tokio::test]
    async fn a_token_is_asked_for_as_the_api_describes() {
        let endpoint = Endpoint::start(|_| given("https://kubernetes.test", 905)).await;
        let minted = requested(&endpoint).mint(&Scene::new().asking(&[], LONGEST)).await.ok().unwrap();
        assert_eq!(minted.secret.values(), ["sa-canary"]);
        assert!(matches!(minted.life, Life::For(LONGEST)), "its clock is ahead of ours");
        assert!(minted.handle.is_none());
        let seen = &endpoint.seen()[0];
        assert_eq!(seen.path, "/api/v1/namespaces/agents/serviceaccounts/reader/token");
        assert_eq!(seen.authorization, "Bearer own-canary");
        let body: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "agent-0", "uid": "u1"});
        let spec = json!({"audiences": ["https://kubernetes.test"], "expirationSeconds": 900, "boundObjectRef": bound});
        assert_eq!(body, json!({"apiVersion": API, "kind": "TokenRequest", "spec": spec}));
    }

    #[tokio::test]
    async fn a_token_for_another_audience_and_a_refusal_are_no_credential() {
        for (reply, refusal) in [
            (given("https://other.test", 600), CredentialRefusal::ScopeExceeded),
            (given("https://kubernetes.test", -1), CredentialRefusal::Malformed),
            (given("https://kubernetes.test", 1000), CredentialRefusal::LifetimeExceeded),
            (Reply::status(403), CredentialRefusal::Rejected),
            (Reply::status(503), CredentialRefusal::Unavailable),
            (Reply::status(201).body("{}"), CredentialRefusal::Malformed),
        ] {
            let mut reply = Some(reply);
            let endpoint = Endpoint::start(move |_| reply.take().unwrap()).await;
            let unusable = requested(&endpoint).mint(&Scene::new().asking(&[], LONGEST)).await.err().unwrap();
            assert_eq!(unusable.failure.refusal, refusal);
        }
    }

    #[tokio::test]
    async fn what_the_api_server_never_gives_is_not_asked_for() {
        let endpoint = Endpoint::start(|_| given("https://kubernetes.test", 600)).await;
        let scene = Scene::new();
        let asking = scene.asking(&[], SHORTEST - Duration::from_secs(1));
        let refused = requested(&endpoint).mint(&asking).await.err().unwrap().failure;
        assert_eq!(refused.refusal, CredentialRefusal::LifetimeExceeded);
        assert!(endpoint.seen().is_empty());
    }

    #[tokio::test]
    async fn a_projected_token_is_used_for_its_audience_alone() {
        let token = |audience: serde_json::Value, life: i64| {
            let claims = json!({"aud": audience, "exp": jose::now().saturating_add_signed(life)});
            format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims.to_string()))
        };
        let table = [
            (token(json!(["tollgate"]), 600), None),
            (token(json!("tollgate"), 600), None),
            (token(json!(["tollgate", "other"]), 600), Some(CredentialRefusal::ScopeExceeded)),
            (token(json!(["other"]), 600), Some(CredentialRefusal::ScopeExceeded)),
            (token(json!(["tollgate"]), 3600), Some(CredentialRefusal::LifetimeExceeded)),
            (token(json!(["tollgate"]), -1), Some(CredentialRefusal::Expired)),
            ("canary".to_owned(), Some(CredentialRefusal::Misconfigured)),
        ];
        for (text, refusal) in table {
            let account = ServiceAccount { audience: "tollgate".into(), origin: Origin::Projected(at(&text)) };
            let minted = account.mint(&Scene::new().asking(&[], LONGEST)).await;
            assert_eq!(minted.err().map(|unusable| unusable.failure.refusal), refusal, "{text}");
        }
    }
}
