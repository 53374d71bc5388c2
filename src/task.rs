//! Why an agent calls: the task that a call belongs to.
//!
//! A [`Task`] is what holds at one epoch; a change of what it may do makes the next one. What goes on while it lasts, its
//! history and its end, is its [`Life`], which all epochs share. The [`Registry`] knows every task and finds the one that a
//! call belongs to. A call that belongs to no task is told to policy as such (`source: none`), never given one.

pub mod bell;
pub mod handle;
pub mod history;
pub mod kills;
pub mod life;
pub mod manifest;
pub mod registry;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;

use crate::{call::Effect, config::Classification, refusal::Refusal};
pub use handle::Presented;
pub use history::Counts;
pub use life::{End, Life};
pub use manifest::{Manifest, Need};
pub use registry::Registry;

/// The task that a call belongs to, as it is at one epoch.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its identifier; empty when there is none.
    pub id: Arc<str>,
    /// Who said so.
    pub source: Source,
    /// What it is for.
    pub purpose: Arc<str>,
    /// The most that a call may do in it, where that is bounded.
    pub max_effect: Option<Effect>,
    /// The most sensitive data it may touch, where that is bounded.
    pub ceiling: Option<Classification>,
    /// On whose behalf, where somebody was named.
    pub subject: Option<Subject>,
    /// What it says it needs, where it says so.
    pub manifest: Option<Manifest>,
    /// When it ends, where it does.
    pub expires_at: Option<SystemTime>,
    /// Rises whenever what the task may do changes. Part of every cache key.
    pub epoch: u64,
    /// What goes on while it lasts.
    pub life: Arc<Life>,
}

/// Who said which task a call belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A handle in a header, which the orchestrator got when it opened the task.
    Header,
    /// The configuration.
    Static,
    /// Nobody.
    None,
}

/// The person on whose behalf a task is done. Only a digest of who it is is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// SHA-256 of the identifier, in hexadecimal.
    pub id_hash: Arc<str>,
}

impl Source {
    /// As it stands in policy input.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Static => "static",
            Self::None => "none",
        }
    }
}

impl Subject {
    /// The person of this identifier.
    pub fn new(id: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, id.as_bytes());
        Self { id_hash: hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>().into() }
    }
}

impl Task {
    /// No task.
    pub fn none() -> Self {
        Self::none_with(Arc::default())
    }

    fn none_with(life: Arc<Life>) -> Self {
        Self {
            id: "".into(),
            source: Source::None,
            purpose: "".into(),
            max_effect: None,
            ceiling: None,
            subject: None,
            manifest: None,
            expires_at: None,
            epoch: 0,
            life,
        }
    }

    /// How long it still lasts; `None` when it does not end.
    pub fn remaining(&self, now: SystemTime) -> Option<Duration> {
        self.expires_at.map(|end| end.duration_since(now).unwrap_or_default())
    }

    /// Uses it for a call to this destination.
    ///
    /// # Errors
    /// Why the call may not be made: the task ended, or something was switched off.
    pub fn enter(&self, destination: &str) -> Result<(), Refusal> {
        match self.refusal(destination) {
            Some(refusal) => Err(refusal),
            None => {
                self.life.touch();
                Ok(())
            }
        }
    }

    /// Why nothing further may pass between it and this destination, if so.
    pub fn refusal(&self, destination: &str) -> Option<Refusal> {
        self.life.refusal(destination)
    }

    /// Resolves when nothing further may pass between it and this destination.
    pub async fn withdrawn(&self, destination: &str) -> Refusal {
        let mut listener = self.life.listen();
        loop {
            if let Some(refusal) = self.refusal(destination) {
                return refusal;
            }
            listener.rung().await;
        }
    }

    /// Notes one decided call.
    pub fn note(&self, host: &str, denied: bool) {
        self.life.history().note(host, denied);
    }

    /// What it did so far; `None` where there is no task.
    pub fn counts(&self) -> Option<Counts> {
        match self.source {
            Source::Header | Source::Static => Some(self.life.history().counts()),
            Source::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_subject_only_a_digest_is_kept() {
        let subject = Subject::new("alice@example.com");
        assert_eq!(&*subject.id_hash, "ff8d9819fc0e12bf0d24892e45987e249a28dce836a85cad60e28eaaa8c6d976");
        assert!(!format!("{subject:?}").contains("alice"));
    }

    #[tokio::test]
    async fn what_waits_for_a_task_is_told_of_its_end() {
        let task = Task::none();
        assert!(task.refusal("api").is_none());
        let waiting = tokio::spawn({
            let task = task.clone();
            async move { task.withdrawn("api").await }
        });
        while !task.life.is_waited_on() {
            tokio::task::yield_now().await;
        }
        task.life.finish(End::Killed);
        assert_eq!(waiting.await.expect("no panic").label(), "task_killed");
        assert_eq!(task.withdrawn("api").await.label(), "task_killed");
    }
}
