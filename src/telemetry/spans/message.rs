//! A span as OTLP has it: the fields of `opentelemetry.proto.trace.v1.Span`.

use std::{
    borrow::Cow,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::attributes::{self, Attributes};
use crate::{
    audit::{Ended, PhaseFacts},
    telemetry::{
        protobuf::{Value, Writer},
        trace::{SpanId, TraceId},
    },
};

/// One span, of a call or of a phase of it.
pub(super) struct Span<'a> {
    pub(super) ended: &'a Ended<'a>,
    pub(super) about: About,
    pub(super) name: &'static str,
    pub(super) id: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    pub(super) error: Option<Cow<'static, str>>,
}

/// What a span is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    Call,
    Phase,
}

impl<'a> Span<'a> {
    /// The span of the call itself.
    pub(super) fn of_call(ended: &'a Ended<'a>) -> Self {
        Self {
            ended,
            about: About::Call,
            name: attributes::name(ended.facts),
            id: ended.trace.span_id(),
            parent: ended.trace.parent(),
            start: ended.began,
            end: ended.began + ended.elapsed,
            error: attributes::error_type(ended),
        }
    }

    /// The span of a phase, below the call's.
    pub(super) fn of_phase(ended: &'a Ended<'a>, phase: &PhaseFacts) -> Self {
        Self {
            ended,
            about: About::Phase,
            name: phase.phase.as_str(),
            id: SpanId::random(),
            parent: Some(ended.trace.span_id()),
            start: at(ended, phase.started),
            end: at(ended, phase.ended),
            error: phase.error.map(Cow::Borrowed),
        }
    }

    pub(super) fn trace_id(&self) -> TraceId {
        self.ended.trace.trace_id()
    }

    /// The part of the duration that is ours alone.
    pub(super) fn overhead(&self) -> Duration {
        match self.about {
            About::Call => self.ended.facts.overhead,
            About::Phase => Duration::ZERO,
        }
    }

    /// Says all that is known.
    pub(super) fn attributes(&self, to: &mut impl Attributes) {
        match self.about {
            About::Call => attributes::of_call(self.ended, to),
            About::Phase => {}
        }
        to.known("error.type", self.error.as_deref());
    }

    /// Writes the span as one of a `ScopeSpans`. The agent's `tracestate` stays out: it is a text of the agent's that may
    /// hold anything.
    pub(super) fn write(&self, to: &mut Writer) {
        to.message(SPANS, |to| {
            to.bytes(1, &self.trace_id().0.to_be_bytes());
            to.bytes(2, &self.id.0.to_be_bytes());
            if let Some(parent) = self.parent {
                to.bytes(4, &parent.0.to_be_bytes());
            }
            to.text(5, self.name);
            to.number(6, self.kind());
            to.fixed64(7, nanoseconds(self.start));
            to.fixed64(8, nanoseconds(self.end));
            self.attributes(&mut KeyValues(to));
            if let Some(error) = &self.error {
                to.message(15, |to| {
                    to.text(2, error);
                    to.number(3, STATUS_CODE_ERROR);
                });
            }
            to.fixed32(16, self.flags());
        });
    }

    fn kind(&self) -> u64 {
        match self.about {
            About::Call => SPAN_KIND_CLIENT,
            About::Phase => SPAN_KIND_INTERNAL,
        }
    }

    fn flags(&self) -> u32 {
        let remote = self.about == About::Call && self.parent.is_some();
        SAMPLED | CONTEXT_HAS_IS_REMOTE | if remote { CONTEXT_IS_REMOTE } else { 0 }
    }
}

/// Writes attributes into a `Span`.
struct KeyValues<'a>(&'a mut Writer);

impl Attributes for KeyValues<'_> {
    fn put<'a>(&mut self, name: &'static str, value: impl Into<Value<'a>>) {
        self.0.key_value(9, name, value.into());
    }
}

fn at(ended: &Ended<'_>, moment: Instant) -> SystemTime {
    ended.began + moment.saturating_duration_since(ended.start)
}

/// Since 1970; zero, which is "unknown", before it, and enough until 2554.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(0)
}

const SPANS: u32 = 2;
const SPAN_KIND_INTERNAL: u64 = 1;
const SPAN_KIND_CLIENT: u64 = 3;
const STATUS_CODE_ERROR: u64 = 2;
const SAMPLED: u32 = 1;
const CONTEXT_HAS_IS_REMOTE: u32 = 0x100;
const CONTEXT_IS_REMOTE: u32 = 0x200;
