//! Bodies stream: they pass frame by frame, trailers included, and are counted on the way.
//!
//! A response's body holds the record of its call, so that the record is finished when the last frame has passed, and
//! also when the agent goes away before that.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::exchange::answer::Ending;

/// What went over the wire so far in one direction.
#[derive(Debug, Default)]
pub struct Tally {
    bytes: AtomicU64,
    ended: AtomicBool,
}

impl Tally {
    /// Data bytes so far; trailers are not counted.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the last frame has passed.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

/// A request's body on its way to the origin.
#[derive(Debug)]
pub struct RequestBody {
    content: Content,
    tally: Arc<Tally>,
}

/// A response's body on its way to the agent.
pub struct ResponseBody {
    content: Content,
    ending: Option<Box<Ending>>,
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
        Self { content: Content::Streamed(body), ending: None }
    }

    /// Sends bytes of our own.
    pub fn held(bytes: impl Into<Bytes>) -> Self {
        Self { content: Content::Held(bytes.into()), ending: None }
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

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(self.content.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.tally.add(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => {}
            None => self.tally.end(),
        }
        if matches!(frame, Some(Ok(_))) && self.content.is_end() {
            self.tally.end();
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

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(self.content.poll_frame(cx));
        let ended = match &frame {
            Some(Ok(frame)) => {
                if let (Some(ending), Some(data)) = (&mut self.ending, frame.data_ref()) {
                    ending.passed(data.len());
                }
                self.content.is_end()
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
