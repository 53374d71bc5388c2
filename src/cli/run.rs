//! `tollgate run`: the sidecar.

use std::{io, path::PathBuf, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};

use super::{UNAVAILABLE, USAGE, fail};
use crate::{
    config::Config,
    memory,
    policy::bundle::LoadError,
    sidecar::{self, Listeners},
    telemetry::logs,
};

/// What `tollgate run` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG", default_value = "tollgate.yaml")]
    config: PathBuf,
    /// What is logged to standard error, as `level` or `module=level,…`.
    #[arg(long, value_name = "FILTER", env = "TOLLGATE_LOG", default_value = "info")]
    log: String,
}

/// Runs the sidecar until SIGTERM or SIGINT.
pub fn run(args: Args) -> ExitCode {
    memory::keep_small();
    if let Err(error) = memory::keep_private().and_then(|()| memory::never_dump()) {
        return fail(&error.into(), "", UNAVAILABLE);
    }
    if let Err(error) = logs::init(&args.log) {
        return fail(&error, "a filter is a level, or `module=level` pairs with commas between", USAGE);
    }
    let config = match Config::load(&args.config, &|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(problems) => return super::config::refuse(&problems),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), "", UNAVAILABLE),
    };
    match runtime.block_on(serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<LoadError>() {
            Some(error) => super::config::refuse_policy(&args.config, error),
            None => fail(&error, "", UNAVAILABLE),
        },
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let listeners = Listeners::bind(&config.listen).await?;
    let stop = stop_signal()?;
    sidecar::run(listeners, config, stop).await
}

/// Resolves at the first SIGTERM or SIGINT.
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
