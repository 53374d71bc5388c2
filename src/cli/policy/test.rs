//! `tollgate policy test`: runs the tests that policies bring along.

use std::{path::PathBuf, process::ExitCode};

use serde_json::json;

use super::refuse;
use crate::{
    cli::{NOT_SO, Output, fail, print},
    policy::{
        bundle::Suite,
        lint,
        trial::suite::{Outcome, Test, run_all},
    },
};

pub(super) fn run(paths: &[PathBuf], output: Output, verbose: bool) -> ExitCode {
    let tests = Suite::read(paths, None).and_then(|suite| {
        lint::check(&suite.sources, "tollgate/decision")?;
        run_all(&suite)
    });
    match tests {
        Err(error) => refuse(&error),
        Ok(tests) if tests.is_empty() => {
            let hint = "tests are rules whose names begin with test_, in files whose names end in _test.rego";
            fail(&anyhow::anyhow!("no tests found"), hint, NOT_SO)
        }
        Ok(tests) => report(&tests, output, verbose),
    }
}

fn report(tests: &[Test], output: Output, verbose: bool) -> ExitCode {
    let failed = tests.iter().filter(|test| test.outcome != Outcome::Pass).count();
    let passed = tests.len() - failed;
    let text = match output {
        Output::Text => {
            let told: String = tests.iter().map(|test| in_lines(test, verbose)).collect();
            format!("{told}{passed} passed, {failed} failed\n")
        }
        Output::Json => {
            let tests: Vec<_> = tests.iter().map(in_json).collect();
            format!("{}\n", json!({"passed": passed, "failed": failed, "tests": tests}))
        }
    };
    print(&text, if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(NOT_SO) })
}

fn in_lines(test: &Test, verbose: bool) -> String {
    let mut text = match test.outcome.why() {
        Some(why) => format!("FAIL {}: {}: {why}\n", test.place, test.name),
        None if verbose => format!("pass {}: {} ({:.1?})\n", test.place, test.name, test.duration),
        None => return String::new(),
    };
    text.extend(test.printed.iter().map(|line| format!("     {line}\n")));
    text
}

fn in_json(test: &Test) -> serde_json::Value {
    json!({
        "name": test.name,
        "place": test.place,
        "passed": test.outcome == Outcome::Pass,
        "why": test.outcome.why(),
        "seconds": test.duration.as_secs_f64(),
        "printed": test.printed,
    })
}
