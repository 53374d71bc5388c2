//! What was written: plain data, one field per key of the configuration file.
//!
//! Nothing here is checked beyond its shape, and nothing here is used by the running program, which works with
//! [`Config`](super::Config). The JSON Schema and `tollgate config show` come from these types, so their comments are
//! what users read. Keys that this version does not serve yet are known here and refused by name when they are used.

mod credential;

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Classification, Durability, Mode, OtlpProtocol, Profile, TlsMode,
    values::{Period, Size},
};
use crate::call::Effect;
pub use credential::{
    AccountName, AwsCredential, AwsWebIdentity, Azure, BasicUser, ClientAssertion, Credential, FileCredential, Gcp,
    GithubApp, IdentityProvider, Kubernetes, Mtls, Oauth, OauthClient, OauthToken, Placement, PodName, RegistryToken,
    RequestedType, SecretMethod, ShownType, SpiffeJwt, SpiffeX509, VaultAlgorithm, VaultAppRole, VaultAuth,
    VaultCertificate, VaultCredential, VaultJwt, VaultKubernetes, VaultSecretId, VaultSigned,
};

/// The configuration of one Tollgate sidecar. `${NAME}` in a value stands for the environment variable NAME.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Tollgate configuration")]
pub struct Settings {
    /// Whether policy is enforced or only recorded. Example: `enforce`.
    pub mode: Mode,
    /// How deep control goes. Example: `standard`.
    pub profile: Profile,
    /// The agent beside this sidecar.
    pub agent: Agent,
    /// Where to listen. A listener that isn't named isn't opened.
    pub listen: Listen,
    /// Certificates on both sides.
    pub tls: Tls,
    /// Where calls may go, by a name that policy and records use. What is not listed is refused.
    pub destinations: BTreeMap<String, Destination>,
    /// What is put onto permitted calls, by a name that destinations refer to.
    pub credentials: BTreeMap<String, Credential>,
    /// Which policy decides, and within which limits.
    pub policy: Policy,
    /// Which task a call belongs to.
    pub tasks: Tasks,
    /// How people approve calls. Not available in this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approvals: Option<Approvals>,
    /// Where records go and how durable they are.
    pub audit: Audit,
    /// Where spans go.
    pub telemetry: Telemetry,
    /// Where shared state lives.
    pub state: State,
    /// Bounds on what an agent can make this sidecar hold.
    pub limits: Limits,
}

/// The agent beside this sidecar.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    /// A name that people use. Default: the last part of the identity. Example: `triage-bot`.
    pub name: Option<String>,
    /// The agent's workload identity. Required.
    #[schemars(required)]
    pub identity: Option<Identity>,
}

/// A workload identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Where the identity comes from.
    pub kind: IdentityKind,
    /// The identity. Required for `static`. For the others, the one that must be proven; what proves another is refused.
    /// Example: `spiffe://example.org/ns/a/sa/triage`.
    pub id: Option<String>,
    /// For `spiffe`: where the Workload API is. Default: what the variable SPIFFE_ENDPOINT_SOCKET says.
    /// Example: `unix:///run/spire/agent.sock`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// For `kubernetes`: the projected token. Default: where the injector mounts it.
    /// Example: `/var/run/secrets/tollgate.dev/identity/token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<PathBuf>,
    /// For `kubernetes`: the first part of the identity. Default: the injector's, or `cluster.local`. Example: `example.org`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
}

/// Where a workload identity comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdentityKind {
    /// From `id` in this file.
    Static,
    /// From the SPIFFE Workload API.
    Spiffe,
    /// From a projected service account token.
    Kubernetes,
}

impl IdentityKind {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Spiffe => "spiffe",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// Addresses to listen on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Explicit HTTP proxy: absolute-form and CONNECT. Example: `127.0.0.1:15001`.
    pub proxy: Option<SocketAddr>,
    /// Redirected connections. Example: `0.0.0.0:15002`.
    pub transparent: Option<SocketAddr>,
    /// Stub resolver: only permitted names leave. Example: `127.0.0.1:15053`.
    pub dns: Option<SocketAddr>,
    /// `/livez`, `/readyz`, `/startupz` and `/metrics`, read only. Example: `0.0.0.0:15020`.
    pub health: Option<SocketAddr>,
    /// The admin API's Unix socket; for root and the sidecar's own user. Example: `/run/tollgate/admin.sock`.
    pub admin: Option<PathBuf>,
}

