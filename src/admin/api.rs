//! The documents of the admin API, as they go over the socket. What is not known in one that is sent is refused.

use std::{fmt, time::SystemTime};

use http::{HeaderValue, Response, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    call::Effect,
    config::{Classification, Mode, Profile, values::Period},
    task::{self, End, Manifest, registry::Shown},
};

/// A task to open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenTask {
    /// What it is for. Example: `triage`.
    pub purpose: String,
    /// The most that a call may do in it, for policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_effect: Option<Effect>,
    /// The most sensitive data it may touch, for policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Classification>,
    /// On whose behalf it is done. Only a digest of this is kept. Example: `alice@example.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What it needs. Calls outside it are told apart on their spans; it permits nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Vec<Need>>,
    /// How long it lasts, up to `tasks.max_ttl`. Default: one hour, or that if it is shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Period>,
    /// How long it may be left alone before it ends. Default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Period>,
}

/// What of a task is to be another from now on. What is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChangeTask {
    /// What it is for.
    pub purpose: Option<String>,
    /// The most that a call may do in it, for policy.
    pub max_effect: Option<Effect>,
    /// The most sensitive data it may touch, for policy.
    pub ceiling: Option<Classification>,
    /// On whose behalf it is done.
    pub subject: Option<String>,
    /// How long it lasts from now on.
    pub ttl: Option<Period>,
}

/// A destination that a task needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Need {
    /// Its name in the configuration. Example: `github`.
    pub destination: String,
    /// The most that is to be done there. Default: anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_effect: Option<Effect>,
}

/// A task that was opened.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OpenedTask {
    /// What its calls present, in the header field `Tollgate-Task`. Told once: it can't be asked for later.
    pub handle: String,
    /// The task.
    pub task: Task,
}

impl fmt::Debug for OpenedTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedTask").field("task", &self.task).finish_non_exhaustive()
    }
}

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// Its identifier, as it stands in records.
    pub id: String,
    /// How its calls are told: `header` or `static`.
    pub source: String,
    /// How it is.
    pub state: State,
    /// What it is for.
    pub purpose: String,
    /// The most that a call may do in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_effect: Option<Effect>,
    /// The most sensitive data it may touch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Classification>,
    /// On whose behalf it is done: SHA-256 of the identifier, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_hash: Option<String>,
    /// What it needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Vec<Need>>,
    /// When it was opened, RFC 3339.
    pub opened_at: String,
    /// When it ends at the latest, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// How long it may be left alone before it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Period>,
    /// Rises with every change of what it may do.
    pub epoch: u64,
    /// What was done in it so far.
    pub history: History,
}

/// How a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Calls may belong to it.
    Open,
    /// It was done.
    Ended,
    /// It was stopped.
    Killed,
    /// Its time was over.
    Expired,
    /// Nothing was done in it for too long.
    Idle,
}

/// What was done in a task so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// Calls that policy decided.
    pub calls: u64,
    /// Different hosts among them, up to 256.
    pub hosts: u64,
    /// Calls that policy denied.
    pub denied: u64,
}

/// All tasks that are known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tasks {
    /// The oldest first.
    pub tasks: Vec<Task>,
}

/// What to switch off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kill {
    /// The agent of this name or identity, with all of its tasks.
    Agent(String),
    /// The task of this identifier.
    Task(String),
    /// The destination of this name.
    Destination(String),
    /// Everything that passes here. Only `true` is accepted.
    All(bool),
}

/// What is switched off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Killed {
    /// Whether the agent is, and so everything.
    pub agent: bool,
    /// Names of destinations.
    pub destinations: Vec<String>,
}

/// How the sidecar is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The agent beside it.
    pub agent: Agent,
    /// Whether policy is enforced.
    pub mode: Mode,
    /// How deep control goes.
    pub profile: Profile,
    /// How well the agent is fenced in: `L0` to `L3`.
    pub assurance: String,
    /// Whether it does what it is for.
    pub ready: bool,
    /// Rises with every reload.
    pub generation: u64,
    /// The policy that decides.
    pub policy: Policy,
    /// Open connections of the agent.
    pub connections: i64,
    /// Open tasks.
    pub tasks: usize,
    /// What is switched off.
    pub killed: Killed,
}

