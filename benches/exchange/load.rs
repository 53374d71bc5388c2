//! The agent: on each of its connections the next request follows the answer to the one before.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
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
use tokio_rustls::TlsConnector;

use crate::{
    origin::{ANSWER_BYTES, CREDENTIAL},
    wire::{HOST, Wire},
};

/// How many connections are kept open, each with one request on its way.
pub const CONNECTIONS: usize = 32;

/// A way to the origin.
pub struct Way {
    /// Where to connect to.
    pub addr: SocketAddr,
    /// What verifies who answers there, in PEM.
    pub root: String,
    pub origin: SocketAddr,
    /// Whether CONNECT comes first.
    pub proxied: bool,
    /// Whose credential the origin must see.
    pub credential: &'static str,
}

/// Connections that are kept open between rounds.
pub struct Load {
    agents: Vec<Agent>,
    _drivers: JoinSet<()>,
}

/// What one round came to.
pub struct Measured {
    /// How long each call took, the shortest first.
    pub latencies: Vec<Duration>,
    pub elapsed: Duration,
}

struct Agent {
    sender: Sender,
    uri: Uri,
    headers: HeaderMap,
    credential: &'static str,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Load {
    pub async fn open(way: &Way, wire: Wire) -> anyhow::Result<Self> {
        let connector = wire.client(&way.root)?;
        let (mut agents, mut drivers) = (Vec::new(), JoinSet::new());
        for number in 0..CONNECTIONS {
            agents.push(Agent::open(way, wire, &connector, number, &mut drivers).await?);
        }
        Ok(Self { agents, _drivers: drivers })
    }

    /// Asks on all connections for this long.
    pub async fn run(&mut self, time: Duration) -> anyhow::Result<Measured> {
        let begun = Instant::now();
        let mut running = JoinSet::new();
        for agent in self.agents.drain(..) {
            running.spawn(agent.repeat(begun + time));
        }
        let mut latencies = Vec::new();
        while let Some(ended) = running.join_next().await {
            let (agent, taken) = ended??;
            self.agents.push(agent);
            latencies.extend(taken);
        }
        let elapsed = begun.elapsed();
        latencies.sort_unstable();
        Ok(Measured { latencies, elapsed })
    }
}

impl Agent {
    async fn open(
        way: &Way,
        wire: Wire,
        connector: &TlsConnector,
        number: usize,
        drivers: &mut JoinSet<()>,
    ) -> anyhow::Result<Self> {
        let authority = format!("{HOST}:{}", way.origin.port());
        let mut stream = TcpStream::connect(way.addr).await?;
        stream.set_nodelay(true)?;
        if way.proxied {
            tunnel(&mut stream, &authority).await?;
        }
        let io = TokioIo::new(connector.connect(ServerName::try_from(HOST)?, stream).await?);
        let path = format!("/v1/items/{}", number % PATHS);
        let mut headers = headers();
        let (sender, uri) = match wire {
            Wire::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                drivers.spawn(async move { drop(connection.await) });
                headers.insert(header::HOST, HeaderValue::try_from(authority)?);
                (Sender::Http1(sender), path)
            }
            Wire::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                drivers.spawn(async move { drop(connection.await) });
                (Sender::Http2(sender), format!("https://{authority}{path}"))
            }
        };
        Ok(Self { sender, uri: uri.parse()?, headers, credential: way.credential })
    }

    async fn repeat(mut self, until: Instant) -> anyhow::Result<(Self, Vec<Duration>)> {
        let mut taken = Vec::with_capacity(1 << 14);
        let mut begun = Instant::now();
        while begun < until {
            self.ask().await?;
            let ended = Instant::now();
            taken.push(ended - begun);
            begun = ended;
        }
        Ok((self, taken))
    }

    /// One call, whole: a wrong answer ends the benchmark.
    async fn ask(&mut self) -> anyhow::Result<()> {
        let mut request = Request::new(Full::new(Bytes::from_static(&QUESTION)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let response = self.sender.send(request).await?;
        let (status, credential) = (response.status(), response.headers().get(CREDENTIAL).cloned());
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
        ensure!(body.len() == ANSWER_BYTES, "the answer has {} bytes", body.len());
        ensure!(credential.is_some_and(|seen| seen == self.credential), "the origin saw another credential");
        Ok(())
    }
}

impl Sender {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// What the usual client sends, a long-lived key included.
fn headers() -> HeaderMap {
    let fields = [
        (header::USER_AGENT, "bench/1.0"),
        (header::ACCEPT, "application/json"),
        (header::CONTENT_TYPE, "application/json"),
        (header::AUTHORIZATION, "Bearer long-lived-key-of-the-agent-0123456789"),
    ];
    fields.map(|(name, value)| (name, HeaderValue::from_static(value))).into_iter().collect()
}

async fn tunnel(stream: &mut TcpStream, authority: &str) -> anyhow::Result<()> {
    let head = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut answer).await? > 0, "the proxy closed the connection");
    }
    let line = answer.split(|byte| *byte == b'\r').next().context("split gives at least one part")?;
    ensure!(line.starts_with(b"HTTP/1.1 200"), "CONNECT: {}", String::from_utf8_lossy(&answer));
    Ok(())
}

const PATHS: usize = 16;
const QUESTION: [u8; 100] = [b'x'; 100];
