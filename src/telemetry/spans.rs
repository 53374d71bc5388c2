//! One CLIENT span per downstream call, with a child for each phase that happened.
//!
//! Names and attributes follow the HTTP semantic conventions; what is ours stands under `tollgate.`. A span is built when
//! its call has ended, from the same facts as the record, with identifiers that were chosen when the call began. An answer
//! from the decision cache has no `policy` child: `tollgate.decision.cached` says so.

use std::{
    borrow::Cow,
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue, Value,
    trace::{SpanContext, SpanKind, Status, TraceFlags, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    metrics::known_method,
    otlp::Export,
    trace::{SpanId, TraceId},
};
use crate::{
    audit::{Ended, Facts, Outcome, version},
    config::Telemetry,
    policy::CacheUse,
};

/// Where spans go. Cheap to clone.
#[derive(Clone)]
pub struct Spans(Arc<Destinations>);

struct Destinations {
    export: Option<Export>,
    tap: Option<UnboundedSender<FinishedSpan>>,
    scope: InstrumentationScope,
    dropped: Counter,
}

/// A span as it was exported, for those who listen in.
#[derive(Debug, Clone)]
pub struct FinishedSpan {
    /// Its name.
    pub name: String,
    /// The trace that it belongs to.
    pub trace_id: TraceId,
    /// Its own identifier.
    pub span_id: SpanId,
    /// The span above it.
    pub parent_id: Option<SpanId>,
    /// When it began.
    pub start: SystemTime,
    /// How long it lasted.
    pub duration: Duration,
    /// On the span of a call: the part of its duration that is ours alone. Zero on its phases.
    pub overhead: Duration,
    /// Its attributes as text.
    pub attributes: Vec<(String, String)>,
    /// What it failed with, where it did.
    pub error: Option<String>,
}

impl FinishedSpan {
    /// One attribute's text.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Spans {
    /// Spans for the configured OTLP endpoint, or for nobody. The endpoint is first contacted when there is something to
    /// deliver, on the runtime that this is called in.
    ///
    /// # Errors
    ///
    /// When the endpoint or a header for it is not valid.
    pub fn new(settings: &Telemetry, tls: Arc<rustls::ClientConfig>) -> anyhow::Result<Self> {
        let dropped = Counter::default();
        let export = settings.otlp.as_ref().map(|otlp| Export::new(otlp, &tls, dropped.clone())).transpose()?;
        Ok(Self::to(export, None, dropped))
    }

    /// Spans for a listener in this process only.
    pub fn with_tap(tap: UnboundedSender<FinishedSpan>) -> Self {
        Self::to(None, Some(tap), Counter::default())
    }

    /// No spans.
    pub fn off() -> Self {
        Self::to(None, None, Counter::default())
    }

    fn to(export: Option<Export>, tap: Option<UnboundedSender<FinishedSpan>>, dropped: Counter) -> Self {
        let scope = InstrumentationScope::builder("tollgate").with_version(env!("CARGO_PKG_VERSION")).build();
        Self(Arc::new(Destinations { export, tap, scope, dropped }))
    }

    /// Counts spans that were not delivered.
    pub(crate) fn dropped(&self) -> &Counter {
        &self.0.dropped
    }

    /// Delivers what waits and ends the export. Blocks: call it from a thread that may, while the runtime still runs.
    pub fn shutdown(&self, limit: Duration) {
        if let Some(export) = &self.0.export {
            export.shutdown(limit);
        }
    }

    /// Makes the spans of one finished call.
    pub(crate) fn record(&self, ended: &Ended<'_>) {
        let there = &*self.0;
        let nobody = there.export.is_none() && there.tap.is_none();
        if nobody || !ended.trace.sampled() {
            return;
        }
        for phase in ended.phases {
            let mut span = self.span(ended, SpanId::random(), SpanKind::Internal);
            span.parent_span_id = span_id(ended.trace.span_id());
            span.name = phase.phase.as_str().into();
            span.start_time = at(ended, phase.started);
            span.end_time = at(ended, phase.ended);
            if let Some(error) = phase.error {
                span.attributes.push(KeyValue::new("error.type", error));
                span.status = Status::error(error);
            }
            self.emit(span, Duration::ZERO);
        }
        // Last, so that whoever has a call's span has all of them.
        self.emit(self.call(ended), ended.facts.overhead);
    }

    fn call(&self, ended: &Ended<'_>) -> SpanData {
        let mut span = self.span(ended, ended.trace.span_id(), SpanKind::Client);
        if let Some(parent) = ended.trace.parent() {
            span.parent_span_id = span_id(parent);
            span.parent_span_is_remote = true;
        }
        let method = known_method(ended.facts.call.method.as_ref());
        span.name = if method == "_OTHER" { "HTTP" } else { method }.into();
        span.attributes.reserve(36);
        let mut attributes = Attributes(&mut span.attributes);
        attributes.http(ended.facts, method);
        attributes.ours(ended);
        if let Some(error) = error_type(ended) {
            span.status = Status::error(error.clone());
            span.attributes.push(KeyValue::new("error.type", error));
        }
        span
    }

    fn span(&self, ended: &Ended<'_>, id: SpanId, span_kind: SpanKind) -> SpanData {
        let trace_id = opentelemetry::TraceId::from_bytes(ended.trace.trace_id().0.to_be_bytes());
        let context = SpanContext::new(trace_id, span_id(id), TraceFlags::SAMPLED, false, TraceState::NONE);
        SpanData {
            span_context: context,
            parent_span_id: opentelemetry::SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind,
            name: Cow::Borrowed(""),
            start_time: ended.began,
            end_time: ended.began + ended.elapsed,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.0.scope.clone(),
        }
    }

    fn emit(&self, span: SpanData, overhead: Duration) {
        if let Some(tap) = &self.0.tap {
            // Nobody listens any more: then nobody misses it.
            let _ = tap.send(finished(&span, overhead));
        }
        if let Some(export) = &self.0.export {
            export.end(span);
        }
    }
}

/// Collects attributes. A text that is at hand as an `Arc` is shared, not copied.
struct Attributes<'a>(&'a mut Vec<KeyValue>);

