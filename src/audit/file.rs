//! The audit file: JSON lines in a [chain](super::chain), written by one thread, never by two processes.
//!
//! A call that is about to be forwarded asks first: while lines can't be written, or too many wait, it is refused. With
//! durable records its intent is on disk before it goes on. Lines that can't be written are kept and tried again, so that
//! a full disk delays records and loses none but those of refused calls, which are then counted in the chain.
//!
//! Lines are records, which begin with `decision_id`, or notes: `gap` (refused calls that could not be recorded) and
//! `torn` (a last line that the writer could not finish; it was cut off, its length and SHA-256 are noted).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use super::{
    DecisionId,
    chain::{self, Hash, LONGEST_LINE, Position},
    intents::{self, Intents},
    spool::Spool,
    writer::Writer,
};
use crate::{
    config::{Durability, Rotation},
    telemetry::metrics::{AuditMetrics, Metrics},
};

/// The audit file of one sidecar. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    spool: Arc<Spool>,
    durable: bool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// Opens the file, or makes it (mode 0600; its directory must exist), continues its chain, and writes the records of
    /// calls that were interrupted when it was last in use.
    ///
    /// # Errors
    ///
    /// When the file can't be opened or locked, or its last line is not one of an audit log or was changed.
    pub fn open(
        path: &Path,
        durability: Durability,
        rotation: Option<Rotation>,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        Self::open_with_limit(path, durability, rotation, metrics.audit(), SPOOL)
    }

    fn open_with_limit(
        path: &Path,
        durability: Durability,
        rotation: Option<Rotation>,
        metrics: &AuditMetrics,
        limit: usize,
    ) -> io::Result<Self> {
        let mut target = Target::open(path)?;
        let position = recover(path, &mut target).map_err(|error| explain(path, &error))?;
        let intents = begin_intents(path, durability, &target)?;
        let written = position.hash;
        let spool = Arc::new(Spool::new(position, limit, metrics.clone()));
        let writer = Writer::new(Arc::clone(&spool), path.to_owned(), target, written, intents, rotation);
        let thread = std::thread::Builder::new().name("audit".into()).spawn(move || writer.run())?;
        let durable = durability == Durability::BeforeForward;
        Ok(Self(Arc::new(Inner { spool, durable, thread: Mutex::new(Some(thread)) })))
    }

    /// Looks where the path leads now, because the file may have been moved away. Its chain goes on in the new file.
    pub fn reopen(&self) {
        self.0.spool.reopen();
    }

    /// Waits until every record so far is in the file. `false` when that failed; it is tried again later all the same.
    pub async fn flush(&self) -> bool {
        self.0.spool.flush().await
    }

    /// Writes what waits, brings it to disk and ends the writer. Blocks; records that come later are lost.
    pub fn close(&self) {
        self.0.close();
    }

    /// Whether a further call can be recorded.
    pub fn writable(&self) -> bool {
        self.0.spool.writable()
    }

    pub(super) fn durable(&self) -> bool {
        self.0.durable
    }

    pub(super) fn append(&self, id: DecisionId, members: &[u8], committed: bool) {
        self.0.spool.append(id, members, committed);
    }

    pub(super) async fn intend(&self, id: DecisionId, members: Vec<u8>) -> bool {
        self.0.spool.intend(id, members).await
    }
}

