//! `tollgate inject`: the sidecar put into pods, by a webhook or into manifests.

use std::{
    io::{self, Read},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use super::{BAD_INPUT, NOT_SO, UNAVAILABLE, USAGE, fail, fail_all, print, run::stop_signal};
use crate::{
    kubernetes::inject::{
        Config, manifest,
        serve::Webhook,
        wait::{self, Until},
    },
    memory,
    telemetry::logs,
};

/// What `tollgate inject` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Serve the admission webhook.
    Serve(Serve),
    /// Put the sidecar into the manifests on standard input, and write them to standard output.
    File(Configured),
    /// Wait for the sidecar of this pod: the hooks of clusters without native sidecars.
    #[command(hide = true)]
    Wait(Wait),
}

#[derive(Debug, clap::Args)]
struct Configured {
    /// How pods are injected.
    #[arg(long, value_name = "FILE", env = "TOLLGATE_INJECT_CONFIG", default_value = "inject.yaml")]
    config: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Serve {
    #[command(flatten)]
    configured: Configured,
    /// What is logged to standard error, as `level` or `module=level,…`.
    #[arg(long, value_name = "FILTER", env = "TOLLGATE_LOG", default_value = "info")]
    log: String,
}

#[derive(Debug, clap::Args)]
struct Wait {
    /// The sidecar's port for health and metrics.
    #[arg(long, value_name = "PORT")]
    health_port: u16,
    /// Wait until no connection is open, instead of until it serves.
    #[arg(long)]
    idle: bool,
    /// How long to wait, in seconds; with 0 it looks once.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
}

/// Does what it says.
pub fn run(args: Args) -> ExitCode {
    match args.command {
        Command::Serve(serve) => run_serve(&serve),
        Command::File(configured) => file(&configured),
        Command::Wait(wait) => run_wait(&wait),
    }
}

fn run_serve(args: &Serve) -> ExitCode {
    if let Err(error) = logs::init(&args.log) {
        return fail(&error, "a filter is a level, or `module=level` pairs with commas between", USAGE);
    }
    if let Err(error) = memory::keep_private() {
        return fail(&error.into(), "", UNAVAILABLE);
    }
    let config = match load(&args.configured) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), "", UNAVAILABLE),
    };
    match runtime.block_on(serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, "", UNAVAILABLE),
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let webhook = Webhook::bind(config).await?;
    let stop = stop_signal()?;
    tracing::info!(address = %webhook.address()?, "serving reviews");
    webhook.serve(stop).await;
    Ok(())
}

fn file(args: &Configured) -> ExitCode {
    let config = match load(args) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let mut text = String::new();
    match io::stdin().lock().take(LONGEST + 1).read_to_string(&mut text) {
        Ok(_) if text.len() as u64 > LONGEST => {
            return fail_all(["standard input holds more than 64 MiB"], "", BAD_INPUT);
        }
        Ok(_) => {}
        Err(error) => return fail_all([format!("standard input can't be read: {error}")], "", BAD_INPUT),
    }
    match manifest::inject_text(&text, &config) {
        Ok(manifests) => {
            for warning in &manifests.warnings {
                eprintln!("warning: {warning}");
            }
            print(&manifests.text, ExitCode::SUCCESS)
        }
        Err(errors) => {
            fail_all(errors, "nothing was written; each error begins with its document and field", BAD_INPUT)
        }
    }
}

fn run_wait(args: &Wait) -> ExitCode {
    let until = if args.idle { Until::Idle } else { Until::Serving };
    if wait::wait(args.health_port, until, Duration::from_secs(args.timeout)) {
        return ExitCode::SUCCESS;
    }
    let what = match until {
        Until::Serving => "does not serve yet",
        Until::Idle => "still has open connections",
    };
    fail_all([format!("after {} s the sidecar {what}", args.timeout)], "", NOT_SO)
}

fn load(args: &Configured) -> Result<Config, ExitCode> {
    Config::load(&args.config, &|name| std::env::var(name).ok())
        .map_err(|problems| super::config::refuse_with(&problems, "docs/inject.md describes every key"))
}

const LONGEST: u64 = 64 << 20;
