//! What this sidecar was told to do, checked and ready to use.
//!
//! [`settings`] is what was written; [`Config`] is what can be used. Turning one into the other reports every error at
//! once with its place, so that nothing behind this module checks a value again or reads the environment.

pub mod document;
pub mod file;
pub mod problem;
pub mod ready;
pub mod settings;
pub mod values;
mod warnings;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    call::Effect,
    credential, identity,
    kubernetes::assurance::Claim,
    secret::{Treatment, placeholder::Placeholders},
    task::Manifest,
};
pub use file::{File, Fixed};
pub use problem::{Problem, Problems};

/// Everything that one sidecar needs to run.
#[derive(Debug)]
pub struct Config {
    /// The file that it was read from, which is read again on change.
    pub file: Option<File>,
    /// Whether policy is enforced or only recorded.
    pub mode: Mode,
    /// How deep control goes.
    pub profile: Profile,
    /// Who the agent is.
    pub agent: Agent,
    /// What proves who the agent is.
    pub identity: identity::Source,
    /// Where to listen. What is `None` is not opened.
    pub listen: Listen,
    /// Certificates on both sides.
    pub tls: Tls,
    /// Where calls may go.
    pub upstreams: Upstreams,
    /// What is put onto permitted calls, by name.
    pub credentials: BTreeMap<String, Arc<credential::Declaration>>,
    /// The secrets of ours that came from the environment, which whoever inherits it must not.
    pub environment_secrets: Vec<credential::SecretValue>,
    /// Which policy decides, and within which limits.
    pub policy: Policy,
    /// Where what has to be revoked is written down, so that a crash leaves nothing behind.
    pub revocation_journal: Option<PathBuf>,
    /// Which tasks calls may belong to.
    pub tasks: Tasks,
    /// Where records go and how durable they are.
    pub audit: Audit,
    /// Where spans go.
    pub telemetry: Telemetry,
    /// Bounds on what an agent can make this process hold.
    pub limits: Limits,
    /// What the injector says of the pod around this sidecar, where there is one.
    pub pod: Option<Claim>,
}

/// `enforce` refuses what policy denies; `shadow` decides and records but forwards. The hard floor holds in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Refuse what policy denies.
    #[default]
    Enforce,
    /// Decide and record; forward all the same.
    Shadow,
}

/// How deep control goes. `strict` and `locked` make every record durable before its call is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Watch and learn.
    Observe,
    /// The default.
    #[default]
    Standard,
    /// Durable records.
    Strict,
    /// Durable records, and no rule text in answers to the agent.
    Locked,
}

/// The agent beside this sidecar: facts from configuration and the downward API, never from the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The workload identity, e.g. `spiffe://example.org/ns/a/sa/triage`, once it is known.
    pub id: identity::Id,
    /// A name that people use.
    pub name: String,
    /// The Kubernetes namespace, where there is one.
    pub namespace: Option<String>,
    /// The pod's name, where there is one.
    pub pod: Option<String>,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// How well the agent is fenced in. `L0` until it is raised, by who puts up a fence or by who has read that it was
    /// checked: nothing in a file shows that the agent has no other way out.
    pub assurance: Level,
}

/// The assurance level in force, shared by all who hold a copy.
#[derive(Debug, Clone, Default)]
pub struct Level(Arc<AtomicU8>);

impl Level {
    /// The level now.
    pub fn now(&self) -> Assurance {
        match self.0.load(Ordering::Relaxed) {
            0 => Assurance::L0,
            1 => Assurance::L1,
            2 => Assurance::L2,
            _ => Assurance::L3,
        }
    }

    /// Changes the level for all who hold a copy.
    pub fn set(&self, level: Assurance) {
        self.0.store(level as u8, Ordering::Relaxed);
    }

    /// As it stands in policy input, spans and records.
    pub fn as_str(&self) -> &'static str {
        self.now().as_str()
    }
}

impl From<Assurance> for Level {
    fn from(level: Assurance) -> Self {
        Self(Arc::new(AtomicU8::new(level as u8)))
    }
}

impl PartialEq for Level {
    fn eq(&self, other: &Self) -> bool {
        self.now() == other.now()
    }
}

impl Eq for Level {}

/// How well the agent is fenced in; see the documentation on assurance levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Assurance {
    /// Cooperative: proxy variables only.
    L0,
    /// Redirected: the kernel sends every connection here.
    L1,
    /// Redirected by the node: the pod never had the right to change the rules.
    L2,
    /// A gateway lets nothing out but what came through the sidecar. Nothing here can check that yet.
    L3,
}

impl Assurance {
    /// As it stands in policy input, spans and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::L0 => "L0",
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
        }
    }
}

/// How a destination covers a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover<'a> {
    /// The configuration spells it out.
    Exact,
    /// It ends in this, which begins with a dot.
    Suffix(&'a str),
}

