//! What an origin says of the secret that it was given never reaches the agent, and everything else does as it is.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};

use crate::{
    actors::{Agent, Issuer, Origin, Sidecar, agent::request, issuer::Behaviour, origin, sidecar::Setup},
    secrets::with_issuer,
    tunnels::socket,
};

const SECRET: &str = "s3cr/t+CaNaRy~0123456789_abcdef";

/// A sidecar whose origin is given [`SECRET`], from a file.
fn with_secret(origin: &Origin) -> Setup {
    Sidecar::permissive()
        .file("key", SECRET)
        .in_front_of_as(origin, json!({"credential": "key"}))
        .set(json!({"credentials": {"key": {"kind": "file", "file": "key", "owner": "team-x"}}}))
}

/// What an origin may make of a secret.
fn variants(secret: &str) -> Vec<String> {
    let every = |write: fn(char) -> String| secret.chars().map(write).collect::<String>();
    let mut all = vec![
        secret.to_owned(),
        every(|c| format!("%{:02X}", u32::from(c))),
        every(|c| format!("%{:02x}", u32::from(c))),
        secret.replace('/', "%2F").replace('+', "%2b"),
        every(|c| format!("\\u{:04x}", u32::from(c))),
        secret.replace('/', "\\/"),
    ];
    for before in ["", "u", "u:"] {
        let pair = format!("{before}{secret}");
        all.extend([STANDARD.encode(&pair), URL_SAFE_NO_PAD.encode(&pair), STANDARD.encode(&pair).replace('/', "\\/")]);
    }
    all
}

/// Whether some of the secret is left in a text; a few of its characters may be.
fn shows(text: &str, secret: &str) -> Option<String> {
    let core = |variant: String| variant.get(6..variant.len() - 6).unwrap_or(&variant).to_owned();
    variants(secret).into_iter().map(core).find(|variant| text.contains(variant))
}

fn given(request: &Request<Incoming>) -> String {
    let value = request.headers()["authorization"].to_str().expect("a token is text");
    value.strip_prefix("Bearer ").expect("it is a bearer token").to_owned()
}

/// A document that holds every variant.
fn document(secret: &str) -> String {
    let held: Vec<String> = variants(secret).iter().map(|variant| format!("\"{variant}\"")).collect();
    format!("{{\"held\": [{}], \"whole\": true}}", held.join(", "))
}

fn compressed(coding: &str, text: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::default();
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(text).and_then(|()| encoder.finish()).expect("memory takes it")
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(text).and_then(|()| encoder.finish()).expect("memory takes it")
        }
        "br" => {
            let mut out = Vec::new();
            brotli::CompressorWriter::new(&mut out, 4096, 5, 22).write_all(text).expect("memory takes it");
            out
        }
        "zstd" => ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest),
        _ => text.to_vec(),
    }
}

