//! The rules of a pod's fence.
//!
//! Four chains, each with one task:
//!
//! - `capture` turns TCP of every user but the sidecar's to the transparent listener, and questions for names to the stub
//!   resolver. It comes before the chains of a mesh, whose proxy is a further user that is let out.
//! - `fence` refuses, in a way that the sender sees at once, whatever of those users was not captured: UDP, ICMP, raw IP.
//! - `wall` stands behind all routing and lets nothing of theirs leave by a real interface, however it came there: through
//!   a socket bound to a device, or passed on for a namespace inside the pod.
//! - `door` keeps callers outside the pod from the sidecar's own ports.
//!
//! Loopback is untouched, and so is what answers a caller from outside over TCP: probes, and servers in the pod. What the
//! kernel itself sends has no owner: ICMP is let out, because IPv6 finds its neighbours by it, and so is the end of a TCP
//! connection whose process closed it. Answers over UDP are refused like all UDP.
//!
//! Replies are told by their direction and state together, so that a raw socket can't pass for one where no caller is.
//!
//! Nobody sends in another's name. Over IPv6 any process may choose an address for its socket that the pod does not have
//! (`IPV6_FREEBIND`). Calling a server in the pod from such an address makes its answers leave, and so do the kernel's own
//! refusals and echoes, and the stub resolver's answers: each is a way out for what the caller wrote.

use super::{
    Fence,
    table::{Chain, Hook, Kind, Match, Policy, Protocol, Rule, Table, Verdict},
};

/// The table for this fence.
pub fn table(fence: &Fence) -> Table {
    Table { name: NAME, chains: vec![capture(fence), refuse(fence), wall(fence), door(fence)] }
}

fn capture(fence: &Fence) -> Chain {
    let mut rules = let_out(fence);
    rules.push(Rule::new([Match::OutLoopback], Verdict::Accept));
    rules.push(Rule::new([Match::UdpPort(53)], Verdict::Redirect(fence.dns)));
    rules.push(Rule::new([Match::TcpPort(53)], Verdict::Redirect(fence.dns)));
    rules.push(Rule::new([TCP], Verdict::Redirect(fence.transparent)));
    Chain {
        name: "capture",
        kind: Kind::Nat,
        hook: Hook::Output,
        priority: BEFORE_MESHES,
        policy: Policy::Accept,
        rules,
    }
}

fn refuse(fence: &Fence) -> Chain {
    let mut rules = let_out(fence);
    // Vanishes, because a refusal would go to that address, with a part of what was sent.
    rules.push(Rule::new([Match::OtherOwner(fence.uid), Match::ForeignSource], Verdict::Drop));
    // A process can have the kernel open a connection for it, through a socket without an owner (`AF_SMC`). ICMP is left
    // out: the first questions for neighbours come from no address at all.
    rules.push(Rule::new([TCP, Match::ForeignSource], Verdict::Drop));
    rules.push(Rule::new([UDP, Match::ForeignSource], Verdict::Drop));
    rules.push(Rule::new([Match::OutLoopback], Verdict::Accept));
    // A redirect has changed the destination by now, but not the interface that this chain sees.
    rules.push(Rule::new([Match::ToLoopback4], Verdict::Accept));
    rules.push(Rule::new([Match::To6(std::net::Ipv6Addr::LOCALHOST)], Verdict::Accept));
    rules.push(Rule::new([TCP, Match::Reply, Match::Established], Verdict::Accept));
    rules.push(Rule::new([Match::OtherOwner(fence.uid), TCP], Verdict::Reset));
    rules.push(Rule::new([Match::OtherOwner(fence.uid)], Verdict::Reject));
    rules.extend(unowned());
    Chain { name: "fence", kind: Kind::Filter, hook: Hook::Output, priority: AS_FILTERS, policy: Policy::Drop, rules }
}

