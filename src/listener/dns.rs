//! Answers the agent's questions for names, from the configured destinations alone.
//!
//! A name that some destination covers gets an IPv4 address of its own out of 198.18.0.0/15, a range that leads nowhere
//! (RFC 2544). The address is remembered, so that a redirected connection to it is known by its name: a fact, because
//! the agent can't give an address another name. Every other name does not exist. Nothing is ever asked of another
//! resolver, so that a question can't carry data out.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, PoisonError, RwLock},
};

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::A},
};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::config::Upstreams;

/// Names and the addresses that were given for them. Entries are never taken back: an address keeps its meaning for as
/// long as a connection to it can exist.
#[derive(Debug, Default)]
pub struct Names {
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    addresses: HashMap<Arc<str>, Ipv4Addr>,
    names: Vec<Arc<str>>,
}

impl Names {
    /// No name has an address yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name that this address was given for.
    pub fn name_of(&self, ip: IpAddr) -> Option<Arc<str>> {
        let index = index_of(ip)?;
        // A panic can't leave the table half changed, so a poisoned lock is as good as a whole one.
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.names.get(index).cloned()
    }

    /// The address of this canonical name, new if need be. `None` when [`CAPACITY`] names have one: dropping an old name
    /// would let its address change its meaning.
    pub fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        if let Some(known) = self.table.read().unwrap_or_else(PoisonError::into_inner).addresses.get(name) {
            return Some(*known);
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = table.addresses.get(name) {
            return Some(*known);
        }
        let address = address_at(table.names.len())?;
        let name: Arc<str> = name.into();
        table.names.push(Arc::clone(&name));
        table.addresses.insert(name, address);
        Some(address)
    }
}

/// Answers queries on this socket until `shutdown`. `upstreams` gives the destinations in force at that moment.
///
/// One query is answered at a time. Each costs microseconds and no I/O but its answer, so that flooding delays only the
/// agent's own questions.
pub async fn serve(
    socket: UdpSocket,
    names: Arc<Names>,
    upstreams: impl Fn() -> Arc<Upstreams>,
    shutdown: CancellationToken,
) {
    let mut buffer = [0; MAX_QUERY];
    loop {
        let received = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, agent) = match received {
            Ok(received) => received,
            Err(error) if is_about_a_peer(&error) => continue,
            Err(error) => {
                tracing::error!(%error, "the stub resolver's socket failed");
                return;
            }
        };
        let Some(answer) = answer(&buffer[..length], &names, &upstreams()) else { continue };
        // The agent asks again when an answer is lost, as with any resolver.
        let _ = socket.send_to(&answer, agent).await;
    }
}

/// The answer to one datagram; `None` for what is no query.
fn answer(datagram: &[u8], names: &Names, upstreams: &Upstreams) -> Option<Vec<u8>> {
    let query = Message::from_vec(datagram).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata = Metadata::response_from_request(&query.metadata);
    // Without either bit glibc takes an empty answer for a lame server's and asks the next one.
    response.metadata.authoritative = true;
    response.metadata.recursion_available = true;
    if query.edns.is_some() {
        response.set_edns(Edns::new());
    }
    match (query.metadata.op_code, query.queries.as_slice()) {
        (OpCode::Query, [question]) => {
            match resolve(question, names, upstreams) {
                Ok(Some(address)) => {
                    let data = RData::A(A(address));
                    response.add_answer(Record::from_rdata(question.name().clone(), TTL, data));
                }
                Ok(None) => {}
                Err(code) => response.metadata.response_code = code,
            }
            response.add_query(question.clone());
        }
        (OpCode::Query, _) => response.metadata.response_code = ResponseCode::FormErr,
        (_, _) => response.metadata.response_code = ResponseCode::NotImp,
    }
    response.to_vec().ok()
}

/// The address for a question; `None` where the name exists but has no record of that type.
fn resolve(question: &Query, names: &Names, upstreams: &Upstreams) -> Result<Option<Ipv4Addr>, ResponseCode> {
    if question.query_class() != DNSClass::IN {
        return Err(ResponseCode::Refused);
    }
    let name = canonical(question.name()).ok_or(ResponseCode::NXDomain)?;
    if !upstreams.covers_name(&name) {
        return Err(ResponseCode::NXDomain);
    }
    // No AAAA: one family is enough to be redirected. No HTTPS or SVCB: their parameters (ECH, other names and ports)
    // would lead around the name that was asked for.
    if question.query_type() != RecordType::A {
        return Ok(None);
    }
    names.address_of(&name).map(Some).ok_or(ResponseCode::ServFail)
}

