//! A recorder with a file of its own, and facts to record.

use std::{
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::mpsc;

use super::{CredentialFacts, DecisionFacts, DecisionId, Ended, Facts, Outcome, Recorder, Verdict, chain, file::Log};
use crate::{
    call::{Effect, Protocol},
    config::{Agent, Assurance, Classification, Durability, HostPattern, Mode, TlsMode, Upstream},
    policy::CacheUse,
    secret::Found,
    task::{Source, Task},
    telemetry::{Metrics, Spans, TraceContext, spans::FinishedSpan},
};

pub(crate) struct Bench {
    pub(crate) recorder: Recorder,
    pub(crate) path: PathBuf,
    spans: mpsc::UnboundedReceiver<FinishedSpan>,
    _dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(durability: Durability) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("audit.jsonl");
        let metrics = Arc::new(Metrics::new());
        let log = Log::open(&path, durability, None, &metrics).expect("a fresh file opens");
        let (tap, spans) = mpsc::unbounded_channel();
        let recorder = Recorder::new(Arc::new(agent()), Mode::Enforce, Some(log), Spans::with_tap(tap), metrics);
        Self { recorder, path, spans, _dir: dir }
    }

    pub(crate) fn log(&self) -> &Log {
        self.recorder.audit().expect("the bench has a file")
    }

    pub(crate) async fn lines(&self) -> Vec<serde_json::Value> {
        assert!(self.log().flush().await);
        read(&self.path)
    }

    pub(crate) fn spans(&mut self) -> Vec<FinishedSpan> {
        std::iter::from_fn(|| self.spans.try_recv().ok()).collect()
    }

    pub(crate) fn verify(&self) -> chain::Verified {
        let file = fs::File::open(&self.path).expect("the file exists");
        chain::verify(io::BufReader::new(file)).expect("the chain is intact")
    }
}

pub(crate) fn read(path: &std::path::Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).expect("the file is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

pub(crate) fn agent() -> Agent {
    Agent {
        id: "spiffe://example.org/ns/a/sa/triage".into(),
        name: "triage-bot".into(),
        namespace: Some("a".into()),
        pod: Some("triage-0".into()),
        labels: Default::default(),
        assurance: Assurance::L1.into(),
    }
}

pub(crate) fn upstream() -> Upstream {
    Upstream {
        name: "github".into(),
        hosts: vec![HostPattern::Exact("api.github.com".into())],
        ports: vec![443],
        reach_public: true,
        reach_private: false,
        addresses: vec![],
        protocol: crate::config::Protocol::Mcp,
        tls: TlsMode::Intercept,
        zone: "internet".into(),
        environment: "prod".into(),
        classification: Classification::Internal,
        secrets: Default::default(),
        placeholder: None,
        credential: None,
    }
}

/// A tool call that went well.
pub(crate) fn facts() -> Facts {
    let mut facts = Facts {
        task: Some(Arc::new(Task {
            id: "task-1".into(),
            source: Source::Static,
            purpose: "triage".into(),
            epoch: 1,
            ..Task::none()
        })),
        upstream: Some(Arc::new(upstream())),
        ip: Some(([192, 0, 2, 7], 443).into()),
        decision: Some(DecisionFacts {
            verdict: Verdict::Allow,
            enforced: true,
            cached: CacheUse::Hit,
            revision: "r1".into(),
            rule: "platform.tools".into(),
            reason: "".into(),
            class: None,
            duration: Duration::from_micros(2),
        }),
        credential: Some(CredentialFacts {
            name: "github-app".into(),
            kind: "oauth_client_credentials",
            fingerprint: "00112233aabbccdd".into(),
        }),
        secrets: vec![Found {
            kind: "github_pat",
            place: "header:authorization".into(),
            action: crate::secret::Action::Strip,
        }],
        status: Some(200),
        request_bytes: 512,
        response_bytes: 2048,
        overhead: Duration::from_micros(85),
        ..Facts::default()
    };
    let call = &mut facts.call;
    call.protocol = Some(Protocol::Mcp);
    call.effect = Some(Effect::Write);
    call.method = Some(http::Method::POST);
    call.scheme = Some("https");
    call.host = "api.github.com".into();
    call.port = 443;
    call.path = "/mcp".into();
    call.query_keys = vec!["q".into()];
    call.agent_version = Some(http::Version::HTTP_11);
    call.origin_version = Some(http::Version::HTTP_2);
    call.mcp_method = Some("tools/call".into());
    call.mcp_tool = Some("create_issue".into());
    facts
}

pub(crate) fn id() -> DecisionId {
    DecisionId(uuid::Uuid::now_v7())
}

pub(crate) fn ended<T>(facts: &Facts, outcome: Outcome, use_it: impl FnOnce(&Ended<'_>) -> T) -> T {
    use_it(&Ended {
        agent: &agent(),
        mode: Mode::Enforce,
        id: id(),
        trace: &TraceContext::root(),
        began: SystemTime::now(),
        start: Instant::now(),
        elapsed: Duration::from_millis(12),
        outcome,
        forwarded: true,
        phases: &[],
        facts,
    })
}