fn wall(fence: &Fence) -> Chain {
    let mut rules = let_out(fence);
    rules.push(Rule::new([Match::OutLoopback], Verdict::Accept));
    rules.push(Rule::new([TCP, Match::Reply, Match::Established], Verdict::Accept));
    rules.push(Rule::new([Match::OtherOwner(fence.uid)], Verdict::Drop));
    rules.extend(unowned());
    Chain {
        name: "wall",
        kind: Kind::Filter,
        hook: Hook::Postrouting,
        priority: BEHIND_ALL,
        policy: Policy::Drop,
        rules,
    }
}

fn door(fence: &Fence) -> Chain {
    let tcp = [fence.proxy, fence.transparent, fence.dns]
        .map(|port| Rule::new([Match::InElsewhere, Match::TcpPort(port)], Verdict::Reset));
    let mut rules = tcp.to_vec();
    rules.push(Rule::new([Match::InElsewhere, Match::UdpPort(fence.dns)], Verdict::Reject));
    Chain { name: "door", kind: Kind::Filter, hook: Hook::Input, priority: AS_FILTERS, policy: Policy::Accept, rules }
}

/// The sidecar's user, and those whose traffic is another proxy's business.
fn let_out(fence: &Fence) -> Vec<Rule> {
    let users = [fence.uid].into_iter().chain(fence.exempt.iter().copied());
    users.map(|uid| Rule::new([Match::Owner(uid)], Verdict::Accept)).collect()
}

/// What nobody's socket sends: the kernel's own messages, and what is left of connections that their process closed.
fn unowned() -> [Rule; 3] {
    [
        Rule::new([TCP, Match::Established], Verdict::Accept),
        Rule::new([Match::Protocol(Protocol::Icmp)], Verdict::Accept),
        Rule::new([Match::Protocol(Protocol::Icmp6)], Verdict::Accept),
    ]
}

/// The table's name. `exec` uses the same one, in a namespace of its own.
pub const NAME: &str = "tollgate";

const TCP: Match = Match::Protocol(Protocol::Tcp);
const UDP: Match = Match::Protocol(Protocol::Udp);

/// Meshes redirect at -100 (`dstnat`). The first redirect of a connection is the only one.
const BEFORE_MESHES: i32 = -105;

const AS_FILTERS: i32 = 0;

/// Behind every rewriting of addresses.
const BEHIND_ALL: i32 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_this() {
        let fence = Fence { exempt: vec![1337], ..Fence::default() };
        insta::assert_snapshot!(table(&fence), @r#"
        table inet tollgate {
          chain capture {
            type nat hook output priority -105; policy accept;
            meta skuid 15000 accept
            meta skuid 1337 accept
            oifname "lo" accept
            udp dport 53 redirect to :15053
            tcp dport 53 redirect to :15053
            meta l4proto tcp redirect to :15002
          }
          chain fence {
            type filter hook output priority 0; policy drop;
            meta skuid 15000 accept
            meta skuid 1337 accept
            meta skuid != 15000 fib saddr type != local drop
            meta l4proto tcp fib saddr type != local drop
            meta l4proto udp fib saddr type != local drop
            oifname "lo" accept
            ip daddr 127.0.0.0/8 accept
            ip6 daddr ::1 accept
            meta l4proto tcp ct direction reply ct state established accept
            meta skuid != 15000 meta l4proto tcp reject with tcp reset
            meta skuid != 15000 reject
            meta l4proto tcp ct state established accept
            meta l4proto icmp accept
            meta l4proto ipv6-icmp accept
          }
          chain wall {
            type filter hook postrouting priority 300; policy drop;
            meta skuid 15000 accept
            meta skuid 1337 accept
            oifname "lo" accept
            meta l4proto tcp ct direction reply ct state established accept
            meta skuid != 15000 drop
            meta l4proto tcp ct state established accept
            meta l4proto icmp accept
            meta l4proto ipv6-icmp accept
          }
          chain door {
            type filter hook input priority 0; policy accept;
            iifname != "lo" tcp dport 15001 reject with tcp reset
            iifname != "lo" tcp dport 15002 reject with tcp reset
            iifname != "lo" tcp dport 15053 reject with tcp reset
            iifname != "lo" udp dport 15053 reject
          }
        }
        "#);
    }
}
