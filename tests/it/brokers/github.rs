//! A server that follows GitHub's API for apps: it gives installation tokens, and ends them when they say so themselves.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use tollgate::task::End;

use crate::actors::{
    Origin, Sidecar, agent,
    origin::{Body, full},
    sidecar::Setup,
};

/// The tokens that are good, and what each was asked for.
#[derive(Default)]
struct Hub {
    asked: Mutex<Vec<Value>>,
    live: watch::Sender<HashSet<String>>,
}

impl Hub {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let bearer =
            request.headers().get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let bearer = bearer.unwrap_or_default().to_owned();
        match (request.method().clone(), path.as_str()) {
            (Method::POST, "/app/installations/42/access_tokens") => {
                let body = request.into_body().collect().await.expect("it arrives").to_bytes();
                self.give(serde_json::from_slice(&body).expect("JSON"))
            }
            (Method::DELETE, "/installation/token") => {
                let mut known = false;
                self.live.send_modify(|live| known = live.remove(&bearer));
                told(if known { 204 } else { 401 }, "")
            }
            _ if self.live.borrow().contains(&bearer) => told(200, "[]"),
            _ => told(401, "{}"),
        }
    }

    fn give(&self, asked: Value) -> Response<Body> {
        let mut all = self.asked.lock().expect("no test panics inside");
        let token = format!("ghs_{:036}", all.len());
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3600);
        let repositories: Vec<_> =
            asked["repositories"].as_array().into_iter().flatten().map(|name| json!({"name": name})).collect();
        let mut permissions = asked["permissions"].clone();
        permissions["metadata"] = json!("read");
        all.push(asked);
        self.live.send_modify(|live| {
            live.insert(token.clone());
        });
        let given = json!({
            "token": token, "expires_at": end.to_string(), "permissions": permissions, "repositories": repositories,
        });
        told(201, &given.to_string())
    }

    async fn is_empty_within(&self, limit: Duration) {
        let mut live = self.live.subscribe();
        timeout(limit, live.wait_for(HashSet::is_empty))
            .await
            .expect("every token is ended in time")
            .expect("it is there");
    }
}

fn told(status: u16, body: &str) -> Response<Body> {
    let mut response = Response::new(full(body.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

/// The hub as an API that wants TLS, and the same one for a sidecar that asks it for tokens.
async fn hub() -> (Arc<Hub>, Origin, Origin) {
    let hub = Arc::new(Hub::default());
    let serve = |setup: crate::actors::origin::Setup| {
        let hub = Arc::clone(&hub);
        setup.answering(move |request| Arc::clone(&hub).answer(request)).start()
    };
    let api = serve(Origin::https("api.github.test")).await;
    let issuer = serve(Origin::http("127.0.0.1")).await;
    (hub, api, issuer)
}

fn app(setup: Setup, api: &Origin, issuer: &Origin, more: Value) -> Setup {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key can be made").serialize_pem();
    let credential = json!({
        "kind": "github_app", "api": format!("http://{}", issuer.addr), "app_id": "Iv1.x", "installation_id": "42",
        "private_key": {"file": "app.pem"}, "permissions": {"issues": "write"}, "repositories": ["shop", "site"],
    });
    let setup = setup.file("app.pem", &key).in_front_of_as(api, json!({"credential": "app"}));
    setup.set(json!({"credentials": {"app": credential}})).set(json!({"credentials": {"app": more}}))
}

const NARROW: &str = r#"
package tollgate
decision := {"decision": "allow", "obligations": {"scopes": ["issues:read", "repository:shop"], "max_ttl": "10m"}}
"#;

#[tokio::test]
async fn a_token_has_what_policy_chose_and_is_deleted_with_its_task() {
    let (hub, api, issuer) = hub().await;
    let setup = app(Sidecar::with_policy(NARROW), &api, &issuer, json!({}));
    let sidecar = setup.set(json!({"tasks": {"static": {"purpose": "triage"}}})).start().await;
    assert!(hub.live.borrow().is_empty(), "nothing is minted before the first call");

    for _ in 0..3 {
        assert_eq!(sidecar.agent().get(&api.url("/repos/o/shop/issues")).await.to_string(), "200");
    }
    let asked = hub.asked.lock().expect("no test panics inside").clone();
    assert_eq!(asked, [json!({"repositories": ["shop"], "permissions": {"issues": "read"}})]);
    let record = &sidecar.audit().await[0];
    assert_eq!(record["credential"]["kind"], "github_app");
    assert!(!record.to_string().contains("ghs_"));

    let task = record["task"]["id"].as_str().expect("a task");
    sidecar.inner().tasks().end(task, End::Ended).expect("the task is known");
    hub.is_empty_within(Duration::from_secs(2)).await;
}

#[tokio::test]
async fn git_sends_a_placeholder_as_its_password_and_the_token_arrives() {
    let (hub, api, issuer) = hub().await;
    let setup = app(Sidecar::permissive(), &api, &issuer, json!({"as": {"basic": "x-access-token"}}));
    let sidecar = setup.start().await;
    let mut request = agent::request(Method::GET, &api.url("/o/shop.git/info/refs?service=git-upload-pack"), "");
    let placeholder = HeaderValue::from_static("Basic eC1hY2Nlc3MtdG9rZW46cGxhY2Vob2xkZXI=");
    request.headers_mut().insert("authorization", placeholder);
    assert_eq!(sidecar.agent().send(request).await.to_string(), "401");
    let seen = api.requests().pop().expect("it arrived");
    // `x-access-token:ghs_0…0`
    assert!(seen.header("authorization").expect("one").starts_with("Basic eC1hY2Nlc3MtdG9rZW46Z2hzXz"), "{seen:?}");
    sidecar.stop().await;
    hub.is_empty_within(Duration::from_secs(2)).await;
}
