//! Why an agent calls: the task that a call belongs to.
//!
//! One source exists so far: the static task of the configuration, opened when the sidecar starts. A call that belongs
//! to no task is told to policy as such (`source: none`), never invented.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    call::Effect,
    config::{Classification, StaticTask},
};

/// The task that a call belongs to.
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
    /// When it ends, where it does.
    pub expires_at: Option<SystemTime>,
    /// Rises whenever what the task may do changes. Part of every cache key.
    pub epoch: u64,
}

/// Who said which task a call belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The configuration.
    Static,
    /// Nobody.
    None,
}

impl Source {
    /// As it stands in policy input.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::None => "none",
        }
    }
}

impl Task {
    /// The task of the configuration, from now on, or none.
    pub fn open(settings: Option<&StaticTask>, now: SystemTime) -> Self {
        match settings {
            None => Self::none(),
            Some(StaticTask { purpose, ttl }) => Self {
                id: uuid::Uuid::now_v7().to_string().into(),
                source: Source::Static,
                purpose: purpose.as_str().into(),
                max_effect: None,
                ceiling: None,
                expires_at: Some(now + *ttl),
                epoch: 1,
            },
        }
    }

    /// No task.
    pub fn none() -> Self {
        Self {
            id: "".into(),
            source: Source::None,
            purpose: "".into(),
            max_effect: None,
            ceiling: None,
            expires_at: None,
            epoch: 0,
        }
    }

    /// How long it still lasts; `None` when it does not end.
    pub fn remaining(&self, now: SystemTime) -> Option<Duration> {
        self.expires_at.map(|end| end.duration_since(now).unwrap_or_default())
    }
}
