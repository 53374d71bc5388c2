//! What has to be revoked, written down: so that a process that was killed leaves nothing behind that its next start
//! does not end.
//!
//! One JSON line for each credential given and for each that ended. A line names a credential by what its issuer calls
//! it, e.g. an accessor, which can end it and do nothing else; never by its value. What has expired is left out whenever
//! the file is rewritten, so that it does not grow without end. One process keeps a journal at a time: another one would
//! end what this one uses.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tracing::warn;

/// The journal, or none where no file is configured.
#[derive(Default)]
pub struct Journal(Option<Arc<Mutex<Book>>>);

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
    /// When the file can't be read or written, or when another process keeps it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let lock = lock(path)?;
        let live = replay(&read(path)?);
        let file = rewrite(path, &live)?;
        let (written, next) = (live.len(), next_rewrite(live.len()));
        let book = Book { path: path.to_owned(), file, written, next, torn: false, live, _lock: lock };
        Ok(Self(Some(Arc::new(Mutex::new(book)))))
    }

    /// Writes down that a credential was given. Only then may it be used.
    pub(super) async fn given(&self, credential: &str, reference: &str, life: Duration) -> io::Result<()> {
        let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(life).as_secs();
        self.write(Line { credential: credential.into(), reference: reference.into(), expires: Some(expires) }).await
    }

    /// Writes down that it ended. If that fails it is ended once more, which does no harm.
    pub(super) async fn ended(&self, credential: &str, reference: &str) {
        let line = Line { credential: credential.into(), reference: reference.into(), expires: None };
        if let Err(error) = self.write(line).await {
            warn!(%error, "end of a credential not written down");
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

    /// Written off the runtime's threads, as a disk may be slow: other calls go on meanwhile.
    async fn write(&self, line: Line) -> io::Result<()> {
        let Some(book) = self.0.clone() else { return Ok(()) };
        let writing = spawn_blocking(move || book.lock().unwrap_or_else(PoisonError::into_inner).write(line));
        writing.await.unwrap_or_else(|_| Err(io::Error::other("writing was given up")))
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
    /// With how many lines it is rewritten.
    next: usize,
    /// Whether its last line may have been cut off.
    torn: bool,
    /// Held as long as the process keeps the journal.
    _lock: File,
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
        if self.written > self.next {
            self.shorten();
        }
        Ok(())
    }

    /// Leaves out what has ended. If that fails the longer file says the same, and is tried later.
    fn shorten(&mut self) {
        let now = now();
        self.live.retain(|_, expires| *expires > now);
        match rewrite(&self.path, &self.live) {
            Ok(file) => {
                self.file = file;
                self.written = self.live.len();
            }
            Err(error) => warn!(%error, journal = %self.path.display(), "journal not shortened"),
        }
        self.next = next_rewrite(self.written);
    }
}

fn apply(live: &mut Live, Line { credential, reference, expires }: Line) {
    match expires {
        Some(expires) => live.insert((credential, reference), expires),
        None => live.remove(&(credential, reference)),
    };
}

/// The state after these lines, without what has expired. One that can't be read was cut off by the end of its process,
/// before what it names was used.
fn replay(bytes: &[u8]) -> Live {
    let mut live = Live::new();
    for line in bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()) {
        apply(&mut live, line);
    }
    let now = now();
    live.retain(|_, expires| *expires > now);
    live
}

/// Takes the lock that keeps others from the journal. On a file of its own, because the journal's is replaced.
fn lock(path: &Path) -> io::Result<File> {
    let path = beside(path, ".lock");
    let file = options().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let what = path.display();
            Err(io::Error::other(format!(
                "another process holds {what}; hint: each sidecar needs a journal of its own"
            )))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match options().read(true).open(path) {
        Ok(mut file) => file.read_to_end(&mut bytes).map(|_| bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(bytes),
        Err(error) => Err(error),
    }
}

/// Replaces the file by one that says only what still counts, and opens it for what comes.
fn rewrite(path: &Path, live: &Live) -> io::Result<File> {
    let next = beside(path, ".next");
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut text = Vec::new();
    for ((credential, reference), expires) in live {
        let line = Line { credential: credential.clone(), reference: reference.clone(), expires: Some(*expires) };
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
    }
    let mut file = options().create_new(true).write(true).open(&next)?;
    file.write_all(&text)?;
    file.sync_data()?;
    fs::rename(&next, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Err(error) = File::open(directory).and_then(|directory| directory.sync_all()) {
        warn!(%error, directory = %directory.display(), "directory of the journal not written to disk");
    }
    Ok(file)
}

/// Opens our own files only: none that somebody else made a link to.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// With how many lines a file is rewritten that has so many now.
fn next_rewrite(lines: usize) -> usize {
    (2 * lines).max(REWRITE_FROM)
}

/// No rewriting below so many lines.
const REWRITE_FROM: usize = 1024;

#[cfg(test)]
mod tests;
