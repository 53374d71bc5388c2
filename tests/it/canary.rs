//! A secret that is put into every place of requests, and into credential files, is found in none of the places where
//! operators look.

use http::{HeaderValue, Method, Request};
use serde_json::json;

use crate::actors::{
    Issuer, Origin, Sidecar,
    agent::{self, request},
    issuer::Behaviour,
};

/// Shaped like a real token, so that it is recognised where only values can tell.
fn canary(place: usize) -> String {
    format!("ghp_{}{place:02}", "CaNaRy9".repeat(5).get(..34).expect("it is long enough"))
}

#[tokio::test]
async fn no_sink_ever_holds_a_secret() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").start().await;
    let tools = Origin::https("tools.example.com").start().await;
    let file_key = canary(90);
    let client_secret = canary(91);
    let mut sidecar = Sidecar::permissive()
        .file("key", &file_key)
        .file("client-secret", &client_secret)
        .in_front_of_as(&origin, json!({"credential": "key"}))
        .in_front_of_as(&tools, json!({"protocol": "mcp", "credential": "token"}))
        .set(json!({"credentials": {
            "key": {"kind": "file", "file": "key", "owner": "team-x"},
            "token": {
                "kind": "oauth_client_credentials",
                "token_endpoint": issuer.url("/token"),
                "client": {"id": "tollgate", "secret": {"file": "client-secret"}},
            },
        }}))
        .start()
        .await;
    let agent = sidecar.agent();
    let mut secrets = vec![file_key, client_secret];

    let mut answers = Vec::new();
    for call in calls(&origin, &tools, &mut secrets) {
        answers.push(agent.send(call).await);
        sidecar.ended().await;
    }
    // What can't be parsed must not be quoted either.
    let broken = canary(60);
    agent
        .raw(format!("GET http://u:{broken}@api.example.com/ HTTP/1.1\r\nhost: x\r\nx {broken}\r\n\r\n").as_bytes())
        .await;
    secrets.push(broken);
    secrets.extend(issuer.issued());

    let mut sinks = vec![("metrics", sidecar.metrics())];
    sidecar.inner().recorder().audit().expect("there is a file").flush().await;
    let audit = std::fs::read_to_string(sidecar.dir.path().join("audit.jsonl")).expect("there is a file");
    sinks.push(("audit", audit));
    for (number, answer) in answers.iter().enumerate().filter(|(_, answer)| answer.status.is_client_error()) {
        sinks.push(("a refusal", format!("{number}: {}", answer.text())));
    }
    sinks.push(("spans", sidecar.drained_spans()));
    for (sink, text) in &sinks {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{sink} holds {secret}");
            // Neither half of it.
            assert!(!text.contains(&secret[8..24]), "{sink} holds a part of {secret}");
        }
    }
    assert!(sinks[1].1.lines().count() > 10, "the calls were recorded");
}

fn calls(origin: &Origin, tools: &Origin, secrets: &mut Vec<String>) -> Vec<Request<agent::Body>> {
    let mut next = || {
        let secret = canary(secrets.len());
        secrets.push(secret.clone());
        secret
    };
    let mut calls = Vec::new();
    for name in [
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-api-key",
        "x-auth-token",
        "private-token",
        "x-goog-api-key",
        "x-anything",
        "user-agent",
        "referer",
        "tollgate-decision",
        "baggage",
        "tracestate",
    ] {
        let mut call = request(Method::GET, &origin.url("/x"), "");
        call.headers_mut().insert(name, HeaderValue::try_from(next()).expect("a value"));
        calls.push(call);
    }
    for target in ["/x?access_token=SECRET", "/x?q=SECRET", "/x?SECRET=1", "/bot/SECRET/send", "/a/../SECRET"] {
        calls.push(request(Method::GET, &origin.url(&target.replace("SECRET", &next())), ""));
    }
    calls.push(request(Method::POST, &origin.url("/upload"), &next()));
    for body in [
        r#"{"jsonrpc":"2.0","id":"SECRET","method":"tools/call","params":{"name":"t","arguments":{"key":"SECRET"}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"SECRET","arguments":{}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"SECRET","params":{}}"#,
        r#"{"SECRET":1,"SECRET":2}"#,
        "SECRET",
    ] {
        let mut call = request(Method::POST, &tools.url("/mcp"), &body.replace("SECRET", &next()));
        call.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        calls.push(call);
    }
    calls
}
