//! Opens a connection to a permitted name: resolve, check every address, dial a checked one, verify the certificate.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, uri::Authority};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{
    Route,
    http1::Http1,
    pool::{Http2, Pooled},
    resolve::Resolver,
};
use crate::{
    call::http::Scheme,
    refusal::Refusal,
    shutdown::Drain,
    tls::origin::{OriginAlpn, OriginTls},
};

/// Opens connections to origins. Nothing else in the program does.
pub struct Connector {
    resolver: Resolver,
    tls: Arc<OriginTls>,
    own: Vec<SocketAddr>,
    limit: Duration,
    drain: Drain,
}

impl Connector {
    /// A connector that never dials one of `own`, the sidecar's own addresses, and gives up after `limit`.
    pub fn new(tls: Arc<OriginTls>, own: Vec<SocketAddr>, limit: Duration, drain: Drain) -> Self {
        Self { resolver: Resolver::default(), tls, own, limit, drain }
    }

    /// A connection ready for requests, name and certificate checked.
    ///
    /// # Errors
    /// The refusals of resolving, dialling and verifying; [`Refusal::OriginTimeout`] when it takes too long.
    pub async fn open(&self, route: &Route<'_>) -> Result<Pooled, Refusal> {
        timeout(self.limit, self.establish(route)).await.unwrap_or(Err(Refusal::OriginTimeout))
    }

    /// A bare TCP connection to a checked address, for a tunnel.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn dial(&self, route: &Route<'_>) -> Result<(TcpStream, SocketAddr), Refusal> {
        timeout(self.limit, self.dial_checked(route)).await.unwrap_or(Err(Refusal::OriginTimeout))
    }

    async fn establish(&self, route: &Route<'_>) -> Result<Pooled, Refusal> {
        let (tcp, peer) = self.dial_checked(route).await?;
        match route.scheme {
            Scheme::Http => self.speak_http1(route, tcp, peer).await,
            Scheme::Https => {
                let alpn = if route.http1_only { OriginAlpn::Http1 } else { OriginAlpn::Http2OrHttp1 };
                let tls = self.tls.connect(tcp, route.host, alpn, route.certificate.map(|shown| &**shown)).await?;
                if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
                    self.speak_http2(route, tls, peer).await
                } else {
                    self.speak_http1(route, tls, peer).await
                }
            }
        }
    }

    async fn dial_checked(&self, route: &Route<'_>) -> Result<(TcpStream, SocketAddr), Refusal> {
        let addresses = self.resolver.addresses(route.upstream, route.host, route.port).await?;
        if addresses.iter().any(|address| self.own.contains(address)) {
            return Err(Refusal::OwnAddress);
        }
        for address in addresses.into_iter().take(ADDRESSES_TRIED) {
            let share = self.limit / ADDRESSES_TRIED as u32;
            if let Ok(Ok(stream)) = timeout(share, TcpStream::connect(address)).await {
                // A small request must not wait for the acknowledgement of the one before it.
                let _ = stream.set_nodelay(true);
                return Ok((stream, address));
            }
        }
        Err(Refusal::OriginUnreachable)
    }

    async fn speak_http1<S>(&self, route: &Route<'_>, stream: S, peer: SocketAddr) -> Result<Pooled, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let host = HeaderValue::try_from(authority(route)?.as_str());
        let host = host.map_err(|_| Refusal::MalformedRequest("the host is not valid"))?;
        Http1::open(stream, peer, host, &self.drain).await.map(Pooled::Http1)
    }

    async fn speak_http2<S>(&self, route: &Route<'_>, stream: S, peer: SocketAddr) -> Result<Pooled, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_LIST)
            .keep_alive_interval(KEEP_ALIVE)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Refusal::OriginProtocol)?;
        self.drain.spawn_background(async move {
            let _ = connection.await;
        });
        Ok(Pooled::Http2(Http2 { sender, peer, authority: authority(route)? }))
    }
}

fn authority(route: &Route<'_>) -> Result<Authority, Refusal> {
    let text = route.scheme.authority(route.host, route.port);
    Authority::try_from(text).map_err(|_| Refusal::MalformedRequest("the host is not valid"))
}

const ADDRESSES_TRIED: usize = 3;
/// What one stream may have in flight: enough for a long fat path, little enough to stand beside every agent.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const MAX_HEADER_LIST: u32 = 64 * 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