/// Addresses to listen on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listen {
    /// Explicit HTTP proxy: absolute-form and CONNECT.
    pub proxy: Option<SocketAddr>,
    /// Redirected connections.
    pub transparent: Option<SocketAddr>,
    /// Stub resolver.
    pub dns: Option<SocketAddr>,
    /// `/livez`, `/readyz`, `/startupz`, `/metrics`.
    pub health: Option<SocketAddr>,
    /// The admin API's Unix socket.
    pub admin: Option<PathBuf>,
    /// A further user who is answered there: the pod's orchestrator.
    pub admin_user: Option<u32>,
}

/// Certificates on both sides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Keeps the authority over a restart of the container. `None`: the key lives in memory only.
    pub authority_dir: Option<PathBuf>,
    /// Where to write the system's roots plus ours, for the agent to trust.
    pub trust_bundle: Option<PathBuf>,
    /// Where to write the same for Java.
    pub java_trust_store: Option<PathBuf>,
    /// Whether the system's roots verify origins.
    pub system_roots: bool,
    /// Further PEM files whose certificates verify origins.
    pub root_files: Vec<PathBuf>,
}

/// The configured destinations, matched by host name and port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upstreams {
    exact: std::collections::HashMap<String, Vec<Arc<Upstream>>>,
    suffix: Vec<(String, Arc<Upstream>)>,
    all: Vec<Arc<Upstream>>,
    placeholders: Placeholders,
}

/// One configured destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its name in the configuration and in policy.
    pub name: Arc<str>,
    /// Canonical host names: exact, or a suffix that begins with a dot (from `*.suffix`).
    pub hosts: Vec<HostPattern>,
    /// The ports it may be reached at.
    pub ports: Vec<u16>,
    /// Whether names may lead to public addresses.
    pub reach_public: bool,
    /// Whether names may lead to private addresses.
    pub reach_private: bool,
    /// Pins: dialled instead of resolving. The one way to loopback.
    pub addresses: Vec<IpAddr>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Whether TLS is opened or passed through.
    pub tls: TlsMode,
    /// Free text for policy.
    pub zone: Arc<str>,
    /// Free text for policy.
    pub environment: Arc<str>,
    /// The most sensitive data that may be sent there.
    pub classification: Classification,
    /// What is done with the secrets that are sent there.
    pub secrets: Treatment,
    /// The credential put onto permitted calls.
    pub credential: Option<Arc<credential::Declaration>>,
    /// What clients are given in its place.
    pub placeholder: Option<Arc<str>>,
}

/// A host name as configured, in canonical form (lower-case A-labels, no trailing dot).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Exactly this name, or this IP literal.
    Exact(String),
    /// Any name that ends in this, which begins with a dot: one label or more before it.
    Suffix(String),
}

/// What is spoken at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Plain HTTP semantics, gRPC and WebSocket included.
    #[default]
    Http,
    /// The Model Context Protocol over streamable HTTP.
    Mcp,
    /// Bytes: no HTTP is looked for; only with `tls: passthrough`.
    Opaque,
}

/// Whether TLS to a destination is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// Opened: every request is seen, decided and given its credential.
    #[default]
    Intercept,
    /// Passed through as bytes: decided once per connection; never with a credential.
    Passthrough,
}

/// How sensitive data is, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Classification {
    /// For anyone.
    Public,
    /// For the organisation.
    #[default]
    Internal,
    /// For some.
    Confidential,
    /// For few.
    Restricted,
}

impl Classification {
    /// As it stands in configuration and policy input.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Confidential => "confidential",
            Self::Restricted => "restricted",
        }
    }
}

/// Which policy decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Files and directories of `*.rego`, `data.json`, `data.yaml`. Empty: the shipped default.
    pub paths: Vec<PathBuf>,
    /// Data given beside the files, merged under `data`: the allow-list that `exec --allow` writes.
    pub data: Option<serde_json::Value>,
    /// The program that tries a policy in a child process before it is used. `None`: this one.
    pub program: Option<PathBuf>,
    /// The rule that is asked, as a path below `data`: `tollgate/decision`.
    pub decision: String,
    /// How long one evaluation may take.
    pub budget: Duration,
    /// How many decisions are kept. 0 turns the cache off.
    pub cache_entries: u64,
    /// How long a decision is kept, at most.
    pub cache_ttl: Duration,
}

/// Which tasks calls may belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tasks {
    /// Whether tasks can be opened, whose calls present a handle.
    pub header: bool,
    /// The task of calls that present none.
    pub fixed: Option<StaticTask>,
    /// The longest that a task may last that is opened.
    pub longest: Duration,
}

/// The task that calls belong to when they present none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticTask {
    /// What the agent is for.
    pub purpose: String,
    /// How long after the start of the sidecar it ends.
    pub ttl: Duration,
    /// How long it may be left alone.
    pub idle: Option<Duration>,
    /// The most that a call may do in it.
    pub max_effect: Option<Effect>,
    /// The most sensitive data it may touch.
    pub ceiling: Option<Classification>,
    /// What it says it needs.
    pub manifest: Option<Manifest>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { header: true, fixed: None, longest: Duration::from_secs(24 * 60 * 60) }
    }
}

