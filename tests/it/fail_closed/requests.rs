//! Rows about what the agent sends: what has two readings, or none, goes nowhere.

use std::time::Duration;

use http::{HeaderValue, Method, header::HOST};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Row, Told, run, told};
use crate::actors::{
    Agent, Origin, Sidecar,
    agent::{request, rest, shown},
    sidecar::Setup,
};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new(
            "no destination",
            "unknown_destination",
            "403 unknown_destination",
            for_url("https://paste.example.net/"),
        ),
        Row::new("metadata", "address_forbidden", "403 address_forbidden", for_url("http://169.254.169.254/latest/")),
        Row::new("metadata", "address_forbidden", "403 address_forbidden", for_url("http://metadata.google.internal/")),
        Row::new("another server name", "name_mismatch", "reset", naming_another_server()),
        Row::new("another host", "name_mismatch", "421 name_mismatch", naming_another_host()),
        Row::new("too long a head", "header_too_large", "431", with_a_long_head()),
        Row::new("no JSON", "malformed_message", "400 malformed_message", with_message("{")),
        Row::new("a key twice", "malformed_message", "400 malformed_message", with_message(r#"{"id":1,"id":2}"#)),
        Row::new("too long a message", "body_too_large", "413 body_too_large", with_message(&message(2000))),
        Row::new("half a message", "body_incomplete", "400 body_incomplete", with_half_a_message()),
        Row::new("no room for it", "inspection_full", "503 inspection_full", while_another_is_held()),
        Row::new("neither TLS nor HTTP", "unknown_protocol", "reset", speaking(b"SSH-2.0-OpenSSH_9.2\r\n")),
        Row::new("half a hello", "unknown_protocol", "reset", speaking(b"\x16\x03\x01\x02\x00\x01")),
        Row::new("https without CONNECT", "unsupported_protocol", "403 unsupported_protocol", for_https()),
        Row::new("CONNECT in a tunnel", "unsupported_protocol", "403 unsupported_protocol", connecting_twice()),
        Row::new("HTTP where bytes go", "unsupported_protocol", "403 unsupported_protocol", asking_a_tunnel()),
        Row::new("our certificate is rejected", "agent_tls", "handshake", without_trust()),
        Row::new("two hosts", "malformed_request", "400 malformed_request", with_two_hosts()),
        Row::new("a secret in a body", "secret_refused", "403 secret_refused", with_a_secret()),
        Row::new("a placeholder on the wrong way", "placeholder_misplaced", "403 placeholder_misplaced", expanding()),
        Row::new("its own port", "own_address", "403 own_address", asking_the_sidecar_itself()),
        Row::new("a tunnel led elsewhere", "destination_changed", "cut", in_a_tunnel_that_is_led_elsewhere()),
    ]
}

async fn plain() -> (Origin, Sidecar) {
    let origin = Origin::http("api.example.com").start().await;
    let sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    (origin, sidecar)
}

async fn over_tls() -> (Origin, Sidecar) {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    (origin, sidecar)
}

fn authority(origin: &Origin) -> String {
    format!("{}:{}", origin.name, origin.addr.port())
}

async fn for_url(url: &'static str) -> Told {
    let (origin, sidecar) = plain().await;
    let answer = sidecar.agent().get(url).await;
    told(sidecar, &origin, answer).await
}

async fn with_a_secret() -> Told {
    let origin = Origin::https("api.example.com").start().await;
    let chosen = json!({"secrets": {"bodies": true, "mode": "refuse"}});
    let sidecar = Sidecar::permissive().in_front_of_as(&origin, chosen).start().await;
    let body = json!({"note": format!("ghp_{}", "aB3dE6gH9kL2".repeat(3))}).to_string();
    let mut call = request(Method::POST, &origin.url("/"), &body);
    call.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    let answer = sidecar.agent().send(call).await;
    told(sidecar, &origin, answer).await
}

/// The agent wants to have a credential written where it can read it again.
async fn expanding() -> Told {
    let origin = Origin::https("api.example.com").start().await;
    let given = json!({"credential": "key", "placeholder": "sk-tollgate-000000000000"});
    let sidecar = Sidecar::permissive()
        .file("key", "the-key")
        .in_front_of_as(&origin, given)
        .set(json!({"credentials": {"key": {"kind": "file", "file": "key", "owner": "team-x"}}}))
        .start()
        .await;
    let answer = sidecar.agent().get(&origin.url("/paste/sk-tollgate-000000000000")).await;
    told(sidecar, &origin, answer).await
}

