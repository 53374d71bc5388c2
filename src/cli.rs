//! The command line: one file a subcommand, each a thin call into the library.
//!
//! Exit codes: 0 done, 1 the thing asked about is not so, 64 usage, 65 bad input, 69 a service it needs is unavailable,
//! 77 not permitted, 78 bad configuration. `exec` exits with its command's code.

pub mod config;
pub mod demo;
pub mod exec;
pub mod policy;
pub mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand, error::ErrorKind};

/// The sidecar that makes it safe to give an AI agent real access.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar.
    Run(run::Args),
    /// Run one command behind a sidecar of its own.
    Exec(exec::Args),
    /// The inside of a fence: enters its namespaces, then becomes the command.
    #[command(hide = true)]
    ExecInside(exec::InsideArgs),
    /// One complete situation, told as it happens.
    Demo(demo::Args),
    /// Check and explain configuration.
    Config(config::Args),
    /// Test and evaluate policy.
    Policy(policy::Args),
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    // The text of a panic can quote what passed through; its place is what helps.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        eprintln!("error: a fault in the program at {place}");
    }));
    match Cli::try_parse() {
        Ok(cli) => cli.command.run(),
        Err(error) => {
            // Nothing better can be done if even this can't be printed.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            }
        }
    }
}

impl Command {
    fn run(self) -> ExitCode {
        match self {
            Self::Run(args) => run::run(args),
            Self::Exec(args) => exec::run(args),
            Self::ExecInside(args) => exec::run_inside(args),
            Self::Demo(args) => demo::run(args),
            Self::Config(args) => config::run(args),
            Self::Policy(args) => policy::run(args),
        }
    }
}

/// Tells a person what failed, with all of its causes, and what to do about it.
pub fn fail(error: &anyhow::Error, hint: &str, code: u8) -> ExitCode {
    eprintln!("error: {error:#}");
    if !hint.is_empty() {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(code)
}

/// The thing asked about is not so.
pub const NOT_SO: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 64;
/// The input is wrong.
pub const BAD_INPUT: u8 = 65;
/// A service that is needed is unavailable.
pub const UNAVAILABLE: u8 = 69;
/// Not permitted.
pub const NOT_PERMITTED: u8 = 77;
/// The configuration is wrong.
pub const BAD_CONFIGURATION: u8 = 78;
