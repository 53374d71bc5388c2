//! `tollgate config`: check, explain and show configuration.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;
use serde_json::json;

use super::{BAD_CONFIGURATION, Output, fail, print};
use crate::{
    config::{
        Config, Problem, Problems, ready,
        settings::{self, Settings},
    },
    policy::bundle::LoadError,
    sidecar,
};

/// Check and explain configuration.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say everything that is wrong with a configuration file or its policy; exit 78 if something is.
    Check {
        /// The configuration file.
        file: PathBuf,
        /// For people, or for programs.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Print the JSON Schema of the configuration file.
    Schema {
        /// It is JSON either way.
        #[arg(long, value_enum, default_value_t = Output::Json)]
        output: Output,
    },
    /// Print a configuration file with every default filled in.
    Show {
        /// The configuration file.
        file: PathBuf,
        /// YAML for people, JSON for programs.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}

/// Runs the subcommand.
pub fn run(args: Args) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    match args.command {
        Command::Check { file, output } => check(&file, output, &env),
        // A schema has one form.
        Command::Schema { output: Output::Text | Output::Json } => print(&settings::schema(), ExitCode::SUCCESS),
        Command::Show { file, output } => match ready::read_file(&file, &env) {
            Ok((settings, _)) => show(&settings, output),
            Err(problems) => refuse(&problems),
        },
    }
}

/// Prints every problem, then one hint, and says that the configuration is bad.
pub fn refuse(problems: &Problems) -> ExitCode {
    tell(problems, "`tollgate config schema` describes every key")
}

/// As [`refuse`], with another hint.
pub fn refuse_with(problems: &Problems, hint: &str) -> ExitCode {
    tell(problems, hint)
}

/// Prints everything that keeps the policy of a configuration from being used, and says that the configuration is bad.
pub fn refuse_policy(file: &Path, error: &LoadError) -> ExitCode {
    tell(&of_policy(file, error), "`tollgate config check FILE` tries the policy too, and starts nothing")
}

fn tell(problems: &Problems, hint: &str) -> ExitCode {
    let mut stderr = io::stderr().lock();
    // Where nobody reads what is printed, the exit code still says it.
    let _ = stderr.write_all(explain(problems, hint).as_bytes());
    ExitCode::from(BAD_CONFIGURATION)
}

fn of_policy(file: &Path, error: &LoadError) -> Problems {
    let mut problems = Problems::default();
    for problem in error.problems() {
        problems.push(Problem {
            file: file.display().to_string(),
            line: None,
            path: "policy".to_owned(),
            message: problem.clone(),
        });
    }
    problems
}

fn explain(problems: &Problems, hint: &str) -> String {
    let mut text: String = problems.iter().map(|problem| format!("error: {problem}\n")).collect();
    if problems.omitted() > 0 {
        text.push_str(&format!("error: {} further problems are not listed\n", problems.omitted()));
    }
    text.push_str(&format!("hint: {hint}\n"));
    text
}

fn check(file: &Path, output: Output, env: &dyn Fn(&str) -> Option<String>) -> ExitCode {
    match Config::load(file, env) {
        Err(problems) if output == Output::Text => refuse(&problems),
        Err(problems) => print_report(file, &problems, &[]),
        Ok(config) => {
            let warnings = config.warnings();
            if output == Output::Text {
                let lines: String = warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
                let _ = io::stderr().lock().write_all(lines.as_bytes());
            }
            match sidecar::compile(&config.policy) {
                Err(error) if output == Output::Text => {
                    tell(&of_policy(file, &error), "`tollgate policy test PATH` tells what its tests say")
                }
                Err(error) => print_report(file, &of_policy(file, &error), &warnings),
                Ok(_) if output == Output::Text => print(&format!("{}: valid\n", file.display()), ExitCode::SUCCESS),
                Ok(_) => print_report(file, &Problems::default(), &warnings),
            }
        }
    }
}

fn print_report(file: &Path, problems: &Problems, warnings: &[Problem]) -> ExitCode {
    let code = if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(BAD_CONFIGURATION) };
    print(&report(file, problems, warnings), code)
}

fn report(file: &Path, problems: &Problems, warnings: &[Problem]) -> String {
    let list: Vec<&Problem> = problems.iter().collect();
    let report = json!({
        "file": file.display().to_string(),
        "valid": problems.is_empty(),
        "problems": list,
        "omitted": problems.omitted(),
        "warnings": warnings,
    });
    format!("{report:#}\n")
}