/// Certificates on both sides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The authority that issues certificates towards the agent.
    pub authority: Authority,
    /// What verifies the certificates of destinations.
    pub origin_roots: OriginRoots,
}

/// The authority that issues certificates towards the agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Authority {
    /// Keeps the authority over a restart. Without it the key lives in memory only. Example: `/run/tollgate/ca`.
    pub dir: Option<PathBuf>,
    /// Where to write the system's roots plus ours, for the agent to trust. Example: `/etc/tollgate/trust/ca.pem`.
    pub trust_bundle: Option<PathBuf>,
    /// Where to write the same as a Java key store (JKS, password `changeit`). Example: `/etc/tollgate/trust/truststore.jks`.
    pub java_trust_store: Option<PathBuf>,
}

/// What verifies the certificates of destinations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OriginRoots {
    /// Whether the system's roots count. Example: `true`.
    pub system: bool,
    /// Further PEM files of roots. Example: `[/etc/tollgate/roots/corp.pem]`.
    pub files: Vec<PathBuf>,
}

impl Default for OriginRoots {
    fn default() -> Self {
        Self { system: true, files: Vec::new() }
    }
}

/// One destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Destination {
    /// Host names: exact, or `*.suffix` for one label or more before the suffix; or IP literals. At least one.
    /// Example: `[api.github.com]`.
    pub hosts: Vec<String>,
    /// TCP ports. Example: `[443]`.
    pub ports: Vec<u16>,
    /// The classes of address that the names may lead to. Link-local and metadata addresses: never.
    /// Example: `[public]`.
    pub reach: Vec<Reach>,
    /// Pins where the names lead, instead of resolving them; the one way to loopback. Example: `[10.0.0.7]`.
    pub addresses: Vec<IpAddr>,
    /// What is spoken there. Example: `http`.
    pub protocol: Protocol,
    /// Whether TLS is opened or passed through. Example: `intercept`.
    pub tls: TlsMode,
    /// Free text for policy: cluster, corp, partner, internet. Example: `internet`.
    pub zone: String,
    /// Free text for policy. Example: `prod`.
    pub environment: String,
    /// The most sensitive data that may be sent there. Example: `internal`.
    pub classification: Classification,
    /// What is done with the secrets that the agent sends there.
    pub secrets: Secrets,
    /// The credential that is put onto permitted calls, by its name under `credentials`. Example: `github`.
    pub credential: Option<String>,
    /// What clients are given in place of that credential: it looks like one and is worth nothing. In the credential's slot it
    /// is replaced, anywhere else the call is refused. At least 16 characters. Example: `ghp_tollgate000000000000`.
    pub placeholder: Option<String>,
}

impl Default for Destination {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            ports: vec![443],
            reach: vec![Reach::Public],
            addresses: Vec::new(),
            protocol: Protocol::Http,
            tls: TlsMode::Intercept,
            zone: "internet".to_owned(),
            environment: String::new(),
            classification: Classification::Internal,
            secrets: Secrets::default(),
            credential: None,
            placeholder: None,
        }
    }
}

/// What is done with the secrets that the agent sends to a destination. By itself heads lose them, and bodies are not
/// looked into, but for messages of MCP, where they are recorded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// What is done with all kinds that are not listed. Default: `strip` in heads, `redact` in bodies of HTTP, `observe` in
    /// messages of MCP. Example: `refuse`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<crate::secret::Mode>,
    /// What is done with one kind, by its name in `policy/secrets.yaml`. Example: `{github_pat: refuse}`.
    pub kinds: BTreeMap<String, crate::secret::Mode>,
    /// Whether bodies of JSON, forms and text are held, up to `limits.inspect_bytes`, and looked into. Example: `true`.
    pub bodies: bool,
}

/// A class of address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Addresses of the internet.
    Public,
    /// Private addresses, such as cluster services.
    Private,
}

/// What is spoken at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Plain HTTP semantics, gRPC and WebSocket included.
    Http,
    /// The Model Context Protocol over streamable HTTP.
    Mcp,
    /// Agent to agent. Not available in this version.
    A2a,
    /// gRPC, understood by service and method. Not available in this version; `http` passes it through.
    Grpc,
    /// GraphQL. Not available in this version.
    Graphql,
    /// The OpenAI API. Not available in this version.
    Openai,
    /// The Anthropic API. Not available in this version.
    Anthropic,
    /// Bytes; only with `tls: passthrough`.
    Opaque,
}

