//! Where a redirected connection wanted to go, as the kernel remembers it.
//!
//! A connection that was not redirected, or that was aimed at the sidecar itself, is refused: forwarding it would make a
//! loop or an open relay.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::refusal::Refusal;

/// The address that the agent dialled before the kernel redirected its connection. `own` are the addresses that this
/// sidecar listens on.
pub fn original_destination(stream: &TcpStream, own: &[SocketAddr]) -> Result<SocketAddr, Refusal> {
    let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else {
        // Already closed by the agent.
        return Err(Refusal::OwnAddress);
    };
    // No entry in the kernel's table means that nothing was redirected.
    let original = remembered(SockRef::from(stream), local).map_err(|_| Refusal::OwnAddress)?;
    let (original, local, peer) = (canonical(original), canonical(local), canonical(peer));
    let to_us = original == local || own.iter().any(|ours| leads_to(original, canonical(*ours), local.ip(), peer.ip()));
    if to_us { Err(Refusal::OwnAddress) } else { Ok(original) }
}

/// What the kernel remembers. The family is that of the canonical address: a dual-stack listener shows IPv4 connections
/// as mapped IPv6 ones, for which the question in IPv6 finds nothing.
fn remembered(socket: SockRef<'_>, local: SocketAddr) -> io::Result<SocketAddr> {
    let original = match local.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4()?,
        IpAddr::V6(_) => socket.original_dst_v6()?,
    };
    original.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Whether dialling `original` reaches our listener `ours`. A listener on every address is also reached at each address
/// of this machine: the ones known here are loopback, the local one and, since a machine that calls itself uses the
/// address it calls as its source, the peer's.
fn leads_to(original: SocketAddr, ours: SocketAddr, local: IpAddr, peer: IpAddr) -> bool {
    if original.port() != ours.port() {
        return false;
    }
    let ip = original.ip();
    ip == ours.ip()
        || ip.is_unspecified()
        || (ours.ip().is_unspecified() && (ip.is_loopback() || ip == local || ip == peer))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_direct_connection_is_refused() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address).await else {
                println!("skipped: needs {address}");
                continue;
            };
            let ours = listener.local_addr().expect("bound");
            let _agent = TcpStream::connect(ours).await.expect("connected");
            let (accepted, _) = listener.accept().await.expect("accepted");
            for own in [&[ours][..], &[]] {
                let refused = original_destination(&accepted, own).expect_err("not redirected");
                assert_eq!(refused.label(), "own_address");
            }
        }
    }

    #[test]
    fn our_own_addresses_are_known_in_every_form() {
        for (original, ours, expected) in [
            ("127.0.0.1:15001", "127.0.0.1:15001", true),
            ("127.0.0.1:15002", "127.0.0.1:15001", false),
            ("0.0.0.0:15001", "127.0.0.1:15001", true),
            ("10.0.0.9:15001", "127.0.0.1:15001", false),
            ("127.0.0.7:15001", "0.0.0.0:15001", true),
            ("10.0.0.5:15001", "0.0.0.0:15001", true),
            ("10.0.0.5:443", "0.0.0.0:15001", false),
            ("203.0.113.1:15001", "0.0.0.0:15001", false),
            ("[::1]:15001", "[::]:15001", true),
        ] {
            let (local, peer) = ("127.0.0.1".parse().expect("ip"), "10.0.0.5".parse().expect("ip"));
            let (original, ours) = (original.parse().expect("address"), ours.parse().expect("address"));
            assert_eq!(leads_to(original, ours, local, peer), expected, "{original} on {ours}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let mapped = "[::ffff:192.0.2.7]:443".parse().expect("address");
        assert_eq!(canonical(mapped), "192.0.2.7:443".parse().expect("address"));
    }
}
