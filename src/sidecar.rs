//! The running sidecar: what all connections share, and the loops that accept them.
//!
//! [`run`] is what the program and the tests call. All sockets are bound before any is served, and stopping has one order:
//! accept nothing more, finish exchanges, revoke credentials, flush records and spans.

pub mod listeners;
pub mod reload;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::{
    sync::{Semaphore, mpsc::UnboundedSender, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    audit::{self, Recorder},
    config::{self, Agent, Config, Limits, Mode, Profile, Upstreams},
    credential::{self, client::Client},
    health::Readiness,
    listener::dns::Names,
    origin::{Origins, connect::Connector},
    policy::{Policy, bundle::Sources, trial},
    refusal::Refusal,
    shutdown::Drain,
    task::Task,
    telemetry::{Metrics, Spans, spans::FinishedSpan},
    tls::{agent::AgentTls, authority::Authority, origin::OriginTls},
};
pub use listeners::Listeners;

/// Runs a sidecar until `shutdown` resolves, then stops it in order.
///
/// # Errors
/// What keeps it from starting: unreadable keys, roots, policy or audit file. Nothing was served then.
pub async fn run(listeners: Listeners, config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let sidecar = Sidecar::start(config, &listeners).await?;
    sidecar.serve(listeners, shutdown).await;
    Ok(())
}

/// What all connections share.
pub struct Sidecar {
    agent: Arc<Agent>,
    mode: Mode,
    profile: Profile,
    limits: Limits,
    task: Arc<Task>,
    no_task: Arc<Task>,
    generation: ArcSwap<Generation>,
    changes: watch::Sender<u64>,
    numbers: AtomicU64,
    authority: Arc<Authority>,
    agent_tls: AgentTls,
    origin_tls: Arc<OriginTls>,
    origins: Origins,
    credentials: credential::Store,
    recorder: Recorder,
    audit: Option<audit::file::Log>,
    spans: Spans,
    inspection: Semaphore,
    connections: Arc<Semaphore>,
    drain: Drain,
    names: Arc<Names>,
    readiness: Readiness,
    own: Vec<SocketAddr>,
    plan: reload::Plan,
}

/// What a reload swaps, whole or not at all.
pub struct Generation {
    /// Rises with every swap.
    pub number: u64,
    /// Decides.
    pub policy: Policy,
    /// Where calls may go.
    pub upstreams: Arc<Upstreams>,
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Sidecar {
    /// Makes everything ready; serves nothing yet.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn start(config: Config, listeners: &Listeners) -> anyhow::Result<Arc<Self>> {
        Self::start_tapped(config, listeners, None).await
    }

    /// As [`Self::start`]; finished spans go to `tap` instead of the configured endpoint.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn start_tapped(
        config: Config,
        listeners: &Listeners,
        tap: Option<UnboundedSender<FinishedSpan>>,
    ) -> anyhow::Result<Arc<Self>> {
        let plan = reload::Plan::of(&config);
        let policy_settings = config.policy.clone();
        let policy = tokio::task::spawn_blocking(move || compile(&policy_settings)).await??;
        let origin_tls = Arc::new(OriginTls::new(&config.tls).context("the roots that verify origins")?);
        let authority = Arc::new(Authority::open(config.tls.authority_dir.as_deref())?);
        if let Some(path) = &config.tls.trust_bundle {
            crate::tls::write_trust_bundle(path, &authority, &origin_tls).context("tls.authority.trust_bundle")?;
        }
        let metrics = Arc::new(Metrics::new());
        metrics.policy_revision(policy.revision());
        let audit = match &config.audit.file {
            Some(file) => Some(audit::file::Log::open(file, config.audit.durable, &metrics).context("audit.file")?),
            None => None,
        };
        let spans = match tap {
            Some(tap) => Spans::with_tap(tap),
            None => Spans::new(&config.telemetry, origin_tls.client_config()).context("telemetry.otlp")?,
        };
        let agent = Arc::new(config.agent);
        let recorder =
            Recorder::new(Arc::clone(&agent), config.mode, audit.clone(), spans.clone(), Arc::clone(&metrics));
        let own = listeners.addresses();
        let drain = Drain::new();
        let connector = Connector::new(Arc::clone(&origin_tls), own.clone(), config.limits.connect, drain.clone());
        let events = credential_events(metrics);
        let sidecar = Self {
            mode: config.mode,
            profile: config.profile,
            limits: config.limits,
            task: Arc::new(Task::open(config.task.as_ref(), SystemTime::now())),
            no_task: Arc::new(Task::none()),
            generation: ArcSwap::from_pointee(Generation { number: 1, policy, upstreams: Arc::new(config.upstreams) }),
            changes: watch::Sender::new(1),
            numbers: AtomicU64::new(1),
            agent_tls: AgentTls::new(Arc::clone(&authority)),
            authority,
            origins: Origins::new(connector),
            credentials: credential::Store::new(Client::new(&origin_tls.client_config()), events),
            origin_tls,
            recorder,
            audit,
            spans,
            inspection: Semaphore::new(config.limits.inspect_total),
            connections: Arc::new(Semaphore::new(config.limits.connections)),
            names: Arc::new(Names::default()),
            readiness: Readiness::default(),
            plan,
            agent,
            drain,
            own,
        };
        Ok(Arc::new(sidecar))
    }

