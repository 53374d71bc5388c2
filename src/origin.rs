//! Sends a permitted request to the permitted address.
//!
//! [`Origins::send`] and [`Origins::tunnel`] take a [`Permit`], which only policy makes: no other way leads out. The name
//! that policy saw is the name that is resolved, dialled and verified.

pub mod address;
pub mod connect;
pub mod http1;
pub mod pool;
pub mod resolve;

use std::{
    net::SocketAddr,
    sync::Arc,
    task::Context,
    time::{Duration, Instant},
};

use http::{Request, Response, Uri, Version, header::HOST, uri};
use hyper::body::Incoming;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    body::{RequestBody, Tally},
    call::http::Scheme,
    config::Upstream,
    policy::Permit,
    refusal::Refusal,
    tls::certificate::ClientCertificate,
};
use connect::Connector;
use http1::{Http1, Unanswered};
use pool::{Http2, Key, Pool, Pooled, Shelf};

/// All connections to origins.
pub struct Origins {
    connector: Connector,
    pool: Pool,
}

/// Where one permitted call goes.
#[derive(Debug)]
pub struct Route<'a> {
    /// The configured destination.
    pub upstream: &'a Upstream,
    /// The configuration that it is from.
    pub generation: u64,
    /// `http` or `https`.
    pub scheme: Scheme,
    /// The canonical host that policy saw.
    pub host: &'a str,
    /// The port that policy saw.
    pub port: u16,
    /// The partition of the credential that the call carries, or 0.
    pub partition: u64,
    /// Whether the credential is for this call only. Its connection then ends with it.
    pub alone: bool,
    /// The certificate that the origin is shown if it asks. It belongs to the partition: another one has another.
    pub certificate: Option<&'a Arc<ClientCertificate>>,
    /// Whether the call needs HTTP/1.1, because it upgrades.
    pub http1_only: bool,
}

/// An origin's answer, and what to do with its connection when the answer has passed.
pub struct Reply {
    /// The answer.
    pub response: Response<Incoming>,
    /// The address that answered.
    pub peer: SocketAddr,
    /// When a connection was opened for it: from when to when.
    pub connected: Option<(Instant, Instant)>,
    /// Gives the connection back.
    pub lease: Lease,
}

/// A connection in use. Dropped before its answer has passed whole, it closes the connection.
pub struct Lease(Option<Http1Lease>);

struct Http1Lease {
    shelf: Arc<Shelf>,
    open: Http1,
    sent: Arc<Tally>,
}

impl Origins {
    /// Connections opened by `connector`, none yet.
    pub fn new(connector: Connector) -> Self {
        Self { connector, pool: Pool::default() }
    }

    /// Sends a request whose URI is in origin form and which carries no `Host`; both are set here from the route.
    ///
    /// A request that a kept connection did not take is sent once more on a new one; a request that may have reached the
    /// origin is never repeated.
    ///
    /// # Errors
    /// The refusals of opening a connection, [`Refusal::OriginTimeout`], [`Refusal::OriginProtocol`], and
    /// [`Refusal::BodyIncomplete`] when it is the agent who broke off.
    pub async fn send(
        &self,
        _permit: &Permit,
        route: &Route<'_>,
        request: Request<RequestBody>,
    ) -> Result<Reply, Refusal> {
        let sent = request.body().tally();
        // A shelf of the call's own goes with the call, and what was put there.
        let shelf = if route.alone { Arc::default() } else { self.pool.shelf(route.host, &route.key()) };
        let mut request = Some(request);
        // One that has ended meanwhile was never asked: the next may still be open.
        for _ in 0..pool::IDLE_PER_KEY {
            let Some(pooled) = shelf.take() else { break };
            if let Some(reply) = send_on(pooled, &shelf, route, &mut request, &sent).await? {
                return Ok(reply);
            }
        }
        let begun = Instant::now();
        // Boxed, because it is large and rare: every call would carry room for it.
        let pooled = Box::pin(self.connector.open(route)).await?;
        let connected = Some((begun, Instant::now()));
        if let Pooled::Http2(open) = &pooled {
            shelf.share(open.clone());
        }
        let reply = send_on(pooled, &shelf, route, &mut request, &sent).await?;
        reply.map(|reply| Reply { connected, ..reply }).ok_or(Refusal::OriginProtocol)
    }

    /// A bare connection for bytes that policy lets through unopened.
    ///
    /// # Errors
    /// The refusals of resolving and dialling.
    pub async fn tunnel(&self, _permit: &Permit, route: &Route<'_>) -> Result<(TcpStream, SocketAddr), Refusal> {
        self.connector.dial(route).await
    }

