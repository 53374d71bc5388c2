//! Reads configuration and policy again on SIGHUP and when a file changes.
//!
//! A reload swaps mode, policy, data, destinations and credentials, whole or not at all: a file that can't be used, or
//! that changes what only a restart can change, leaves the running ones in place and says why. It is tried again at every
//! poll, as what it lacks may come to stand where nothing is watched yet. Directories are watched, not files, because a
//! mounted ConfigMap changes by swapping a symlink.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{Generation, Sidecar};
use crate::{
    config::{self, Config, Fixed, Mode, Upstreams},
    credential::Declaration,
    policy::bundle::Sources,
};

/// What was loaded last, and with it what is watched and read again.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration file, where there is one.
    pub file: Option<config::File>,
    /// Where policy stands.
    pub policy: config::Policy,
    /// Names the policy and data that were loaded.
    pub revision: Arc<str>,
}

/// What the files say now, ready to be swapped in.
#[derive(Debug)]
pub struct Next {
    /// The configuration file, where there is one.
    pub file: Option<config::File>,
    /// Whether policy is enforced.
    pub mode: Mode,
    /// Where policy stands.
    pub policy: config::Policy,
    /// Where calls may go.
    pub upstreams: Arc<Upstreams>,
    /// Every credential that is declared, where that may have changed.
    pub credentials: Option<BTreeMap<String, Arc<Declaration>>>,
}

/// Why what the files say now is not in use.
#[derive(Debug)]
pub struct Failure {
    /// What is wrong with it.
    pub error: String,
    /// When it was tried last.
    pub at: SystemTime,
}

/// Watches until it is dropped.
pub async fn watch(sidecar: Arc<Sidecar>) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return tracing::error!(%error, "SIGHUP can't be received, and nothing will be reloaded"),
    };
    let (changed, mut changes) = mpsc::channel(1);
    let mut follower = Follower::new(Arc::clone(&sidecar), changed).await;
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // The first tick comes at once: what changed before the watch began is found by it.
        let asked = tokio::select! {
            Some(()) = changes.recv() => {
                settle(&mut changes).await;
                Asked::Change
            }
            Some(()) = hangup.recv() => {
                sidecar.reopen_audit();
                Asked::Signal
            }
            _ = poll.tick() => Asked::Poll,
        };
        follower.look(asked).await;
    }
}

/// Why the files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Something in a watched directory changed.
    Change,
    /// A person wants it.
    Signal,
    /// It is time again.
    Poll,
}

/// Keeps a sidecar at what its files say.
struct Follower {
    sidecar: Arc<Sidecar>,
    loaded: Arc<Loaded>,
    /// What the files held when they were last read, whatever came of it.
    tried: Stamp,
    /// Why that can't be used, if so.
    failure: Option<String>,
    changed: mpsc::Sender<()>,
    watcher: Option<RecommendedWatcher>,
}

impl Follower {
    async fn new(sidecar: Arc<Sidecar>, changed: mpsc::Sender<()>) -> Self {
        let loaded = Arc::clone(&sidecar.begun);
        let mut follower = Self { sidecar, tried: loaded.stamp(), loaded, failure: None, changed, watcher: None };
        follower.observe().await;
        follower
    }

    /// Reloads if there is reason to.
    async fn look(&mut self, asked: Asked) {
        let loaded = Arc::clone(&self.loaded);
        let Ok(now) = spawn_blocking(move || loaded.stamp_now()).await else { return };
        let due = match asked {
            Asked::Change => now != self.tried,
            Asked::Poll => now != self.tried || self.failure.is_some(),
            Asked::Signal => true,
        };
        if !due {
            return;
        }
        match self.reload().await {
            Ok(loaded) => self.follow(loaded).await,
            Err(failure) => {
                self.sidecar.recorder.metrics().reload_failed();
                let noted = Failure { error: failure.clone(), at: SystemTime::now() };
                self.sidecar.reload_failure.store(Some(Arc::new(noted)));
                // What is only tried again was told already.
                if asked == Asked::Signal || self.failure.as_ref() != Some(&failure) {
                    tracing::error!(
                        error = failure,
                        "the changed configuration can't be used; the running one stays in place"
                    );
                }
                self.tried = now;
                self.failure = Some(failure);
            }
        }
    }