async fn naming_another_server() -> Told {
    let (origin, sidecar) = over_tls().await;
    let claimed = sidecar.agent().claiming(&authority(&origin), "other.example.com").await;
    let error = claimed.err().expect("no handshake takes place");
    told(sidecar, &origin, if error.contains("reset") { "reset" } else { &error }).await
}

async fn naming_another_host() -> Told {
    let (origin, sidecar) = over_tls().await;
    let mut call = request(Method::GET, &origin.url("/"), "");
    call.headers_mut().insert(HOST, HeaderValue::from_static("other.example.com"));
    let answer = sidecar.agent().send(call).await;
    told(sidecar, &origin, answer).await
}

async fn with_a_long_head() -> Told {
    let origin = Origin::http("api.example.com").start().await;
    let setup = Sidecar::permissive().in_front_of(&origin).set(json!({"limits": {"header_bytes": "8KiB"}}));
    let sidecar = setup.start().await;
    let fields = format!("host: {}\r\nx: {}\r\n", authority(&origin), "x".repeat(20_000));
    let answer = sidecar.agent().raw(head("GET", &origin, &fields).as_bytes()).await;
    told(sidecar, &origin, shown(&answer)).await
}

async fn with_two_hosts() -> Told {
    let (origin, sidecar) = plain().await;
    let host = format!("host: {}\r\n", authority(&origin));
    let answer = sidecar.agent().raw(head("GET", &origin, &host.repeat(2)).as_bytes()).await;
    told(sidecar, &origin, shown(&answer)).await
}

async fn speaking(bytes: &'static [u8]) -> Told {
    let (origin, sidecar) = over_tls().await;
    let mut stream = sidecar.agent().connect(&authority(&origin)).await.expect("the destination is configured");
    stream.write_all(bytes).await.expect("it is open");
    stream.shutdown().await.expect("it is open");
    let answer = timeout(Duration::from_secs(5), rest(&mut stream)).await.expect("it is not waited for");
    told(sidecar, &origin, shown(&answer)).await
}

async fn for_https() -> Told {
    let (origin, sidecar) = over_tls().await;
    let host = format!("host: {}\r\n", authority(&origin));
    let answer = sidecar.agent().raw(head("GET", &origin, &host).as_bytes()).await;
    told(sidecar, &origin, shown(&answer)).await
}

async fn connecting_twice() -> Told {
    let (origin, sidecar) = plain().await;
    let target = authority(&origin);
    let mut stream = sidecar.agent().connect(&target).await.expect("the destination is configured");
    let again = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nconnection: close\r\n\r\n");
    stream.write_all(again.as_bytes()).await.expect("it is open");
    let answer = rest(&mut stream).await;
    told(sidecar, &origin, shown(&answer)).await
}

async fn asking_a_tunnel() -> Told {
    let origin = Origin::http("api.example.com").start().await;
    let opaque = json!({"protocol": "opaque", "tls": "passthrough"});
    let sidecar = Sidecar::permissive().in_front_of_as(&origin, opaque).start().await;
    let answer = sidecar.agent().get(&origin.url("/")).await;
    told(sidecar, &origin, answer).await
}

async fn without_trust() -> Told {
    let (origin, sidecar) = over_tls().await;
    let stranger = tollgate::tls::authority::Authority::open(None).expect("an authority");
    let suspicious = Agent::new(sidecar.proxy, stranger.certificate().clone());
    let handshake = suspicious.claiming(&authority(&origin), "api.example.com").await;
    assert!(handshake.is_err(), "it is never passed through to the origin's own certificate");
    told(sidecar, &origin, "handshake").await
}

