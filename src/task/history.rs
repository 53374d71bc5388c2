//! What a task did so far: counters that cost a call next to nothing.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Counts the calls of one task.
#[derive(Debug, Default)]
pub struct History {
    calls: AtomicU64,
    denied: AtomicU64,
    hosts: Hosts,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that policy decided.
    pub calls: u64,
    /// Different hosts among them, up to 256.
    pub hosts: u64,
    /// Those that policy denied.
    pub denied: u64,
}

/// Tells hosts apart by a seeded digest. Nothing is written once a host is known.
#[derive(Debug, Default)]
struct Hosts {
    hasher: RandomState,
    count: AtomicU64,
    /// Made with the first call, because many tasks never make one.
    slots: OnceLock<Box<[AtomicU64]>>,
}

impl History {
    /// Notes one decided call.
    pub fn note(&self, host: &str, denied: bool) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if denied {
            self.denied.fetch_add(1, Ordering::Relaxed);
        }
        self.hosts.note(host);
    }

    /// The counters now.
    pub fn counts(&self) -> Counts {
        Counts {
            calls: self.calls.load(Ordering::Relaxed),
            hosts: self.hosts.count.load(Ordering::Relaxed),
            denied: self.denied.load(Ordering::Relaxed),
        }
    }
}

impl Hosts {
    fn note(&self, host: &str) {
        let slots = self.slots.get_or_init(|| (0..SLOTS).map(|_| AtomicU64::new(FREE)).collect());
        let digest = self.hasher.hash_one(host).max(FREE + 1);
        let start = usize::try_from(digest % SLOTS as u64).expect("a remainder is smaller than the divisor");
        for slot in slots[start..].iter().chain(&slots[..start]) {
            let found = match slot.load(Ordering::Relaxed) {
                FREE => slot.compare_exchange(FREE, digest, Ordering::Relaxed, Ordering::Relaxed),
                taken => Err(taken),
            };
            match found {
                Ok(_) => {
                    self.count.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(taken) if taken == digest => return,
                Err(_) => {}
            }
        }
    }
}

const SLOTS: usize = 256;
const FREE: u64 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_denials_and_different_hosts_are_counted() {
        let history = History::default();
        assert_eq!(history.counts(), Counts::default());
        for (host, denied) in [("a.test", false), ("b.test", true), ("a.test", true), ("c.test", false)] {
            history.note(host, denied);
        }
        assert_eq!(history.counts(), Counts { calls: 4, hosts: 3, denied: 2 });
    }

    #[test]
    fn hosts_are_counted_up_to_a_bound_and_once_by_all_threads() {
        let history = History::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|n| history.note(&format!("{n}.test"), false)));
            }
        });
        assert_eq!(history.counts().hosts, 200);
        (0..1000).for_each(|n| history.note(&format!("{n}.test"), false));
        assert_eq!(history.counts().hosts, SLOTS as u64);
    }
}
