//! `tollgate policy eval`: decides one input document as the sidecar would.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::refuse;
use crate::{
    cli::{self, BAD_INPUT, NOT_SO, Output, fail, print},
    config::{self, Config},
    policy::{
        Answer, Denial, Policy,
        bundle::{LoadError, Sources},
        engine::Failure,
        input::value,
        lint,
    },
};

pub(super) fn run(config: Option<&Path>, policy: Vec<PathBuf>, input: &Path, output: Output) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let policy = match config.map(|file| Config::load(file, &env)) {
        Some(Err(problems)) => return cli::config::refuse(&problems),
        Some(Ok(config)) => config.policy,
        None => beside(policy),
    };
    let input = match read(input) {
        Ok(input) => input,
        Err(error) => return fail(&error, "the input is a JSON object, as in the schema of the input", BAD_INPUT),
    };
    match decide(&policy, &input) {
        Ok(answer) => tell(&answer, output),
        Err(error) => refuse(&error),
    }
}

/// What holds where no configuration says otherwise.
fn beside(paths: Vec<PathBuf>) -> config::Policy {
    config::Policy {
        paths,
        data: None,
        program: None,
        decision: "tollgate/decision".to_owned(),
        budget: Duration::from_millis(10),
        cache_entries: 0,
        cache_ttl: Duration::ZERO,
    }
}

fn read(file: &Path) -> anyhow::Result<Value> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(file).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
    }
    match serde_json::from_str(&text) {
        Ok(input @ Value::Object(_)) => Ok(input),
        Ok(_) => Err(anyhow::anyhow!("{}: not an object", file.display())),
        Err(error) => Err(anyhow::anyhow!("{}: {error}", file.display())),
    }
}

/// What policy said, or why it did not decide.
struct Said {
    revision: Arc<str>,
    answer: Result<Value, Denial>,
}

fn decide(settings: &config::Policy, input: &Value) -> Result<Said, LoadError> {
    let policy = Policy::compile(Sources::read(settings)?, settings, 1)?;
    let answer = match policy.evaluate(input) {
        Ok(value) => Answer::decode(&value).map(|_| value::to_json(&value)).map_err(Denial::from),
        Err(Failure { why, text }) => Err(Denial { message: lint::in_one_line("policy", &text).into(), ..why.into() }),
    };
    Ok(Said { revision: Arc::clone(policy.revision()), answer })
}

fn tell(said: &Said, output: Output) -> ExitCode {
    let (answer, code) = match &said.answer {
        Ok(answer) => (answer.clone(), ExitCode::SUCCESS),
        Err(denial) => (in_json(denial), ExitCode::from(NOT_SO)),
    };
    let text = match output {
        Output::Json => format!("{}\n", json!({"answer": answer, "revision": &*said.revision})),
        Output::Text => in_lines(&answer),
    };
    print(&text, code)
}

fn in_lines(answer: &Value) -> String {
    let field = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut text = format!("{}\n", field("decision"));
    for name in ["rule", "reason", "class", "message"] {
        if !field(name).is_empty() {
            text.push_str(&format!("  {name}: {}\n", field(name)));
        }
    }
    text
}

/// As if policy had said so itself.
fn in_json(denial: &Denial) -> Value {
    json!({
        "decision": "deny",
        "reason": &*denial.reason,
        "class": denial.class.as_str(),
        "message": &*denial.message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(policy: &str, data: &str, input: &Value) -> Result<Value, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("data.json"), data).unwrap();
        if !policy.is_empty() {
            std::fs::write(dir.path().join("own.rego"), format!("package tollgate\n{policy}")).unwrap();
        }
        let said = decide(&beside(vec![dir.path().to_owned()]), input).map_err(|error| error.to_string())?;
        Ok(said.answer.unwrap_or_else(|denial| in_json(&denial)))
    }

    #[test]
    fn a_document_is_decided_as_a_call_would_be() {
        let list = r#"{"tollgate": {"allow": [{"id": "v1", "destination": "github", "paths": ["/v1/**"]}]}}"#;
        let call = |path| {
            json!({"call": {"protocol": "http", "method": "GET", "path": path, "effect": "read"},
                                 "destination": {"name": "github"}})
        };
        for (policy, input, expected) in [
            ("", call("/v1/x"), "allow  allow.v1"),
            ("", call("/v2/x"), "deny not_listed standard.default"),
            ("", json!({"matches": ["by hand"]}), "allow  allow.by hand"),
            ("decision := {\"decision\": \"allow\", \"extra\": 1}", call("/v1/x"), "deny policy_unknown_field "),
            ("decision := 1 / (count(input.call.path) - 5)", call("/v1/x"), "deny policy_failed "),
            ("decision := {} if input.call.path == \"/\"", call("/v1/x"), "deny policy_undefined "),
        ] {
            let answer = said(policy, list, &input).unwrap();
            let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
            assert_eq!(
                format!("{} {} {}", text("decision"), text("reason"), text("rule")),
                expected,
                "{policy} {input}"
            );
        }
    }

    #[test]
    fn a_policy_that_can_not_be_used_is_no_answer() {
        let error = said("decision := nope(1)", "{}", &json!({})).unwrap_err();
        assert!(error.ends_with("own.rego:2:13: nope is not a function"), "{error}");
    }
}
