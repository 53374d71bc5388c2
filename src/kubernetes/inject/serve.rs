//! The webhook: `AdmissionReview`s over TLS, health and metrics beside them.
//!
//! A certificate that changes on disk is used from the next connection on; one that can't be used leaves the old one in
//! place. Connections are few for each address, and none may keep its place without asking. Stopping has an order: not
//! ready, serving on for as long as the cluster may still send something, then no new connections, then the end of those
//! that are open.

mod idle;
mod places;

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    body::{Body, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use self::{
    idle::Activity,
    places::{Place, Places},
};
use super::{Config, metrics::Metrics, review, review::Decision};
use crate::{
    health::{self, Readiness},
    shutdown::{Drain, Signals},
    tls::{
        H2,
        webhook::{Files, Loaded},
    },
};

/// A webhook whose sockets are bound and whose certificate is read.
#[derive(Debug)]
pub struct Webhook {
    shared: Arc<Shared>,
    loaded: Loaded,
    listener: TcpListener,
    health: TcpListener,
}

impl Webhook {
    /// Binds the sockets and reads the certificate.
    ///
    /// # Errors
    /// What keeps it from serving, with the setting that names it.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let serve = &config.settings.serve;
        let files = Files { certificate: serve.certificate.clone(), key: serve.key.clone() };
        let loaded = files.load()?;
        let listener = tcp(serve.listen).await.with_context(|| format!("serve.listen: {}", serve.listen))?;
        let health = tcp(serve.health).await.with_context(|| format!("serve.health: {}", serve.health))?;
        let metrics = Arc::new(Metrics::new());
        metrics.certificate(loaded.expires);
        let shared = Shared {
            tls: ArcSwap::new(Arc::clone(&loaded.config)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            places: Arc::new(Places::default()),
            reviews: Semaphore::new(REVIEWS),
            files,
            config,
            metrics,
        };
        Ok(Self { shared: Arc::new(shared), loaded, listener, health })
    }

    /// Where reviews arrive.
    ///
    /// # Errors
    /// The operating system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where health and metrics are.
    ///
    /// # Errors
    /// The operating system's.
    pub fn health_address(&self) -> io::Result<SocketAddr> {
        self.health.local_addr()
    }

    /// Serves until `shutdown` resolves, then stops in order.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let (drain, readiness) = (Drain::new(), Readiness::default());
        let metrics = Arc::clone(&self.shared.metrics);
        drain.spawn_background(health::serve_text(self.health, readiness.clone(), move || metrics.encode()));
        drain.spawn_background(follow(Arc::clone(&self.shared), self.loaded));
        drain.spawn(accept(Arc::clone(&self.shared), self.listener, drain.clone()));
        shutdown.await;
        readiness.stop();
        // The cluster goes on sending for a moment: it learns of the end later than this process does.
        sleep(self.shared.config.settings.serve.linger.0).await;
        if !drain.stop(GRACE).await {
            tracing::warn!("stopped before all reviews were answered");
        }
    }
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    config: Config,
    files: Files,
    tls: ArcSwap<ServerConfig>,
    metrics: Arc<Metrics>,
    connections: Arc<Semaphore>,
    places: Arc<Places>,
    reviews: Semaphore,
}

/// A kernel without IPv6 can't listen on `[::]`; there everything is IPv4.
async fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && is_unsupported(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    let unsupported = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL];
    unsupported.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Uses the certificate that the files hold, from the moment on at which they do.
