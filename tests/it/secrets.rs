//! What the agent brings is taken away; what the destination needs is put on, over verified TLS alone.

use http::{HeaderValue, Method};
use serde_json::json;

use crate::{
    actors::{Issuer, Origin, Sidecar, agent::request, issuer::Behaviour, sidecar::Setup},
    canary::Logs,
};

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
async fn an_exception_that_ends_soon_is_told_at_start_and_not_at_each_call() {
    let logs = Logs::listen();
    let origin = Origin::https("api.example.com").start().await;
    let today = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
    let day = |days: i64| today.checked_add(jiff::Span::new().days(days)).expect("a day").to_string();
    let exception =
        |days| json!({"kind": "file", "file": "key", "owner": format!("team-{days}"), "expires": day(days)});
    let setup =
        Sidecar::permissive().file("key", "a-long-lived-key").in_front_of_as(&origin, json!({"credential": "soon"}));
    let credentials = json!({"soon": exception(7), "later": exception(60), "over": exception(-1)});
    let sidecar = setup.set(json!({"credentials": credentials})).start().await;
    for _ in 0..3 {
        assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
    }
    let text = logs.text();
    let told: Vec<&str> = text.lines().filter(|line| line.contains("exception end")).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().any(|line| line.contains("team-7") && line.contains(&day(7))), "{told:?}");
    assert!(told.iter().any(|line| line.contains("team--1") && line.contains(&day(-1))), "{told:?}");
}

#[tokio::test]
async fn without_a_journal_it_is_told_what_a_crash_leaves() {
    let leased = json!({
        "kind": "vault", "address": "http://127.0.0.1:9", "auth": {"kubernetes": {"role": "agent"}},
        "secret": "database/creds/readonly", "field": "password",
    });
    for (state, told) in [(json!({}), true), (json!({"journal": "journal.jsonl"}), false)] {
        let logs = Logs::listen();
        let setup = Sidecar::permissive().set(json!({"credentials": {"db": leased}, "state": state}));
        let _sidecar = setup.start().await;
        assert_eq!(logs.text().contains("what a crash leaves of it is not revoked"), told);
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

fn pat() -> String {
    format!("ghp_{}", "aB3dE6gH9kL2".repeat(3))
}

/// A sidecar in front of an origin that does this with secrets.
async fn treating(secrets: serde_json::Value) -> (Origin, Sidecar) {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::permissive().in_front_of_as(&origin, json!({"secrets": secrets})).start().await;
    (origin, sidecar)
}

#[tokio::test]
async fn a_body_loses_its_secrets_and_stays_what_it_was() {
    let (origin, mut sidecar) = treating(json!({"bodies": true})).await;
    let pat = pat();
    let body = format!(r#"{{ "a": [1.0, "see \u0067{}"], "b": "caf\u00e9" }}"#, &pat[1..]);
    let mut call = request(Method::POST, &origin.url("/x"), &body);
    for (name, value) in [("content-type", "application/json"), ("content-md5", "x"), ("x-kept", "yes")] {
        call.headers_mut().insert(name, HeaderValue::from_static(value));
    }

    let answer = sidecar.agent().send(call).await;

    assert_eq!(answer.to_string(), "200");
    let seen = &origin.requests()[0];
    assert_eq!(seen.body, r#"{ "a": [1.0, "see REDACTED"], "b": "caf\u00e9" }"#);
    assert_eq!(seen.header("content-length"), Some(seen.body.len().to_string().as_str()));
    assert_eq!((seen.header("content-md5"), seen.header("x-kept")), (None, Some("yes")));
    sidecar.ended().await;
    let record = sidecar.audit().await.remove(0);
    assert_eq!(record["secrets"], json!([{"kind": "github_pat", "where": "body:/a/1"}]));
    let metrics = sidecar.metrics();
    assert!(metrics.contains(r#"tollgate_secrets_total{kind="github_pat",action="redacted"} 1"#), "{metrics}");
}

#[tokio::test]
async fn a_kind_that_is_refused_goes_nowhere() {
    let (origin, mut sidecar) = treating(json!({"kinds": {"github_pat": "refuse"}})).await;
    let mut call = request(Method::GET, &origin.url("/x"), "");
    let value = HeaderValue::try_from(format!("Bearer {}", pat())).expect("a value");
    call.headers_mut().insert("authorization", value);

    let answer = sidecar.agent().send(call).await;

    assert_eq!(answer.to_string(), "403 secret_refused");
    assert_eq!(origin.requests().len(), 0);
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["GET api.example.com secret_refused"]);
}

#[tokio::test]
async fn what_is_observed_passes_and_is_seen_by_nobody_else() {
    let (origin, mut sidecar) = treating(json!({"mode": "observe"})).await;
    let pat = pat();
    let mut call = request(Method::GET, &origin.url(&format!("/x?token={pat}&q=1")), "");
    let value = HeaderValue::try_from(format!("Bearer {pat}")).expect("a value");
    call.headers_mut().insert("authorization", value);

    let answer = sidecar.agent().send(call).await;

    assert_eq!(answer.to_string(), "200");
    let seen = &origin.requests()[0];
    assert_eq!(seen.target, format!("/x?token={pat}&q=1"));
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {pat}").as_str()));
    sidecar.ended().await;
    let record = sidecar.audit().await.remove(0);
    assert_eq!(record["secrets"].as_array().map(Vec::len), Some(2), "{record}");
    assert!(!record.to_string().contains(&pat), "{record}");
}

#[tokio::test]
async fn bodies_that_are_no_text_stream_and_compressed_text_is_refused() {
    let (origin, sidecar) = treating(json!({"bodies": true})).await;
    let pat = pat();
    for (media, coding, told) in
        [("application/octet-stream", None, "200"), ("application/json", Some("gzip"), "403 unsupported_protocol")]
    {
        let mut call = request(Method::POST, &origin.url("/x"), &pat);
        call.headers_mut().insert("content-type", HeaderValue::from_static(media));
        if let Some(coding) = coding {
            call.headers_mut().insert("content-encoding", HeaderValue::from_static(coding));
        }
        assert_eq!(sidecar.agent().send(call).await.to_string(), told, "{media}");
    }
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(origin.requests()[0].body, pat);
}

#[tokio::test]
async fn what_passes_all_the_same_passes_no_rule_that_it_would_not_have_passed() {
    let token = format!("ghp_{}", "a1B2".repeat(9));
    for mode in ["observe", "redact"] {
        let (origin, sidecar) = treating(json!({"mode": mode})).await;
        let agent = sidecar.agent();
        let send = async |name: &'static str, value: String, target: String| {
            let mut call = request(Method::GET, &origin.url(&target), "");
            call.headers_mut().insert(name, HeaderValue::try_from(value).expect("a value"));
            agent.send(call).await.to_string()
        };

        for name in ["x-original-url", "x-rewrite-url", "x-forwarded-host", "txn-token", "x-forwarded-access-token"] {
            assert_eq!(send(name, format!("/admin?t={token}"), "/x".into()).await, "200", "{name}");
            assert_eq!(origin.requests().pop().expect("it arrived").header(name), None, "{mode} {name}");
        }
        let before = origin.requests().len();
        for name in ["x-http-method-override", "x_original_url"] {
            let refused = send(name, format!("DELETE;{token}"), "/x".into()).await;
            assert_eq!(refused, "400 malformed_request", "{mode} {name}");
        }
        if mode == "observe" {
            let target = format!("/x?a=1;t={token};_method=DELETE");
            assert_eq!(send("x-kept", "yes".into(), target).await, "400 malformed_request");
        }
        assert_eq!(origin.requests().len(), before);
    }
}
