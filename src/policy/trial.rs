//! Tries a policy before it is used: in a child process with limits, so that whatever it does to a parser, a compiler
//! or an evaluation happens there and not in the process that guards the agent.

pub mod suite;

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Policy, Undecided,
    allow_list::AllowList,
    bundle::{LoadError, Sources},
    lint,
};
use crate::config;

/// Where a policy is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// In a child process, started from this program.
    Child(PathBuf),
    /// In this process: for tests, whose program is not Tollgate.
    InProcess,
}

impl Trial {
    /// Tries a policy. Whatever stands in the way of using it is an error.
    pub fn run(&self, sources: &Sources, config: &config::Policy) -> Result<(), LoadError> {
        match self {
            Self::Child(program) => run(sources, config, program),
            Self::InProcess => attempt(sources, &config.decision),
        }
    }
}

/// Tries a policy in a child process that is started from this program.
pub fn run(sources: &Sources, config: &config::Policy, program: &Path) -> Result<(), LoadError> {
    if std::env::var_os(MARK).is_some() {
        // Another program than this one, started as a child, might do the same without end.
        return Err(LoadError::one("policy: cannot be tried: this process is itself the child of a trial".to_owned()));
    }
    let question = Question { sources: sources.clone(), decision: config.decision.clone() };
    let question = serde_json::to_vec(&question).map_err(|error| LoadError::one(format!("policy: {error}")))?;
    let mut child = start(program)
        .map_err(|error| LoadError::one(format!("policy: cannot be tried: {}: {error}", program.display())))?;
    let answer = exchange(&mut child, question);
    // A child that has answered is gone soon, and one that has not is not waited for.
    let _ = child.kill();
    let _ = child.wait();
    let answer: Option<Answer> = answer.and_then(|answer| serde_json::from_slice(&answer).ok());
    match answer {
        Some(Answer { problems }) => LoadError::unless_empty(problems),
        None => Err(LoadError::one("policy: the policy could not be tried within its limits")),
    }
}

/// The child's part: limits itself, then reads a question from standard input and answers on standard output.
pub fn answer_in_child() -> std::io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_CPU, CPU_SECONDS, CPU_SECONDS)?;
    setrlimit(Resource::RLIMIT_AS, ADDRESS_SPACE, ADDRESS_SPACE)?;
    let question: Question = serde_json::from_reader(std::io::stdin().lock())?;
    let problems = match attempt(&question.sources, &question.decision) {
        Ok(()) => Vec::new(),
        Err(error) => error.problems().to_vec(),
    };
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, &Answer { problems })?;
    stdout.flush()
}

/// What the child is asked.
#[derive(Serialize, Deserialize)]
struct Question {
    sources: Sources,
    decision: String,
}

/// What the child says.
#[derive(Serialize, Deserialize)]
struct Answer {
    problems: Vec<String>,
}

fn start(program: &Path) -> std::io::Result<Child> {
    Command::new(program)
        .args(["policy", "try-load"])
        .env_clear()
        .env(MARK, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

/// Asks the child, on threads of their own so that one that neither reads nor writes can be given up.
fn exchange(child: &mut Child, question: Vec<u8>) -> Option<Vec<u8>> {
    let (mut stdin, stdout) = (child.stdin.take()?, child.stdout.take()?);
    // Both threads end with the child, at the latest when it is killed.
    thread::spawn(move || stdin.write_all(&question));
    let (answer, answered) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.take(MAX_ANSWER).read_to_end(&mut bytes);
        answer.send(read.ok().map(|_| bytes))
    });
    answered.recv_timeout(WALL).ok().flatten()
}

