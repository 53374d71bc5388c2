//! The fail-closed matrix: whatever is unknown, wrong, slow or gone, the agent sees a documented refusal, the origin sees
//! nothing, and the record says why.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use http::{HeaderValue, Method, StatusCode};
use serde_json::json;
use tokio::time::timeout;

use crate::actors::{Certificate, Issuer, Origin, Sidecar, agent::request, issuer::Behaviour, sidecar::Setup};
use crate::secrets::with_issuer;

/// One row: what is wrong, what the agent sees, what the record says.
struct Row {
    name: &'static str,
    setup: fn(&Origin) -> Setup,
    answer: &'static str,
    label: &'static str,
}

fn policy(decision: &str) -> Setup {
    Sidecar::with_policy(&format!("package tollgate\n{decision}"))
}

const ROWS: &[Row] = &[
    Row {
        name: "undefined",
        setup: |_| policy(r#"decision := {"decision": "allow"} if input.call.method == "NONE""#),
        answer: "403 policy_undefined",
        label: "policy_undefined",
    },
    Row {
        name: "an error",
        setup: |_| policy("decision := {\"decision\": \"allow\"} if not startswith(input.call.port, \"x\")"),
        answer: "403 policy_failed",
        label: "policy_failed",
    },
    Row {
        name: "two answers",
        setup: |_| {
            policy(
                "decision := {\"decision\": \"allow\"} if input.schema == 1\ndecision := {\"decision\": \"deny\"} if input.schema == 1",
            )
        },
        answer: "403 policy_failed",
        label: "policy_failed",
    },
    Row {
        name: "a boolean",
        setup: |_| policy("decision := true"),
        answer: "403 policy_wrong_type",
        label: "policy_wrong_type",
    },
    Row {
        name: "a misspelt value",
        setup: |_| policy(r#"decision := {"decision": "alow"}"#),
        answer: "403 policy_wrong_type",
        label: "policy_wrong_type",
    },
    Row {
        name: "no decision",
        setup: |_| policy(r#"decision := {"allow": true}"#),
        answer: "403 policy_unknown_field",
        label: "policy_unknown_field",
    },
    Row {
        name: "an unknown field",
        setup: |_| policy(r#"decision := {"decision": "allow", "obligation": {}}"#),
        answer: "403 policy_unknown_field",
        label: "policy_unknown_field",
    },
    Row {
        name: "an obligation that can't be kept",
        setup: |_| policy(r#"decision := {"decision": "allow", "obligations": {"redact": ["/a"]}}"#),
        answer: "403 policy_obligation_unsupported",
        label: "policy_obligation_unsupported",
    },
    Row {
        name: "the budget is spent",
        setup: |_| {
            let slow = "decision := {\"decision\": \"allow\"} if {\n\tinput.call.host == \"api.example.com\"\n\tcount([1 | some a in data.many; some b in data.many; some c in data.many; a + b + c > 0]) > 0\n}";
            let numbers: Vec<u32> = (1..=200).collect();
            let setup = policy(slow).set(json!({"policy": {"budget": "2ms"}}));
            fs::create_dir_all(setup.path().join("policy/many")).expect("a directory");
            fs::write(setup.path().join("policy/many/data.json"), json!(numbers).to_string())
                .expect("it can be written");
            setup
        },
        answer: "403 policy_budget_spent",
        label: "policy_budget_spent",
    },
    Row {
        name: "an expired task",
        setup: |_| {
            Sidecar::permissive()
                .set(json!({"tasks": {"source": ["static"], "static": {"purpose": "x", "ttl": "1ms"}}}))
        },
        answer: "403 task_expired",
        label: "task_expired",
    },
];

#[tokio::test]
async fn what_policy_does_not_say_clearly_is_refused() {
    for row in ROWS {
        let origin = Origin::https("api.example.com").start().await;
        let mut sidecar = (row.setup)(&origin).in_front_of(&origin).start().await;

        let answer = sidecar.agent().get(&origin.url("/")).await;

        assert_eq!(answer.to_string(), row.answer, "{}", row.name);
        assert!(origin.requests().is_empty(), "{}", row.name);
        sidecar.ended().await;
        assert_eq!(sidecar.records().await, [format!("GET api.example.com {}", row.label)], "{}", row.name);
    }
}

#[tokio::test]
async fn a_policy_that_cannot_be_loaded_keeps_the_sidecar_from_starting() {
    for (case, rego, told) in [
        ("does not parse", "package tollgate\ndecision := {", "policy.rego"),
        ("an unknown builtin", "package tollgate\ndecision := {\"decision\": \"allow\"} if nosuch(1)", "nosuch"),
        (
            "a refused builtin",
            "package tollgate\ndecision := {\"decision\": \"allow\"} if count(numbers.range(1, 9)) > 0",
            "numbers.range",
        ),
        (
            "a misspelt input",
            "package tollgate\ndecision := {\"decision\": \"allow\"} if not input.taks.purpose",
            "input.taks",
        ),
        ("deep nesting", "package tollgate\nx := [[[[[[[[[[[[1]]]]]]]]]]]]", "nest"),
    ] {
        let error = match Sidecar::with_policy(rego).try_start().await {
            Ok(_) => panic!("{case}: it started"),
            Err(error) => format!("{error:#}"),
        };
        assert!(error.contains(told), "{case}: {error}");
    }
}

#[tokio::test]
async fn an_origin_whose_certificate_is_not_right_gets_nothing() {
    for certificate in [Certificate::WrongName, Certificate::Expired, Certificate::UnknownIssuer] {
        let origin = Origin::https("api.example.com").certificate(certificate).start().await;
        let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;

        let answer = sidecar.agent().post(&origin.url("/"), "data").await;

        assert_eq!(answer.to_string(), "502 origin_certificate", "{certificate:?}");
        assert!(origin.requests().is_empty());
        sidecar.ended().await;
        assert_eq!(sidecar.records().await, ["POST api.example.com origin_certificate"]);
    }
}

#[tokio::test]
async fn an_issuer_that_misbehaves_costs_the_call() {
    for (behaviour, refused) in [
        (Behaviour::Fails(StatusCode::UNAUTHORIZED), "503 credential_rejected"),
        (Behaviour::Fails(StatusCode::SERVICE_UNAVAILABLE), "503 credential_unavailable"),
        (Behaviour::Issues { expires_in: 86_400 }, "503 credential_lifetime_exceeded"),
        (Behaviour::Says("<html>"), "503 credential_malformed"),
        (
            Behaviour::Says(r#"{"access_token": "t", "token_type": "mac", "expires_in": 60}"#),
            "503 credential_malformed",
        ),
        (Behaviour::Says(r#"{"access_token": "t", "token_type": "Bearer"}"#), "503 credential_malformed"),
        (
            Behaviour::Says(
                r#"{"access_token": "t", "token_type": "Bearer", "expires_in": 60, "scope": "read admin"}"#,
            ),
            "503 credential_scope_exceeded",
        ),
        (Behaviour::Hangs, "503 credential_timeout"),
    ] {
        let issuer = Issuer::start(behaviour.clone()).await;
        let origin = Origin::https("api.example.com").start().await;
        let mut sidecar = with_issuer(Sidecar::permissive(), &origin, &issuer).start().await;
        let mut call = request(Method::GET, &origin.url("/"), "");
        call.headers_mut().insert("authorization", HeaderValue::from_static("Bearer my-own-key"));

        let answer = sidecar.agent().send(call).await;

        assert_eq!(answer.to_string(), refused, "{behaviour:?}");
        assert!(origin.requests().is_empty(), "{behaviour:?}");
        sidecar.ended().await;
        assert_eq!(sidecar.audit().await[0]["refusal"]["class"], "credential", "{behaviour:?}");
    }
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

#[tokio::test]
async fn an_issuer_that_is_down_costs_the_call() {
    let issuer = Issuer::start(Behaviour::Hangs).await;
    let origin = Origin::https("api.example.com").start().await;
    let setup = with_issuer(Sidecar::permissive(), &origin, &issuer);
    drop(issuer);
    let sidecar = setup.start().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "503 credential_unavailable");
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn an_expired_exception_costs_the_call() {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::permissive()
        .file("key", "the-key")
        .in_front_of_as(&origin, json!({"credential": "key"}))
        .set(json!({"credentials": {"key": {"kind": "file", "file": "key", "owner": "team-x", "expires": "2020-01-31"}}}))
        .start()
        .await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "503 credential_expired");
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn an_audit_file_that_cannot_be_opened_keeps_the_sidecar_from_starting() {
    let error =
        Sidecar::permissive().set(json!({"audit": {"file": "no-such-directory/audit.jsonl"}})).try_start().await;
    assert!(error.is_err_and(|error| format!("{error:#}").contains("audit")));
}

#[tokio::test]
async fn durable_records_are_on_disk_before_the_call_is_forwarded() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar =
        Sidecar::permissive().in_front_of(&origin).set(json!({"audit": {"durable": "before_forward"}})).start().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
    sidecar.ended().await;

    let intents =
        fs::metadata(sidecar.dir.path().join("audit.jsonl.intents")).expect("intents are kept beside the file");
    assert_eq!(intents.permissions().mode() & 0o077, 0, "nobody else reads them");
    assert_eq!(sidecar.records().await, ["GET api.example.com allow"]);
}

#[tokio::test]
async fn a_header_section_that_is_too_large_is_refused_and_recorded() {
    let origin = Origin::http("api.example.com").start().await;
    let mut sidecar =
        Sidecar::permissive().in_front_of(&origin).set(json!({"limits": {"header_bytes": "8KiB"}})).start().await;
    let raw = format!("GET {} HTTP/1.1\r\nhost: api.example.com\r\nx: {}\r\n\r\n", origin.url("/"), "x".repeat(20_000));

    let answer = sidecar.agent().raw(raw.as_bytes()).await;

    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(origin.requests().is_empty());
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["- - header_too_large"]);
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar =
        Sidecar::permissive().in_front_of(&origin).set(json!({"limits": {"connections": 1}})).start().await;
    let agent = sidecar.agent();
    let url = origin.url("/").parse().expect("a URL");
    let mut first = agent.connection(&url).await.expect("there is room for one");
    assert_eq!(first.get(&origin.url("/")).await.to_string(), "200");
    sidecar.ended().await;

    let second = agent.raw(b"GET http://api.example.com/ HTTP/1.1\r\nhost: api.example.com\r\n\r\n").await;

    assert!(second.starts_with("HTTP/1.1 503"), "{second}");
    assert!(second.contains("too_many_connections"), "{second}");
    sidecar.ended().await;
    assert_eq!(sidecar.records().await[1], "- - too_many_connections");
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn bytes_of_no_known_protocol_are_reset() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let target = format!("api.example.com:{}", origin.addr.port());

    let mut stream = sidecar.agent().connect(&target).await.expect("the destination is configured");
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"SSH-2.0-OpenSSH_9.2\r\n").await.expect("it is open");
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(5), tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest)).await;

    assert!(ended.is_ok() && rest.is_empty());
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["- api.example.com unknown_protocol"]);
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn an_agent_that_rejects_our_certificate_is_never_passed_through() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let stranger = tollgate::tls::authority::Authority::open(None).expect("an authority");
    let suspicious = crate::actors::Agent::new(sidecar.proxy, stranger.certificate().clone());
    let target = format!("api.example.com:{}", origin.addr.port());

    assert!(suspicious.claiming(&target, "api.example.com").await.is_err());

    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["- api.example.com agent_tls"]);
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn a_stopping_sidecar_finishes_what_has_begun_and_takes_nothing_new() {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let agent = sidecar.agent();
    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "200");
    let proxy = sidecar.proxy;

    sidecar.stop().await;

    assert!(tokio::net::TcpStream::connect(proxy).await.is_err(), "nobody listens any more");
}