impl Attributes<'_> {
    fn put(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.push(KeyValue::new(name, value));
    }

    fn known(&mut self, name: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }

    fn shared(&mut self, name: &'static str, text: &Arc<str>) {
        if !text.is_empty() {
            self.put(name, Arc::clone(text));
        }
    }

    fn http(&mut self, facts: &Facts, method: &'static str) {
        let call = &facts.call;
        self.put("http.request.method", method);
        if let Some(unknown) = call.method.as_ref().filter(|_| method == "_OTHER") {
            self.put("http.request.method_original", bounded(unknown.as_str()));
        }
        if !call.host.is_empty() {
            self.put("server.address", call.host.clone());
            self.put("server.port", i64::from(call.port));
            self.known("url.full", url(facts));
        }
        self.known("url.scheme", call.scheme);
        if let Some(spoken) = call.origin_version.or(call.agent_version) {
            self.put("network.protocol.name", "http");
            self.put("network.protocol.version", version(spoken));
        }
        if let Some(address) = facts.ip {
            self.put("network.peer.address", address.ip().to_string());
            self.put("network.peer.port", i64::from(address.port()));
        }
        self.known("http.response.status_code", facts.status.map(i64::from));
        self.put("http.request.body.size", count(facts.bytes_sent()));
        self.put("http.response.body.size", count(facts.response_bytes));
    }

    fn ours(&mut self, ended: &Ended<'_>) {
        let facts = ended.facts;
        self.put("tollgate.decision.id", ended.id.to_string());
        self.put("tollgate.assurance", ended.agent.assurance.as_str());
        self.known("tollgate.effect", facts.call.effect.map(|effect| effect.as_str()));
        if let Some(decision) = &facts.decision {
            self.put("tollgate.decision", decision.verdict.as_str());
            self.put("tollgate.decision.enforced", decision.enforced);
            self.put("tollgate.decision.cached", decision.cached == CacheUse::Hit);
            self.shared("tollgate.policy.revision", &decision.revision);
        }
        self.reason(facts);
        if let Some(task) = facts.task.as_ref().filter(|task| !task.id.is_empty()) {
            self.shared("tollgate.task.id", &task.id);
            self.put("tollgate.task.epoch", count(task.epoch));
            self.shared("tollgate.task.purpose", &task.purpose);
        }
        if let Some(upstream) = &facts.upstream {
            self.shared("tollgate.destination", &upstream.name);
            self.shared("tollgate.zone", &upstream.zone);
        }
        if let Some(credential) = &facts.credential {
            self.put("tollgate.credential.kind", credential.kind);
            self.shared("tollgate.credential.fingerprint", &credential.fingerprint);
        }
    }

    /// Why a call was refused, or why policy decided as it did.
    fn reason(&mut self, facts: &Facts) {
        if let Some(refusal) = &facts.refusal {
            self.shared("tollgate.rule", &refusal.rule());
            self.shared("tollgate.reason", &refusal.reason());
            self.put("tollgate.class", refusal.class().as_str());
        } else if let Some(decision) = &facts.decision {
            self.shared("tollgate.rule", &decision.rule);
            self.shared("tollgate.reason", &decision.reason);
            self.known("tollgate.class", decision.class.map(|class| class.as_str()));
        }
    }
}

