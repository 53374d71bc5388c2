//! Tokens from an OAuth issuer that is used in production elsewhere, the npm package oidc-provider: what the origin gets
//! is what the issuer says it is, and says nothing more once the task has ended.

pub mod keys;
pub mod provider;

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::timeout;
use tollgate::task::End;

use self::{
    keys::Key,
    provider::{NEEDS, Provider},
};
use crate::{
    actors::{Issuer, Origin, Sidecar, agent::request, issuer::Behaviour, origin::full, sidecar::Setup},
    clients::are_there,
    identity::{identified, until},
};

pub const RESOURCE: &str = "https://api.example.com";

/// The sidecar in front of an origin that is given such a token.
pub fn given(setup: Setup, origin: &Origin, credential: Value) -> Setup {
    setup
        .file("client-secret", "s3cret")
        .in_front_of_as(origin, json!({"credential": "token"}))
        .set(json!({"tasks": {"static": {"purpose": "triage", "ttl": "1h"}}, "credentials": {"token": credential}}))
}

/// What every credential here says.
pub fn credential(kind: &str, provider: &Provider, client: &Value, more: Value) -> Value {
    let mut credential =
        json!({"kind": kind, "issuer": provider.issuer, "client": client, "scopes": ["read"], "max_ttl": "10m"});
    credential.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    credential
}

/// Asserts what the origin got from one call, and that it is worth nothing soon after the task has ended.
async fn lives_and_dies(mut sidecar: Sidecar, origin: &Origin, provider: &Provider, scheme: &str) -> Value {
    let answer = sidecar.agent().get(&origin.url("/x?q=1")).await;
    assert_eq!(answer.to_string(), "200");
    let seen = origin.requests().remove(0);
    let token = seen.header("authorization").and_then(|value| value.strip_prefix(scheme)?.strip_prefix(' '));
    let token = token.expect("it has a token").to_owned();
    let said = provider.introspect(&token).await;
    assert_eq!(
        (&said["active"], &said["scope"], &said["aud"]),
        (&json!(true), &json!("read"), &json!(RESOURCE)),
        "{said}"
    );
    assert_eq!(said["exp"].as_u64().zip(said["iat"].as_u64()).map(|(end, begin)| end - begin), Some(300));
    sidecar.ended().await;
    let record = sidecar.audit().await.remove(0);
    assert_eq!(record["credential"]["name"], "token");
    assert!(!record.to_string().contains(&token), "{record}");

    let task = record["task"]["id"].as_str().expect("it was in a task");
    sidecar.inner().tasks().end(task, End::Ended).expect("the task is known");
    let gone = async { while provider.introspect(&token).await["active"] != json!(false) {} };
    timeout(Duration::from_secs(2), gone).await.expect("it is revoked in time");
    said
}

#[tokio::test]
async fn each_way_to_prove_who_we_are_gives_a_token_that_dies_with_the_task() {
    if !are_there(NEEDS) {
        return;
    }
    let key = Key::new();
    let provider = Provider::start(&json!({"trusted": key.jwk(), "client": key.jwk()})).await;
    for client in [
        json!({"id": "secret", "secret": {"file": "client-secret"}}),
        json!({"id": "post", "secret": {"file": "client-secret"}, "method": "client_secret_post"}),
        json!({"id": "signs", "key": {"file": "key.pem"}}),
    ] {
        let origin = Origin::https("api.example.com").start().await;
        let credential = credential("oauth_client_credentials", &provider, &client, json!({"resources": [RESOURCE]}));
        let setup = given(Sidecar::permissive().file("key.pem", &key.pem()), &origin, credential);
        let said = lives_and_dies(setup.start().await, &origin, &provider, "Bearer").await;
        assert_eq!(said["client_id"], client["id"]);
    }
}

