//! Runs one command behind a sidecar of its own, and ends with it.
//!
//! The command is kept to the sidecar by a network namespace whose only way out is the sidecar ([`fence`]), or, where
//! that can't be had, led to it by variables ([`environment`]). The order is: the fence, while this process has one
//! thread; then the sidecar; then, once it serves, the command. The sidecar ends with the command, not before.

pub mod allow;
pub mod environment;
pub mod fence;
pub mod handover;
pub mod inside;
pub mod rules;
pub mod supervise;

use std::{
    ffi::{OsStr, OsString},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use serde_json::json;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use self::{allow::Allow, environment::Scratch, fence::Fence, handover::Sockets, supervise::Supervision};
use crate::{
    config::{Config, HostPattern, StaticTask, Upstreams},
    memory,
    policy::bundle::LoadError,
    sidecar::{Listeners, Sidecar},
    tls::truststore,
};

/// What to run, and behind what.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A configuration file, in place of `allow`.
    pub config: Option<PathBuf>,
    /// Files and directories of policy, in place of those that the configuration names.
    pub policy: Vec<PathBuf>,
    /// What the command is for.
    pub purpose: Option<String>,
    /// How it is kept to the sidecar.
    pub fence: fence::Wanted,
    /// Where it may call.
    pub allow: Vec<Allow>,
    /// Further PEM files whose certificates verify origins.
    pub origin_roots: Vec<PathBuf>,
    /// The file that records are appended to.
    pub audit: Option<PathBuf>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// Why the command was not run.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration can't be used.
    #[error("{0}")]
    Configuration(String),
    /// The wanted fence can't be had.
    #[error("the command can't be fenced in: {0}")]
    Fence(String),
    /// The command can't be started.
    #[error("can't run `{program}`: {why}")]
    Command {
        /// What was to be run.
        program: String,
        /// Whether it does not exist.
        not_found: bool,
        /// Why it can't be run.
        why: String,
    },
    /// The sidecar did not start.
    #[error("the sidecar can't start: {0:#}")]
    Sidecar(anyhow::Error),
    /// The operating system said no.
    #[error("can't set up the sidecar: {0}")]
    System(#[from] io::Error),
}

impl Failure {
    fn command(program: &OsStr, not_found: bool, why: &str) -> Self {
        Self::Command { program: program.to_string_lossy().into_owned(), not_found, why: why.to_owned() }
    }

    /// The exit code: as a shell's where the command itself is at fault.
    pub fn code(&self) -> u8 {
        match self {
            Self::Configuration(_) => 78,
            Self::Sidecar(error) if error.is::<LoadError>() => 78,
            Self::Fence(_) | Self::Sidecar(_) | Self::System(_) => 69,
            Self::Command { not_found: true, .. } => 127,
            Self::Command { not_found: false, .. } => 126,
        }
    }

    /// What to do about it; empty where the message says it all.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Fence(_) => FENCE_HINT,
            Self::Command { not_found: true, .. } => "the command stands after `--`, as in `tollgate exec -- curl …`",
            Self::Configuration(_) | Self::Command { not_found: false, .. } | Self::Sidecar(_) | Self::System(_) => "",
        }
    }
}

/// What helps where namespaces can't be had.
pub const FENCE_HINT: &str = "install iproute2, and let this user make user namespaces (containers: a \
                              seccomp profile that permits them; Ubuntu: an AppArmor profile for tollgate)";

/// Runs the command to its end and returns its exit code. `env` reads the environment; `note` tells the user why an
/// optional fence is missing.
///
/// Must be called while the process has a single thread.
///
/// # Errors
/// Why the command was not run.
pub fn run(
    options: &Options,
    env: &dyn Fn(&str) -> Option<String>,
    note: impl FnOnce(&str),
) -> Result<ExitCode, Failure> {
    // The command may run as the same user, who could otherwise read this process's memory where no fence forbids it.
    memory::keep_private()?;
    if options.command.is_empty() {
        return Err(Failure::Configuration("there is no command to run".to_owned()));
    }
    let config = options.config(env)?;
    let scratch = Scratch::create()?;
    let fence = Fence::raise(options.fence, &options.command, loopback(&config.upstreams), note)?;
    config.agent.assurance.set(fence.assurance());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let java_options = env("JAVA_TOOL_OPTIONS");
    let status = runtime.block_on(behind(config, fence, &scratch, &options.command, java_options.as_deref()))?;
    Ok(supervise::exit_code(status))
}

