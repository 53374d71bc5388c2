//! One broker, in every manner that its issuer can have, and a search of everything that operators and agents see.

use std::{fs, process::Command, time::Duration};

use http::{HeaderValue, Method};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tollgate::{
    admin::{api::OpenedTask, client},
    config::Config,
};

use super::{
    Logs,
    issuer::{Issuer, Step, canary},
    search::{Secret, folded, tokens},
};
use crate::{
    actors::{Origin, Sidecar, agent::request, origin::Seen},
    identity,
    machine::TOLLGATE,
};

/// What one broker needs.
#[derive(Default)]
pub struct Scene {
    /// Where its own secrets stand.
    pub files: Vec<(&'static str, String)>,
    /// The agent's identity, where that is asked for.
    pub identity: Option<Value>,
    /// What its issuer is asked for.
    pub steps: Vec<Step>,
    /// How what was given is taken back, where it can be.
    pub revocation: Option<Step>,
    /// What is known of it beforehand and has to be seen on the wire.
    pub secrets: Vec<Secret>,
    /// What never goes over the wire. That it is in use, the test shows itself.
    pub keys: Vec<Secret>,
    /// Whose certificates the origin asks for, where it does.
    pub asking: Option<String>,
    /// Credentials that can't be had, beside those that the issuer refuses.
    pub failing: Vec<Value>,
    /// What is written down to revoke by.
    pub reference: Option<&'static str>,
    /// What the agent calls, where that makes a difference.
    pub path: Option<&'static str>,
}

/// What there was to see, and where it was not.
pub struct Searched {
    /// What the origin saw of the credential that it takes back at the end, and of the one that it keeps.
    pub seen: [Seen; 2],
    /// The tokens that went from one to another.
    pub tokens: Vec<String>,
}

/// Everything that is looked at.
#[derive(Default)]
pub struct Sinks(Vec<(String, String)>);

impl Sinks {
    pub fn add(&mut self, what: impl Into<String>, text: impl Into<String>) {
        self.0.push((what.into(), text.into()));
    }

    /// Adds what a running sidecar shows.
    pub async fn gather(&mut self, sidecar: &mut Sidecar) {
        for path in ["/v1/status", "/v1/policy", "/v1/tasks"] {
            self.add(path, admin(&sidecar.dir, "GET", path, Value::Null).await.to_string());
        }
        let inner = sidecar.inner().clone();
        self.add("the identity", format!("{:?} {:?}", inner.identity(), inner.identity().proof()));
        self.add("debugging", format!("{:?} {:?} {:?}", inner.tasks(), inner.credentials(), inner.generation()));
        self.add("the metrics", sidecar.metrics());
        let records = sidecar.audit().await;
        self.add("the audit log", records.iter().map(|record| format!("{record}\n")).collect::<String>());
        let spans = sidecar.heard().iter().map(|span| format!("{span:?}\n"));
        self.add("the spans", spans.collect::<String>());
    }

