//! The agent: one kept connection through a sidecar.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    origin::now,
    process::Ready,
    wire::{HOST, Wire},
};

pub struct Agent {
    sender: Sender,
    authority: String,
    _driver: JoinSet<()>,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Agent {
    pub async fn open(sidecar: &Ready, origin: SocketAddr, wire: Wire) -> anyhow::Result<Self> {
        let authority = format!("{HOST}:{}", origin.port());
        let mut stream = TcpStream::connect(sidecar.addr).await?;
        stream.set_nodelay(true)?;
        tunnel(&mut stream, &authority).await?;
        let tls = wire.client(&sidecar.root)?.connect(ServerName::try_from(HOST)?, stream).await?;
        let (io, mut driver) = (TokioIo::new(tls), JoinSet::new());
        let sender = match wire {
            Wire::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                driver.spawn(async move { drop(connection.await) });
                Sender::Http1(sender)
            }
            Wire::Http2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                let (sender, connection) = builder.adaptive_window(true).handshake(io).await?;
                driver.spawn(async move { drop(connection.await) });
                Sender::Http2(sender)
            }
        };
        Ok(Self { sender, authority, _driver: driver })
    }

    /// How long a download takes; one that is not whole ends the benchmark.
    pub async fn download(&mut self, mebibytes: usize) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let mut body = self.ask(&format!("/{mebibytes}")).await?.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame?.data_ref().map_or(0, Bytes::len);
        }
        let taken = begun.elapsed();
        ensure!(length == mebibytes << 20, "{length} bytes came");
        Ok(taken)
    }

    /// How late events are, at the median.
    pub async fn events(&mut self, count: usize) -> anyhow::Result<Duration> {
        let mut body = self.ask(&format!("/events/{count}")).await?.into_body();
        let mut late = Vec::with_capacity(count);
        while let Some(frame) = body.frame().await {
            let arrived = now();
            let data = frame?.into_data().unwrap_or_default();
            if data.is_empty() {
                // The end of an HTTP/2 stream comes in a frame of its own.
                continue;
            }
            let sent = std::str::from_utf8(&data)?.trim().strip_prefix("data: ").context("it is an event")?;
            late.push(arrived.saturating_sub(Duration::from_nanos(sent.parse()?)));
        }
        ensure!(late.len() == count, "{} of {count} events came, each alone", late.len());
        late.sort_unstable();
        Ok(late[late.len() / 2])
    }

    async fn ask(&mut self, path: &str) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::new(Empty::new());
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                *request.uri_mut() = path.parse()?;
                request.headers_mut().insert(header::HOST, HeaderValue::try_from(&*self.authority)?);
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                *request.uri_mut() = format!("https://{}{path}", self.authority).parse()?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        ensure!(response.status() == StatusCode::OK, "{}", response.status());
        Ok(response)
    }
}

async fn tunnel(stream: &mut TcpStream, authority: &str) -> anyhow::Result<()> {
    let head = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut answer).await? > 0, "the proxy closed the connection");
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "CONNECT: {}", String::from_utf8_lossy(&answer));
    Ok(())
}
