//! What one decision costs: from the cache, and evaluated, by the size of the allow-list and by the number of threads.
//!
//! `cargo bench --bench decide`. Each figure is the median of several rounds; the ratios are what to look at, for they
//! hold from one machine to another.

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use http::HeaderMap;
use serde_json::json;
use tollgate::{
    call::{BodyFacts, Call, Effect, HttpCall, Protocol, http::Scheme},
    config::{self, Agent, Assurance, Classification, HostPattern, Mode, StaticTask, Tasks, TlsMode, Upstream},
    policy::{CacheUse, Input, Policy, bundle::Sources},
    task::{Presented, Registry, Task},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(120);
const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

fn main() {
    println!("one decision by the shipped policy, median of {ROUNDS} rounds");
    let hit = measure_hits(&shipped(1_000, 10_000));
    println!("{:<44} {:>9.2} µs", "from the cache, key and lookup, 1 000 entries", micros(hit));

    let mut first = None;
    for size in SIZES {
        let policy = shipped(size, 0);
        let one = measure_misses(&policy, size, 1);
        let two = measure_misses(&policy, size, 2);
        let base = *first.get_or_insert(one);
        println!(
            "{:<44} {:>9.2} µs   {:>5.2} x the cost with {}   two threads: {:>5.2} x the decisions",
            format!("evaluated, {size} entries"),
            micros(one),
            one / base,
            SIZES[0],
            2.0 * one / two,
        );
    }
}

/// The median over the rounds, in seconds, of one decision from the cache.
fn measure_hits(policy: &Policy) -> f64 {
    let scene = Scene::new(500);
    let ask = || policy.decide(&scene.input(), Mode::Enforce);
    assert!(ask().outcome.is_ok());
    assert_eq!(ask().cache, CacheUse::Hit);
    median(|| per_decision(&ask))
}

/// The median over the rounds, in seconds, of one evaluated decision on each of `threads` threads at once.
fn measure_misses(policy: &Policy, size: usize, threads: usize) -> f64 {
    median(|| {
        thread::scope(|scope| {
            let round = || {
                let scene = Scene::new(size / 2);
                let ask = || policy.decide(&scene.input(), Mode::Enforce);
                assert!(ask().outcome.is_ok());
                assert_eq!(ask().cache, CacheUse::Bypass);
                per_decision(&ask)
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(round)).collect();
            running.into_iter().map(|thread| thread.join().expect("a round does not panic")).fold(0.0, f64::max)
        })
    })
}

fn per_decision<T>(ask: &impl Fn() -> T) -> f64 {
    let begun = Instant::now();
    let mut decisions = 0_u32;
    while begun.elapsed() < ROUND {
        for _ in 0..64 {
            black_box(ask());
        }
        decisions += 64;
    }
    begun.elapsed().as_secs_f64() / f64::from(decisions)
}

fn median(mut round: impl FnMut() -> f64) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn micros(seconds: f64) -> f64 {
    seconds * 1e6
}

/// The shipped policy with an allow-list of this many destinations.
fn shipped(size: usize, cache_entries: u64) -> Policy {
    let entry = |index| {
        json!({"id": format!("entry-{index}"), "destination": format!("destination-{index}"),
               "methods": ["GET", "POST"], "paths": [format!("/repos/team-{index}/**"), "/healthz"],
               "effects": ["read", "write"]})
    };
    let settings = config::Policy {
        paths: Vec::new(),
        data: Some(json!({"tollgate": {"allow": (0..size).map(entry).collect::<Vec<_>>()}})),
        program: None,
        decision: "tollgate/decision".into(),
        budget: Duration::from_millis(100),
        cache_entries,
        cache_ttl: Duration::from_secs(3600),
    };
    let sources = Sources::read(&settings).expect("the shipped policy can be read");
    Policy::compile(sources, &settings, 2).expect("the shipped policy compiles")
}

/// All that an input borrows from.
struct Scene {
    agent: Agent,
    task: Arc<Task>,
    call: Call,
    upstream: Upstream,
}

impl Scene {
    fn new(index: usize) -> Self {
        let agent = Agent {
            id: "spiffe://example.org/ns/a/sa/triage".into(),
            name: "triage-bot".into(),
            namespace: Some("a".into()),
            pod: Some("triage-bot-0".into()),
            labels: BTreeMap::from([("app".into(), "triage".into())]),
            assurance: Assurance::L1.into(),
        };
        let fixed = Some(StaticTask::new("triage", Duration::from_secs(7200)));
        let tasks = Registry::new(&Tasks { fixed, ..Tasks::default() }, Box::new(|_, _| {}));
        let task = tasks.of(Presented::Nothing).expect("it is open");
        Self { agent, task, call: call(index), upstream: upstream(index) }
    }

    fn input(&self) -> Input<'_> {
        Input {
            agent: &self.agent,
            assurance: self.agent.assurance.now(),
            task: &self.task,
            history: self.task.counts(),
            call: &self.call,
            upstream: &self.upstream,
            ip: None,
            ip_class: None,
            tls: "intercept",
            credential: None,
            secrets: &[],
        }
    }
}

fn call(index: usize) -> Call {
    let team = format!("team-{index}");
    let mut headers = HeaderMap::new();
    headers.insert("accept", http::HeaderValue::from_static("application/json"));
    headers.insert("content-type", http::HeaderValue::from_static("application/json"));
    Call {
        protocol: Protocol::Http,
        effect: Effect::Write,
        http: HttpCall {
            method: http::Method::POST,
            scheme: Scheme::Https,
            host: format!("destination-{index}.example.com").into(),
            port: 443,
            path: format!("/repos/{team}/service/issues"),
            segments: vec!["repos".into(), team, "service".into(), "issues".into()],
            query: vec![("page".into(), "2".into())],
            raw_query: Some("page=2".into()),
        },
        headers,
        body: BodyFacts::default(),
        mcp: None,
        embedded_urls: Vec::new(),
    }
}

fn upstream(index: usize) -> Upstream {
    Upstream {
        name: Arc::from(format!("destination-{index}")),
        hosts: vec![HostPattern::Exact(format!("destination-{index}.example.com"))],
        ports: vec![443],
        reach_public: true,
        reach_private: false,
        addresses: Vec::new(),
        protocol: config::Protocol::Http,
        tls: TlsMode::Intercept,
        zone: "internet".into(),
        environment: "prod".into(),
        classification: Classification::Internal,
        secrets: Default::default(),
        credential: None,
        placeholder: None,
    }
}