    pub fn hold_none_of(&self, secrets: &[Secret]) {
        for (sink, text) in &self.0 {
            for line in text.lines() {
                let folded = folded(line.as_bytes());
                let held = secrets.iter().find(|secret| secret.is_in(&folded));
                assert!(held.is_none(), "{sink} holds {}, or a part of it: {line}", held.expect("it is one").what);
            }
        }
    }
}

impl Scene {
    /// Calls with a credential for each manner of its issuer, ends the task, stops the sidecar, and searches.
    pub async fn search(mut self, credential: impl Fn(&str) -> Value) -> Searched {
        let logs = Logs::listen();
        let issuer = Issuer::start(std::mem::take(&mut self.steps), self.revocation.take()).await;
        let [gives, keeps] = self.origins().await;
        let (names, setup) = self.setup(&issuer, &[&gives, &keeps], &credential);
        let written = files(setup.path());
        let mut sidecar = setup.start().await;
        if self.identity.is_some() {
            identity::until(&sidecar, true).await;
        }
        let (mut sinks, dir, inner) = (Sinks::default(), sidecar.dir.clone(), sidecar.inner().clone());

        let opened = admin(&dir, "POST", "/v1/tasks", json!({"purpose": "triage"})).await;
        let opened: OpenedTask = serde_json::from_value(opened).expect("it is opened");
        let path = format!("/v1/tasks/{}", opened.task.id);
        sinks.add("what was opened", format!("{opened:?}"));
        let target = self.path.unwrap_or("/x");
        for (number, name) in names.iter().enumerate() {
            let url = match number {
                0 => gives.url(target),
                1 => keeps.url(target),
                _ => format!("https://{name}.example.com{target}"),
            };
            let mut call = request(Method::GET, &url, "");
            let handle = HeaderValue::try_from(&*opened.handle).expect("a value");
            call.headers_mut().insert("tollgate-task", handle);
            let answer = sidecar.agent().send(call).await;
            sidecar.ended().await;
            let manner = issuer.manners().get(number);
            match (number, manner.is_none_or(|manner| manner.fails())) {
                (0 | 1, _) => assert_eq!(answer.to_string(), "200", "{}\n{}", answer.text(), logs.text()),
                (_, true) => assert!(answer.to_string().starts_with("503 credential"), "{manner:?}: {answer}"),
                (_, false) => assert!(answer.status.is_server_error(), "{manner:?}: {answer}"),
            }
            sinks.add(format!("the answer to {name}"), format!("{:?} {}", answer.headers, answer.text()));
        }
        let mut own = request(Method::GET, "http://tollgate.internal/v1/task", "");
        own.headers_mut().insert("tollgate-task", HeaderValue::try_from(&*opened.handle).expect("a value"));
        sinks.add("what the agent is told of its task", sidecar.agent().send(own).await.text());
        sinks.add("the task", admin(&dir, "GET", &path, Value::Null).await.to_string());
        sinks.gather(&mut sidecar).await;
        sinks.add("the end of the task", admin(&dir, "DELETE", &path, Value::Null).await.to_string());
        let journal = fs::read_to_string(dir.path().join(JOURNAL)).expect("it is kept");
        let reference = self.reference;
        assert!(reference.is_none_or(|reference| journal.contains(reference)), "it is written down: {journal}");
        self.taken_back(&issuer).await;
        assert!(sidecar.audit().await.len() >= names.len(), "the calls were recorded");
        sidecar.stop().await;

        sinks.add("the metrics", inner.recorder().metrics().encode());
        sinks.add("the log", logs.text());
        self.look_at_configuration(&dir, &mut sinks);
        for name in files(dir.path()).into_iter().filter(|name| !written.contains(name)) {
            let content = fs::read(dir.path().join(&name)).unwrap_or_default();
            sinks.add(name, String::from_utf8_lossy(&content).into_owned());
        }
        assert!(sinks.0.iter().any(|(name, _)| name == JOURNAL) && sinks.0.iter().any(|(name, _)| name == AUDIT));
        let fails = names.len() > 2;
        assert!(!fails || logs.text().contains("credential refused"), "it says why: {}", logs.text());
        self.finish(&issuer, &opened.handle, [gives, keeps], &sinks)
    }

    /// The origins that are reached: with what is taken back at the end, and with what is kept.
    async fn origins(&self) -> [Origin; 2] {
        let begin = |name| match &self.asking {
            Some(authority) => Origin::https(name).asking(authority),
            None => Origin::https(name),
        };
        [begin("gives.example.com").start().await, begin("keeps.example.com").start().await]
    }

    /// The sidecar's settings, and the names of its destinations: the manners of the issuer, then what fails anyway.
    fn setup(
        &self,
        issuer: &Issuer,
        origins: &[&Origin; 2],
        credential: &impl Fn(&str) -> Value,
    ) -> (Vec<String>, crate::actors::sidecar::Setup) {
        let mut setup = Sidecar::with_policy(ALLOW).set(json!({
            "listen": {"admin": "admin.sock"},
            "state": {"journal": JOURNAL},
        }));
        if let Some(identity) = &self.identity {
            setup.settings["agent"]["identity"] = identity.clone();
        }
        for (name, content) in &self.files {
            setup = setup.file(name, content);
        }
        let asking = (0..issuer.manners().len()).map(|manner| credential(&issuer.base(manner)));
        let credentials: Vec<Value> = asking.chain(self.failing.iter().cloned()).collect();
        let mut names = Vec::new();
        for (number, credential) in credentials.into_iter().enumerate() {
            let name = match origins.get(number) {
                Some(origin) => {
                    setup = setup.in_front_of_as(origin, json!({"credential": format!("c{number}")}));
                    origin.name.trim_end_matches(".example.com").to_owned()
                }
                None => {
                    let name = format!("d{number}");
                    let host = format!("{name}.example.com");
                    // Nobody is there: what is given after all goes nowhere.
                    let to = json!({"hosts": [host], "addresses": ["127.0.0.1"], "credential": format!("c{number}")});
                    setup = setup.set(json!({"destinations": {&name: to}}));
                    name
                }
            };
            setup = setup.set(json!({"credentials": {format!("c{number}"): credential}}));
            names.push(name);
        }
        (names, setup)
    }

