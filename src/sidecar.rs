//! The running sidecar: what all connections share, and the loops that accept them.
//!
//! [`run`] is what the program and the tests call. All sockets are bound before any is served, and stopping has one order:
//! accept nothing more, finish exchanges, revoke credentials, flush records and spans.

pub mod listeners;
pub mod reload;

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{
    sync::{Semaphore, mpsc::UnboundedSender, watch},
    time::{MissedTickBehavior, interval},
};

use crate::{
    audit::{self, Recorder},
    config::{self, Agent, Config, Limits, Mode, Profile, Upstreams},
    credential::{self, Declaration, Event, Journal, client::Client},
    exchange::inspect::Turns,
    health::Readiness,
    identity::{Identity, Proof},
    kubernetes::assurance,
    listener::dns::Names,
    origin::{Origins, connect::Connector},
    policy::{
        Policy,
        bundle::{LoadError, Sources},
        trial::Trial,
    },
    refusal::Refusal,
    shutdown::Drain,
    task::{Registry, registry::Happened},
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
    identity: Arc<Identity>,
    profile: Profile,
    limits: Limits,
    tasks: Registry,
    generation: ArcSwap<Generation>,
    /// Why the last reload failed, if it did.
    reload_failure: ArcSwapOption<reload::Failure>,
    changes: watch::Sender<u64>,
    authority: Arc<Authority>,
    agent_tls: AgentTls,
    origin_tls: Arc<OriginTls>,
    origins: Origins,
    credentials: credential::Store,
    declared: BTreeMap<String, Arc<Declaration>>,
    recorder: Recorder,
    audit: Option<audit::file::Log>,
    spans: Spans,
    inspection: Arc<Semaphore>,
    turns: Turns,
    connections: Arc<Semaphore>,
    drain: Drain,
    names: Arc<Names>,
    readiness: Readiness,
    own: Vec<SocketAddr>,
    begun: Arc<reload::Loaded>,
    pod: Option<assurance::Claim>,
}

