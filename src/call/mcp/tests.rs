use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |&(name, value): &(&str, &str)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    let json = HeaderValue::from_static("application/json");
    std::iter::once((CONTENT_TYPE, json)).chain(fields.iter().map(field)).collect()
}

fn parse(body: &str, fields: &[(&str, &str)]) -> Result<McpCall, i32> {
    McpCall::parse(body.as_bytes(), &headers(fields), 64).map_err(code)
}

fn code(refusal: Refusal) -> i32 {
    match refusal {
        Refusal::MalformedMessage { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

fn modern(method: &str, params: &str) -> String {
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
    let comma = if params.is_empty() { "" } else { "," };
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}{comma}{meta}}}}}"#)
}

const VERSION: (&str, &str) = ("MCP-Protocol-Version", "2026-07-28");

#[test]
fn a_tool_call_of_the_current_revision_is_read() {
    let body = modern("tools/call", r#""name":"create_issue","arguments":{"title":"x"}"#);
    let call = parse(&body, &[VERSION, ("Mcp-Method", "tools/call"), ("Mcp-Name", "create_issue")]).unwrap();
    assert_eq!(call.revision.as_deref(), Some("2026-07-28"));
    assert_eq!((call.method.as_str(), call.tool.as_deref()), ("tools/call", Some("create_issue")));
    assert_eq!((call.id.clone(), call.arguments.clone()), (Some(json!(1)), Some(json!({"title": "x"}))));
    assert_eq!(call.effect(), Effect::Destructive);
    assert!(!format!("{call:?}").contains("title"));
}

#[test]
fn a_tool_call_of_an_older_revision_is_read() {
    let body = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t"}}"#;
    let call = parse(body, &[]).unwrap();
    assert_eq!((call.revision.as_deref(), call.tool.as_deref()), (Some("2025-03-26"), Some("t")));
    assert_eq!(call.arguments, None);
    let call = parse(body, &[("mcp-protocol-version", "2025-06-18"), ("mcp-name", "t")]).unwrap();
    assert_eq!(call.revision.as_deref(), Some("2025-06-18"));
    let initialize = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    assert_eq!(parse(initialize, &[]).unwrap().effect(), Effect::Read);
}

#[test]
fn mirrored_headers_must_equal_the_body() {
    let call = modern("tools/call", r#""name":"näme""#);
    let plain = modern("tools/call", r#""name":"a""#);
    let list = modern("tools/list", "");
    let old = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#;
    let no_meta = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#;
    let method = ("Mcp-Method", "tools/call");
    let table: [(&str, &[(&str, &str)], Option<i32>); 26] = [
        (&call, &[VERSION, method, ("Mcp-Name", "=?base64?bsOkbWU=?=")], None),
        (&call, &[VERSION, method, ("Mcp-Name", "=?base64?bsOkbWU?=")], Some(-32020)),
        (&call, &[VERSION, method, ("Mcp-Name", "=?base64?!!!!?=")], Some(-32020)),
        (&call, &[VERSION, method, ("Mcp-Name", "=?BASE64?bsOkbWU=?=")], Some(-32020)),
        (&call, &[VERSION, method, ("Mcp-Name", "näme")], Some(-32020)),
        (&plain, &[VERSION, method, ("Mcp-Name", "a")], None),
        (&plain, &[VERSION, method, ("Mcp-Name", "=?base64?YQ==?=")], None),
        (&plain, &[VERSION, method, ("Mcp-Name", "=?base64?YR==?=")], Some(-32020)),
        (&plain, &[VERSION, method, ("Mcp-Name", "A")], Some(-32020)),
        (&plain, &[VERSION, method], Some(-32020)),
        (&plain, &[VERSION, ("Mcp-Name", "a")], Some(-32020)),
        (&plain, &[VERSION, ("Mcp-Method", "tools/list"), ("Mcp-Name", "a")], Some(-32020)),
        (&plain, &[VERSION, ("Mcp-Method", "Tools/call"), ("Mcp-Name", "a")], Some(-32020)),
        (&plain, &[VERSION, method, method, ("Mcp-Name", "a")], Some(-32020)),
        (&plain, &[VERSION, method, ("Mcp-Name", "a"), ("Mcp-Name", "b")], Some(-32020)),
        (&plain, &[method, ("Mcp-Name", "a")], Some(-32020)),
        (&plain, &[("MCP-Protocol-Version", "2025-06-18"), method, ("Mcp-Name", "a")], Some(-32020)),
        (&list, &[VERSION, ("Mcp-Method", "tools/list")], None),
        (&list, &[VERSION, ("Mcp-Method", "tools/list"), ("Mcp-Name", "a")], Some(-32020)),
        (old, &[("Mcp-Method", "tools/list")], Some(-32020)),
        (old, &[("Mcp-Name", "b")], Some(-32020)),
        (old, &[("MCP-Protocol-Version", "DRAFT-2026")], Some(-32022)),
        (old, &[("MCP-Protocol-Version", "2027-01-01"), method, ("Mcp-Name", "a")], Some(-32602)),
        (no_meta, &[VERSION, ("Mcp-Method", "tools/list")], Some(-32602)),
        (notification, &[VERSION], Some(-32020)),
        (notification, &[VERSION, ("Mcp-Method", "notifications/cancelled")], None),
    ];
    for (body, fields, expected) in table {
        assert_eq!(parse(body, fields).err(), expected, "{body} {fields:?}");
    }
}

#[test]
fn a_message_of_another_shape_is_refused() {
    let table = [
        (r#"[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]"#, -32600),
        ("[]", -32600),
        ("\"x\"", -32600),
        ("{}", -32600),
        (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"error":{}}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#, -32600),
        (r#"{"id":1,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":""}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":5}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1.0,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"t"}}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"notifications/cancelled"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","extra":1}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["t"]}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":null}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":5}}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":[]}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":null}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","Name":"u"}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","argument\u017f":{}}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_META":{}}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":1}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"name":"t"}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","meth\u006fd":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"} {}"#, -32700),
        ("not json", -32700),
        ("", -32700),
        ("\u{feff}{}", -32700),
    ];
    for (body, expected) in table {
        assert_eq!(parse(body, &[]).err(), Some(expected), "{body}");
    }
}

#[test]
fn only_plain_json_is_inspected() {
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let table: [(&[(&str, &str)], bool); 14] = [
        (&[("content-type", "application/json")], true),
        (&[("content-type", "Application/JSON; charset=UTF-8")], true),
        (&[("content-type", "application/json;charset=\"utf-8\"")], true),
        (&[("content-type", "application/json"), ("content-encoding", "identity")], true),
        (&[("content-type", "application/json; charset=utf-16")], false),
        (&[("content-type", "application/json; boundary=x")], false),
        (&[("content-type", "application/jsonp")], false),
        (&[("content-type", "text/plain")], false),
        (&[("content-type", "multipart/form-data; boundary=x")], false),
        (&[("content-type", "application/json"), ("content-type", "text/plain")], false),
        (&[("content-type", "application/json"), ("content-encoding", "gzip")], false),
        (&[("content-type", "application/json"), ("content-encoding", "identity, br")], false),
        (
            &[("content-type", "application/json"), ("content-encoding", "identity"), ("content-encoding", "zstd")],
            false,
        ),
        (&[], false),
    ];
    for (fields, accepted) in table {
        let mut map = headers(fields);
        // The helper sets a content type of its own, first.
        let own: Vec<_> = map.get_all(CONTENT_TYPE).iter().skip(1).cloned().collect();
        map.remove(CONTENT_TYPE);
        for value in own {
            map.append(CONTENT_TYPE, value);
        }
        assert_eq!(McpCall::parse(body, &map, 64).is_ok(), accepted, "{fields:?}");
    }
}

#[test]
fn an_unknown_method_is_an_admin_effect() {
    let table = [
        ("tools/list", Effect::Read),
        ("completion/complete", Effect::Read),
        ("subscriptions/listen", Effect::Read),
        ("server/discover", Effect::Read),
        ("logging/setLevel", Effect::Write),
        ("tools/Call", Effect::Admin),
        ("vendor/wipe", Effect::Admin),
    ];
    for (method, effect) in table {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#);
        assert_eq!(parse(&body, &[]).unwrap().effect(), effect, "{method}");
    }
    let unknown = r#"{"jsonrpc":"2.0","method":"notifications/wipe"}"#;
    assert_eq!(parse(unknown, &[]).unwrap().effect(), Effect::Admin);
}

#[test]
fn a_request_without_a_message_opens_or_ends_a_session() {
    assert_eq!(McpCall::without_body(&Method::GET).unwrap().effect(), Effect::Read);
    assert_eq!(McpCall::without_body(&Method::DELETE).unwrap().effect(), Effect::Write);
    for method in [Method::POST, Method::PUT, Method::HEAD, Method::OPTIONS] {
        assert!(matches!(McpCall::without_body(&method), Err(Refusal::UnsupportedProtocol(_))));
    }
}

proptest! {
    #[test]
    fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = McpCall::parse(&body, &headers(&[]), 64);
    }

    #[test]
    fn no_header_panics(value in "[ -~]{0,40}", encoded in "=\\?base64\\?[A-Za-z0-9+/=]{0,12}\\?=") {
        let body = modern("tools/call", r#""name":"a""#);
        for name in [&value, &encoded] {
            let _ = parse(&body, &[VERSION, ("Mcp-Method", &value), ("Mcp-Name", name.trim())]);
        }
    }
}
