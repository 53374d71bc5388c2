//! A table as the messages that the kernel takes (`linux/netfilter/nf_tables.h`).
//!
//! Each match and verdict becomes the same expressions as in nft, so that `nft list` shows what was meant.

use super::{
    netlink::{Attributes, Request},
    table::{Chain, Family, Hook, Match, Policy, Protocol, Rule, Table, Verdict},
};

/// The messages that put this table in the place of one with the same name.
pub fn replacement(table: &Table) -> Vec<Request> {
    let mut requests = removal(table.name);
    requests.push(Request::new(NEW_TABLE, CREATE, Attributes::default().text(TABLE_NAME, table.name)));
    for chain in &table.chains {
        requests.push(Request::new(NEW_CHAIN, CREATE, of_chain(table.name, chain)));
        let rules = chain.rules.iter().map(|rule| {
            let attributes = of_rules(table.name, chain).nested(RULE_EXPRESSIONS, expressions(rule));
            Request::new(NEW_RULE, CREATE | APPEND, attributes)
        });
        requests.extend(rules);
    }
    requests
}

/// The messages that remove the table of this name, whether or not there is one.
pub fn removal(name: &str) -> Vec<Request> {
    let named = || Attributes::default().text(TABLE_NAME, name);
    vec![Request::new(NEW_TABLE, CREATE, named()), Request::new(DEL_TABLE, 0, named())]
}

/// The attributes of a base chain.
pub fn of_chain(table: &str, chain: &Chain) -> Attributes {
    let hook = Attributes::default().number(HOOK_NUMBER, hook_number(chain.hook));
    let hook = hook.number(HOOK_PRIORITY, chain.priority.cast_unsigned());
    let policy = match chain.policy {
        Policy::Drop => 0,
        Policy::Accept => 1,
    };
    let attributes = Attributes::default().text(CHAIN_TABLE, table).text(CHAIN_NAME, chain.name);
    attributes.nested(CHAIN_HOOK, hook).number(CHAIN_POLICY, policy).text(CHAIN_TYPE, chain.kind.name())
}

/// The attributes that say where a rule is: which chain of which table.
pub fn of_rules(table: &str, chain: &Chain) -> Attributes {
    Attributes::default().text(RULE_TABLE, table).text(RULE_CHAIN, chain.name)
}

/// The expressions of a rule, as a list.
pub fn expressions(rule: &Rule) -> Attributes {
    let mut all = Vec::new();
    for one in &rule.matches {
        of_match(*one, &mut all);
    }
    of_verdict(rule.verdict, &mut all);
    all.into_iter().fold(Attributes::default(), |list, expression| list.nested(LIST_ELEMENT, expression))
}

fn of_match(one: Match, to: &mut Vec<Attributes>) {
    match one {
        Match::Owner(uid) => to.extend([meta(SOCKET_USER), compare(EQUAL, &uid.to_ne_bytes())]),
        Match::OtherOwner(uid) => to.extend([meta(SOCKET_USER), compare(UNEQUAL, &uid.to_ne_bytes())]),
        Match::OutLoopback => to.extend([meta(OUT_INTERFACE), compare(EQUAL, &LOOPBACK)]),
        Match::InElsewhere => to.extend([meta(IN_INTERFACE), compare(UNEQUAL, &LOOPBACK)]),
        Match::Family(family) => of_family(family, to),
        Match::Protocol(protocol) => of_protocol(protocol, to),
        Match::ToLoopback4 => {
            of_family(Family::V4, to);
            to.extend([payload(NETWORK, 16, 1), compare(EQUAL, &[127])]);
        }
        Match::To4(ip) => {
            of_family(Family::V4, to);
            to.extend([payload(NETWORK, 16, 4), compare(EQUAL, &ip.octets())]);
        }
        Match::To6(ip) => {
            of_family(Family::V6, to);
            to.extend([payload(NETWORK, 24, 16), compare(EQUAL, &ip.octets())]);
        }
        Match::TcpPort(port) => of_port(Protocol::Tcp, port, to),
        Match::UdpPort(port) => of_port(Protocol::Udp, port, to),
        Match::Established => {
            to.extend([connection(CT_STATE), only_bits(ESTABLISHED), compare(UNEQUAL, &[0; 4])]);
        }
        Match::ForeignSource => to.extend([source_type(), compare(UNEQUAL, &LOCAL.to_ne_bytes())]),
        Match::Reply => to.extend([connection(CT_DIRECTION), compare(EQUAL, &[1])]),
    }
}

