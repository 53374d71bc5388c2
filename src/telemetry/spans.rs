//! One CLIENT span per downstream call, with a child for each phase that happened.
//!
//! Names and attributes follow the HTTP semantic conventions; what is ours stands under `tollgate.`. A span is made when
//! its call has ended, from the same facts as the record, with identifiers that were chosen when the call began. It is
//! written as it is to be sent, once and at once, so that it costs its call about a microsecond. An answer from the
//! decision cache has no `policy` child: `tollgate.decision.cached` says so.

mod attributes;
mod message;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc::UnboundedSender;

use self::{attributes::Attributes, message::Span};
use super::{
    otlp::Export,
    protobuf::Value,
    trace::{SpanId, TraceId},
};
use crate::{audit::Ended, config::Telemetry};

/// Where spans go. Cheap to clone.
#[derive(Clone)]
pub struct Spans(Arc<Destination>);

struct Destination {
    way: Way,
    dropped: Counter,
}

enum Way {
    Nowhere,
    Export(Export),
    Tap(UnboundedSender<FinishedSpan>),
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
        let way = match &settings.otlp {
            Some(otlp) => Way::Export(Export::new(otlp, &tls, dropped.clone())?),
            None => Way::Nowhere,
        };
        Ok(Self(Arc::new(Destination { way, dropped })))
    }

    /// Spans for a listener in this process only.
    pub fn with_tap(tap: UnboundedSender<FinishedSpan>) -> Self {
        Self(Arc::new(Destination { way: Way::Tap(tap), dropped: Counter::default() }))
    }

    /// No spans.
    pub fn off() -> Self {
        Self(Arc::new(Destination { way: Way::Nowhere, dropped: Counter::default() }))
    }

    /// Counts spans that were not delivered.
    pub(crate) fn dropped(&self) -> &Counter {
        &self.0.dropped
    }

    /// Delivers what waits and ends the export. Blocks: call it from a thread that may, while the runtime still runs.
    pub fn shutdown(&self, limit: Duration) {
        match &self.0.way {
            Way::Export(export) => export.shutdown(limit),
            Way::Nowhere | Way::Tap(_) => {}
        }
    }

    /// Makes the spans of one finished call.
    pub(crate) fn record(&self, ended: &Ended<'_>) {
        if !ended.trace.sampled() {
            return;
        }
        match &self.0.way {
            Way::Nowhere => {}
            Way::Export(export) => export.add(ended.phases.len() + 1, |to| each(ended, |span| span.write(to))),
            Way::Tap(tap) => each(ended, |span| {
                // Nobody listens any more: then nobody misses it.
                let _ = tap.send(FinishedSpan::from(span));
            }),
        }
    }
}

/// The call's own span comes last, so that whoever has it has all of them.
fn each(ended: &Ended<'_>, mut take: impl FnMut(&Span<'_>)) {
    for phase in ended.phases {
        take(&Span::of_phase(ended, phase));
    }
    take(&Span::of_call(ended));
}

impl From<&Span<'_>> for FinishedSpan {
    fn from(span: &Span<'_>) -> Self {
        let mut attributes = Texts(Vec::new());
        span.attributes(&mut attributes);
        Self {
            name: span.name.to_owned(),
            trace_id: span.trace_id(),
            span_id: span.id,
            parent_id: span.parent,
            start: span.start,
            duration: span.end.duration_since(span.start).unwrap_or_default(),
            overhead: span.overhead(),
            attributes: attributes.0,
            error: span.error.as_deref().map(str::to_owned),
        }
    }
}

/// Collects attributes as text.
struct Texts(Vec<(String, String)>);

impl Attributes for Texts {
    fn put<'a>(&mut self, name: &'static str, value: impl Into<Value<'a>>) {
        let text = match value.into() {
            Value::Text(text) => text.to_owned(),
            Value::Number(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
        };
        self.0.push((name.to_owned(), text));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, UNIX_EPOCH};

    use opentelemetry_proto::tonic::{
        common::v1::any_value,
        trace::v1::{self, ScopeSpans, Status, span::SpanKind, status::StatusCode},
    };
    use prost::Message;
    use tokio::sync::mpsc;

