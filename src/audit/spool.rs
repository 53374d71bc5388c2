//! What waits for the writer: records, intents, and how far the writer has come.
//!
//! Records are numbered here, in the order that calls end, and chained when the writer takes them, so that no call waits
//! while another one's line is hashed. The spool is bounded for calls
//! that have not been forwarded; the end of a call that has been is always taken, because it can't be undone. What could
//! not be taken is counted, and the count stands in the chain as a `gap` as soon as there is room.

use std::{
    collections::HashMap,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{DecisionId, chain::Position};
use crate::telemetry::metrics::AuditMetrics;

/// Stands between calls and the writer.
pub(super) struct Spool {
    state: Mutex<State>,
    // Where the chain stands. Only the writer's thread takes it.
    chain: Mutex<Position>,
    wake: Condvar,
    progress: watch::Sender<Progress>,
    writable: AtomicBool,
    waiting: AtomicUsize,
    metrics: AuditMetrics,
    limit: usize,
}

struct State {
    // The number of the last record.
    seq: u64,
    // The members of records that are not sealed yet, one behind the other, and where each ends.
    members: Vec<u8>,
    ends: Vec<usize>,
    gap: u64,
    intents: Vec<u8>,
    ticket: u64,
    open: HashMap<DecisionId, Box<[u8]>>,
    // The writer waits for lines and must be woken for the first.
    asleep: bool,
    hurry: bool,
    reopen: bool,
    closing: bool,
    closed: bool,
}

/// How far the writer has come.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    // The last line in the file.
    written: u64,
    // Failed attempts so far.
    failures: u64,
    // The last intent on disk, and the last one that could not be put there.
    synced: u64,
    refused: u64,
}

/// What the writer does next.
#[derive(Default)]
pub(super) struct Work {
    /// Whole lines.
    pub(super) lines: Vec<u8>,
    /// The number of the last line, and how many there are.
    pub(super) seq: u64,
    pub(super) count: u64,
    /// Intents, one a line, up to this ticket.
    pub(super) intents: Vec<u8>,
    pub(super) ticket: u64,
    /// The intents of calls that had not ended when `lines` were taken, where they were asked for.
    pub(super) open: Option<Vec<u8>>,
    /// Whether every call that has an intent has ended.
    pub(super) none_open: bool,
    /// The file may have been moved away.
    pub(super) reopen: bool,
    /// No further work comes.
    pub(super) closing: bool,
}

impl Spool {
    /// A spool whose next line continues `position`.
    pub(super) fn new(position: Position, limit: usize, metrics: AuditMetrics) -> Self {
        let progress = Progress { written: position.seq, ..Progress::default() };
        let state = State {
            seq: position.seq,
            members: Vec::new(),
            ends: Vec::new(),
            gap: 0,
            intents: Vec::new(),
            ticket: 0,
            open: HashMap::new(),
            asleep: false,
            hurry: false,
            reopen: false,
            closing: false,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            chain: Mutex::new(position),
            wake: Condvar::new(),
            progress: watch::Sender::new(progress),
            writable: AtomicBool::new(true),
            waiting: AtomicUsize::new(0),
            metrics,
            limit,
        }
    }

    /// Whether a further call can be recorded.
    pub(super) fn writable(&self) -> bool {
        self.writable.load(Ordering::Acquire) && self.waiting.load(Ordering::Relaxed) < self.limit
    }

    /// Takes the record of a call that has ended.
    pub(super) fn append(&self, id: DecisionId, members: &[u8], committed: bool) {
        let mut state = self.lock();
        state.open.remove(&id);
        if state.closed {
            drop(state);
            tracing::error!(decision_id = %id, "a call ended after the audit file was closed: its record is lost");
            return;
        }
        if !committed && self.waiting.load(Ordering::Relaxed) + members.len() > self.limit {
            state.gap += 1;
            return;
        }
        let added = state.add(members);
        self.changed(self.waiting.fetch_add(added, Ordering::Relaxed) + added);
        if state.asleep {
            state.asleep = false;
            self.wake.notify_one();
        }
    }

    /// Waits until the intent of a call is on disk. `false` when it can't be put there.
    pub(super) async fn intend(&self, id: DecisionId, members: Vec<u8>) -> bool {
        let mut progress = self.progress.subscribe();
        let ticket = {
            let mut state = self.lock();
            if state.closing {
                return false;
            }
            state.intents.push(b'{');
            state.intents.extend_from_slice(&members);
            state.intents.extend_from_slice(b"}\n");
            state.open.insert(id, members.into_boxed_slice());
            state.ticket += 1;
            state.ticket
        };
        self.wake.notify_one();
        // A ticket that was refused stays refused, though later ones may be on disk.
        let reached = progress.wait_for(|now| now.refused >= ticket || now.synced >= ticket).await;
        let kept = reached.is_ok_and(|now| now.refused < ticket);
        if !kept {
            self.lock().open.remove(&id);
        }
        kept
    }

    /// Waits until every line so far is in the file. `false` when a write failed meanwhile.
    pub(super) async fn flush(&self) -> bool {
        let mut progress = self.progress.subscribe();
        let (goal, failures) = {
            let mut state = self.lock();
            let now = *self.progress.borrow();
            if state.closed || now.written >= state.seq {
                return now.written >= state.seq;
            }
            state.hurry = true;
            (state.seq, now.failures)
        };
        self.wake.notify_one();
        let reached = progress.wait_for(|now| now.written >= goal || now.failures > failures).await;
        reached.is_ok_and(|now| now.written >= goal)
    }