/// What the call failed with. An agent that went away is no failure.
fn error_type(ended: &Ended<'_>) -> Option<Cow<'static, str>> {
    let facts = ended.facts;
    if let Some(refusal) = &facts.refusal {
        return Some(refusal.label().into());
    }
    match (ended.outcome, facts.status) {
        (Outcome::Abandoned | Outcome::Closed, _) => None,
        (Outcome::Failed | Outcome::Interrupted, _) => Some(facts.origin_error.unwrap_or("no_answer").into()),
        (Outcome::Completed | Outcome::Refused, Some(status)) if status >= 400 => Some(status.to_string().into()),
        (Outcome::Completed | Outcome::Refused, _) => None,
    }
}

/// The URL without user information, and with the names of its parameters only.
fn url(facts: &Facts) -> Option<String> {
    let call = &facts.call;
    let scheme = call.scheme?;
    let mut url = String::with_capacity(scheme.len() + call.host.len() + call.path.len() + 16);
    url.push_str(scheme);
    url.push_str("://");
    url.push_str(&call.host);
    if !matches!((scheme, call.port), ("http", 80) | ("https", 443)) {
        write!(url, ":{}", call.port).expect("writing to a string does not fail");
    }
    url.push_str(&call.path);
    for (n, key) in call.query_keys.iter().enumerate() {
        url.push(if n == 0 { '?' } else { '&' });
        url.extend(percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC));
        url.push_str("=REDACTED");
    }
    url.truncate(url.floor_char_boundary(LONGEST));
    Some(url)
}

fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(64)].to_owned()
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn at(ended: &Ended<'_>, moment: Instant) -> SystemTime {
    ended.began + moment.saturating_duration_since(ended.start)
}

fn span_id(id: SpanId) -> opentelemetry::SpanId {
    opentelemetry::SpanId::from_bytes(id.0.to_be_bytes())
}

fn finished(span: &SpanData, overhead: Duration) -> FinishedSpan {
    let number = |id: opentelemetry::SpanId| SpanId(u64::from_be_bytes(id.to_bytes()));
    FinishedSpan {
        name: span.name.to_string(),
        trace_id: TraceId(u128::from_be_bytes(span.span_context.trace_id().to_bytes())),
        span_id: number(span.span_context.span_id()),
        parent_id: (span.parent_span_id != opentelemetry::SpanId::INVALID).then(|| number(span.parent_span_id)),
        start: span.start_time,
        duration: span.end_time.duration_since(span.start_time).unwrap_or_default(),
        overhead,
        attributes: span.attributes.iter().map(|kv| (kv.key.to_string(), kv.value.to_string())).collect(),
        error: match &span.status {
            Status::Error { description } => Some(description.to_string()),
            Status::Ok | Status::Unset => None,
        },
    }
}