/// Its port is known once it listens, so the destination comes with a reload.
async fn asking_the_sidecar_itself() -> Told {
    let origin = Origin::http("api.example.com").start().await;
    let setup = Sidecar::permissive().in_front_of(&origin).allowing(json!([{"id": "self", "destination": "self"}]));
    let sidecar = setup.start().await;
    let port = sidecar.proxy.port();
    let itself = json!({"hosts": ["self.example.com"], "ports": [port], "addresses": ["127.0.0.1"]});
    reconfigured(&sidecar, json!({"destinations": {"self": itself}})).await;
    let answer = sidecar.agent().get(&format!("http://self.example.com:{port}/")).await;
    told(sidecar, &origin, answer).await
}

async fn in_a_tunnel_that_is_led_elsewhere() -> Told {
    let origin = Origin::http("api.example.com").start().await;
    let opaque = json!({"protocol": "opaque", "tls": "passthrough"});
    let mut sidecar = Sidecar::permissive().in_front_of_as(&origin, opaque).start().await;
    let target = authority(&origin);
    let mut tunnel = sidecar.agent().connect(&target).await.expect("policy permits it");
    tunnel.write_all(format!("GET / HTTP/1.1\r\nhost: {target}\r\n\r\n").as_bytes()).await.expect("it is open");
    tunnel.read_u8().await.expect("bytes pass");

    reconfigured(&sidecar, json!({"destinations": {"api": {"addresses": ["10.0.0.7"]}}})).await;

    timeout(Duration::from_secs(10), rest(&mut tunnel)).await.expect("it is cut");
    sidecar.ended().await;
    let record = sidecar.audit().await.pop().expect("a record");
    Told { answer: "cut".to_owned(), record }
}

async fn reconfigured(sidecar: &Sidecar, more: serde_json::Value) {
    let mut changes = sidecar.inner().changes();
    sidecar.reconfigure(more);
    timeout(Duration::from_secs(20), changes.changed()).await.expect("it is noticed").expect("the sidecar runs");
}

/// A destination whose messages are held for policy, a kibibyte each and all together.
async fn tools() -> (Origin, Sidecar) {
    let origin = Origin::http("tools.example.com").start().await;
    let limits = json!({"limits": {"inspect_bytes": "1KiB", "inspect_total": "1KiB"}});
    let setup: Setup = Sidecar::permissive().in_front_of_as(&origin, json!({"protocol": "mcp"})).set(limits);
    let sidecar = setup.start().await;
    (origin, sidecar)
}

/// A tool call of this length, and some.
fn message(length: usize) -> String {
    let arguments = json!({"text": "x".repeat(length)});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": arguments}})
        .to_string()
}

/// The head of a request with a message.
fn posting(origin: &Origin, message: &str, fields: &str) -> String {
    let fields = format!(
        "host: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{fields}",
        authority(origin),
        message.len(),
    );
    head("POST", origin, &fields)
}

fn head(method: &str, origin: &Origin, fields: &str) -> String {
    format!("{method} {} HTTP/1.1\r\n{fields}connection: close\r\n\r\n", origin.url("/"))
}

fn with_message(message: &str) -> impl Future<Output = Told> + use<> {
    let message = message.to_owned();
    async move {
        let (origin, sidecar) = tools().await;
        let answer = sidecar.agent().raw((posting(&origin, &message, "") + &message).as_bytes()).await;
        told(sidecar, &origin, shown(&answer)).await
    }
}

async fn with_half_a_message() -> Told {
    let (origin, sidecar) = tools().await;
    let message = message(100);
    let mut stream = sidecar.agent().stream().await;
    let half = posting(&origin, &message, "") + &message[..50];
    stream.write_all(half.as_bytes()).await.expect("it is open");
    stream.shutdown().await.expect("it is open");
    let answer = rest(&mut stream).await;
    told(sidecar, &origin, shown(&answer)).await
}

async fn while_another_is_held() -> Told {
    let (origin, mut sidecar) = tools().await;
    let message = message(600);
    let agent = sidecar.agent();
    let mut slow = agent.stream().await;
    slow.write_all(posting(&origin, &message, "expect: 100-continue\r\n").as_bytes()).await.expect("it is open");
    // It is asked to go on once it has its room.
    let mut interim = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    slow.read_exact(&mut interim).await.expect("it is asked");
    assert!(interim.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&interim));

    let whole = posting(&origin, &message, "") + &message;
    let answer = shown(&agent.raw(whole.as_bytes()).await);

    assert!(origin.requests().is_empty(), "neither has reached it");
    sidecar.ended().await;
    let record = sidecar.audit().await.pop().expect("a record");
    slow.write_all(message.as_bytes()).await.expect("it is open");
    assert_eq!(shown(&rest(&mut slow).await), "200");
    assert_eq!(shown(&agent.raw(whole.as_bytes()).await), "200", "the room is given back");
    Told { answer, record }
}

