//! `tollgate demo`: one complete situation, told as it happens.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use super::{NOT_SO, Output, Stdout, UNAVAILABLE, fail};
use crate::demo;

/// What `tollgate demo` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For people, or for programs: a JSON document a line.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Runs the demonstration; exits with 1 if anything did not go as told.
pub fn run(args: Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), "", UNAVAILABLE),
    };
    let colour = io::stdout().is_terminal();
    match runtime.block_on(demo::run(args.output, colour, &mut Stdout)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_SO),
        Err(error) => fail(&error, "", UNAVAILABLE),
    }
}
