//! What policy is asked: the call, its destination, its task and what was taken away from it.
//!
//! Bodies are held only where policy must see them, up to two limits: one for each body, one for all of them together.

use std::{sync::Arc, time::Duration};

use ::http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::inspect::{Turns, inspected};
use crate::{
    body::RequestBody,
    call::{BodyFacts, Call, Effect, HttpCall, McpCall, Protocol, http as canonical, mcp},
    config::{self, Agent, Limits, Upstream},
    connection::Connection,
    listener::Destination,
    origin::{address::Class, resolve},
    policy::{Decision, Input},
    refusal::{Refusal, answer::Shape},
    secret::{Found, Mode, Treatment, body, placeholder::Placeholders},
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

/// What holding a body needs.
pub struct Held<'a> {
    /// What all held bodies together may still take.
    pub budget: &'a Arc<Semaphore>,
    /// How many large ones may be looked into at one time.
    pub turns: &'a Turns,
    /// The limits of one.
    pub limits: &'a Limits,
    /// The shape that a refusal takes, known once the body is.
    pub shape: &'a mut Shape,
    /// What is done with the secrets in it.
    pub treatment: &'a Treatment,
    /// Where they are noted.
    pub found: &'a mut Vec<Found>,
    /// What has no place in a body.
    pub placeholders: &'a Placeholders,
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
            assurance: self.agent.assurance.now(),
            task: &self.task,
            history: self.task.counts(),
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

impl Question {
    /// Notes for the task what was decided.
    pub fn note(&self, decision: &Decision) {
        let denied = decision.outcome.is_err() || decision.shadowed.is_some();
        self.task.note(&self.call.http.host, denied);
    }
}

/// The leg that a connection's requests come over.
pub fn leg(connection: &Connection) -> canonical::Leg<'_> {
    canonical::Leg {
        scheme: connection.scheme,
        expected: connection.host.as_ref().map(|(host, port)| (host, *port)),
        proxy: matches!(connection.destination, Destination::Proxy),
    }
}

/// Makes the call out of a request whose head was brought into its canonical form.
///
/// # Errors
/// The refusals of malformed messages.
pub fn read(mut parts: Parts, http: HttpCall, upstream: &Upstream, body: &Incoming) -> Result<Call, Refusal> {
    let websocket = canonical::is_websocket(&parts);
    canonical::strip_request(&mut parts.headers)?;
    let (protocol, effect) = match upstream.protocol {
        config::Protocol::Mcp => (Protocol::Mcp, http.effect()),
        // What passes after the upgrade is not seen, so it counts as anything.
        config::Protocol::Http if websocket => (Protocol::WebSocket, Effect::Admin),
        config::Protocol::Http if canonical::is_grpc(&parts.headers) => (Protocol::Grpc, http.effect()),
        config::Protocol::Http => (Protocol::Http, http.effect()),
        config::Protocol::Opaque => {
            return Err(Refusal::UnsupportedProtocol("this destination is reached through a tunnel only"));
        }
    };
    Ok(Call {
        protocol,
        effect,
        http,
        headers: parts.headers,
        body: BodyFacts { size: body.size_hint().exact(), ..BodyFacts::default() },
        mcp: None,
        embedded_urls: Vec::new(),
    })
}

/// Holds the body of an MCP call, and completes the call with what it says.
///
/// # Errors
/// The refusals of malformed, oversized and incomplete messages.
pub async fn hold_mcp(call: &mut Call, body: Incoming, held: Held<'_>) -> Result<RequestBody, Refusal> {
    if call.http.method != Method::POST {
        let message = McpCall::without_body(&call.http.method)?;
        if !body.is_end_stream() {
            return Err(Refusal::MalformedRequest("only POST carries a body here"));
        }
        call.effect = message.effect();
        call.mcp = Some(message);
        return Ok(RequestBody::empty());
    }
    let mut held = held;
    let bytes = hold(body, &call.headers, held.limits, held.budget).await?;
    let message = McpCall::parse(&bytes, &call.headers, held.limits.json_depth)?;
    if let Some(id) = &message.id {
        *held.shape = Shape::JsonRpc { id: id.clone() };
    }
    call.effect = message.effect();
    call.embedded_urls = message.arguments.as_ref().map(mcp::embedded_urls).unwrap_or_default();
    call.body = BodyFacts { inspected: true, size: Some(bytes.len() as u64), json: None };
    call.mcp = Some(message);
    // A message may hold a secret because the tool needs it: it is for the configuration to say that it may not.
    let bytes = inspected(bytes, body::Content::Json, &mut call.headers, &mut held, Mode::Observe).await?;
    Ok(RequestBody::held(bytes))
}

