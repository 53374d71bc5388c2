//! What goes on while a task lasts: how it ended, what it did, who waits for it. All epochs of a task share it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    bell::{Bell, Listener},
    history::History,
    kills::Kills,
};
use crate::refusal::Refusal;

/// What goes on while a task lasts.
#[derive(Debug)]
pub struct Life {
    kills: Arc<Kills>,
    end: AtomicU8,
    bell: Arc<Bell>,
    history: History,
    idle: Option<Duration>,
    begun: Instant,
    /// When it was used last, in milliseconds since it began.
    used: AtomicU64,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was done.
    Ended,
    /// Someone stopped it.
    Killed,
    /// Its time was over.
    Expired,
    /// Nothing was done in it for too long.
    Idle,
}

impl End {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Killed => "killed",
            Self::Expired => "expired",
            Self::Idle => "idle",
        }
    }

    fn refusal(self) -> Refusal {
        match self {
            Self::Ended => Refusal::TaskEnded,
            Self::Killed => Refusal::TaskKilled,
            Self::Expired | Self::Idle => Refusal::TaskExpired,
        }
    }
}

impl Life {
    /// A life that begins now, and ends by itself after so much time in which nothing is done.
    pub fn new(kills: Arc<Kills>, idle: Option<Duration>) -> Self {
        Self {
            kills,
            end: AtomicU8::new(OPEN),
            bell: Arc::default(),
            history: History::default(),
            idle,
            begun: Instant::now(),
            used: AtomicU64::new(0),
        }
    }

    /// How it ended, if it did.
    pub fn end(&self) -> Option<End> {
        match self.end.load(Ordering::Acquire) {
            OPEN => None,
            1 => Some(End::Ended),
            2 => Some(End::Killed),
            3 => Some(End::Expired),
            _ => Some(End::Idle),
        }
    }

    /// Why nothing further may pass between its task and this destination, if so.
    pub fn refusal(&self, destination: &str) -> Option<Refusal> {
        self.kills.refusal(destination).or_else(|| self.end().map(End::refusal))
    }

    /// What was done so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Listens for its end, a change of its task, and anything that is switched off.
    pub fn listen(&self) -> Listener {
        self.bell.listen()
    }

    /// Whether a call or a stream of its task is under way.
    pub fn is_waited_on(&self) -> bool {
        self.bell.is_waited_on()
    }

    /// How long it may be left alone.
    pub fn idle(&self) -> Option<Duration> {
        self.idle
    }

    /// Something is done in it.
    pub fn touch(&self) {
        if self.idle.is_some() {
            let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            // Written only when it differs, because all calls of a task read it.
            if self.used.load(Ordering::Relaxed) != now {
                self.used.store(now, Ordering::Relaxed);
            }
        }
    }

    /// When it ends for want of use; `None` where that does not end it.
    pub(super) fn idle_until(&self) -> Option<Instant> {
        Some(self.begun + Duration::from_millis(self.used.load(Ordering::Relaxed)) + self.idle?)
    }

    /// Ends it and tells everybody. Says whether it had not ended before: the first end is the one that counts.
    pub(crate) fn finish(&self, end: End) -> bool {
        let code = match end {
            End::Ended => 1,
            End::Killed => 2,
            End::Expired => 3,
            End::Idle => 4,
        };
        let first = self.end.compare_exchange(OPEN, code, Ordering::AcqRel, Ordering::Acquire).is_ok();
        self.ring();
        first
    }

    /// Tells everybody to look again.
    pub(super) fn ring(&self) {
        self.bell.ring();
    }
}

impl Default for Life {
    fn default() -> Self {
        Self::new(Arc::default(), None)
    }
}

const OPEN: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_counts() {
        for (end, label) in [
            (End::Ended, "task_ended"),
            (End::Killed, "task_killed"),
            (End::Expired, "task_expired"),
            (End::Idle, "task_expired"),
        ] {
            let life = Life::default();
            assert!(life.end().is_none() && life.refusal("x").is_none());
            assert!(life.finish(end) && !life.finish(End::Killed));
            assert_eq!((life.end(), life.refusal("x").map(|refusal| refusal.label())), (Some(end), Some(label)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn use_puts_the_end_for_want_of_use_off() {
        let life = Life::new(Arc::default(), Some(Duration::from_secs(60)));
        let begun = Instant::now();
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(life.idle_until(), Some(begun + Duration::from_secs(60)));
        life.touch();
        assert_eq!(life.idle_until(), Some(begun + Duration::from_secs(90)));
        assert_eq!(Life::default().idle_until(), None);
    }
}
