//! The one thread that writes the audit file and its intents.
//!
//! A write that fails is taken back and tried again, later and later, and calls are refused meanwhile; no line is ever
//! half in the file or twice.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    chain::Hash,
    file::{Target, explain},
    intents::Intents,
    spool::{Spool, Work},
};
use crate::config::Rotation;

/// Owns the files.
pub(super) struct Writer {
    spool: Arc<Spool>,
    path: PathBuf,
    // Absent after it was moved away, until a new one can be made.
    target: Option<Target>,
    // The last line that is in the file.
    written: Hash,
    intents: Option<Intents>,
    rotation: Option<Rotation>,
    held: Held,
    backoff: Duration,
    failing: bool,
    looked: Instant,
    // The intents still tell where the file that was moved away ended.
    begin_intents: bool,
}

/// Lines that were taken and are not yet in the file.
#[derive(Default)]
struct Held {
    lines: Vec<u8>,
    done: usize,
    seq: u64,
    count: u64,
    // The length to cut the file back to before anything is written again.
    restore: Option<u64>,
}

impl Writer {
    /// Writes to this file, and to these intents where records are durable.
    pub(super) fn new(
        spool: Arc<Spool>,
        path: PathBuf,
        target: Target,
        written: Hash,
        intents: Option<Intents>,
        rotation: Option<Rotation>,
    ) -> Self {
        Self {
            spool,
            path,
            target: Some(target),
            written,
            intents,
            rotation,
            held: Held::default(),
            backoff: FIRST_BACKOFF,
            failing: false,
            looked: Instant::now(),
            begin_intents: false,
        }
    }

    /// Runs until the spool is closed.
    pub(super) fn run(mut self) {
        loop {
            let mut work = self.take();
            self.put_intents(&work);
            let holding = !self.held.lines.is_empty();
            if !holding {
                self.hold(&mut work);
            }
            let moved = self.rotate();
            let outcome = moved.and_then(|moved| self.follow_path(moved || work.reopen));
            let outcome = outcome.and_then(|()| self.write()).and_then(|()| self.settle(&work));
            self.note(&outcome);
            // What is still held gets one more attempt, and so do lines that came meanwhile.
            let giving_up = outcome.is_err();
            if work.closing && (giving_up || !holding) && self.spool.end(giving_up) {
                break;
            }
        }
        self.finish();
    }

    fn take(&self) -> Work {
        let patience = match (self.begin_intents, self.failing) {
            (true, false) => Duration::ZERO,
            (_, true) => self.backoff,
            (false, false) => HOUSEKEEPING,
        };
        let want_open = self.begin_intents || self.intents.as_ref().is_some_and(|intents| intents.grown() > COMPACT);
        self.spool.take(!self.held.lines.is_empty(), patience, want_open)
    }

    fn put_intents(&mut self, work: &Work) {
        let Some(intents) = self.intents.as_mut().filter(|_| !work.intents.is_empty()) else { return };
        // While records can't be written no call may go on, so none gets its intent.
        let outcome = if self.failing { Ok(false) } else { intents.append(&work.intents).map(|()| true) };
        self.spool.synced(work.ticket, matches!(outcome, Ok(true)));
        if let Err(error) = outcome {
            tracing::error!(path = %self.path.display(), %error, "intents are not writable: calls are refused");
        }
    }

    fn hold(&mut self, work: &mut Work) {
        self.held =
            Held { lines: std::mem::take(&mut work.lines), seq: work.seq, count: work.count, ..Held::default() };
    }

    /// Moves the file away when it is full. Never in the middle of lines that may have to be taken back.
    fn rotate(&self) -> io::Result<bool> {
        let (Some(rotation), Some(target)) = (&self.rotation, &self.target) else { return Ok(false) };
        if !target.regular || self.held.restore.is_some() || target.len()? < rotation.bytes {
            return Ok(false);
        }
        rotation.turn(&self.path)?;
        Ok(true)
    }

