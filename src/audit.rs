//! One record per call, whatever happens to it.
//!
//! A [`Record`] is begun with the call and ends exactly once: finished by the exchange, or by being dropped, which is how
//! an agent that goes away and a panic look from here. At that moment the audit line, the spans and the metrics are all
//! made from the same [`Facts`], so that they never disagree. Nothing is sampled but spans.
//!
//! [`Record::commit`] stands before forwarding: a call whose record can't be kept is refused.

pub mod chain;
pub mod facts;
pub mod file;
mod intents;
mod line;
mod rotation;
mod spool;
#[cfg(test)]
pub(crate) mod testing;
mod writer;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderName, HeaderValue};

use crate::{
    call::Protocol,
    config::{self, Mode},
    listener::Destination,
    policy::{CacheUse, Decision},
    refusal::Refusal,
    telemetry::{Metrics, Spans, TraceContext},
};
pub(crate) use facts::version;
pub use facts::{AnswerFacts, CallFacts, CredentialFacts, DecisionFacts, Facts, Scrubbed, Verdict};

/// Begins records, and knows where they go. Cheap to clone.
#[derive(Clone)]
pub struct Recorder(Arc<Sinks>);

struct Sinks {
    agent: Arc<config::Agent>,
    // The members that are the same in every line, written once.
    fixed: Box<[u8]>,
    shadow: AtomicBool,
    audit: Option<file::Log>,
    spans: Spans,
    metrics: Arc<Metrics>,
}

/// The record of one call. Ends exactly once.
pub struct Record {
    /// What is known so far.
    pub facts: Box<Facts>,
    recorder: Recorder,
    id: DecisionId,
    trace: TraceContext,
    began: SystemTime,
    start: Instant,
    phases: Vec<PhaseFacts>,
    committed: bool,
    ended: bool,
}

/// Names one call: to the agent, in its record and on its span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId(uuid::Uuid);

/// The text of a [`DecisionId`], without a place on the heap.
pub(crate) struct DecisionText([u8; uuid::fmt::Hyphenated::LENGTH]);

/// A part of a call that has a span of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Policy was evaluated. An answer from the cache has no span: `tollgate.decision.cached` says so.
    Policy,
    /// A credential was had from its issuer or the store.
    Credential,
    /// A connection to the origin was opened.
    Connect,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The origin's answer reached the agent whole.
    Completed,
    /// The agent got our answer instead of the origin's.
    Refused,
    /// The origin's answer broke off, or there was none.
    Failed,
    /// The agent went away.
    Abandoned,
    /// A tunnel was closed.
    Closed,
    /// The sidecar stopped without finishing the record; written at its next start.
    Interrupted,
}

/// What lines, spans and metrics are made of.
pub(crate) struct Ended<'a> {
    pub(crate) agent: &'a config::Agent,
    /// The mode that the call was decided in.
    pub(crate) mode: Mode,
    pub(crate) id: DecisionId,
    pub(crate) trace: &'a TraceContext,
    pub(crate) began: SystemTime,
    pub(crate) start: Instant,
    pub(crate) elapsed: Duration,
    pub(crate) outcome: Outcome,
    /// Whether the call may have reached the origin.
    pub(crate) forwarded: bool,
    pub(crate) phases: &'a [PhaseFacts],
    pub(crate) facts: &'a Facts,
}

/// When a phase was, and how it failed.
#[derive(Debug)]
pub(crate) struct PhaseFacts {
    pub(crate) phase: Phase,
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    pub(crate) error: Option<&'static str>,
}

impl Recorder {
    /// A recorder for this agent. Without an audit file records still become spans and metrics.
    pub fn new(
        agent: Arc<config::Agent>,
        mode: Mode,
        audit: Option<file::Log>,
        spans: Spans,
        metrics: Arc<Metrics>,
    ) -> Self {
        let fixed = line::fixed(&agent);
        let shadow = AtomicBool::new(mode == Mode::Shadow);
        metrics.adopt(spans.dropped());
        Self(Arc::new(Sinks { agent, fixed, shadow, audit, spans, metrics }))
    }

    /// The mode from now on, told of calls that end without a decision.
    pub fn enter(&self, mode: Mode) {
        self.0.shadow.store(mode == Mode::Shadow, Ordering::Relaxed);
    }

