//! The name that policy saw is the name that is dialled: CONNECT, SNI and `Host` must agree on every request.

use http::{HeaderValue, Method, header::HOST};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::actors::{Origin, Sidecar, agent::request};

#[tokio::test]
async fn a_server_name_that_differs_from_connect_is_reset() {
    let origin = Origin::https("api.example.com").start().await;
    let other = Origin::https("other.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).in_front_of(&other).start().await;

    let target = format!("api.example.com:{}", origin.addr.port());
    let refused = sidecar.agent().claiming(&target, "other.example.com").await;

    assert!(refused.is_err(), "no handshake takes place");
    assert!(origin.requests().is_empty() && other.requests().is_empty());
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["- api.example.com name_mismatch"]);
}

#[tokio::test]
async fn a_host_field_that_differs_from_the_server_name_is_misdirected() {
    let origin = Origin::https("api.example.com").start().await;
    let other = Origin::https("other.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).in_front_of(&other).start().await;
    let mut call = request(Method::GET, &origin.url("/"), "");
    let host = format!("other.example.com:{}", other.addr.port());
    call.headers_mut().insert(HOST, HeaderValue::from_str(&host).expect("a host"));

    let answer = sidecar.agent().send(call).await;

    assert_eq!(answer.to_string(), "421 name_mismatch");
    assert!(origin.requests().is_empty() && other.requests().is_empty());
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["GET api.example.com name_mismatch"]);
}

#[tokio::test]
async fn an_http2_connection_is_not_coalesced_over_names() {
    let origin = Origin::https("api.example.com").start().await;
    let other = Origin::https("other.example.com").start().await;
    let sidecar = Sidecar::permissive().in_front_of(&origin).in_front_of(&other).start().await;
    let agent = sidecar.agent().http2();
    let url = origin.url("/").parse().expect("a URL");
    let mut connection = agent.connection(&url).await.expect("the destination is configured");

    assert_eq!(connection.get(&origin.url("/mine")).await.to_string(), "200");
    assert_eq!(connection.get(&other.url("/theirs")).await.to_string(), "421 name_mismatch");
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn an_unlisted_host_is_refused_at_connect() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;

    let answer = sidecar.agent().get("https://paste.example.net/upload").await;

    assert_eq!(answer.to_string(), "403 unknown_destination");
    assert!(answer.headers.contains_key("tollgate-decision"));
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["CONNECT paste.example.net unknown_destination"]);
}

#[tokio::test]
async fn metadata_is_refused_by_name_and_by_every_spelling_of_its_address() {
    let sidecar = Sidecar::permissive()
        .set(json!({"destinations": {"all": {"hosts": ["*.internal.example", "10.0.0.1"], "ports": [80, 443], "reach": ["public", "private"]}}}))
        .start()
        .await;
    let agent = sidecar.agent();
    for url in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://metadata.google.internal/computeMetadata/v1/",
        "http://metadata.google.internal./",
    ] {
        assert_eq!(agent.get(url).await.to_string(), "403 address_forbidden", "{url}");
    }
    for host in ["0xa9fea9fe", "2852039166", "169.254.43518", "0251.0376.0251.0376"] {
        let raw = format!("GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = agent.raw(raw.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{host}: {answer}");
    }
    assert_eq!(agent.get("https://169.254.169.254/").await.to_string(), "403 address_forbidden");
}

#[tokio::test]
async fn a_name_that_leads_to_loopback_needs_a_pin() {
    let origin = Origin::http("localhost").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of_as(&origin, json!({"addresses": []})).start().await;

    let answer = sidecar.agent().get(&origin.url("/")).await;

    assert_eq!(answer.to_string(), "403 address_forbidden");
    assert!(origin.requests().is_empty());
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["GET localhost address_forbidden"]);
}

#[tokio::test]
async fn an_ipv6_literal_is_a_name_like_any_other() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: needs IPv6");
        return;
    }
    let plain = Origin::http("[::1]").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&plain).start().await;
    assert_eq!(sidecar.agent().get(&plain.url("/x")).await.text(), "GET /x ");
    assert_eq!(plain.requests()[0].header("host"), Some(&*format!("[::1]:{}", plain.addr.port())));
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["GET ::1 allow"]);

    let tls = Origin::https("[::1]").start().await;
    let sidecar = Sidecar::permissive().in_front_of(&tls).start().await;
    for agent in [sidecar.agent(), sidecar.agent().http2()] {
        assert_eq!(agent.get(&tls.url("/y")).await.text(), "GET /y ");
    }
}