/// Holds the body of a call over plain HTTP and looks for secrets in it, where its destination says so and it is text.
///
/// # Errors
/// The refusals of oversized and incomplete bodies, of what can't be looked into, and of secrets.
pub async fn hold_text(call: &mut Call, body: Incoming, mut held: Held<'_>) -> Result<RequestBody, Refusal> {
    let Some(content) = body::Content::of(&call.headers).filter(|_| !body.is_end_stream()) else {
        return Ok(RequestBody::streamed(body));
    };
    let is_plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !call.headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        return Err(Refusal::UnsupportedProtocol("a compressed body can't be looked into for this destination"));
    }
    let bytes = hold(body, &call.headers, held.limits, held.budget).await?;
    call.body = BodyFacts { inspected: true, size: Some(bytes.len() as u64), json: None };
    let bytes = inspected(bytes, content, &mut call.headers, &mut held, Mode::Redact).await?;
    Ok(RequestBody::held(bytes))
}

/// Holds a body for nothing but its hash.
///
/// # Errors
/// The refusals of oversized and incomplete messages.
pub async fn hold_whole(call: &mut Call, body: RequestBody, held: Held<'_>) -> Result<RequestBody, Refusal> {
    let bytes = hold(body, &call.headers, held.limits, held.budget).await?;
    call.body.size = Some(bytes.len() as u64);
    Ok(RequestBody::held(bytes))
}

/// Collects a body of at most `inspect_bytes`. The room it takes is given back when the last of its bytes is dropped.
async fn hold<B>(body: B, headers: &HeaderMap, limits: &Limits, budget: &Arc<Semaphore>) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limits.inspect_bytes) {
        return Err(Refusal::BodyTooLarge);
    }
    let room = u32::try_from(announced.unwrap_or(limits.inspect_bytes).max(1)).map_err(|_| Refusal::BodyTooLarge)?;
    let room = Arc::clone(budget).try_acquire_many_owned(room).map_err(|_| Refusal::InspectionFull)?;
    let arriving = collect(body, announced.unwrap_or_default(), limits.inspect_bytes);
    // Or an agent could fill the room with bodies that never end.
    let bytes = timeout(ARRIVAL, arriving).await.unwrap_or(Err(Refusal::BodyIncomplete))?;
    Ok(Bytes::from_owner(Inspected { bytes, room }))
}

async fn collect<B>(mut body: B, expected: usize, most: usize) -> Result<BytesMut, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut bytes = BytesMut::with_capacity(expected);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::BodyIncomplete)?;
        // Trailers of a held body are not part of the message, and nothing behind reads them.
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > most {
            return Err(Refusal::BodyTooLarge);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Bytes that were held for policy, and the room that they take.
struct Inspected {
    bytes: BytesMut,
    #[expect(dead_code, reason = "held for its Drop")]
    room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Inspected {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// How long a body that must be held may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    fn limits(inspect_bytes: usize) -> Limits {
        let second = Duration::from_secs(1);
        Limits {
            connections: 1,
            header_bytes: 1024,
            inspect_bytes,
            inspect_total: inspect_bytes,
            json_depth: 8,
            sniff: second,
            connect: second,
            drain: second,
        }
    }

    fn announcing(length: usize) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_LENGTH, length.into())])
    }

    #[tokio::test]
    async fn the_room_of_a_body_is_taken_as_long_as_its_bytes_are_there() {
        let budget = Arc::new(Semaphore::new(8));
        let body = || Full::new(Bytes::from_static(b"hello"));

        let bytes = hold(body(), &announcing(5), &limits(8), &budget).await.expect("there is room");
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!((&*part, budget.available_permits()), (&b"ello"[..], 3));
        let refused = hold(body(), &announcing(5), &limits(8), &budget).await;
        assert!(matches!(refused, Err(Refusal::InspectionFull)));
        drop(part);
        assert_eq!(budget.available_permits(), 8);
    }

    #[tokio::test]
    async fn a_body_larger_than_the_limit_is_refused_announced_or_not() {
        let budget = Arc::new(Semaphore::new(8));
        for headers in [announcing(5), HeaderMap::new(), announcing(1)] {
            let refused = hold(Full::new(Bytes::from_static(b"hello")), &headers, &limits(4), &budget).await;
            assert!(matches!(refused, Err(Refusal::BodyTooLarge)), "{headers:?}");
            assert_eq!(budget.available_permits(), 8);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_gives_its_room_back() {
        let budget = Arc::new(Semaphore::new(8));
        let silent = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>());

        let refused = hold(silent, &HeaderMap::new(), &limits(8), &budget).await;

        assert!(matches!(refused, Err(Refusal::BodyIncomplete)));
        assert_eq!(budget.available_permits(), 8);
    }
}
