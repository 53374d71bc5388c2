//! Bytes that are not looked into: who may have them passed, and what ends that.

use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::actors::{
    Answer, Origin, Sidecar,
    agent::{self, request},
    origin,
};

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

const STATIC_TASK: &str = r#"{"tasks": {"source": ["static"], "static": {"purpose": "x", "ttl": "1h"}}}"#;

/// Permits everything in the zone `internet`.
const INTERNET: &str = r#"
package tollgate

default decision := {"decision": "deny", "reason": "other_zone"}

decision := {"decision": "allow"} if input.destination.zone == "internet"
"#;

#[tokio::test]
async fn a_websocket_upgrades_and_passes_bytes_both_ways() {
    let origin = Origin::https("ws.example.com").answering(echo_upgraded).start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let (mut socket, _connection) = socket(&sidecar, &origin).await.expect("it is permitted");

    ping(&mut socket).await;
    drop(socket);

    sidecar.ended().await;
    let record = &sidecar.audit().await[0];
    assert_eq!((&record["call"]["protocol"], &record["call"]["effect"]), (&json!("websocket"), &json!("admin")));
    assert_eq!(record["status"], 101);
    assert_eq!((&record["bytes"]["request"], &record["bytes"]["response"]), (&json!(4), &json!(4)));
}

#[tokio::test]
async fn what_permits_reading_permits_no_websocket() {
    let origin = Origin::https("ws.example.com").answering(echo_upgraded).start().await;
    for entry in [json!({"effects": ["read"]}), json!({"methods": ["GET"]}), json!({"effects": ["read", "write"]})] {
        let mut entry = entry;
        entry["id"] = "some".into();
        entry["destination"] = "ws".into();
        let mut sidecar = Sidecar::permissive().in_front_of(&origin).allowing(json!([entry])).start().await;

        let refused = socket(&sidecar, &origin).await.err().expect("it is refused");

        assert_eq!(refused.to_string(), "403 not_listed", "{entry}");
        sidecar.ended().await;
        assert_eq!(sidecar.records().await, ["GET ws.example.com policy_denied"], "{entry}");
    }
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn what_is_passed_through_is_not_spoken_in_the_clear() {
    let origin = Origin::http("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of_as(&origin, json!({"tls": "passthrough"})).start().await;

    let answer = sidecar.agent().get(&origin.url("/")).await;

    assert_eq!(answer.to_string(), "403 unsupported_protocol");
    assert!(origin.requests().is_empty());
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["GET api.example.com unsupported_protocol"]);
}

#[tokio::test]
async fn a_tunnel_ends_with_its_task() {
    let settings: Value = serde_json::from_str(STATIC_TASK).expect("JSON");
    let origin = Origin::https("ws.example.com").answering(echo_upgraded).start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).set(settings.clone()).start().await;
    let (mut socket, _connection) = socket(&sidecar, &origin).await.expect("it is permitted");
    ping(&mut socket).await;
    an_hour_passes().await;
    assert_cut(&mut sidecar, &mut socket, "task_expired").await;

    let (origin, setup) = opaque().await;
    let mut sidecar = setup.set(settings).start().await;
    let mut tunnel = tunnel(&sidecar, &origin).await;
    an_hour_passes().await;
    assert_cut(&mut sidecar, &mut tunnel, "task_expired").await;
}

#[tokio::test]
async fn policy_is_asked_again_about_the_destination_as_it_is_now() {
    let origin = Origin::https("ws.example.com").answering(echo_upgraded).start().await;
    let zone = |zone: &str| json!({"destinations": {"ws": {"zone": zone}}});
    let mut sidecar = Sidecar::with_policy(INTERNET).in_front_of(&origin).set(zone("internet")).start().await;
    let (mut socket, _connection) = socket(&sidecar, &origin).await.expect("it is permitted");
    ping(&mut socket).await;

    reconfigure(&sidecar, json!({"destinations": {"ws": {"environment": "test"}}})).await;
    ping(&mut socket).await;
    reconfigure(&sidecar, zone("partner")).await;

    assert_cut(&mut sidecar, &mut socket, "policy_denied").await;
    let record = &sidecar.audit().await[0];
    assert_eq!((&record["bytes"]["request"], &record["bytes"]["response"]), (&json!(8), &json!(8)));
}

