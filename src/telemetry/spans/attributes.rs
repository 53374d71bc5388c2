//! What is said of a call on its span.

use std::{borrow::Cow, fmt::Write};

use crate::{
    audit::{Ended, Facts, Outcome, version},
    policy::CacheUse,
    task::Task,
    telemetry::{metrics::known_method, protobuf::Value},
};

/// Takes attributes.
pub(super) trait Attributes {
    fn put<'a>(&mut self, name: &'static str, value: impl Into<Value<'a>>);

    fn known<'a>(&mut self, name: &'static str, value: Option<impl Into<Value<'a>>>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }

    fn said(&mut self, name: &'static str, text: &str) {
        if !text.is_empty() {
            self.put(name, text);
        }
    }
}

/// Says all that is known of a call. No value is longer than what its facts hold, and none is copied on the way.
pub(super) fn of_call(ended: &Ended<'_>, to: &mut impl Attributes) {
    // One room for all texts that are only made here.
    let mut room = String::with_capacity(USUAL_URL);
    of_http(ended.facts, &mut room, to);
    of_ours(ended, to);
}

/// The name of a call's span: its method, if that is one of the few that everybody knows.
pub(super) fn name(facts: &Facts) -> &'static str {
    match known_method(facts.call.method.as_ref()) {
        "_OTHER" => "HTTP",
        method => method,
    }
}

/// What the call failed with. An agent that went away is no failure.
pub(super) fn error_type(ended: &Ended<'_>) -> Option<Cow<'static, str>> {
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

fn of_http(facts: &Facts, room: &mut String, to: &mut impl Attributes) {
    let call = &facts.call;
    let method = known_method(call.method.as_ref());
    to.put("http.request.method", method);
    if let Some(unknown) = call.method.as_ref().filter(|_| method == "_OTHER") {
        to.put("http.request.method_original", bounded(unknown.as_str(), LONGEST_METHOD));
    }
    if !call.host.is_empty() {
        to.put("server.address", &*call.host);
        to.put("server.port", call.port);
        to.known("url.full", url(facts, room));
    }
    to.known("url.scheme", call.scheme);
    if let Some(spoken) = call.origin_version.or(call.agent_version) {
        to.put("network.protocol.name", "http");
        to.put("network.protocol.version", version(spoken));
    }
    if let Some(address) = facts.ip {
        to.put("network.peer.address", text(room, address.ip()));
        to.put("network.peer.port", address.port());
    }
    to.known("http.response.status_code", facts.status);
    if facts.answer.refused.is_some() {
        to.put("http.request.resend_count", 1_u16);
    }
    to.put("http.request.body.size", count(facts.bytes_sent()));
    to.put("http.response.body.size", count(facts.response_bytes));
}

fn of_ours(ended: &Ended<'_>, to: &mut impl Attributes) {
    let facts = ended.facts;
    to.put("tollgate.decision.id", &*ended.id.text());
    to.put("tollgate.assurance", ended.agent.assurance.as_str());
    to.known("tollgate.identity.serial", facts.identity.as_deref());
    to.known("tollgate.effect", facts.call.effect.map(|effect| effect.as_str()));
    if let Some(decision) = &facts.decision {
        to.put("tollgate.decision", decision.verdict.as_str());
        to.put("tollgate.decision.enforced", decision.enforced);
        to.put("tollgate.decision.cached", decision.cached == CacheUse::Hit);
        to.said("tollgate.policy.revision", &decision.revision);
    }
    of_reason(facts, to);
    if let Some(task) = facts.task.as_ref().filter(|task| !task.id.is_empty()) {
        to.said("tollgate.task.id", &task.id);
        to.put("tollgate.task.epoch", count(task.epoch));
        to.said("tollgate.task.purpose", &task.purpose);
        to.known("tollgate.flow", flow(task, facts));
    }
    if let Some(upstream) = &facts.upstream {
        to.said("tollgate.destination", &upstream.name);
        to.said("tollgate.zone", &upstream.zone);
    }
    if let Some(credential) = &facts.credential {
        to.put("tollgate.credential.kind", credential.kind);
        to.said("tollgate.credential.fingerprint", &credential.fingerprint);
    }
    if facts.answer.found() > 0 {
        to.put("tollgate.answer.scrubbed", count(facts.answer.found()));
    }
}

/// Whether the task said that it needs such a call, where it said anything.
fn flow(task: &Task, facts: &Facts) -> Option<&'static str> {
    let (manifest, effect) = (task.manifest.as_ref()?, facts.call.effect?);
    let covered = facts.upstream.as_ref().is_some_and(|upstream| manifest.covers(&upstream.name, effect));
    Some(if covered { "in_manifest" } else { "drift" })
}

/// Why a call was refused, or why policy decided as it did.
fn of_reason(facts: &Facts, to: &mut impl Attributes) {
    if let Some(refusal) = &facts.refusal {
        to.said("tollgate.rule", &refusal.rule());
        to.said("tollgate.reason", &refusal.reason());
        to.put("tollgate.class", refusal.class().as_str());
    } else if let Some(decision) = &facts.decision {
        to.said("tollgate.rule", &decision.rule);
        to.said("tollgate.reason", &decision.reason);
        to.known("tollgate.class", decision.class.map(|class| class.as_str()));
    }
}

/// The URL without user information, and with the names of its parameters only.
fn url<'a>(facts: &Facts, room: &'a mut String) -> Option<&'a str> {
    let call = &facts.call;
    let scheme = call.scheme?;
    room.clear();
    for part in [scheme, "://", &*call.host] {
        room.push_str(part);
    }
    if !matches!((scheme, call.port), ("http", 80) | ("https", 443)) {
        write!(room, ":{}", call.port).expect("writing to a string does not fail");
    }
    room.push_str(&call.path);
    for (n, key) in call.query_keys.iter().enumerate() {
        room.push(if n == 0 { '?' } else { '&' });
        room.extend(percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC));
        room.push_str("=REDACTED");
    }
    Some(bounded(room, LONGEST_URL))
}

fn text(room: &mut String, value: impl std::fmt::Display) -> &str {
    room.clear();
    write!(room, "{value}").expect("writing to a string does not fail");
    room
}

fn bounded(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

const USUAL_URL: usize = 256;
const LONGEST_URL: usize = 2048;
const LONGEST_METHOD: usize = 64;
