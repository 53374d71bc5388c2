//! Tool calls: method, tool and arguments are in the body, and policy decides on them.

use http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::actors::{Answer, Origin, Sidecar, agent::request};

fn call(tool: &str, arguments: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
        .to_string()
}

async fn tools() -> (Origin, Sidecar) {
    let origin = Origin::https("tools.example.com").start().await;
    let sidecar = Sidecar::permissive()
        .in_front_of_as(&origin, json!({"protocol": "mcp"}))
        .allowing(json!([{"id": "search", "destination": "tools", "tools": ["search_*"]}]))
        .start()
        .await;
    (origin, sidecar)
}

async fn send(sidecar: &Sidecar, origin: &Origin, body: &str, fields: &[(&'static str, &'static str)]) -> Answer {
    let mut request = request(Method::POST, &origin.url("/mcp"), body);
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    for (name, value) in fields {
        request.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    sidecar.agent().send(request).await
}

#[tokio::test]
async fn a_permitted_tool_is_called_with_the_original_bytes() {
    let (origin, mut sidecar) = tools().await;
    // Spacing and order are the agent's, and stay so.
    let body =
        r#"{ "params":{"arguments":{"q":"x"},"name":"search_docs"}, "method":"tools/call","id":7,"jsonrpc":"2.0" }"#;

    assert_eq!(send(&sidecar, &origin, body, &[]).await.to_string(), "200");

    assert_eq!(origin.requests()[0].body, body);
    sidecar.ended().await;
    let record = &sidecar.audit().await[0];
    assert_eq!(record["call"]["mcp_tool"], "search_docs");
    assert_eq!(record["call"]["mcp_method"], "tools/call");
}

#[tokio::test]
async fn a_denied_tool_is_a_json_rpc_error_that_names_the_request() {
    let (origin, mut sidecar) = tools().await;

    let answer = send(&sidecar, &origin, &call("delete_all", &json!({})), &[]).await;

    assert_eq!(answer.to_string(), "200 not_listed");
    let document = answer.json();
    assert_eq!((&document["id"], &document["jsonrpc"]), (&json!(7), &json!("2.0")));
    assert!(document["error"]["code"].as_i64().is_some_and(|code| code > 0), "{document}");
    assert_eq!(document["error"]["data"]["status"], 403);
    assert!(origin.requests().is_empty());
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["POST tools.example.com policy_denied"]);
}

#[tokio::test]
async fn every_refusal_of_a_request_with_an_id_names_it() {
    let origin = Origin::https("tools.example.com").start().await;
    let ended = json!({"tasks": {"source": ["static"], "static": {"purpose": "x", "ttl": "1ms"}}});
    let setup = |settings| Sidecar::permissive().in_front_of_as(&origin, json!({"protocol": "mcp"})).set(settings);
    let missing = json!({"credentials": {"key": {"kind": "file", "file": "gone", "owner": "team-x"}},
                         "destinations": {"tools": {"credential": "key"}}});
    for (setup, shown, code) in [
        (setup(ended), "200 task_expired", 403),
        (setup(missing), "200 credential_unavailable", 503),
        (setup(json!({"destinations": {"tools": {"addresses": ["127.0.0.9"]}}})), "200 origin_unreachable", 502),
    ] {
        let mut sidecar = setup.start().await;

        let answer = send(&sidecar, &origin, &call("search", &json!({})), &[]).await;

        assert_eq!(answer.to_string(), shown);
        let document = answer.json();
        assert_eq!((&document["id"], &document["error"]["code"]), (&json!(7), &json!(code)), "{document}");
        assert_eq!(document["error"]["data"]["status"], code);
        sidecar.ended().await;
        let record = &sidecar.audit().await[0];
        assert_eq!((&record["status"], &record["call"]["mcp_tool"]), (&json!(200), &json!("search")));
    }
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn a_denied_notification_gets_no_json_rpc_answer() {
    let origin = Origin::https("tools.example.com").start().await;
    let sidecar =
        Sidecar::permissive().in_front_of_as(&origin, json!({"protocol": "mcp"})).allowing(json!([])).start().await;
    let body = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}).to_string();

    let answer = send(&sidecar, &origin, &body, &[]).await;

    assert_eq!(answer.to_string(), "403 not_listed");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn messages_that_can_be_read_in_two_ways_are_refused() {
    let (origin, sidecar) = tools().await;
    let twice = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search_docs","name":"delete_all"}}"#;
    let escaped = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","meth\u006fd":"tools/call","params":{}}"#;
    let batch = format!("[{}]", call("search_docs", &json!({})));
    for (case, body, code) in [
        ("a key twice", twice, -32600),
        ("a key twice, once escaped", escaped, -32600),
        ("a batch", &*batch, -32600),
        ("not JSON", "tools/call", -32700),
        ("trailing data", r#"{"jsonrpc":"2.0","id":1,"method":"ping"} {}"#, -32700),
        ("a response", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, -32600),
        ("another version", r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600),
    ] {
        let answer = send(&sidecar, &origin, body, &[]).await;
        assert_eq!(answer.status, 400, "{case}");
        assert_eq!(answer.json()["error"]["code"], code, "{case}: {}", answer.text());
    }
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn header_fields_must_say_what_the_body_says() {
    let (origin, sidecar) = tools().await;
    let modern = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "search_docs", "arguments": {},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}},
    }})
    .to_string();
    let version = ("mcp-protocol-version", "2026-07-28");

    let right =
        send(&sidecar, &origin, &modern, &[version, ("mcp-method", "tools/call"), ("mcp-name", "search_docs")]).await;
    assert_eq!(right.to_string(), "200");
    for fields in [
        &[version, ("mcp-method", "tools/call"), ("mcp-name", "delete_all")][..],
        &[version, ("mcp-method", "tools/list"), ("mcp-name", "search_docs")],
        &[version, ("mcp-method", "tools/call")],
        &[version],
    ] {
        let answer = send(&sidecar, &origin, &modern, fields).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["error"]["code"].as_i64()),
            (400, Some(-32020)),
            "{fields:?}"
        );
    }
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn arguments_reach_policy_and_bound_the_answer() {
    let policy = "package tollgate\ndefault decision := {\"decision\": \"deny\", \"reason\": \"other_repository\"}\n\
                  decision := {\"decision\": \"allow\"} if input.call.mcp.arguments.repository == \"mine\"";
    let origin = Origin::https("tools.example.com").start().await;
    let sidecar = Sidecar::with_policy(policy).in_front_of_as(&origin, json!({"protocol": "mcp"})).start().await;

    for (repository, answer) in
        [("mine", "200"), ("theirs", "200 other_repository"), ("mine", "200"), ("theirs", "200 other_repository")]
    {
        let body = call("create_issue", &json!({"repository": repository}));
        assert_eq!(send(&sidecar, &origin, &body, &[]).await.to_string(), answer, "{repository}");
    }
    assert_eq!(origin.requests().len(), 2);
}

#[tokio::test]
async fn a_body_too_large_to_inspect_is_refused() {
    let origin = Origin::https("tools.example.com").start().await;
    let mut sidecar = Sidecar::permissive()
        .in_front_of_as(&origin, json!({"protocol": "mcp"}))
        .set(json!({"limits": {"inspect_bytes": "1KiB"}}))
        .start()
        .await;

    let answer = send(&sidecar, &origin, &call("search", &json!({"q": "x".repeat(2000)})), &[]).await;

    assert_eq!(answer.to_string(), "413 body_too_large");
    assert!(origin.requests().is_empty());
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["POST tools.example.com body_too_large"]);
}
