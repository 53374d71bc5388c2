//! The world of the demonstration: an origin that accepts only ephemeral tokens, and the endpoint that issues them.

use std::{
    collections::HashSet,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::shutdown::Drain;

/// The names that the demonstration's origin answers to.
pub const HOSTS: [&str; 2] = ["tickets.example.com", "tools.example.com"];

/// What the client of the token endpoint must show.
pub const CLIENT: (&str, &str) = ("tollgate", "demonstration-only");

/// An origin and a token endpoint on loopback.
pub struct World {
    /// Where the origin listens.
    pub origin: SocketAddr,
    /// Where tokens are asked for, over plain HTTP on loopback.
    pub issuer: SocketAddr,
    root_pem: String,
    seen: Arc<Seen>,
}

/// What the origin saw, and what the issuer issued.
struct Seen {
    /// What must never arrive.
    key: String,
    /// The requests that it arrived in.
    key_seen: AtomicUsize,
    issued: Mutex<HashSet<String>>,
    last: Mutex<Option<Visit>>,
}

/// One request as the origin saw it.
#[derive(Debug, Clone)]
pub struct Visit {
    /// `GET /v1/tickets`.
    pub line: String,
    /// `ephemeral token`, `another token` or `no token`.
    pub credential: &'static str,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl World {
    /// Starts both; they end with the drain. The origin looks out for the agent's `key`.
    ///
    /// # Errors
    /// When no port can be bound or no certificate made.
    pub async fn start(drain: &Drain, key: String) -> anyhow::Result<Self> {
        let seen =
            Arc::new(Seen { key, key_seen: AtomicUsize::new(0), issued: Mutex::default(), last: Mutex::default() });
        let key = rcgen::generate_simple_self_signed(HOSTS.map(String::from))?;
        let root: CertificateDer<'static> = key.cert.der().clone();
        let root_pem = key.cert.pem();
        let secret = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into();
        let tls = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![root], secret)?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let (origin, issuer) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let world =
            Self { origin: origin.local_addr()?, issuer: issuer.local_addr()?, root_pem, seen: Arc::clone(&seen) };
        drain.spawn_background(serve_origin(origin, acceptor, Arc::clone(&seen), drain.clone()));
        drain.spawn_background(serve_issuer(issuer, seen, drain.clone()));
        Ok(world)
    }

    /// The certificate that verifies the origin.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The last request that the origin saw since this was last asked.
    pub fn last_visit(&self) -> Option<Visit> {
        self.seen.last.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How many requests the agent's key arrived in at the origin.
    pub fn key_seen(&self) -> usize {
        self.seen.key_seen.load(Ordering::Relaxed)
    }

    /// How many tokens were issued.
    pub fn issued(&self) -> usize {
        self.seen.issued.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

async fn serve_origin(listener: TcpListener, acceptor: TlsAcceptor, seen: Arc<Seen>, drain: Drain) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        drain.spawn_background(async move {
            let Ok(tls) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let seen = Arc::clone(&seen);
                async move { Ok::<_, Infallible>(answer(&seen, request).await) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

async fn serve_issuer(listener: TcpListener, seen: Arc<Seen>, drain: Drain) {
    while let Ok((stream, _)) = listener.accept().await {
        drain.spawn_background(issue(stream, Arc::clone(&seen)));
    }
}

async fn answer(seen: &Seen, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if holds(&parts, &body, &seen.key) {
        seen.key_seen.fetch_add(1, Ordering::Relaxed);
    }
    let credential = seen.credential_of(&parts);
    let line = format!("{} {}", parts.method, parts.uri.path());
    *seen.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Visit { line, credential });
    if credential != EPHEMERAL {
        return status(StatusCode::UNAUTHORIZED);
    }
    match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/v1/events") => events(),
        (&Method::POST, "/mcp") => call_tool(&body),
        (_, path) if path.starts_with("/v1/") => {
            json_answer(&json!({"tickets": [{"id": 7, "title": "printer on fire"}]}))
        }
        _ => status(StatusCode::NOT_FOUND),
    }
}

/// Three events, each sent a little after the one before.
fn events() -> Response<Body> {
    let stream = futures_util::stream::unfold(1, |number| async move {
        if number > 1 {
            tokio::time::sleep(BETWEEN_EVENTS).await;
        }
        let event = Frame::data(Bytes::from(format!("data: event {number}\n\n")));
        (number <= 3).then_some((Ok::<_, Infallible>(event), number + 1))
    });
    let mut response = Response::new(http_body_util::StreamBody::new(stream).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    response
}

fn call_tool(body: &[u8]) -> Response<Body> {
    let message: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = json!([{"type": "text", "text": "two pages found"}]);
    json_answer(&json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": text}}))
}

async fn issue(stream: TcpStream, seen: Arc<Seen>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move { Ok::<_, Infallible>(seen.token_answer(&request)) }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Seen {
    fn credential_of(&self, parts: &Parts) -> &'static str {
        let Some(value) = parts.headers.get(header::AUTHORIZATION) else { return "no token" };
        let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if token.is_some_and(|token| issued.contains(token)) { EPHEMERAL } else { "another token" }
    }

    fn token_answer(&self, request: &Request<Incoming>) -> Response<Body> {
        if request.uri().path() == "/revoke" {
            return status(StatusCode::OK);
        }
        let token = format!("eph-{}", uuid::Uuid::new_v4().simple());
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).insert(token.clone());
        json_answer(&json!({"access_token": token, "token_type": "Bearer", "expires_in": 300}))
    }
}

/// Whether a text stands anywhere in a request: in its target, its fields or its body.
fn holds(parts: &Parts, body: &[u8], text: &str) -> bool {
    let found = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let in_field = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        found(name.as_str().as_bytes()) || found(value.as_bytes())
    };
    found(parts.uri.to_string().as_bytes()) || parts.headers.iter().any(in_field) || found(body)
}

fn json_answer(document: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(document.to_string())).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// A token that the issuer gave out in this run.
pub const EPHEMERAL: &str = "ephemeral token";

const BETWEEN_EVENTS: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_wherever_it_arrives() {
        for (target, field, body, expected) in [
            ("/v1/tickets?page=2", "Bearer eph-1", "{}", false),
            ("/v1/tickets?access_token=the-key", "Bearer eph-1", "", true),
            ("/v1/the-key", "Bearer eph-1", "", true),
            ("/v1/tickets", "Bearer the-key", "", true),
            ("/v1/tickets", "Bearer eph-1", "{\"key\": \"the-key\"}", true),
        ] {
            let request = Request::get(target).header("authorization", field).body(()).expect("a request");
            assert_eq!(holds(&request.into_parts().0, body.as_bytes(), "the-key"), expected, "{target} {field} {body}");
        }
    }
}
