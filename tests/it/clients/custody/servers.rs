//! What the clients' servers answer, as the published protocols say.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE, request::Parts};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};

use crate::actors::{Origin, origin};

/// An origin, and what was sent to it: each request's line, and its body.
pub(super) struct Server {
    pub(super) origin: Origin,
    bodies: Arc<Mutex<Vec<(String, Bytes)>>>,
}

pub(super) trait Answering: Fn(&Parts, &Bytes) -> Response<origin::Body> + Send + Sync + 'static {}

impl<F: Fn(&Parts, &Bytes) -> Response<origin::Body> + Send + Sync + 'static> Answering for F {}

impl Server {
    pub(super) async fn start(name: &str, answer: impl Answering) -> Self {
        let bodies = Arc::<Mutex<Vec<_>>>::default();
        let (noted, answer) = (Arc::clone(&bodies), Arc::new(answer));
        let origin = Origin::https(name).answering(move |request: Request<Incoming>| {
            let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.expect("the body is whole").to_bytes();
                let line = format!("{} {}", parts.method, parts.uri.path());
                noted.lock().expect("no test panics inside").push((line, body.clone()));
                answer(&parts, &body)
            }
        });
        Self { origin: origin.start().await, bodies }
    }

    pub(super) fn bodies(&self) -> Vec<(String, Bytes)> {
        self.bodies.lock().expect("no test panics inside").clone()
    }
}

/// What a registry of npm packages says that has none yet.
pub(super) fn packages(parts: &Parts, _: &Bytes) -> Response<origin::Body> {
    match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/-/whoami") => json(200, &json!({"username": "agent"})),
        (&Method::PUT, "/demo") => json(201, &json!({"ok": true})),
        _ => json(404, &json!({"error": "not_found"})),
    }
}

pub(super) fn accept(_: &Parts, _: &Bytes) -> Response<origin::Body> {
    json(200, &json!({}))
}

/// A model that greets, in both of the protocols that the SDKs speak.
pub(super) fn converse(parts: &Parts, body: &Bytes) -> Response<origin::Body> {
    let asked: Value = serde_json::from_slice(body).expect("SDKs send JSON");
    let streams = asked["stream"] == true;
    match (parts.uri.path(), streams) {
        ("/v1/chat/completions", false) => json(200, &completion("chat.completion", "message", "hello")),
        ("/v1/chat/completions", true) => {
            let chunk = |text| format!("data: {}\n\n", completion("chat.completion.chunk", "delta", text));
            events(vec![chunk("hel"), chunk("lo"), "data: [DONE]\n\n".into()])
        }
        ("/v1/messages", false) => json(200, &message(&json!([{"type": "text", "text": "hello"}]))),
        ("/v1/messages", true) => {
            let delta = |text: &str| {
                let delta = json!({"type": "text_delta", "text": text});
                json!({"type": "content_block_delta", "index": 0, "delta": delta})
            };
            let all = [
                json!({"type": "message_start", "message": message(&json!([]))}),
                json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
                delta("hel"),
                delta("lo"),
                json!({"type": "content_block_stop", "index": 0}),
                json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}),
                json!({"type": "message_stop"}),
            ];
            let event =
                |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a name"));
            events(all.iter().map(event).collect())
        }
        _ => json(404, &json!({})),
    }
}

fn completion(object: &str, part: &str, text: &str) -> Value {
    let choice = json!({"index": 0, part: {"role": "assistant", "content": text}, "finish_reason": "stop"});
    json!({"id": "c", "object": object, "created": 1, "model": "m", "choices": [choice]})
}

fn message(content: &Value) -> Value {
    let usage = json!({"input_tokens": 1, "output_tokens": 1});
    json!({
        "id": "m", "type": "message", "role": "assistant", "model": "m", "content": content,
        "stop_reason": null, "stop_sequence": null, "usage": usage,
    })
}

/// The host that gives a registry's clients their tokens.
pub(super) fn give(_: &Parts, _: &Bytes) -> Response<origin::Body> {
    json(200, &json!({"token": PULL_TOKEN}))
}

/// A registry that lets in who brings a token from this realm.
pub(super) fn images(realm: String) -> impl Answering {
    move |parts: &Parts, _: &Bytes| {
        let bearer = format!("Bearer {PULL_TOKEN}");
        if parts.headers.get("authorization").is_some_and(|given| given.as_bytes() == bearer.as_bytes()) {
            return json(200, &json!({"layers": []}));
        }
        let mut response = json(401, &json!({}));
        let challenge = format!("Bearer realm=\"{realm}\",service=\"registry.example.test\"");
        response.headers_mut().insert("www-authenticate", HeaderValue::try_from(challenge).expect("text"));
        response
    }
}

fn json(status: u16, body: &Value) -> Response<origin::Body> {
    let mut response = Response::new(origin::full(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn events(events: Vec<String>) -> Response<origin::Body> {
    let frames = events.into_iter().map(|event| Ok(Frame::data(Bytes::from(event))));
    let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// What a registry's clients have for a few minutes.
pub(super) const PULL_TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJhdXRoIn0.c2lnbmF0dXJl";
