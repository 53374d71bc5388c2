//! What is permitted arrives, in any combination of HTTP versions, and nothing else changes on the way.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio::sync::mpsc;

use crate::actors::{
    Origin, Sidecar,
    agent::{self, request},
};

#[tokio::test]
async fn a_permitted_call_arrives_and_its_answer_returns() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;

    let answer = sidecar.agent().post(&origin.url("/v1/files?page=2"), "hello").await;

    assert_eq!(answer.text(), "POST /v1/files?page=2 hello");
    assert!(answer.headers.contains_key("tollgate-decision"));
    assert_eq!(origin.requests().len(), 1);
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["POST api.example.com allow"]);
}

#[tokio::test]
async fn http_versions_combine_in_every_way() {
    let modern = Origin::https("modern.example.com").start().await;
    let classic = Origin::https("classic.example.com").http1_only().start().await;
    let sidecar = Sidecar::permissive().in_front_of(&modern).in_front_of(&classic).start().await;
    let agent = sidecar.agent();

    for (agent, spoken) in [(agent.clone(), Version::HTTP_11), (agent.http2(), Version::HTTP_2)] {
        for (origin, reached) in [(&modern, Version::HTTP_2), (&classic, Version::HTTP_11)] {
            let answer = agent.post(&origin.url("/x"), "body").await;
            assert_eq!((answer.status, answer.version), (StatusCode::OK, spoken), "{}", origin.name);
            assert_eq!(origin.requests().last().map(|seen| seen.version), Some(reached));
            assert_eq!(origin.requests().last().map(|seen| seen.body.clone()), Some("body".into()));
        }
    }
}

#[tokio::test]
async fn plain_http_goes_through_the_proxy_in_absolute_form() {
    let origin = Origin::http("plain.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;

    let answer = sidecar.agent().get(&origin.url("/a?b=c")).await;

    assert_eq!(answer.text(), "GET /a?b=c ");
    assert_eq!(origin.requests()[0].header("host"), Some(&*format!("plain.example.com:{}", origin.addr.port())));
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["GET plain.example.com allow"]);
}