    use super::{super::protobuf::Writer, *};
    use crate::{
        audit::{Facts, Outcome, Phase, PhaseFacts, Recorder, testing},
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

    /// The spans as a collector sees them.
    fn sent(ended: &Ended<'_>) -> Vec<v1::Span> {
        let mut writer = Writer::default();
        each(ended, |span| span.write(&mut writer));
        ScopeSpans::decode(&*writer.into_bytes()).expect("the official schema reads it").spans
    }

    fn text(value: &any_value::Value) -> String {
        match value {
            any_value::Value::StringValue(text) => text.clone(),
            any_value::Value::IntValue(number) => number.to_string(),
            any_value::Value::BoolValue(flag) => flag.to_string(),
            other => panic!("{other:?} is not written"),
        }
    }

    fn attributes(span: &v1::Span) -> Vec<(String, String)> {
        let value = |kv: &opentelemetry_proto::tonic::common::v1::KeyValue| {
            text(kv.value.as_ref().and_then(|any| any.value.as_ref()).expect("each has a value"))
        };
        span.attributes.iter().map(|kv| (kv.key.clone(), value(kv))).collect()
    }

    #[test]
    fn what_is_sent_is_what_the_schema_says_and_what_a_listener_hears() {
        let mut headers = http::HeaderMap::new();
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        headers.insert("traceparent", http::HeaderValue::from_static(parent));
        headers.insert("tracestate", http::HeaderValue::from_static("vendor=canary"));
        let (trace, mut facts) = (TraceContext::from_headers(&headers), testing::facts());
        facts.origin_error = Some("reset");
        let start = Instant::now();
        let moment = |millis| start + Duration::from_millis(millis);
        let phases = [PhaseFacts { phase: Phase::Connect, started: moment(2), ended: moment(5), error: None }];
        testing::ended(&facts, Outcome::Failed, |base| {
            let began = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
            let ended = Ended { trace: &trace, phases: &phases, began, start, ..*base };
            let (sent, mut heard) = (sent(&ended), Vec::new());
            each(&ended, |span| heard.push(FinishedSpan::from(span)));

            let own = trace.span_id().0.to_be_bytes().to_vec();
            let trace_id = 0x0af7651916cd43dd8448eb211c80319c_u128.to_be_bytes().to_vec();
            let expected = v1::Span {
                trace_id: trace_id.clone(),
                span_id: own.clone(),
                parent_span_id: 0xb7ad6b7169203331_u64.to_be_bytes().to_vec(),
                flags: 0x301,
                name: "POST".into(),
                kind: SpanKind::Client.into(),
                start_time_unix_nano: 1_700_000_000_123_456_789,
                end_time_unix_nano: 1_700_000_000_135_456_789,
                status: Some(Status { message: "reset".into(), code: StatusCode::Error.into() }),
                attributes: sent[1].attributes.clone(),
                ..v1::Span::default()
            };
            assert_eq!(sent[1], expected);
            assert_eq!(attributes(&sent[1]), heard[1].attributes);
            assert_eq!(sent[1].attributes.len(), 28);

            let expected = v1::Span {
                trace_id,
                span_id: sent[0].span_id.clone(),
                parent_span_id: own,
                flags: 0x101,
                name: "connect".into(),
                kind: SpanKind::Internal.into(),
                start_time_unix_nano: 1_700_000_000_125_456_789,
                end_time_unix_nano: 1_700_000_000_128_456_789,
                ..v1::Span::default()
            };
            assert_eq!(sent[0], expected);
            assert_ne!(sent[0].span_id, sent[1].span_id);
        });
    }

    #[test]
    fn attributes_are_sent_with_their_types() {
        testing::ended(&testing::facts(), Outcome::Completed, |ended| {
            let span = sent(ended).remove(0);
            assert_eq!((span.status, span.parent_span_id.len(), span.flags), (None, 0, 0x101));
            for (name, expected) in [
                ("server.port", any_value::Value::IntValue(443)),
                ("http.response.body.size", any_value::Value::IntValue(2048)),
                ("tollgate.decision.enforced", any_value::Value::BoolValue(true)),
                ("tollgate.zone", any_value::Value::StringValue("internet".into())),
            ] {
                let found = span.attributes.iter().find(|kv| kv.key == name).and_then(|kv| kv.value.clone());
                assert_eq!(found.and_then(|any| any.value), Some(expected), "{name}");
            }
        });
    }
}
