//! Servers that follow the published APIs of Google Cloud, Microsoft Entra ID and Kubernetes.

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::{
    actors::{
        Origin,
        origin::{Body, full},
    },
    identity::{identified, until},
};

/// The issuers' paths, and what they answer.
async fn answer(request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let bearer = request.headers().get("authorization").cloned();
    let body = request.into_body().collect().await.expect("it arrives").to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    let said: Value = serde_json::from_str(&body).unwrap_or_default();
    // The clocks of all of them are ahead of ours.
    let end = |life: i64| (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(life + AHEAD)).to_string();
    let (status, text) = match path.as_str() {
        "/sts" if body.contains("subject_token=ey") => (
            200,
            json!({
                "access_token": "federated", "token_type": "Bearer", "expires_in": 3600,
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            }),
        ),
        "/v1/projects/-/serviceAccounts/agent@p.test:generateAccessToken" => {
            assert_eq!(bearer.expect("the exchanged token"), "Bearer federated");
            let life: i64 =
                said["lifetime"].as_str().and_then(|life| life.trim_end_matches('s').parse().ok()).expect("s");
            (200, json!({"accessToken": "ya29.ephemeral", "expireTime": end(life)}))
        }
        "/tenant/oauth2/v2.0/token" if body.contains("client_assertion=ey") => {
            (200, json!({"access_token": "entra-ephemeral", "token_type": "Bearer", "expires_in": 4200}))
        }
        "/api/v1/namespaces/agents/serviceaccounts/reader/token" => {
            assert!(bearer.expect("a token").to_str().expect("text").starts_with("Bearer ey"));
            let life = said["spec"]["expirationSeconds"].as_i64().expect("a number");
            let status = json!({"token": "sa-ephemeral", "expirationTimestamp": end(life)});
            (201, json!({"spec": {"audiences": said["spec"]["audiences"]}, "status": status}))
        }
        _ => (400, json!({"error": "invalid_grant"})),
    };
    let mut response = Response::new(full(text.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

/// In seconds.
const AHEAD: i64 = 5;

/// What the origin sees of a call that carries this credential.
async fn seen_with(audience: &str, credential: impl Fn(&str) -> Value) -> String {
    let issuer = Origin::http("127.0.0.1").answering(answer).start().await;
    let url = format!("http://{}", issuer.addr);
    let audience = if audience.is_empty() { &url } else { audience };
    let origin = Origin::https("storage.example.com").start().await;
    let setup = identified(json!({"kind": "kubernetes", "token": "token"}))
        .file("token", &crate::brokers::vault::projected(&rcgen::KeyPair::generate().expect("a key"), audience));
    let setup = setup.in_front_of_as(&origin, json!({"credential": "it"}));
    let sidecar = setup.set(json!({"credentials": {"it": credential(&url)}})).start().await;
    until(&sidecar, true).await;
    assert!(issuer.requests().is_empty(), "nothing is minted before the first call");
    for _ in 0..2 {
        assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
    }
    let audit = sidecar.audit().await;
    assert_eq!(audit[0]["credential"]["kind"], credential(&url)["kind"]);
    assert!(!format!("{audit:?}").contains("ephemeral"));
    origin.requests().pop().and_then(|seen| seen.header("authorization").map(str::to_owned)).expect("it carried one")
}

#[tokio::test]
async fn google_gives_a_token_of_the_service_account_for_our_identity() {
    let provider = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x";
    let credential = |url: &str| {
        json!({
            "kind": "gcp", "audience": provider, "service_account": "agent@p.test", "token_endpoint": format!("{url}/sts"),
            "credentials_api": url, "scopes": ["https://www.googleapis.com/auth/devstorage.read_only"],
        })
    };
    assert_eq!(seen_with(&format!("https:{provider}"), credential).await, "Bearer ya29.ephemeral");
}

#[tokio::test]
async fn entra_gives_a_token_for_our_identity() {
    let credential = |url: &str| {
        json!({
            "kind": "azure", "tenant": "tenant", "client_id": "11111111", "authority": url,
            "scopes": ["https://storage.azure.com/.default"],
        })
    };
    assert_eq!(seen_with("api://AzureADTokenExchange", credential).await, "Bearer entra-ephemeral");
}

#[tokio::test]
async fn the_api_server_gives_a_token_for_one_audience() {
    let credential = |url: &str| {
        json!({
            "kind": "kubernetes", "audience": "https://registry.test", "server": url,
            "service_account": {"namespace": "agents", "name": "reader"}, "max_ttl": "10m",
        })
    };
    assert_eq!(seen_with("", credential).await, "Bearer sa-ephemeral");
}
