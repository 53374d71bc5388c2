//! Every task of this sidecar: opens, finds, changes and ends them.
//!
//! A call's task is found by the handle that it presents, else it is the static one, else there is none. A handle that is
//! not known is a refusal: it never falls back to another task. What ended refuses every further call at once, and whoever
//! was told of it takes back what the task had caused.

mod book;
mod entry;

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use zeroize::Zeroizing;

use self::{book::Book, entry::Entry};
use super::{Counts, End, Life, Manifest, Presented, Source, Subject, Task, handle::Handles, kills::Kills};
use crate::{
    call::Effect,
    config::{self, Classification},
    refusal::Refusal,
};

/// Every task of one sidecar.
pub struct Registry {
    header: bool,
    longest: Duration,
    handles: Handles,
    /// The task of the configuration, which is never forgotten.
    fixed: Option<Arc<Entry>>,
    none: Arc<Task>,
    kills: Arc<Kills>,
    book: RwLock<Book>,
    /// Woken when there is something to end earlier than was known.
    changed: Notify,
    told: Told,
}

/// Told of what happens to tasks, by their identifiers, so that it can take back what they caused.
pub type Told = Box<dyn Fn(&Arc<str>, Happened) + Send + Sync>;

/// What happened to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It ended.
    Over,
    /// What it may do changed.
    Changed {
        /// Its epoch from now on.
        epoch: u64,
    },
}

/// What a new task is to be.
#[derive(Debug, Clone)]
pub struct Opening {
    /// What it is for.
    pub purpose: String,
    /// The most that a call may do in it.
    pub max_effect: Option<Effect>,
    /// The most sensitive data it may touch.
    pub ceiling: Option<Classification>,
    /// On whose behalf.
    pub subject: Option<Subject>,
    /// What it says it needs.
    pub manifest: Option<Manifest>,
    /// When it ends.
    pub ttl: Duration,
    /// How long it may be left alone.
    pub idle: Option<Duration>,
}

/// What of a task is to be another from now on. What is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// What it is for.
    pub purpose: Option<String>,
    /// The most that a call may do in it.
    pub max_effect: Option<Effect>,
    /// The most sensitive data it may touch.
    pub ceiling: Option<Classification>,
    /// On whose behalf.
    pub subject: Option<Subject>,
    /// When it ends, counted from now.
    pub ttl: Option<Duration>,
}

/// A task as it is shown.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Its newest epoch.
    pub task: Arc<Task>,
    /// When it was opened.
    pub opened_at: SystemTime,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// What it did so far.
    pub counts: Counts,
}

/// A task that was opened, and the one copy of its handle.
pub struct Opened {
    /// What its calls have to present.
    pub handle: Zeroizing<String>,
    /// The task.
    pub shown: Shown,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("shown", &self.shown).finish_non_exhaustive()
    }
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is no such task.
    #[error("there is no such task")]
    Unknown,
    /// It ended.
    #[error("the task has ended")]
    Over,
    /// As many are open as can be.
    #[error("as many tasks are open as can be")]
    Full,
    /// No call could belong to it.
    #[error("tasks.source leaves out header, so no call could belong to the task")]
    Unused,
    /// It would last longer than tasks may.
    #[error("the task would last longer than tasks.max_ttl")]
    TooLong,
}

impl Registry {
    /// The tasks of a sidecar that starts now.
    pub fn new(settings: &config::Tasks, told: Told) -> Self {
        let kills = Arc::<Kills>::default();
        let mut book = Book::default();
        let fixed = settings.fixed.as_ref().map(|settings| {
            let opening = Opening {
                purpose: settings.purpose.clone(),
                max_effect: settings.max_effect,
                ceiling: settings.ceiling,
                subject: None,
                manifest: settings.manifest.clone(),
                ttl: settings.ttl,
                idle: settings.idle,
            };
            Arc::new(Entry::new(opening, Source::Static, None, &kills))
        });
        book.extend(fixed.clone());
        Self {
            header: settings.header,
            longest: settings.longest,
            handles: Handles::new(),
            fixed,
            none: Arc::new(Task::none_with(Arc::new(Life::new(Arc::clone(&kills), None)))),
            kills,
            book: RwLock::new(book),
            changed: Notify::new(),
            told,
        }
    }

    /// The longest that a task may last that is opened.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// Takes what a request presents away from its fields.
    pub fn take(&self, headers: &mut HeaderMap) -> Presented {
        self.handles.take(headers)
    }

    /// The task of a call that presents this, whether or not it ended. [`Task::enter`] says whether the call may be made.
    ///
    /// # Errors
    /// [`Refusal::TaskUnknown`], and what says too much.
    pub fn of(&self, presented: Presented) -> Result<Arc<Task>, Refusal> {
        let task = match presented {
            Presented::Several => return Err(Refusal::MalformedRequest("there is more than one Tollgate-Task field")),
            Presented::Handle(digest) => match self.read().presenting(&digest) {
                Some(entry) => entry.now.load_full(),
                None => return Err(Refusal::TaskUnknown),
            },
            Presented::Nothing => match &self.fixed {
                Some(entry) => entry.now.load_full(),
                None => Arc::clone(&self.none),
            },
        };
        if task.life.end().is_none() && task.expires_at.is_some_and(|end| end <= SystemTime::now()) {
            // The wall's clock was set forward: its end is noticed here first.
            self.finish_by_id(&task.id, End::Expired);
        }
        Ok(task)
    }