/// The agent beside the sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Agent {
    /// Its workload identity, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The name that people use.
    pub name: String,
}

/// The policy that decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Policy {
    /// Names policy and data: equal texts have equal revisions.
    pub revision: String,
    /// Since when it decides, RFC 3339.
    pub since: String,
    /// Why what the files say now is not in use, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// Why a reload failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// What is wrong.
    pub error: String,
    /// When it was tried last, RFC 3339.
    pub at: String,
}

/// A response with this document.
pub fn json(status: StatusCode, document: &impl Serialize) -> Response<String> {
    let mut text = serde_json::to_string(document).expect("texts, numbers and lists of them always serialise");
    text.push('\n');
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A moment as the documents have it.
pub fn moment(time: SystemTime) -> String {
    format!("{:.3}", jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX))
}

impl From<&Shown> for Task {
    fn from(shown: &Shown) -> Self {
        let Shown { task, opened_at, end, counts } = shown;
        Self {
            id: task.id.to_string(),
            source: task.source.as_str().to_owned(),
            state: end.map_or(State::Open, State::from),
            purpose: task.purpose.to_string(),
            max_effect: task.max_effect,
            ceiling: task.ceiling,
            subject_hash: task.subject.as_ref().map(|subject| subject.id_hash.to_string()),
            manifest: task.manifest.as_ref().map(needs),
            opened_at: moment(*opened_at),
            expires_at: task.expires_at.map(moment),
            idle: task.life.idle().map(Period),
            epoch: task.epoch,
            history: History { calls: counts.calls, hosts: counts.hosts, denied: counts.denied },
        }
    }
}

impl From<End> for State {
    fn from(end: End) -> Self {
        match end {
            End::Ended => Self::Ended,
            End::Killed => Self::Killed,
            End::Expired => Self::Expired,
            End::Idle => Self::Idle,
        }
    }
}

impl State {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Ended => "ended",
            Self::Killed => "killed",
            Self::Expired => "expired",
            Self::Idle => "idle",
        }
    }
}

impl From<&Need> for task::Need {
    fn from(need: &Need) -> Self {
        Self { destination: need.destination.as_str().into(), max_effect: need.max_effect }
    }
}

fn needs(manifest: &Manifest) -> Vec<Need> {
    let need = |need: &task::Need| Need { destination: need.destination.to_string(), max_effect: need.max_effect };
    manifest.needs().iter().map(need).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_in_a_document_is_refused() {
        let open = |text: &str| serde_json::from_str::<OpenTask>(text).is_ok();
        assert!(open(r#"{"purpose": "x"}"#));
        assert!(open(
            r#"{"purpose": "x", "max_effect": "read", "ceiling": "internal", "subject": "a", "ttl": "1h", "idle": "5m",
                "manifest": [{"destination": "github", "max_effect": "read"}, {"destination": "storage"}]}"#
        ));
        for text in [
            "{}",
            r#"{"purpose": 1}"#,
            r#"{"purpose": "x", "max_effect": "look"}"#,
            r#"{"purpose": "x", "ttl": 60}"#,
            r#"{"purpose": "x", "ttl": "1"}"#,
            r#"{"purpose": "x", "tttl": "1h"}"#,
            r#"{"purpose": "x", "manifest": [{"destination": "a", "effects": []}]}"#,
        ] {
            assert!(!open(text), "{text}");
        }
        let kill = |text: &str| serde_json::from_str::<Kill>(text).is_ok();
        assert!(kill(r#"{"task": "a"}"#) && kill(r#"{"all": true}"#));
        for text in ["{}", r#"{"task": "a", "all": true}"#, r#"{"pod": "a"}"#, r#""all""#] {
            assert!(!kill(text), "{text}");
        }
    }

    #[test]
    fn a_moment_is_written_to_the_millisecond() {
        assert_eq!(moment(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
    }
}
