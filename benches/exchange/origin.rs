//! The origin: takes a small body, gives a small one, and says whose credential came with the request.

use std::convert::Infallible;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    process::{Ready, Setting},
    services::TOKEN,
    wire::Wire,
};

/// In every answer: whose credential the request carried.
pub const CREDENTIAL: &str = "credential";
/// The agent's own.
pub const AGENTS: &str = "agent";
/// The one that the sidecar put in its place.
pub const INJECTED: &str = "injected";
/// The bytes in an answer.
pub const ANSWER_BYTES: usize = 200;

pub async fn run(setting: &Setting) -> anyhow::Result<()> {
    let (root, acceptor) = setting.wire.server()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let ready = Ready { addr: listener.local_addr()?, root, health: None };
    tokio::select! {
        served = serve(listener, acceptor, setting.wire) => served,
        told = ready.until_released() => told,
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, wire: Wire) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("connections can be accepted")?;
        tokio::spawn(speak(stream, acceptor.clone(), wire));
    }
}

async fn speak(stream: TcpStream, acceptor: TlsAcceptor, wire: Wire) {
    let _ = stream.set_nodelay(true);
    let Ok(tls) = acceptor.accept(stream).await else { return };
    let (io, service) = (TokioIo::new(tls), service_fn(answer));
    let _ = match wire {
        Wire::Http1 => http1::Builder::new().serve_connection(io, service).await,
        Wire::Http2 => http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await,
    };
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let bearer = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let injected = bearer.and_then(|value| value.strip_prefix(b"Bearer ")) == Some(TOKEN.as_bytes());
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Full::new(Bytes::from_static(&[b'x'; ANSWER_BYTES])));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CREDENTIAL, HeaderValue::from_static(if injected { INJECTED } else { AGENTS }));
    Ok(response)
}
