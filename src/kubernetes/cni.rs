//! The fence as a chained CNI plugin: the node puts it around a pod's network before any container of the pod starts, so
//! that the pod never needs the right to do it.
//!
//! Speaks the plugin protocol up to version 1.1. It comes after the plugins that make the network, hands their result on
//! unchanged, and asks no API server: the runtime passes the pod's annotations (capability
//! `io.kubernetes.cri.pod-annotations`), and the injector writes into them what the fence needs. A pod whose annotations
//! do not ask for it is passed through. What is not understood is an error, and the runtime does not start that pod.
//!
//! DEL takes nothing away: the table ends with its namespace, and until then nobody should be let out.

pub mod install;
pub mod protocol;

use std::{fs::File, io::Read, path::Path, process::ExitCode};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use self::protocol::{Call, Code, Refusal, SUPPORTED};
use super::fence::{self, Standing};

/// The answer to one call, and the exit code. `variable` reads the environment.
pub fn answer(command: &str, variable: &dyn Fn(&str) -> Option<String>, input: impl Read) -> (String, ExitCode) {
    let mut text = String::new();
    if let Err(error) = input.take(LONGEST).read_to_string(&mut text) {
        let refusal = Refusal::new(Code::Io, "the configuration can't be read", error);
        return (refusal.to_json(protocol::LATEST), ExitCode::FAILURE);
    }
    let version = protocol::version_of(&text);
    match serve(command, variable, &text) {
        Ok(Some(answer)) => (format!("{answer}\n"), ExitCode::SUCCESS),
        Ok(None) => (String::new(), ExitCode::SUCCESS),
        Err(refusal) => (refusal.to_json(version.as_deref().unwrap_or(protocol::LATEST)), ExitCode::FAILURE),
    }
}

fn serve(command: &str, variable: &dyn Fn(&str) -> Option<String>, text: &str) -> Result<Option<Value>, Refusal> {
    match command {
        "VERSION" => {
            let version = protocol::version_of(text).unwrap_or_else(|| protocol::LATEST.to_owned());
            Ok(Some(json!({"cniVersion": version, "supportedVersions": SUPPORTED})))
        }
        "ADD" => add(&Call::read(text, variable)?).map(Some),
        "CHECK" => check(&Call::read(text, variable)?).map(|()| None),
        // The pod, and its namespace, may be gone by now; there is nothing else to take away.
        "DEL" => Call::configuration_of(text).map(|_| None),
        // Nothing is kept outside of a namespace.
        "GC" => Call::configuration_of(text).map(|_| None),
        "STATUS" => status(text).map(|()| None),
        other => Err(Refusal::new(Code::Variables, "CNI_COMMAND is not known", other)),
    }
}

fn add(call: &Call) -> Result<Value, Refusal> {
    let result = call.previous()?;
    if let Some(fence) = call.fence()? {
        enter(call.namespace()?)?;
        fence::apply(&fence.table()).map_err(|failure| {
            Refusal::new(Code::Fence, "the fence can't be put up", format!("{failure}: {}", failure.hint()))
        })?;
    }
    Ok(result)
}

fn check(call: &Call) -> Result<(), Refusal> {
    call.previous()?;
    let Some(fence) = call.fence()? else { return Ok(()) };
    enter(call.namespace()?)?;
    let found = fence::standing(&fence.table())
        .map_err(|failure| Refusal::new(Code::Fence, "the fence can't be read", failure))?;
    match found {
        Standing::Whole => Ok(()),
        Standing::Absent => Err(Refusal::new(Code::Fence, "the fence is gone", "there is no table")),
        Standing::Differs(how) => Err(Refusal::new(Code::Fence, "the fence was changed", how)),
    }
}

fn status(text: &str) -> Result<(), Refusal> {
    Call::configuration_of(text)?;
    fence::reachable().map_err(|failure| {
        Refusal::new(
            Code::Unavailable,
            "the kernel's packet filter can't be used",
            format!("{failure}: {}", failure.hint()),
        )
    })
}

/// This process does nothing else, so it can stay there.
fn enter(namespace: &Path) -> Result<(), Refusal> {
    let failed = |error: String| {
        Refusal::new(
            Code::NoSuchNamespace,
            "the network namespace can't be entered",
            format!("{}: {error}", namespace.display()),
        )
    };
    let file = File::open(namespace).map_err(|error| failed(error.to_string()))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| failed(error.to_string()))
}

/// A configuration with a result in it is a few kilobytes.
const LONGEST: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(command: &str, input: &Value) -> (Option<Value>, bool) {
        let (text, code) = answer(command, &|_| None, input.to_string().as_bytes());
        let answer = (!text.is_empty()).then(|| serde_json::from_str(&text).expect("JSON"));
        (answer, code == ExitCode::SUCCESS)
    }

    #[test]
    fn it_says_which_versions_it_speaks() {
        let (answer, done) = ask("VERSION", &json!({"cniVersion": "1.0.0"}));
        assert!(done);
        assert_eq!(
            answer.expect("said"),
            json!({"cniVersion": "1.0.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
        );
    }

    #[test]
    fn what_is_wrong_is_said_as_the_protocol_wants_it() {
        let good = json!({"cniVersion": "1.0.0", "name": "net", "type": "tollgate-cni"});
        for (command, input, code) in [
            ("ADD", json!({"cniVersion": "9.9.9", "name": "net", "type": "tollgate-cni"}), 1),
            ("ADD", good.clone(), 4),
            ("FROB", good.clone(), 4),
            ("ADD", json!([]), 6),
            ("ADD", json!({"cniVersion": "1.0.0", "name": "net", "type": "tollgate-cni", "uid": 0}), 7),
        ] {
            let (answer, done) = ask(command, &input);
            let answer = answer.expect("an error is said");
            assert!(!done && answer["code"] == code && !answer["msg"].as_str().expect("text").is_empty(), "{answer}");
        }
    }

    #[test]
    fn what_has_nothing_to_do_is_done() {
        let good = json!({"cniVersion": "1.1.0", "name": "net", "type": "tollgate-cni"});
        for command in ["DEL", "GC"] {
            assert_eq!(ask(command, &good), (None, true), "{command}");
        }
    }
}
