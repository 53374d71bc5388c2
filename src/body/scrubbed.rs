//! An answer's body that is looked through on its way: plain text as it is, compressed text decoded before.
//!
//! The end of a word waits for what follows it, or for a short pause of the origin.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::{
    Broken,
    coding::{self, Decoder},
};
use crate::secret::scrub::Scrubber;

/// Takes the needles out of an answer's body.
#[derive(Debug)]
pub struct Scrubbed {
    body: Incoming,
    decoder: Option<Decoder>,
    scrubber: Scrubber,
    /// May pass next.
    next: Bytes,
    stage: Stage,
    pause: Pause,
    told: u64,
}

#[derive(Debug)]
enum Stage {
    Reading,
    /// The origin has said all: what was held back passes now, then the trailers.
    Ending(Option<HeaderMap>),
    Ended,
}

impl Scrubbed {
    /// Looks through this body, which is decoded first where there is a decoder.
    pub fn new(body: Incoming, decoder: Option<Decoder>, scrubber: Scrubber) -> Self {
        Self { body, decoder, scrubber, next: Bytes::new(), stage: Stage::Reading, pause: Pause::default(), told: 0 }
    }

    /// How many needles were found since this was last asked.
    pub fn newly_found(&mut self) -> u64 {
        let new = self.scrubber.found() - self.told;
        self.told += new;
        new
    }

    /// Whether nothing more comes.
    pub fn is_end(&self) -> bool {
        match self.stage {
            _ if !self.next.is_empty() => false,
            // What a decoder has left shows only when it is asked.
            Stage::Reading => self.decoder.is_none() && self.body.is_end_stream() && !self.scrubber.holds(),
            Stage::Ending(_) => false,
            Stage::Ended => true,
        }
    }

    /// The next frame. Nothing is made before it is asked for, so that a slow agent slows the origin.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !self.next.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.next)))));
        }
        loop {
            match &mut self.stage {
                Stage::Reading => match self.decoded() {
                    Ok(Some(passing)) => return Poll::Ready(Some(Ok(Frame::data(passing)))),
                    Ok(None) => match self.poll_origin(cx) {
                        Poll::Ready(Some(frame)) => return Poll::Ready(Some(frame)),
                        Poll::Ready(None) => {}
                        Poll::Pending => return self.poll_pause(cx).map(|passing| Some(Ok(Frame::data(passing)))),
                    },
                    Err(broken) => return Poll::Ready(Some(Err(self.broken(broken.into())))),
                },
                Stage::Ending(trailers) => {
                    let trailers = trailers.take();
                    let held = self.scrubber.finish();
                    if held.is_empty() {
                        self.stage = Stage::Ended;
                        return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                    }
                    self.stage = if trailers.is_some() { Stage::Ending(trailers) } else { Stage::Ended };
                    return Poll::Ready(Some(Ok(Frame::data(held))));
                }
                Stage::Ended => return Poll::Ready(None),
            }
        }
    }

    /// How much may come.
    pub fn size_hint(&self) -> SizeHint {
        // What is found is overwritten, which leaves the length as it is.
        if self.decoder.is_none() && !self.scrubber.holds() && self.next.is_empty() {
            self.body.size_hint()
        } else {
            SizeHint::default()
        }
    }

    /// Something that may pass of what was read but not decoded yet.
    fn decoded(&mut self) -> Result<Option<Bytes>, coding::Broken> {
        loop {
            let Some(decoder) = &mut self.decoder else { return Ok(None) };
            let Some(plain) = decoder.plain()? else { return Ok(None) };
            let passing = self.scrubber.push(plain);
            if let Some(passing) = self.one_by_one(passing) {
                return Ok(Some(passing));
            }
        }
    }

    /// Reads on; a frame where one may pass already.
    fn poll_origin(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let trailers = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => return Poll::Ready(self.take(data).map(|passing| Ok(Frame::data(passing)))),
                Err(frame) => frame.into_trailers().ok(),
            },
            Some(Err(error)) => return Poll::Ready(Some(Err(self.broken(Broken::Origin(error))))),
            None => None,
        };
        if let Some(Err(broken)) = self.decoder.as_ref().map(Decoder::finish) {
            return Poll::Ready(Some(Err(self.broken(broken.into()))));
        }
        self.stage = Stage::Ending(trailers);
        Poll::Ready(None)
    }

    /// What may pass because the origin says nothing for a while.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if !self.scrubber.holds() {
            return Poll::Pending;
        }
        ready!(self.pause.poll(cx));
        Some(self.scrubber.pause()).filter(|passing| !passing.is_empty()).map_or(Poll::Pending, Poll::Ready)
    }

    fn take(&mut self, data: Bytes) -> Option<Bytes> {
        self.pause.begins_anew();
        match &mut self.decoder {
            Some(decoder) => {
                decoder.push(data);
                None
            }
            // Nothing comes behind it, so nothing waits for that either.
            None if self.body.is_end_stream() => {
                self.stage = Stage::Ended;
                let passing = self.scrubber.push_last(data);
                self.one_by_one(passing)
            }
            None => {
                let passing = self.scrubber.push(data);
                self.one_by_one(passing)
            }
        }
    }

    /// The first of these that is not empty; the other one is for the next frame.
    fn one_by_one(&mut self, [first, second]: [Bytes; 2]) -> Option<Bytes> {
        if first.is_empty() {
            return Some(second).filter(|second| !second.is_empty());
        }
        self.next = second;
        Some(first)
    }

    fn broken(&mut self, why: Broken) -> Broken {
        self.stage = Stage::Ended;
        why
    }
}

/// The time since something came.
#[derive(Debug, Default)]
struct Pause {
    timer: Option<Pin<Box<Sleep>>>,
    stage: PauseStage,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum PauseStage {
    #[default]
    Idle,
    Running,
    Over,
}

impl Pause {
    fn begins_anew(&mut self) {
        self.stage = PauseStage::Idle;
    }

    /// Ready once, when it is long enough; then not before something came again.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = match self.stage {
            PauseStage::Over => return Poll::Pending,
            PauseStage::Running => self.timer.get_or_insert_with(|| Box::pin(sleep(PAUSE))),
            PauseStage::Idle => {
                self.stage = PauseStage::Running;
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(PAUSE)));
                timer.as_mut().reset(Instant::now() + PAUSE);
                timer
            }
        };
        ready!(timer.as_mut().poll(cx));
        self.stage = PauseStage::Over;
        Poll::Ready(())
    }
}

/// How long an origin has to say nothing. Longer than there is between two parts of what it says at once, and so short that
/// nobody who reads along sees it.
const PAUSE: Duration = Duration::from_millis(10);
