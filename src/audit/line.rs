//! Writes one record as JSON: the members of a line, without the braces and the chain around them.
//!
//! The first member is always `decision_id`, so that no text of an agent's can come before it. Every text is bounded and
//! escaped so that neither a terminal nor a line-based reader can be misled by it.

use std::{
    fmt::Write,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use jiff::fmt::temporal::DateTimePrinter;

use super::{Ended, Facts, version};
use crate::{config, telemetry::trace};

/// The members of one record.
pub(super) fn body(ended: &Ended<'_>, fixed: &[u8]) -> Vec<u8> {
    let mut out = Members(Vec::with_capacity(1400));
    let facts = ended.facts;
    out.plain("decision_id", ended.id.text().as_bytes());
    out.time("time", ended.began);
    out.hex("trace_id", &ended.trace.trace_id().0.to_be_bytes());
    out.hex("span_id", &ended.trace.span_id().0.to_be_bytes());
    if let Some(parent) = ended.trace.parent() {
        out.hex("parent_span_id", &parent.0.to_be_bytes());
    }
    out.0.push(b',');
    out.0.extend_from_slice(fixed);
    out.known("id", ended.agent.id.known());
    out.text("assurance", ended.agent.assurance.as_str());
    out.close();
    out.text(
        "mode",
        match ended.mode {
            config::Mode::Enforce => "enforce",
            config::Mode::Shadow => "shadow",
        },
    );
    task(&mut out, facts);
    call(&mut out, facts);
    destination(&mut out, facts);
    decision(&mut out, facts);
    refusal(&mut out, facts);
    secrets(&mut out, facts);
    answer(&mut out, facts);
    if let Some(status) = facts.status {
        out.number("status", status.into());
    }
    out.open("bytes");
    out.number("request", facts.bytes_sent());
    out.number("response", facts.response_bytes);
    out.close();
    out.milliseconds("duration_ms", ended.elapsed);
    out.milliseconds("overhead_ms", facts.overhead);
    out.text("outcome", ended.outcome.as_str());
    if let Some(error) = facts.origin_error {
        out.text("error", error);
    }
    out.0
}

/// The members that are the same in every record of one sidecar: the agent's, which is left open for what can change.
pub(super) fn fixed(agent: &config::Agent) -> Box<[u8]> {
    let mut out = Members(Vec::new());
    out.open("agent");
    out.text("name", &agent.name);
    if let Some(namespace) = &agent.namespace {
        out.text("namespace", namespace);
    }
    if let Some(pod) = &agent.pod {
        out.text("pod", pod);
    }
    out.0.into()
}

fn task(out: &mut Members, facts: &Facts) {
    let Some(task) = &facts.task else { return };
    out.open("task");
    out.text("id", &task.id);
    out.text("source", task.source.as_str());
    out.text("purpose", &task.purpose);
    out.number("epoch", task.epoch);
    out.close();
}

fn call(out: &mut Members, facts: &Facts) {
    let call = &facts.call;
    out.open("call");
    out.known("protocol", call.protocol.map(|protocol| protocol.as_str()));
    out.known("effect", call.effect.map(|effect| effect.as_str()));
    out.known("method", call.method.as_ref().map(|method| method.as_str()));
    out.known("scheme", call.scheme);
    out.known("host", Some(&*call.host).filter(|host| !host.is_empty()));
    if call.port != 0 {
        out.number("port", call.port.into());
    }
    out.known("path", Some(&*call.path).filter(|path| !path.is_empty()));
    if !call.query_keys.is_empty() {
        out.list("query_keys");
        for key in call.query_keys.iter().take(ITEMS) {
            out.item(key);
        }
        out.end_list();
    }
    out.known("agent_http", call.agent_version.map(version));
    out.known("origin_http", call.origin_version.map(version));
    out.known("mcp_method", call.mcp_method.as_deref());
    out.known("mcp_tool", call.mcp_tool.as_deref());
    out.close();
}

fn destination(out: &mut Members, facts: &Facts) {
    let Some(upstream) = &facts.upstream else { return };
    out.open("destination");
    out.text("name", &upstream.name);
    out.text("zone", &upstream.zone);
    out.text("environment", &upstream.environment);
    out.text("classification", upstream.classification.as_str());
    if let Some(address) = facts.ip {
        out.address("ip", address.ip());
    }
    out.close();
}

fn decision(out: &mut Members, facts: &Facts) {
    let Some(decision) = &facts.decision else { return };
    out.open("decision");
    out.text("verdict", decision.verdict.as_str());
    out.flag("enforced", decision.enforced);
    out.text("cache", decision.cached.as_str());
    out.text("revision", &decision.revision);
    out.known("rule", Some(&*decision.rule).filter(|rule| !rule.is_empty()));
    out.known("reason", Some(&*decision.reason).filter(|reason| !reason.is_empty()));
    out.known("class", decision.class.map(|class| class.as_str()));
    out.milliseconds("duration_ms", decision.duration);
    out.close();
}

fn refusal(out: &mut Members, facts: &Facts) {
    if let Some(refusal) = &facts.refusal {
        out.open("refusal");
        out.text("label", refusal.label());
        out.text("class", refusal.class().as_str());
        out.text("reason", &refusal.reason());
        out.text("rule", &refusal.rule());
        out.close();
    }
    if let Some(credential) = &facts.credential {
        out.open("credential");
        out.text("name", &credential.name);
        out.text("kind", credential.kind);
        out.text("fingerprint", &credential.fingerprint);
        out.close();
    }
}

fn secrets(out: &mut Members, facts: &Facts) {
    if facts.secrets.is_empty() {
        return;
    }
    out.list("secrets");
    for found in facts.secrets.iter().take(ITEMS) {
        out.separate();
        out.0.push(b'{');
        out.text("kind", found.kind);
        out.text("where", &found.place);
        out.close();
    }
    out.end_list();
}

fn answer(out: &mut Members, facts: &Facts) {
    let answer = &facts.answer;
    if answer.is_plain() {
        return;
    }
    out.open("answer");
    if !answer.scrubbed.is_empty() {
        out.list("scrubbed");
        for scrubbed in answer.scrubbed.iter().take(ITEMS) {
            out.separate();
            out.0.push(b'{');
            out.text("where", &scrubbed.place);
            out.number("count", scrubbed.count);
            out.close();
        }
        out.end_list();
    }
    if !answer.withheld.is_empty() {
        out.list("withheld");
        for name in &answer.withheld {
            out.item(name);
        }
        out.end_list();
    }
    if let Some(fingerprint) = &answer.refused {
        out.open("refused");
        out.number("status", 401);
        out.text("fingerprint", fingerprint);
        out.close();
    }
    out.close();
}

/// The members of an object that is being written.
struct Members(Vec<u8>);

impl Members {
    /// A comma, unless something was just opened.
    fn separate(&mut self) {
        if !matches!(self.0.last(), None | Some(b'{' | b'[')) {
            self.0.push(b',');
        }
    }

    fn name(&mut self, name: &'static str) {
        self.separate();
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn open(&mut self, name: &'static str) {
        self.name(name);
        self.0.push(b'{');
    }

    fn close(&mut self) {
        self.0.push(b'}');
    }

    fn list(&mut self, name: &'static str) {
        self.name(name);
        self.0.push(b'[');
    }

    fn end_list(&mut self) {
        self.0.push(b']');
    }

    fn item(&mut self, text: &str) {
        self.separate();
        string(&mut self.0, text);
    }

    fn text(&mut self, name: &'static str, text: &str) {
        self.name(name);
        string(&mut self.0, text);
    }

    fn known(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    /// For texts that need no escaping.
    fn plain(&mut self, name: &'static str, text: &[u8]) {
        self.name(name);
        self.0.push(b'"');
        self.0.extend_from_slice(text);
        self.0.push(b'"');
    }

    fn hex(&mut self, name: &'static str, bytes: &[u8]) {
        self.name(name);
        self.0.push(b'"');
        let start = self.0.len();
        self.0.resize(start + 2 * bytes.len(), 0);
        trace::hex(bytes, &mut self.0[start..]);
        self.0.push(b'"');
    }

    fn time(&mut self, name: &'static str, time: SystemTime) {
        const MICROSECONDS: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
        let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX);
        self.name(name);
        self.0.push(b'"');
        MICROSECONDS.print_timestamp(&time, &mut self.0).expect("writing to memory does not fail");
        self.0.push(b'"');
    }

    fn address(&mut self, name: &'static str, address: IpAddr) {
        self.name(name);
        std::io::Write::write_fmt(&mut self.0, format_args!("\"{address}\"")).expect("writing to memory does not fail");
    }

    fn number(&mut self, name: &'static str, value: u64) {
        self.name(name);
        self.digits(value);
    }

    fn digits(&mut self, value: u64) {
        self.0.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn flag(&mut self, name: &'static str, value: bool) {
        self.name(name);
        self.0.extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn milliseconds(&mut self, name: &'static str, value: Duration) {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.name(name);
        self.digits(micros / 1000);
        let rest = micros % 1000;
        let digit = |of: u64| b'0' + u8::try_from(rest / of % 10).expect("a remainder of ten is a digit");
        self.0.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
    }
}

/// A JSON string, cut at [`LONGEST`] bytes.
fn string(out: &mut Vec<u8>, text: &str) {
    let kept = &text[..text.floor_char_boundary(LONGEST)];
    out.push(b'"');
    if kept.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'"' && b != b'\\') {
        out.extend_from_slice(kept.as_bytes());
    } else {
        escaped(out, kept);
    }
    if kept.len() < text.len() {
        out.extend_from_slice("…".as_bytes());
    }
    out.push(b'"');
}

fn escaped(out: &mut Vec<u8>, text: &str) {
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            c if misleading(c) => {
                write!(escaped, "\\u{:04x}", u32::from(c)).expect("writing to a string does not fail");
            }
            c => escaped.push(c),
        }
    }
    out.extend_from_slice(escaped.as_bytes());
}

/// Control characters of C0 and C1, line separators, and what turns the direction of text. All of them are below U+10000.
fn misleading(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

const LONGEST: usize = 2048;
const ITEMS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{
        Outcome,
        testing::{agent, ended, facts},
    };

    fn line(facts: &Facts) -> String {
        let fixed = fixed(&agent());
        ended(facts, Outcome::Completed, |ended| {
            let text = String::from_utf8(body(ended, &fixed)).expect("UTF-8");
            format!("{{{text}}}")
        })
    }

    #[test]
    fn a_line_holds_all_that_is_known() {
        let mut value: serde_json::Value = serde_json::from_str(&line(&facts())).expect("JSON");
        for name in ["decision_id", "trace_id", "span_id", "time", "duration_ms"] {
            value[name] = "[changes]".into();
        }
        insta::assert_snapshot!(serde_json::to_string_pretty(&value).expect("JSON"), @r#"
        {
          "agent": {
            "assurance": "L1",
            "id": "spiffe://example.org/ns/a/sa/triage",
            "name": "triage-bot",
            "namespace": "a",
            "pod": "triage-0"
          },
          "bytes": {
            "request": 512,
            "response": 2048
          },
          "call": {
            "agent_http": "1.1",
            "effect": "write",
            "host": "api.github.com",
            "mcp_method": "tools/call",
            "mcp_tool": "create_issue",
            "method": "POST",
            "origin_http": "2",
            "path": "/mcp",
            "port": 443,
            "protocol": "mcp",
            "query_keys": [
              "q"
            ],
            "scheme": "https"
          },
          "credential": {
            "fingerprint": "00112233aabbccdd",
            "kind": "oauth_client_credentials",
            "name": "github-app"
          },
          "decision": {
            "cache": "hit",
            "duration_ms": 0.002,
            "enforced": true,
            "revision": "r1",
            "rule": "platform.tools",
            "verdict": "allow"
          },
          "decision_id": "[changes]",
          "destination": {
            "classification": "internal",
            "environment": "prod",
            "ip": "192.0.2.7",
            "name": "github",
            "zone": "internet"
          },
          "duration_ms": "[changes]",
          "mode": "enforce",
          "outcome": "completed",
          "overhead_ms": 0.085,
          "secrets": [
            {
              "kind": "github_pat",
              "where": "header:authorization"
            }
          ],
          "span_id": "[changes]",
          "status": 200,
          "task": {
            "epoch": 1,
            "id": "task-1",
            "purpose": "triage",
            "source": "static"
          },
          "time": "[changes]",
          "trace_id": "[changes]"
        }
        "#);
    }

    #[test]
    fn the_decision_id_comes_first_and_time_has_microseconds() {
        let text = line(&Facts::default());
        assert!(text.starts_with("{\"decision_id\":\""), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let time = value["time"].as_str().expect("a text");
        assert!(time.len() == "2026-11-21T22:00:00.123456Z".len() && time.ends_with('Z'), "{time}");
    }

    #[test]
    fn no_text_can_mislead_a_terminal_or_forge_a_line() {
        for nasty in [
            "\r\n{\"seq\":1}",
            "\u{1b}[2J\u{7}",
            "\u{9b}31m",
            "a\"b\\c",
            "\u{202e}gpj.exe",
            "\u{2028}\u{2029}\u{7f}\0",
            "naïve ☃ 🦀",
        ] {
            let mut facts = facts();
            facts.call.path = nasty.into();
            facts.call.mcp_tool = Some(nasty.into());
            facts.call.query_keys = vec![nasty.into()];
            let text = line(&facts);
            assert!(!text.chars().any(misleading), "{text:?}");
            let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(value["call"]["path"], nasty);
            assert_eq!(value["call"]["query_keys"][0], nasty);
        }
    }

    #[test]
    fn huge_fields_are_cut_on_a_character() {
        let mut facts = facts();
        facts.call.path = "ä".repeat(1 << 20).into();
        facts.call.query_keys = vec!["k".repeat(1 << 16); 1000];
        let text = line(&facts);
        assert!(text.len() < 256 * 1024);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert!(value["call"]["path"].as_str().is_some_and(|path| path.ends_with("ä…")));
    }
}
