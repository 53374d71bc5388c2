//! One connection of the agent: look at it, then refuse, tunnel or open it.
//!
//! What is refused here is refused for good: there is no path on which a connection that can't be opened is passed on as
//! bytes. Tunnels exist only where the configuration says `passthrough` and policy permitted it.

mod timer;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use ::http::Request;
use hyper::{
    body::Incoming,
    server::conn::{
        http1::{self, UpgradeableConnection},
        http2,
    },
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use self::timer::HeadTimer;
use crate::{
    call::http::{CanonicalHost, Scheme},
    config::{Protocol, TlsMode, Upstream},
    exchange,
    listener::{Destination, proxy},
    origin::address,
    refusal::Refusal,
    sidecar::{Generation, Sidecar},
    sniff::{ClientHello, Sniffed, sniff},
    task::Presented,
    telemetry::trace::TraceContext,
    tls::agent::AgentAlpn,
    tunnel::{self, Admitted},
};

/// Facts and claims of one connection. Does not change.
#[derive(Debug)]
pub struct Connection {
    /// The agent's address.
    pub peer: SocketAddr,
    /// Where it leads: a fact.
    pub destination: Destination,
    /// Whether requests on it came through TLS that we opened.
    pub scheme: Scheme,
    /// The name that every request on it must name, where one is established by now.
    pub host: Option<(Arc<str>, u16)>,
    /// What CONNECT said of the task of the requests on it.
    pub presented: Presented,
    /// Its place among the open connections.
    pub slot: Slot,
}

/// A place among the connections that may be open; given back when the last holder drops it.
#[derive(Debug, Clone)]
pub struct Slot(#[expect(dead_code, reason = "held for its Drop")] Arc<OwnedSemaphorePermit>);

impl Slot {
    /// Wraps a permit of the connection limit.
    pub fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(permit))
    }
}

/// Looks at a connection whose destination is known and serves it. `admitted` is the tunnel that CONNECT was permitted.
pub async fn open(
    sidecar: Arc<Sidecar>,
    stream: TcpStream,
    peer: SocketAddr,
    destination: Destination,
    presented: Presented,
    admitted: Option<Box<Admitted>>,
    slot: Slot,
) {
    let _ = stream.set_nodelay(true);
    let arrival = Arrival { peer, destination, presented, slot };
    match admitted {
        Some(admitted) => enter_tunnel(&sidecar, stream, &arrival, *admitted).await,
        None => {
            if let Err((refusal, stream)) = arrival.look(&sidecar, stream).await {
                arrival.refuse(&sidecar, refusal);
                if let Some(stream) = stream {
                    reset(stream);
                }
            }
        }
    }
}

/// Serves HTTP/1.1 until the agent or the sidecar ends the connection.
pub async fn serve_http1<S>(sidecar: Arc<Sidecar>, connection: Arc<Connection>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| answer(Arc::clone(&sidecar), Arc::clone(&connection), request));
    let serving = http1::Builder::new()
        .timer(HeadTimer::default())
        .header_read_timeout(HEADER_READ)
        .max_header_size(sidecar.limits().header_bytes)
        .max_buf_size(sidecar.limits().header_bytes.max(MIN_BUFFER))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    until_ended(&sidecar, &connection, pin!(serving), UpgradeableConnection::graceful_shutdown).await;
}

/// Serves HTTP/2 until the agent or the sidecar ends the connection.
pub async fn serve_http2<S>(sidecar: Arc<Sidecar>, connection: Arc<Connection>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| answer(Arc::clone(&sidecar), Arc::clone(&connection), request));
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(sidecar.limits().header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), service);
    until_ended(&sidecar, &connection, pin!(serving), http2::Connection::graceful_shutdown).await;
}

