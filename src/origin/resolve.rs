//! Turns a permitted name into addresses that were all checked.
//!
//! Nothing is resolved before policy has permitted the call, so that a denied name never leaves in a DNS query.

use std::{
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
};

use hickory_resolver::TokioResolver;

use super::address;
use crate::{config::Upstream, refusal::Refusal};

/// Resolves names by the system's resolver configuration, honouring their time to live.
#[derive(Default)]
pub struct Resolver {
    /// Read at first use: a sidecar whose destinations are all pinned needs no resolver.
    system: OnceLock<Option<TokioResolver>>,
}

impl Resolver {
    /// The addresses to dial for this destination, each of a class that it may reach.
    ///
    /// # Errors
    /// [`Refusal::OriginUnresolved`], or [`Refusal::AddressForbidden`] if even one of the addresses may not be dialled:
    /// a name that leads to a forbidden place once will do so again.
    pub async fn addresses(&self, upstream: &Upstream, host: &str, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
        let addresses = if !upstream.addresses.is_empty() {
            upstream.addresses.clone()
        } else if let Some(literal) = literal(host) {
            vec![literal]
        } else {
            self.look_up(host).await?
        };
        for address in &addresses {
            address::check(upstream, *address)?;
        }
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }

    async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, Refusal> {
        let system =
            self.system.get_or_init(|| TokioResolver::builder_tokio().and_then(|builder| builder.build()).ok());
        let resolver = system.as_ref().ok_or(Refusal::OriginUnresolved)?;
        // The dot at the end keeps the search domains of `resolv.conf` out: the name that policy saw is the name resolved.
        let found = resolver.lookup_ip(format!("{host}.")).await.map_err(|_| Refusal::OriginUnresolved)?;
        let addresses: Vec<_> = found.iter().collect();
        if addresses.is_empty() { Err(Refusal::OriginUnresolved) } else { Ok(addresses) }
    }
}

/// The address that a canonical host is, if it is a literal.
pub fn literal(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}