/// Which policy decides. Without `paths` the shipped default applies: deny, but for what its allow-list permits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Files and directories of `*.rego`, `data.json`, `data.yaml`. Example: `[/etc/tollgate/policy]`.
    pub paths: Vec<PathBuf>,
    /// Signed bundles from a server. Not available in this version.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bundles: Vec<Bundle>,
    /// The rule that is asked, as a path below `data`. Example: `tollgate/decision`.
    pub decision: String,
    /// How long one evaluation may take. Example: `10ms`.
    pub budget: Period,
    /// The decision cache.
    pub cache: Cache,
    /// Another shape of answer to read. Not available in this version. Example: `opa_envoy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<AnswerShape>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            bundles: Vec::new(),
            decision: "tollgate/decision".to_owned(),
            budget: Period(Duration::from_millis(10)),
            cache: Cache::default(),
            answer: None,
        }
    }
}

/// A policy bundle on a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bundle {
    /// Where it is. Example: `https://bundles.example/agents.tar.gz`.
    pub url: Option<String>,
    /// How often to ask for a new one. Example: `30s`.
    pub poll: Option<Period>,
    /// How its signature is verified.
    pub verify: Option<Verify>,
}

/// How a bundle's signature is verified.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Verify {
    /// The public keys that count.
    pub keys: Vec<PublicKey>,
    /// The scope that the signature must name. Example: `agents`.
    pub scope: Option<String>,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublicKey {
    /// The PEM file that holds it. Example: `/etc/tollgate/keys/bundles.pem`.
    pub file: PathBuf,
}

/// Bounds of the decision cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// How many decisions are kept. 0 turns the cache off. Example: `10000`.
    pub entries: u64,
    /// How long a decision is kept at most. Example: `5s`.
    pub ttl: Period,
}

impl Default for Cache {
    fn default() -> Self {
        Self { entries: 10_000, ttl: Period(Duration::from_secs(5)) }
    }
}

/// A shape of policy answer other than Tollgate's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerShape {
    /// The object of the OPA-Envoy plugin.
    OpaEnvoy,
}

/// Which task a call belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tasks {
    /// Where a call's task is looked for, first match wins. Default: `[header, static]`.
    pub source: Option<Vec<TaskSource>>,
    /// The task of calls that name none.
    #[serde(rename = "static")]
    pub static_task: Option<StaticTask>,
    /// The longest that a task may last that is opened at the admin API or given by a pod's annotation. Example: `24h`.
    pub max_ttl: Period,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { source: None, static_task: None, max_ttl: Period(Duration::from_secs(24 * 60 * 60)) }
    }
}

/// Where a call's task is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskSource {
    /// A transaction token. Not available in this version.
    TxnToken,
    /// The handle of a task that was opened at the admin API, in the header `Tollgate-Task`.
    Header,
    /// `tasks.static`.
    Static,
}

/// One task, open from the start of the sidecar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticTask {
    /// What the agent is for. Required. Example: `triage`.
    #[schemars(required)]
    pub purpose: Option<String>,
    /// How long after the start of the sidecar it ends. Example: `1h`.
    #[serde(default = "task_ttl")]
    pub ttl: Period,
    /// How long it may be left alone before it ends. Default: for ever. Example: `30m`.
    pub idle: Option<Period>,
    /// The most that a call may do in it, for policy. Example: `write`.
    pub max_effect: Option<Effect>,
    /// The most sensitive data it may touch, for policy. Example: `internal`.
    pub ceiling: Option<Classification>,
    /// What it needs. It permits nothing; calls outside it are told apart from those within.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifest: Vec<Need>,
}

/// One destination that a task needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Need {
    /// Its name among `destinations`. Example: `github`.
    pub destination: String,
    /// The most that is to be done there; without it, anything. Example: `read`.
    pub max_effect: Option<Effect>,
}

/// How people approve calls.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Approvals {
    /// How long a call is held for its approval. Example: `50s`.
    pub hold: Option<Period>,
    /// How long a request for approval stays open. Example: `15m`.
    pub expires: Option<Period>,
    /// Who is told about it.
    pub notify: Vec<Notify>,
}

/// Who is told about a request for approval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// A URL that the request is posted to. Example: `https://hooks.example/tollgate`.
    pub webhook: String,
}