#[test]
fn a_dialled_address_is_the_host_that_requests_name() {
    for (dialled, host) in
        [("[2001:db8::1]:443", "[2001:DB8::1]"), ("[::ffff:192.0.2.1]:443", "192.0.2.1"), ("192.0.2.1:80", "192.0.2.1")]
    {
        let canonical = tollgate::call::http::canonical_host(host).expect("a literal");
        let dialled = dialled.parse().expect("an address");
        assert_eq!(tollgate::connection::literal_host(dialled), canonical.as_str());
    }
}

#[tokio::test]
async fn the_sidecars_own_ports_are_never_dialled() {
    let sidecar = Sidecar::permissive().start().await;
    let port = sidecar.proxy.port();
    let dir = sidecar.stop().await;
    drop(dir);
    // The same port again, now as its own destination.
    let mut sidecar = Sidecar::permissive()
        .set(json!({
            "listen": {"proxy": format!("127.0.0.1:{port}")},
            "destinations": {"self": {"hosts": ["self.example.com"], "ports": [port], "addresses": ["127.0.0.1"]}},
        }))
        .allowing(json!([{"id": "self", "destination": "self"}]))
        .start()
        .await;

    let answer = sidecar.agent().get(&format!("http://self.example.com:{port}/")).await;

    assert_eq!(answer.to_string(), "403 own_address");
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["GET self.example.com own_address"]);
}

#[tokio::test]
async fn a_connection_that_breaks_http2_is_recorded() {
    let origin = Origin::http("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let target = format!("api.example.com:{}", origin.addr.port());
    let mut stream = sidecar.agent().connect(&target).await.expect("the destination is configured");

    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it is open");
    // Empty SETTINGS, then DATA on stream 0, which RFC 9113 section 6.1 forbids.
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("it is open");
    stream.write_all(&[0, 0, 1, 0, 0, 0, 0, 0, 0, 7]).await.expect("it is open");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;

    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["- api.example.com malformed_request"]);
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn ambiguous_requests_are_refused_before_policy() {
    let origin = Origin::http("api.example.com").start().await;
    let sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let agent = sidecar.agent();
    let authority = format!("api.example.com:{}", origin.addr.port());
    let head = |target: &str, fields: &str| format!("{target} HTTP/1.1\r\n{fields}connection: close\r\n\r\n");
    let host = format!("host: {authority}\r\n");
    let url = format!("http://{authority}");
    for (case, raw) in [
        ("two hosts", head(&format!("GET {url}/"), &format!("{host}{host}"))),
        ("another host", head(&format!("GET {url}/"), "host: evil.example.net\r\n")),
        ("dot segments", head(&format!("GET {url}/a/../b"), &host)),
        ("encoded dot segments", head(&format!("GET {url}/a/%2e%2e/b"), &host)),
        ("backslash", head(&format!("GET {url}/a%5c..%5cb"), &host)),
        ("double encoding", head(&format!("GET {url}/%252e%252e/b"), &host)),
        ("a NUL", head(&format!("GET {url}/a%00"), &host)),
        ("TRACE", head(&format!("TRACE {url}/"), &host)),
        ("an unknown method", head(&format!("FROB {url}/"), &host)),
        ("a lower-case method", head(&format!("get {url}/"), &host)),
        ("a method override", head(&format!("GET {url}/"), &format!("{host}x-http-method-override: DELETE\r\n"))),
        ("two lengths", head(&format!("POST {url}/"), &format!("{host}content-length: 1\r\ncontent-length: 2\r\n"))),
        ("a folded field", head(&format!("GET {url}/"), &format!("{host}x: a\r\n b\r\n"))),
        ("a space before the colon", head(&format!("GET {url}/"), &format!("{host}x : a\r\n"))),
        ("no host", head("GET /", "")),
    ] {
        let answer = agent.raw(raw.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{case}: {answer}");
    }
    assert!(origin.requests().is_empty(), "{:?}", origin.requests());
}
