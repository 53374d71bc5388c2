//! The document that Rego sees as `input`: schema 1 of the public contract.
//!
//! An [`Input`] only borrows the facts of a call. Of the whole schema, which stands in one table ([`field::FIELDS`]),
//! only the fields that the loaded policy reads are ever turned into the engine's values or into a key. What is not
//! known is absent, never invented: `task.taint`, for one, is undefined until something tracks it. Secrets of a known format
//! are shown nowhere in it, and the key is over what is shown.

pub mod encode;
pub mod field;
pub mod value;

use std::{net::IpAddr, sync::Arc};

use crate::{
    call::Call,
    config::{Agent, Assurance, Upstream},
    credential::Declaration,
    secret::Found,
    task::{Counts, Task},
};

/// The facts and claims of one call, as they are given to policy.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Who calls.
    pub agent: &'a Agent,
    /// How well the agent is fenced in at this moment: one value for all that is made of this document.
    pub assurance: Assurance,
    /// What for.
    pub task: &'a Task,
    /// What was done for it so far: one moment's counters for all that is made of this document.
    pub history: Option<Counts>,
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
        config::{Classification, HostPattern, TlsMode},
        credential::{Placement, Source, exception::Exception, file::Register},
        task,
    };

    /// Everything that an [`Input`] borrows from.
    #[derive(Debug)]
    pub struct Scene {
        pub agent: Agent,
        pub task: Task,
        pub history: Option<Counts>,
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
                    assurance: Assurance::L1.into(),
                },
                task: Task {
                    id: "task-1".into(),
                    source: task::Source::Static,
                    purpose: "triage".into(),
                    max_effect: Some(Effect::Write),
                    ceiling: Some(Classification::Internal),
                    expires_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000)),
                    epoch: 7,
                    ..Task::none()
                },
                history: None,
                call: http_call(),
                upstream: upstream(),
                ip: Some([203, 0, 113, 7].into()),
                secrets: vec![Found {
                    kind: "github_pat",
                    place: "header:authorization".into(),
                    action: crate::secret::Action::Strip,
                }],
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
                assurance: self.agent.assurance.now(),
                task: &self.task,
                history: self.history,
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
            secrets: Default::default(),
            placeholder: None,
            credential: Some(Arc::new(Declaration {
                name: "github-app".into(),
                source: Source::File(Register {
                    file: "/run/secret".into(),
                    exception: Exception { owner: "team-x".into(), expires: None },
                }),
                placement: Placement::Bearer,
                max_ttl: Duration::from_secs(600),
                per_call: false,
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
            "call": {"protocol": "http", "effect": "write", "method": "POST", "scheme": "https",
                     "host": "api.github.com", "port": 443, "path": "/repos/o/r/issues",
                     "segments": ["repos", "o", "r", "issues"], "query": {"q": ["x", "y"], "page": ["2"]},
                     "headers": {"content-type": ["application/json"], "accept": ["text/html", "*/*"]},
                     "body": {"inspected": true, "size": 512, "truncated": false,
                              "json": {"title": "t", "labels": ["a", "b"], "n": 1.5, "deep": {"x": null}}},
                     "embedded_urls": ["https://example.org/x"]},
            "destination": {"name": "github", "zone": "internet", "environment": "prod",
                            "classification": "internal", "ip": "203.0.113.7", "ip_class": "public",
                            "tls": "intercept"},
            "credential": {"name": "github-app", "kind": "file", "revocable": false},
            "secrets": [{"kind": "github_pat", "where": "header:authorization"}],
            "approval": {"state": "none", "id": null},
            "matches": ["issues"],
        });
        assert_eq!(Scene::http().to_json(), expected);
    }

    #[test]
    fn a_task_shows_on_whose_behalf_it_is_and_what_was_done_for_it() {
        let mut scene = Scene::http();
        scene.task.source = task::Source::Header;
        scene.task.subject = Some(task::Subject { id_hash: "00ff".into() });
        scene.history = Some(Counts { calls: 41, hosts: 3, denied: 2 });
        let document = scene.to_json();
        assert_eq!(document["subject"], json!({"kind": "user", "id_hash": "00ff", "verified": false}));
        assert_eq!((&document["task"]["source"], &document["task"]["id"]), (&json!("header"), &json!("task-1")));
        assert_eq!(document["task"]["history"], json!({"calls": 41, "hosts": 3, "denied": 2}));
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

    #[test]
    fn what_nothing_fills_yet_can_be_read_and_is_undefined() {
        let mut scene = Scene::http();
        scene.agent.labels.clear();
        let json = scene.to_json();
        for absent in ["/delegation", "/destination/first_seen", "/agent/labels", "/task/history", "/task/taint"] {
            assert_eq!(json.pointer(absent), None, "{absent}");
            let read = format!("package t\na := input{}\n", absent.replace('/', "."));
            let mut engine = regorus::Engine::new();
            engine.add_policy("t.rego".into(), read).unwrap();
            assert!(ReadSet::of_modules(engine.get_modules()).unknown_paths().is_empty(), "{absent}");
        }
    }

    /// A call that says a secret wherever one must travel on.
    fn telling(fill: &str) -> Scene {
        let pat = format!("ghp_{}", fill.repeat(36));
        let mut scene = Scene::mcp(json!({"note": format!("delete all {pat}"), "list": [{&pat: 1}]}));
        scene.call.http.path = format!("/v1/{pat}/bot123456789:{}", fill.repeat(35));
        scene.call.http.segments = vec!["v1".into(), pat.clone(), format!("bot123456789:{}", fill.repeat(35))];
        scene.call.headers.insert("mcp-name", format!("tool {pat}").parse().unwrap());
        scene.call.embedded_urls = vec![format!("https://a.test/?t={pat}")];
        scene.call.body.json = Some(json!([pat]));
        if let Some(mcp) = &mut scene.call.mcp {
            mcp.tool = Some(format!("tool {pat}"));
            mcp.method = format!("method/{pat}");
        }
        scene
    }

    #[test]
    fn a_secret_is_shown_nowhere_and_is_in_no_key() {
        let scene = telling("a");
        let document = scene.to_json();
        let call = &document["call"];
        for (shown, expected) in [
            (&call["path"], json!("/v1/REDACTED/REDACTED")),
            (&call["segments"], json!(["v1", "REDACTED", "REDACTED"])),
            (&call["headers"]["mcp-name"], json!(["tool REDACTED"])),
            (&call["embedded_urls"], json!(["https://a.test/?t=REDACTED"])),
            (&call["body"]["json"], json!(["REDACTED"])),
            (&call["mcp"]["tool"], json!("tool REDACTED")),
            (&call["mcp"]["method"], json!("method/REDACTED")),
            (&call["mcp"]["arguments"], json!({"note": "delete all REDACTED", "list": [{"REDACTED": 1}]})),
        ] {
            assert_eq!(*shown, expected);
        }
        assert!(!document.to_string().contains("aaaaaaaa"), "{document}");
        for rules in [
            "a := input",
            "a := [input.call.segments[1], input.call.embedded_urls[0], input.call.headers[\"mcp-name\"]]",
            "a := [input.call.mcp.arguments.note, input.call.mcp.arguments.list[0]]",
        ] {
            let mut engine = regorus::Engine::new();
            engine.add_policy("t.rego".into(), format!("package t\n{rules}\n")).unwrap();
            let reads = ReadSet::of_modules(engine.get_modules());
            let key = scene.key(&reads);
            assert!(!key.windows(8).any(|window| window == b"aaaaaaaa"), "{rules}");
            assert_eq!(key, telling("b").key(&reads), "what policy can't tell apart is one question: {rules}");
            let mut template = value::Template::new(reads.reads());
            let seen = value::to_json(&template.fill(Document { input: &scene.input(), matches: &[] })).to_string();
            assert!(!seen.contains("aaaaaaaa") && seen.contains("REDACTED"), "{rules}: {seen}");
        }
    }

    #[test]
    fn a_parameter_with_a_secret_is_gone_before_policy_looks() {
        let pat = format!("ghp_{}", "a".repeat(36));
        for pair in
            [format!("q={pat}"), format!("q=x+{pat}+y"), format!("{pat}=1"), format!("q={}", pat.replace('_', "%5F"))]
        {
            let uri = format!("https://api.github.com/x?page=2&{pair}");
            let (mut parts, ()) = ::http::Request::get(uri).body(()).unwrap().into_parts();
            crate::secret::strip::strip(&mut parts, &mut Vec::new());
            let leg = crate::call::http::Leg { scheme: Scheme::Https, expected: None, proxy: false };
            parts.uri = parts.uri.path_and_query().unwrap().as_str().parse().unwrap();
            parts.headers.insert("host", "api.github.com".parse().unwrap());
            let mut scene = Scene::http();
            scene.call.http = crate::call::http::canonical(&parts, &leg).unwrap();
            assert_eq!(scene.to_json()["call"]["query"], json!({"page": ["2"]}), "{pair}");
        }
    }
}
