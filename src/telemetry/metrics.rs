//! The complete list of metrics, served as OpenMetrics text.
//!
//! Every label is bounded: by an enum of ours, by the configuration, or by a list of known values. No metric carries a
//! URL, a task, an address or anything else that an agent chooses.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    audit::{Ended, Outcome, version},
    config::{HostPattern, Upstream},
    credential,
};

/// All metrics of one sidecar.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    calls: Family<CallLabels, Counter>,
    duration: Histogram,
    overhead: Histogram,
    decisions: Family<DecisionLabels, Counter>,
    decision_duration: Histogram,
    credentials: Family<CredentialLabels, Counter>,
    revocation_lag: Histogram,
    secrets: Family<SecretLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    connections: Gauge,
    revision: Family<RevisionLabels, Gauge>,
    reload_failures: Counter,
    client: Family<ClientLabels, Histogram, fn() -> Histogram>,
    audit: AuditMetrics,
}

/// The audit log's part, which its writer keeps.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditMetrics {
    /// Lines that reached the file.
    pub(crate) records: Counter,
    /// Bytes that wait for the file.
    pub(crate) spool: Gauge,
    /// Writes that failed.
    pub(crate) failures: Counter,
}

/// One open connection from the agent; counted until dropped.
#[derive(Debug)]
pub struct Connection(Gauge);

