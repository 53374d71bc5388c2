//! The process that builds the fence around itself and then becomes the command.
//!
//! It runs before any thread exists, because only a single thread may enter a user namespace. Its network namespace has
//! no interface but loopback, so that the sidecar's sockets, handed out of it, are the one way on: without the rules
//! below nothing more would be reachable, only less.
//!
//! What the rules do was tried on IPv4 and IPv6, as root and as another user:
//!
//! - A default route over `lo` alone gives IPv4 connections the source 0.0.0.0, and their answers get lost; so `lo` has
//!   an address for documentation (RFC 5737), which is also what makes resolvers believe that there is IPv4
//!   (`AI_ADDRCONFIG`).
//! - A redirect rewrites the destination to the loopback address of its family, so the listeners are there.
//! - A redirect of every port but ours by number alone would let a call to the same port elsewhere through to nothing;
//!   so ours are exempt together with their address.
//! - `reject` shows as EPERM to senders of UDP, at once, where `drop` would let them wait.
//! - An unprivileged user's programs lose all capabilities when they start another, so `ip` is given its own as an ambient
//!   one.

use std::{
    env,
    ffi::OsString,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, anyhow, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rustix::{
    io::Errno,
    process::{Signal, getgid, getppid, getuid, set_parent_process_death_signal},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, configure_capability_in_ambient_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

use super::{
    environment,
    handover::{Built, Channel, Go, NotStarted, Plan, Sockets},
    rules,
};
use crate::kubernetes::fence;

/// Builds the fence, hands the sockets out and becomes the command. Returns only if one of these fails, which the other
/// end of the channel has then been told.
pub fn enter(command: &[OsString]) -> ExitCode {
    let Ok(channel) = Channel::from_stdin() else {
        eprintln!("error: this is a part of `tollgate exec` and does nothing by itself");
        return ExitCode::from(64);
    };
    // When the other end is gone there is nobody to tell.
    match build(&channel) {
        Ok(sockets) => {
            let _ = channel.send_sockets(&sockets);
        }
        Err(error) => {
            let _ = channel.send(&Built::Impossible(format!("{error:#}")));
            return ExitCode::FAILURE;
        }
    }
    match become_command(&channel, command) {
        Ok(not_started) => {
            let _ = channel.send(&not_started);
        }
        Err(error) => {
            let _ = channel.send(&NotStarted { not_found: false, why: format!("{error:#}") });
        }
    }
    ExitCode::FAILURE
}

/// Every step of the fence. One that fails means that there is none.
fn build(channel: &Channel) -> anyhow::Result<Sockets> {
    let plan: Plan = channel.receive()?.context("there is no plan")?;
    let ip = tool("ip", "iproute2")?;
    enter_namespaces()?;
    hide_ways_out()?;
    let admin = CapabilitySet::NET_ADMIN;
    let mut held = capabilities(None).context("can't read capabilities")?;
    held.inheritable |= admin;
    set_capabilities(None, held).context("can't keep the right to configure the namespace's network")?;
    configure_capability_in_ambient_set(admin, true).context("can't pass on the right to configure the network")?;

    start(&ip, &["link", "set", "lo", "up"])?;
    start(&ip, &["-4", "addr", "add", &format!("{OWN_ADDRESS}/32"), "dev", "lo"])?;
    start(&ip, &["-4", "route", "add", "default", "dev", "lo", "src", &OWN_ADDRESS.to_string()])?;
    let sockets = bind().context("can't listen inside the namespace")?;
    if sockets.transparent.len() > 1 {
        start(&ip, &["-6", "route", "add", "default", "dev", "lo"])?;
    }
    fence::apply(&rules::table(&sockets, &plan.loopback)?).context("can't put the rules in place")?;
    Ok(sockets)
}

/// Enters namespaces of its own, with the same ids inside as outside.
fn enter_namespaces() -> anyhow::Result<()> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(why_no_namespaces)
        .context("the kernel gives no user namespace with a network of its own")?;
    // Without this a user could shed a group that files exclude, so the kernel wants it first.
    fs::write("/proc/self/setgroups", "deny").context("can't write /proc/self/setgroups")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).context("can't write /proc/self/uid_map")?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).context("can't write /proc/self/gid_map")
}

/// What the kernel's error means here, where its own text would mislead.
fn why_no_namespaces(error: nix::Error) -> anyhow::Error {
    match error {
        nix::Error::ENOSPC => anyhow!("the limit user.max_user_namespaces is reached"),
        nix::Error::EPERM => anyhow!("not permitted to this user, or not in this container"),
        other => other.into(),
    }
}