    /// Lets the writer look where its path leads.
    pub(super) fn reopen(&self) {
        self.lock().reopen = true;
        self.wake.notify_one();
    }

    /// Lets the writer end.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// Waits for work, `patience` at most. While the writer still holds lines that it could not write, no further lines are
    /// handed out. With `want_open` the intents of unfinished calls come along.
    pub(super) fn take(&self, holding: bool, patience: Duration, want_open: bool) -> Work {
        let mut state =
            self.wait(self.lock(), patience, true, |state| state.urgent() || (!holding && !state.ends.is_empty()));
        if !holding && !state.urgent() && !state.ends.is_empty() {
            // One write for the calls of a moment instead of one for each.
            state = self.wait(state, LINGER, false, State::urgent);
        }
        state.hurry = false;
        if !holding && state.gap > 0 {
            let added = state.add_gap();
            self.waiting.fetch_add(added, Ordering::Relaxed);
        }
        let mut work = Work {
            intents: std::mem::take(&mut state.intents),
            ticket: state.ticket,
            reopen: std::mem::take(&mut state.reopen),
            closing: state.closing,
            ..Work::default()
        };
        if !holding {
            let (members, ends) = (std::mem::take(&mut state.members), std::mem::take(&mut state.ends));
            work.seq = state.seq;
            work.none_open = state.open.is_empty();
            work.open = want_open.then(|| state.open_intents());
            drop(state);
            work.count = ends.len() as u64;
            work.lines = self.seal(&members, &ends);
        }
        work
    }

    /// Chains records into lines.
    fn seal(&self, members: &[u8], ends: &[usize]) -> Vec<u8> {
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = Vec::with_capacity(members.len() + ends.len() * SEAL);
        let mut start = 0;
        for &end in ends {
            chain.seal(&members[start..end], &mut lines);
            start = end;
        }
        // What waits is now as long as what will be written.
        self.waiting.fetch_add(lines.len() - members.len(), Ordering::Relaxed);
        lines
    }

    /// The writer brought `count` lines of `bytes` up to `seq` into the file.
    pub(super) fn wrote(&self, seq: u64, count: u64, bytes: usize) {
        self.metrics.records.inc_by(count);
        self.changed(self.waiting.fetch_sub(bytes, Ordering::Relaxed) - bytes);
        self.writable.store(true, Ordering::Release);
        self.progress.send_modify(|progress| progress.written = seq);
    }

    /// The writer could not write.
    pub(super) fn failed(&self) {
        self.metrics.failures.inc();
        self.writable.store(false, Ordering::Release);
        self.progress.send_modify(|progress| progress.failures += 1);
    }

    /// The writer can write again.
    pub(super) fn recovered(&self) {
        self.writable.store(true, Ordering::Release);
    }

    /// Intents up to `ticket` are on disk, or could not be put there.
    pub(super) fn synced(&self, ticket: u64, kept: bool) {
        if !kept {
            self.metrics.failures.inc();
        }
        self.progress.send_modify(|progress| {
            let reached = if kept { &mut progress.synced } else { &mut progress.refused };
            *reached = ticket;
        });
    }

    /// The writer ends: what comes from now on is lost, and said to be. Lines that came since the last ones were taken
    /// keep it going, unless it gives up on them. Returns whether it may end.
    pub(super) fn end(&self, giving_up: bool) -> bool {
        let mut state = self.lock();
        if !state.ends.is_empty() && !giving_up {
            return false;
        }
        state.closed = true;
        self.writable.store(false, Ordering::Release);
        self.progress.send_modify(|progress| {
            progress.refused = u64::MAX;
            progress.failures += 1;
        });
        true
    }

    /// Lines that nobody will write any more, and whether every call that has an intent has ended.
    pub(super) fn left(&self) -> (u64, bool) {
        let state = self.lock();
        (state.ends.len() as u64, state.open.is_empty())
    }

    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        patience: Duration,
        asleep: bool,
        ready: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let deadline = Instant::now() + patience;
        while !ready(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state.asleep = asleep;
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.asleep = false;
        state
    }

    fn changed(&self, waiting: usize) {
        self.metrics.spool.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is whole even if its thread panicked behind it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What does not wait for company.
    fn urgent(&self) -> bool {
        self.hurry || self.closing || self.reopen || !self.intents.is_empty()
    }

    /// Adds one record, and the gap before it where there is one. Returns how many bytes were added.
    fn add(&mut self, members: &[u8]) -> usize {
        let gap = if self.gap > 0 { self.add_gap() } else { 0 };
        self.push(members);
        gap + members.len()
    }

    fn push(&mut self, members: &[u8]) {
        self.members.extend_from_slice(members);
        self.ends.push(self.members.len());
        self.seq += 1;
    }

    fn add_gap(&mut self) -> usize {
        let calls = std::mem::take(&mut self.gap);
        let note = format!("\"note\":\"gap\",\"time\":\"{:.6}\",\"calls\":{calls}", jiff::Timestamp::now());
        self.push(note.as_bytes());
        note.len()
    }

    fn open_intents(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for members in self.open.values() {
            text.push(b'{');
            text.extend_from_slice(members);
            text.extend_from_slice(b"}\n");
        }
        text
    }
}

/// What sealing adds to a line, about.
const SEAL: usize = 180;
const LINGER: Duration = Duration::from_millis(5);
