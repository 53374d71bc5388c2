//! The ten calls, what each must lead to, and what it led to.

use std::time::Duration;

use anyhow::Context;
use http::Method;
use serde_json::json;
use tokio::{sync::mpsc::UnboundedReceiver, time::timeout};

use super::{
    agent::{Agent, Sent},
    world::{EPHEMERAL, HOSTS, Visit, World},
};
use crate::telemetry::spans::FinishedSpan;

/// One call, and what must come of it.
pub struct Step {
    sent: Sent,
    /// What the agent carries, in words.
    pub carried: &'static str,
    /// Why the call goes as it does, in words.
    pub why: &'static str,
    status: u16,
    decision: &'static str,
    cached: Option<bool>,
    pieces: usize,
}

/// What came of a call.
pub struct Told {
    /// The status that the agent saw.
    pub status: u16,
    /// What was decided.
    pub decision: String,
    /// The reason that the agent was given, where it was refused.
    pub reason: String,
    /// Whether the decision came from the cache; `None` where policy was not asked.
    pub cached: Option<bool>,
    /// What the origin saw.
    pub origin: String,
    /// What the sidecar added to the call's time.
    pub added: Duration,
    /// The spans of the call.
    pub spans: Vec<FinishedSpan>,
    as_expected: bool,
}

impl Told {
    /// Whether it went as the step says.
    pub fn as_expected(&self) -> bool {
        self.as_expected
    }
}

/// Who acts.
pub struct Scene<'a> {
    /// The agent.
    pub agent: Agent,
    /// Everything beyond the sidecar.
    pub world: &'a World,
}

/// The long-lived key that the agent carries. Put together here so that no scanner takes it for a real one.
pub fn key() -> String {
    format!("ghp_{}", "DemoOnly".repeat(5).get(..36).unwrap_or_default())
}

/// What the shipped policy permits in this situation.
pub fn allow_list() -> serde_json::Value {
    json!({"tollgate": {"allow": [
        {"id": "tickets-read", "destination": "tickets", "methods": ["GET"], "paths": ["/v1/**"]},
        {"id": "tickets-comment", "destination": "tickets", "methods": ["POST"], "paths": ["/v1/tickets/*/comments"]},
        {"id": "tools-search", "destination": "tools", "tools": ["search_*"]},
    ]}})
}

/// The ten calls, in order.
pub fn steps(world: &World) -> Vec<Step> {
    let port = world.origin.port();
    let tickets = |path: &str| format!("https://{}:{port}{path}", HOSTS[0]);
    let tools = format!("https://{}:{port}/mcp", HOSTS[1]);
    let allowed = |method: Method, url: String, why| Step::new(method, url, why, 200, "allow");
    vec![
        allowed(Method::GET, tickets("/v1/tickets"), "a token was minted for this task and destination").fresh(),
        allowed(Method::GET, tickets("/v1/tickets"), "the same question again").cached(),
        allowed(Method::POST, tickets("/v1/tickets/7/comments"), "writing a comment is on the list")
            .body("{\"text\": \"on it\"}"),
        allowed(
            Method::GET,
            tickets(&format!("/v1/tickets?access_token={}", key())),
            "the key was taken out of the query",
        )
        .carrying("its key in the query"),
        Step::new(Method::DELETE, tickets("/v1/tickets/7"), "deleting is not on the list", 403, "deny"),
        Step::new(
            Method::GET,
            format!("https://paste.example.net:{port}/upload"),
            "no destination covers that host",
            403,
            "refused",
        ),
        Step::new(
            Method::GET,
            "http://169.254.169.254/latest/meta-data/".into(),
            "metadata services are never dialled",
            403,
            "refused",
        ),
        allowed(Method::GET, tickets("/v1/events"), "three events, each passed on as it came").in_pieces(3),
        allowed(Method::POST, tools.clone(), "the tool is on the list").body(&tool_call("search_docs")),
        Step::new(Method::POST, tools, "the tool is not on the list", 200, "deny")
            .body(&tool_call("delete_everything")),
    ]
}