/// Checks and compiles a policy and its allow-list, and asks it about calls as they may come. What it answers is not
/// judged, only that it gets that far.
fn attempt(sources: &Sources, decision: &str) -> Result<(), LoadError> {
    let checked = [AllowList::compile(&sources.data).map(drop), lint::check(sources, decision)];
    let problems = checked.iter().filter_map(|checked| checked.as_ref().err()).flat_map(|error| error.problems());
    LoadError::unless_empty(problems.cloned().collect())?;
    let settings = config::Policy {
        paths: Vec::new(),
        data: None,
        program: None,
        decision: decision.to_owned(),
        budget: BUDGET,
        cache_entries: 0,
        cache_ttl: Duration::ZERO,
    };
    let policy = Policy::compile(sources.clone(), &settings, 1)?;
    for sample in samples() {
        match policy.evaluate(&sample).map_err(|failure| failure.why) {
            Err(Undecided::Panic) => return Err(LoadError::one("policy: the evaluation of a plain call panics")),
            Err(Undecided::Budget) => {
                return Err(LoadError::one(format!(
                    "policy: the evaluation of a plain call takes more than {BUDGET:?}"
                )));
            }
            // An error is an answer too: this call would be refused.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Nothing, a plain call and a call of a tool.
fn samples() -> [serde_json::Value; 3] {
    let plain = json!({
        "schema": 1,
        "agent": {"id": "spiffe://example.org/trial", "name": "trial", "labels": {}, "assurance": "L0"},
        "task": {"id": "trial", "source": "static", "purpose": "trial", "epoch": 1},
        "call": {"protocol": "http", "effect": "read", "method": "GET", "scheme": "https", "host": "example.org",
                 "port": 443, "path": "/a/b", "segments": ["a", "b"], "query": {"q": ["x"]}, "headers": {},
                 "body": {"inspected": false}},
        "destination": {"name": "trial", "zone": "internet", "environment": "", "classification": "internal",
                        "tls": "intercept"},
        "secrets": [],
        "approval": {"state": "none"},
        "matches": [],
    });
    let mut tool = plain.clone();
    tool["call"]["protocol"] = json!("mcp");
    tool["call"]["effect"] = json!("admin");
    tool["call"]["method"] = json!("POST");
    tool["call"]["mcp"] = json!({"method": "tools/call", "tool": "trial", "arguments": {}});
    [json!({}), plain, tool]
}

/// Set in the environment of a child.
const MARK: &str = "TOLLGATE_TRIAL";
/// For one evaluation; far more than any policy is given later.
const BUDGET: Duration = Duration::from_secs(1);
const WALL: Duration = Duration::from_secs(5);
const CPU_SECONDS: u64 = 5;
/// Of this the allocator reserves one GiB at once, without using it.
const ADDRESS_SPACE: u64 = 2 << 30;
const MAX_ANSWER: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> config::Policy {
        config::Policy { decision: "team/decision".to_owned(), ..crate::policy::bundle::tests::policy(&[], None) }
    }

    fn sources(text: &str) -> Sources {
        let modules = vec![("team.rego".to_owned(), format!("package team\n{text}"))];
        Sources { modules, data: json!({}), revision: "0".into() }
    }

    #[test]
    fn a_policy_that_works_passes() {
        let sources = sources("decision := {\"decision\": \"deny\", \"reason\": input.call.path}");
        Trial::InProcess.run(&sources, &policy()).unwrap();
    }

    #[test]
    fn a_policy_that_only_fails_for_some_calls_passes() {
        Trial::InProcess.run(&sources("decision := to_number(input.call.path)"), &policy()).unwrap();
    }

    #[test]
    fn problems_of_policy_and_allow_list_are_reported_together() {
        let mut sources = sources("decision := nothing(1)");
        sources.data = json!({"tollgate": {"allow": 1}});
        let error = Trial::InProcess.run(&sources, &policy()).unwrap_err();
        let expected = "data.tollgate.allow: expected a list of entries\nteam.rego:2:13: nothing is not a function";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_program_that_does_not_answer_is_an_error() {
        for (program, expected) in [
            ("/bin/true", "the policy could not be tried within its limits"),
            ("/bin/echo", "the policy could not be tried within its limits"),
            ("/nowhere/tollgate", "policy: cannot be tried: /nowhere/tollgate: "),
        ] {
            let trial = Trial::Child(PathBuf::from(program));
            let error = trial.run(&sources("decision := 1"), &policy()).unwrap_err();
            assert!(error.to_string().contains(expected), "{program}: {error}");
        }
    }
}
