//! Reads configuration and policy again on SIGHUP and when a file changes.
//!
//! A reload swaps policy, data, destinations and credentials whole or not at all: a bad file leaves the running ones in
//! place and says why. Directories are watched, not files, because a mounted ConfigMap changes by swapping a symlink.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use super::Sidecar;
use crate::{
    config::{self, Config},
    policy::bundle::Sources,
};

/// What is read again.
#[derive(Debug, Clone)]
pub struct Plan {
    file: Option<PathBuf>,
    policy: config::Policy,
    upstreams: config::Upstreams,
    before: Stamp,
}

impl Plan {
    /// What this configuration was read from. To be made before the files are used, so that no change is missed.
    pub fn of(config: &Config) -> Self {
        let (file, policy) = (config.file.clone(), config.policy.clone());
        let before = Stamp::of(file.as_deref(), &policy);
        Self { file, policy, upstreams: config.upstreams.clone(), before }
    }

    fn directories(&self) -> Vec<(PathBuf, RecursiveMode)> {
        let parent =
            |path: &Path| path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        let mut directories = Vec::new();
        if let Some(file) = &self.file {
            directories.push((parent(file), RecursiveMode::NonRecursive));
        }
        for path in &self.policy.paths {
            if path.is_dir() {
                directories.push((path.clone(), RecursiveMode::Recursive));
            }
            directories.push((parent(path), RecursiveMode::NonRecursive));
        }
        directories
    }
}

/// Watches until it is dropped.
pub async fn watch(sidecar: Arc<Sidecar>) {
    let plan = &sidecar.plan;
    let (changed, mut changes) = mpsc::channel::<()>(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is an event too, and would make every reload cause the next.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = changed.try_send(());
        }
    });
    // Without a watcher there is still the poll.
    let _watcher = watcher.map(|mut watcher| {
        for (directory, mode) in plan.directories() {
            if let Err(error) = watcher.watch(&directory, mode) {
                tracing::warn!(directory = %directory.display(), %error, "a directory can't be watched; it is polled");
            }
        }
        watcher
    });
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = plan.before.clone();
    loop {
        // The first tick comes at once: what changed before the watch began is found by it.
        tokio::select! {
            Some(()) = changes.recv() => settle(&mut changes).await,
            Some(()) = hangup.recv() => sidecar.reopen_audit(),
            _ = poll.tick() => {}
        }
        let now = Stamp::of(plan.file.as_deref(), &plan.policy);
        if now != last {
            last = now;
            reload(&sidecar, plan).await;
        }
    }
}

/// A change often comes as several events; the last of them is waited for.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    while let Ok(Some(())) = timeout(SETTLE, changes.recv()).await {}
}

async fn reload(sidecar: &Arc<Sidecar>, plan: &Plan) {
    let (reloading, plan) = (Arc::clone(sidecar), plan.clone());
    let swapped = tokio::task::spawn_blocking(move || reloading.swap(plan.read()?)).await;
    let error = match swapped {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "reading it panicked".to_owned(),
    };
    sidecar.recorder.metrics().reload_failed();
    tracing::error!(error, "the changed configuration can't be used; the running one stays in place");
}

impl Plan {
    fn read(&self) -> anyhow::Result<(config::Policy, config::Upstreams)> {
        match &self.file {
            None => Ok((self.policy.clone(), self.upstreams.clone())),
            Some(file) => {
                let mut next = Config::load(file, &|name| std::env::var(name).ok())?;
                next.policy.program.clone_from(&self.policy.program);
                Ok((next.policy, next.upstreams))
            }
        }
    }
}

/// What the files hold; `None` where they can't be read.
#[derive(Debug, Clone, PartialEq)]
struct Stamp {
    file: Option<Vec<u8>>,
    policy: Option<Arc<str>>,
}

impl Stamp {
    fn of(file: Option<&Path>, policy: &config::Policy) -> Self {
        Self {
            file: file.and_then(|file| std::fs::read(file).ok()),
            policy: Sources::read(policy).ok().map(|sources| sources.revision),
        }
    }
}

const POLL: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_millis(50);