fn in_chunks(bytes: &[u8], size: usize) -> origin::Body {
    let frames: Vec<_> = bytes.chunks(size).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// Answers `/CODING/SIZE` with a document that holds what it was given, so coded and in chunks of this size.
async fn reflect(request: Request<Incoming>) -> Response<origin::Body> {
    let path = request.uri().path().to_owned();
    let mut asked = path.split('/').skip(1);
    let (coding, size) = (asked.next().unwrap_or_default(), asked.next().and_then(|size| size.parse().ok()));
    let text = compressed(coding, document(&given(&request)).as_bytes());
    let mut response = Response::new(match size {
        Some(size) => in_chunks(&text, size),
        None => origin::full(text),
    });
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("etag", HeaderValue::from_static("\"v1\""));
    headers.insert("accept-ranges", HeaderValue::from_static("bytes"));
    if coding != "identity" {
        headers.insert("content-encoding", HeaderValue::try_from(coding).expect("a word"));
    }
    response
}

fn agents(sidecar: &Sidecar) -> [Agent; 2] {
    [sidecar.agent(), sidecar.agent().http2()]
}

#[tokio::test]
async fn a_secret_in_a_body_never_reaches_the_agent() {
    for http1_only in [true, false] {
        let setup = Origin::https("api.example.com").answering(reflect);
        let origin = if http1_only { setup.http1_only() } else { setup }.start().await;
        let mut sidecar = with_secret(&origin).start().await;
        for coding in ["identity", "gzip", "deflate", "br", "zstd"] {
            for size in ["/1", "/7", ""] {
                for agent in agents(&sidecar) {
                    let answer = agent.get(&origin.url(&format!("/{coding}{size}"))).await;

                    let text = answer.text();
                    assert_eq!(shows(&text, SECRET), None, "{coding}{size}: {text}");
                    let document = answer.json();
                    assert_eq!(document["whole"], true, "{coding}{size}: {text}");
                    let held = document["held"].as_array().expect("a list");
                    // Where a busy machine makes the origin pause in a word, its first letters pass and the mark has no room.
                    assert!(held.iter().all(|held| held.as_str().is_some_and(|held| held.contains("***"))), "{text}");
                    assert!(!answer.headers.contains_key("content-encoding"));
                    let tag = if coding == "identity" { "\"v1\"" } else { "W/\"v1\"" };
                    assert_eq!(answer.headers["etag"], tag);
                    sidecar.ended().await;
                    let record = sidecar.audit().await.pop().expect("it was recorded");
                    assert_eq!(record["outcome"], "completed");
                    assert_eq!(record["answer"]["scrubbed"], json!([{"where": "body", "count": held.len()}]));
                    assert_eq!(record["bytes"]["response"], text.len());
                }
            }
        }
        let metrics = sidecar.metrics();
        assert!(metrics.contains(r#"tollgate_secrets_total{kind="injected",action="scrubbed"}"#), "{metrics}");
    }
}

#[tokio::test]
async fn a_secret_in_the_head_or_behind_the_body_never_reaches_the_agent() {
    let setup = Origin::https("api.example.com").answering(|request: Request<Incoming>| async move {
        let secret = given(&request);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-behind", HeaderValue::try_from(&*secret).expect("a value"));
        let frames = [Ok(Frame::data("moved".into())), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::FOUND;
        let location = format!("https://elsewhere.example.com/?t={}", secret.replace('/', "%2f").replace('+', "%2B"));
        let named =
            http::HeaderName::try_from(format!("x-{}", secret.to_lowercase().replace('/', "-"))).expect("a name");
        let headers = response.headers_mut();
        for (name, value) in [
            ("location", location),
            ("x-echo", format!("Bearer {secret}")),
            ("x-basic", STANDARD.encode(format!("user:{secret}"))),
            ("set-cookie", format!("session={secret}")),
            ("set-cookie", "plain=1".to_owned()),
            ("www-authenticate", "Bearer realm=\"x\"".to_owned()),
            ("trailer", "x-behind".to_owned()),
            ("x-kept", "as it is".to_owned()),
        ] {
            headers.append(name, HeaderValue::try_from(value).expect("a value"));
        }
        headers.insert(named, HeaderValue::from_static("1"));
        response
    });
    let origin = setup.start().await;
    let mut sidecar = with_secret(&origin).start().await;

    let answer = sidecar.agent().http2().get(&origin.url("/")).await;

    assert_eq!((answer.status, answer.text()), (StatusCode::FOUND, "moved".to_owned()));
    let head = format!("{:?} {:?}", answer.headers, answer.trailers);
    assert_eq!(shows(&head, SECRET), None, "{head}");
    assert!(!answer.headers.contains_key("set-cookie") && !answer.headers.contains_key("www-authenticate"), "{head}");
    assert_eq!(answer.headers["x-kept"], "as it is");
    assert!(
        answer.headers["location"].to_str().expect("text").starts_with("https://elsewhere.example.com/?t=REDACTED")
    );
    let trailers = answer.trailers.expect("they pass");
    assert!(trailers["x-behind"].as_bytes().starts_with(b"REDACTED"), "{trailers:?}");
    let spans = sidecar.next_spans().await;
    assert_eq!(spans.last().and_then(|span| span.attribute("tollgate.answer.scrubbed")), Some("4"), "{spans:?}");
    let record = sidecar.audit().await.remove(0);
    assert_eq!(record["answer"]["withheld"], json!(["set-cookie", "www-authenticate"]));
    let places: Vec<_> =
        record["answer"]["scrubbed"].as_array().expect("a list").iter().map(|at| &at["where"]).collect();
    assert_eq!(places, ["header:location", "header:x-echo", "header:x-basic", "trailer:x-behind"]);
    assert_eq!(shows(&record.to_string(), SECRET), None);
}

/// The value of a field, and the whole head, as base64; the head in lines too. Cut short at the end, as logs do it.
async fn encode(request: Request<Incoming>) -> Response<origin::Body> {
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri());
    let mut text = String::new();
    for (name, value) in request.headers() {
        let value = value.to_str().expect("text");
        head.push_str(&format!("{name}: {value}\r\n"));
        if name == "authorization" || name == "x-key" {
            text.push_str(&format!("{} ", STANDARD.encode(value)));
        }
    }
    let encoded = STANDARD.encode(&head);
    let lines: Vec<_> = encoded.as_bytes().chunks(76).map(String::from_utf8_lossy).collect();
    let last = head.find("s3cr").map_or("", |start| &head[start..start + 20]);
    Response::new(origin::full(format!("{text}{encoded}\n\n{}\n\n{last}", lines.join("\n"))))
}

#[tokio::test]
async fn a_secret_that_is_encoded_as_it_stands_on_the_wire_never_reaches_the_agent() {
    for (placement, count) in [
        (json!("bearer"), 4),
        (json!({"basic": "robot"}), 3),
        (json!({"header": "x-key"}), 4),
        (json!({"query": "key"}), 3),
    ] {
        let origin = Origin::https("api.example.com").answering(encode).start().await;
        let mut sidecar = Sidecar::permissive()
            .file("key", SECRET)
            .in_front_of_as(&origin, json!({"credential": "key"}))
            .set(json!({"credentials": {"key": {"kind": "file", "file": "key", "as": placement, "owner": "team-x"}}}))
            .start()
            .await;
        for agent in agents(&sidecar) {
            let answer = agent.get(&origin.url("/x")).await;
            assert_eq!(shows(&answer.text(), SECRET), None, "{placement}");
            sidecar.ended().await;
            let record = sidecar.audit().await.pop().expect("it was recorded");
            assert_eq!(record["answer"]["scrubbed"], json!([{"where": "body", "count": count}]), "{placement}");
        }
    }
}

#[tokio::test]
async fn what_holds_no_secret_passes_as_it_is() {
    let binary: Vec<u8> =
        (0..300_000_u32).flat_map(|number| (number.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    let body = binary.clone();
    let setup = Origin::https("files.example.com").answering(move |request: Request<Incoming>| {
        let sent = if request.method() == Method::HEAD { Vec::new() } else { body.clone() };
        let mut response = Response::new(origin::full(sent));
        let headers = response.headers_mut();
        headers.insert("content-length", HeaderValue::from(body.len()));
        headers.insert("etag", HeaderValue::from_static("\"v1\""));
        headers.insert("accept-ranges", HeaderValue::from_static("bytes"));
        headers.insert("content-type", HeaderValue::from_static("application/octet-stream"));
        std::future::ready(response)
    });
    let origin = setup.start().await;
    let mut sidecar = with_secret(&origin).start().await;
    for agent in agents(&sidecar) {
        let answer = agent.get(&origin.url("/file")).await;

        assert!(answer.body == binary, "every byte is the same");
        assert_eq!(answer.headers["content-length"], binary.len().to_string());
        assert_eq!(
            (&answer.headers["etag"], &answer.headers["accept-ranges"]),
            (&"\"v1\"".parse().unwrap(), &"bytes".parse().unwrap())
        );
        let head = agent.send(request(Method::HEAD, &origin.url("/file"), "")).await;
        assert_eq!(head.headers["content-length"], binary.len().to_string());
        sidecar.ended().await;
        sidecar.ended().await;
    }
    for record in sidecar.audit().await {
        assert_eq!(record["answer"], json!(null));
    }
}

#[tokio::test]
async fn a_credential_that_came_back_is_rotated_and_revoked() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").answering(reflect).start().await;
    let mut sidecar = with_issuer(Sidecar::permissive(), &origin, &issuer).start().await;

    let answer = sidecar.agent().get(&origin.url("/identity")).await;
    sidecar.ended().await;
    sidecar.agent().get(&origin.url("/identity")).await;
    sidecar.ended().await;

    let issued = issuer.issued();
    assert_eq!(issued.len(), 2, "the second call has another token");
    assert_eq!(shows(&answer.text(), &issued[0]), None);
    let sent: Vec<_> =
        origin.requests().iter().map(|seen| seen.header("authorization").unwrap_or("-").to_owned()).collect();
    assert_eq!(sent, issued.iter().map(|token| format!("Bearer {token}")).collect::<Vec<_>>());
    let revoked = timeout(Duration::from_secs(5), async {
        while !issuer.revoked().contains(&issued[0]) {
            tokio::task::yield_now().await;
        }
    });
    revoked.await.expect("the first token is revoked");
}

#[tokio::test]
async fn an_event_passes_before_the_next_one_is_sent_for_calls_with_a_credential() {
    let (open, mut opened) = mpsc::unbounded_channel();
    let setup = Origin::https("events.example.com").answering(move |_| {
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let _ = open.send(sender);
        let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|data| (Ok(Frame::data(data)), receiver))
        });
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
        std::future::ready(response)
    });
    let origin = setup.start().await;
    let mut sidecar = with_secret(&origin).start().await;
    for agent in agents(&sidecar) {
        let url = origin.url("/events").parse().expect("a URL");
        let mut connection = agent.connection(&url).await.expect("the destination is configured");
        let mut response = connection.begin(request(Method::GET, &origin.url("/events"), "")).await.expect("an answer");
        let events = opened.recv().await.expect("the origin was called");
        for (sent, passed) in [
            ("data: {\"a\": 1}\n\n".to_owned(), "data: {\"a\": 1}\n\n"),
            ("data: s3cr\n\n".to_owned(), "data: s3cr\n\n"),
            (format!("data: {SECRET}\n\n"), "data: REDACTED***********************\n\n"),
            ("data: the end may be one, s3c".to_owned(), "data: the end may be one, "),
        ] {
            events.send(sent.into()).await.expect("the origin streams");
            let frame = timeout(Duration::from_secs(5), response.frame()).await.expect("it is not held back");
            assert_eq!(frame.expect("a frame").expect("whole").into_data().expect("data"), passed);
        }
        drop(events);
        let rest = timeout(Duration::from_secs(5), response.collect()).await.expect("the end is not held back");
        assert_eq!(rest.expect("whole").to_bytes(), "s3c", "what was none passes with the end");
        sidecar.ended().await;
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_looked_through_is_refused() {
    let setup = Origin::https("api.example.com").answering(|request: Request<Incoming>| async move {
        let path = request.uri().path();
        let mut response = Response::new(origin::full(compressed("gzip", b"text")));
        let (name, value) = match path {
            "/stacked" => ("content-encoding", "gzip, br"),
            "/messages" => ("grpc-encoding", "gzip"),
            "/part" => ("content-encoding", "gzip"),
            _ => ("content-encoding", "compress"),
        };
        response.headers_mut().insert(name, HeaderValue::from_static(value));
        if path == "/part" {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    });
    let origin = setup.start().await;
    let mut sidecar = with_secret(&origin).start().await;
    for path in ["/stacked", "/unknown", "/messages", "/part"] {
        for agent in agents(&sidecar) {
            assert_eq!(agent.get(&origin.url(path)).await.to_string(), "502 origin_coding", "{path}");
            sidecar.ended().await;
        }
    }
    assert_eq!(sidecar.records().await[0], "GET api.example.com origin_coding");

    let sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let answer = sidecar.agent().get(&origin.url("/unknown")).await;
    assert_eq!(answer.headers["content-encoding"], "compress", "without a credential nothing is looked for");
}

#[tokio::test]
async fn a_compressed_answer_that_breaks_off_is_not_passed_on_as_whole() {
    let setup = Origin::https("api.example.com").answering(|_| async {
        let text = compressed("gzip", &b"some text ".repeat(5000));
        let mut response = Response::new(origin::full(text[..text.len() - 9].to_vec()));
        response.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
        response
    });
    let origin = setup.start().await;
    let mut sidecar = with_secret(&origin).start().await;
    for agent in agents(&sidecar) {
        let url = origin.url("/").parse().expect("a URL");
        let mut connection = agent.connection(&url).await.expect("the destination is configured");
        // What is found out before the head has left takes the head along.
        let whole = match connection.begin(request(Method::GET, &origin.url("/"), "")).await {
            Ok(response) => response.collect().await.is_ok(),
            Err(_) => false,
        };
        assert!(!whole, "the agent sees that it is not whole");
        sidecar.ended().await;
    }
    for record in sidecar.audit().await {
        assert_eq!((&record["outcome"], &record["error"]), (&"failed".into(), &"response_broken".into()));
    }
}

#[tokio::test]
async fn a_request_asks_only_for_codings_that_can_be_undone() {
    let origin = Origin::https("api.example.com").start().await;
    let plain = Origin::https("plain.example.com").start().await;
    let sidecar = with_secret(&origin).in_front_of(&plain).start().await;
    let call = |url: String, range: bool| {
        let mut call = request(Method::GET, &url, "");
        call.headers_mut().insert("accept-encoding", HeaderValue::from_static("gzip, br, zstd"));
        if range {
            call.headers_mut().insert("range", HeaderValue::from_static("bytes=0-9"));
        }
        call
    };
    sidecar.agent().send(call(origin.url("/"), false)).await;
    sidecar.agent().send(call(origin.url("/"), true)).await;
    sidecar.agent().send(call(plain.url("/"), false)).await;

    let asked: Vec<_> =
        origin.requests().iter().map(|seen| seen.header("accept-encoding").unwrap_or("-").to_owned()).collect();
    assert_eq!(asked, ["gzip, br", "identity"]);
    assert_eq!(
        plain.requests()[0].header("accept-encoding"),
        Some("gzip, br, zstd"),
        "without a credential it is theirs"
    );
}

#[tokio::test]
async fn a_secret_in_a_frame_of_a_websocket_never_reaches_the_agent() {
    let setup = Origin::https("ws.example.com").answering(|mut request: Request<Incoming>| async move {
        let said = given(&request);
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let mut socket = TokioIo::new(upgraded);
            let length = u8::try_from(said.len()).expect("it is short");
            let frame = [&[0x81, length], said.as_bytes(), &[0x81, 3], b"s3c"].concat();
            let _ = socket.write_all(&frame).await;
            let _ = socket.read_u8().await;
        });
        let mut response = Response::new(origin::full(""));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
        response.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
        response
    });
    let origin = setup.start().await;
    let mut sidecar = with_secret(&origin).start().await;
    let (mut socket, _connection) = socket(&sidecar, &origin).await.expect("it is permitted");

    let mut said = vec![0; 2 + SECRET.len() + 5];
    let read = timeout(Duration::from_secs(5), socket.read_exact(&mut said)).await;

    read.expect("nothing is held back behind a frame").expect("it is open");
    assert!(said[2..].starts_with(b"REDACTED***") && said.ends_with(b"*\x81\x03s3c"), "{}", said.escape_ascii());
    socket.write_all(b"x").await.expect("it is open");
    drop(socket);
    sidecar.ended().await;
    let record = sidecar.audit().await.remove(0);
    assert_eq!(record["answer"]["scrubbed"], json!([{"where": "frame", "count": 1}]));
    assert_eq!(origin.requests()[0].header("sec-websocket-extensions"), None, "nothing is compressed");
}

/// Takes every token but the first that it sees.
fn takes_no_first_token() -> origin::Setup {
    let first = Arc::new(Mutex::new(None));
    Origin::https("api.example.com").answering(move |request: Request<Incoming>| {
        let token = given(&request);
        let refused = *first.lock().expect("no test panics inside").get_or_insert_with(|| token.clone()) == token;
        let mut response = Response::new(origin::full(if refused { "no" } else { "yes" }));
        if refused {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            response
                .headers_mut()
                .insert("www-authenticate", HeaderValue::from_static("Bearer error=\"invalid_token\""));
        }
        std::future::ready(response)
    })
}

#[tokio::test]
async fn a_safe_call_is_made_again_with_another_credential_and_no_other_is() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    for (method, body, asked, status) in [
        (Method::GET, "", 2, 200),
        (Method::HEAD, "", 2, 200),
        (Method::POST, "", 1, 401),
        (Method::POST, "x", 1, 401),
        (Method::DELETE, "", 1, 401),
        (Method::GET, "x", 1, 401),
    ] {
        let origin = takes_no_first_token().start().await;
        let mut sidecar = with_issuer(Sidecar::permissive(), &origin, &issuer).start().await;

        let answer = sidecar.agent().send(request(method.clone(), &origin.url("/"), body)).await;

        assert_eq!((answer.status.as_u16(), origin.requests().len()), (status, asked), "{method} {body}");
        assert!(!answer.headers.contains_key("www-authenticate"), "the challenge is not for the agent");
        let span = sidecar.next_spans().await.pop().expect("the call has a span");
        let record = sidecar.audit().await.remove(0);
        if status == 200 {
            assert_eq!(span.attribute("http.request.resend_count"), Some("1"));
            assert_eq!(record["answer"]["refused"]["status"], 401);
            let (first, second) = (&record["answer"]["refused"]["fingerprint"], &record["credential"]["fingerprint"]);
            assert!(first.is_string() && second.is_string() && first != second, "{record}");
        } else {
            assert_eq!(span.attribute("http.request.resend_count"), None);
            assert_eq!(record["answer"]["withheld"], json!(["www-authenticate"]));
            // The next call has the next token.
            assert_eq!(sidecar.agent().get(&origin.url("/")).await.text(), "yes");
        }
    }
}

#[tokio::test]
async fn a_destination_that_takes_no_credential_is_asked_twice_at_the_most() {
    let origin = Origin::https("api.example.com")
        .answering(|_| async {
            let mut response = Response::new(origin::full("no"));
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            response
        })
        .start()
        .await;
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let sidecar = with_issuer(Sidecar::permissive(), &origin, &issuer).start().await;
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "401");
    assert_eq!(origin.requests().len(), 2);

    // A file has no other one.
    let other = Origin::https("api.example.com").answering(|_| async {
        let mut response = Response::new(origin::full("no"));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response
    });
    let other = other.start().await;
    let sidecar = with_secret(&other).start().await;
    assert_eq!(sidecar.agent().get(&other.url("/")).await.to_string(), "401");
    assert_eq!(other.requests().len(), 1);
}
