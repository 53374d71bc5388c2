//! What the agent brings is taken away; what the destination needs is put on, over verified TLS alone.

use http::{HeaderValue, Method};
use serde_json::json;

use crate::actors::{Issuer, Origin, Sidecar, agent::request, issuer::Behaviour, sidecar::Setup};

/// A sidecar whose origin is given a token of this issuer.
pub fn with_issuer(setup: Setup, origin: &Origin, issuer: &Issuer) -> Setup {
    setup.file("client-secret", "s3cret").in_front_of_as(origin, json!({"credential": "token"})).set(json!({
        "credentials": {"token": {
            "kind": "oauth_client_credentials",
            "token_endpoint": issuer.url("/token"),
            "revocation_endpoint": issuer.url("/revoke"),
            "client": {"id": "tollgate", "secret": {"file": "client-secret"}},
            "scopes": ["read"],
            "audience": "https://api.example.com",
            "max_ttl": "10m",
        }},
    }))
}

#[tokio::test]
async fn the_agents_secrets_are_taken_away_and_named() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let token = format!("ghp_{}", "a1B2".repeat(9));
    let mut call = request(Method::GET, &origin.url(&format!("/x?q=1&access_token={token}&page=2")), "");
    for (name, value) in [
        ("authorization", format!("Bearer {token}")),
        ("proxy-authorization", "Basic dTpw".into()),
        ("cookie", "session=1".into()),
        ("x-api-key", "abc".into()),
        ("x-innocent", format!("see {token}")),
        ("x-kept", "yes".into()),
    ] {
        call.headers_mut().insert(name, HeaderValue::try_from(value).expect("a value"));
    }

    let answer = sidecar.agent().send(call).await;

    assert_eq!(answer.to_string(), "200");
    let seen = &origin.requests()[0];
    assert_eq!(seen.target, "/x?q=1&page=2");
    for name in ["authorization", "proxy-authorization", "cookie", "x-api-key"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("x-kept"), Some("yes"));
    sidecar.ended().await;
    let record = sidecar.audit().await.remove(0);
    let found: Vec<String> = record["secrets"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|secret| format!("{} {}", secret["kind"].as_str().expect("text"), secret["where"].as_str().expect("text")))
        .collect();
    assert!(found.contains(&"github_pat header:authorization".to_owned()), "{found:?}");
    assert!(found.contains(&"github_pat query:access_token".to_owned()), "{found:?}");
    assert!(!record.to_string().contains(&token));
}

#[tokio::test]
async fn an_ephemeral_token_replaces_the_agents_key() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = with_issuer(Sidecar::permissive(), &origin, &issuer).start().await;
    let mut call = request(Method::GET, &origin.url("/"), "");
    call.headers_mut().insert("authorization", HeaderValue::from_static("Bearer long-lived"));

    sidecar.agent().send(call).await;
    sidecar.agent().get(&origin.url("/again")).await;

    let issued = issuer.issued();
    assert_eq!(issued.len(), 1, "one token serves the task");
    for seen in origin.requests() {
        assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", issued[0])));
    }
    let form = &issuer.asked()[0];
    assert!(form.contains("grant_type=client_credentials") && form.contains("scope=read"), "{form}");
    sidecar.ended().await;
    sidecar.ended().await;
    let record = &sidecar.audit().await[0];
    assert_eq!(record["credential"]["kind"], "oauth_client_credentials");
    assert!(!record.to_string().contains(&issued[0]));
}

#[tokio::test]
async fn a_denied_call_mints_nothing() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = with_issuer(Sidecar::permissive(), &origin, &issuer).allowing(json!([])).start().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "403 not_listed");

    assert!(issuer.asked().is_empty());
}

#[tokio::test]
async fn tokens_are_revoked_when_the_sidecar_stops() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = with_issuer(Sidecar::permissive(), &origin, &issuer).start().await;
    sidecar.agent().get(&origin.url("/")).await;

    sidecar.stop().await;

    assert_eq!(issuer.revoked(), issuer.issued());
}

#[tokio::test]
async fn many_first_calls_at_once_mint_once() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = with_issuer(Sidecar::permissive(), &origin, &issuer).start().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (agent, url) = (sidecar.agent(), origin.url("/"));
        calls.spawn(async move { agent.get(&url).await.to_string() });
    }

    assert!(calls.join_all().await.iter().all(|answer| answer == "200"));
    assert_eq!(issuer.issued().len(), 1);
}

#[tokio::test]
async fn a_credential_never_goes_over_cleartext() {
    let origin = Origin::http("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive()
        .file("key", "the-key")
        .in_front_of_as(&origin, json!({"credential": "key"}))
        .set(json!({"credentials": {"key": {"kind": "file", "file": "key", "as": "bearer", "owner": "team-x"}}}))
        .start()
        .await;

    let answer = sidecar.agent().get(&origin.url("/")).await;

    assert_eq!(answer.to_string(), "403 credential_cleartext");
    assert!(origin.requests().is_empty());
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["GET api.example.com credential_cleartext"]);
}

#[tokio::test]
async fn a_file_goes_on_as_its_placement_says() {
    for (placement, check) in [
        (json!("bearer"), ("authorization", "Bearer the-key")),
        (json!({"basic": "robot"}), ("authorization", "Basic cm9ib3Q6dGhlLWtleQ==")),
        (json!({"header": "x-service-key"}), ("x-service-key", "the-key")),
    ] {
        let origin = Origin::https("api.example.com").start().await;
        let sidecar = Sidecar::permissive()
            .file("key", "the-key\n")
            .in_front_of_as(&origin, json!({"credential": "key"}))
            .set(json!({"credentials": {"key": {"kind": "file", "file": "key", "as": placement, "owner": "team-x"}}}))
            .start()
            .await;
        assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
        assert_eq!(origin.requests()[0].header(check.0), Some(check.1));
        assert_eq!(origin.requests()[0].target, "/");
    }
}

#[tokio::test]
async fn a_file_goes_into_the_query_where_its_placement_says_so() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive()
        .file("key", "the key")
        .in_front_of_as(&origin, json!({"credential": "key"}))
        .set(json!({"credentials": {"key": {"kind": "file", "file": "key", "as": {"query": "api_key"}, "owner": "team-x"}}}))
        .start()
        .await;

    assert_eq!(sidecar.agent().get(&origin.url("/x?page=2&api_key=mine")).await.to_string(), "200");

    assert_eq!(origin.requests()[0].target, "/x?page=2&api_key=the%20key");
    sidecar.ended().await;
    assert!(!sidecar.audit().await[0].to_string().contains("the%20key"));
}

#[tokio::test]
async fn policy_sees_kind_and_place_of_what_was_taken() {
    let policy = r#"
        package tollgate
        default decision := {"decision": "allow"}
        decision := {"decision": "deny", "reason": "brought_a_key"} if {
            some found in input.secrets
            found.where == "header:x-api-key"
        }
    "#;
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::with_policy(policy).in_front_of(&origin).start().await;
    let mut call = request(Method::GET, &origin.url("/"), "");
    call.headers_mut().insert("x-api-key", HeaderValue::from_static("abc"));

    assert_eq!(sidecar.agent().send(call).await.to_string(), "403 brought_a_key");
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
}
