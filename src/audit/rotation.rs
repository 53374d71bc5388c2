//! Moves an audit file away when it is full: `audit.jsonl` becomes `audit.jsonl.1`, that one `audit.jsonl.2`, and so on.
//! The oldest goes. The chain goes on from file to file, so that all that are kept verify one after the other.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::file::explain;
use crate::config::Rotation;

impl Rotation {
    /// Moves the file at this path away, and every one that was moved away before it. What was interrupted half way is
    /// finished by the next time: no file is ever written over but the oldest.
    pub(super) fn turn(&self, path: &Path) -> io::Result<()> {
        for number in (0..self.keep).rev() {
            let (from, to) = (numbered(path, number), numbered(path, number + 1));
            match fs::rename(&from, &to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(explain(&from, &error)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{
            chain::{self, Position},
            file::Log,
            testing::id,
        },
        config::Durability,
        telemetry::metrics::Metrics,
    };

    fn verify(path: &Path) -> chain::Verified {
        chain::verify(io::BufReader::new(fs::File::open(path).expect("it exists"))).expect("the chain is intact")
    }

    async fn written(durability: Durability, lines: usize, rotation: Rotation) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("audit.jsonl");
        let log = Log::open(&path, durability, Some(rotation), &Metrics::new()).expect("it opens");
        for _ in 0..lines {
            let id = id();
            log.append(id, format!("\"decision_id\":\"{id}\"").as_bytes(), true);
            assert!(log.flush().await);
        }
        log.close();
        dir
    }

    #[tokio::test]
    async fn a_full_file_is_moved_away_and_the_chain_goes_on() {
        for durability in [Durability::Buffered, Durability::BeforeForward] {
            // Each line has more than 200 bytes, so that two fill a file.
            let dir = written(durability, 9, Rotation { bytes: 400, keep: 2 }).await;
            let path = dir.path().join("audit.jsonl");
            let [second, first, now] = [2, 1, 0].map(|number| verify(&numbered(&path, number)));
            assert_eq!((&first.from, &now.from), (&second.to, &first.to));
            assert_eq!((now.to.seq, first.lines, second.lines), (9, 2, 2));
            assert_ne!(second.from, Position::START, "the oldest went");
            assert!(!numbered(&path, 3).exists());
        }
    }

    #[tokio::test]
    async fn a_file_that_is_not_full_stays() {
        let dir = written(Durability::Buffered, 9, Rotation { bytes: 1 << 20, keep: 1 }).await;
        let path = dir.path().join("audit.jsonl");
        assert_eq!(verify(&path).lines, 9);
        assert!(!numbered(&path, 1).exists());
    }
}