/// Where records go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// The file that records are appended to, as JSON lines. Example: `/var/log/tollgate/audit.jsonl`.
    pub file: Option<PathBuf>,
    /// When a record must be on disk. Default: `before_forward` where the profile is strict or locked, else `buffered`.
    pub durable: Option<Durability>,
    /// Moves the file away when it is full, and removes the oldest. Without it the file grows until someone else moves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate: Option<Rotation>,
    /// A server for OPA decision logs. Not available in this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision_logs: Option<DecisionLogs>,
}

/// When the audit file is moved away, and how many of those are kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// From so many bytes on. Example: `256MiB`.
    pub bytes: Size,
    /// How many that were moved away are kept, as `FILE.1`, `FILE.2` and so on. Example: `3`.
    pub keep: u32,
}

/// A server for OPA decision logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionLogs {
    /// Where they are sent. Example: `https://logs.example/logs`.
    pub url: String,
}

/// Where spans go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// The OTLP endpoint. Default: what the standard `OTEL_*` variables say.
    pub otlp: Option<Otlp>,
}

/// An OTLP endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Otlp {
    /// Its base URL. Default: `OTEL_EXPORTER_OTLP_ENDPOINT`. Example: `http://localhost:4318`.
    pub endpoint: Option<String>,
    /// `http` (protobuf) or `grpc`. Default: `OTEL_EXPORTER_OTLP_PROTOCOL`, else `http`. Example: `http`.
    pub protocol: Option<OtlpProtocol>,
}

/// Where shared state lives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// Which store. Example: `memory`.
    pub kind: StateKind,
    /// For `redis`: where it is. Example: `redis://redis:6379`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where credentials that have to be revoked are written down by name, never by value, so that a crash leaves none
    /// behind. Default: `revocations.jsonl` in `tls.authority.dir`, where that is given. Example:
    /// `/run/tollgate/revocations.jsonl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<PathBuf>,
}

/// Which store keeps shared state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// In this process.
    #[default]
    Memory,
    /// In Redis or Valkey, shared by a fleet. Not available in this version.
    Redis,
}

/// Bounds on what an agent can make this sidecar hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open connections from the agent. Example: `1024`.
    pub connections: u32,
    /// One request's head. At least `8KiB`. Example: `64KiB`.
    pub header_bytes: Size,
    /// One body that policy must see. Example: `1MiB`.
    pub inspect_bytes: Size,
    /// All bodies held for policy at one time. Example: `32MiB`.
    pub inspect_total: Size,
    /// Nesting of inspected JSON, in levels. At most 128. Example: `64`.
    pub json_depth: u32,
    /// How long the first bytes of a redirected connection are waited for; after CONNECT it is 10 s. Example: `250ms`.
    pub sniff: Period,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            header_bytes: Size(64 << 10),
            inspect_bytes: Size(1 << 20),
            inspect_total: Size(32 << 20),
            json_depth: 64,
            sniff: Period(Duration::from_millis(250)),
        }
    }
}

impl Protocol {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Mcp => "mcp",
            Self::A2a => "a2a",
            Self::Grpc => "grpc",
            Self::Graphql => "graphql",
            Self::Openai => "openai",
            Self::Anthropic => "anthropic",
            Self::Opaque => "opaque",
        }
    }
}

/// The JSON Schema of the configuration file, as pretty JSON that ends in a line break.
pub fn schema() -> String {
    let schema = schemars::schema_for!(Settings);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is a JSON value, which always serializes");
    text.push('\n');
    text
}

fn task_ttl() -> Period {
    Period(Duration::from_secs(60 * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `TOLLGATE_BLESS=1` rewrites the committed copy.
    #[test]
    fn the_committed_schema_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.schema.json");
        if std::env::var_os("TOLLGATE_BLESS").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
            std::fs::write(path, schema()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == schema(), "docs/config.schema.json is stale; run the test with TOLLGATE_BLESS=1");
    }

    #[test]
    fn every_key_of_the_schema_is_described() {
        let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
        assert_eq!(schema["title"], "Tollgate configuration");
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        let definitions = schema["$defs"].as_object().unwrap().values();
        for object in definitions.chain([&schema]) {
            for (key, property) in object["properties"].as_object().into_iter().flatten() {
                assert!(property["description"].is_string(), "{key}");
            }
        }
    }
}
