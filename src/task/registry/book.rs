//! The list of tasks, by identifier and by handle. Bounded: what ended is remembered for a while, so that it can be told
//! from what never was.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::entry::Entry;
use crate::task::handle::Digest;

/// The list of tasks. The static one, which has no handle, is never forgotten.
#[derive(Debug, Default)]
pub(super) struct Book {
    by_id: HashMap<Arc<str>, Arc<Entry>>,
    by_handle: HashMap<Digest, Arc<Entry>>,
}

impl Book {
    pub(super) fn find(&self, id: &str) -> Option<&Arc<Entry>> {
        self.by_id.get(id)
    }

    pub(super) fn presenting(&self, handle: &Digest) -> Option<&Arc<Entry>> {
        self.by_handle.get(handle)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_id.values()
    }

    /// Adds a task, if there is room for one.
    pub(super) fn add(&mut self, entry: Arc<Entry>) -> bool {
        if self.by_id.len() >= MOST {
            self.forget_one();
        }
        let room = self.by_id.len() < MOST;
        if room {
            self.extend([entry]);
        }
        room
    }

    /// Forgets what ended long ago.
    pub(super) fn forget(&mut self, now: Instant) {
        let long_ago: Vec<Arc<Entry>> = self
            .iter()
            .filter(|entry| entry.handle.is_some())
            .filter(|entry| entry.ended().is_some_and(|ended| now.duration_since(ended) >= KEPT))
            .map(Arc::clone)
            .collect();
        long_ago.iter().for_each(|entry| self.remove(entry));
    }

    /// Forgets what ended first.
    fn forget_one(&mut self) {
        let opened = self.iter().filter(|entry| entry.handle.is_some());
        let ended = opened.filter_map(|entry| Some((entry.ended()?, Arc::clone(entry))));
        if let Some((_, first)) = ended.min_by_key(|(ended, _)| *ended) {
            self.remove(&first);
        }
    }

    fn remove(&mut self, entry: &Entry) {
        self.by_id.remove(&entry.now.load().id);
        if let Some(handle) = entry.handle {
            self.by_handle.remove(&handle);
        }
    }
}

impl Extend<Arc<Entry>> for Book {
    fn extend<T: IntoIterator<Item = Arc<Entry>>>(&mut self, entries: T) {
        for entry in entries {
            if let Some(handle) = entry.handle {
                self.by_handle.insert(handle, Arc::clone(&entry));
            }
            self.by_id.insert(Arc::clone(&entry.now.load().id), entry);
        }
    }
}

/// How many tasks are known at a time.
pub(super) const MOST: usize = 4096;

/// How long a task that ended is remembered.
pub(super) const KEPT: Duration = Duration::from_secs(60 * 60);
