//! Bodies stream: they pass frame by frame and are counted on the way. Trailers pass where they can't change what was
//! decided.
//!
//! A response's body holds the record of its call, so that the record is finished when the last frame has passed, and
//! also when the agent goes away before that. Nothing of the request's body passes after that record.
//!
//! The body that answers a call with a credential is looked through for it, and decoded for that where it is compressed.

pub mod coding;
mod scrubbed;

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::{
    call::http as canonical,
    exchange::answer::Ending,
    refusal::Refusal,
    secret::{
        Found,
        scrub::{Needles, Scrubber},
        strip::strip_trailers,
    },
};
use coding::{Coding, Decoder};
use scrubbed::Scrubbed;

/// What the agent sent so far in one call, and whether more of it may pass.
#[derive(Debug, Default)]
pub struct Tally {
    bytes: AtomicU64,
    ended: AtomicBool,
    broken: AtomicBool,
    stopped: AtomicBool,
    waiting: AtomicWaker,
    secrets: OnceLock<Vec<Found>>,
}

impl Tally {
    /// Data bytes so far; trailers are not counted.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Whether the last frame has passed.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether the agent broke off, or broke the protocol, before the last frame.
    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// The secrets that were taken from the trailers.
    pub fn secrets(&self) -> &[Found] {
        self.secrets.get().map_or(&[], Vec::as_slice)
    }

    /// Lets nothing more pass: the call is over.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.waiting.wake();
    }

    /// Counts before asking whether it may pass, in the same total order as [`Self::stop`] and then [`Self::bytes`]: what
    /// is not in the count of a stopped call has not passed.
    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

