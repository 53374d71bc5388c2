//! Answers the agent's questions for names, from the configured destinations alone.
//!
//! A name that some destination covers gets an address of its own out of a range that leads nowhere ([`names`]). The
//! address is remembered, so that a redirected connection to it is known by its name: a fact, because the agent can't give
//! an address another name. Every other name does not exist. Nothing is ever asked of another resolver, so that a question
//! can't carry data out; how many may be asked, and how long the names may be that a `*.suffix` covers, is bounded all the
//! same ([`limit`]).

pub mod limit;
pub mod names;
mod tcp;

use std::{io, net::IpAddr, sync::Arc, time::Instant};

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, TXT},
    },
};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

pub use self::{names::Names, tcp::serve as serve_tcp};
use crate::config::Upstreams;

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
        let Some(answer) = answer(&buffer[..length], agent.ip(), &names, &upstreams()) else { continue };
        // The agent asks again when an answer is lost, as with any resolver.
        let _ = socket.send_to(&answer, agent).await;
    }
}

/// The answer of a resolver for which no destination is configured; `None` for what is no query.
pub fn answer_for_nobody(message: &[u8]) -> Option<Vec<u8>> {
    answer(message, IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), &Names::new(), &Upstreams::default())
}

/// The answer to one message of `agent`; `None` for what is no query.
fn answer(message: &[u8], agent: IpAddr, names: &Names, upstreams: &Upstreams) -> Option<Vec<u8>> {
    let query = Message::from_vec(message).ok()?;
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
            match resolve(question, agent, names, upstreams) {
                Ok(Some(data)) => {
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

/// The record for a question; `None` where the name exists but has no record of that type.
fn resolve(
    question: &Query,
    agent: IpAddr,
    names: &Names,
    upstreams: &Upstreams,
) -> Result<Option<RData>, ResponseCode> {
    if question.query_class() != DNSClass::IN || !names.may_ask(Instant::now()) {
        return Err(ResponseCode::Refused);
    }
    let name = canonical(question.name()).ok_or(ResponseCode::NXDomain)?;
    if name == PROOF_NAME.trim_end_matches('.') {
        let proof = RData::TXT(TXT::new(vec![PROOF.to_owned()]));
        return Ok((question.query_type() == RecordType::TXT).then_some(proof));
    }
    let cover = upstreams.cover(&name).ok_or(ResponseCode::NXDomain)?;
    if !limit::is_modest(&name, cover) {
        return Err(ResponseCode::NXDomain);
    }
    // One family is enough to be redirected: the one that the question came by, which the pod then has. No HTTPS or SVCB:
    // their parameters (ECH, other names and ports) would lead around the name that was asked for.
    let wanted = if agent.to_canonical().is_ipv4() { RecordType::A } else { RecordType::AAAA };
    let record = question.query_type();
    if record != RecordType::A && (record != RecordType::AAAA || record != wanted) {
        return Ok(None);
    }
    let given = names.address_of(&name, cover, Instant::now()).ok_or(ResponseCode::ServFail)?;
    Ok(Some(if record == RecordType::A { RData::A(A(given)) } else { RData::AAAA(AAAA(names::wide(given))) }))
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

/// A name that only this resolver knows, and what it says of it: whoever hears that was answered here.
pub const PROOF_NAME: &str = "stub.tollgate.internal.";

/// The text of the record of [`PROOF_NAME`].
pub const PROOF: &str = "tollgate";

/// Seconds that an answer may be kept. It stays true for as long as the sidecar lives; short, because a name that a
/// reload takes away should cease to exist soon.
const TTL: u32 = 30;

/// A query has one name of at most 255 bytes; what is longer is cut off and then does not parse.
const MAX_QUERY: usize = 1232;

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, SocketAddr},
        time::Duration,
    };

    use super::*;
    use crate::config::{Classification, HostPattern, Protocol, TlsMode, Upstream};

    const AGENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

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
            secrets: Default::default(),
            placeholder: None,
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
        let answer = answer(&datagram, AGENT, names, &upstreams()).expect("a query is answered");
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
        assert_eq!(names.count(), 2);
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
        assert_eq!(names.count(), 0, "a refused name takes no room");
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
            assert_eq!(answer(&datagram, AGENT, &names, &upstreams()), None);
        }
    }

    #[test]
    fn a_question_over_ipv6_has_an_ipv6_answer() {
        let names = Names::new();
        let datagram = query("api.example.com.", RecordType::AAAA).to_vec().expect("encodes");
        let answer = answer(&datagram, "fd00::7".parse().expect("an address"), &names, &upstreams());
        let answer = Message::from_vec(&answer.expect("answered")).expect("a message");
        let [Record { data: RData::AAAA(AAAA(given)), .. }] = answer.answers.as_slice() else { panic!("{answer:?}") };
        assert_eq!(names.name_of(IpAddr::V6(*given)).as_deref(), Some("api.example.com"));
    }

    #[test]
    fn names_below_a_suffix_are_modest() {
        let names = Names::new();
        let long = format!("{}.{}.{}.example.org.", "a".repeat(60), "b".repeat(60), "c".repeat(60));
        let deep = format!("{}example.org.", "a.".repeat(12));
        for asked in [long, deep] {
            let message = ask_with(&names, &query(&asked, RecordType::A));
            assert_eq!(message.metadata.response_code, ResponseCode::NXDomain, "{asked}");
        }
        assert_eq!(names.count(), 0);
    }

    #[test]
    fn a_suffix_can_not_take_the_room_of_other_names() {
        let names = Names::new();
        let mut refused = 0;
        for number in 0..5000 {
            let message = ask_with(&names, &query(&format!("n{number}.example.org."), RecordType::A));
            refused += u32::from(message.metadata.response_code != ResponseCode::NoError);
        }
        assert!(refused > 3000, "{refused} were refused");
        let given = names.address_of("api.example.com", crate::config::Cover::Exact, Instant::now());
        assert_eq!(given, Some(FIRST), "an exact name has room all the same");
    }

    #[test]
    fn only_this_resolver_knows_the_proof() {
        let message = ask_with(&Names::new(), &query(PROOF_NAME, RecordType::TXT));
        assert!(matches!(&message.answers[0].data, RData::TXT(text) if *text.txt_data[0] == *PROOF.as_bytes()));
        assert!(answer_for_nobody(&query(PROOF_NAME, RecordType::TXT).to_vec().expect("encodes")).is_some());
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
