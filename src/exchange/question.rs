//! What policy is asked: the call, its destination, its task and what was taken away from it.
//!
//! Bodies are held only where policy must see them, up to two limits: one for each body, one for all of them together.

use std::sync::Arc;

use ::http::{HeaderMap, Method, header, request::Parts};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    body::RequestBody,
    call::{BodyFacts, Call, HttpCall, McpCall, Protocol, http as canonical, mcp},
    config::{self, Agent, Limits, Upstream},
    connection::Connection,
    listener::Destination,
    origin::{address::Class, resolve},
    policy::Input,
    refusal::{Refusal, answer::Shape},
    secret::Found,
    task::Task,
};

/// Everything that one decision is about. Owned, so that a long tunnel can ask again.
#[derive(Debug)]
pub struct Question {
    /// The call.
    pub call: Call,
    /// Its destination.
    pub upstream: Arc<Upstream>,
    /// The task that it belongs to.
    pub task: Arc<Task>,
    /// Who asks.
    pub agent: Arc<Agent>,
    /// What was taken away.
    pub secrets: Vec<Found>,
    /// `intercept`, `passthrough` or `none`.
    pub tls: &'static str,
}

/// A request whose head has been read.
pub struct Described {
    /// Its head, without the secrets that it had.
    pub parts: Parts,
    /// Its canonical form.
    pub http: HttpCall,
    /// Its destination.
    pub upstream: Arc<Upstream>,
    /// The task that it belongs to.
    pub task: Arc<Task>,
    /// Who asks.
    pub agent: Arc<Agent>,
    /// What was taken away.
    pub secrets: Vec<Found>,
}

/// What holding a body needs.
pub struct Held<'a> {
    /// What all held bodies together may still take.
    pub budget: &'a Semaphore,
    /// The limits of one.
    pub limits: &'a Limits,
    /// The shape that a refusal takes, known once the body is.
    pub shape: &'a mut Shape,
}

impl Question {
    /// The document that policy sees.
    pub fn input(&self) -> Input<'_> {
        let ip = match self.upstream.addresses.as_slice() {
            // Policy is asked before a name is resolved, so that a denied name never leaves in a query.
            [] => resolve::literal(&self.call.http.host),
            [pinned, ..] => Some(*pinned),
        };
        Input {
            agent: &self.agent,
            task: &self.task,
            call: &self.call,
            upstream: &self.upstream,
            ip,
            ip_class: ip.map(|ip| Class::of(ip).as_str()),
            tls: self.tls,
            credential: self.upstream.credential.as_deref(),
            secrets: &self.secrets,
        }
    }
}

/// The leg that a connection's requests come over.
pub fn leg(connection: &Connection) -> canonical::Leg<'_> {
    canonical::Leg {
        scheme: connection.scheme,
        expected: connection.host.as_ref().map(|(host, port)| (&**host, *port)),
        proxy: matches!(connection.destination, Destination::Proxy),
    }
}

/// Makes the question out of a described request, holding its body where the destination's protocol is inside it.
///
/// # Errors
/// The refusals of malformed, oversized and incomplete messages.
pub async fn ask(described: Described, body: Incoming, held: Held<'_>) -> Result<(Question, RequestBody), Refusal> {
    let Described { mut parts, http, upstream, task, agent, secrets } = described;
    let websocket = canonical::is_websocket(&parts);
    let tls = match http.scheme {
        canonical::Scheme::Http => "none",
        canonical::Scheme::Https => "intercept",
    };
    canonical::strip_hop_by_hop(&mut parts.headers, false)?;
    canonical::strip_identity(&mut parts.headers);
    canonical::strip_rewrites(&mut parts.headers);
    let mut call = Call {
        protocol: Protocol::Http,
        effect: http.effect(),
        http,
        headers: parts.headers,
        body: BodyFacts { size: body.size_hint().exact(), ..BodyFacts::default() },
        mcp: None,
        embedded_urls: Vec::new(),
    };
    let body = match upstream.protocol {
        // Boxed, because other calls would carry room for it.
        config::Protocol::Mcp => Box::pin(hold_mcp(&mut call, body, held)).await?,
        config::Protocol::Http => {
            if websocket {
                call.protocol = Protocol::WebSocket;
            } else if canonical::is_grpc(&call.headers) {
                call.protocol = Protocol::Grpc;
            }
            RequestBody::streamed(body)
        }
        config::Protocol::Opaque => {
            return Err(Refusal::UnsupportedProtocol("this destination is reached through a tunnel only"));
        }
    };
    Ok((Question { call, upstream, task, agent, secrets, tls }, body))
}

async fn hold_mcp(call: &mut Call, body: Incoming, held: Held<'_>) -> Result<RequestBody, Refusal> {
    call.protocol = Protocol::Mcp;
    if call.http.method != Method::POST {
        let message = McpCall::without_body(&call.http.method)?;
        if !body.is_end_stream() {
            return Err(Refusal::MalformedRequest("only POST carries a body here"));
        }
        call.effect = message.effect();
        call.mcp = Some(message);
        return Ok(RequestBody::empty());
    }
    let (bytes, _room) = hold(body, &call.headers, held.limits, held.budget).await?;
    let message = McpCall::parse(&bytes, &call.headers, held.limits.json_depth)?;
    if let Some(id) = &message.id {
        *held.shape = Shape::JsonRpc { id: id.clone() };
    }
    call.effect = message.effect();
    call.embedded_urls = message.arguments.as_ref().map(mcp::embedded_urls).unwrap_or_default();
    call.body = BodyFacts { inspected: true, size: Some(bytes.len() as u64), json: None };
    call.mcp = Some(message);
    Ok(RequestBody::held(bytes))
}

/// Collects a body of at most `inspect_bytes`. The room it takes is given back when the permit is dropped.
async fn hold<'a>(
    mut body: Incoming,
    headers: &HeaderMap,
    limits: &Limits,
    budget: &'a Semaphore,
) -> Result<(Bytes, SemaphorePermit<'a>), Refusal> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limits.inspect_bytes) {
        return Err(Refusal::BodyTooLarge);
    }
    let room = announced.unwrap_or(limits.inspect_bytes).max(1);
    let room = u32::try_from(room).map_err(|_| Refusal::BodyTooLarge)?;
    let permit = budget.try_acquire_many(room).map_err(|_| Refusal::InspectionFull)?;
    let mut bytes = BytesMut::with_capacity(announced.unwrap_or_default());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::BodyIncomplete)?;
        // Trailers of a held body are not part of the message, and nothing behind reads them.
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limits.inspect_bytes {
            return Err(Refusal::BodyTooLarge);
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes.freeze(), permit))
}