/// The lower-case form without the trailing dot. `None` for what can't be the name of a destination: a host name has
/// letters, digits, hyphens and underscores, and does not look like an address.
fn canonical(name: &Name) -> Option<String> {
    if name.is_root() {
        return None;
    }
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    text.parse::<IpAddr>().is_err().then_some(text)
}

/// An earlier answer met a closed port, or was not let out: of no concern to the next query.
fn is_about_a_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | HostUnreachable | Interrupted | NetworkUnreachable)
}

fn address_at(index: usize) -> Option<Ipv4Addr> {
    let offset = u32::try_from(index).ok().filter(|_| index < CAPACITY)?;
    Some(Ipv4Addr::from(u32::from(FIRST) + offset))
}

fn index_of(ip: IpAddr) -> Option<usize> {
    let IpAddr::V4(v4) = ip.to_canonical() else { return None };
    let offset = u32::from(v4).checked_sub(u32::from(FIRST))?;
    usize::try_from(offset).ok().filter(|index| *index < CAPACITY)
}

/// The first address given. Those before it look like network addresses, which some clients refuse.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// How many names can have an address.
const CAPACITY: usize = 4096;

/// Seconds that an answer may be kept. It stays true for as long as the sidecar lives; short, because a name that a
/// reload takes away should cease to exist soon.
const TTL: u32 = 30;