    /// Serves until `shutdown` resolves, then stops in order.
    pub async fn serve(self: Arc<Self>, listeners: Listeners, shutdown: impl Future<Output = ()>) {
        listeners.serve(&self);
        self.drain.spawn_background(reload::watch(Arc::clone(&self)));
        self.drain.spawn_background(Arc::clone(&self).sweep());
        shutdown.await;
        self.stop().await;
    }

    async fn stop(&self) {
        self.readiness.stop();
        let finished = self.drain.stop(self.limits.drain).await;
        self.origins.close_idle();
        self.credentials.revoke_all(REVOKE).await;
        let (audit, spans) = (self.audit.clone(), self.spans.clone());
        // Both wait for threads of their own, which a worker of the runtime must not do.
        let flushed = tokio::task::spawn_blocking(move || {
            if let Some(audit) = audit {
                audit.close();
            }
            spans.shutdown(FLUSH);
        });
        if flushed.await.is_err() || !finished {
            tracing::warn!(finished, "stopped before everything had finished");
        }
    }

    /// Swaps in another configuration's policy, data, destinations and credentials.
    ///
    /// # Errors
    /// Why it can't be used; the running one stays in place.
    pub fn swap(&self, (policy, upstreams): (config::Policy, Upstreams)) -> anyhow::Result<()> {
        let policy = compile(&policy)?;
        let revision = Arc::clone(policy.revision());
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        self.recorder.metrics().policy_revision(&revision);
        self.generation.store(Arc::new(Generation { number, policy, upstreams: Arc::new(upstreams) }));
        self.changes.send_replace(number);
        tracing::info!(number, revision = &*revision, "configuration swapped in");
        Ok(())
    }

    async fn sweep(self: Arc<Self>) {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.origins.sweep(self.generation.load().number);
        }
    }

    /// The generation that is in force now. Hold on to it for the whole of a call.
    pub fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// Tells when a generation has been swapped in.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The task that calls belong to.
    ///
    /// # Errors
    /// [`Refusal::TaskExpired`] once it has ended.
    pub fn task(&self) -> Result<Arc<Task>, Refusal> {
        match self.task.remaining(SystemTime::now()) {
            None => Ok(Arc::clone(if self.task.id.is_empty() { &self.no_task } else { &self.task })),
            Some(Duration::ZERO) => Err(Refusal::TaskExpired),
            Some(_) => Ok(Arc::clone(&self.task)),
        }
    }

    /// The agent beside this sidecar.
    pub fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }

    /// Whether policy is enforced.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How deep control goes.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Begins records.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Sends permitted requests.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// Mints credentials.
    pub fn credentials(&self) -> &credential::Store {
        &self.credentials
    }

    /// The room for bodies that policy must see.
    pub fn inspection(&self) -> &Semaphore {
        &self.inspection
    }

    /// The room for connections.
    pub fn connections(&self) -> &Arc<Semaphore> {
        &self.connections
    }

    /// Owns the tasks.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// We as a server of the agent.
    pub fn agent_tls(&self) -> &AgentTls {
        &self.agent_tls
    }

    /// We as a client of origins.
    pub fn origin_tls(&self) -> &Arc<OriginTls> {
        &self.origin_tls
    }

    /// This pod's own certificate authority.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The names that our resolver gave addresses for.
    pub fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// Whether it is ready.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// The addresses that it listens on.
    pub fn own(&self) -> &[SocketAddr] {
        &self.own
    }

    /// Opens the audit file anew, after it was moved away.
    fn reopen_audit(&self) {
        if let Some(audit) = &self.audit {
            audit.reopen();
        }
    }
}

/// Reads, tries in a child process, and compiles. Takes tens of milliseconds and blocks.
fn compile(settings: &config::Policy) -> anyhow::Result<Policy> {
    let sources = Sources::read(settings)?;
    let program = match &settings.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("the path of this program, which tries policies in a child")?,
    };
    trial::run(&sources, settings, &program)?;
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    Ok(Policy::compile(sources, settings, workers)?)
}

fn credential_events(metrics: Arc<Metrics>) -> credential::store::Events {
    Arc::new(move |kind, event| metrics.credential(kind, event))
}

const SWEEP: Duration = Duration::from_secs(15);
const REVOKE: Duration = Duration::from_secs(5);
const FLUSH: Duration = Duration::from_secs(3);
