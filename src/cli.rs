//! The command line: one file a subcommand, each a thin call into the library.
//!
//! Exit codes: 0 done, 1 the thing asked about is not so, 64 usage, 65 bad input, 69 a service it needs is unavailable,
//! 77 the right to do it is missing, 78 bad configuration. `exec` exits with its command's code. Errors go to standard
//! error as `error: …`, then `hint: …`.

pub mod config;
pub mod demo;
pub mod exec;
pub mod fence;
pub mod inject;
pub mod policy;
pub mod run;
pub mod task;

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};

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
    /// Open, show and end tasks.
    Task(task::Args),
    /// Put the sidecar into pods.
    Inject(inject::Args),
    /// The kernel's rules that keep a pod's agent to its sidecar.
    Fence(fence::Args),
}

/// How a command gives its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    // The text of a panic can quote what passed through; its place is what helps.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        complain(&format!("error: a fault in the program at {place}\n"));
    }));
    // The container runtime calls a network plugin without arguments.
    if let Some(code) = fence::plugin_if_called() {
        return code;
    }
    match Cli::try_parse() {
        Ok(cli) => cli.command.run(),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            written(unless_closed(error.print(), ()), ExitCode::SUCCESS)
        }
        Err(error) => {
            complain(&explain(&error, &command_of(std::env::args_os().skip(1))));
            ExitCode::from(USAGE)
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
            Self::Task(args) => task::run(args),
            Self::Inject(args) => inject::run(args),
            Self::Fence(args) => fence::run(args),
        }
    }
}

/// Tells a person what failed, with all of its causes, and what to do about it.
pub fn fail(error: &anyhow::Error, hint: &str, code: u8) -> ExitCode {
    fail_all([format!("{error:#}")], hint, code)
}

/// Tells a person of several failures, and what to do about them.
pub fn fail_all(errors: impl IntoIterator<Item: Display>, hint: &str, code: u8) -> ExitCode {
    let mut text: String = errors.into_iter().map(|error| format!("error: {error}\n")).collect();
    if !hint.is_empty() {
        text.push_str(&format!("hint: {hint}\n"));
    }
    complain(&text);
    ExitCode::from(code)
}

/// Writes to standard output what a command has to say, and exits with `code`, whether or not anybody reads on.
pub fn print(text: &str, code: ExitCode) -> ExitCode {
    written(Stdout.write_all(text.as_bytes()).and_then(|()| Stdout.flush()), code)
}

/// Standard output. A reader that has seen enough closes the pipe, which is no failure: what follows goes nowhere.
#[derive(Debug)]
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless_closed(io::stdout().write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        unless_closed(io::stdout().flush(), ())
    }
}

fn unless_closed<T>(written: io::Result<T>, nowhere: T) -> io::Result<T> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(nowhere),
        Err(error) => Err(io::Error::new(error.kind(), format!("standard output can't be written: {error}"))),
        Ok(written) => Ok(written),
    }
}

fn written(written: io::Result<()>, code: ExitCode) -> ExitCode {
    match written {
        Ok(()) => code,
        Err(error) => fail(&error.into(), "", UNAVAILABLE),
    }
}

/// Where nobody reads what is complained of, the exit code still says it.
fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// What is wrong with a command line: the error in one line, then hints.
fn explain(error: &clap::Error, command: &str) -> String {
    let rendered = error.render().to_string();
    let (said, rest) = rendered.split_once("\n\n").unwrap_or((&rendered, ""));
    let said = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => "no command is given",
        _ => said.trim_start_matches("error: "),
    };
    let mut text = format!("error: {}\n", said.lines().map(str::trim).collect::<Vec<_>>().join(" "));
    for tip in rest.lines().filter_map(|line| line.trim_start().strip_prefix("tip: ")) {
        text.push_str(&format!("hint: {tip}\n"));
    }
    text.push_str(&format!("hint: `{command} --help` says what there is\n"));
    text
}

/// The command that these arguments name, as far as there is one: `tollgate policy eval`.
fn command_of(arguments: impl Iterator<Item = OsString>) -> String {
    let root = Cli::command();
    let (mut command, mut name) = (&root, root.get_name().to_owned());
    for argument in arguments {
        let Some(next) = command.find_subcommand(&argument) else { break };
        (command, name) = (next, format!("{name} {}", next.get_name()));
    }
    name
}

/// The thing asked about is not so.
pub const NOT_SO: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 64;
/// The input is wrong.
pub const BAD_INPUT: u8 = 65;
/// A service that is needed is unavailable.
pub const UNAVAILABLE: u8 = 69;
/// The right to do it is missing.
pub const NOT_PERMITTED: u8 = 77;
/// The configuration is wrong.
pub const BAD_CONFIGURATION: u8 = 78;

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(line: &str) -> String {
        let arguments = || line.split(' ').filter(|word| !word.is_empty());
        let error = Cli::try_parse_from(["tollgate"].into_iter().chain(arguments())).unwrap_err();
        explain(&error, &command_of(arguments().map(OsString::from)))
    }

    #[test]
    fn a_wrong_command_line_is_an_error_and_then_hints() {
        insta::assert_snapshot!(explained(""), @r"
        error: no command is given
        hint: `tollgate --help` says what there is
        ");
        insta::assert_snapshot!(explained("policy"), @r"
        error: no command is given
        hint: `tollgate policy --help` says what there is
        ");
        insta::assert_snapshot!(explained("polcy"), @r"
        error: unrecognized subcommand 'polcy'
        hint: a similar subcommand exists: 'policy'
        hint: `tollgate --help` says what there is
        ");
        insta::assert_snapshot!(explained("policy eval --inptu x"), @r"
        error: unexpected argument '--inptu' found
        hint: a similar argument exists: '--input'
        hint: `tollgate policy eval --help` says what there is
        ");
        insta::assert_snapshot!(explained("policy test"), @r"
        error: the following required arguments were not provided: <PATH>...
        hint: `tollgate policy test --help` says what there is
        ");
        insta::assert_snapshot!(explained("demo --output xml"), @r"
        error: invalid value 'xml' for '--output <OUTPUT>' [possible values: text, json]
        hint: `tollgate demo --help` says what there is
        ");
        insta::assert_snapshot!(explained("exec --config f --allow h -- true"), @r"
        error: the argument '--config <FILE>' cannot be used with '--allow <HOST[:PORT][=ADDRESS]>'
        hint: `tollgate exec --help` says what there is
        ");
    }

    #[test]
    fn only_a_closed_pipe_is_no_failure() {
        let error = |kind: io::ErrorKind| Err(io::Error::from(kind));
        assert_eq!(unless_closed(error(io::ErrorKind::BrokenPipe), 7).unwrap(), 7);
        assert!(unless_closed(error(io::ErrorKind::StorageFull), 7).is_err());
        assert_eq!(unless_closed(Ok(3), 7).unwrap(), 3);
    }
}