    /// The newest epoch of a task.
    pub fn newest(&self, task: &Arc<Task>) -> Arc<Task> {
        self.read().find(&task.id).map_or_else(|| Arc::clone(task), |entry| entry.now.load_full())
    }

    /// Opens a task.
    ///
    /// # Errors
    /// What is wrong with it, or with opening any.
    pub fn open(&self, opening: Opening) -> Result<Opened, Fault> {
        if !self.header {
            return Err(Fault::Unused);
        }
        if opening.ttl > self.longest {
            return Err(Fault::TooLong);
        }
        let (handle, digest) = self.handles.make();
        let entry = Arc::new(Entry::new(opening, Source::Header, Some(digest), &self.kills));
        let shown = entry.show();
        if !self.write().add(entry) {
            return Err(Fault::Full);
        }
        self.changed.notify_one();
        tracing::info!(task = &*shown.task.id, "task opened");
        Ok(Opened { handle, shown })
    }

    /// All tasks that are known, the oldest first.
    pub fn list(&self) -> Vec<Shown> {
        let mut all: Vec<Shown> = self.entries().iter().map(|entry| entry.show()).collect();
        all.sort_by(|one, other| (one.opened_at, &one.task.id).cmp(&(other.opened_at, &other.task.id)));
        all
    }

    /// The task of this identifier.
    pub fn show(&self, id: &str) -> Option<Shown> {
        self.read().find(id).map(|entry| entry.show())
    }

    /// How many tasks are open.
    pub fn count(&self) -> usize {
        self.entries().iter().filter(|entry| entry.life.end().is_none()).count()
    }

    /// Makes a task another than it was: its next epoch.
    ///
    /// # Errors
    /// [`Fault::Unknown`], [`Fault::Over`] and [`Fault::TooLong`].
    pub fn change(&self, id: &str, change: Change) -> Result<Shown, Fault> {
        if change.ttl.is_some_and(|ttl| ttl > self.longest) {
            return Err(Fault::TooLong);
        }
        let entry = self.read().find(id).map(Arc::clone).ok_or(Fault::Unknown)?;
        entry.change(change)?;
        let now = entry.now.load_full();
        (self.told)(&now.id, Happened::Changed { epoch: now.epoch });
        entry.life.ring();
        self.changed.notify_one();
        tracing::info!(task = id, epoch = entry.now.load().epoch, "task changed");
        Ok(entry.show())
    }

    /// Ends a task. One that ended already stays as it ended.
    ///
    /// # Errors
    /// [`Fault::Unknown`].
    pub fn end(&self, id: &str, end: End) -> Result<Shown, Fault> {
        self.finish_by_id(id, end).map(|entry| entry.show()).ok_or(Fault::Unknown)
    }

    /// Switches the agent off: no call passes any longer, in whatever task.
    pub fn kill_agent(&self) {
        self.kills.kill_agent();
        for entry in self.entries() {
            self.finish(&entry, End::Killed);
        }
        // Calls without a task had credentials too.
        (self.told)(&self.none.id, Happened::Over);
        self.ring();
    }

    /// Switches a destination off.
    pub fn kill_destination(&self, name: &str) {
        self.kills.kill_destination(name);
        self.ring();
    }

    /// What was switched off.
    pub fn kills(&self) -> &Kills {
        &self.kills
    }

    /// Ends tasks whose time is over, until it is dropped.
    pub async fn keep(&self) {
        loop {
            let next = self.sweep(Instant::now());
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Ends what is due and forgets what ended long ago. Returns when to look again.
    fn sweep(&self, now: Instant) -> Instant {
        let mut next = now + LOOK;
        for entry in self.entries().iter().filter(|entry| entry.life.end().is_none()) {
            match entry.due(now) {
                Ok(end) => self.finish(entry, end),
                Err(moment) => next = next.min(moment),
            }
        }
        self.write().forget(now);
        next
    }

    fn finish_by_id(&self, id: &str, end: End) -> Option<Arc<Entry>> {
        let entry = self.read().find(id).map(Arc::clone)?;
        self.finish(&entry, end);
        Some(entry)
    }

    fn finish(&self, entry: &Entry, end: End) {
        if entry.finish(end) {
            let id = Arc::clone(&entry.now.load().id);
            (self.told)(&id, Happened::Over);
            tracing::info!(task = &*id, end = end.as_str(), "task over");
        }
    }

    /// Has everything that is under way ask again.
    fn ring(&self) {
        self.none.life.ring();
        for entry in self.entries() {
            entry.life.ring();
        }
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.read().iter().map(Arc::clone).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Book> {
        self.book.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Book> {
        self.book.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("count", &self.count()).finish_non_exhaustive()
    }
}

/// The longest time until the next look, so that a clock that was set is noticed.
const LOOK: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
