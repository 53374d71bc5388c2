//! An nftables table as a value.
//!
//! What is printed and what goes to the kernel come from the same value, so that neither can say what the other does not.
//! Only what a fence needs can be said: one family (`inet`: IPv4 and IPv6), base chains, and rules of a few matches and
//! one verdict.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// A table of the family `inet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Its base chains.
    pub chains: Vec<Chain>,
}

/// A base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// What it may do.
    pub kind: Kind,
    /// Where the kernel consults it.
    pub hook: Hook,
    /// Its place among the chains of that hook; the lowest comes first.
    pub priority: i32,
    /// What becomes of packets that no rule decides.
    pub policy: Policy,
    /// Its rules; the first that decides is the last that is looked at.
    pub rules: Vec<Rule>,
}

/// What a chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rewrite where connections lead.
    Nat,
    /// Let packets through, or not.
    Filter,
}

/// Where the kernel consults a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// What comes in for this machine.
    Input,
    /// What begins here.
    Output,
    /// What is about to leave, also what was only passed on.
    Postrouting,
}

/// What becomes of packets that no rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// They go on.
    Accept,
    /// They vanish.
    Drop,
}

/// Matches, all of which must hold, and then the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What a packet must be.
    pub matches: Vec<Match>,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// Something that a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Sent through a socket that this user opened.
    Owner(u32),
    /// Sent through a socket that another user opened. What the kernel sends by itself has no owner and does not match.
    OtherOwner(u32),
    /// Leaves by loopback.
    OutLoopback,
    /// Came in by something else than loopback.
    InElsewhere,
    /// Is of this family.
    Family(Family),
    /// Carries this protocol.
    Protocol(Protocol),
    /// Goes to any IPv4 loopback address.
    ToLoopback4,
    /// Goes to this IPv4 address.
    To4(Ipv4Addr),
    /// Goes to this IPv6 address.
    To6(Ipv6Addr),
    /// Goes to this TCP port.
    TcpPort(u16),
    /// Goes to this UDP port.
    UdpPort(u16),
    /// Belongs to a connection that was let in, and answered, before.
    Established,
    /// Goes from who was called to who called.
    Reply,
    /// Says that it comes from an address that this namespace does not have.
    ForeignSource,
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP for IPv4.
    Icmp,
    /// ICMP for IPv6.
    Icmp6,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It vanishes.
    Drop,
    /// It goes to this port of the loopback address of its family.
    Redirect(u16),
    /// The sender learns at once that the connection is refused.
    Reset,
    /// The sender learns at once that it may not.
    Reject,
}

impl Rule {
    /// Matches, all of which must hold, and then the verdict.
    pub fn new(matches: impl Into<Vec<Match>>, verdict: Verdict) -> Self {
        Self { matches: matches.into(), verdict }
    }
}

impl Table {
    /// The table in the language of `nft -f`, as a change that replaces one of the same name, if there is one, at once.
    pub fn replacement(&self) -> String {
        let name = self.name;
        // Naming it first makes it exist, so that deleting it can't fail.
        format!("table inet {name}\ndelete table inet {name}\n{self}")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.name)?;
        for chain in &self.chains {
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind, hook, priority, policy, rules } = self;
        writeln!(f, "  chain {name} {{")?;
        writeln!(f, "    type {} hook {} priority {priority}; policy {policy};", kind.name(), hook.name())?;
        for rule in rules {
            writeln!(f, "    {rule}")?;
        }
        // The closing brace stands on a line of its own, as nft wants it.
        writeln!(f, "  }}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.matches {
            write!(f, "{one} ")?;
        }
        write!(f, "{}", self.verdict)
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(uid) => write!(f, "meta skuid {uid}"),
            Self::OtherOwner(uid) => write!(f, "meta skuid != {uid}"),
            Self::OutLoopback => f.write_str("oifname \"lo\""),
            Self::InElsewhere => f.write_str("iifname != \"lo\""),
            Self::Family(Family::V4) => f.write_str("meta nfproto ipv4"),
            Self::Family(Family::V6) => f.write_str("meta nfproto ipv6"),
            Self::Protocol(protocol) => write!(f, "meta l4proto {}", protocol.name()),
            Self::ToLoopback4 => f.write_str("ip daddr 127.0.0.0/8"),
            Self::To4(ip) => write!(f, "ip daddr {ip}"),
            Self::To6(ip) => write!(f, "ip6 daddr {ip}"),
            Self::TcpPort(port) => write!(f, "tcp dport {port}"),
            Self::UdpPort(port) => write!(f, "udp dport {port}"),
            Self::Established => f.write_str("ct state established"),
            Self::Reply => f.write_str("ct direction reply"),
            Self::ForeignSource => f.write_str("fib saddr type != local"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            Self::Reset => f.write_str("reject with tcp reset"),
            Self::Reject => f.write_str("reject"),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
        })
    }
}

impl Kind {
    /// As nft and the kernel call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

impl Hook {
    fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Icmp6 => "ipv6-icmp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_says_what_goes_before_what_comes() {
        let rules = vec![Rule::new([Match::OutLoopback, Match::UdpPort(53)], Verdict::Redirect(1053))];
        let chain =
            Chain { name: "c", kind: Kind::Nat, hook: Hook::Output, priority: -105, policy: Policy::Accept, rules };
        insta::assert_snapshot!(Table { name: "t", chains: vec![chain] }.replacement(), @r#"
        table inet t
        delete table inet t
        table inet t {
          chain c {
            type nat hook output priority -105; policy accept;
            oifname "lo" udp dport 53 redirect to :1053
          }
        }
        "#);
    }
}