/// Drives a connection to its end. When the sidecar stops, it finishes what has begun, for as long as there is time.
async fn until_ended<C>(
    sidecar: &Sidecar,
    connection: &Connection,
    mut serving: Pin<&mut C>,
    graceful_shutdown: impl FnOnce(Pin<&mut C>),
) where
    C: Future<Output = hyper::Result<()>>,
{
    let signals = sidecar.drain().signals();
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = signals.stopping() => {
            graceful_shutdown(serving.as_mut());
            tokio::select! {
                ended = serving.as_mut() => ended,
                () = signals.closing() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        record_rejected(sidecar, connection, &error);
    }
}

/// What has arrived, before it is known what it speaks.
struct Arrival {
    peer: SocketAddr,
    destination: Destination,
    presented: Presented,
    slot: Slot,
}

/// A refusal, with the stream if it can still be reset.
type Turned = (Refusal, Option<TcpStream>);

impl Arrival {
    async fn look(&self, sidecar: &Arc<Sidecar>, stream: TcpStream) -> Result<(), Turned> {
        if let Some((host, port)) = self.destination.name()
            && let Some(upstream) = sidecar.generation().upstreams.find(host, port)
            && upstream.protocol == Protocol::Opaque
        {
            // The origin may be the one that speaks first: there is nothing to wait for.
            let host: Arc<str> = host.into();
            return self.tunnel(sidecar, stream, host, port).await;
        }
        match sniff(&stream, self.patience(sidecar)).await {
            Err(refusal) => Err((refusal, Some(stream))),
            Ok(Sniffed::Tls(hello)) => self.look_at_tls(sidecar, stream, hello).await,
            Ok(Sniffed::Http1) => {
                serve_http1(Arc::clone(sidecar), self.connection(Scheme::Http), stream).await;
                Ok(())
            }
            Ok(Sniffed::Http2) => {
                serve_http2(Arc::clone(sidecar), self.connection(Scheme::Http), stream).await;
                Ok(())
            }
        }
    }

    /// How long the first bytes are waited for. After CONNECT the client speaks first and takes its time; a redirected
    /// one may wait for the server to speak first, which no protocol that is known here does.
    fn patience(&self, sidecar: &Sidecar) -> Duration {
        match self.destination {
            Destination::Named { .. } => HANDSHAKE,
            Destination::Proxy | Destination::Dialled { .. } => sidecar.limits().sniff,
        }
    }

    async fn look_at_tls(&self, sidecar: &Arc<Sidecar>, stream: TcpStream, hello: ClientHello) -> Result<(), Turned> {
        let (host, port) = match agreed_name(&self.destination, hello.sni.as_deref()) {
            Ok(name) => name,
            Err(refusal) => return Err((refusal, Some(stream))),
        };
        match find(&sidecar.generation(), &host, port) {
            Err(refusal) => Err((refusal, Some(stream))),
            Ok(upstream) => match upstream.tls {
                TlsMode::Passthrough if hello.ech => Err((HIDDEN_NAME, Some(stream))),
                TlsMode::Passthrough => self.tunnel(sidecar, stream, host, port).await,
                TlsMode::Intercept => self.intercept(sidecar, stream, host, port).await,
            },
        }
    }

    async fn intercept(
        &self,
        sidecar: &Arc<Sidecar>,
        stream: TcpStream,
        host: Arc<str>,
        port: u16,
    ) -> Result<(), Turned> {
        let Ok(config) = sidecar.agent_tls().config_for(&host, AgentAlpn::Http2OrHttp1) else {
            return Err((Refusal::AgentTls, Some(stream)));
        };
        let handshake = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await;
        // A client that does not accept our certificate is refused; it is never passed through.
        let Ok(Ok(tls)) = handshake else { return Err((Refusal::AgentTls, None)) };
        let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let connection = Arc::new(Connection {
            peer: self.peer,
            destination: self.destination.clone(),
            scheme: Scheme::Https,
            host: Some((host, port)),
            presented: self.presented,
            slot: self.slot.clone(),
        });
        // A task of its own: this one carries room for the handshake, which an idle connection would keep for hours.
        let serving = Arc::clone(sidecar);
        if http2 {
            sidecar.drain().spawn(serve_http2(serving, connection, tls));
        } else {
            sidecar.drain().spawn(serve_http1(serving, connection, tls));
        }
        Ok(())
    }

    async fn tunnel(&self, sidecar: &Arc<Sidecar>, stream: TcpStream, host: Arc<str>, port: u16) -> Result<(), Turned> {
        let record = sidecar.recorder().begin(TraceContext::root());
        match tunnel::admit(sidecar, &host, port, self.presented, record) {
            Ok(admitted) => admitted.run(sidecar, stream).await,
            Err(refused) => {
                refused.finish();
                reset(stream);
            }
        }
        Ok(())
    }

    fn connection(&self, scheme: Scheme) -> Arc<Connection> {
        Arc::new(Connection {
            peer: self.peer,
            destination: self.destination.clone(),
            scheme,
            host: self.destination.name().map(|(host, port)| (host.into(), port)),
            presented: self.presented,
            slot: self.slot.clone(),
        })
    }

    fn refuse(&self, sidecar: &Sidecar, refusal: Refusal) {
        let mut record = sidecar.recorder().begin(TraceContext::root());
        record.heads_for(&self.destination);
        record.facts.refusal = Some(refusal);
        record.finish();
    }
}

/// Runs the tunnel that CONNECT was permitted, if what comes through it names the same host.
async fn enter_tunnel(sidecar: &Arc<Sidecar>, stream: TcpStream, arrival: &Arrival, admitted: Admitted) {
    if admitted.is_opaque() {
        return admitted.run(sidecar, stream).await;
    }
    let looked = match sniff(&stream, arrival.patience(sidecar)).await {
        Ok(Sniffed::Tls(hello)) if hello.ech => Err(HIDDEN_NAME),
        Ok(Sniffed::Tls(hello)) => agreed_name(&arrival.destination, hello.sni.as_deref()).map(|_| ()),
        Ok(Sniffed::Http1 | Sniffed::Http2) => Err(Refusal::UnknownProtocol),
        Err(refusal) => Err(refusal),
    };
    match looked {
        Ok(()) => admitted.run(sidecar, stream).await,
        Err(refusal) => {
            admitted.refuse(refusal);
            reset(stream);
        }
    }
}

/// The one name of a TLS connection. The claim must equal the fact; where the fact is an address alone, the claim names
/// the host, which is then decided on and resolved anew: the dialled address is used for IP literals only.
fn agreed_name(destination: &Destination, sni: Option<&str>) -> Result<(Arc<str>, u16), Refusal> {
    match (destination, sni) {
        (Destination::Proxy, _) => Err(Refusal::UnknownProtocol),
        (Destination::Named { host, port }, None) if is_literal(host) => Ok((Arc::clone(host), *port)),
        (Destination::Named { host, port }, Some(sni)) if **host == *sni => Ok((Arc::clone(host), *port)),
        (Destination::Named { .. }, Some(_)) => {
            Err(Refusal::NameMismatch("the TLS server name differs from the target of CONNECT"))
        }
        (Destination::Named { .. }, None) => Err(Refusal::NameMismatch("the TLS hello names no server")),
        (Destination::Dialled { addr, name: Some(name) }, Some(sni)) if **name == *sni => {
            Ok((Arc::clone(name), addr.port()))
        }
        (Destination::Dialled { name: Some(_), .. }, Some(_)) => {
            Err(Refusal::NameMismatch("the TLS server name differs from the name that was resolved"))
        }
        (Destination::Dialled { name: Some(_), .. }, None) => {
            Err(Refusal::NameMismatch("the TLS hello names no server"))
        }
        (Destination::Dialled { addr, name: None }, Some(sni)) => Ok((sni.into(), addr.port())),
        (Destination::Dialled { addr, name: None }, None) => Ok((literal_host(*addr).into(), addr.port())),
    }
}

/// The canonical host of a dialled address.
pub fn literal_host(addr: SocketAddr) -> String {
    CanonicalHost::from(addr.ip()).into_string()
}

fn is_literal(host: &str) -> bool {
    crate::origin::resolve::literal(host).is_some()
}

/// The configured destination for a host and port, above the hard floor.
///
/// # Errors
/// [`Refusal::AddressForbidden`] or [`Refusal::UnknownDestination`].
pub fn find(generation: &Generation, host: &str, port: u16) -> Result<Arc<Upstream>, Refusal> {
    address::check_floor(host)?;
    generation.upstreams.find(host, port).cloned().ok_or(Refusal::UnknownDestination)
}

async fn answer(
    sidecar: Arc<Sidecar>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<::http::Response<crate::body::ResponseBody>, Infallible> {
    if request.method() == ::http::Method::CONNECT {
        Ok(proxy::connect(&sidecar, &connection, request))
    } else {
        // Boxed, because an idle connection would carry room for a call.
        Ok(Box::pin(exchange::serve(&sidecar, &connection, request)).await)
    }
}

/// hyper answers requests that it can't parse by itself and tells only the connection: the record is written from there.
fn record_rejected(sidecar: &Sidecar, connection: &Connection, error: &hyper::Error) {
    let refusal = if error.is_parse_too_large() {
        Refusal::HeaderTooLarge
    } else if error.is_parse() || broke_http2(error) {
        Refusal::MalformedRequest("the request can't be parsed")
    } else {
        // The agent went away or took too long between requests; calls under way have their own records.
        return;
    };
    let mut record = sidecar.recorder().begin(TraceContext::root());
    record.heads_for(&connection.destination);
    record.facts.refusal = Some(refusal);
    record.finish();
}

/// Whether we ended the connection because the agent broke HTTP/2. What ends a single stream is told to nobody.
fn broke_http2(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(|error| error.is_library() && !error.is_io())
}

/// Ends a connection so that the agent sees at once that it was refused.
pub fn reset(stream: TcpStream) {
    let linger: io::Result<()> = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    // Without it the agent sees an orderly end, which is a refusal as well.
    drop((linger, stream));
}

/// Behind the name that can be read there may be another: where TLS is not opened, that can't be seen.
const HIDDEN_NAME: Refusal = Refusal::NameMismatch("the TLS hello hides a name");
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADER_READ: Duration = Duration::from_secs(30);
/// The least that hyper accepts.
const MIN_BUFFER: usize = 8192;
const MAX_STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