impl Inner {
    fn close(&self) {
        self.spool.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer of the audit file panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// An open, locked file that lines are appended to.
pub(super) struct Target {
    pub(super) file: File,
    /// Whether it can be read, cut and rotated; a pipe or a device can't.
    pub(super) regular: bool,
}

impl Target {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = create(path)?;
        let regular = file.metadata()?.is_file();
        if regular && file.try_lock().is_err() {
            return Err(explain(path, &io::Error::other("another process writes to it")));
        }
        Ok(Self { file, regular })
    }

    pub(super) fn metadata(&self) -> io::Result<fs::Metadata> {
        self.file.metadata()
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub(super) fn cut(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        if self.regular { self.file.sync_data() } else { Ok(()) }
    }

    /// Whether a line with this hash is the last thing in the file.
    pub(super) fn ends_in(&mut self, hash: Hash) -> io::Result<bool> {
        let (last, torn) = self.tail()?;
        Ok(torn.is_empty() && chain::check(&last).is_ok_and(|(_, position)| position.hash == hash))
    }

    /// The end of the file: its last whole line, and what stands behind it.
    fn tail(&mut self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let len = self.len()?;
        let mut window = TAIL;
        loop {
            let from = len.saturating_sub(window);
            self.file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            (&self.file).take(len - from).read_to_end(&mut bytes)?;
            let line_break = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
            let torn = bytes.split_off(line_break(&bytes).unwrap_or(0));
            let start = line_break(&bytes[..bytes.len().saturating_sub(1)]);
            if start.is_some() || from == 0 {
                return Ok((bytes.split_off(start.unwrap_or(0)), torn));
            }
            if window > 2 * LONGEST_LINE {
                return Err(io::Error::other(chain::Fault::Form));
            }
            window *= 2;
        }
    }
}

/// Opens a file for reading and appending, or makes it for this user only.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    opened.map_err(|error| explain(path, &error))
}

/// The same error with the file that it is about.
pub(super) fn explain(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("audit file {}: {error}", path.display()))
}

/// Finds where the chain stands, and brings it in order after a crash.
fn recover(path: &Path, target: &mut Target) -> io::Result<Position> {
    if !target.regular {
        return Ok(Position::START);
    }
    let (last, torn) = target.tail()?;
    let mut position = if last.is_empty() {
        Position::START
    } else {
        chain::check(&last).map_err(|fault| io::Error::other(format!("its last line is {fault}; {HINT}")))?.1
    };
    let mut lines = Vec::new();
    if let Some(first) = torn.first() {
        // A line of ours begins with a brace; a file system may leave zeros where data did not reach the disk.
        if !matches!(first, b'{' | 0) {
            return Err(io::Error::other(format!("it does not end in a line of an audit log; {HINT}")));
        }
        target.cut(target.len()? - torn.len() as u64)?;
        position.seal(torn_note(&torn).as_bytes(), &mut lines);
    }
    for members in intents::interrupted(&Intents::path(path), &mut target.file)? {
        position.seal(&members, &mut lines);
    }
    target.file.write_all(&lines)?;
    target.sync()?;
    Ok(position)
}

fn torn_note(torn: &[u8]) -> String {
    let (now, len, hash) = (jiff::Timestamp::now(), torn.len(), Hash::of(torn));
    format!("\"note\":\"torn\",\"time\":\"{now:.6}\",\"bytes\":{len},\"sha256\":\"{}\"", hash.as_str())
}

/// Begins the file of intents; everything that stood in one has its record by now.
fn begin_intents(path: &Path, durability: Durability, target: &Target) -> io::Result<Option<Intents>> {
    let intents: PathBuf = Intents::path(path);
    match durability {
        Durability::BeforeForward if target.regular => Intents::begin(&intents, target.len()?, b"").map(Some),
        Durability::BeforeForward => {
            Err(explain(path, &io::Error::other("durable records need a regular file, not a device or pipe")))
        }
        Durability::Buffered => match fs::remove_file(&intents) {
            Err(error) if target.regular && error.kind() != io::ErrorKind::NotFound => Err(explain(&intents, &error)),
            Ok(()) | Err(_) => Ok(None),
        },
    }
}

