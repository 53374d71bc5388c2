//! The real program, in process, on ports of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tollgate::{
    config::Config,
    sidecar::{self, Listeners},
    telemetry::spans::FinishedSpan,
};

use super::{Agent, Origin};

/// A running sidecar. Ends when it is stopped or dropped.
pub struct Sidecar {
    pub proxy: SocketAddr,
    pub health: Option<SocketAddr>,
    pub dir: Arc<TempDir>,
    pub spans: mpsc::UnboundedReceiver<FinishedSpan>,
    heard: Vec<FinishedSpan>,
    inner: Arc<sidecar::Sidecar>,
    audit: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

/// What a sidecar is started with: settings as a user writes them, which a test changes where it needs to.
pub struct Setup {
    pub settings: Value,
    dir: Arc<TempDir>,
    policy: Option<String>,
    allow: Vec<Value>,
    connect: Option<Duration>,
}

impl Sidecar {
    /// Permits everything to the origins that it stands in front of.
    pub fn permissive() -> Setup {
        Setup::new()
    }

    /// Decides by this policy alone.
    pub fn with_policy(rego: &str) -> Setup {
        Setup { policy: Some(rego.to_owned()), ..Setup::new() }
    }

    pub fn agent(&self) -> Agent {
        Agent::new(self.proxy, self.inner.authority().certificate().clone())
    }

    pub fn inner(&self) -> &Arc<sidecar::Sidecar> {
        &self.inner
    }

    pub fn metrics(&self) -> String {
        self.inner.recorder().metrics().encode()
    }

    /// The span of the next call that ends, its children before it.
    pub async fn next_spans(&mut self) -> Vec<FinishedSpan> {
        let mut spans = Vec::new();
        loop {
            let span = timeout(LIMIT, self.spans.recv()).await.expect("a call ends in time").expect("the sidecar runs");
            let last = span.attribute("tollgate.decision.id").is_some();
            self.heard.push(span.clone());
            spans.push(span);
            if last {
                return spans;
            }
        }
    }

    /// The spans so far.
    pub fn heard(&mut self) -> &[FinishedSpan] {
        while let Ok(span) = self.spans.try_recv() {
            self.heard.push(span);
        }
        &self.heard
    }

    /// Waits until the next call has ended.
    pub async fn ended(&mut self) {
        self.next_spans().await;
    }