    async fn reload(&self) -> Result<Loaded, String> {
        let (sidecar, loaded) = (Arc::clone(&self.sidecar), Arc::clone(&self.loaded));
        let swapped = spawn_blocking(move || {
            let next = loaded.read(&sidecar.generation())?;
            anyhow::Ok(sidecar.swap(next)?)
        });
        match swapped.await {
            Ok(swapped) => swapped.map_err(|error| format!("{error:#}")),
            Err(_) => Err("reading it panicked".to_owned()),
        }
    }

    async fn follow(&mut self, loaded: Loaded) {
        self.tried = loaded.stamp();
        self.failure = None;
        self.loaded = Arc::new(loaded);
        self.observe().await;
        // What changed before the directories were watched is found by looking once more.
        let _ = self.changed.try_send(());
    }

    /// Watches the directories of what was loaded, and no others. They may be new ones even where their names are not.
    async fn observe(&mut self) {
        let (loaded, changed, before) = (Arc::clone(&self.loaded), self.changed.clone(), self.watcher.take());
        let watcher = spawn_blocking(move || {
            drop(before);
            observe(&loaded, changed)
        });
        self.watcher = watcher.await.ok().flatten();
    }
}

/// Without a watcher there is still the poll.
fn observe(loaded: &Loaded, changed: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is an event too, and would make every reload cause the next.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = changed.try_send(());
        }
    });
    let mut watcher = match watcher {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "files can't be watched; they are polled");
            return None;
        }
    };
    for (directory, mode) in loaded.directories() {
        if let Err(error) = watcher.watch(&directory, mode) {
            tracing::warn!(directory = %directory.display(), %error, "a directory can't be watched; it is polled");
        }
    }
    Some(watcher)
}

/// A change often comes as several events; the last of them is waited for, but not for ever: a file that is written all the
/// time may stand beside.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    let quiet = async { while let Ok(Some(())) = timeout(SETTLE, changes.recv()).await {} };
    let _ = timeout(LONGEST_SETTLE, quiet).await;
}

impl Loaded {
    fn stamp(&self) -> Stamp {
        Stamp { file: self.file.as_ref().map(|file| Arc::clone(&file.text)), policy: Some(Arc::clone(&self.revision)) }
    }

    fn stamp_now(&self) -> Stamp {
        let file = self.file.as_ref().and_then(|file| config::file::read(&file.path).ok());
        let policy = Sources::read(&self.policy).ok().map(|sources| sources.revision);
        Stamp { file: file.map(Into::into), policy }
    }

    fn read(&self, running: &Generation) -> anyhow::Result<Next> {
        let upstreams = Arc::clone(&running.upstreams);
        let Some(file) = &self.file else {
            let policy = self.policy.clone();
            return Ok(Next { file: None, mode: running.mode, policy, upstreams, credentials: None });
        };
        let config = Config::load(&file.path, &|name| std::env::var(name).ok())?;
        let fixed = file.fixed.differences(&Fixed::of(&config));
        anyhow::ensure!(fixed.is_empty(), "changed, but only a restart can change it: {}", fixed.join(", "));
        let policy = config::Policy { program: self.policy.program.clone(), ..config.policy };
        // Those in use are kept where nothing changed: they are told apart by their address first.
        let upstreams = if *upstreams == config.upstreams { upstreams } else { Arc::new(config.upstreams) };
        let credentials = Some(config.credentials);
        Ok(Next { file: config.file, mode: config.mode, policy, upstreams, credentials })
    }

    fn directories(&self) -> BTreeMap<PathBuf, RecursiveMode> {
        let parent =
            |path: &Path| path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        let mut directories = BTreeMap::new();
        let places = self.file.iter().map(|file| &file.path).chain(&self.policy.paths);
        directories.extend(places.map(|path| (parent(path), RecursiveMode::NonRecursive)));
        let whole = self.policy.paths.iter().filter(|path| path.is_dir());
        directories.extend(whole.map(|path| (path.clone(), RecursiveMode::Recursive)));
        directories
    }
}

/// What the files hold; `None` where they can't be read.
#[derive(Debug, PartialEq)]
struct Stamp {
    file: Option<Arc<str>>,
    policy: Option<Arc<str>>,
}

const POLL: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_millis(50);
const LONGEST_SETTLE: Duration = Duration::from_secs(1);