fn of_verdict(verdict: Verdict, to: &mut Vec<Attributes>) {
    match verdict {
        Verdict::Accept => to.push(decide(1)),
        Verdict::Drop => to.push(decide(0)),
        Verdict::Redirect(port) => {
            let load = Attributes::default().number(1, REGISTER).nested(2, value(&port.to_be_bytes()));
            to.push(expression("immediate", load));
            let redirect = Attributes::default().number(1, REGISTER).number(2, REGISTER).number(3, PORT_IS_GIVEN);
            to.push(expression("redir", redirect));
        }
        Verdict::Reset => to.push(expression("reject", Attributes::default().number(1, TCP_RESET))),
        Verdict::Reject => {
            // Said as ICMP of the packet's family: port unreachable.
            to.push(expression("reject", Attributes::default().number(1, ICMP).bytes(2, &[1])));
        }
    }
}

fn of_family(family: Family, to: &mut Vec<Attributes>) {
    let number = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    to.extend([meta(FAMILY), compare(EQUAL, &[number])]);
}

fn of_protocol(protocol: Protocol, to: &mut Vec<Attributes>) {
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Icmp => 1,
        Protocol::Icmp6 => 58,
    };
    to.extend([meta(PROTOCOL), compare(EQUAL, &[number])]);
}

fn of_port(protocol: Protocol, port: u16, to: &mut Vec<Attributes>) {
    of_protocol(protocol, to);
    to.extend([payload(TRANSPORT, 2, 2), compare(EQUAL, &port.to_be_bytes())]);
}

fn expression(name: &str, data: Attributes) -> Attributes {
    Attributes::default().text(EXPRESSION_NAME, name).nested(EXPRESSION_DATA, data)
}

/// Loads a fact about the packet.
fn meta(key: u32) -> Attributes {
    expression("meta", Attributes::default().number(1, REGISTER).number(2, key))
}

/// Loads a fact about the packet's connection.
fn connection(key: u32) -> Attributes {
    expression("ct", Attributes::default().number(1, REGISTER).number(2, key))
}

/// Loads what this namespace's routes say of the address that the packet comes from.
fn source_type() -> Attributes {
    expression("fib", Attributes::default().number(1, REGISTER).number(2, ADDRESS_TYPE).number(3, OF_SOURCE))
}

/// Loads bytes of the packet.
fn payload(base: u32, offset: u32, length: u32) -> Attributes {
    let data = Attributes::default().number(1, REGISTER).number(2, base).number(3, offset).number(4, length);
    expression("payload", data)
}

/// Keeps these bits of what was loaded.
fn only_bits(mask: u32) -> Attributes {
    let data = Attributes::default().number(1, REGISTER).number(2, REGISTER).number(3, 4);
    expression("bitwise", data.nested(4, value(&mask.to_ne_bytes())).nested(5, value(&[0; 4])))
}

/// Goes on to the next expression only if what was loaded is, or is not, this.
fn compare(how: u32, with: &[u8]) -> Attributes {
    expression("cmp", Attributes::default().number(1, REGISTER).number(2, how).nested(3, value(with)))
}

fn decide(code: u32) -> Attributes {
    let verdict = Attributes::default().nested(2, Attributes::default().number(1, code));
    expression("immediate", Attributes::default().number(1, VERDICT).nested(2, verdict))
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}

fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Input => 1,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}

/// A table's name.
pub const TABLE_NAME: u16 = 1;
/// A table's flags; one of them switches it off.
pub const TABLE_FLAGS: u16 = 2;

/// The name of a chain's table.
pub const CHAIN_TABLE: u16 = 1;
/// A chain's name.
pub const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;

const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
/// A rule's expressions, as a list.
pub const RULE_EXPRESSIONS: u16 = 4;

const LIST_ELEMENT: u16 = 1;

// What an expression is told is numbered by each anew, and said where it is made.
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

const NEW_TABLE: u8 = 0;
const DEL_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
/// Asks for chains.
pub const GET_CHAIN: u8 = 4;
const NEW_RULE: u8 = 6;
/// Asks for rules.
pub const GET_RULE: u8 = 7;
/// Asks for tables.
pub const GET_TABLE: u8 = 1;

const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const VERDICT: u32 = 0;
const REGISTER: u32 = 1;

const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;

const IN_INTERFACE: u32 = 6;
const OUT_INTERFACE: u32 = 7;
const SOCKET_USER: u32 = 10;
const FAMILY: u32 = 15;
const PROTOCOL: u32 = 16;

const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const ESTABLISHED: u32 = 2;

const ADDRESS_TYPE: u32 = 3;
const OF_SOURCE: u32 = 1;
const LOCAL: u32 = 2;

const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

const PORT_IS_GIVEN: u32 = 2;

const TCP_RESET: u32 = 1;
const ICMP: u32 = 2;

/// `lo`, as wide as the kernel's names of interfaces.
const LOOPBACK: [u8; 16] = *b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