    /// The records so far, whole.
    pub async fn audit(&self) -> Vec<Value> {
        if let Some(log) = self.inner.recorder().audit() {
            log.flush().await;
        }
        let text = std::fs::read_to_string(&self.audit).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    /// The records so far, a line each: method, host, verdict or refusal.
    pub async fn records(&self) -> Vec<String> {
        self.audit().await.iter().map(summary).collect()
    }

    /// Merges further settings into its configuration file, at one stroke.
    pub fn reconfigure(&self, more: Value) {
        let (file, next) = (self.dir.path().join("tollgate.yaml"), self.dir.path().join("tollgate.yaml.next"));
        let text = std::fs::read_to_string(&file).expect("it was written");
        let mut settings = serde_json::from_str(&text).expect("it was written as JSON");
        merge(&mut settings, more);
        std::fs::write(&next, settings.to_string()).expect("it can be written");
        std::fs::rename(next, file).expect("both stand in one directory");
    }

    /// Stops in order, and waits for the end.
    pub async fn stop(mut self) -> Arc<TempDir> {
        self.begin_to_stop();
        self.stopped().await
    }

    /// Sends the signal to stop.
    pub fn begin_to_stop(&mut self) {
        let _ = self.stop.take().expect("it is stopped once").send(());
    }

    /// Waits for the end, after the signal to stop.
    pub async fn stopped(mut self) -> Arc<TempDir> {
        timeout(Duration::from_secs(30), &mut self.serving).await.expect("it stops").expect("it does not panic");
        Arc::clone(&self.dir)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Setup {
    fn new() -> Self {
        let settings = json!({
            "agent": {"name": "tester", "identity": {"kind": "static", "id": "spiffe://example.org/tester"}},
            "listen": {"proxy": "127.0.0.1:0"},
            "tls": {"origin_roots": {"system": false, "files": ["roots.pem"]}},
            "destinations": {},
            // Generous, because the time of a busy test machine passes while a thread waits for its turn.
            "policy": {"paths": ["policy"], "budget": "5s"},
            "audit": {"file": "audit.jsonl"},
        });
        let dir = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        // Something must be there to trust, also where no origin speaks TLS.
        std::fs::write(dir.path().join("roots.pem"), unrelated_root()).expect("it can be written");
        Self { settings, dir, policy: None, allow: Vec::new(), connect: None }
    }

    /// Adds the origin as a destination of the name of its first label, pinned to loopback.
    pub fn in_front_of(self, origin: &Origin) -> Self {
        self.in_front_of_as(origin, json!({}))
    }

    /// The same, with further settings of the destination.
    pub fn in_front_of_as(mut self, origin: &Origin, more: Value) -> Self {
        let label = origin.name.split('.').next().expect("split gives at least one");
        let name = label.replace(['[', ':', ']'], "-");
        let mut destination =
            json!({"hosts": [origin.name], "ports": [origin.addr.port()], "addresses": [origin.addr.ip()]});
        merge(&mut destination, more);
        self.settings["destinations"][&name] = destination;
        self.allow.push(json!({"id": format!("all-of-{name}"), "destination": name}));
        self.allow.push(json!({"id": format!("tools-of-{name}"), "destination": name, "tools": ["*"]}));
        let roots = self.dir.path().join("roots.pem");
        let text = std::fs::read_to_string(&roots).expect("it was written") + &origin.root;
        std::fs::write(roots, text).expect("it can be written");
        self
    }

    /// Replaces the allow-list, which permits everything.
    pub fn allowing(mut self, allow: Value) -> Self {
        self.allow = allow.as_array().expect("a list of entries").clone();
        self
    }

    /// Merges further settings in.
    pub fn set(mut self, more: Value) -> Self {
        merge(&mut self.settings, more);
        self
    }

    /// Writes a file beside the configuration.
    pub fn file(self, name: &str, content: &str) -> Self {
        std::fs::write(self.dir.path().join(name), content).expect("it can be written");
        self
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// How long connecting to an origin may take.
    pub fn connecting_within(self, limit: Duration) -> Self {
        Self { connect: Some(limit), ..self }
    }

    pub async fn start(self) -> Sidecar {
        self.try_start().await.expect("the sidecar starts")
    }

    pub async fn try_start(self) -> anyhow::Result<Sidecar> {
        let file = self.write();
        let mut config = Config::load(&file, &|_| None).map_err(|problems| anyhow::anyhow!("{problems}"))?;
        config.policy.program = Some(env!("CARGO_BIN_EXE_tollgate").into());
        config.limits.connect = self.connect.unwrap_or(config.limits.connect);
        let audit = config.audit.file.clone().unwrap_or_default();
        let listeners = Listeners::bind(&config.listen).await?;
        let proxy = listeners.addresses()[0];
        let health = listeners.health.as_ref().and_then(|listener| listener.local_addr().ok());
        let (tap, spans) = mpsc::unbounded_channel();
        let inner = sidecar::Sidecar::start_tapped(config, &listeners, Some(tap)).await?;
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(Arc::clone(&inner).serve(listeners, async move {
            let _ = stopped.await;
        }));
        Ok(Sidecar { proxy, health, dir: self.dir, spans, heard: Vec::new(), inner, audit, stop: Some(stop), serving })
    }

    /// Writes the configuration and the policy, for a program of its own.
    pub fn write(&self) -> PathBuf {
        self.write_policy();
        let file = self.dir.path().join("tollgate.yaml");
        std::fs::write(&file, self.settings.to_string()).expect("it can be written");
        file
    }

    fn write_policy(&self) {
        let dir = self.dir.path().join("policy");
        std::fs::create_dir_all(&dir).expect("a directory");
        let data = json!({"tollgate": {"allow": self.allow}});
        std::fs::write(dir.join("data.json"), data.to_string()).expect("it can be written");
        if let Some(rego) = &self.policy {
            std::fs::write(dir.join("policy.rego"), rego).expect("it can be written");
        }
    }
}

fn summary(record: &Value) -> String {
    let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
    let end = match record.pointer("/refusal/label").and_then(Value::as_str) {
        Some(label) => label.to_owned(),
        None => text("/decision/verdict"),
    };
    format!("{} {} {end}", text("/call/method"), text("/call/host"))
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

fn unrelated_root() -> String {
    let params = rcgen::CertificateParams::new(["unrelated.example.net".to_owned()]).expect("a host name");
    let key = rcgen::KeyPair::generate().expect("a key can be made");
    params.self_signed(&key).expect("a certificate can be made").pem()
}

const LIMIT: Duration = Duration::from_secs(10);