    /// Closes connections that have waited too long or belong to an older configuration.
    pub fn sweep(&self, generation: u64) {
        self.pool.sweep(generation);
    }

    /// Closes all connections that wait.
    pub fn close_idle(&self) {
        self.pool.clear();
    }
}

/// Sends the request, which is taken by that. `None` when the connection did not take it: then it is still there, and
/// nothing of it was sent.
async fn send_on(
    pooled: Pooled,
    shelf: &Arc<Shelf>,
    route: &Route<'_>,
    request: &mut Option<Request<RequestBody>>,
    sent: &Arc<Tally>,
) -> Result<Option<Reply>, Refusal> {
    match pooled {
        Pooled::Http1(open) => send_on_http1(open, shelf, route, request, sent).await,
        Pooled::Http2(open) => Box::pin(send_on_http2(open, route, request, sent)).await,
    }
}

async fn send_on_http1(
    mut open: Http1,
    shelf: &Arc<Shelf>,
    route: &Route<'_>,
    request: &mut Option<Request<RequestBody>>,
    sent: &Arc<Tally>,
) -> Result<Option<Reply>, Refusal> {
    if !open.ready().await {
        return Ok(None);
    }
    if route.http1_only {
        open.detach();
    }
    let response = match open.ask(request, ANSWER_LIMIT).await {
        Ok(response) => response,
        Err(Unanswered::Returned) => return Ok(None),
        Err(Unanswered::Failed) => return Err(failed(sent)),
        Err(Unanswered::Late) => return Err(Refusal::OriginTimeout),
    };
    if !sent.ended() {
        open.detach();
    }
    let peer = open.peer();
    let lease = Http1Lease { shelf: Arc::clone(shelf), open, sent: Arc::clone(sent) };
    Ok(Some(Reply { response, peer, connected: None, lease: Lease(Some(lease)) }))
}

async fn send_on_http2(
    mut open: Http2,
    route: &Route<'_>,
    request: &mut Option<Request<RequestBody>>,
    sent: &Tally,
) -> Result<Option<Reply>, Refusal> {
    if open.sender.ready().await.is_err() {
        return Ok(None);
    }
    let Some(mut taken) = request.take() else { return Ok(None) };
    *taken.version_mut() = Version::HTTP_2;
    taken.headers_mut().remove(HOST);
    let origin_form = std::mem::take(taken.uri_mut());
    *taken.uri_mut() = absolute(origin_form, route.scheme, open.authority.clone());
    match timeout(ANSWER_LIMIT, open.sender.try_send_request(taken)).await {
        Ok(Ok(response)) => Ok(Some(Reply { response, peer: open.peer, connected: None, lease: Lease(None) })),
        Ok(Err(mut error)) => match error.take_message() {
            Some(mut back) => {
                into_origin_form(back.uri_mut());
                *request = Some(back);
                Ok(None)
            }
            None => Err(failed(sent)),
        },
        Err(_) => Err(Refusal::OriginTimeout),
    }
}

/// Why a request that the origin may have seen got no answer.
fn failed(sent: &Tally) -> Refusal {
    if sent.broken() { Refusal::BodyIncomplete } else { Refusal::OriginProtocol }
}

impl Route<'_> {
    fn key(&self) -> Key {
        Key {
            generation: self.generation,
            scheme: self.scheme,
            port: self.port,
            partition: self.partition,
            http1_only: self.http1_only,
        }
    }
}

impl Lease {
    /// Moves what can be moved of the answer, and has the task woken when there is more.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(lease) = &mut self.0 {
            lease.open.drive(cx);
        }
    }

    /// Keeps the connection for the next call. To be called when the answer has passed whole.
    pub fn give_back(self) {
        if let Some(lease) = self.0
            // An origin that answered before it had the whole request may not read the rest of it.
            && lease.sent.ended()
        {
            lease.shelf.keep(lease.open);
        }
    }
}

fn absolute(origin_form: Uri, scheme: Scheme, authority: uri::Authority) -> Uri {
    let mut parts = origin_form.into_parts();
    parts.scheme = Some(match scheme {
        Scheme::Http => uri::Scheme::HTTP,
        Scheme::Https => uri::Scheme::HTTPS,
    });
    parts.authority = Some(authority);
    Uri::from_parts(parts).expect("scheme, authority and path are all present")
}

fn into_origin_form(uri: &mut Uri) {
    let mut parts = std::mem::take(uri).into_parts();
    parts.scheme = None;
    parts.authority = None;
    *uri = Uri::from_parts(parts).expect("a path alone is a URI");
}

/// Model APIs may think for minutes before their first byte; nothing honest takes longer than this.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);
