//! `tollgate exec`: one command behind a sidecar of its own.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use super::{USAGE, fail};
use crate::{
    exec::{self, FENCE_HINT, Options, allow::Allow, fence::Wanted, inside},
    telemetry::logs,
};

/// What `tollgate exec` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A configuration file, in place of `--allow`.
    #[arg(long, value_name = "FILE", conflicts_with = "allow")]
    config: Option<PathBuf>,
    /// A file or directory of policy; may be repeated. Without one the shipped policy permits what `--allow` names.
    #[arg(long, value_name = "PATH")]
    policy: Vec<PathBuf>,
    /// What the command is for; policy and records see it.
    #[arg(long, value_name = "TEXT")]
    purpose: Option<String>,
    /// How the command is kept to the sidecar.
    #[arg(long, value_enum, default_value_t)]
    fence: Wanted,
    /// A host that may be called, at ports 443 and 80 or at the one given; `=ADDRESS` pins where it leads. May be repeated.
    #[arg(long, value_name = "HOST[:PORT][=ADDRESS]")]
    allow: Vec<Allow>,
    /// A PEM file whose certificates verify origins, beside the system's. May be repeated.
    #[arg(long = "origin-root", value_name = "FILE")]
    origin_roots: Vec<PathBuf>,
    /// The file that records are appended to, one line per call.
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// What is logged to standard error, as `level` or `module=level,…`.
    #[arg(long, value_name = "FILTER", env = "TOLLGATE_LOG", default_value = "warn")]
    log: String,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// What the inside of a fence takes.
#[derive(Debug, clap::Args)]
pub struct InsideArgs {
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Runs the command and exits as it does.
pub fn run(args: Args) -> ExitCode {
    if let Err(error) = logs::init(&args.log) {
        return fail(&error, "", USAGE);
    }
    let options = Options {
        config: args.config,
        policy: args.policy,
        purpose: args.purpose,
        fence: args.fence,
        allow: args.allow,
        origin_roots: args.origin_roots,
        audit: args.audit,
        command: args.command,
    };
    match exec::run(&options, &|name| std::env::var(name).ok(), warn_of_open_fence) {
        Ok(code) => code,
        Err(failure) => {
            let (code, hint) = (failure.code(), failure.hint());
            fail(&failure.into(), hint, code)
        }
    }
}

/// Builds the fence around this process, then becomes the command.
pub fn run_inside(args: InsideArgs) -> ExitCode {
    inside::enter(&args.command)
}

/// The command runs all the same, so this is said where a person sees it.
fn warn_of_open_fence(why: &str) {
    eprintln!("warning: the command is led to the sidecar by variables only (assurance L0): {why}");
    eprintln!("hint: {FENCE_HINT}; `--fence netns` refuses to go on without");
}
