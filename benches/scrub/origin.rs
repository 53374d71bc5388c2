//! The origin: a large text at `/SIZE`, events that tell when they were sent at `/events/COUNT`.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    process::{Ready, Setting},
    wire::Wire,
};

type Body = UnsyncBoxBody<Bytes, Infallible>;

pub async fn run(setting: &Setting) -> anyhow::Result<()> {
    let (root, acceptor) = setting.wire.server()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let ready = Ready { addr: listener.local_addr()?, root, health: None };
    tokio::select! {
        served = serve(listener, acceptor, setting.wire) => served,
        told = ready.until_released() => told,
    }
}

/// A mebibyte of what APIs send: JSON with words, numbers and base64.
pub fn text() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut text = Vec::with_capacity(MEBIBYTE + 512);
    while text.len() < MEBIBYTE {
        let (letters, length) = (random.usize(3..12), random.usize(20..200));
        let word: String = std::iter::repeat_with(|| random.lowercase()).take(letters).collect();
        let data: String = std::iter::repeat_with(|| random.alphanumeric()).take(length).collect();
        let line = format!(
            "{{\"id\": {}, \"name\": \"{word}\", \"path\": \"/v1/{word}%20x\", \"data\": \"{data}==\"}}\n",
            random.u32(..)
        );
        text.extend_from_slice(line.as_bytes());
    }
    text.truncate(MEBIBYTE);
    text
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, wire: Wire) -> anyhow::Result<()> {
    let text = Bytes::from(text());
    loop {
        let (stream, _) = listener.accept().await.context("connections can be accepted")?;
        tokio::spawn(speak(stream, acceptor.clone(), wire, text.clone()));
    }
}

async fn speak(stream: TcpStream, acceptor: TlsAcceptor, wire: Wire, text: Bytes) {
    let _ = stream.set_nodelay(true);
    let Ok(tls) = acceptor.accept(stream).await else { return };
    let io = TokioIo::new(tls);
    let service = service_fn(move |request| std::future::ready(answer(&request, &text)));
    let _ = match wire {
        Wire::Http1 => http1::Builder::new().serve_connection(io, service).await,
        Wire::Http2 => http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await,
    };
}

fn answer(request: &Request<Incoming>, text: &Bytes) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path();
    let count = path.rsplit('/').next().and_then(|count| count.parse().ok()).unwrap_or(0);
    if path.starts_with("/events/") {
        let events = stream::iter(0..count).then(|_| async {
            sleep(BETWEEN).await;
            Ok(Frame::data(format!("data: {}\n\n", now().as_nanos()).into()))
        });
        let mut response = Response::new(StreamBody::new(events).boxed_unsync());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        return Ok(response);
    }
    let text = text.clone();
    let pieces = stream::iter(0..count).map(move |_| Ok(Frame::data(text.clone())));
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(count * MEBIBYTE));
    Ok(response)
}

/// The time that all processes of the machine share.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

const MEBIBYTE: usize = 1 << 20;
const BETWEEN: Duration = Duration::from_millis(2);