/// Starts the sidecar, then the command, and stops the sidecar when the command has ended.
async fn behind(
    config: Config,
    mut fence: Fence,
    scratch: &Scratch,
    command: &[OsString],
    java_options: Option<&str>,
) -> Result<ExitStatus, Failure> {
    let mut supervision = Supervision::begin()?;
    let proxy = fence.proxy()?;
    let mut listeners = Listeners::bind(&config.listen).await.map_err(Failure::Sidecar)?;
    adopt(fence.take_sockets(), &mut listeners)?;
    let direct: Vec<&str> = if fence.owns_loopback() {
        LOOPBACK_NAMES.into_iter().filter(|name| !config.upstreams.covers_name(name)).collect()
    } else {
        Vec::new()
    };
    // The command inherits the environment otherwise.
    let secrets: Vec<&str> = config.environment_secrets.iter().map(|secret| secret.0.as_str()).collect();
    let ours = environment::holding(std::env::vars_os(), &secrets);
    let sidecar = Sidecar::start(config, &listeners).await.map_err(Failure::Sidecar)?;

    let mut trusted = sidecar.origin_tls().roots().to_vec();
    let bundle = truststore::trust_bundle(sidecar.authority(), &trusted);
    trusted.push(sidecar.authority().certificate().clone());
    let trust = scratch.write_trust(&bundle, &truststore::jks(&trusted))?;

    let stop = CancellationToken::new();
    let serving = tokio::spawn(sidecar.serve(listeners, stop.clone().cancelled_owned()));
    let mut changes = environment::changes(proxy, &trust, &direct, java_options);
    changes.remove.extend(ours);
    let ended = match fence.let_go(command, &changes) {
        Ok(mut child) => supervision.wait(&mut child).await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    stop.cancel();
    if let Err(error) = serving.await {
        tracing::error!(%error, "the sidecar did not stop in order");
    }
    ended
}

/// Lets the runtime serve sockets that were bound without it.
fn adopt(sockets: Sockets, listeners: &mut Listeners) -> io::Result<()> {
    let tcp = |socket: std::net::TcpListener| {
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket)
    };
    let udp = |socket: std::net::UdpSocket| {
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    listeners.proxy = sockets.proxy.into_iter().map(tcp).collect::<io::Result<_>>()?;
    listeners.transparent = sockets.transparent.into_iter().map(tcp).collect::<io::Result<_>>()?;
    listeners.dns = sockets.dns.into_iter().map(udp).collect::<io::Result<_>>()?;
    Ok(())
}

impl Options {
    /// The configuration: a file's, or one made of the flags, with what only `exec` decides put in.
    fn config(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Failure> {
        let mut config = match &self.config {
            Some(file) => Config::load(file, env).map_err(|problems| Failure::Configuration(problems.to_string()))?,
            None => self.config_of_flags()?,
        };
        if !self.policy.is_empty() {
            config.policy.paths = self.policy.clone();
            // A reload of the file would bring back the policy that it names.
            config.file = None;
        }
        if let Some(purpose) = &self.purpose {
            config.tasks.fixed = Some(StaticTask::new(purpose, LONGEST_TASK));
        }
        if let Some(file) = &self.audit {
            config.audit.file = Some(file.clone());
        }
        config.tls.root_files.extend(self.origin_roots.iter().cloned());
        // The listeners and the bundle are this command's own.
        config.listen.proxy = None;
        config.listen.transparent = None;
        config.listen.dns = None;
        // The command may run as the same user, who could open tasks for itself there.
        config.listen.admin = None;
        config.pod = None;
        config.tls.trust_bundle = None;
        config.limits.drain = config.limits.drain.min(LONGEST_DRAIN);
        Ok(config)
    }

    /// Written as a configuration and read like one, so that flags and files are checked alike.
    fn config_of_flags(&self) -> Result<Config, Failure> {
        let destinations = allow::destinations(&self.allow).map_err(Failure::Configuration)?;
        let agent = json!({"name": AGENT, "identity": {"kind": "static", "id": AGENT}});
        let text = json!({"agent": agent, "destinations": destinations}).to_string();
        // No variables: what the shell did not expand was not meant to be.
        let mut config = Config::parse(&text, Path::new(""), "command line", &|_| None)
            .map_err(|problems| Failure::Configuration(problems.to_string()))?;
        config.policy.data = Some(allow::policy_data(&self.allow));
        Ok(config)
    }
}

/// The loopback addresses that are destinations by an address or by the name that every machine gives them.
fn loopback(upstreams: &Upstreams) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for upstream in upstreams.iter() {
        for host in &upstream.hosts {
            let HostPattern::Exact(name) = host else { continue };
            let ips = match name.parse::<IpAddr>() {
                Ok(ip) if ip.is_loopback() => vec![ip],
                Ok(_) => Vec::new(),
                Err(_) if name == "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
                Err(_) => Vec::new(),
            };
            found.extend(
                ips.into_iter().flat_map(|ip| upstream.ports.iter().map(move |port| SocketAddr::new(ip, *port))),
            );
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Who the agent is where no configuration says it.
const AGENT: &str = "local";

/// Names of the command's own loopback.
const LOOPBACK_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The task ends with the command; this bounds a command that never ends.
const LONGEST_TASK: Duration = Duration::from_secs(24 * 60 * 60);

/// Who waits for the command waits for this too. Calls that are open when the command has ended belong to processes that
/// it left behind.
const LONGEST_DRAIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn options(allow: &[&str]) -> Options {
        let allow = allow.iter().map(|text| text.parse().expect("an --allow")).collect();
        Options { allow, ..Options::default() }
    }

    #[test]
    fn flags_make_a_whole_configuration() {
        let options = Options {
            purpose: Some("triage".into()),
            audit: Some("audit.jsonl".into()),
            origin_roots: vec!["root.pem".into()],
            ..options(&["api.example.com", "pinned.example.com:8443=127.0.0.1"])
        };
        let config = options.config(&|_| None).expect("usable");
        assert_eq!(config.agent.id.known(), Some("local"));
        assert!(config.upstreams.find("api.example.com", 443).is_some());
        assert!(config.upstreams.find("api.example.com", 80).is_some());
        let pinned = config.upstreams.find("pinned.example.com", 8443).expect("configured");
        assert_eq!(pinned.addresses, [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        assert_eq!(config.policy.data.expect("given")["tollgate"]["allow"][0]["destination"], "api.example.com");
        assert_eq!(config.tasks.fixed.expect("given").purpose, "triage");
        assert_eq!(config.audit.file, Some("audit.jsonl".into()));
        assert_eq!(config.tls.root_files, [PathBuf::from("root.pem")]);
        assert!(config.listen.proxy.is_none() && config.tls.trust_bundle.is_none());
    }

    #[test]
    fn without_an_allow_nothing_is_a_destination() {
        let config = options(&[]).config(&|_| None).expect("usable");
        assert_eq!(config.upstreams.iter().count(), 0);
        assert!(config.tasks.fixed.is_none(), "a task is never invented");
    }

    #[test]
    fn what_can_not_be_used_is_said_with_its_exit_code() {
        let twice = options(&["a.example.com", "a.example.com"]).config(&|_| None).expect_err("given twice");
        assert_eq!(twice.code(), 78);
        let overlap = options(&["a.example.com", "a.example.com:443"]).config(&|_| None).expect_err("both claim 443");
        assert_eq!(overlap.code(), 78);
        let missing = Options { config: Some("/nonexistent.yaml".into()), ..Options::default() };
        assert_eq!(missing.config(&|_| None).expect_err("no such file").code(), 78);
    }

    #[test]
    fn loopback_destinations_are_found_by_address_and_by_name() {
        let config = options(&["127.0.0.1:8080", "localhost:9090", "[::1]:7070", "api.example.com:443=127.0.0.1"])
            .config(&|_| None)
            .expect("usable");
        let expected: Vec<SocketAddr> = ["127.0.0.1:8080", "127.0.0.1:9090", "[::1]:7070", "[::1]:9090"]
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect();
        assert_eq!(loopback(&config.upstreams), expected);
    }
}
