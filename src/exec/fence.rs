//! How the command is kept to the sidecar: by namespaces of its own, or by nothing but its good will.

use std::{
    ffi::OsString,
    io,
    net::{SocketAddr, TcpListener},
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
};

use super::{
    Failure, environment,
    handover::{Channel, Go, NotStarted, Plan, Sockets},
};
use crate::config::Assurance;

/// Which fence is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Wanted {
    /// Namespaces where they can be had, else variables, with a warning.
    #[default]
    Auto,
    /// Namespaces, or the command is not run.
    Netns,
    /// Proxy and certificate variables only: a command that ignores them is not kept.
    Env,
}

/// A fence with the sidecar's sockets, and the command in front of it, not yet let go.
#[derive(Debug)]
pub struct Fence {
    sockets: Sockets,
    entrance: Entrance,
}

#[derive(Debug)]
enum Entrance {
    /// A process in namespaces of its own waits for the word to become the command.
    Inside { process: Waiting, channel: Channel },
    /// The command will be an ordinary child.
    Open,
}

/// A process that is ended and reaped unless it is let go.
#[derive(Debug)]
struct Waiting(Option<Child>);

impl Waiting {
    fn let_go(mut self) -> Child {
        self.0.take().expect("it is taken only here, by value")
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // An error means that it ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Fence {
    /// Raises the fence that is wanted. `loopback` are loopback addresses that are destinations. With [`Wanted::Auto`] the
    /// reason for having none goes to `note`.
    pub fn raise(
        wanted: Wanted,
        command: &[OsString],
        loopback: Vec<SocketAddr>,
        note: impl FnOnce(&str),
    ) -> Result<Self, Failure> {
        match wanted {
            Wanted::Env => Self::open(),
            Wanted::Netns => Self::inside(command, loopback)?.map_err(Failure::Fence),
            Wanted::Auto => match Self::inside(command, loopback)? {
                Ok(fence) => Ok(fence),
                Err(why) => {
                    note(&why);
                    Self::open()
                }
            },
        }
    }

    /// How well the command is kept.
    pub fn assurance(&self) -> Assurance {
        match self.entrance {
            Entrance::Inside { .. } => Assurance::L1,
            Entrance::Open => Assurance::L0,
        }
    }

    /// Whether the command's loopback is its own, so that what it reaches there never leaves.
    pub fn owns_loopback(&self) -> bool {
        matches!(self.entrance, Entrance::Inside { .. })
    }

    /// Where the command finds the explicit proxy.
    pub fn proxy(&self) -> io::Result<SocketAddr> {
        self.sockets.proxy.first().ok_or(io::ErrorKind::NotFound)?.local_addr()
    }

    /// The sockets that the sidecar serves.
    pub fn take_sockets(&mut self) -> Sockets {
        std::mem::take(&mut self.sockets)
    }

    /// Lets the command begin with these changes to its environment.
    pub fn let_go(self, command: &[OsString], changes: &Go) -> Result<Child, Failure> {
        match self.entrance {
            Entrance::Inside { process, channel } => {
                channel.send_with(changes, &[io::stdin().as_fd()])?;
                match channel.receive::<NotStarted>()? {
                    None => Ok(process.let_go()),
                    Some(why) => Err(Failure::command(&command[0], why.not_found, &why.why)),
                }
            }
            Entrance::Open => {
                let mut child = Command::new(&command[0]);
                child.args(&command[1..]);
                environment::apply(changes, &mut child);
                child.spawn().map_err(|error| {
                    Failure::command(&command[0], error.kind() == io::ErrorKind::NotFound, &error.to_string())
                })
            }
        }
    }

    fn open() -> Result<Self, Failure> {
        let proxy = vec![TcpListener::bind("127.0.0.1:0")?];
        Ok(Self { sockets: Sockets { proxy, ..Sockets::default() }, entrance: Entrance::Open })
    }

    /// The fence by namespaces, or why there is none. Trying is the only honest probe: what a kernel says that it allows
    /// is not what a container or a security module lets through.
    fn inside(command: &[OsString], loopback: Vec<SocketAddr>) -> Result<Result<Self, String>, Failure> {
        let (channel, theirs) = Channel::pair()?;
        // The running program itself, also when its file was replaced in the meantime.
        let mut inside = Command::new("/proc/self/exe");
        inside.arg0("tollgate").arg(SUBCOMMAND).arg("--").args(command).stdin(Stdio::from(theirs.into_descriptor()));
        let child = match inside.spawn() {
            Ok(child) => Waiting(Some(child)),
            Err(error) => return Ok(Err(format!("can't start the process that builds it: {error}"))),
        };
        // The command still holds the other end of the channel, whose closing is the sign that all went well.
        drop(inside);
        // A process that ends early shows as an error of the channel; then there is no fence either.
        let built = channel.send(&Plan { loopback }).and_then(|()| channel.receive_sockets());
        let built = built.unwrap_or_else(|error| Err(format!("the process that builds it ended: {error}")));
        Ok(built.map(|sockets| Self { sockets, entrance: Entrance::Inside { process: child, channel } }))
    }
}

/// The hidden subcommand that [`inside::enter`](super::inside::enter) stands behind.
pub const SUBCOMMAND: &str = "exec-inside";