/// What a reload swaps, whole or not at all.
pub struct Generation {
    /// Rises with every swap.
    pub number: u64,
    /// When it was swapped in.
    pub since: SystemTime,
    /// Whether policy is enforced.
    pub mode: Mode,
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
        for warning in config.warnings() {
            tracing::warn!(path = warning.path, "{}", warning.message);
        }
        let settings = config.policy.clone();
        let compiling = tokio::task::spawn_blocking(move || {
            crate::secret::detect::prepare();
            compile(&settings)
        });
        let policy = compiling.await??;
        let begun =
            reload::Loaded { file: config.file, policy: config.policy, revision: Arc::clone(policy.revision()) };
        let origin_tls = Arc::new(OriginTls::new(&config.tls).context("the roots that verify origins")?);
        let authority = Arc::new(Authority::open(config.tls.authority_dir.as_deref())?);
        if let Some(path) = &config.tls.trust_bundle {
            crate::tls::write_trust_bundle(path, &authority, &origin_tls).context("tls.authority.trust_bundle")?;
        }
        if let Some(path) = &config.tls.java_trust_store {
            crate::tls::write_java_store(path, &authority, &origin_tls).context("tls.authority.java_trust_store")?;
        }
        let metrics = Arc::new(Metrics::new());
        metrics.policy_revision(policy.revision());
        let audit = match &config.audit.file {
            Some(file) => {
                let config::Audit { durable, rotate, .. } = config.audit;
                Some(audit::file::Log::open(file, durable, rotate, &metrics).context("audit.file")?)
            }
            None => None,
        };
        let spans = match tap {
            Some(tap) => Spans::with_tap(tap),
            None => Spans::new(&config.telemetry, origin_tls.client_config()).context("telemetry.otlp")?,
        };
        let identity = Arc::new(Identity::new(&config.identity, config.agent.id.clone()));
        let readiness = Readiness::default();
        readiness.set(identity.proof().is_ok());
        let agent = Arc::new(config.agent);
        let recorder =
            Recorder::new(Arc::clone(&agent), config.mode, audit.clone(), spans.clone(), Arc::clone(&metrics));
        let own = listeners.addresses();
        let drain = Drain::new();
        let connector = Connector::new(Arc::clone(&origin_tls), own.clone(), config.limits.connect, drain.clone());
        let events = credential_events(metrics);
        let journal = match &config.revocation_journal {
            Some(path) => Journal::open(path).with_context(|| format!("state.journal {}", path.display()))?,
            None => {
                warn_of_what_a_crash_leaves(config.credentials.values());
                Journal::default()
            }
        };
        let credentials =
            credential::Store::new(Client::new(&origin_tls.client_config()), Arc::clone(&identity), journal, events);
        let store = credentials.clone();
        let ended = move |task: &Arc<str>, happened| match happened {
            Happened::Over => store.end(task),
            Happened::Changed { epoch } => store.renew(task, epoch),
        };
        let (upstreams, since) = (Arc::new(config.upstreams), SystemTime::now());
        let sidecar = Self {
            profile: config.profile,
            limits: config.limits,
            tasks: Registry::new(&config.tasks, Box::new(ended)),
            generation: ArcSwap::from_pointee(Generation { number: 1, since, mode: config.mode, policy, upstreams }),
            reload_failure: ArcSwapOption::empty(),
            changes: watch::Sender::new(1),
            agent_tls: AgentTls::new(Arc::clone(&authority)),
            authority,
            origins: Origins::new(connector),
            credentials,
            declared: config.credentials,
            origin_tls,
            recorder,
            audit,
            spans,
            inspection: Arc::new(Semaphore::new(config.limits.inspect_total)),
            turns: Turns::default(),
            connections: Arc::new(Semaphore::new(config.limits.connections)),
            names: Arc::new(Names::default()),
            readiness,
            identity,
            begun: Arc::new(begun),
            pod: config.pod,
            agent,
            drain,
            own,
        };
        Ok(Arc::new(sidecar))
    }

    /// Serves until `shutdown` resolves, then stops in order.
    pub async fn serve(self: Arc<Self>, listeners: Listeners, shutdown: impl Future<Output = ()>) {
        self.drain.spawn_background(Arc::clone(&self).identify());
        listeners.serve(&self);
        self.drain.spawn_background(reload::watch(Arc::clone(&self)));
        self.drain.spawn_background(Arc::clone(&self).sweep());
        self.drain.spawn_background(Arc::clone(&self).keep_tasks());
        self.credentials.declare(self.declared.clone());
        if let Some(claim) = self.pod.clone() {
            self.drain.spawn_background(assurance::follow(claim, self.agent.assurance.clone()));
        }
        shutdown.await;
        self.stop().await;
    }

    async fn stop(&self) {
        self.readiness.stop();
        let finished = self.drain.finish(self.limits.drain).await;
        // Before the end of all tasks, because taking leave of an origin is one.
        self.origins.close_idle();
        self.drain.close().await;
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

    /// Swaps in another mode, policy, data, destinations and credentials. Blocks while the policy is tried and compiled.
    fn swap(&self, next: reload::Next) -> Result<reload::Loaded, LoadError> {
        let reload::Next { file, mode, policy: settings, upstreams, credentials } = next;
        let policy = compile(&settings)?;
        let revision = Arc::clone(policy.revision());
        // Only one reload is under way at a time.
        let number = self.generation.load().number + 1;
        let since = SystemTime::now();
        self.generation.store(Arc::new(Generation { number, since, mode, policy, upstreams: Arc::clone(&upstreams) }));
        self.reload_failure.store(None);
        self.recorder.enter(mode);
        self.recorder.metrics().policy_revision(&revision);
        self.changes.send_replace(number);
        if let Some(credentials) = credentials {
            self.credentials.declare(credentials);
        }
        self.credentials.retain(&upstreams);
        tracing::info!(number, revision = &*revision, ?mode, "configuration swapped in");
        Ok(reload::Loaded { file, policy: settings, revision })
    }

    /// Keeps the proof of the identity up to date, and is ready while there is one.
    async fn identify(self: Arc<Self>) {
        let mut changes = self.identity.changes();
        let heed = async {
            loop {
                self.readiness.set(*changes.borrow_and_update());
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(self.identity.follow(), heed);
    }

    async fn sweep(self: Arc<Self>) {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.origins.sweep(self.generation.load().number);
        }
    }

    async fn keep_tasks(self: Arc<Self>) {
        self.tasks.keep().await;
    }

    /// Why the last reload failed, unless one succeeded since.
    pub fn reload_failure(&self) -> Option<Arc<reload::Failure>> {
        self.reload_failure.load_full()
    }

    /// Whether it does what it is for.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// The generation that is in force now. Hold on to it for the whole of a call.
    pub fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// Tells when a generation has been swapped in.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Every task.
    pub fn tasks(&self) -> &Registry {
        &self.tasks
    }

    /// What proves the agent's identity now. No call goes without.
    ///
    /// # Errors
    /// [`Refusal::IdentityUnavailable`] while nothing does.
    pub fn proof(&self) -> Result<Proof, Refusal> {
        self.identity.proof().map_err(|_| Refusal::IdentityUnavailable)
    }

    /// Who the agent is, and what proves it.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The agent beside this sidecar.
    pub fn agent(&self) -> &Arc<Agent> {
        &self.agent
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
    pub fn inspection(&self) -> &Arc<Semaphore> {
        &self.inspection
    }

    /// How many large bodies may be looked into at one time.
    pub fn turns(&self) -> &Turns {
        &self.turns
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

    /// Opens the audit file anew, after it was moved away.
    fn reopen_audit(&self) {
        if let Some(audit) = &self.audit {
            audit.reopen();
        }
    }
}

/// Reads, tries in a child process, and compiles. Takes tens of milliseconds and blocks.
///
/// # Errors
/// Everything that keeps the policy from being used.
pub fn compile(settings: &config::Policy) -> Result<Policy, LoadError> {
    let sources = Sources::read(settings)?;
    trial(settings)?.run(&sources, settings)?;
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    Policy::compile(sources, settings, workers)
}

/// Where a policy is tried. A unit test is a program that can't try one: started again, it would run the tests.
fn trial(settings: &config::Policy) -> Result<Trial, LoadError> {
    match &settings.program {
        Some(program) => Ok(Trial::Child(program.clone())),
        None if cfg!(test) => Ok(Trial::InProcess),
        None => std::env::current_exe().map(Trial::Child).map_err(|error| {
            LoadError::one(format!("policy: cannot be tried: the path of this program is not known: {error}"))
        }),
    }
}

/// Without a journal nobody knows after a crash what is to be revoked.
fn warn_of_what_a_crash_leaves<'a>(declared: impl Iterator<Item = &'a Arc<credential::Declaration>>) {
    for declaration in declared.filter(|declaration| declaration.source.is_ended_by_name()) {
        let credential = &declaration.name;
        tracing::warn!(%credential, hint = "set `state.journal`", "what a crash leaves of it is not revoked");
    }
}

fn credential_events(metrics: Arc<Metrics>) -> credential::store::Events {
    Arc::new(move |kind, event| {
        metrics.credential(kind, event);
        if let Event::Revoked { lag } = event {
            metrics.revocation_lag(lag);
        }
    })
}

const SWEEP: Duration = Duration::from_secs(15);
const REVOKE: Duration = Duration::from_secs(5);
const FLUSH: Duration = Duration::from_secs(3);