fn show(settings: &Settings, output: Output) -> ExitCode {
    let shown = match output {
        Output::Text => serde_saphyr::to_string(settings).map_err(anyhow::Error::from),
        Output::Json => serde_json::to_string_pretty(settings).map(|text| text + "\n").map_err(anyhow::Error::from),
    };
    match shown {
        Ok(text) => print(&text, ExitCode::SUCCESS),
        Err(error) => fail(&error, "", BAD_CONFIGURATION),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Settings, Config), Problems> {
        ready::read(text, Path::new("/etc/tollgate"), "tollgate.yaml", &|_| None)
    }

    #[test]
    fn problems_are_printed_one_a_line_and_then_one_hint() {
        let problems = read("mode: off\nagent: {nam: x}\n").unwrap_err();
        insta::assert_snapshot!(explain(&problems, "be careful"), @r"
        error: tollgate.yaml:1: mode: unknown value `off`, expected `enforce` or `shadow`
        error: tollgate.yaml:2: agent.nam: unknown key; did you mean `name`?
        error: tollgate.yaml:2: agent.identity: is required: {kind: static, id: …}
        hint: be careful
        ");
        insta::assert_snapshot!(report(Path::new("tollgate.yaml"), &problems, &[]), @r#"
        {
          "file": "tollgate.yaml",
          "omitted": 0,
          "problems": [
            {
              "file": "tollgate.yaml",
              "line": 1,
              "message": "unknown value `off`, expected `enforce` or `shadow`",
              "path": "mode"
            },
            {
              "file": "tollgate.yaml",
              "line": 2,
              "message": "unknown key; did you mean `name`?",
              "path": "agent.nam"
            },
            {
              "file": "tollgate.yaml",
              "line": 2,
              "message": "is required: {kind: static, id: …}",
              "path": "agent.identity"
            }
          ],
          "valid": false,
          "warnings": []
        }
        "#);
    }

    #[test]
    fn what_is_shown_reads_as_the_same_configuration() {
        let text = "agent: {identity: {kind: static, id: 'spiffe://example.org/triage'}}\n\
                    destinations: {github: {hosts: [api.github.com], credential: legacy}}\n\
                    credentials: {legacy: {kind: file, file: legacy, owner: team-x, as: {header: X-Api-Key}}}\n";
        let (settings, _) = read(text).unwrap();
        let shown = serde_saphyr::to_string(&settings).unwrap();
        insta::assert_snapshot!(shown, @r#"
        mode: enforce
        profile: standard
        agent:
          name: triage
          identity:
            kind: static
            id: spiffe://example.org/triage
        listen:
          proxy: null
          transparent: null
          dns: null
          health: null
          admin: null
        tls:
          authority:
            dir: null
            trust_bundle: null
            java_trust_store: null
          origin_roots:
            system: true
            files: []
        destinations:
          github:
            hosts:
            - api.github.com
            ports:
            - 443
            reach:
            - public
            addresses: []
            protocol: http
            tls: intercept
            zone: internet
            environment: ""
            classification: internal
            secrets:
              kinds: {}
              bodies: false
            credential: legacy
            placeholder: null
        credentials:
          legacy:
            kind: file
            file: legacy
            as:
              header: X-Api-Key
            owner: team-x
            expires: null
        policy:
          paths: []
          decision: tollgate/decision
          budget: 10ms
          cache:
            entries: 10000
            ttl: 5s
        tasks:
          source: null
          static: null
          max_ttl: 1d
        audit:
          file: null
          durable: buffered
        telemetry:
          otlp: null
        state:
          kind: memory
        limits:
          connections: 1024
          header_bytes: 64KiB
          inspect_bytes: 1MiB
          inspect_total: 32MiB
          json_depth: 64
          sniff: 250ms
        "#);
        assert_eq!(read(&shown).unwrap().0, settings);
    }

    #[test]
    fn the_exit_code_says_whether_the_configuration_is_good() {
        for output in [Output::Text, Output::Json] {
            let bad = check(Path::new("/nonexistent.yaml"), output, &|_| None);
            assert_eq!(format!("{bad:?}"), format!("{:?}", ExitCode::from(78)));
        }
    }

    #[test]
    fn the_problems_of_a_policy_are_those_of_its_configuration() {
        let error = LoadError::one("team.rego:2:13: nothing is not a function");
        let problems = of_policy(Path::new("tollgate.yaml"), &error);
        assert_eq!(problems.to_string(), "tollgate.yaml: policy: team.rego:2:13: nothing is not a function");
    }
}
