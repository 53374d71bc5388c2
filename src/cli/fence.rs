//! `tollgate fence`: the kernel's rules around a pod, and the CNI plugin that puts them there.

use std::{fs, io, net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::{Context, anyhow};
use clap::Subcommand;

use super::{NOT_PERMITTED, NOT_SO, Output, UNAVAILABLE, USAGE, fail, print};
use crate::{
    kubernetes::{
        AUTHORITY_DIR, cni,
        fence::{
            self, Failure, Fence,
            check::{Question, Report, check},
            rules,
        },
    },
    telemetry::logs,
};

/// What `tollgate fence` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put the fence around this network namespace, or take it away. Needs NET_ADMIN.
    Apply {
        #[command(flatten)]
        fence: FenceArgs,
        /// Take it away instead.
        #[arg(long)]
        remove: bool,
    },
    /// Try every way out, as an agent would; exit 1 if one is open.
    Check {
        #[command(flatten)]
        fence: FenceArgs,
        /// Write what was found here as well, for the sidecar.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        /// A path that an agent must not be able to read; may be repeated.
        #[arg(long, value_name = "PATH", default_value = AUTHORITY_DIR)]
        hidden: Vec<PathBuf>,
        /// For people, or for programs.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Print the rules in the language of `nft -f`.
    Print {
        #[command(flatten)]
        fence: FenceArgs,
    },
    /// Make this program a CNI plugin of this node, and keep it one until SIGTERM.
    Install {
        #[command(flatten)]
        fence: FenceArgs,
        /// Where the node's runtime finds plugins.
        #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
        bin_dir: PathBuf,
        /// Where the node's networks are configured.
        #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
        conf_dir: PathBuf,
        /// Take the entry out of the node's networks instead, and keep it away until SIGTERM.
        #[arg(long)]
        remove: bool,
        /// Where `/livez` and `/readyz` are served.
        #[arg(long, value_name = "ADDRESS")]
        health: Option<SocketAddr>,
        /// What is logged to standard error, as `level` or `module=level,…`.
        #[arg(long, value_name = "FILTER", env = "TOLLGATE_LOG", default_value = "info")]
        log: String,
    },
}

#[derive(Debug, clap::Args)]
struct FenceArgs {
    /// The sidecar's user, who is let out.
    #[arg(long, value_name = "UID", default_value_t = Fence::default().uid)]
    uid: u32,
    /// A further user that is let out, such as a mesh's proxy; may be repeated.
    #[arg(long, value_name = "UID")]
    exempt_uid: Vec<u32>,
    /// The port of the explicit proxy.
    #[arg(long, value_name = "PORT", default_value_t = Fence::default().proxy)]
    proxy_port: u16,
    /// The port of the listener for redirected connections.
    #[arg(long, value_name = "PORT", default_value_t = Fence::default().transparent)]
    transparent_port: u16,
    /// The port of the stub resolver.
    #[arg(long, value_name = "PORT", default_value_t = Fence::default().dns)]
    dns_port: u16,
}

impl FenceArgs {
    fn fence(self) -> Result<Fence, ExitCode> {
        let fence = Fence {
            uid: self.uid,
            exempt: self.exempt_uid,
            proxy: self.proxy_port,
            transparent: self.transparent_port,
            dns: self.dns_port,
        };
        match fence.flaw() {
            None => Ok(fence),
            Some(flaw) => Err(fail(&anyhow!(flaw), "", USAGE)),
        }
    }
}

/// Runs the subcommand.
pub fn run(args: Args) -> ExitCode {
    match args.command {
        Command::Apply { remove: true, .. } => done(fence::remove(rules::NAME)),
        Command::Apply { fence, remove: false } => with(fence, |fence| done(fence::apply(&fence.table()))),
        Command::Print { fence } => with(fence, |fence| print(&fence.table().replacement(), ExitCode::SUCCESS)),
        Command::Check { fence, report, hidden, output } => {
            with(fence, |fence| tell(&check(&Question { fence, hidden }), report.as_ref(), output))
        }
        Command::Install { fence, bin_dir, conf_dir, remove, health, log } => with(fence, |fence| {
            if let Err(error) = logs::init(&log) {
                return fail(&error, "a filter is a level, or `module=level` pairs with commas between", USAGE);
            }
            install(cni::install::Place { fence, bin_dir, conf_dir, health, remove })
        }),
    }
}

/// The program's exit code, where it was started as a CNI plugin: a runtime calls one without arguments and says in a
/// variable what it wants. `tollgate fence` alone does the same.
pub fn plugin_if_called() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let bare = match arguments.next() {
        None => true,
        Some(first) => first == "fence" && arguments.next().is_none(),
    };
    if !bare {
        return None;
    }
    let command = std::env::var("CNI_COMMAND").ok()?;
    let (text, code) = cni::answer(&command, &|name| std::env::var(name).ok(), io::stdin().lock());
    Some(print(&text, code))
}

fn with(args: FenceArgs, act: impl FnOnce(Fence) -> ExitCode) -> ExitCode {
    match args.fence() {
        Ok(fence) => act(fence),
        Err(code) => code,
    }
}

fn done(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = if matches!(failure, Failure::NotPermitted) { NOT_PERMITTED } else { UNAVAILABLE };
            let hint = failure.hint();
            fail(&anyhow::Error::from(failure).context("the fence could not be changed"), hint, code)
        }
    }
}

fn tell(report: &Report, file: Option<&PathBuf>, output: Output) -> ExitCode {
    let json = serde_json::to_string(report).expect("a report is plain data");
    if let Some(path) = file
        && let Err(error) = fs::write(path, &json).with_context(|| format!("--report {}", path.display()))
    {
        return fail(&error, "", UNAVAILABLE);
    }
    let code = if report.holds { ExitCode::SUCCESS } else { ExitCode::from(NOT_SO) };
    match output {
        Output::Text => print(&report.to_string(), code),
        Output::Json => print(&format!("{json}\n"), code),
    }
}

fn install(place: cni::install::Place) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), "", UNAVAILABLE),
    };
    match runtime.block_on(async { cni::install::run(&place, super::run::stop_signal()?).await }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, "", UNAVAILABLE),
    }
}