/// A query has one name of at most 255 bytes; what is longer is cut off and then does not parse.
const MAX_QUERY: usize = 1232;

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use super::*;
    use crate::config::{Classification, HostPattern, Protocol, TlsMode, Upstream};

    fn upstreams() -> Upstreams {
        let upstream = Upstream {
            name: "api".into(),
            hosts: vec![
                HostPattern::Exact("api.example.com".into()),
                HostPattern::Exact("10.0.0.1".into()),
                HostPattern::Suffix(".example.org".into()),
            ],
            ports: vec![443],
            reach_public: true,
            reach_private: false,
            addresses: Vec::new(),
            protocol: Protocol::Http,
            tls: TlsMode::Intercept,
            zone: "".into(),
            environment: "".into(),
            classification: Classification::Internal,
            credential: None,
        };
        Upstreams::new(vec![Arc::new(upstream)])
    }

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        message
    }

    fn ask_with(names: &Names, message: &Message) -> Message {
        let datagram = message.to_vec().expect("a query can be encoded");
        let answer = answer(&datagram, names, &upstreams()).expect("a query is answered");
        Message::from_vec(&answer).expect("the answer is a message")
    }

    fn address(message: &Message) -> Option<Ipv4Addr> {
        match message.answers.as_slice() {
            [Record { data: RData::A(A(address)), .. }] => Some(*address),
            [] => None,
            other => panic!("unexpected answers {other:?}"),
        }
    }

    #[test]
    fn a_covered_name_gets_an_address_that_leads_back_to_it() {
        let names = Names::new();
        for (asked, canonical) in [
            ("api.example.com.", "api.example.com"),
            ("API.Example.COM.", "api.example.com"),
            ("a.b.example.org.", "a.b.example.org"),
        ] {
            let message = ask_with(&names, &query(asked, RecordType::A));
            assert_eq!((message.metadata.id, message.metadata.response_code), (7, ResponseCode::NoError));
            let ip = IpAddr::V4(address(&message).expect("an address"));
            assert_eq!(names.name_of(ip).as_deref(), Some(canonical));
        }
        assert_eq!(names.table.read().expect("whole").names.len(), 2);
    }

    #[test]
    fn a_name_keeps_its_address() {
        let names = Names::new();
        let first = address(&ask_with(&names, &query("api.example.com.", RecordType::A)));
        ask_with(&names, &query("x.example.org.", RecordType::A));
        assert_eq!(address(&ask_with(&names, &query("api.example.com.", RecordType::A))), first);
    }

    #[test]
    fn what_no_destination_covers_does_not_exist() {
        let names = Names::new();
        for asked in ["example.com.", "evil-api.example.com.", "example.org.", "10.0.0.1.", "."] {
            let message = ask_with(&names, &query(asked, RecordType::A));
            assert_eq!(message.metadata.response_code, ResponseCode::NXDomain, "{asked}");
            assert_eq!(address(&message), None, "{asked}");
        }
        assert!(names.table.read().expect("whole").names.is_empty(), "a refused name takes no room");
    }

    #[test]
    fn bytes_that_no_host_name_has_do_not_exist() {
        for label in [&b"a\0b"[..], b"a.b", b"a@b", b"a b", b"\xc3\xa4", b"*"] {
            let name = Name::from_labels([label, b"example", b"org"]).expect("a name on the wire");
            let mut message = query("x.example.org.", RecordType::A);
            message.queries[0].set_name(name);
            assert_eq!(ask_with(&Names::new(), &message).metadata.response_code, ResponseCode::NXDomain, "{label:?}");
        }
    }

    #[test]
    fn other_types_are_empty_and_final() {
        let names = Names::new();
        for kind in [RecordType::AAAA, RecordType::HTTPS, RecordType::SVCB, RecordType::TXT, RecordType::ANY] {
            let message = ask_with(&names, &query("api.example.com.", kind));
            assert_eq!(message.metadata.response_code, ResponseCode::NoError, "{kind}");
            assert!(message.answers.is_empty(), "{kind}");
            assert!(message.metadata.recursion_available && message.metadata.authoritative, "{kind}");
        }
    }

    #[test]
    fn an_answer_has_edns_where_the_query_had_it() {
        let names = Names::new();
        let mut message = query("api.example.com.", RecordType::A);
        assert!(ask_with(&names, &message).edns.is_none());
        message.set_edns(Edns::new());
        assert!(ask_with(&names, &message).edns.is_some());
    }

    #[test]
    fn what_is_no_plain_query_is_refused() {
        let names = Names::new();
        let mut notify = query("api.example.com.", RecordType::A);
        notify.metadata.op_code = OpCode::Notify;
        assert_eq!(ask_with(&names, &notify).metadata.response_code, ResponseCode::NotImp);

        let mut two = query("api.example.com.", RecordType::A);
        two.add_query(two.queries[0].clone());
        assert_eq!(ask_with(&names, &two).metadata.response_code, ResponseCode::FormErr);

        let mut chaos = query("api.example.com.", RecordType::A);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(ask_with(&names, &chaos).metadata.response_code, ResponseCode::Refused);

        let response = query("api.example.com.", RecordType::A).into_response();
        for datagram in [response.to_vec().expect("encodes"), Vec::new(), vec![0; 11], vec![0xff; 64]] {
            assert_eq!(answer(&datagram, &names, &upstreams()), None);
        }
    }

    #[test]
    fn a_full_table_refuses_new_names_and_keeps_old_ones() {
        let names = Names::new();
        for number in 0..CAPACITY {
            assert!(names.address_of(&format!("{number}.example.org")).is_some());
        }
        assert_eq!(names.address_of("one-more.example.org"), None);
        assert_eq!(names.address_of("0.example.org"), Some(FIRST));
        let message = ask_with(&names, &query("one-more.example.org.", RecordType::A));
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn an_address_that_was_not_given_has_no_name() {
        let names = Names::new();
        names.address_of("api.example.com").expect("there is room");
        for ip in ["198.18.0.0", "198.18.0.2", "198.20.0.1", "10.0.0.1", "::1", "::ffff:198.18.0.2"] {
            assert_eq!(names.name_of(ip.parse().expect("an address")), None, "{ip}");
        }
        let mapped = "::ffff:198.18.0.1".parse().expect("an address");
        assert_eq!(names.name_of(mapped).as_deref(), Some("api.example.com"));
    }

    #[tokio::test]
    async fn it_answers_over_udp_until_it_is_stopped() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let resolver: SocketAddr = socket.local_addr().expect("bound");
        let (names, shutdown) = (Arc::new(Names::new()), CancellationToken::new());
        let current = Arc::new(upstreams());
        let server = tokio::spawn(serve(socket, Arc::clone(&names), move || Arc::clone(&current), shutdown.clone()));

        let agent = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        agent.send_to(b"noise", resolver).await.expect("sent");
        let datagram = query("api.example.com.", RecordType::A).to_vec().expect("encodes");
        agent.send_to(&datagram, resolver).await.expect("sent");
        let mut buffer = [0; 512];
        let received = tokio::time::timeout(Duration::from_secs(10), agent.recv(&mut buffer)).await;
        let length = received.expect("in time").expect("received");
        assert_eq!(address(&Message::from_vec(&buffer[..length]).expect("a message")), Some(FIRST));

        shutdown.cancel();
        server.await.expect("it ends by itself");
    }
}
