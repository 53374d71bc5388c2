//! Where connections come in, and what is known of where they want to go.
//!
//! Three ways lead in: the explicit proxy ([`proxy`]), connections that the kernel redirected ([`transparent`]), and the
//! stub resolver ([`dns`]) that turns a name into an address whose name is remembered. All of them yield a
//! [`Destination`], which is a fact: nothing that the agent writes into a TLS hello or a header becomes one.

pub mod dns;
pub mod proxy;
pub mod transparent;

use std::{net::SocketAddr, sync::Arc};

/// Where the agent's connection leads, as the kernel, our own resolver or CONNECT says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The explicit proxy itself: each request names its own destination in absolute form.
    Proxy,
    /// The target of CONNECT, in canonical form.
    Named {
        /// Host name or IP literal.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
    /// The address that was dialled, from the kernel.
    Dialled {
        /// The address.
        addr: SocketAddr,
        /// The name that our own resolver gave this address for.
        name: Option<Arc<str>>,
    },
}

impl Destination {
    /// The host and port that every request of the connection must name; `None` where the address alone is known and
    /// the agent names the host, which is then resolved anew.
    pub fn name(&self) -> Option<(&str, u16)> {
        match self {
            Self::Proxy => None,
            Self::Named { host, port } => Some((host, *port)),
            Self::Dialled { addr, name } => name.as_deref().map(|name| (name, addr.port())),
        }
    }

    /// The port that every request of the connection must name.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Proxy => None,
            Self::Named { port, .. } => Some(*port),
            Self::Dialled { addr, .. } => Some(addr.port()),
        }
    }
}