/// Why a request's body ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// The agent broke off, or broke the protocol.
    #[error("the agent broke off its request")]
    Broken(#[source] hyper::Error),
    /// The call ended while the agent was still sending. The source has HTTP/2 reset the stream as one that is no longer
    /// needed.
    #[error("the call is over")]
    Over(#[source] h2::Error),
}

/// Why a response's body ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The origin broke off, or broke the protocol.
    #[error("the origin broke off its answer")]
    Origin(#[source] hyper::Error),
    /// Nothing more of it may pass. The source has HTTP/2 reset the stream.
    #[error("the answer may not pass any longer")]
    Withdrawn(#[source] h2::Error),
    /// It can't be decoded, so it can't be looked through.
    #[error(transparent)]
    Coding(#[from] coding::Broken),
}

/// A request's body on its way to the origin.
#[derive(Debug)]
pub struct RequestBody {
    content: Content,
    tally: Arc<Tally>,
}

/// A response's body on its way to the agent.
pub struct ResponseBody {
    content: Passing,
    ending: Option<Box<Ending>>,
}

type NextFrame = Option<Result<Frame<Bytes>, Broken>>;

/// What a response's body is made of.
enum Passing {
    AsItIs(Content),
    Scrubbed(Box<Scrubbed>),
}

#[derive(Debug)]
enum Content {
    Streamed(Incoming),
    Held(Bytes),
}

impl RequestBody {
    /// Passes the agent's body on as it comes.
    pub fn streamed(body: Incoming) -> Self {
        Self::new(Content::Streamed(body))
    }

    /// Sends bytes that were held for policy.
    pub fn held(bytes: Bytes) -> Self {
        Self::new(Content::Held(bytes))
    }

    /// No body.
    pub fn empty() -> Self {
        Self::held(Bytes::new())
    }

    /// Reads what is left and throws it away, up to a limit, so that an HTTP/1.1 connection whose request was refused can
    /// be used again. Past the limit the connection ends.
    pub async fn discard(mut self) {
        let mut left = DISCARDED;
        let all = async {
            while let Some(Ok(frame)) = poll_fn(|cx| self.content.poll_frame(cx)).await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(length) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        };
        // Whichever comes first; the connection shows the rest.
        let _ = timeout(DISCARDING, all).await;
    }

    /// Its bytes, where they are all at hand.
    pub fn at_hand(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Held(bytes) => Some(bytes),
            Content::Streamed(body) => http_body::Body::is_end_stream(body).then_some(&[]),
        }
    }

    /// Counts what is sent.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    fn new(content: Content) -> Self {
        let tally = Arc::new(Tally::default());
        if content.is_end() {
            tally.end();
        }
        Self { content, tally }
    }
}

impl ResponseBody {
    /// Passes the origin's body on as it comes.
    pub fn streamed(body: Incoming) -> Self {
        Self { content: Passing::AsItIs(Content::Streamed(body)), ending: None }
    }

    /// Passes the origin's body on as it comes, without the needles that stand in it. A compressed one is decoded.
    pub fn scrubbed(body: Incoming, coding: Option<Coding>, needles: &Arc<Needles>) -> Self {
        let scrubber = Scrubber::new(Arc::clone(needles));
        let scrubbed = Scrubbed::new(body, coding.map(Decoder::new), scrubber);
        Self { content: Passing::Scrubbed(Box::new(scrubbed)), ending: None }
    }

    /// Sends bytes of our own.
    pub fn held(bytes: impl Into<Bytes>) -> Self {
        Self { content: Passing::AsItIs(Content::Held(bytes.into())), ending: None }
    }

    /// Tells `ending` what passes, and when the last frame has.
    pub fn with_end(mut self, ending: Ending) -> Self {
        if self.content.is_end() {
            ending.complete();
        } else {
            self.ending = Some(Box::new(ending));
        }
        self
    }
}

impl ResponseBody {
    /// The next frame, or why no further one may pass.
    fn permitted_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<NextFrame, Refusal>> {
        loop {
            if let Some(refusal) = self.ending.as_ref().and_then(|ending| ending.withdrawn()) {
                return Poll::Ready(Err(refusal));
            }
            if let Poll::Ready(frame) = self.next_frame(cx) {
                return Poll::Ready(Ok(frame));
            }
            // Only who waits has to be told: what goes on asks with every frame.
            if self.ending.as_mut().is_none_or(|ending| ending.poll_changed(cx).is_pending()) {
                return Poll::Pending;
            }
        }
    }

    /// Ends it before its end; what the origin still sends goes nowhere.
    fn cut(&mut self, refusal: Refusal) -> Broken {
        self.content = Passing::AsItIs(Content::Held(Bytes::new()));
        if let Some(ending) = self.ending.take() {
            ending.refused(refusal);
        }
        Broken::Withdrawn(h2::Reason::CANCEL.into())
    }

    /// Asking for a frame comes before moving the origin's bytes: hyper reads a body only as far as it is wanted.
    fn next_frame(&mut self, cx: &mut Context<'_>) -> Poll<NextFrame> {
        let polled = self.content.poll_frame(cx);
        match &mut self.ending {
            Some(ending) if polled.is_pending() => {
                ending.lease.drive(cx);
                self.content.poll_frame(cx)
            }
            _ => polled,
        }
    }
}

impl Passing {
    fn is_end(&self) -> bool {
        match self {
            Self::AsItIs(content) => content.is_end(),
            Self::Scrubbed(scrubbed) => scrubbed.is_end(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<NextFrame> {
        match self {
            Self::AsItIs(content) => content.poll_frame(cx).map_err(Broken::Origin),
            Self::Scrubbed(scrubbed) => scrubbed.poll_frame(cx),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::AsItIs(content) => content.size_hint(),
            Self::Scrubbed(scrubbed) => scrubbed.size_hint(),
        }
    }

    /// How many needles were found since this was last asked.
    fn newly_found(&mut self) -> u64 {
        match self {
            Self::AsItIs(_) => 0,
            Self::Scrubbed(scrubbed) => scrubbed.newly_found(),
        }
    }
}

impl Content {
    fn is_end(&self) -> bool {
        match self {
            Self::Streamed(body) => http_body::Body::is_end_stream(body),
            Self::Held(bytes) => bytes.is_empty(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Streamed(body) => http_body::Body::poll_frame(Pin::new(body), cx),
            Self::Held(bytes) if bytes.has_remaining() => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Held(_) => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(body) => http_body::Body::size_hint(body),
            Self::Held(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

impl RequestBody {
    /// Counts a frame and takes from it what must not pass. `None` when nothing is left of it, which ends the body.
    fn passing(&self, mut frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let Some(trailers) = frame.trailers_mut() else {
            self.tally.add(frame.data_ref().map_or(0, Bytes::len));
            if self.content.is_end() {
                self.tally.end();
            }
            return Some(frame);
        };
        canonical::strip_request_trailers(trailers);
        let secrets = strip_trailers(trailers);
        if !secrets.is_empty() {
            // Trailers come once.
            let _ = self.tally.secrets.set(secrets);
        }
        let nothing_left = trailers.is_empty();
        self.tally.end();
        if nothing_left { None } else { Some(frame) }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let polled = match self.content.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(self.passing(frame).map(Ok)),
            Poll::Ready(Some(Err(error))) => {
                self.tally.broken.store(true, Ordering::Release);
                Poll::Ready(Some(Err(Cut::Broken(error))))
            }
            Poll::Ready(None) => {
                self.tally.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                self.tally.waiting.register(cx.waker());
                Poll::Pending
            }
        };
        // Asked last, so that what is found to be permitted has been counted.
        if self.tally.is_stopped() { Poll::Ready(Some(Err(Cut::Over(h2::Reason::CANCEL.into())))) } else { polled }
    }

    fn is_end_stream(&self) -> bool {
        let ended = self.content.is_end();
        if ended {
            // The end may have come alone, after the last frame; then nobody asks for a frame again.
            self.tally.end();
        }
        ended
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut frame = match ready!(self.permitted_frame(cx)) {
            Ok(frame) => frame,
            Err(refusal) => return Poll::Ready(Some(Err(self.cut(refusal)))),
        };
        let found = self.content.newly_found();
        let ended = match &mut frame {
            Some(Ok(frame)) => {
                if let (Some(ending), Some(data)) = (&mut self.ending, frame.data_ref()) {
                    ending.passed(data.len(), found);
                }
                if let Some(trailers) = frame.trailers_mut() {
                    if let Some(ending) = &mut self.ending {
                        ending.keep(trailers);
                    }
                    canonical::strip_response_trailers(trailers);
                    true
                } else {
                    self.content.is_end()
                }
            }
            Some(Err(_)) => {
                if let Some(ending) = self.ending.take() {
                    ending.broken();
                }
                false
            }
            None => true,
        };
        if ended && let Some(ending) = self.ending.take() {
            ending.complete();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

/// What of a refused request is read at the most: a client that has more to send finds the connection closed.
const DISCARDED: usize = 4 << 20;
const DISCARDING: Duration = Duration::from_secs(5);