impl Metrics {
    /// All of them at zero.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            calls: Family::default(),
            duration: Histogram::new(SECONDS),
            overhead: Histogram::new(MICROSECONDS),
            decisions: Family::default(),
            decision_duration: Histogram::new(MICROSECONDS),
            credentials: Family::default(),
            revocation_lag: Histogram::new(SECONDS),
            secrets: Family::default(),
            refusals: Family::default(),
            connections: Gauge::default(),
            revision: Family::default(),
            reload_failures: Counter::default(),
            client: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            audit: AuditMetrics::default(),
        };
        metrics.register_calls();
        metrics.register_rest();
        metrics
    }

    /// OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(8 * 1024);
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        text::encode(&mut out, &registry).expect("writing to a string does not fail");
        out
    }

    /// Counts a connection for as long as the guard lives.
    pub fn connection(&self) -> Connection {
        self.connections.inc();
        Connection(self.connections.clone())
    }

    /// How many connections are open.
    pub fn connections(&self) -> i64 {
        self.connections.get()
    }

    /// Something happened to a credential of this kind.
    pub fn credential(&self, kind: &'static str, event: credential::store::Event) {
        self.credentials.get_or_create(&CredentialLabels { kind, event: event.as_str() }).inc();
    }

    /// How long after the end of its task a credential was taken back.
    pub fn revocation_lag(&self, lag: Duration) {
        self.revocation_lag.observe(lag.as_secs_f64());
    }

    /// The policy generation that decides from now on.
    pub fn policy_revision(&self, revision: &Arc<str>) {
        self.revision.clear();
        self.revision.get_or_create(&RevisionLabels { revision: Arc::clone(revision) }).set(1);
    }

    /// A changed configuration or policy was refused, and the running one stays.
    pub fn reload_failed(&self) {
        self.reload_failures.inc();
    }

    /// What the audit file's writer counts.
    pub(crate) fn audit(&self) -> &AuditMetrics {
        &self.audit
    }

    /// Shows what the export of spans counts itself.
    pub(crate) fn adopt(&self, spans_dropped: &Counter) {
        let list = &mut self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        list.register("tollgate_spans_dropped", "Spans that were not delivered", spans_dropped.clone());
    }

    /// Takes one finished call into account.
    pub(crate) fn record(&self, ended: &Ended<'_>) {
        self.record_call(ended);
        self.record_decision(ended);
        let facts = ended.facts;
        if let Some(refusal) = &facts.refusal {
            self.refusals.get_or_create(&RefusalLabels { label: refusal.label() }).inc();
        }
        for found in &facts.secrets {
            let action = found.action.as_str();
            self.secrets.get_or_create(&SecretLabels { kind: found.kind, action }).inc();
        }
        if facts.answer.found() > 0 {
            let labels = SecretLabels { kind: "injected", action: "scrubbed" };
            self.secrets.get_or_create(&labels).inc_by(facts.answer.found());
        }
        if let Some(credential) = facts.credential.as_ref().filter(|_| ended.forwarded) {
            self.credentials.get_or_create(&CredentialLabels { kind: credential.kind, event: "injected" }).inc();
        }
        if let Some(upstream) = facts.upstream.as_ref().filter(|_| ended.forwarded) {
            let labels = ClientLabels::new(ended, upstream);
            let theirs = ended.elapsed.saturating_sub(facts.overhead);
            self.client.get_or_create(&labels).observe(theirs.as_secs_f64());
        }
    }

    fn record_call(&self, ended: &Ended<'_>) {
        let facts = ended.facts;
        let class = facts.refusal.as_ref().map(|refusal| refusal.class());
        let labels = CallLabels {
            decision: facts.decision.as_ref().map_or("none", |decision| decision.verdict.as_str()),
            class: class.map_or("none", |class| class.as_str()),
            protocol: facts.call.protocol.map_or("unknown", |protocol| protocol.as_str()),
            destination: facts.upstream.as_ref().map(|upstream| Arc::clone(&upstream.name)),
        };
        self.calls.get_or_create(&labels).inc();
        self.duration.observe(ended.elapsed.as_secs_f64());
        self.overhead.observe(facts.overhead.as_secs_f64());
    }

    fn record_decision(&self, ended: &Ended<'_>) {
        if let Some(decision) = &ended.facts.decision {
            self.decisions.get_or_create(&DecisionLabels { cache: decision.cached.as_str() }).inc();
            self.decision_duration.observe(decision.duration.as_secs_f64());
        }
    }

    fn register_calls(&self) {
        let list = &mut self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        list.register("tollgate_calls", "Calls, by decision and class of refusal", self.calls.clone());
        list.register("tollgate_call_duration_seconds", "From head to last byte", self.duration.clone());
        list.register(
            "tollgate_overhead_seconds",
            "The part of a call that is Tollgate's alone",
            self.overhead.clone(),
        );
        list.register("tollgate_refusals", "Calls without an answer from the origin, by label", self.refusals.clone());
        list.register("tollgate_decisions", "Decisions of policy, by use of the cache", self.decisions.clone());
        list.register("tollgate_decision_duration_seconds", "Time to decide", self.decision_duration.clone());
        list.register(
            "tollgate_secrets",
            "Secrets that the agent sent or that came back to it, by kind and action",
            self.secrets.clone(),
        );
        list.register("tollgate_connections", "Open connections from the agent", self.connections.clone());
        list.register(
            "http_client_request_duration_seconds",
            "Duration of requests to origins, by the HTTP semantic conventions",
            self.client.clone(),
        );
    }

    fn register_rest(&self) {
        let list = &mut self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        list.register("tollgate_credentials", "What happened to credentials, by kind", self.credentials.clone());
        list.register("tollgate_revocation_lag_seconds", "Task end to revocation", self.revocation_lag.clone());
        list.register("tollgate_policy_revision_info", "The policy generation that decides", self.revision.clone());
        list.register("tollgate_config_reload_failures", "Changes that were refused", self.reload_failures.clone());
        list.register("tollgate_audit_records", "Lines that reached the audit file", self.audit.records.clone());
        list.register("tollgate_audit_spool_bytes", "Bytes that wait for the audit file", self.audit.spool.clone());
        list.register("tollgate_audit_failures", "Writes to the audit file that failed", self.audit.failures.clone());
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The method, or what the conventions put in place of one that is not known.
pub(crate) fn known_method(method: Option<&http::Method>) -> &'static str {
    let text = method.map_or("", http::Method::as_str);
    METHODS.iter().copied().find(|known| *known == text).unwrap_or("_OTHER")
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    decision: &'static str,
    class: &'static str,
    protocol: &'static str,
    // Absent where no configured destination covers the call.
    destination: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    cache: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CredentialLabels {
    kind: &'static str,
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SecretLabels {
    kind: &'static str,
    action: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    label: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RevisionLabels {
    revision: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClientLabels {
    http_request_method: &'static str,
    server_address: String,
    server_port: u16,
    http_response_status_code: Option<u16>,
    error_type: Cow<'static, str>,
    network_protocol_version: &'static str,
}

impl ClientLabels {
    fn new(ended: &Ended<'_>, upstream: &Upstream) -> Self {
        let facts = ended.facts;
        let error_type = match (ended.outcome, &facts.refusal) {
            (_, Some(refusal)) => refusal.label().into(),
            (Outcome::Failed, None) => facts.origin_error.unwrap_or("no_answer").into(),
            (Outcome::Abandoned, None) => "abandoned".into(),
            // The conventions have the status code as the type of an error that it tells.
            (Outcome::Completed | Outcome::Closed | Outcome::Refused | Outcome::Interrupted, None) => {
                facts.status.filter(|status| *status >= 400).map_or("".into(), |status| status.to_string().into())
            }
        };
        Self {
            http_request_method: known_method(facts.call.method.as_ref()),
            server_address: server_address(upstream, &facts.call.host),
            server_port: facts.call.port,
            http_response_status_code: facts.status.filter(|_| facts.refusal.is_none()),
            error_type,
            network_protocol_version: facts.call.origin_version.map_or("", version),
        }
    }
}

/// The configured host that covers this one: the agent can choose names below a suffix, but not the suffix.
fn server_address(upstream: &Upstream, host: &str) -> String {
    for pattern in &upstream.hosts {
        match pattern {
            HostPattern::Exact(name) if name == host => return name.clone(),
            HostPattern::Suffix(suffix) if host.ends_with(suffix.as_str()) => return format!("*{suffix}"),
            HostPattern::Exact(_) | HostPattern::Suffix(_) => {}
        }
    }
    upstream.name.to_string()
}

const METHODS: [&str; 10] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE", "QUERY"];

// The boundaries that the HTTP semantic conventions advise, and two more for streams.
const SECONDS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 60.0, 600.0];

const MICROSECONDS: [f64; 15] =
    [1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2, 1e-1];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::testing::{ended, facts};

    #[test]
    fn the_list_of_metrics_is_the_contracts() {
        let metrics = Metrics::new();
        metrics.adopt(&Counter::default());
        // A family shows once it has a member.
        metrics.policy_revision(&"one".into());
        metrics.credential("file", credential::store::Event::Minted);
        let mut facts = facts();
        facts.refusal = Some(crate::refusal::Refusal::OriginTimeout);
        ended(&facts, Outcome::Refused, |ended| metrics.record(ended));
        let text = metrics.encode();
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        insta::assert_snapshot!(names.join("\n"), @r"
        tollgate_calls counter
        tollgate_call_duration_seconds histogram
        tollgate_overhead_seconds histogram
        tollgate_refusals counter
        tollgate_decisions counter
        tollgate_decision_duration_seconds histogram
        tollgate_secrets counter
        tollgate_connections gauge
        http_client_request_duration_seconds histogram
        tollgate_credentials counter
        tollgate_revocation_lag_seconds histogram
        tollgate_policy_revision_info gauge
        tollgate_config_reload_failures counter
        tollgate_audit_records counter
        tollgate_audit_spool_bytes gauge
        tollgate_audit_failures counter
        tollgate_spans_dropped counter
        ");
    }

    #[test]
    fn a_call_counts_once_in_each() {
        let metrics = Metrics::new();
        let facts = facts();
        ended(&facts, Outcome::Completed, |ended| metrics.record(ended));
        let text = metrics.encode();
        for line in [
            r#"tollgate_calls_total{decision="allow",class="none",protocol="mcp",destination="github"} 1"#,
            r#"tollgate_decisions_total{cache="hit"} 1"#,
            r#"tollgate_secrets_total{kind="github_pat",action="stripped"} 1"#,
            r#"tollgate_credentials_total{kind="oauth_client_credentials",event="injected"} 1"#,
            "tollgate_call_duration_seconds_count 1",
            "tollgate_overhead_seconds_count 1",
            r#"http_client_request_duration_seconds_count{http_request_method="POST",server_address="api.github.com",server_port="443",http_response_status_code="200",error_type="",network_protocol_version="2"} 1"#,
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn an_agents_words_never_become_a_label() {
        let metrics = Metrics::new();
        let mut facts = facts();
        facts.call.method = http::Method::from_bytes(b"CANARY").ok();
        facts.call.host = "canary.elsewhere.example".into();
        facts.call.path = "/canary".into();
        ended(&facts, Outcome::Completed, |ended| metrics.record(ended));
        assert!(!metrics.encode().to_lowercase().contains("canary"));
    }

    #[test]
    fn connections_are_counted_while_they_live() {
        let metrics = Metrics::new();
        let (one, other) = (metrics.connection(), metrics.connection());
        assert_eq!(metrics.connections(), 2);
        drop((one, other));
        assert_eq!(metrics.connections(), 0);
    }

    #[test]
    fn only_the_deciding_revision_is_shown() {
        let metrics = Metrics::new();
        metrics.policy_revision(&"one".into());
        metrics.policy_revision(&"two".into());
        let text = metrics.encode();
        assert!(text.contains(r#"tollgate_policy_revision_info{revision="two"} 1"#) && !text.contains("\"one\""));
    }
}