impl Step {
    fn new(method: Method, url: String, why: &'static str, status: u16, decision: &'static str) -> Self {
        let headers = vec![("authorization", format!("Bearer {}", key()))];
        let sent = Sent { method, url, headers, body: String::new() };
        Self { sent, carried: "its key as a bearer token", why, status, decision, cached: None, pieces: 0 }
    }

    fn body(mut self, body: &str) -> Self {
        self.sent.headers.push(("content-type", "application/json".into()));
        self.sent.headers.push(("accept", "application/json, text/event-stream".into()));
        self.sent.body = body.into();
        self
    }

    fn carrying(mut self, carried: &'static str) -> Self {
        self.sent.headers.clear();
        self.carried = carried;
        self
    }

    fn fresh(mut self) -> Self {
        self.cached = Some(false);
        self
    }

    fn cached(mut self) -> Self {
        self.cached = Some(true);
        self
    }

    fn in_pieces(mut self, pieces: usize) -> Self {
        self.pieces = pieces;
        self
    }

    /// The call in one line, without what it carries.
    pub fn line(&self) -> String {
        let url = self.sent.url.split('?').next().unwrap_or_default();
        let tool = self.sent.body.split("\"name\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let tool = tool.map(|tool| format!(" {tool}")).unwrap_or_default();
        let url = url.replace(|c: char| c.is_control(), "");
        let short = url.split("://").nth(1).unwrap_or(&url);
        let (host, path) = short.split_once('/').unwrap_or((short, ""));
        let host = host.split(':').next().unwrap_or(host);
        format!("{} {host}/{path}{tool}", self.sent.method)
    }
}

impl Scene<'_> {
    /// Makes one call and gathers what came of it.
    ///
    /// # Errors
    /// When the connection breaks or no span comes.
    pub async fn play(&self, step: &Step, spans: &mut UnboundedReceiver<FinishedSpan>) -> anyhow::Result<Told> {
        let got = self.agent.call(&step.sent).await?;
        let visit = self.world.last_visit();
        let spans = call_spans(spans).await?;
        let main = spans.iter().find(|span| span.parent_id.is_none()).context("a span of the call")?;
        let document: serde_json::Value = serde_json::from_slice(&got.body).unwrap_or_default();
        let problem = if document["error"].is_object() { &document["error"]["data"] } else { &document };
        let decision = main.attribute("tollgate.decision").unwrap_or("refused").to_owned();
        let cached = main.attribute("tollgate.decision.cached").map(|cached| cached == "true");
        let status = got.status.as_u16();
        let reached = visit.as_ref().is_some_and(|visit| visit.credential == EPHEMERAL);
        let as_expected = status == step.status
            && decision == step.decision
            && (step.cached.is_none() || step.cached == cached)
            && got.pieces >= step.pieces
            && if step.decision == "allow" { reached } else { visit.is_none() };
        Ok(Told {
            status,
            decision,
            reason: problem["reason"].as_str().unwrap_or_default().to_owned(),
            cached,
            origin: visit.map_or("nothing".into(), |Visit { line, credential }| format!("{line} with an {credential}")),
            added: main.overhead,
            as_expected,
            spans,
        })
    }
}

/// The spans of one call: its own comes last, after its children.
async fn call_spans(spans: &mut UnboundedReceiver<FinishedSpan>) -> anyhow::Result<Vec<FinishedSpan>> {
    let mut gathered = Vec::new();
    loop {
        let span = timeout(SPAN_LIMIT, spans.recv()).await.context("no span of the call came")?.context("spans end")?;
        let last = span.parent_id.is_none();
        gathered.push(span);
        if last {
            return Ok(gathered);
        }
    }
}

fn tool_call(tool: &str) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {"q": "printer"}}})
        .to_string()
}

const SPAN_LIMIT: Duration = Duration::from_secs(5);