const HINT: &str = "hint: move the file away; `tollgate audit verify` tells where it stops being intact";
const SPOOL: usize = 16 << 20;
const TAIL: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::{
        audit::testing::{Bench, id, read},
        telemetry::TraceContext,
    };

    fn verify(path: &Path) -> chain::Verified {
        chain::verify(io::BufReader::new(File::open(path).expect("it exists"))).expect("the chain is intact")
    }

    fn members(id: DecisionId, text: &str) -> Vec<u8> {
        format!("\"decision_id\":\"{id}\",\"text\":\"{text}\"").into_bytes()
    }

    #[tokio::test]
    async fn the_chain_goes_on_after_a_restart() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("audit.jsonl");
        for text in ["one", "two", "three"] {
            let log = Log::open(&path, Durability::Buffered, None, &Metrics::new()).expect("it opens");
            log.append(id(), &members(id(), text), true);
            log.close();
        }
        let found = verify(&path);
        assert_eq!((found.lines, found.from.seq, found.to.seq), (3, 0, 3));
        assert_eq!(fs::metadata(&path).expect("it exists").permissions(), Permissions::from_mode(0o100_600));
    }

    #[tokio::test]
    async fn a_second_writer_is_refused() {
        let bench = Bench::new(Durability::Buffered);
        let error = Log::open(&bench.path, Durability::Buffered, None, &Metrics::new()).err().expect("it is locked");
        assert!(error.to_string().contains("another process"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_directory_and_a_foreign_file_are_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(Log::open(&dir.path().join("no/audit.jsonl"), Durability::Buffered, None, &Metrics::new()).is_err());
        for (content, why) in [
            ("root:x:0:0\n", "not a line of an audit log"),
            ("root:x:0:0", "does not end in a line"),
            ("{\"seq\":1}\n", "not a line of an audit log"),
        ] {
            let path = dir.path().join("foreign");
            fs::write(&path, content).expect("the directory is writable");
            let error =
                Log::open(&path, Durability::Buffered, None, &Metrics::new()).err().expect("it is foreign").to_string();
            assert!(error.contains(why), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("it is left alone"), content);
        }
    }

    #[tokio::test]
    async fn a_changed_last_line_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("audit.jsonl");
        let log = Log::open(&path, Durability::Buffered, None, &Metrics::new()).expect("it opens");
        log.append(id(), &members(id(), "denied"), true);
        log.close();
        let text = fs::read_to_string(&path).expect("UTF-8").replace("denied", "passed");
        fs::write(&path, text).expect("it is writable");
        let error =
            Log::open(&path, Durability::Buffered, None, &Metrics::new()).err().expect("it was changed").to_string();
        assert!(error.contains("changed after it was written") && error.contains("hint: "), "{error}");
    }

    #[tokio::test]
    async fn a_torn_line_is_cut_off_and_noted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("audit.jsonl");
        for torn in ["{\"seq\":2,\"prev\":\"ab", "\0\0\0\0"] {
            let log = Log::open(&path, Durability::Buffered, None, &Metrics::new()).expect("it opens");
            log.append(id(), &members(id(), "whole"), true);
            log.close();
            let mut text = fs::read(&path).expect("it exists");
            text.extend_from_slice(torn.as_bytes());
            fs::write(&path, text).expect("it is writable");
            Log::open(&path, Durability::Buffered, None, &Metrics::new()).expect("it recovers").close();
            let lines = read(&path);
            let note = lines.last().expect("a note");
            assert_eq!((&note["note"], &note["bytes"]), (&"torn".into(), &torn.len().into()));
            assert_eq!(note["sha256"], Hash::of(torn.as_bytes()).as_str());
        }
        assert_eq!(verify(&path).lines, 4);
    }

    #[tokio::test]
    async fn a_file_that_was_moved_away_is_continued_in_a_new_one() {
        let bench = Bench::new(Durability::BeforeForward);
        bench.recorder.begin(TraceContext::root()).finish();
        assert_eq!(bench.lines().await.len(), 1);
        let old = bench.path.with_extension("1");
        fs::rename(&bench.path, &old).expect("it can be moved");
        bench.log().reopen();
        bench.recorder.begin(TraceContext::root()).finish();
        assert_eq!(bench.lines().await.len(), 1);
        assert_eq!(verify(&old).to, bench.verify().from);
    }

    #[tokio::test]
    async fn while_the_file_is_gone_calls_are_refused_and_nothing_is_lost() {
        let bench = Bench::new(Durability::Buffered);
        bench.recorder.begin(TraceContext::root()).finish();
        assert_eq!(bench.lines().await.len(), 1);
        let dir = bench.path.parent().expect("a directory").to_owned();
        let away = dir.with_extension("away");
        fs::rename(&dir, &away).expect("it can be moved");
        bench.log().reopen();
        let mut record = bench.recorder.begin(TraceContext::root());
        record.commit().await.ok();
        record.finish();
        assert!(!bench.log().flush().await);
        let mut refused = bench.recorder.begin(TraceContext::root());
        assert!(refused.commit().await.is_err());
        refused.facts.refusal = Some(crate::refusal::Refusal::AuditUnavailable);
        refused.finish();
        fs::rename(&away, &dir).expect("it can be moved back");
        while !bench.log().flush().await {}
        assert!(bench.recorder.begin(TraceContext::root()).commit().await.is_ok());
        let outcomes: Vec<_> = bench.lines().await.iter().map(|line| line["outcome"].to_string()).collect();
        assert_eq!(outcomes[2], "\"refused\"", "{outcomes:?}");
        bench.verify();
    }

    #[tokio::test]
    async fn a_full_disk_refuses_calls_from_the_first_failure_on() {
        let metrics = Metrics::new();
        let log = Log::open(Path::new("/dev/full"), Durability::Buffered, None, &metrics).expect("a device opens");
        assert!(log.writable());
        log.append(id(), &members(id(), "one"), false);
        assert!(!log.flush().await);
        assert!(!log.writable());
        assert!(metrics.audit().failures.get() > 0 && metrics.audit().spool.get() > 0);
    }

    #[tokio::test]
    async fn refused_calls_that_find_no_room_are_counted_in_the_chain() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("audit.jsonl");
        let log =
            Log::open_with_limit(&path, Durability::Buffered, None, Metrics::new().audit(), 10).expect("it opens");
        for _ in 0..3 {
            log.append(id(), &members(id(), "refused before it was forwarded"), false);
        }
        log.append(id(), &members(id(), "forwarded"), true);
        log.close();
        let lines = read(&path);
        assert_eq!((lines.len(), &lines[0]["note"], &lines[0]["calls"]), (2, &"gap".into(), &3.into()));
        assert_eq!(lines[1]["text"], "forwarded");
        verify(&path);
    }

    #[tokio::test]
    async fn an_intent_is_on_disk_before_its_call_goes_on() {
        let bench = Bench::new(Durability::BeforeForward);
        let mut record = bench.recorder.begin(TraceContext::root());
        record.commit().await.expect("it is writable");
        let intents = fs::read_to_string(Intents::path(&bench.path)).expect("it exists");
        assert!(intents.contains(&record.decision_id().to_string()));
        assert!(bench.lines().await.is_empty());
    }

    #[tokio::test]
    async fn calls_that_a_crash_interrupted_have_their_record_after_the_restart_and_no_other() {
        let bench = Bench::new(Durability::BeforeForward);
        let mut whole = bench.recorder.begin(TraceContext::root());
        whole.commit().await.expect("it is writable");
        let mut cut = bench.recorder.begin(TraceContext::root());
        cut.commit().await.expect("it is writable");
        let interrupted = cut.decision_id().to_string();
        whole.finish();
        assert_eq!(bench.lines().await.len(), 1);

        // What a crash leaves behind: both files as they are now, and half an intent.
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("audit.jsonl");
        fs::copy(&bench.path, &path).expect("it can be copied");
        let mut intents = fs::read(Intents::path(&bench.path)).expect("it exists");
        intents.extend_from_slice(b"{\"decision_id\":\"0");
        fs::write(Intents::path(&path), intents).expect("it is writable");

        for _ in 0..2 {
            Log::open(&path, Durability::BeforeForward, None, &Metrics::new()).expect("it recovers").close();
            let lines = read(&path);
            assert_eq!(lines.len(), 2);
            assert_eq!(lines[1]["decision_id"], interrupted.as_str());
            assert_eq!(lines[1]["outcome"], "interrupted");
            verify(&path);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_calls_at_once_are_all_durable_and_chained() {
        let bench = Arc::new(Bench::new(Durability::BeforeForward));
        let calls = (0..8).map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move {
                for _ in 0..25 {
                    let mut record = bench.recorder.begin(TraceContext::root());
                    record.commit().await.expect("it is writable");
                    record.finish();
                }
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("no call panics");
        }
        assert_eq!(bench.lines().await.len(), 200);
        assert_eq!(bench.verify().lines, 200);
        bench.log().close();
        let left = fs::read_to_string(Intents::path(&bench.path)).expect("it exists");
        assert_eq!(left.lines().count(), 1, "only the header is left: {left}");
    }
}
