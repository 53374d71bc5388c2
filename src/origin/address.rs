//! Sorts addresses into classes, so that a name can't lead to where its destination may not.
//!
//! An IPv6 address that carries an IPv4 one (mapped, NAT64, 6to4) is of the class of that IPv4 address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{config::Upstream, refusal::Refusal};

/// What kind of place an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Reachable from anywhere.
    Public,
    /// Of a private network: RFC 1918, RFC 4193, RFC 6598.
    Private,
    /// This host.
    Loopback,
    /// This link; cloud metadata services live there as well.
    LinkLocal,
    /// A cloud's metadata service at an address of its own.
    Metadata,
    /// Unspecified, multicast, broadcast, documentation, benchmarking and whatever else no origin has.
    Reserved,
}

impl Class {
    /// The class of an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => of_v4(v4),
            IpAddr::V6(v6) => embedded_v4(v6).map_or_else(|| of_v6(v6), of_v4),
        }
    }

    /// As it stands in `input.destination.ip_class`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link_local",
            Self::Metadata => "metadata",
            Self::Reserved => "reserved",
        }
    }
}

/// Whether this destination may be dialled at this address.
///
/// # Errors
/// [`Refusal::AddressForbidden`]. Metadata and link-local addresses are never dialled; loopback only where it is pinned.
pub fn check(upstream: &Upstream, address: IpAddr) -> Result<(), Refusal> {
    let pinned = upstream.addresses.contains(&address);
    match Class::of(address) {
        Class::Metadata | Class::LinkLocal => {
            Err(Refusal::AddressForbidden("metadata and link-local addresses are never dialled"))
        }
        Class::Reserved => Err(Refusal::AddressForbidden("reserved addresses are never dialled")),
        Class::Loopback if pinned => Ok(()),
        Class::Loopback => Err(Refusal::AddressForbidden("the name leads to a loopback address, which is not pinned")),
        Class::Private if pinned || upstream.reach_private => Ok(()),
        Class::Private => {
            Err(Refusal::AddressForbidden("the name leads to a private address, which this destination may not reach"))
        }
        Class::Public if pinned || upstream.reach_public => Ok(()),
        Class::Public => {
            Err(Refusal::AddressForbidden("the name leads to a public address, which this destination may not reach"))
        }
    }
}

/// Hosts that are never a destination, whatever is configured: the hard floor for names and IP literals.
///
/// # Errors
/// [`Refusal::AddressForbidden`].
pub fn check_floor(host: &str) -> Result<(), Refusal> {
    if METADATA_NAMES.contains(&host) {
        return Err(Refusal::AddressForbidden("metadata services are never dialled"));
    }
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match literal.map(Class::of) {
        Ok(Class::Metadata | Class::LinkLocal) => {
            Err(Refusal::AddressForbidden("metadata and link-local addresses are never dialled"))
        }
        Ok(Class::Reserved) => Err(Refusal::AddressForbidden("reserved addresses are never dialled")),
        Ok(Class::Loopback | Class::Private | Class::Public) | Err(_) => Ok(()),
    }
}

fn of_v4(address: Ipv4Addr) -> Class {
    let [a, b, c, _] = address.octets();
    if METADATA_V4.contains(&address) {
        Class::Metadata
    } else if address.is_loopback() {
        Class::Loopback
    } else if address.is_link_local() {
        Class::LinkLocal
    } else if address.is_private() || (a == 100 && (64..128).contains(&b)) {
        Class::Private
    } else if a == 0
        || a >= 224
        || address.is_documentation()
        || (a == 198 && (b == 18 || b == 19))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
    {
        Class::Reserved
    } else {
        Class::Public
    }
}

fn of_v6(address: Ipv6Addr) -> Class {
    let first = address.segments()[0];
    if METADATA_V6.contains(&address) {
        Class::Metadata
    } else if address.is_loopback() {
        Class::Loopback
    } else if first & 0xffc0 == 0xfe80 {
        Class::LinkLocal
    } else if first & 0xfe00 == 0xfc00 {
        Class::Private
    } else if first & 0xe000 == 0x2000
        && !(first == 0x2001 && address.segments()[1] < 0x0200)
        && !is_documentation(address)
    {
        Class::Public
    } else {
        // Only 2000::/3 is given out; of it, 2001::/23 is for protocols (Teredo among them).
        Class::Reserved
    }
}

fn is_documentation(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    (a == 0x2001 && b == 0x0db8) || (a == 0x3fff && b < 0x1000)
}

/// The IPv4 address inside NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056) and IPv4-compatible addresses.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(v4(high, low)),
        _ => None,
    }
}

/// AWS, Azure, GCP, OpenStack (169.254.169.254), AWS ECS, Alibaba, Azure's wire server, Oracle.
const METADATA_V4: [Ipv4Addr; 5] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// AWS and GCP over IPv6.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

const METADATA_NAMES: [&str; 4] =
    ["metadata.google.internal", "metadata", "instance-data", "instance-data.ec2.internal"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_its_class() {
        let table = [
            ("1.1.1.1", Class::Public),
            ("140.82.121.6", Class::Public),
            ("10.1.2.3", Class::Private),
            ("172.31.255.255", Class::Private),
            ("172.32.0.1", Class::Public),
            ("192.168.0.1", Class::Private),
            ("100.64.0.1", Class::Private),
            ("100.100.100.200", Class::Metadata),
            ("168.63.129.16", Class::Metadata),
            ("127.0.0.1", Class::Loopback),
            ("127.255.0.1", Class::Loopback),
            ("169.254.1.1", Class::LinkLocal),
            ("169.254.169.254", Class::Metadata),
            ("0.0.0.0", Class::Reserved),
            ("224.0.0.1", Class::Reserved),
            ("255.255.255.255", Class::Reserved),
            ("198.18.0.1", Class::Reserved),
            ("::1", Class::Loopback),
            ("::", Class::Reserved),
            ("fe80::1", Class::LinkLocal),
            ("fd00:ec2::254", Class::Metadata),
            ("fd12::1", Class::Private),
            ("ff02::1", Class::Reserved),
            ("2606:4700::1111", Class::Public),
            ("2001:db8::1", Class::Reserved),
            ("2001::1", Class::Reserved),
            ("::ffff:169.254.169.254", Class::Metadata),
            ("::ffff:127.0.0.1", Class::Loopback),
            ("::169.254.169.254", Class::Metadata),
            ("64:ff9b::a9fe:a9fe", Class::Metadata),
            ("64:ff9b::a01:203", Class::Private),
            ("2002:7f00:1::", Class::Loopback),
            ("2002:a9fe:a9fe::1", Class::Metadata),
        ];
        for (address, class) in table {
            assert_eq!(Class::of(address.parse().expect("a literal")), class, "{address}");
        }
    }

    #[test]
    fn the_floor_holds_for_names_and_literals() {
        for host in
            ["metadata.google.internal", "169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "0.0.0.0"]
        {
            assert!(check_floor(host).is_err(), "{host}");
        }
        for host in ["api.github.com", "10.0.0.1", "127.0.0.1", "[::1]"] {
            assert!(check_floor(host).is_ok(), "{host}");
        }
    }
}
