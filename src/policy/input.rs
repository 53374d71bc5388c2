//! The document that Rego sees as `input`: schema 1 of the public contract.
//!
//! An [`Input`] only borrows the facts of a call. Of the whole schema, which stands in one table ([`field::FIELDS`]),
//! only the fields that the loaded policy reads are ever turned into the engine's values or into a key. What is not
//! known is absent, never invented: `task.history`, for one, is undefined until something counts.

pub mod encode;
pub mod field;
pub mod value;

use std::{net::IpAddr, sync::Arc};

use crate::{
    call::Call,
    config::{Agent, Upstream},
    credential::Declaration,
    secret::Found,
    task::Task,
};

/// The facts and claims of one call, as they are given to policy.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Who calls.
    pub agent: &'a Agent,
    /// What for.
    pub task: &'a Task,
    /// What is asked for.
    pub call: &'a Call,
    /// Where it is asked for.
    pub upstream: &'a Upstream,
    /// The address that would be dialled, where it is known by now.
    pub ip: Option<IpAddr>,
    /// The class of that address: `public` or `private`.
    pub ip_class: Option<&'static str>,
    /// What happens to TLS between the agent and the destination: `intercept`, `passthrough` or `none`.
    pub tls: &'static str,
    /// The credential that a yes would put onto the call.
    pub credential: Option<&'a Declaration>,
    /// The secrets that the agent sent and that were taken away.
    pub secrets: &'a [Found],
}

/// An input together with what was computed from it and from policy data: all that an evaluation can see.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    /// The facts and claims of the call.
    pub input: &'a Input<'a>,
    /// The allow-list's entries that match the call.
    pub matches: &'a [Arc<str>],
}