    /// Opens the file anew when its path leads elsewhere: it was moved away, removed or replaced.
    fn follow_path(&mut self, at_once: bool) -> io::Result<()> {
        if let Some(target) = &self.target {
            if !at_once && !self.failing && self.looked.elapsed() < HOUSEKEEPING {
                return Ok(());
            }
            self.looked = Instant::now();
            let ours = target.metadata()?;
            let same = |there: fs::Metadata| (there.dev(), there.ino()) == (ours.dev(), ours.ino());
            if !ours.is_file() || fs::metadata(&self.path).is_ok_and(same) {
                return Ok(());
            }
            target.sync()?;
        }
        self.target = None;
        self.held.restore = None;
        self.held.done = 0;
        let mut target = Target::open(&self.path)?;
        if target.len()? != 0 && !target.ends_in(self.written)? {
            let found = io::Error::other("another file that is not empty took its place");
            return Err(explain(&self.path, &found));
        }
        tracing::info!(path = %self.path.display(), "audit file opened anew");
        self.target = Some(target);
        self.begin_intents = self.intents.is_some();
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let (Some(target), held) = (&mut self.target, &mut self.held) else { return Ok(()) };
        if held.lines.is_empty() {
            return Ok(());
        }
        if let Some(len) = held.restore {
            target.cut(len)?;
            held.restore = None;
        }
        if target.regular && held.done == 0 {
            held.restore = Some(target.len()?);
        }
        while held.done < held.lines.len() {
            match target.file.write(&held.lines[held.done..]) {
                Ok(0) => return Err(held.undo(target, io::ErrorKind::WriteZero.into())),
                Ok(written) => held.done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(held.undo(target, error)),
            }
        }
        if let Some(hash) = Hash::at_end(&held.lines) {
            self.written = hash;
        }
        self.spool.wrote(held.seq, held.count, held.lines.len());
        *held = Held::default();
        Ok(())
    }

    /// Gives up intents whose calls have ended, once their records are on disk for sure.
    fn settle(&mut self, work: &Work) -> io::Result<()> {
        let (Some(intents), Some(target)) = (&mut self.intents, &self.target) else { return Ok(()) };
        let idle = work.none_open && work.count == 0 && intents.grown() > 0;
        let open: &[u8] = match &work.open {
            Some(open) => open,
            None if idle => b"",
            None => return Ok(()),
        };
        target.sync()?;
        intents.begin_anew(target.len()?, open)?;
        self.begin_intents = false;
        Ok(())
    }

    fn note(&mut self, outcome: &io::Result<()>) {
        match outcome {
            Ok(()) if self.failing => {
                tracing::info!(path = %self.path.display(), "audit file is writable again");
                self.failing = false;
                self.backoff = FIRST_BACKOFF;
                self.spool.recovered();
            }
            Ok(()) => {}
            Err(error) => {
                if self.failing {
                    self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
                } else {
                    tracing::error!(path = %self.path.display(), %error, "audit file is not writable: calls are refused");
                }
                self.failing = true;
                self.spool.failed();
            }
        }
    }

    fn finish(mut self) {
        let (left, none_open) = self.spool.left();
        let path = self.path.display().to_string();
        let lost = left + self.held.count;
        if lost > 0 {
            tracing::error!(path, records = lost, "the audit file stayed unwritable: records are lost");
        }
        let last = Work { none_open: none_open && lost == 0, ..Work::default() };
        let synced = self.target.as_ref().map_or(Ok(()), Target::sync);
        if let Err(error) = synced.and_then(|()| self.settle(&last)) {
            tracing::error!(path, %error, "audit file could not be closed cleanly");
        }
    }
}

impl Held {
    /// Takes back what was written of these lines, now or before the next attempt.
    fn undo(&mut self, target: &Target, error: io::Error) -> io::Error {
        if let Some(len) = self.restore {
            self.done = 0;
            if target.cut(len).is_ok() {
                self.restore = None;
            }
        }
        error
    }
}

const HOUSEKEEPING: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
const COMPACT: u64 = 4 << 20;
