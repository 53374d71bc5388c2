//! Rows about credentials: without the one that a destination needs there is no call.

use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};
use serde_json::json;
use tokio::time::timeout;

use super::{Row, Told, asked, run, told};
use crate::{
    actors::{Issuer, Origin, Sidecar, agent::request, issuer::Behaviour, sidecar::Setup},
    secrets::with_issuer,
};

pub(super) fn rows() -> Vec<Row> {
    let misbehaviours = [
        ("the issuer refuses", "credential_rejected", Behaviour::Fails(StatusCode::UNAUTHORIZED)),
        ("the issuer fails", "credential_unavailable", Behaviour::Fails(StatusCode::SERVICE_UNAVAILABLE)),
        ("the issuer is slow", "credential_timeout", Behaviour::Hangs),
        ("too long a life", "credential_lifetime_exceeded", Behaviour::Issues { expires_in: 86_400 }),
        ("a page", "credential_malformed", Behaviour::Says("<html>")),
        (
            "another kind of token",
            "credential_malformed",
            Behaviour::Says(r#"{"access_token": "t", "token_type": "mac", "expires_in": 60}"#),
        ),
        (
            "a token without an end",
            "credential_malformed",
            Behaviour::Says(r#"{"access_token": "t", "token_type": "Bearer"}"#),
        ),
        (
            "a token that may do more",
            "credential_scope_exceeded",
            Behaviour::Says(
                r#"{"access_token": "t", "token_type": "Bearer", "expires_in": 60, "scope": "read admin"}"#,
            ),
        ),
    ];
    let row = |wrong, label, story| Row { wrong, label, answer: format!("503 {label}"), story };
    let mut rows: Vec<Row> = misbehaviours
        .into_iter()
        .map(|(wrong, label, behaviour)| row(wrong, label, Box::pin(issued(behaviour)) as _))
        .collect();
    rows.push(row("the issuer is down", "credential_unavailable", Box::pin(without_an_issuer())));
    rows.push(row("nothing proves the identity", "identity_unavailable", Box::pin(asked(unproven()))));
    rows.push(row("the secret has expired", "credential_expired", Box::pin(expired())));
    rows.push(row("the secret is empty", "credential_misconfigured", Box::pin(empty())));
    rows.push(row("a scope that is not declared", "credential_misconfigured", Box::pin(unknown_scope())));
    let (wrong, label) = ("a right that is not declared", "credential_not_granted");
    rows.push(Row::new(wrong, label, "403 credential_not_granted", undeclared()));
    rows.push(Row::new("no TLS", "credential_cleartext", "403 credential_cleartext", in_cleartext()));
    rows
}

/// Nobody listens at the Workload API's socket.
fn unproven() -> Setup {
    let setup = Sidecar::permissive();
    let socket = format!("unix://{}/agent.sock", setup.path().display());
    setup.set(json!({"agent": {"identity": {"kind": "spiffe", "socket": socket}}}))
}

/// The agent asks with a key of its own, which must not be used instead.
async fn issued(behaviour: Behaviour) -> Told {
    let issuer = Issuer::start(behaviour).await;
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = with_issuer(Sidecar::permissive(), &origin, &issuer).start().await;
    let mut call = request(Method::GET, &origin.url("/"), "");
    call.headers_mut().insert("authorization", HeaderValue::from_static("Bearer my-own-key"));
    let answer = sidecar.agent().send(call).await;
    told(sidecar, &origin, answer).await
}

async fn without_an_issuer() -> Told {
    let issuer = Issuer::start(Behaviour::Hangs).await;
    let origin = Origin::https("api.example.com").start().await;
    let setup = with_issuer(Sidecar::permissive(), &origin, &issuer);
    drop(issuer);
    let sidecar = setup.start().await;
    let answer = sidecar.agent().get(&origin.url("/")).await;
    told(sidecar, &origin, answer).await
}

async fn expired() -> Told {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = with_a_file(&origin, json!({"expires": "2020-01-31"})).start().await;
    let answer = sidecar.agent().get(&origin.url("/")).await;
    told(sidecar, &origin, answer).await
}

async fn empty() -> Told {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = with_a_file(&origin, json!({"file": "empty"})).file("empty", "\n").start().await;
    let answer = sidecar.agent().get(&origin.url("/")).await;
    told(sidecar, &origin, answer).await
}

/// Policy asks for what the configuration does not have. The issuer, which would give it, is not asked.
async fn unknown_scope() -> Told {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").start().await;
    let policy = r#"package tollgate
decision := {"decision": "allow", "obligations": {"scopes": ["admin"]}}
"#;
    let sidecar = with_issuer(Sidecar::with_policy(policy), &origin, &issuer).start().await;
    let answer = sidecar.agent().get(&origin.url("/")).await;
    assert!(issuer.asked().is_empty());
    told(sidecar, &origin, answer).await
}

/// A push to a registry that may be pulled from. Nobody listens where its tokens are given.
async fn undeclared() -> Told {
    let origin = Origin::https("registry.example.com").start().await;
    let credential = json!({"kind": "registry_token", "realm": "http://127.0.0.1:9/token", "service": "registry"});
    let setup = Sidecar::permissive().in_front_of_as(&origin, json!({"credential": "registry"}));
    let sidecar = setup.set(json!({"credentials": {"registry": credential}})).start().await;
    let call = request(Method::PUT, &origin.url("/v2/demo/manifests/latest"), "{}");
    let answer = sidecar.agent().send(call).await;
    told(sidecar, &origin, answer).await
}

async fn in_cleartext() -> Told {
    let origin = Origin::http("api.example.com").start().await;
    let sidecar = with_a_file(&origin, json!({})).start().await;
    let answer = sidecar.agent().get(&origin.url("/")).await;
    told(sidecar, &origin, answer).await
}

fn with_a_file(origin: &Origin, more: serde_json::Value) -> crate::actors::sidecar::Setup {
    Sidecar::permissive()
        .file("key", "the-key")
        .in_front_of_as(origin, json!({"credential": "key"}))
        .set(json!({"credentials": {"key": {"kind": "file", "file": "key", "owner": "team-x"}}}))
        .set(json!({"credentials": {"key": more}}))
}

#[tokio::test]
async fn without_its_credential_a_call_is_not_made() {
    run(rows()).await;
}

#[tokio::test]
async fn an_issuer_that_recovers_is_asked_again() {
    let issuer = Issuer::start(Behaviour::Fails(StatusCode::SERVICE_UNAVAILABLE)).await;
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = with_issuer(Sidecar::permissive(), &origin, &issuer).start().await;
    let agent = sidecar.agent();
    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "503 credential_unavailable");

    issuer.behave(Behaviour::Issues { expires_in: 300 });
    let recovered = async { while agent.get(&origin.url("/")).await.status != StatusCode::OK {} };

    timeout(Duration::from_secs(20), recovered).await.expect("it recovers without a restart");
    assert!(issuer.asked().len() <= 4, "it was not asked at each call: {}", issuer.asked().len());
}
