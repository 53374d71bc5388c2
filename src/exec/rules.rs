//! The nftables table of one command's network namespace.
//!
//! Every TCP connection to another address comes to the sidecar, every question for a name to its stub resolver, and
//! everything else is rejected, on IPv4 and IPv6 alike. Loopback inside the namespace is the command's own, but for the
//! resolver's port and for addresses that are destinations: what stays inside needs no permission.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
};

use super::handover::Sockets;
use crate::kubernetes::fence::{
    rules::NAME,
    table::{Chain, Family, Hook, Kind, Match, Policy, Protocol, Rule, Table, Verdict},
};

/// The table for these sockets. `captured` are loopback addresses that are destinations.
pub fn table(sockets: &Sockets, captured: &[SocketAddr]) -> io::Result<Table> {
    let proxy = addresses(&sockets.proxy, TcpListener::local_addr)?;
    let transparent = addresses(&sockets.transparent, TcpListener::local_addr)?;
    let dns = addresses(&sockets.dns, UdpSocket::local_addr)?;
    Ok(Table { name: NAME, chains: vec![capture(&proxy, &transparent, &dns, captured), fence()] })
}

fn addresses<T>(sockets: &[T], address: fn(&T) -> io::Result<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    sockets.iter().map(address).collect()
}

fn capture(proxy: &[SocketAddr], transparent: &[SocketAddr], dns: &[SocketAddr], captured: &[SocketAddr]) -> Chain {
    let mut rules = Vec::new();
    for address in proxy.iter().chain(transparent) {
        rules.push(Rule::new([to(address.ip()), Match::TcpPort(address.port())], Verdict::Accept));
    }
    for address in dns {
        rules.push(Rule::new([family(*address), Match::UdpPort(53)], Verdict::Redirect(address.port())));
    }
    for address in captured {
        if let Some(listener) = transparent.iter().find(|listener| listener.is_ipv4() == address.is_ipv4()) {
            let matches = [to(address.ip()), Match::TcpPort(address.port())];
            rules.push(Rule::new(matches, Verdict::Redirect(listener.port())));
        }
    }
    rules.extend(LOOPBACK.map(|to| Rule::new([to], Verdict::Accept)));
    for address in transparent {
        let matches = [family(*address), Match::Protocol(Protocol::Tcp)];
        rules.push(Rule::new(matches, Verdict::Redirect(address.port())));
    }
    let (kind, hook, policy) = (Kind::Nat, Hook::Output, Policy::Accept);
    Chain { name: "capture", kind, hook, priority: -100, policy, rules }
}

/// Answers belong to what was let in before. After the redirect every permitted destination is loopback.
fn fence() -> Chain {
    let mut rules = vec![Rule::new([Match::Reply], Verdict::Accept)];
    for to in LOOPBACK {
        rules.extend([Protocol::Tcp, Protocol::Udp].map(|one| Rule::new([to, Match::Protocol(one)], Verdict::Accept)));
    }
    rules.push(Rule::new([Match::Protocol(Protocol::Tcp)], Verdict::Reset));
    rules.push(Rule::new([], Verdict::Reject));
    let (kind, hook, policy) = (Kind::Filter, Hook::Output, Policy::Drop);
    Chain { name: "fence", kind, hook, priority: 0, policy, rules }
}

fn family(address: SocketAddr) -> Match {
    Match::Family(if address.is_ipv4() { Family::V4 } else { Family::V6 })
}

fn to(ip: IpAddr) -> Match {
    match ip {
        IpAddr::V4(ip) => Match::To4(ip),
        IpAddr::V6(ip) => Match::To6(ip),
    }
}

const LOOPBACK: [Match; 2] = [Match::ToLoopback4, Match::To6(Ipv6Addr::LOCALHOST)];

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn the_table_is_this() {
        let chain = capture(
            &parsed(&["127.0.0.1:1001"]),
            &parsed(&["127.0.0.1:1002", "[::1]:1003"]),
            &parsed(&["127.0.0.1:1004", "[::1]:1005"]),
            &parsed(&["127.0.0.1:8443", "[::1]:8443"]),
        );
        insta::assert_snapshot!(Table { name: NAME, chains: vec![chain, fence()] }, @r"
        table inet tollgate {
          chain capture {
            type nat hook output priority -100; policy accept;
            ip daddr 127.0.0.1 tcp dport 1001 accept
            ip daddr 127.0.0.1 tcp dport 1002 accept
            ip6 daddr ::1 tcp dport 1003 accept
            meta nfproto ipv4 udp dport 53 redirect to :1004
            meta nfproto ipv6 udp dport 53 redirect to :1005
            ip daddr 127.0.0.1 tcp dport 8443 redirect to :1002
            ip6 daddr ::1 tcp dport 8443 redirect to :1003
            ip daddr 127.0.0.0/8 accept
            ip6 daddr ::1 accept
            meta nfproto ipv4 meta l4proto tcp redirect to :1002
            meta nfproto ipv6 meta l4proto tcp redirect to :1003
          }
          chain fence {
            type filter hook output priority 0; policy drop;
            ct direction reply accept
            ip daddr 127.0.0.0/8 meta l4proto tcp accept
            ip daddr 127.0.0.0/8 meta l4proto udp accept
            ip6 daddr ::1 meta l4proto tcp accept
            ip6 daddr ::1 meta l4proto udp accept
            meta l4proto tcp reject with tcp reset
            reject
          }
        }
        ");
    }

    #[test]
    fn without_ipv6_listeners_ipv6_is_rejected_and_not_redirected() {
        let v4 = parsed(&["127.0.0.1:1002"]);
        let rules = capture(&parsed(&["127.0.0.1:1001"]), &v4, &v4, &parsed(&["[::1]:8443"])).to_string();
        assert!(!rules.contains("nfproto ipv6") && !rules.contains("8443"), "{rules}");
    }
}
