//! `tollgate policy`: test and evaluate policy.

mod eval;
mod test;

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;

use super::{BAD_INPUT, Output, fail_all};
use crate::policy::{bundle::LoadError, trial};

/// Test and evaluate policy.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the `test_` rules of `*_test.rego` files; exit 1 if one fails or there is none.
    Test {
        /// Files and directories with policy, data and tests. The shipped library is always there.
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// For people, or for programs.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
        /// Name the tests that pass too, and show what tests print.
        #[arg(short, long)]
        verbose: bool,
    },
    /// Decide one input document as the sidecar would; exit 1 if policy does not decide it.
    Eval {
        /// The configuration file whose policy is asked.
        #[arg(long, value_name = "FILE", conflicts_with = "policy")]
        config: Option<PathBuf>,
        /// Files and directories of policy and data. With neither, the shipped default is asked.
        #[arg(long, value_name = "PATH")]
        policy: Vec<PathBuf>,
        /// The input document; `-` is standard input. `matches` is filled in from the allow-list where it is missing.
        #[arg(long, value_name = "FILE", default_value = "-")]
        input: PathBuf,
        /// For people, or for programs.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// The child that tries a policy: limits itself, reads it from standard input, answers on standard output.
    #[command(hide = true)]
    TryLoad,
}

/// Runs the subcommand.
pub fn run(args: Args) -> ExitCode {
    match args.command {
        Command::Test { paths, output, verbose } => test::run(&paths, output, verbose),
        Command::Eval { config, policy, input, output } => eval::run(config.as_deref(), policy, &input, output),
        Command::TryLoad => match trial::answer_in_child() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => super::fail(&error.into(), "", BAD_INPUT),
        },
    }
}

/// Says everything that keeps a policy from being used.
fn refuse(error: &LoadError) -> ExitCode {
    fail_all(error.problems(), "a policy is used whole or not at all; correct each of these places", BAD_INPUT)
}