const LONGEST: usize = 2048;

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        audit::{Phase, Recorder, testing},
        config::Mode,
        refusal::Refusal,
        telemetry::TraceContext,
    };

    fn record(fill: impl FnOnce(&mut crate::audit::Record)) -> Vec<FinishedSpan> {
        record_in(TraceContext::root(), fill)
    }

    fn record_in(trace: TraceContext, fill: impl FnOnce(&mut crate::audit::Record)) -> Vec<FinishedSpan> {
        let (tap, mut spans) = mpsc::unbounded_channel();
        let agent = Arc::new(testing::agent());
        let recorder = Recorder::new(agent, Mode::Enforce, None, Spans::with_tap(tap), Arc::default());
        let mut record = recorder.begin(trace);
        fill(&mut record);
        record.finish();
        std::iter::from_fn(|| spans.try_recv().ok()).collect()
    }

    #[test]
    fn a_call_is_one_client_span_with_its_phases_below() {
        let spans = record(|record| {
            *record.facts = testing::facts();
            let now = Instant::now();
            record.phase(Phase::Policy, now, now, None);
            record.phase(Phase::Connect, now, now, Some("origin_unreachable"));
        });
        let names: Vec<(&str, Option<&str>)> = spans.iter().map(|s| (s.name.as_str(), s.error.as_deref())).collect();
        assert_eq!(names, [("policy", None), ("connect", Some("origin_unreachable")), ("POST", None)]);
        assert!(spans[2].parent_id.is_none());
        assert!(spans[..2].iter().all(|s| s.parent_id == Some(spans[2].span_id) && s.trace_id == spans[2].trace_id));
    }

    #[test]
    fn attributes_are_those_of_the_conventions_and_the_contract() {
        let mut span = record(|record| *record.facts = testing::facts()).remove(0);
        span.attributes.iter_mut().filter(|(key, _)| key == "tollgate.decision.id").for_each(|kv| kv.1.clear());
        let lines: Vec<String> = span.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        http.request.method=POST
        server.address=api.github.com
        server.port=443
        url.full=https://api.github.com/mcp?q=REDACTED
        url.scheme=https
        network.protocol.name=http
        network.protocol.version=2
        network.peer.address=192.0.2.7
        network.peer.port=443
        http.response.status_code=200
        http.request.body.size=512
        http.response.body.size=2048
        tollgate.decision.id=
        tollgate.assurance=L1
        tollgate.effect=write
        tollgate.decision=allow
        tollgate.decision.enforced=true
        tollgate.decision.cached=true
        tollgate.policy.revision=r1
        tollgate.rule=platform.tools
        tollgate.task.id=task-1
        tollgate.task.epoch=1
        tollgate.task.purpose=triage
        tollgate.destination=github
        tollgate.zone=internet
        tollgate.credential.kind=oauth_client_credentials
        tollgate.credential.fingerprint=00112233aabbccdd
        ");
    }

    #[test]
    fn refusals_and_failures_are_errors_with_their_label() {
        type Fill = fn(&mut Facts);
        let cases: [(Fill, Option<&str>); 6] = [
            (|facts| facts.refusal = Some(Refusal::UnknownDestination), Some("unknown_destination")),
            (|facts| facts.status = Some(503), Some("503")),
            (|facts| facts.status = Some(404), Some("404")),
            (|facts| facts.origin_error = Some("reset"), Some("reset")),
            (|facts| facts.abandoned = true, None),
            (|facts| facts.status = Some(302), None),
        ];
        for (fill, error) in cases {
            let spans = record(|record| {
                *record.facts = testing::facts();
                fill(&mut record.facts);
            });
            assert_eq!(spans[0].error.as_deref(), error);
            assert_eq!(spans[0].attribute("error.type"), error);
        }
    }

    #[test]
    fn what_the_agent_does_not_sample_is_not_exported() {
        let mut headers = http::HeaderMap::new();
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        headers.insert("traceparent", http::HeaderValue::from_static(parent));
        assert!(record_in(TraceContext::from_headers(&headers), |_| ()).is_empty());
    }

    #[test]
    fn an_unknown_method_is_never_a_name() {
        let spans = record(|record| record.facts.call.method = http::Method::from_bytes(b"MKCALENDAR").ok());
        assert_eq!(spans[0].name, "HTTP");
        assert_eq!(spans[0].attribute("http.request.method"), Some("_OTHER"));
        assert_eq!(spans[0].attribute("http.request.method_original"), Some("MKCALENDAR"));
    }
}