#[tokio::test]
async fn the_agents_identity_is_exchanged_for_a_token_of_one_audience() {
    if !are_there(NEEDS) {
        return;
    }
    let key = Key::new();
    let provider = Provider::start(&json!({"trusted": key.jwk(), "client": key.jwk()})).await;
    let origin = Origin::https("api.example.com").start().await;
    let client = json!({"id": "secret", "secret": {"file": "client-secret"}});
    let credential = credential("oauth_token_exchange", &provider, &client, json!({"audience": RESOURCE}));
    let identity = json!({"kind": "kubernetes", "token": "token", "trust_domain": "example.org"});
    let token = key.sign(&json!({"sub": "system:serviceaccount:agents:triage", "aud": provider.issuer}));
    let sidecar = given(identified(identity).file("token", &token), &origin, credential).start().await;
    until(&sidecar, true).await;

    let said = lives_and_dies(sidecar, &origin, &provider, "Bearer").await;

    assert_eq!(said["sub"], "system:serviceaccount:agents:triage");
}

#[tokio::test]
async fn a_token_that_the_issuer_does_not_believe_buys_nothing() {
    if !are_there(NEEDS) {
        return;
    }
    let (key, other) = (Key::new(), Key::new());
    let provider = Provider::start(&json!({"trusted": key.jwk(), "client": key.jwk()})).await;
    let origin = Origin::https("api.example.com").start().await;
    let client = json!({"id": "secret", "secret": {"file": "client-secret"}});
    let subject = json!({"token": {"file": "subject"}, "type": "jwt"});
    let credential =
        credential("oauth_token_exchange", &provider, &client, json!({"audience": RESOURCE, "subject": subject}));
    let forged = other.sign(&json!({"sub": "admin", "aud": provider.issuer}));
    let mut sidecar = given(Sidecar::permissive().file("subject", &forged), &origin, credential).start().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "503 credential_rejected");

    assert!(origin.requests().is_empty());
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["GET api.example.com credential_rejected"]);
}

#[tokio::test]
async fn an_assertion_that_we_sign_is_a_grant() {
    if !are_there(NEEDS) {
        return;
    }
    let key = Key::new();
    let provider = Provider::start(&json!({"trusted": key.jwk(), "client": key.jwk()})).await;
    let origin = Origin::https("api.example.com").start().await;
    let client = json!({"id": "signs", "key": {"file": "key.pem"}});
    let more = json!({"resources": [RESOURCE], "assertion": {"key": {"file": "key.pem"}, "subject": "build"}});
    let credential = credential("oauth_jwt_bearer", &provider, &client, more);
    let setup = given(Sidecar::permissive().file("key.pem", &key.pem()), &origin, credential);

    let said = lives_and_dies(setup.start().await, &origin, &provider, "Bearer").await;

    assert_eq!(said["sub"], "build");
}

#[tokio::test]
async fn an_assertion_of_one_issuer_is_a_grant_at_the_other() {
    if !are_there(NEEDS) {
        return;
    }
    let key = Key::new();
    // Each has to know of the other, so one of them is told once both run.
    let idp = Provider::start(&json!({"trusted": key.jwk(), "client": key.jwk()})).await;
    let provider = Provider::start(&json!({"trusted": idp.key, "client": key.jwk()})).await;
    idp.tell(&json!({"jag": provider.issuer})).await;
    let origin = Origin::https("api.example.com").start().await;
    let client = json!({"id": "secret", "secret": {"file": "client-secret"}});
    let more = json!({
        "resources": [RESOURCE],
        "subject": {"token": {"file": "id-token"}, "type": "id_token"},
        "identity_provider": {"issuer": idp.issuer, "client": {"id": "signs", "key": {"file": "key.pem"}}},
    });
    let credential = credential("id_jag", &provider, &client, more);
    let id_token = key.sign(&json!({"sub": "alice", "aud": idp.issuer}));
    let setup = Sidecar::permissive().file("key.pem", &key.pem()).file("id-token", &id_token);

    let said = lives_and_dies(given(setup, &origin, credential).start().await, &origin, &provider, "Bearer").await;

    assert_eq!(said["sub"], "alice");
}

