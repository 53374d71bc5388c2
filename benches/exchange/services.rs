//! What stands beside a sidecar: an issuer of tokens, and a collector that takes spans and forgets them.

use std::convert::Infallible;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::process::Ready;

/// What the issuer issues.
pub const TOKEN: &str = "ephemeral-token-of-the-benchmark-0123456789abcdef";

pub async fn run() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let ready = Ready { addr: listener.local_addr()?, root: String::new(), health: None };
    tokio::select! {
        served = serve(listener) => served,
        told = ready.until_released() => told,
    }
}

async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("connections can be accepted")?;
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let issuing = request.uri().path() == "/token";
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let (kind, text) = if issuing {
        let answer = serde_json::json!({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 600});
        ("application/json", answer.to_string())
    } else {
        ("application/x-protobuf", String::new())
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}
