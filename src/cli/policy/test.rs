//! `tollgate policy test`: runs the tests that policies bring along.

use std::{path::PathBuf, process::ExitCode};

use serde_json::json;

use super::{Output, refuse};
use crate::{
    cli::{NOT_SO, fail},
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
    match output {
        Output::Text => {
            tests.iter().for_each(|test| tell(test, verbose));
            println!("{passed} passed, {failed} failed");
        }
        Output::Json => {
            let tests: Vec<_> = tests.iter().map(in_json).collect();
            println!("{}", json!({"passed": passed, "failed": failed, "tests": tests}));
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(NOT_SO) }
}

fn tell(test: &Test, verbose: bool) {
    if let Some(why) = test.outcome.why() {
        println!("FAIL {}: {}: {why}", test.place, test.name);
    } else if verbose {
        println!("pass {}: {} ({:.1?})", test.place, test.name, test.duration);
    }
    if verbose || test.outcome != Outcome::Pass {
        for line in &test.printed {
            println!("     {line}");
        }
    }
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