/// Covers the sockets of well-known services that would resolve names or start programs outside on the command's behalf.
/// Unix sockets in the file system lead out of a network namespace, so this closes known doors; it can't close all.
fn hide_ways_out() -> anyhow::Result<()> {
    let runtime = format!("/run/user/{}", getuid().as_raw());
    let of_user = OF_USER.iter().map(|name| Path::new(&runtime).join(name));
    for path in OF_SYSTEM.iter().map(PathBuf::from).chain(of_user) {
        // What this user can't reach, the command can't reach.
        if path.metadata().is_err() {
            continue;
        }
        mount(Some("/dev/null"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("can't cover `{}`", path.display()))?;
    }
    Ok(())
}

/// The sidecar's sockets, inside. IPv6 is served where the kernel has it; where it has none, nothing can leave by it.
fn bind() -> io::Result<Sockets> {
    let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    let mut sockets = Sockets {
        proxy: vec![TcpListener::bind((v4, PROXY_PORT))?],
        transparent: vec![TcpListener::bind((v4, TRANSPARENT_PORT))?],
        dns: vec![UdpSocket::bind((v4, DNS_PORT))?],
    };
    if let (Ok(transparent), Ok(dns)) = (TcpListener::bind((v6, TRANSPARENT_PORT)), UdpSocket::bind((v6, DNS_PORT))) {
        sockets.transparent.push(transparent);
        sockets.dns.push(dns);
    }
    Ok(sockets)
}

/// Waits for the word to go on, gives up every power, and becomes the command. Returns if it can't be started, or if the
/// word does not come.
fn become_command(channel: &Channel, command: &[OsString]) -> anyhow::Result<NotStarted> {
    let sidecar = getppid();
    let (go, stdin) = channel.receive_with::<Go>()?.context("the sidecar did not start")?;
    let stdin = stdin.first().context("there is no standard input")?;
    rustix::stdio::dup2_stdin(stdin).context("can't set standard input")?;
    give_up_powers().context("can't give up the powers over the namespace")?;
    set_parent_process_death_signal(Some(Signal::TERM)).context("can't be tied to the sidecar")?;
    if getppid() != sidecar {
        bail!("the sidecar ended");
    }
    let (program, arguments) = command.split_first().context("there is no command")?;
    let mut command = Command::new(program);
    command.args(arguments);
    environment::apply(&go, &mut command);
    let error = command.exec();
    Ok(NotStarted { not_found: error.kind() == io::ErrorKind::NotFound, why: error.to_string() })
}

/// Nothing that is started from here on has or gains a capability, not even as root or by a set-user-id program. The
/// fence would hold without this; the rules would not stay as they are.
fn give_up_powers() -> Result<(), Errno> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    for bit in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // The kernel knows no more of them.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// Where a tool is. Users other than root often have no directory of system tools on their path.
fn tool(name: &'static str, package: &str) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_TOOLS.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_absolute() && candidate.is_file())
        .with_context(|| format!("`{name}` is not installed (package {package})"))
}

/// Runs a tool to its end.
fn start(tool: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't start `{}`", tool.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{} {}` failed: {}", tool.display(), arguments.join(" "), said.lines().next().unwrap_or("no word"));
    }
    Ok(())
}

/// The namespace's own address, for documentation and so nobody's destination.
const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The namespace is new, so these are free. They are fixed and low, because the sidecar refuses to dial its own
/// addresses, and a port from the range for everyone could be that of a destination on the loopback outside.
const PROXY_PORT: u16 = 15001;
const TRANSPARENT_PORT: u16 = 15002;
const DNS_PORT: u16 = 15053;

const SYSTEM_TOOLS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Sockets of services that resolve names, or that start programs, for those who ask.
const OF_SYSTEM: [&str; 13] = [
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    "/run/nscd/socket",
    "/var/run/nscd/socket",
    "/run/avahi-daemon/socket",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/podman/podman.sock",
    "/run/snapd.socket",
];

/// The same for one user, below that user's runtime directory.
const OF_USER: [&str; 4] = ["bus", "systemd/private", "docker.sock", "podman/podman.sock"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let error = tool("no-such-tool-here", "its-package").expect_err("not there").to_string();
        assert_eq!(error, "`no-such-tool-here` is not installed (package its-package)");
    }

    #[test]
    fn a_tool_that_fails_is_quoted() {
        let error = start(Path::new("/bin/sh"), &["-c", "echo no such thing >&2; exit 3"]).expect_err("it fails");
        assert!(error.to_string().ends_with("failed: no such thing"), "{error}");
    }
}