async fn follow(shared: Arc<Shared>, mut loaded: Loaded) {
    let mut ticks = interval(LOOK_AT_FILES);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (files, content) = (shared.files.clone(), loaded.content.clone());
        let Ok(Some(changed)) = spawn_blocking(move || files.load_if_changed(&content)).await else { continue };
        match changed {
            Ok(next) => {
                tracing::info!("the certificate was replaced");
                shared.metrics.certificate(next.expires);
                shared.tls.store(Arc::clone(&next.config));
                loaded = next;
            }
            Err((content, error)) => {
                // The same content is not tried again; both files may be on their way.
                tracing::warn!(%error, "the changed certificate can't be used, and the old one stays");
                shared.metrics.certificate_failure();
                loaded.content = content;
            }
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, drain: Drain) {
    let signals = drain.signals();
    loop {
        let slot = Arc::clone(&shared.connections).acquire_owned();
        let accepted = async { (slot.await, listener.accept().await) };
        let (slot, accepted) = tokio::select! {
            () = signals.stopping() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let Some(place) = shared.places.take(from.ip()) else {
                    tracing::debug!(%from, "too many connections of one address");
                    continue;
                };
                let (shared, signals) = (Arc::clone(&shared), drain.signals());
                drain.spawn(async move {
                    connection(shared, stream, signals, place).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                // Out of file descriptors, most likely: do not spin.
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, signals: Signals, _place: Place) {
    let _ = stream.set_nodelay(true);
    let begun = Instant::now();
    let acceptor = TlsAcceptor::from(shared.tls.load_full());
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS"),
        Err(_) => return tracing::debug!("no TLS in time"),
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
    let activity = Arc::new(Activity::new());
    let counted = Arc::clone(&activity);
    let service = service_fn(move |request| {
        let (shared, activity) = (Arc::clone(&shared), Arc::clone(&counted));
        async move {
            let _busy = activity.begin();
            Ok::<_, Infallible>(respond(&shared, request).await)
        }
    });
    let idle = activity.ends(HANDSHAKE.saturating_sub(begun.elapsed()), IDLE);
    let io = TokioIo::new(stream);
    if http2 {
        let serving = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(KEEP_ALIVE)
            .serve_connection(io, service);
        until_ended(pin!(serving), &signals, idle, http2::Connection::graceful_shutdown).await;
    } else {
        let serving =
            http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(IDLE).serve_connection(io, service);
        until_ended(pin!(serving), &signals, idle, http1::Connection::graceful_shutdown).await;
    }
}

async fn until_ended<C>(
    mut serving: Pin<&mut C>,
    signals: &Signals,
    idle: impl Future<Output = ()>,
    graceful_shutdown: impl FnOnce(Pin<&mut C>),
) where
    C: Future<Output = hyper::Result<()>>,
{
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = idle => {
            // A request that is on its way meanwhile is answered, or refused so that it is sent again.
            graceful_shutdown(serving.as_mut());
            timeout(LEAVE, serving).await.unwrap_or(Ok(()))
        }
        () = signals.stopping() => {
            graceful_shutdown(serving.as_mut());
            tokio::select! {
                ended = serving => ended,
                () = signals.closing() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection broken");
    }
}

async fn respond(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return text(StatusCode::NOT_FOUND, "reviews go to /mutate\n");
    }
    if request.method() != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    if !is_json(request.headers()) {
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "only application/json\n");
    }
    // Without a permit nobody reads a body, so that all of them together stay bounded.
    let Ok(Ok(_permit)) = timeout(WAIT_FOR_TURN, shared.reviews.acquire()).await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many reviews at once\n");
    };
    match body(shared, request).await {
        Ok(body) => review(shared, &body),
        Err(response) => {
            shared.metrics.malformed();
            response
        }
    }
}

async fn body(shared: &Shared, request: Request<Incoming>) -> Result<Bytes, Response<Full<Bytes>>> {
    let most = usize::try_from(shared.config.settings.serve.max_body.0).unwrap_or(usize::MAX);
    let too_large = || text(StatusCode::PAYLOAD_TOO_LARGE, "larger than serve.max_body\n");
    let body = request.into_body();
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    match timeout(BODY, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(text(StatusCode::BAD_REQUEST, "the body broke off\n")),
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "the body took too long\n")),
    }
}

fn review(shared: &Shared, body: &[u8]) -> Response<Full<Bytes>> {
    let begun = Instant::now();
    let answer = match review::answer(body, &shared.config) {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(%error, "malformed review");
            shared.metrics.malformed();
            return text(StatusCode::BAD_REQUEST, &format!("{error}\n"));
        }
    };
    let mut response = Response::new(Full::from(answer.review.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    shared.metrics.review(answer.decision, begun.elapsed());
    let (pod, reason) = (&answer.pod, &answer.reason);
    match answer.decision {
        Decision::Inject => tracing::debug!(pod, "injected"),
        Decision::Skip => tracing::info!(pod, reason, "passed without a sidecar"),
        Decision::Refuse => tracing::info!(pod, reason, "refused"),
    }
    response
}

fn is_json(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Where reviews are sent.
pub const PATH: &str = "/mutate";

const CONNECTIONS: usize = 256;
/// With the largest body this bounds what is held.
const REVIEWS: usize = 32;
const STREAMS: u32 = 100;
/// For TLS and the first request together.
const HANDSHAKE: Duration = Duration::from_secs(10);
const WAIT_FOR_TURN: Duration = Duration::from_secs(5);
const BODY: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);
const LEAVE: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const LOOK_AT_FILES: Duration = Duration::from_secs(1);
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
const GRACE: Duration = Duration::from_secs(10);
