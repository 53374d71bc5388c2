//! An answer's body that is looked through on its way: plain text as it is, compressed text decoded before.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

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
    stage: Stage,
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
        Self { body, decoder, scrubber, stage: Stage::Reading, told: 0 }
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
            // What a decoder has left shows only when it is asked.
            Stage::Reading => self.decoder.is_none() && self.body.is_end_stream() && !self.scrubber.holds(),
            Stage::Ending(_) => false,
            Stage::Ended => true,
        }
    }

    /// The next frame. Nothing is made before it is asked for, so that a slow agent slows the origin.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match &mut self.stage {
                Stage::Reading => match self.decoded() {
                    Ok(Some(passing)) => return Poll::Ready(Some(Ok(Frame::data(passing)))),
                    Ok(None) => {
                        if let Some(frame) = ready!(self.poll_origin(cx)) {
                            return Poll::Ready(Some(frame));
                        }
                    }
                    Err(broken) => return Poll::Ready(Some(Err(self.broken(broken.into())))),
                },
                Stage::Ending(trailers) => {
                    let held = self.scrubber.finish();
                    if !held.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(held))));
                    }
                    let trailers = trailers.take();
                    self.stage = Stage::Ended;
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Stage::Ended => return Poll::Ready(None),
            }
        }
    }

    /// How much may come.
    pub fn size_hint(&self) -> SizeHint {
        // What is found is overwritten, which leaves the length as it is.
        if self.decoder.is_none() && !self.scrubber.holds() { self.body.size_hint() } else { SizeHint::default() }
    }

    /// Something that may pass of what was read but not decoded yet.
    fn decoded(&mut self) -> Result<Option<Bytes>, coding::Broken> {
        let Some(decoder) = &mut self.decoder else { return Ok(None) };
        while let Some(plain) = decoder.plain()? {
            let passing = self.scrubber.push(plain);
            if !passing.is_empty() {
                return Ok(Some(passing));
            }
        }
        Ok(None)
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

    fn take(&mut self, data: Bytes) -> Option<Bytes> {
        match &mut self.decoder {
            Some(decoder) => {
                decoder.push(data);
                None
            }
            None => Some(self.scrubber.push(data)).filter(|passing| !passing.is_empty()),
        }
    }

    fn broken(&mut self, why: Broken) -> Broken {
        self.stage = Stage::Ended;
        why
    }
}