#[tokio::test]
async fn plain_http_and_h2c_inside_a_tunnel_are_seen() {
    let origin = Origin::http("plain.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let agent = sidecar.agent();
    let target = format!("plain.example.com:{}", origin.addr.port());

    let stream = agent.connect(&target).await.expect("the destination is configured");
    let mut http1 = agent::Connection::http1(stream, true).await;
    assert_eq!(http1.get(&origin.url("/one")).await.text(), "GET /one ");

    let stream = agent.connect(&target).await.expect("the destination is configured");
    let mut http2 = agent::Connection::http2(stream).await;
    assert_eq!(http2.get(&origin.url("/two")).await.text(), "GET /two ");

    sidecar.ended().await;
    sidecar.ended().await;
    assert_eq!(sidecar.records().await.len(), 2);
}

#[tokio::test]
async fn hop_by_hop_fields_end_here() {
    let origin = Origin::https("api.example.com").http1_only().start().await;
    let sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let mut call = request(Method::GET, &origin.url("/"), "");
    for (name, value) in [
        ("connection", "keep-alive, x-mine"),
        ("x-mine", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers, deflate"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("x-original-url", "/admin"),
        ("x-kept", "yes"),
    ] {
        call.headers_mut().append(name, HeaderValue::from_static(value));
    }

    let answer = sidecar.agent().send(call).await;

    assert_eq!(answer.status, StatusCode::OK);
    let seen = &origin.requests()[0];
    for name in ["x-mine", "keep-alive", "x-forwarded-for", "forwarded", "x-original-url"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("x-kept"), Some("yes"));
}

#[tokio::test]
async fn trailers_survive_but_for_those_that_were_not_decided() {
    let (note, mut noted) = mpsc::unbounded_channel();
    let origin = Origin::https("grpc.example.com")
        .answering(move |request: Request<hyper::body::Incoming>| {
            let note = note.clone();
            async move {
                let sent = request.into_body().collect().await.expect("the body is whole");
                let _ = note.send(sent.trailers().cloned());
                let trailers = fields(&[
                    ("grpc-status", "0"),
                    ("x-served-by", "origin"),
                    ("set-cookie", "a=b"),
                    ("alt-svc", "h3"),
                ]);
                let frames = [Ok(Frame::data("data".into())), Ok(Frame::trailers(trailers))];
                Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
            }
        })
        .start()
        .await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;

    for (sent, arriving) in [
        (fields(&[("content-digest", "sha-256=:x:"), ("grpc-note", "1")]), Some(["content-digest", "grpc-note"])),
        (fields(&[("authorization", "Bearer x"), ("x-api-key", "k"), ("x-http-method-override", "DELETE")]), None),
    ] {
        let frames = [Ok(Frame::data("call".into())), Ok(Frame::trailers(sent))];
        let body: agent::Body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let call = Request::post(origin.url("/pkg.Service/Method"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .expect("a valid request");

        let answer = sidecar.agent().http2().send(call).await;

        let arrived = noted.recv().await.expect("the origin was called");
        let names = |fields: &HeaderMap| fields.keys().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(arrived.as_ref().map(names), arriving.map(|names| names.map(str::to_owned).to_vec()));
        assert_eq!(names(&answer.trailers.expect("trailers came back")), ["grpc-status", "x-served-by"]);
        sidecar.ended().await;
    }
    let records = sidecar.audit().await;
    assert!(records.iter().all(|record| record["outcome"] == "completed"), "{records:?}");
}

fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let field = |&(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    fields.iter().map(field).collect()
}

#[tokio::test]
async fn no_second_spelling_of_the_credentials_header_arrives() {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::permissive()
        .file("key", "the-key")
        .in_front_of_as(&origin, json!({"credential": "key"}))
        .set(json!({"credentials": {
            "key": {"kind": "file", "file": "key", "as": {"header": "x-service-id"}, "owner": "team-x"},
        }}))
        .start()
        .await;
    let mut call = request(Method::GET, &origin.url("/"), "");
    for name in ["x-service-id", "x_service_id", "x-service_id", "x-service-idx"] {
        call.headers_mut().insert(name, HeaderValue::from_static("mine"));
    }

    let answer = sidecar.agent().send(call).await;

    assert_eq!(answer.status, StatusCode::OK);
    let seen = &origin.requests()[0];
    assert_eq!(seen.header("x-service-id"), Some("the-key"));
    assert_eq!(seen.header("x-service-idx"), Some("mine"));
    assert_eq!((seen.header("x_service_id"), seen.header("x-service_id")), (None, None));
}

#[tokio::test]
async fn the_trace_is_joined_and_passed_on() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let mut call = request(Method::GET, &origin.url("/"), "");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    call.headers_mut().insert("traceparent", HeaderValue::from_static(parent));

    sidecar.agent().send(call).await;

    let spans = sidecar.next_spans().await;
    let span = spans.last().expect("the call's own span");
    assert_eq!(span.trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(span.parent_id.expect("it has one").to_string(), "b7ad6b7169203331");
    let passed = origin.requests()[0].header("traceparent").expect("it is passed on").to_owned();
    assert_eq!(passed, format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", span.span_id));
}

#[tokio::test]
async fn an_origin_that_refuses_connections_is_told_as_such() {
    let origin = Origin::https("gone.example.com").start().await;
    let setup = Sidecar::permissive().in_front_of(&origin);
    let url = origin.url("/");
    drop(origin);
    let mut sidecar = setup.start().await;

    let answer = sidecar.agent().get(&url).await;

    assert_eq!(answer.to_string(), "502 origin_unreachable");
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["GET gone.example.com origin_unreachable"]);
}