    /// Begins the record of a call that arrives now.
    pub fn begin(&self, trace: TraceContext) -> Record {
        Record {
            facts: Box::default(),
            recorder: self.clone(),
            id: DecisionId::new(),
            trace,
            began: SystemTime::now(),
            start: Instant::now(),
            phases: Vec::new(),
            committed: false,
            ended: false,
        }
    }

    /// The metrics that records go into.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Where spans go.
    pub fn spans(&self) -> &Spans {
        &self.0.spans
    }

    /// The audit file, where there is one.
    pub fn audit(&self) -> Option<&file::Log> {
        self.0.audit.as_ref()
    }

    fn record(&self, ended: &Ended<'_>) {
        let sinks = &*self.0;
        if let Some(log) = &sinks.audit {
            log.append(ended.id, &line::body(ended, &sinks.fixed), ended.forwarded);
        }
        sinks.spans.record(ended);
        sinks.metrics.record(ended);
    }
}

impl Record {
    /// The call's name, shown to the agent as `tollgate-decision`.
    pub fn decision_id(&self) -> DecisionId {
        self.id
    }

    /// Where the call stands in its trace, with our own span's identifier.
    pub fn trace(&self) -> &TraceContext {
        &self.trace
    }

    /// When the call began.
    pub fn started(&self) -> Instant {
        self.start
    }

    /// Notes where the call's connection leads, which is known before anything was parsed.
    pub fn heads_for(&mut self, destination: &Destination) {
        if let Some((host, port)) = destination.name() {
            self.facts.call.host = host.into();
            self.facts.call.port = port;
        }
        if let Destination::Dialled { addr, .. } = destination {
            self.facts.ip = Some(*addr);
        }
    }

    /// Notes what policy said since `begun`. An answer from the cache took no time worth a span.
    pub fn decided(&mut self, decision: &Decision, mode: Mode, begun: Instant) {
        if decision.cache != CacheUse::Hit {
            let error = decision.outcome.as_ref().err().map(|denial| Refusal::Denied(denial.clone()).label());
            self.phase(Phase::Policy, begun, Instant::now(), error);
        }
        self.facts.decision = Some(DecisionFacts::new(decision, mode));
    }

    /// Notes a phase for a span of its own.
    pub fn phase(&mut self, phase: Phase, started: Instant, ended: Instant, error: Option<&'static str>) {
        self.phases.push(PhaseFacts { phase, started, ended, error });
    }

    /// Makes sure that the record will be kept; called right before forwarding. With durable records the intent is on
    /// disk when this returns.
    ///
    /// # Errors
    ///
    /// [`Refusal::AuditUnavailable`] when the audit file can't be written or too much waits for it.
    pub async fn commit(&mut self) -> Result<(), Refusal> {
        let Some(log) = self.recorder.0.audit.clone() else {
            self.committed = true;
            return Ok(());
        };
        // From here on the end of this call is kept even when the spool is full: it may have had an effect.
        self.committed = log.writable();
        if self.committed && log.durable() {
            let intent = line::body(&self.as_ended(Outcome::Interrupted), &self.recorder.0.fixed);
            self.committed = Box::pin(log.intend(self.id, intent)).await;
        }
        if self.committed { Ok(()) } else { Err(Refusal::AuditUnavailable) }
    }

    /// Ends the record with the outcome that the facts tell.
    pub fn finish(mut self) {
        let outcome = if self.facts.refusal.is_some() {
            Outcome::Refused
        } else if self.facts.abandoned {
            Outcome::Abandoned
        } else if self.facts.origin_error.is_some() {
            Outcome::Failed
        } else if self.facts.call.protocol == Some(Protocol::Tunnel) {
            Outcome::Closed
        } else if self.facts.status.is_some() {
            Outcome::Completed
        } else {
            Outcome::Failed
        };
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.ended, true) {
            if let Some(sent) = &self.facts.sent {
                // Nothing passes after its record.
                sent.stop();
                self.facts.secrets.extend_from_slice(sent.secrets());
            }
            self.recorder.record(&self.as_ended(outcome));
        }
    }

    fn as_ended(&self, outcome: Outcome) -> Ended<'_> {
        let sinks = &*self.recorder.0;
        let enforced = match &self.facts.decision {
            Some(decision) => decision.enforced,
            None => !sinks.shadow.load(Ordering::Relaxed),
        };
        Ended {
            agent: &sinks.agent,
            mode: if enforced { Mode::Enforce } else { Mode::Shadow },
            id: self.id,
            trace: &self.trace,
            began: self.began,
            start: self.start,
            elapsed: self.start.elapsed(),
            outcome,
            forwarded: self.committed,
            phases: &self.phases,
            facts: &self.facts,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.facts.refusal.is_some() {
            self.end(Outcome::Refused);
        } else if std::thread::panicking() {
            self.facts.origin_error = Some("panicked");
            self.end(Outcome::Failed);
        } else {
            self.end(Outcome::Abandoned);
        }
    }
}

