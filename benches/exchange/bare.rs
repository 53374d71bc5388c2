//! The least that a proxy between two TLS connections can do: CONNECT, a leaf, hyper on both sides and a pool of
//! connections to the origin. No policy, no record, no span, no check, no change to any message.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client,
    server::conn::{http1, http2},
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::{
    process::{Ready, Setting},
    wire::{HOST, Wire},
};

pub async fn run(setting: &Setting) -> anyhow::Result<()> {
    let (root, acceptor) = setting.wire.server()?;
    let origin = Origin {
        addr: setting.origin.context("the origin is known")?,
        connector: setting.wire.client(&setting.root)?,
        idle: Arc::default(),
    };
    let shared = match setting.wire {
        Wire::Http1 => None,
        Wire::Http2 => Some(origin.connect_http2().await?),
    };
    let proxy = Arc::new(Proxy { acceptor, origin, shared });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let ready = Ready { addr: listener.local_addr()?, root, health: None };
    tokio::select! {
        served = serve(listener, proxy) => served,
        told = ready.until_released() => told,
    }
}

struct Proxy {
    acceptor: TlsAcceptor,
    origin: Origin,
    /// The one connection for all requests, where HTTP/2 is spoken.
    shared: Option<client::conn::http2::SendRequest<Incoming>>,
}

/// Where requests go, and the connections that wait for one.
#[derive(Clone)]
struct Origin {
    addr: SocketAddr,
    connector: TlsConnector,
    idle: Arc<Mutex<Vec<Sender>>>,
}

type Sender = client::conn::http1::SendRequest<Incoming>;

async fn serve(listener: TcpListener, proxy: Arc<Proxy>) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("connections can be accepted")?;
        let _ = stream.set_nodelay(true);
        let proxy = Arc::clone(&proxy);
        let service = service_fn(move |mut request: Request<Incoming>| {
            tokio::spawn(Arc::clone(&proxy).open(hyper::upgrade::on(&mut request)));
            std::future::ready(Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new())))
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
    }
}

impl Proxy {
    /// Answers as the origin inside a tunnel.
    async fn open(self: Arc<Self>, upgrade: OnUpgrade) {
        let Ok(upgraded) = upgrade.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
        let Ok(tls) = self.acceptor.accept(parts.io.into_inner()).await else { return };
        let io = TokioIo::new(tls);
        let _ = match &self.shared {
            None => {
                let service = service_fn(|request| self.origin.pass(request));
                http1::Builder::new().serve_connection(io, service).await
            }
            Some(sender) => {
                let service = service_fn(|request| sender.clone().send_request(request));
                http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
            }
        };
    }
}

impl Origin {
    async fn pass(&self, request: Request<Incoming>) -> anyhow::Result<Response<Passing>> {
        let waiting = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut sender = match waiting {
            Some(sender) => sender,
            None => self.connect_http1().await?,
        };
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let lease = Some((sender, Arc::clone(&self.idle)));
        Ok(response.map(|body| Passing { body, lease }.released_if_ended()))
    }

    async fn connect_http1(&self) -> anyhow::Result<Sender> {
        let (sender, connection) = client::conn::http1::handshake(TokioIo::new(self.connect().await?)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn connect_http2(&self) -> anyhow::Result<client::conn::http2::SendRequest<Incoming>> {
        let io = TokioIo::new(self.connect().await?);
        let (sender, connection) = client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn connect(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        Ok(self.connector.connect(ServerName::try_from(HOST)?, stream).await?)
    }
}

/// An answer's body; its connection waits for the next request once it has passed.
struct Passing {
    body: Incoming,
    lease: Option<(Sender, Arc<Mutex<Vec<Sender>>>)>,
}

impl Passing {
    fn released_if_ended(mut self) -> Self {
        if self.body.is_end_stream() {
            self.release();
        }
        self
    }

    fn release(&mut self) {
        if let Some((sender, idle)) = self.lease.take() {
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.release();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
