//! The exception register: long-lived secrets in files, read again when the file changes.
//!
//! A file in use is read once a second, not watched: a missed event can't keep an old secret alive.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use zeroize::Zeroizing;

use super::{
    Failure,
    exception::Exception,
    mint::{Life, Minted, Secret, Unusable},
};
use crate::refusal::CredentialRefusal;

/// A long-lived secret in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// The file; trailing line breaks are not part of the secret.
    pub file: PathBuf,
    /// Why it is used although it is one.
    pub exception: Exception,
}

impl Register {
    /// What the file says now.
    pub(super) async fn mint(&self) -> Result<Minted, Unusable> {
        self.exception.check()?;
        let secret = Secret::Value(read(&self.file).await?);
        let life = Life::Standing { ends: self.exception.expires, again: RECHECK };
        Ok(Minted { secret, life, handle: None })
    }
}

/// The secret in a file, without trailing line breaks. Read off the runtime's threads, as a mounted file system may hang.
pub(super) async fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let file = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_now(&file)).await;
    let read = read.unwrap_or_else(|_| Err(unavailable("reading the file failed")));
    read.map_err(|failure| failure.about(&path.display().to_string()))
}

fn read_now(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let metadata = fs::metadata(path).map_err(|error| unavailable(&error.to_string()))?;
    // Opening a pipe would wait for a writer.
    if !metadata.is_file() {
        return Err(unavailable("not a regular file"));
    }
    read_whole(&mut File::open(path).map_err(|error| unavailable(&error.to_string()))?)
}

fn read_whole(file: &mut File) -> Result<Zeroizing<String>, Failure> {
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
        return Err(Failure::misconfigured("the file is larger than 64 KiB"));
    }
    let text = std::str::from_utf8(&bytes[..length]).map_err(|_| Failure::misconfigured("the file is not UTF-8"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Failure::misconfigured("the file is empty")),
        value => Ok(Zeroizing::new(value.to_owned())),
    }
}

fn unavailable(detail: &str) -> Failure {
    Failure::new(CredentialRefusal::Unavailable, detail)
}

/// A secret is a few kilobytes at most.
const LARGEST: usize = 64 * 1024;

/// How often a file is looked at, at most.
const RECHECK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_from(content: &[u8]) -> Result<String, CredentialRefusal> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        read(file.path()).await.map(|value| value.to_string()).map_err(|failure| failure.refusal)
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
    async fn what_cannot_be_a_secret_is_our_own_fault() {
        for content in [&b""[..], b"\n\n", b"\xff\xfe", &vec![b'x'; LARGEST + 1]] {
            assert_eq!(read_from(content).await, Err(CredentialRefusal::Misconfigured));
        }
    }

    #[tokio::test]
    async fn what_is_not_a_readable_file_is_unavailable() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path(), &directory.path().join("missing"), Path::new("/dev/null")] {
            let failure = read(path).await.expect_err("not a file");
            assert_eq!(failure.refusal, CredentialRefusal::Unavailable, "{}", path.display());
            assert!(failure.detail.contains(path.to_str().unwrap()), "{}", failure.detail);
        }
    }
}