impl StaticTask {
    /// A task that is bounded by nothing but its end.
    pub fn new(purpose: impl Into<String>, ttl: Duration) -> Self {
        Self { purpose: purpose.into(), ttl, idle: None, max_effect: None, ceiling: None, manifest: None }
    }
}

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The file that lines are appended to. `None`: standard output is not touched and no file is kept.
    pub file: Option<PathBuf>,
    /// Whether a call's record is on disk before the call is forwarded.
    pub durable: Durability,
    /// When the file is moved away, where it is by us.
    pub rotate: Option<Rotation>,
}

/// When the audit file is moved away, and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// From so many bytes on.
    pub bytes: u64,
    /// How many that were moved away are kept; at least one.
    pub keep: u32,
}

/// When a record must be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Written soon after the call; a crash of the machine may lose the last ones.
    #[default]
    Buffered,
    /// On disk before the call is forwarded.
    BeforeForward,
}

/// Where spans go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// The OTLP endpoint. `None`: no spans are exported.
    pub otlp: Option<Otlp>,
}

/// An OTLP endpoint. `Debug` shows no header's value, which may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Otlp {
    /// For `http` the base to which `/v1/traces` is added.
    pub endpoint: String,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
    /// Further headers, from `OTEL_EXPORTER_OTLP_HEADERS`.
    pub headers: Vec<(String, String)>,
    /// `service.name` and further resource attributes.
    pub resource: Vec<(String, String)>,
}

impl std::fmt::Debug for Otlp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Otlp")
            .field("endpoint", &self.endpoint)
            .field("protocol", &self.protocol)
            .field("headers", &headers)
            .field("resource", &self.resource)
            .finish()
    }
}

/// How an OTLP endpoint is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtlpProtocol {
    /// Protobuf over HTTP.
    #[default]
    Http,
    /// gRPC.
    Grpc,
}

/// Bounds on what an agent can make this process hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections from the agent.
    pub connections: usize,
    /// One request's head, in bytes.
    pub header_bytes: usize,
    /// One body that policy must see, in bytes.
    pub inspect_bytes: usize,
    /// All bodies held for policy at one time, in bytes.
    pub inspect_total: usize,
    /// Nesting of inspected JSON.
    pub json_depth: usize,
    /// How long the first bytes of a connection are waited for.
    pub sniff: Duration,
    /// How long connecting to an origin may take, name and TLS included.
    pub connect: Duration,
    /// How long exchanges may go on after the signal to stop.
    pub drain: Duration,
}

impl Upstreams {
    /// Indexes the given destinations. That no two of them claim the same host and port was checked before.
    pub fn new(all: Vec<Arc<Upstream>>) -> Self {
        let given = all.iter().filter_map(|upstream| Some((upstream.placeholder.as_deref()?, &upstream.name)));
        let placeholders = Placeholders::new(given);
        let mut upstreams = Self { all, placeholders, ..Self::default() };
        for upstream in &upstreams.all {
            for host in &upstream.hosts {
                match host {
                    HostPattern::Exact(name) => {
                        upstreams.exact.entry(name.clone()).or_default().push(Arc::clone(upstream));
                    }
                    HostPattern::Suffix(suffix) => upstreams.suffix.push((suffix.clone(), Arc::clone(upstream))),
                }
            }
        }
        // The longest suffix is the most specific one.
        upstreams.suffix.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        upstreams
    }

    /// The destination that covers this canonical host name at this port.
    pub fn find(&self, host: &str, port: u16) -> Option<&Arc<Upstream>> {
        let exact = self.exact.get(host).and_then(|found| found.iter().find(|u| u.ports.contains(&port)));
        exact.or_else(|| {
            let covers = |(suffix, upstream): &&(String, Arc<Upstream>)| {
                host.len() > suffix.len() && host.ends_with(suffix.as_str()) && upstream.ports.contains(&port)
            };
            self.suffix.iter().find(covers).map(|(_, upstream)| upstream)
        })
    }

    /// Whether some destination covers this canonical host name at any port.
    pub fn covers_name(&self, host: &str) -> bool {
        self.cover(host).is_some()
    }

    /// How a host name is covered, if it is: a pattern that spells it out goes before a suffix.
    pub fn cover(&self, host: &str) -> Option<Cover<'_>> {
        if self.exact.contains_key(host) {
            return Some(Cover::Exact);
        }
        let mut suffixes = self.suffix.iter().map(|(suffix, _)| suffix.as_str());
        suffixes.find(|suffix| host.len() > suffix.len() && host.ends_with(suffix)).map(Cover::Suffix)
    }

    /// What clients are given in place of credentials.
    pub fn placeholders(&self) -> &Placeholders {
        &self.placeholders
    }

    /// The destination of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.all.iter().find(|upstream| &*upstream.name == name)
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.all.iter()
    }
}