    /// Waits until the issuer was asked to take back what it gave, where it can.
    async fn taken_back(&self, issuer: &Issuer) {
        let asked = async {
            while issuer.can_revoke() && (issuer.revoked(0) == 0 || issuer.revoked(1) == 0) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), asked).await.expect("it is asked in time");
    }

    /// What the command line and `Debug` show of a configuration.
    fn look_at_configuration(&self, dir: &TempDir, sinks: &mut Sinks) {
        let file = dir.path().join("tollgate.yaml");
        let config = Config::load(&file, &|_| None).expect("it was used");
        sinks.add("the configuration", format!("{config:?}"));
        let shown = Command::new(TOLLGATE).args(["config", "show"]).arg(file).output().expect("it runs");
        assert!(shown.status.success(), "{shown:?}");
        sinks.add("tollgate config show", String::from_utf8_lossy(&shown.stdout).into_owned());
    }

    /// Makes sure that every secret was in use, and is nowhere else.
    fn finish(self, issuer: &Issuer, handle: &str, origins: [Origin; 2], sinks: &Sinks) -> Searched {
        let seen = origins.map(|origin| origin.requests().pop().expect("it was called"));
        let mut wire = issuer.said();
        wire.extend(seen.iter().map(|seen| format!("{} {:?}", seen.target, unhidden(seen))));
        let tokens = tokens(&wire.join("\n"));
        let wire: Vec<Vec<u8>> = wire.iter().map(|text| folded(text.as_bytes())).collect();

        let mut secrets = self.secrets;
        secrets.extend(issuer.secrets());
        let signature = |token: &String| token.rsplit('.').next().expect("split gives one").to_owned();
        let signatures = tokens.iter().map(signature).filter(|signature| signature.len() > 30);
        secrets.extend(signatures.map(|signature| Secret::text("a token", &signature)));
        for secret in &secrets {
            assert!(wire.iter().any(|text| secret.is_in(text)), "{} was never in use", secret.what);
        }
        secrets.push(Secret::text("the task's handle", handle));
        secrets.extend(self.keys);
        sinks.hold_none_of(&secrets);
        Searched { seen, tokens }
    }
}

/// A request's header, also where it is marked as one that must not be shown.
fn unhidden(seen: &Seen) -> Vec<String> {
    seen.headers.iter().map(|(name, value)| format!("{name}: {}", value.as_bytes().escape_ascii())).collect()
}

async fn admin(dir: &TempDir, method: &str, path: &str, body: Value) -> Value {
    client::ask(&dir.path().join("admin.sock"), method, path, Some(&body)).await.expect("it is answered")
}

/// The names of the files in a directory.
fn files(dir: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("it is there").map(|entry| entry.expect("it can be read"));
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A secret of ours. Numbers of issuers' manners are far below.
pub fn own(number: usize) -> String {
    canary(9000 + number)
}

const ALLOW: &str = r#"
package tollgate

decision := {"decision": "allow"}
"#;
const JOURNAL: &str = "journal.jsonl";
const AUDIT: &str = "audit.jsonl";

#[test]
fn every_kind_of_credential_is_searched_for() {
    let files = ["clouds", "held", "oauth", "spiffe", "vault"].map(|name| format!("tests/it/canary/{name}.rs"));
    let file =
        |name: &String| fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).expect("it is there");
    let rows: String = files.iter().map(file).collect();
    let schema: Value = serde_json::from_str(&tollgate::config::settings::schema()).expect("JSON");
    let kinds = schema["$defs"]["Credential"]["oneOf"].as_array().expect("a list of kinds");
    assert!(kinds.len() > 14);
    for kind in kinds {
        let kind = kind["properties"]["kind"]["const"].as_str().expect("a name");
        assert!(rows.contains(&format!("\"{kind}\"")), "no scene is about {kind}");
    }
}
