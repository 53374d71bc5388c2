//! The command line as a program: what it prints, where, and how it exits.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
};

fn tollgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Runs it, reads one line of its output and closes the pipe.
fn head(arguments: &[&str]) -> (String, Option<i32>, String) {
    let mut child = tollgate(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let (code, _, complaints) = said(&child.wait_with_output().expect("it ends"));
    (line, code, complaints)
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let (line, code, complaints) = head(&["demo"]);
    assert_eq!((code, &*complaints), (Some(0), ""), "{line}");
    let (line, code, complaints) = head(&["policy", "test", "--verbose", "policy"]);
    assert!(line.starts_with("pass "), "{line}");
    assert_eq!((code, &*complaints), (Some(0), ""));
}

#[test]
fn an_output_that_can_not_be_written_is_an_error() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        println!("skipped: needs /dev/full");
        return;
    };
    for arguments in [&["demo"][..], &["policy", "test", "policy"], &["--help"], &["policy", "--version"]] {
        let stdout = full.try_clone().expect("a descriptor");
        let output = tollgate(arguments).stdout(stdout).output().expect("it runs");
        let (code, _, complaints) = said(&output);
        assert_eq!(code, Some(69), "{arguments:?}: {complaints}");
        assert!(complaints.starts_with("error: standard output can't be written: "), "{arguments:?}: {complaints}");
    }
}

#[test]
fn a_wrong_command_line_exits_64_and_says_what_there_is() {
    for arguments in [&[][..], &["policy"], &["polcy"], &["policy", "eval", "--inptu", "x"], &["exec"]] {
        let (code, printed, complaints) = said(&tollgate(arguments).output().expect("it runs"));
        assert_eq!((code, &*printed), (Some(64), ""), "{arguments:?}");
        let mut lines = complaints.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("error: ")), "{complaints}");
        assert!(lines.clone().count() > 0 && lines.all(|line| line.starts_with("hint: ")), "{complaints}");
    }
}

#[test]
fn every_problem_has_its_own_line_and_then_there_is_a_hint() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, policy) = (dir.path().join("tollgate.yaml"), dir.path().join("own.rego"));
    std::fs::write(&config, "mode: off\nagent: {nam: x}\n").expect("written");
    std::fs::write(&policy, "package tollgate\ndecision := nope(input.taks)\n").expect("written");
    for (option, file, expected) in [("--config", &config, 78), ("--policy", &policy, 65)] {
        let file = file.to_str().expect("UTF-8");
        let (code, printed, complaints) = said(&tollgate(&["policy", "eval", option, file]).output().expect("it runs"));
        // Nothing is decided, so nothing is printed.
        assert_eq!((code, &*printed), (Some(expected), ""), "{complaints}");
        let lines: Vec<&str> = complaints.lines().collect();
        let (hint, errors) = lines.split_last().expect("complaints");
        assert!(hint.starts_with("hint: "), "{complaints}");
        assert!(errors.len() > 1 || option == "--policy", "{complaints}");
        assert!(errors.iter().all(|line| line.starts_with("error: ")), "{complaints}");
    }
}

/// The lines of a demonstration that went as told.
fn demo(output: &str) -> Vec<String> {
    let (code, printed, complaints) = said(&tollgate(&["demo", "--output", output]).output().expect("it runs"));
    assert_eq!(code, Some(0), "{printed}{complaints}");
    printed.lines().map(str::to_owned).collect()
}

#[test]
fn the_demonstration_tells_how_each_call_was_decided() {
    let lines = demo("text");
    for (call, expected) in [
        (" 1  ", "; evaluated;"),
        (" 2  ", "; from the cache;"),
        (" 5  ", "; evaluated;"),
        (" 6  ", "; refused before policy;"),
        (" 7  ", "; refused before policy;"),
    ] {
        let at = lines.iter().position(|line| line.starts_with(call)).expect("the call is told");
        assert!(lines[at + 1].contains(expected), "{call}: {}", lines[at + 1]);
    }
    let end = lines.last().expect("an end");
    assert!(end.ends_with("The agent's own key reached the origin: never."), "{end}");
}

#[test]
fn the_demonstration_tells_programs_the_same() {
    let documents: Vec<serde_json::Value> =
        demo("json").iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let cached: Vec<_> = documents[..10].iter().map(|call| call["cached"].to_string()).collect();
    assert_eq!([&cached[0], &cached[1], &cached[5], &cached[6]], ["false", "true", "null", "null"]);
    assert_eq!(documents.last().expect("an end")["key_seen_by_origin"], 0);
}