#[tokio::test]
async fn a_bound_token_comes_with_a_proof_of_its_key() {
    if !are_there(NEEDS) {
        return;
    }
    let key = Key::new();
    let provider = Provider::start(&json!({"trusted": key.jwk(), "client": key.jwk()})).await;
    let origin = Origin::https("api.example.com").start().await;
    let client = json!({"id": "bound", "secret": {"file": "client-secret"}});
    let more = json!({"resources": [RESOURCE], "dpop": true});
    let credential = credential("oauth_client_credentials", &provider, &client, more);
    let sidecar = given(Sidecar::permissive(), &origin, credential).start().await;

    let said = lives_and_dies(sidecar, &origin, &provider, "DPoP").await;

    let seen = origin.requests().remove(0);
    let token = seen.header("authorization").and_then(|value| value.strip_prefix("DPoP ")).expect("a token");
    let proof = keys::verified(seen.header("dpop").expect("a proof"));
    assert_eq!(said["cnf"]["jkt"], proof.thumbprint);
    assert_eq!(proof.claims["ath"], keys::digest(token));
    assert_eq!((&proof.claims["htm"], &proof.claims["htu"]), (&json!("GET"), &json!(origin.url("/x"))));
}

#[tokio::test]
async fn a_key_that_is_replaced_is_used_without_a_restart() {
    if !are_there(NEEDS) {
        return;
    }
    let (key, old) = (Key::new(), Key::new());
    let provider = Provider::start(&json!({"trusted": key.jwk(), "client": key.jwk()})).await;
    let origin = Origin::https("api.example.com").start().await;
    let client = json!({"id": "signs", "key": {"file": "key.pem"}});
    let credential = credential("oauth_client_credentials", &provider, &client, json!({"resources": [RESOURCE]}));
    let sidecar = given(Sidecar::permissive().file("key.pem", &old.pem()), &origin, credential).start().await;
    let agent = sidecar.agent();
    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "503 credential_rejected");

    std::fs::write(sidecar.dir.path().join("key.pem"), key.pem()).expect("it can be written");

    let recovered = async { while agent.get(&origin.url("/")).await.status != StatusCode::OK {} };
    timeout(Duration::from_secs(20), recovered).await.expect("it recovers");
}

#[tokio::test]
async fn what_an_earlier_configuration_got_is_revoked_with_the_secret_of_today() {
    if !are_there(NEEDS) {
        return;
    }
    let key = Key::new();
    let provider = Provider::start(&json!({"trusted": key.jwk(), "client": key.jwk()})).await;
    let origin = Origin::https("api.example.com").start().await;
    let client = json!({"id": "secret", "secret": {"file": "client-secret"}});
    let credential = credential("oauth_client_credentials", &provider, &client, json!({"resources": [RESOURCE]}));
    let sidecar = given(Sidecar::permissive().file("next-secret", "s3cret"), &origin, credential).start().await;
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
    let seen = origin.requests().remove(0);
    let token = seen.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).expect("a token");
    assert_eq!(provider.introspect(token).await["active"], json!(true));

    std::fs::write(sidecar.dir.path().join("client-secret"), "worth nothing now").expect("it can be written");
    sidecar.reconfigure(json!({"credentials": {"token": {"client": {"secret": {"file": "next-secret"}}}}}));

    let gone = async { while provider.introspect(token).await["active"] != json!(false) {} };
    timeout(Duration::from_secs(20), gone).await.expect("it is revoked");
}

/// A sidecar that shows an assertion to this issuer, which is not a real one and can misbehave.
fn asserting(origin: &Origin, issuer: &Issuer) -> Setup {
    let credential = json!({
        "kind": "oauth_jwt_bearer",
        "token_endpoint": issuer.url("/token"),
        "revocation_endpoint": issuer.url("/revoke"),
        "client": {"id": "tollgate", "secret": {"file": "client-secret"}},
        "assertion": {"token": {"file": "assertion"}},
        "scopes": ["read"],
        "max_ttl": "10m",
    });
    given(Sidecar::permissive().file("assertion", "held"), origin, credential)
}

