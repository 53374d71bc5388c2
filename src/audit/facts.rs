//! What is known of one call, gathered while it goes its way.
//!
//! Only these types reach records, spans and metrics, and none of them can hold a secret's value: the exchange puts in
//! redacted paths and the names of query parameters, and credentials come as name, kind and fingerprint.

use std::{borrow::Cow, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    body::Tally,
    call::{Effect, Protocol},
    config::{Mode, Upstream},
    credential::Credential,
    policy::{CacheUse, Class, Decision, Denial, DenialKind},
    refusal::Refusal,
    secret::Found,
    task::Task,
};

/// What is known of one call. Everything is absent until it is known.
#[derive(Debug, Default)]
pub struct Facts {
    /// What was asked for.
    pub call: CallFacts,
    /// The serial of what proved the agent's identity.
    pub identity: Option<Arc<str>>,
    /// The task that it belongs to.
    pub task: Option<Arc<Task>>,
    /// The configured destination.
    pub upstream: Option<Arc<Upstream>>,
    /// The address that was dialled.
    pub ip: Option<SocketAddr>,
    /// What policy said.
    pub decision: Option<DecisionFacts>,
    /// Why the agent got no answer from the origin.
    pub refusal: Option<Refusal>,
    /// The credential that the call carried.
    pub credential: Option<CredentialFacts>,
    /// The secrets that were taken away.
    pub secrets: Vec<Found>,
    /// What was done to the answer of a call that carried a credential.
    pub answer: AnswerFacts,
    /// The status that the agent saw.
    pub status: Option<u16>,
    /// What the agent sent, counted while it streams.
    pub sent: Option<Arc<Tally>>,
    /// Body bytes from the agent where they are not counted by `sent`.
    pub request_bytes: u64,
    /// Body bytes to the agent.
    pub response_bytes: u64,
    /// The part of the duration that is ours alone.
    pub overhead: Duration,
    /// The agent went away before the end.
    pub abandoned: bool,
    /// How the origin broke off after its answer began.
    pub origin_error: Option<&'static str>,
}

/// What was asked for.
#[derive(Debug, Default)]
pub struct CallFacts {
    /// What is spoken.
    pub protocol: Option<Protocol>,
    /// What it does there.
    pub effect: Option<Effect>,
    /// The HTTP method.
    pub method: Option<http::Method>,
    /// `http` or `https`.
    pub scheme: Option<&'static str>,
    /// The canonical host name.
    pub host: Arc<str>,
    /// The port; 0 while it is not known.
    pub port: u16,
    /// The redacted path, without the query.
    pub path: Cow<'static, str>,
    /// The names of the query's parameters, never their values.
    pub query_keys: Vec<String>,
    /// What the agent speaks with us.
    pub agent_version: Option<http::Version>,
    /// What we speak with the origin.
    pub origin_version: Option<http::Version>,
    /// The method of an MCP message.
    pub mcp_method: Option<Cow<'static, str>>,
    /// The tool of an MCP `tools/call`.
    pub mcp_tool: Option<Cow<'static, str>>,
}

/// What policy said, as it stands in records, spans and metrics.
#[derive(Debug, Clone)]
pub struct DecisionFacts {
    /// The verdict. In shadow mode: what it would have been.
    pub verdict: Verdict,
    /// Whether it was enforced; not in shadow mode.
    pub enforced: bool,
    /// How the cache was used.
    pub cached: CacheUse,
    /// The generation that decided.
    pub revision: Arc<str>,
    /// The rule; empty when policy gave none.
    pub rule: Arc<str>,
    /// The reason's name; empty when policy gave none.
    pub reason: Arc<str>,
    /// Whose concern a no is.
    pub class: Option<Class>,
    /// How long deciding took.
    pub duration: Duration,
}

/// A verdict, told apart from the absence of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Yes.
    Allow,
    /// A rule's no.
    Deny,
    /// Only after a person's yes.
    RequireApproval,
    /// Policy did not decide, which is a no.
    Undecided,
}

/// What was done to the answer of a call that carried a credential.
#[derive(Debug, Default)]
pub struct AnswerFacts {
    /// Where the credential stood in it, and was overwritten.
    pub scrubbed: Vec<Scrubbed>,
    /// The fields that are ours and were not passed on.
    pub withheld: Vec<&'static str>,
    /// The credential that the origin did not take, when the call was made again with another one.
    pub refused: Option<Arc<str>>,
}

