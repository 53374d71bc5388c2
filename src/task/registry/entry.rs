//! One task with all of its epochs: how it changes, and when it has to end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{Change, Fault, Opening, Shown};
use crate::task::{End, Life, Source, Task, handle::Digest, kills::Kills};

/// A task with all of its epochs.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) now: ArcSwap<Task>,
    pub(super) life: Arc<Life>,
    opened_at: SystemTime,
    /// What presents it.
    pub(super) handle: Option<Digest>,
    /// Held while it is changed.
    times: Mutex<Times>,
}

/// Moments by the clock that nobody can set.
#[derive(Debug)]
struct Times {
    ends: Instant,
    ended: Option<Instant>,
}

impl Entry {
    pub(super) fn new(opening: Opening, source: Source, handle: Option<Digest>, kills: &Arc<Kills>) -> Self {
        let Opening { purpose, max_effect, ceiling, subject, manifest, ttl, idle } = opening;
        let (opened_at, ttl) = (SystemTime::now(), ttl.min(NEVER));
        let life = Arc::new(Life::new(Arc::clone(kills), idle));
        let task = Task {
            id: uuid::Uuid::now_v7().to_string().into(),
            source,
            purpose: purpose.into(),
            max_effect,
            ceiling,
            subject,
            manifest,
            expires_at: Some(opened_at + ttl),
            epoch: 1,
            life: Arc::clone(&life),
        };
        let times = Mutex::new(Times { ends: Instant::now() + ttl, ended: None });
        Self { now: ArcSwap::from_pointee(task), life, opened_at, handle, times }
    }

    pub(super) fn show(&self) -> Shown {
        let (task, end) = (self.now.load_full(), self.life.end());
        Shown { task, opened_at: self.opened_at, end, counts: self.life.history().counts() }
    }

    pub(super) fn change(&self, change: Change) -> Result<(), Fault> {
        let Change { purpose, max_effect, ceiling, subject, ttl } = change;
        let mut times = self.times();
        if self.life.end().is_some() {
            return Err(Fault::Over);
        }
        let mut task = Task::clone(&self.now.load());
        task.purpose = purpose.map_or(task.purpose, Into::into);
        task.max_effect = max_effect.or(task.max_effect);
        task.ceiling = ceiling.or(task.ceiling);
        task.subject = subject.or(task.subject);
        if let Some(ttl) = ttl.map(|ttl| ttl.min(NEVER)) {
            task.expires_at = Some(SystemTime::now() + ttl);
            times.ends = Instant::now() + ttl;
        }
        task.epoch += 1;
        self.now.store(Arc::new(task));
        Ok(())
    }

    pub(super) fn finish(&self, end: End) -> bool {
        let mut times = self.times();
        let first = self.life.finish(end);
        if first {
            let task = Task::clone(&self.now.load());
            self.now.store(Arc::new(Task { epoch: task.epoch + 1, ..task }));
            times.ended = Some(Instant::now());
        }
        first
    }

    /// How it has to end now, or when to look again.
    pub(super) fn due(&self, now: Instant) -> Result<End, Instant> {
        let ends = self.times().ends;
        if ends <= now || self.now.load().expires_at.is_some_and(|end| end <= SystemTime::now()) {
            return Ok(End::Expired);
        }
        let Some(idle) = self.life.idle_until() else { return Err(ends) };
        if idle > now {
            return Err(ends.min(idle));
        }
        if !self.life.is_waited_on() {
            return Ok(End::Idle);
        }
        // A call or stream that is under way is use, however long it takes.
        self.life.touch();
        Err(ends.min(self.life.idle_until().unwrap_or(ends)))
    }

    /// When it ended.
    pub(super) fn ended(&self) -> Option<Instant> {
        self.times().ended
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Longer than any sidecar runs, and short enough for every clock.
const NEVER: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);