impl DecisionId {
    /// A new one. Without the shared counter of `Uuid::now_v7`, for which all calls would wait: 74 random bits tell calls
    /// of one millisecond apart.
    fn new() -> Self {
        Self(uuid::Uuid::new_v7(uuid::Timestamp::now(uuid::NoContext)))
    }

    /// The value of [`DECISION`].
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_str(&self.text()).expect("hex digits and dashes are visible ASCII")
    }

    /// As it is shown everywhere.
    pub(crate) fn text(self) -> DecisionText {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        self.0.hyphenated().encode_lower(&mut text);
        DecisionText(text)
    }
}

impl std::ops::Deref for DecisionText {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits and dashes are ASCII")
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl Phase {
    /// The name of its span.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Credential => "credential",
            Self::Connect => "connect",
        }
    }
}

impl Outcome {
    /// As it stands in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
            Self::Closed => "closed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Names the decision in every answer.
pub const DECISION: HeaderName = HeaderName::from_static("tollgate-decision");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::testing::{Bench, facts},
        config::Durability,
    };

    #[tokio::test]
    async fn every_end_of_a_call_leaves_exactly_one_line() {
        let bench = Bench::new(Durability::Buffered);
        let begin = || bench.recorder.begin(TraceContext::root());

        let mut completed = begin();
        *completed.facts = facts();
        completed.finish();
        let mut refused = begin();
        refused.facts.refusal = Some(Refusal::UnknownDestination);
        refused.finish();
        let mut dropped_refusal = begin();
        dropped_refusal.facts.refusal = Some(Refusal::Stopping);
        drop(dropped_refusal);
        let mut broken = begin();
        broken.facts.status = Some(200);
        broken.facts.origin_error = Some("reset");
        broken.finish();
        begin().finish();
        drop(begin());
        let mut tunnel = begin();
        tunnel.facts.call.protocol = Some(Protocol::Tunnel);
        tunnel.finish();
        let doomed = begin();
        let panicked = std::thread::spawn(move || {
            let _doomed = doomed;
            std::panic::resume_unwind(Box::new("as intended"));
        });
        assert!(panicked.join().is_err());

        let outcomes: Vec<String> = bench.lines().await.iter().map(|line| line["outcome"].to_string()).collect();
        let expected = ["completed", "refused", "refused", "failed", "failed", "abandoned", "closed", "failed"];
        assert_eq!(outcomes, expected.map(|outcome| format!("{outcome:?}")));
        bench.verify();
    }

    #[tokio::test]
    async fn one_event_drives_line_span_and_metric() {
        let mut bench = Bench::new(Durability::Buffered);
        let mut record = bench.recorder.begin(TraceContext::root());
        *record.facts = facts();
        record.commit().await.expect("the file is writable");
        let (id, span) = (record.decision_id().to_string(), record.trace().span_id().to_string());
        record.finish();

        let lines = bench.lines().await;
        assert_eq!((&lines[0]["decision_id"], &lines[0]["span_id"]), (&id.as_str().into(), &span.as_str().into()));
        let spans = bench.spans();
        let value = spans[0].attribute("tollgate.decision.id");
        assert_eq!((value, spans[0].span_id.to_string()), (Some(id.as_str()), span));
        assert!(bench.recorder.metrics().encode().contains("tollgate_call_duration_seconds_count 1"));
    }

    #[tokio::test]
    async fn without_a_file_every_call_may_go_on() {
        let spans = Spans::off();
        let agent = Arc::new(testing::agent());
        let recorder = Recorder::new(agent, Mode::Enforce, None, spans, Arc::default());
        let mut record = recorder.begin(TraceContext::root());
        record.commit().await.expect("there is nothing to wait for");
        record.finish();
        assert!(recorder.metrics().encode().contains("tollgate_call_duration_seconds_count 1"));
    }
}
