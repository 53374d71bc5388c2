//! The fence around a pod: the kernel leads every connection to the sidecar, and lets nothing else out.
//!
//! It is one nftables table for IPv4 and IPv6 ([`rules`]), put in place at once or not at all, and read back afterwards.
//! [`check`] proves it from inside, as an agent's user sees it. [`crate::exec`] builds the table of its namespace from the
//! same values.
//!
//! The table goes to the kernel over netlink, in messages that are written here ([`netlink`], [`encode`]). The other ways
//! were weighed: the `nft` program would have to be in the image, with its libraries, and on every node that runs the
//! program as a CNI plugin; `nftables`, the crate, starts that program; `nftnl` needs C libraries; `rustables` is licensed
//! under the GPL. What a fence needs of the protocol is small, and a test holds it against `nft` itself.
//!
//! A dead sidecar opens nothing: redirected connections are refused then.

pub mod check;
pub mod encode;
pub mod netlink;
pub mod rules;
mod standing;
pub mod table;

use std::io;

pub use self::standing::{Standing, standing};
use self::{
    netlink::{Attributes, PacketFilter, Request},
    table::Table,
};
use super::{DNS_PORT, PROXY_PORT, TRANSPARENT_PORT, UID};

/// What the fence of a pod is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The sidecar's user, who is let out.
    pub uid: u32,
    /// Further users that are let out: a mesh's proxy.
    pub exempt: Vec<u32>,
    /// The explicit proxy's port.
    pub proxy: u16,
    /// The port of the listener for redirected connections.
    pub transparent: u16,
    /// The stub resolver's port.
    pub dns: u16,
}

impl Default for Fence {
    fn default() -> Self {
        Self { uid: UID, exempt: Vec::new(), proxy: PROXY_PORT, transparent: TRANSPARENT_PORT, dns: DNS_PORT }
    }
}

impl Fence {
    /// What makes it no fence, if anything does.
    pub fn flaw(&self) -> Option<&'static str> {
        let ports = [self.proxy, self.transparent, self.dns];
        let same = ports.iter().enumerate().any(|(index, port)| ports[..index].contains(port));
        if self.uid == 0 || self.exempt.contains(&0) {
            Some("user 0 can't be let out: it is root, whose processes can be the agent's")
        } else if ports.contains(&0) || same {
            Some("the ports must be three different ones above 0")
        } else {
            None
        }
    }

    /// Its table.
    pub fn table(&self) -> Table {
        rules::table(self)
    }
}

/// Why the table could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The right to configure the network is missing.
    #[error("the kernel does not permit it to this process")]
    NotPermitted,
    /// The kernel has no packet filter of this kind, or not all of it.
    #[error("the kernel's packet filter can't do it: {0}")]
    Unable(io::Error),
    /// The kernel took the table, and it does not stand.
    #[error("the table was taken, but does not stand: {0}")]
    NotStanding(String),
}

impl Failure {
    /// What helps.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotPermitted => "it needs the capability NET_ADMIN, over the network namespace that it is in",
            Self::Unable(_) => {
                "the kernel needs nf_tables with nat, ct, fib, redir and reject for the family inet (5.2 or later)"
            }
            Self::NotStanding(_) => "something else changes the tables of this network namespace at the same time",
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted,
            _ => Self::Unable(error),
        }
    }
}

/// Puts this table in the place of one with the same name, at once, and makes sure that it stands. Acts on the network
/// namespace of this thread.
///
/// # Errors
/// [`Failure`]; the table is then as it was before, unless it is [`Failure::NotStanding`].
pub fn apply(table: &Table) -> Result<(), Failure> {
    PacketFilter::connect()?.transact(&encode::replacement(table))?;
    match standing(table)? {
        Standing::Whole => Ok(()),
        Standing::Absent => Err(Failure::NotStanding("it is gone".to_owned())),
        Standing::Differs(how) => Err(Failure::NotStanding(how)),
    }
}

/// Removes the table of this name, if there is one.
///
/// # Errors
/// As [`apply`].
pub fn remove(name: &str) -> Result<(), Failure> {
    Ok(PacketFilter::connect()?.transact(&encode::removal(name))?)
}

/// Whether the kernel's packet filter can be reached from here, and with the right to change it.
///
/// # Errors
/// As [`apply`].
pub fn reachable() -> Result<(), Failure> {
    PacketFilter::connect()?.list(&Request::new(encode::GET_TABLE, 0, Attributes::default()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_that_lets_root_out_is_none() {
        let with = |change: fn(&mut Fence)| {
            let mut fence = Fence::default();
            change(&mut fence);
            fence.flaw().is_some()
        };
        assert!(!with(|_| {}));
        assert!(with(|fence| fence.uid = 0));
        assert!(with(|fence| fence.exempt = vec![1337, 0]));
        assert!(with(|fence| fence.dns = fence.proxy));
        assert!(with(|fence| fence.transparent = 0));
    }
}
