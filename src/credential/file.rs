//! The exception register: long-lived secrets in files, read again when the file changes.
//!
//! Whether a file changed is asked of the file system, not of a watcher: a missed event can't keep an old secret alive.

use std::{
    fs::{self, File, Metadata},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use zeroize::Zeroizing;

use super::Failure;
use crate::refusal::CredentialRefusal;

/// What tells one state of a file from another. Follows links, as mounted secrets are swapped by a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    place: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            place: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a further change would show: one in the same tick of the file system's clock would not.
    fn is_settled(&self, now: SystemTime) -> bool {
        let changed = UNIX_EPOCH + Duration::from_secs(self.changed.0.try_into().unwrap_or_default());
        now.duration_since(changed).is_ok_and(|age| age > TICK)
    }
}

/// What a look at a file shows.
pub(super) enum Look {
    /// The same as last time.
    Unchanged,
    /// A value, and the stamp to compare with next time; none when the file is too fresh to be told by its stamp.
    Read(Zeroizing<String>, Option<Stamp>),
}

/// Looks at a file, and reads it unless it still bears the stamp of the last time. Off the runtime's threads, as a
/// mounted file system may hang.
pub(super) async fn look(path: &Path, last: Option<Stamp>) -> Result<Look, Failure> {
    let path = path.to_owned();
    let looked = tokio::task::spawn_blocking(move || look_now(&path, last)).await;
    looked.unwrap_or_else(|_| Err(unavailable("reading the file failed")))
}

fn look_now(path: &Path, last: Option<Stamp>) -> Result<Look, Failure> {
    let metadata = fs::metadata(path).map_err(|error| unavailable(&error.to_string()))?;
    // Opening a pipe would wait for a writer.
    if !metadata.is_file() {
        return Err(unavailable("not a regular file"));
    }
    if last == Some(Stamp::of(&metadata)) {
        return Ok(Look::Unchanged);
    }
    let mut file = File::open(path).map_err(|error| unavailable(&error.to_string()))?;
    let stamp = Stamp::of(&file.metadata().map_err(|error| unavailable(&error.to_string()))?);
    let value = read(&mut file)?;
    Ok(Look::Read(value, Some(stamp).filter(|stamp| stamp.is_settled(SystemTime::now()))))
}

fn read(file: &mut File) -> Result<Zeroizing<String>, Failure> {
    // Room for the largest file at once: growing would leave copies behind.
    let mut bytes = Zeroizing::new(vec![0; LARGEST + 1]);
    let mut length = 0;
    loop {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unavailable(&error.to_string())),
        }
    }
    if length > LARGEST {
        return Err(Failure::malformed("the file is larger than 64 KiB"));
    }
    let text = std::str::from_utf8(&bytes[..length]).map_err(|_| Failure::malformed("the file is not UTF-8"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Failure::malformed("the file is empty")),
        value => Ok(Zeroizing::new(value.to_owned())),
    }
}

fn unavailable(detail: &str) -> Failure {
    Failure::new(CredentialRefusal::Unavailable, detail)
}

/// A secret is a few kilobytes at most.
const LARGEST: usize = 64 * 1024;

/// Coarser than the clock of any file system that secrets are mounted from.
const TICK: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_from(content: &[u8]) -> Result<String, CredentialRefusal> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        match look(file.path(), None).await {
            Ok(Look::Read(value, _)) => Ok(value.to_string()),
            Ok(Look::Unchanged) => panic!("nothing to compare with"),
            Err(failure) => Err(failure.refusal),
        }
    }

    #[tokio::test]
    async fn trailing_line_breaks_are_not_part_of_the_secret() {
        for content in ["canary", "canary\n", "canary\r\n", "canary\n\n"] {
            assert_eq!(read_from(content.as_bytes()).await.as_deref(), Ok("canary"));
        }
        assert_eq!(read_from(b" in ner \n").await.as_deref(), Ok(" in ner "));
        assert_eq!(read_from(&vec![b'x'; LARGEST]).await.map(|value| value.len()), Ok(LARGEST));
    }

    #[tokio::test]
    async fn what_cannot_be_a_secret_is_malformed() {
        for content in [&b""[..], b"\n\n", b"\xff\xfe", &vec![b'x'; LARGEST + 1]] {
            assert_eq!(read_from(content).await, Err(CredentialRefusal::Malformed));
        }
    }

    #[tokio::test]
    async fn what_is_not_a_readable_file_is_unavailable() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path(), &directory.path().join("missing"), Path::new("/dev/null")] {
            let failure = look(path, None).await.err().expect("not a file");
            assert_eq!(failure.refusal, CredentialRefusal::Unavailable, "{}", path.display());
        }
    }

    #[tokio::test]
    async fn an_unchanged_file_is_not_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "one").unwrap();
        let stamp = Stamp::of(&fs::metadata(file.path()).unwrap());
        assert!(matches!(look(file.path(), Some(stamp)).await, Ok(Look::Unchanged)));
        fs::write(file.path(), "other").unwrap();
        assert!(matches!(look(file.path(), Some(stamp)).await, Ok(Look::Read(value, _)) if *value == "other"));
    }

    #[test]
    fn a_fresh_file_cannot_be_told_by_its_stamp() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = Stamp::of(&file.as_file().metadata().unwrap());
        let now = SystemTime::now();
        assert!(!stamp.is_settled(now));
        assert!(stamp.is_settled(now + 2 * TICK));
    }
}
