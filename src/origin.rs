//! Sends a permitted request to the permitted address.
//!
//! [`Origins::send`] and [`Origins::tunnel`] take a [`Permit`], which only policy makes: no other way leads out. The name
//! that policy saw is the name that is resolved, dialled and verified.

pub mod address;
pub mod connect;
pub mod pool;
pub mod resolve;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response, Uri, Version, header::HOST, uri};
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    body::{RequestBody, Tally},
    call::http::Scheme,
    config::Upstream,
    policy::Permit,
    refusal::Refusal,
};
use connect::Connector;
use pool::{Http1, Key, Pool, Pooled};

/// All connections to origins.
pub struct Origins {
    connector: Connector,
    pool: Pool,
}

/// Where one permitted call goes.
#[derive(Debug, Clone)]
pub struct Route {
    /// The configured destination.
    pub upstream: Arc<Upstream>,
    /// The configuration that it is from.
    pub generation: u64,
    /// `http` or `https`.
    pub scheme: Scheme,
    /// The canonical host that policy saw.
    pub host: Arc<str>,
    /// The port that policy saw.
    pub port: u16,
    /// The partition of the credential that the call carries, or 0.
    pub partition: u64,
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
    pool: Pool,
    route: Route,
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
        route: &Route,
        mut request: Request<RequestBody>,
    ) -> Result<Reply, Refusal> {
        let sent = request.body().tally();
        if let Some(pooled) = self.pool.take(&route.host, &route.key()) {
            match self.send_on(pooled, route, request, &sent).await {
                Ok(reply) => return Ok(reply),
                Err(Unsent::Returned(returned)) => request = *returned,
                Err(Unsent::Refused(refusal)) => return Err(refusal),
            }
        }
        let begun = Instant::now();
        // Boxed, because it is large and rare: every call would carry room for it.
        let pooled = Box::pin(self.connector.open(route)).await?;
        let connected = Some((begun, Instant::now()));
        if let Pooled::Http2(open) = &pooled {
            self.pool.share(&route.host, &route.key(), open.clone());
        }
        match self.send_on(pooled, route, request, &sent).await {
            Ok(reply) => Ok(Reply { connected, ..reply }),
            Err(Unsent::Returned(_)) => Err(Refusal::OriginProtocol),
            Err(Unsent::Refused(refusal)) => Err(refusal),
        }
    }

    /// A bare connection for bytes that policy lets through unopened.
    ///
    /// # Errors
    /// The refusals of resolving and dialling.
    pub async fn tunnel(&self, _permit: &Permit, route: &Route) -> Result<(TcpStream, SocketAddr), Refusal> {
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

    async fn send_on(
        &self,
        pooled: Pooled,
        route: &Route,
        mut request: Request<RequestBody>,
        sent: &Arc<Tally>,
    ) -> Result<Reply, Unsent> {
        match pooled {
            Pooled::Http1(mut open) => {
                if open.sender.ready().await.is_err() {
                    return Err(Unsent::Returned(Box::new(request)));
                }
                *request.version_mut() = Version::HTTP_11;
                request.headers_mut().insert(HOST, open.host.clone());
                let response = answered(open.sender.try_send_request(request), sent).await?;
                let peer = open.peer;
                let lease = Http1Lease { pool: self.pool.clone(), route: route.clone(), open, sent: Arc::clone(sent) };
                Ok(Reply { response, peer, connected: None, lease: Lease(Some(lease)) })
            }
            Pooled::Http2(mut open) => {
                if open.sender.ready().await.is_err() {
                    return Err(Unsent::Returned(Box::new(request)));
                }
                *request.version_mut() = Version::HTTP_2;
                request.headers_mut().remove(HOST);
                let origin_form = std::mem::take(request.uri_mut());
                *request.uri_mut() = absolute(origin_form, route.scheme, open.authority.clone());
                let response = answered(open.sender.try_send_request(request), sent).await.map_err(into_origin_form)?;
                Ok(Reply { response, peer: open.peer, connected: None, lease: Lease(None) })
            }
        }
    }
}

impl Route {
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
    /// Keeps the connection for the next call. To be called when the answer has passed whole.
    pub fn give_back(self) {
        if let Some(lease) = self.0
            // An origin that answered before it had the whole request may not read the rest of it.
            && lease.sent.ended()
        {
            lease.pool.keep(&lease.route.host, &lease.route.key(), lease.open);
        }
    }
}

/// Why a connection gave no answer.
enum Unsent {
    /// The request was not sent: it can go over another connection.
    Returned(Box<Request<RequestBody>>),
    /// The origin may have seen it.
    Refused(Refusal),
}

async fn answered(
    answer: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>,
    sent: &Tally,
) -> Result<Response<Incoming>, Unsent> {
    match timeout(ANSWER_LIMIT, answer).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(mut error)) => Err(match error.take_message() {
            Some(request) => Unsent::Returned(Box::new(request)),
            None if sent.broken() => Unsent::Refused(Refusal::BodyIncomplete),
            None => Unsent::Refused(Refusal::OriginProtocol),
        }),
        Err(_) => Err(Unsent::Refused(Refusal::OriginTimeout)),
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

fn into_origin_form(unsent: Unsent) -> Unsent {
    match unsent {
        Unsent::Returned(mut request) => {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = None;
            parts.authority = None;
            *request.uri_mut() = Uri::from_parts(parts).expect("a path alone is a URI");
            Unsent::Returned(request)
        }
        refused @ Unsent::Refused(_) => refused,
    }
}

/// Model APIs may think for minutes before their first byte; nothing honest takes longer than this.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);
