use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

const LIFE: Duration = Duration::from_secs(600);

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    (directory, path)
}

fn names(journal: &Journal) -> Vec<String> {
    let mut names: Vec<_> = journal.left_behind().iter().map(|left| left.reference.to_string()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn what_was_given_and_not_ended_is_found_by_the_next_process() {
    let (_directory, path) = place();
    let journal = Journal::open(&path).unwrap();
    for name in ["a", "b", "c"] {
        journal.given("db", name, LIFE).await.unwrap();
    }
    journal.ended("db", "b").await;
    journal.given("db", "past", Duration::ZERO).await.unwrap();
    drop(journal);

    let journal = Journal::open(&path).unwrap();
    assert_eq!(names(&journal), ["a", "c"]);
    assert!(journal.left_behind().iter().all(|left| left.credential == "db" && left.remaining <= LIFE));
    journal.ended("db", "a").await;
    drop(journal);
    assert_eq!(names(&Journal::open(&path).unwrap()), ["c"]);
}

#[tokio::test]
async fn a_line_that_was_cut_off_spoils_no_other() {
    let (_directory, path) = place();
    Journal::open(&path).unwrap().given("db", "a", LIFE).await.unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"credential\":\"db\",\"ref").unwrap();
    assert_eq!(names(&Journal::open(&path).unwrap()), ["a"]);
}

#[tokio::test]
async fn what_expires_without_an_end_does_not_make_it_grow() {
    let (_directory, path) = place();
    let journal = Journal::open(&path).unwrap();
    journal.given("db", "kept", LIFE).await.unwrap();
    for number in 0..2000 {
        journal.given("db", &format!("short-{number}"), Duration::ZERO).await.unwrap();
    }
    let lines = || fs::read_to_string(&path).unwrap().lines().count();
    assert!(lines() <= REWRITE_FROM, "{}", lines());
    assert!(journal.0.as_ref().unwrap().lock().unwrap().live.len() <= REWRITE_FROM);
    drop(journal);
    assert_eq!(names(&Journal::open(&path).unwrap()), ["kept"]);
    assert_eq!(lines(), 1);
}

#[tokio::test]
async fn many_that_live_are_not_rewritten_at_each_line() {
    let (_directory, path) = place();
    let journal = Journal::open(&path).unwrap();
    for number in 0..=REWRITE_FROM {
        journal.given("db", &format!("{number}"), LIFE).await.unwrap();
    }
    let book = journal.0.as_ref().unwrap().lock().unwrap();
    assert_eq!((book.written, book.next), (REWRITE_FROM + 1, 2 * (REWRITE_FROM + 1)));
}

#[tokio::test]
async fn a_journal_has_one_keeper_at_a_time() {
    let (_directory, path) = place();
    let first = Journal::open(&path).unwrap();
    first.given("db", "a", LIFE).await.unwrap();
    let refused = Journal::open(&path).unwrap_err().to_string();
    assert!(refused.contains("another process"), "{refused}");
    drop(first);
    assert_eq!(names(&Journal::open(&path).unwrap()), ["a"]);
}

#[tokio::test]
async fn links_are_not_followed_and_nobody_else_may_read_it() {
    let (directory, path) = place();
    let victim = directory.path().join("victim");
    fs::write(&victim, "kept").unwrap();
    let link = beside(&path, ".next");
    symlink(&victim, &link).unwrap();
    drop(Journal::open(&path).unwrap());
    assert!(!link.exists());
    for file in [&path, &beside(&path, ".lock")] {
        let metadata = fs::symlink_metadata(file).unwrap();
        assert_eq!((metadata.is_file(), metadata.permissions().mode() & 0o777), (true, 0o600), "{}", file.display());
    }
    for file in [&path, &beside(&path, ".lock")] {
        fs::remove_file(file).unwrap();
        symlink(&victim, file).unwrap();
        assert!(Journal::open(&path).is_err(), "{}", file.display());
        fs::remove_file(file).unwrap();
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
}

#[tokio::test]
async fn without_a_file_nothing_is_written_and_nothing_refused() {
    let journal = Journal::default();
    journal.given("db", "a", LIFE).await.unwrap();
    assert!(journal.left_behind().is_empty());
}

#[test]
fn a_journal_that_cannot_be_written_is_an_error() {
    assert!(Journal::open(Path::new("/proc/nowhere/journal")).is_err());
}