#[tokio::test]
async fn what_the_agent_may_not_send_goes_nowhere() {
    run(rows()).await;
}

/// Each is refused with the label that says so, also what the HTTP library refuses by itself.
#[tokio::test]
async fn what_has_two_readings_is_refused_and_recorded_as_such() {
    let (origin, mut sidecar) = plain().await;
    let agent = sidecar.agent();
    let host = format!("host: {}\r\n", authority(&origin));
    let url = format!("http://{}", authority(&origin));
    let ours = "400 malformed_request";
    for (case, target, fields, answer) in [
        ("two hosts", format!("GET {url}/"), format!("{host}{host}"), ours),
        ("no host", "GET /".to_owned(), String::new(), ours),
        ("a user in the host", format!("GET {url}/"), format!("host: u@{}\r\n", authority(&origin)), ours),
        ("dot segments", format!("GET {url}/a/../b"), host.clone(), ours),
        ("encoded dot segments", format!("GET {url}/a/%2e%2e/b"), host.clone(), ours),
        ("an encoded backslash", format!("GET {url}/a%5c..%5cb"), host.clone(), ours),
        ("escaped twice", format!("GET {url}/%252e%252e/b"), host.clone(), ours),
        ("a NUL", format!("GET {url}/a%00"), host.clone(), ours),
        ("TRACE", format!("TRACE {url}/"), host.clone(), ours),
        ("an unknown method", format!("FROB {url}/"), host.clone(), ours),
        ("a method in lower case", format!("get {url}/"), host.clone(), ours),
        ("another method in a field", format!("GET {url}/"), format!("{host}x-http-method-override: DELETE\r\n"), ours),
        ("another coding", format!("POST {url}/"), format!("{host}transfer-encoding: gzip, chunked\r\n"), ours),
        // The library answers these by itself.
        ("two lengths", format!("POST {url}/"), format!("{host}content-length: 1\r\ncontent-length: 2\r\n"), "400"),
        ("a folded field", format!("GET {url}/"), format!("{host}x: a\r\n b\r\n"), "400"),
        ("a space before the colon", format!("GET {url}/"), format!("{host}x : a\r\n"), "400"),
    ] {
        let body = if target.starts_with("POST") { "0\r\n\r\n" } else { "" };
        let raw = format!("{target} HTTP/1.1\r\n{fields}connection: close\r\n\r\n{body}");
        let told = timeout(Duration::from_secs(10), agent.raw(raw.as_bytes())).await;
        assert_eq!(shown(&told.unwrap_or_else(|_| panic!("{case}: no end"))), answer, "{case}");
        sidecar.ended().await;
        let record = sidecar.audit().await.pop().expect("a record");
        assert_eq!(record["refusal"]["label"], "malformed_request", "{case}: {record}");
        assert_eq!(record["refusal"]["class"], "agent_protocol", "{case}: {record}");
    }
    assert!(origin.requests().is_empty(), "{:?}", origin.requests());
}

/// The HTTP library reads such a request by its chunks and hides the length from us (RFC 9112 section 6.3), so it can't be
/// refused. What matters is that the origin is left no choice.
#[tokio::test]
async fn of_a_length_and_chunks_the_origin_sees_one() {
    let (origin, mut sidecar) = plain().await;
    for framing in
        ["content-length: 4\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 4\r\n"]
    {
        let fields = format!("host: {}\r\n{framing}", authority(&origin));
        let raw = head("POST", &origin, &fields) + "2\r\nok\r\n0\r\n\r\n";
        assert_eq!(shown(&sidecar.agent().raw(raw.as_bytes()).await), "200");
        sidecar.ended().await;
        let seen = origin.requests().pop().expect("it has arrived");
        assert_eq!((&*seen.body, seen.header("content-length")), (&b"ok"[..], None));
        assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
    }
}
