//! `tollgate demo`: one complete situation, told as it happens.

use std::process::ExitCode;

use super::{NOT_SO, UNAVAILABLE, fail};
use crate::demo::{self, Output};

/// What `tollgate demo` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Text for people or JSON lines for programs.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    output: Format,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Runs the demonstration; exits with 1 if anything did not go as told.
pub fn run(args: Args) -> ExitCode {
    let output = match args.output {
        Format::Text => Output::Text,
        Format::Json => Output::Json,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), "", UNAVAILABLE),
    };
    match runtime.block_on(demo::run(output)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_SO),
        Err(error) => fail(&error, "", NOT_SO),
    }
}