#[tokio::test]
async fn what_is_not_as_it_was_asked_for_is_refused_and_revoked() {
    let token = |more: Value| {
        let mut token = json!({"access_token": "unfit", "token_type": "Bearer", "expires_in": 60});
        token.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        Behaviour::Says(token.to_string().leak())
    };
    let table = [
        ("credential_lifetime_exceeded", token(json!({"expires_in": 86_400}))),
        ("credential_scope_exceeded", token(json!({"scope": "read admin"}))),
        ("credential_scope_exceeded", token(json!({"authorization_details": [{"type": "anything"}]}))),
        ("credential_malformed", token(json!({"token_type": "DPoP"}))),
        ("credential_malformed", token(json!({"expires_in": null}))),
    ];
    for (label, behaviour) in table {
        let issuer = Issuer::start(behaviour).await;
        let origin = Origin::https("api.example.com").start().await;
        let sidecar = asserting(&origin, &issuer).start().await;
        assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), format!("503 {label}"));
        assert!(origin.requests().is_empty());
        let revoked = async {
            while issuer.revoked().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(2), revoked).await.expect("it is revoked");
        assert_eq!(issuer.revoked(), ["unfit"]);
    }
}

#[tokio::test]
async fn an_issuer_that_fails_is_not_stormed_and_recovers_without_a_restart() {
    for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE] {
        let issuer = Issuer::start(Behaviour::Fails(status)).await;
        let origin = Origin::https("api.example.com").start().await;
        let sidecar = asserting(&origin, &issuer).start().await;
        let agent = sidecar.agent();
        let url = origin.url("/");
        let answers = futures_util::future::join_all((0..50).map(|_| agent.get(&url))).await;
        assert!(answers.iter().all(|answer| answer.to_string() == "503 credential_unavailable"));
        assert!(issuer.asked().len() <= 4, "{} asked at once", issuer.asked().len());

        issuer.behave(Behaviour::Issues { expires_in: 300 });

        let recovered = async { while agent.get(&url).await.status != StatusCode::OK {} };
        timeout(Duration::from_secs(20), recovered).await.expect("it recovers");
        assert_eq!(issuer.issued().len(), 1);
    }
}

#[tokio::test]
async fn the_origins_nonce_goes_into_the_next_proof() {
    if !are_there(NEEDS) {
        return;
    }
    let key = Key::new();
    let provider = Provider::start(&json!({"trusted": key.jwk(), "client": key.jwk()})).await;
    let service = |request: http::Request<hyper::body::Incoming>| {
        let proof = request.headers().get("dpop").and_then(|proof| proof.to_str().ok()).map(keys::verified);
        let fits = proof.is_some_and(|proof| proof.claims["nonce"] == json!("n-1"));
        let mut response = http::Response::new(full("seen"));
        if !fits {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            let headers = response.headers_mut();
            headers.insert("dpop-nonce", http::HeaderValue::from_static("n-1"));
            headers.insert("www-authenticate", http::HeaderValue::from_static(r#"DPoP error="use_dpop_nonce""#));
        }
        async move { response }
    };
    let origin = Origin::https("api.example.com").answering(service).start().await;
    let client = json!({"id": "bound", "secret": {"file": "client-secret"}});
    let more = json!({"resources": [RESOURCE], "dpop": true});
    let credential = credential("oauth_client_credentials", &provider, &client, more);
    let sidecar = given(Sidecar::permissive(), &origin, credential).start().await;

    let answer = sidecar.agent().send(request(http::Method::GET, &origin.url("/"), "")).await;

    assert_eq!(answer.to_string(), "200");
    assert_eq!(origin.requests().len(), 2);
}