impl Document<'_> {
    /// The whole document as JSON, for people and for tests.
    pub fn to_json(self) -> serde_json::Value {
        let value = value::Template::new(super::reads::ReadSet::everything().reads()).fill(self);
        value::to_json(&value)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        collections::BTreeMap,
        time::{Duration, SystemTime},
    };

    use serde_json::json;

    use super::{super::reads::ReadSet, *};
    use crate::{
        call::{
            BodyFacts, Effect, McpCall, Protocol,
            http::{HttpCall, Scheme},
        },
        config::{Assurance, Classification, HostPattern, TlsMode},
        credential::{Placement, Source},
        task,
    };

    /// Everything that an [`Input`] borrows from.
    #[derive(Debug)]
    pub struct Scene {
        pub agent: Agent,
        pub task: Task,
        pub call: Call,
        pub upstream: Upstream,
        pub ip: Option<IpAddr>,
        pub secrets: Vec<Found>,
        pub matches: Vec<Arc<str>>,
    }

    impl Scene {
        pub fn http() -> Self {
            Self {
                agent: Agent {
                    id: "spiffe://example.org/ns/a/sa/triage".into(),
                    name: "triage-bot".into(),
                    namespace: Some("a".into()),
                    pod: None,
                    labels: BTreeMap::from([("app".into(), "triage".into()), ("tier".into(), "1".into())]),
                    assurance: Assurance::L1,
                },
                task: Task {
                    id: "task-1".into(),
                    source: task::Source::Static,
                    purpose: "triage".into(),
                    max_effect: Some(Effect::Write),
                    ceiling: Some(Classification::Internal),
                    expires_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000)),
                    epoch: 7,
                },
                call: http_call(),
                upstream: upstream(),
                ip: Some([203, 0, 113, 7].into()),
                secrets: vec![Found { kind: "github_pat", place: "header:authorization".into() }],
                matches: vec!["issues".into()],
            }
        }

        pub fn mcp(arguments: serde_json::Value) -> Self {
            let mut scene = Self::http();
            scene.call.protocol = Protocol::Mcp;
            scene.call.mcp = Some(mcp_call(arguments));
            scene
        }

        pub fn input(&self) -> Input<'_> {
            Input {
                agent: &self.agent,
                task: &self.task,
                call: &self.call,
                upstream: &self.upstream,
                ip: self.ip,
                ip_class: self.ip.map(|_| "public"),
                tls: "intercept",
                credential: self.upstream.credential.as_deref(),
                secrets: &self.secrets,
            }
        }

        pub fn to_json(&self) -> serde_json::Value {
            Document { input: &self.input(), matches: &self.matches }.to_json()
        }

        /// The key and the partial document of a read set.
        pub fn key(&self, reads: &ReadSet) -> Vec<u8> {
            Document { input: &self.input(), matches: &self.matches }.key(reads.reads())
        }
    }

    fn http_call() -> Call {
        let mut headers = ::http::HeaderMap::new();
        headers.append("content-type", "application/json".parse().unwrap());
        headers.append("accept", "text/html".parse().unwrap());
        headers.append("accept", "*/*".parse().unwrap());
        Call {
            protocol: Protocol::Http,
            effect: Effect::Write,
            http: HttpCall {
                method: ::http::Method::POST,
                scheme: Scheme::Https,
                host: "api.github.com".into(),
                port: 443,
                path: "/repos/o/r/issues".into(),
                segments: ["repos", "o", "r", "issues"].map(String::from).to_vec(),
                query: [("q", "x"), ("page", "2"), ("q", "y")].map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
                raw_query: Some("q=x&page=2&q=y".into()),
            },
            headers,
            body: BodyFacts {
                inspected: true,
                size: Some(512),
                json: Some(json!({"title": "t", "labels": ["a", "b"], "n": 1.5, "deep": {"x": null}})),
            },
            mcp: None,
            embedded_urls: vec!["https://example.org/x".into()],
        }
    }

    fn upstream() -> Upstream {
        Upstream {
            name: "github".into(),
            hosts: vec![HostPattern::Exact("api.github.com".into())],
            ports: vec![443],
            reach_public: true,
            reach_private: false,
            addresses: Vec::new(),
            protocol: crate::config::Protocol::Http,
            tls: TlsMode::Intercept,
            zone: "internet".into(),
            environment: "prod".into(),
            classification: Classification::Internal,
            credential: Some(Arc::new(Declaration {
                name: "github-app".into(),
                source: Source::File { file: "/run/secret".into(), owner: "team-x".into(), expires: None },
                placement: Placement::Bearer,
                max_ttl: Duration::from_secs(600),
            })),
        }
    }

    fn mcp_call(arguments: serde_json::Value) -> McpCall {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "create_issue", "arguments": arguments}});
        let mut headers = ::http::HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        McpCall::parse(message.to_string().as_bytes(), &headers, 64).unwrap()
    }

    #[test]
    fn the_document_of_an_http_call_is_the_public_contract() {
        let expected = json!({
            "schema": 1,
            "agent": {"id": "spiffe://example.org/ns/a/sa/triage", "name": "triage-bot", "namespace": "a",
                      "labels": {"app": "triage", "tier": "1"}, "assurance": "L1"},
            "subject": {"kind": "none"},
            "task": {"id": "task-1", "source": "static", "purpose": "triage", "max_effect": "write",
                     "ceiling": "internal", "expires_at": "2096-10-02T07:06:40Z", "epoch": 7},
            "delegation": {"depth": 0, "chain": []},
            "call": {"protocol": "http", "effect": "write", "method": "POST", "scheme": "https",
                     "host": "api.github.com", "port": 443, "path": "/repos/o/r/issues",
                     "segments": ["repos", "o", "r", "issues"], "query": {"q": ["x", "y"], "page": ["2"]},
                     "headers": {"content-type": ["application/json"], "accept": ["text/html", "*/*"]},
                     "body": {"inspected": true, "size": 512, "truncated": false,
                              "json": {"title": "t", "labels": ["a", "b"], "n": 1.5, "deep": {"x": null}}},
                     "embedded_urls": ["https://example.org/x"]},
            "destination": {"name": "github", "zone": "internet", "environment": "prod",
                            "classification": "internal", "ip": "203.0.113.7", "ip_class": "public",
                            "tls": "intercept", "first_seen": false},
            "credential": {"name": "github-app", "kind": "file", "revocable": false},
            "secrets": [{"kind": "github_pat", "where": "header:authorization"}],
            "approval": {"state": "none", "id": null},
            "matches": ["issues"],
        });
        assert_eq!(Scene::http().to_json(), expected);
    }

    #[test]
    fn a_tool_call_shows_its_tool_and_arguments() {
        let document = Scene::mcp(json!({"repo": "o/r", "title": "t"})).to_json();
        let mcp = &document["call"]["mcp"];
        assert_eq!(mcp["method"], "tools/call");
        assert_eq!(mcp["tool"], "create_issue");
        assert_eq!(mcp["arguments"], json!({"repo": "o/r", "title": "t"}));
    }

    #[test]
    fn a_grpc_call_shows_its_service_and_method() {
        let mut scene = Scene::http();
        scene.call.protocol = Protocol::Grpc;
        scene.call.http.segments = vec!["pkg.Issues".into(), "List".into()];
        assert_eq!(scene.to_json()["call"]["grpc"], json!({"service": "pkg.Issues", "method": "List"}));
        scene.call.http.segments.push("more".into());
        assert!(scene.to_json()["call"].get("grpc").is_none());
    }

    #[test]
    fn what_is_not_known_is_absent() {
        let mut scene = Scene::http();
        scene.task = Task::none();
        scene.upstream.credential = None;
        scene.ip = None;
        let json = scene.to_json();
        assert_eq!(json["task"], json!({"source": "none", "epoch": 0}));
        assert!(json.get("credential").is_none());
        assert!(json["destination"].get("ip").is_none() && json["destination"].get("ip_class").is_none());
        assert!(json["call"].get("mcp").is_none());
    }
}
