//! Runs the tests that a policy brings along: rules whose names begin with `test_`, in modules of their own.
//!
//! They run in the same interpreter as decisions, with strict errors: a test that is undefined, false or fails does not
//! pass.

use std::{
    collections::BTreeMap,
    panic::{self, AssertUnwindSafe},
    time::{Duration, Instant},
};

use regorus::{
    Engine, Value,
    unstable::{Module, Ref},
};

use crate::policy::{
    bundle::{LoadError, Suite},
    engine, lint,
};

/// One test and how it went.
#[derive(Debug)]
pub struct Test {
    /// Its path below `data`.
    pub name: String,
    /// Where it stands.
    pub place: String,
    /// How it went.
    pub outcome: Outcome,
    /// What it printed.
    pub printed: Vec<String>,
    /// How long it took.
    pub duration: Duration,
}

/// How a test went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is true.
    Pass,
    /// It has no value.
    Undefined,
    /// It has another value than `true`.
    Other(String),
    /// It could not be evaluated.
    Error(String),
}

impl Outcome {
    /// Why it does not pass.
    pub fn why(&self) -> Option<String> {
        match self {
            Self::Pass => None,
            Self::Undefined => Some("undefined: some expression in it does not hold".to_owned()),
            Self::Other(value) => Some(format!("{value}, not true")),
            Self::Error(why) => Some(why.clone()),
        }
    }
}

/// Runs all tests, in the order of their files.
pub fn run_all(suite: &Suite) -> Result<Vec<Test>, LoadError> {
    let modules = lint::parse(&suite.tests)?;
    let failed = |error: anyhow::Error| LoadError::one(lint::in_one_line("policy", &error));
    let mut engine = engine::load(&suite.sources, LIMIT).map_err(failed)?;
    for (name, text) in &suite.tests {
        engine.add_policy(name.clone(), text.clone()).map_err(failed)?;
    }
    Ok(modules.iter().flat_map(tests_in).map(|(name, place)| run(&mut engine, name, place)).collect())
}

/// The tests of a module by their paths, with the place of the first definition.
fn tests_in(module: &Ref<Module>) -> BTreeMap<String, String> {
    let mut tests = BTreeMap::new();
    for (path, place) in lint::rules(module) {
        if path.last().is_some_and(|name| name.starts_with("test_")) {
            tests.entry(lint::written(&path)).or_insert(place);
        }
    }
    tests
}

fn run(engine: &mut Engine, name: String, place: String) -> Test {
    let start = Instant::now();
    let value = panic::catch_unwind(AssertUnwindSafe(|| engine.eval_rule(name.clone())));
    let outcome = match value {
        Ok(Ok(Value::Bool(true))) => Outcome::Pass,
        Ok(Ok(Value::Undefined)) => Outcome::Undefined,
        Ok(Ok(value)) => Outcome::Other(value.to_json_str().unwrap_or_default()),
        Ok(Err(error)) => Outcome::Error(lint::in_one_line("error", &error)),
        Err(_) => Outcome::Error("the evaluation panics".to_owned()),
    };
    Test { name, place, outcome, printed: engine.take_prints().unwrap_or_default(), duration: start.elapsed() }
}

/// For one test.
const LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    fn outcomes(policy: &str, tests: &str) -> Vec<(String, Outcome)> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("team.rego"), policy).unwrap();
        fs::write(dir.path().join("team_test.rego"), tests).unwrap();
        let suite = Suite::read(&[dir.path().to_owned()], None).unwrap();
        run_all(&suite).unwrap().into_iter().map(|test| (test.name, test.outcome)).collect()
    }

    #[test]
    fn only_true_passes() {
        let found = outcomes(
            "package team\n\nallow if input.call.path == \"/\"",
            "package team_test\n\nimport data.team\n\n\
             test_a if team.allow with input as {\"call\": {\"path\": \"/\"}}\n\
             test_b if team.allow with input as {}\n\
             test_c := false\n\
             test_d if to_number(\"x\") == 1\n\
             helper := true\n\
             test_e if not team.allow with input as {}\n",
        );
        let names: Vec<_> = found.iter().map(|(name, _)| name.rsplit('.').next().unwrap()).collect();
        assert_eq!(names, ["test_a", "test_b", "test_c", "test_d", "test_e"]);
        assert_eq!(found[0].1, Outcome::Pass);
        assert_eq!(found[1].1, Outcome::Undefined);
        assert_eq!(found[2].1, Outcome::Other("false".to_owned()));
        assert!(matches!(found[3].1, Outcome::Error(_)), "{:?}", found[3]);
        assert_eq!(found[4].1, Outcome::Pass);
    }

    #[test]
    fn the_tests_of_the_shipped_policy_pass() {
        let shipped = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("policy");
        let tests = run_all(&Suite::read(&[shipped], None).unwrap()).unwrap();
        let failed: Vec<_> = tests.iter().filter(|test| test.outcome != Outcome::Pass).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert!(tests.len() > 30, "{}", tests.len());
    }
}
