//! The credentials in use, by a digest of what they are for: looking one up allocates nothing.

use std::{collections::HashMap, sync::Arc};

use super::entry::{Entry, Now, Wanted};
use crate::config::{Upstream, Upstreams};

/// All entries. What serves nobody is forgotten now and then.
pub(super) struct Entries {
    by_digest: HashMap<u64, Vec<Arc<Entry>>>,
    pub(super) count: usize,
    sweep_at: usize,
}

impl Default for Entries {
    fn default() -> Self {
        Self { by_digest: HashMap::new(), count: 0, sweep_at: SWEEP_FROM }
    }
}

impl Entries {
    pub(super) fn find(&self, digest: u64, wanted: &Wanted<'_>) -> Option<Arc<Entry>> {
        self.by_digest.get(&digest)?.iter().find(|entry| entry.is_for(wanted)).cloned()
    }

    pub(super) fn add(&mut self, digest: u64, entry: Arc<Entry>, now: Now) {
        if self.count >= self.sweep_at {
            self.sweep(now);
        }
        self.by_digest.entry(digest).or_default().push(entry);
        self.count += 1;
    }

    /// Forgets what belongs to a destination that is not among these, and marks it as gone for those who hold it.
    pub(super) fn retain(&mut self, upstreams: &Upstreams) {
        self.forget(|entry| !is_among(&entry.upstream, upstreams));
    }

    /// Forgets these, and marks them as gone for those who hold them.
    pub(super) fn forget(&mut self, these: impl Fn(&Entry) -> bool) {
        self.keep(|entry| {
            let gone = these(entry);
            if gone {
                entry.set_gone();
            }
            !gone
        });
    }

    /// Whoever serves the credential of this partition.
    pub(super) fn serving(&self, partition: u64) -> Option<Arc<Entry>> {
        let mut entries = self.by_digest.values().flatten();
        let serves =
            |entry: &&Arc<Entry>| entry.held.load().as_ref().is_some_and(|held| held.credential.partition == partition);
        entries.find(serves).cloned()
    }

    pub(super) fn clear(&mut self) {
        self.keep(|_| false);
    }

    /// Forgets what serves nobody, so that tasks that ended leave nothing behind.
    fn sweep(&mut self, now: Now) {
        self.keep(|entry| Arc::strong_count(entry) > 1 || !entry.is_idle(now));
        self.sweep_at = (2 * self.count).max(SWEEP_FROM);
    }

    fn keep(&mut self, wanted: impl Fn(&Arc<Entry>) -> bool) {
        self.by_digest.retain(|_, entries| {
            entries.retain(&wanted);
            !entries.is_empty()
        });
        self.count = self.by_digest.values().map(Vec::len).sum();
    }
}

/// Whether a destination is configured, with its declaration and everything else as it was.
pub(super) fn is_among(upstream: &Arc<Upstream>, upstreams: &Upstreams) -> bool {
    upstreams.named(&upstream.name).is_some_and(|configured| configured == upstream)
}

/// No sweep below so many entries.
pub(super) const SWEEP_FROM: usize = 256;