#[tokio::test]
async fn a_tunnel_ends_when_its_destination_is_reached_in_another_way() {
    for change in [
        json!({"addresses": ["127.0.0.9"]}),
        json!({"reach": ["public", "private"]}),
        json!({"protocol": "http"}),
        json!({"protocol": "http", "tls": "intercept"}),
    ] {
        let (origin, setup) = opaque().await;
        let mut sidecar = setup.start().await;
        let mut tunnel = tunnel(&sidecar, &origin).await;

        reconfigure(&sidecar, json!({"destinations": {"raw": change}})).await;

        assert_cut(&mut sidecar, &mut tunnel, "destination_changed").await;
        let bytes = sidecar.audit().await[0]["bytes"].clone();
        assert_eq!(bytes["request"], GET.len(), "{bytes}");
        assert!(bytes["response"].as_u64() > Some(0), "{bytes}");
    }
}

const GET: &str = "GET /x HTTP/1.1\r\nhost: raw.example.com\r\n\r\n";

async fn opaque() -> (Origin, crate::actors::sidecar::Setup) {
    let origin = Origin::http("raw.example.com").start().await;
    let setup = Sidecar::permissive().in_front_of_as(&origin, json!({"protocol": "opaque", "tls": "passthrough"}));
    (origin, setup)
}

/// A tunnel through which bytes have passed both ways.
async fn tunnel(sidecar: &Sidecar, origin: &Origin) -> TcpStream {
    let target = format!("raw.example.com:{}", origin.addr.port());
    let mut tunnel = sidecar.agent().connect(&target).await.expect("it is permitted");
    tunnel.write_all(GET.as_bytes()).await.expect("it is open");
    let mut answer = String::new();
    while !answer.ends_with("GET /x ") {
        answer.push(char::from(tunnel.read_u8().await.expect("it answers")));
    }
    tunnel
}

pub async fn socket(sidecar: &Sidecar, origin: &Origin) -> Result<(TokioIo<Upgraded>, agent::Connection), Answer> {
    let url = origin.url("/socket").parse().expect("a URL");
    let mut connection = sidecar.agent().connection(&url).await.expect("the destination is configured");
    let mut call = request(Method::GET, &origin.url("/socket"), "");
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        call.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let mut response = connection.begin(call).await.expect("an answer");
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Answer::of(response).await);
    }
    Ok((TokioIo::new(hyper::upgrade::on(&mut response).await.expect("it upgrades")), connection))
}

async fn ping(socket: &mut impl Stream) {
    socket.write_all(b"ping").await.expect("it is open");
    let mut echoed = [0; 4];
    socket.read_exact(&mut echoed).await.expect("it answers");
    assert_eq!(&echoed, b"ping");
}

async fn an_hour_passes() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3601)).await;
    tokio::time::resume();
}

/// Merges this into the configuration, and waits until it is in use.
async fn reconfigure(sidecar: &Sidecar, more: Value) {
    let mut changes = sidecar.inner().changes();
    sidecar.reconfigure(more);
    timeout(Duration::from_secs(20), changes.changed()).await.expect("it is noticed").expect("the sidecar runs");
}

/// The agent sees the end, and the record says why.
async fn assert_cut(sidecar: &mut Sidecar, stream: &mut impl Stream, label: &str) {
    let mut rest = Vec::new();
    let end = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok() && rest.is_empty(), "{label}: it goes on");
    sidecar.ended().await;
    assert_eq!(sidecar.audit().await[0]["refusal"]["label"], label);
}

pub async fn echo_upgraded(mut request: Request<hyper::body::Incoming>) -> Response<origin::Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    let mut response = Response::new(origin::full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
    response.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
    response
}
