//! What has to be revoked, written down: so that a process that was killed leaves nothing behind that its next start
//! does not end.
//!
//! One JSON line for each credential given and for each that ended. A line names a credential by what its issuer calls
//! it, e.g. an accessor, which can end it and do nothing else; never by its value.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// The journal, or none where no file is configured.
#[derive(Default)]
pub struct Journal(Option<Mutex<Book>>);

/// Something that an earlier process was given and did not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) credential: String,
    pub(super) reference: Arc<str>,
    /// How long it still lives.
    pub(super) remaining: Duration,
}

impl Journal {
    /// Opens the journal, with what an earlier process left in it.
    ///
    /// # Errors
    /// When the file can't be read or written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let live = match std::fs::read(path) {
            Ok(bytes) => replay(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(error) => return Err(error),
        };
        let file = rewrite(path, &live)?;
        Ok(Self(Some(Mutex::new(Book { path: path.to_owned(), file, written: live.len(), torn: false, live }))))
    }

    /// Writes down that a credential was given. Only then may it be used.
    pub(super) fn given(&self, credential: &str, reference: &str, life: Duration) -> io::Result<()> {
        let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(life).as_secs();
        self.write(Line { credential: credential.into(), reference: reference.into(), expires: Some(expires) })
    }

    /// Writes down that it ended. If that fails it is ended once more, which does no harm.
    pub(super) fn ended(&self, credential: &str, reference: &str) {
        let line = Line { credential: credential.into(), reference: reference.into(), expires: None };
        if let Err(error) = self.write(line) {
            tracing::warn!(%error, "end of a credential not written down");
        }
    }

    /// What was given, has not ended, and still lives.
    pub(super) fn left_behind(&self) -> Vec<Left> {
        let Some(book) = &self.0 else { return Vec::new() };
        let book = book.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        let left = book.live.iter().filter(|(_, expires)| **expires > now);
        left.map(|((credential, reference), expires)| Left {
            credential: credential.clone(),
            reference: reference.as_str().into(),
            remaining: Duration::from_secs(expires - now),
        })
        .collect()
    }

    fn write(&self, line: Line) -> io::Result<()> {
        match &self.0 {
            Some(book) => book.lock().unwrap_or_else(PoisonError::into_inner).write(line),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("kept", &self.0.is_some()).finish_non_exhaustive()
    }
}

struct Book {
    path: PathBuf,
    file: File,
    live: Live,
    /// How many lines the file has.
    written: usize,
    /// Whether its last line may have been cut off.
    torn: bool,
}

/// When what was given expires, in seconds since 1970, by its credential and reference.
type Live = HashMap<(String, String), u64>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    credential: String,
    reference: String,
    /// Missing when it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
}

impl Book {
    fn write(&mut self, line: Line) -> io::Result<()> {
        let mut text = if self.torn { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
        if let Err(error) = self.file.write_all(&text) {
            // What half of it reached the file must not be glued to the next.
            self.torn = true;
            return Err(error);
        }
        self.torn = false;
        self.written += 1;
        apply(&mut self.live, line);
        if self.written > REWRITE_FROM && self.written > 4 * self.live.len() {
            let now = now();
            self.live.retain(|_, expires| *expires > now);
            self.file = rewrite(&self.path, &self.live)?;
            self.written = self.live.len();
        }
        Ok(())
    }
}

fn apply(live: &mut Live, Line { credential, reference, expires }: Line) {
    match expires {
        Some(expires) => live.insert((credential, reference), expires),
        None => live.remove(&(credential, reference)),
    };
}

/// The state after these lines. One that can't be read was cut off by the end of its process, before what it names was
/// used.
fn replay(bytes: &[u8]) -> Live {
    let mut live = Live::new();
    for line in bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()) {
        apply(&mut live, line);
    }
    live
}

/// Replaces the file by one that says only what still counts, and opens it for what comes.
fn rewrite(path: &Path, live: &Live) -> io::Result<File> {
    let next = path.with_extension("next");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&next)?;
    for ((credential, reference), expires) in live {
        let line = Line { credential: credential.clone(), reference: reference.clone(), expires: Some(*expires) };
        serde_json::to_writer(&mut file, &line)?;
        file.write_all(b"\n")?;
    }
    file.sync_data()?;
    std::fs::rename(&next, path)?;
    Ok(file)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// No rewriting below so many lines.
const REWRITE_FROM: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(600);

    fn names(journal: &Journal) -> Vec<String> {
        let mut names: Vec<_> = journal.left_behind().iter().map(|left| left.reference.to_string()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_was_given_and_not_ended_is_found_by_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let journal = Journal::open(&path).unwrap();
        for name in ["a", "b", "c"] {
            journal.given("db", name, LIFE).unwrap();
        }
        journal.ended("db", "b");
        journal.given("db", "past", Duration::ZERO).unwrap();
        drop(journal);

        let journal = Journal::open(&path).unwrap();
        assert_eq!(names(&journal), ["a", "c"]);
        assert!(journal.left_behind().iter().all(|left| left.credential == "db" && left.remaining <= LIFE));
        journal.ended("db", "a");
        assert_eq!(names(&Journal::open(&path).unwrap()), ["c"]);
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        Journal::open(&path).unwrap().given("db", "a", LIFE).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"credential\":\"db\",\"ref").unwrap();
        assert_eq!(names(&Journal::open(&path).unwrap()), ["a"]);
    }

    #[test]
    fn a_long_journal_is_rewritten_and_nobody_else_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let journal = Journal::open(&path).unwrap();
        journal.given("db", "kept", LIFE).unwrap();
        for _ in 0..REWRITE_FROM {
            journal.given("db", "other", LIFE).unwrap();
            journal.ended("db", "other");
        }
        let metadata = std::fs::metadata(&path).unwrap();
        assert!(metadata.len() < 100_000, "{}", metadata.len());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(names(&Journal::open(&path).unwrap()), ["kept"]);
    }

    #[test]
    fn without_a_file_nothing_is_written_and_nothing_refused() {
        let journal = Journal::default();
        journal.given("db", "a", LIFE).unwrap();
        assert!(journal.left_behind().is_empty());
    }

    #[test]
    fn a_journal_that_cannot_be_written_is_an_error() {
        assert!(Journal::open(Path::new("/proc/nowhere/journal")).is_err());
    }
}
