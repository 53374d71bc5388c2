//! The nftables table of one command's network namespace.
//!
//! Every TCP connection to another address comes to the sidecar, every question for a name to its stub resolver, and
//! everything else is rejected, on IPv4 and IPv6 alike. Loopback inside the namespace is the command's own, but for the
//! resolver's port and for addresses that are destinations: what stays inside needs no permission.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
};

use super::handover::Sockets;

/// The table for these sockets, in the language of `nft -f`. `captured` are loopback addresses that are destinations.
pub fn table(sockets: &Sockets, captured: &[SocketAddr]) -> io::Result<String> {
    let proxy = addresses(&sockets.proxy, TcpListener::local_addr)?;
    let transparent = addresses(&sockets.transparent, TcpListener::local_addr)?;
    let dns = addresses(&sockets.dns, UdpSocket::local_addr)?;
    Ok(text(&proxy, &transparent, &dns, captured))
}

fn addresses<T>(sockets: &[T], address: fn(&T) -> io::Result<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    sockets.iter().map(address).collect()
}

fn text(proxy: &[SocketAddr], transparent: &[SocketAddr], dns: &[SocketAddr], captured: &[SocketAddr]) -> String {
    let mut rules = String::new();
    let mut rule = |line: String| {
        rules.push_str("    ");
        rules.push_str(&line);
        rules.push('\n');
    };
    for address in proxy.iter().chain(transparent) {
        rule(format!("{} tcp dport {} accept", to(address.ip()), address.port()));
    }
    for address in dns {
        rule(format!("meta nfproto {} udp dport 53 redirect to :{}", family(*address), address.port()));
    }
    for address in captured {
        if let Some(listener) = transparent.iter().find(|listener| listener.is_ipv4() == address.is_ipv4()) {
            rule(format!("{} tcp dport {} redirect to :{}", to(address.ip()), address.port(), listener.port()));
        }
    }
    rule("ip daddr 127.0.0.0/8 accept".to_owned());
    rule("ip6 daddr ::1 accept".to_owned());
    for address in transparent {
        rule(format!("meta nfproto {} meta l4proto tcp redirect to :{}", family(*address), address.port()));
    }

    // The closing brace of a chain stands on a line of its own, as nft wants it.
    format!(
        "table inet tollgate {{\n  chain capture {{\n    type nat hook output priority -100; policy accept;\n\
         {rules}  }}\n{FENCE}}}\n"
    )
}

fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

fn to(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("ip daddr {ip}"),
        IpAddr::V6(ip) => format!("ip6 daddr {ip}"),
    }
}

/// Answers belong to what was let in before. After the redirect every permitted destination is loopback.
const FENCE: &str = "  chain fence {
    type filter hook output priority 0; policy drop;
    ct direction reply accept
    ip daddr 127.0.0.0/8 meta l4proto { tcp, udp } accept
    ip6 daddr ::1 meta l4proto { tcp, udp } accept
    meta l4proto tcp reject with tcp reset
    reject
  }
";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn the_table_is_this() {
        let table = text(
            &parsed(&["127.0.0.1:1001"]),
            &parsed(&["127.0.0.1:1002", "[::1]:1003"]),
            &parsed(&["127.0.0.1:1004", "[::1]:1005"]),
            &parsed(&["127.0.0.1:8443", "[::1]:8443"]),
        );
        insta::assert_snapshot!(table, @r"
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
            ip daddr 127.0.0.0/8 meta l4proto { tcp, udp } accept
            ip6 daddr ::1 meta l4proto { tcp, udp } accept
            meta l4proto tcp reject with tcp reset
            reject
          }
        }
        ");
    }

    #[test]
    fn without_ipv6_listeners_ipv6_is_rejected_and_not_redirected() {
        let v4 = parsed(&["127.0.0.1:1002"]);
        let table = text(&parsed(&["127.0.0.1:1001"]), &v4, &v4, &parsed(&["[::1]:8443"]));
        assert!(!table.contains("nfproto ipv6") && !table.contains("8443"), "{table}");
    }
}