/// A place of an answer that held an injected secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubbed {
    /// E.g. `header:location`, `body`, `trailer:x-debug`; `frame` of a WebSocket.
    pub place: Cow<'static, str>,
    /// How many times.
    pub count: u64,
}

impl AnswerFacts {
    /// Notes that the credential stood there so many times.
    pub fn add(&mut self, place: Cow<'static, str>, count: u64) {
        match self.scrubbed.iter_mut().find(|scrubbed| scrubbed.place == place) {
            Some(scrubbed) => scrubbed.count += count,
            None => self.scrubbed.push(Scrubbed { place, count }),
        }
    }

    /// How many times the credential stood in it.
    pub fn found(&self) -> u64 {
        self.scrubbed.iter().map(|scrubbed| scrubbed.count).sum()
    }

    /// Whether nothing was done to it.
    pub fn is_plain(&self) -> bool {
        self.scrubbed.is_empty() && self.withheld.is_empty() && self.refused.is_none()
    }
}

/// The credential that a call carried, without its value.
#[derive(Debug, Clone)]
pub struct CredentialFacts {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Where it comes from, as the configuration has it.
    pub kind: &'static str,
    /// Tells credentials apart.
    pub fingerprint: Arc<str>,
}

impl Facts {
    /// Body bytes that the agent sent so far.
    pub fn bytes_sent(&self) -> u64 {
        self.sent.as_ref().map_or(self.request_bytes, |tally| tally.bytes())
    }
}

impl DecisionFacts {
    /// What is told of a decision that was made in this mode.
    pub fn new(decision: &Decision, mode: Mode) -> Self {
        let (denial, rule, reason) = match (&decision.outcome, &decision.shadowed) {
            (Err(denial), _) | (Ok(_), Some(denial)) => (Some(denial), &denial.rule, &denial.reason),
            (Ok(permit), None) => (None, permit.rule(), permit.reason()),
        };
        Self {
            verdict: denial.map_or(Verdict::Allow, Verdict::of),
            enforced: mode == Mode::Enforce,
            cached: decision.cache,
            revision: Arc::clone(&decision.revision),
            rule: Arc::clone(rule),
            reason: Arc::clone(reason),
            class: denial.map(|denial| denial.class),
            duration: decision.duration,
        }
    }
}

impl Verdict {
    fn of(denial: &Denial) -> Self {
        match denial.kind {
            DenialKind::Rule => Self::Deny,
            DenialKind::ApprovalRequired => Self::RequireApproval,
            DenialKind::Undecided(_) => Self::Undecided,
        }
    }

    /// As it stands in records, spans and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::RequireApproval => "require_approval",
            Self::Undecided => "undecided",
        }
    }
}

impl From<&Credential> for CredentialFacts {
    fn from(credential: &Credential) -> Self {
        Self {
            name: Arc::clone(&credential.name),
            kind: credential.kind,
            fingerprint: Arc::clone(&credential.fingerprint),
        }
    }
}

/// The version as the conventions for `network.protocol.version` have it.
pub(crate) fn version(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "0.9",
        http::Version::HTTP_10 => "1.0",
        http::Version::HTTP_11 => "1.1",
        http::Version::HTTP_2 => "2",
        http::Version::HTTP_3 => "3",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Undecided;

    fn denial(kind: DenialKind) -> Denial {
        Denial { kind, reason: "r".into(), message: "m".into(), rule: "p.r".into(), class: Class::Security }
    }

    fn decision(outcome: Denial) -> Decision {
        Decision {
            outcome: Err(outcome),
            shadowed: None,
            cache: CacheUse::Miss,
            revision: "1".into(),
            duration: Duration::from_micros(7),
        }
    }

    #[test]
    fn each_kind_of_denial_has_its_verdict() {
        for (kind, verdict) in [
            (DenialKind::Rule, "deny"),
            (DenialKind::ApprovalRequired, "require_approval"),
            (DenialKind::Undecided(Undecided::Budget), "undecided"),
        ] {
            let facts = DecisionFacts::new(&decision(denial(kind)), Mode::Enforce);
            assert_eq!((facts.verdict.as_str(), facts.enforced), (verdict, true));
            assert_eq!((&*facts.rule, facts.class), ("p.r", Some(Class::Security)));
        }
    }
}
