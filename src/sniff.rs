//! Looks at a connection's first bytes without consuming them, and says which protocol they begin.
//!
//! The answer is one of TLS, HTTP/1 and HTTP/2, or a refusal; a beginning that could still become something is waited for,
//! and never taken for something else. TLS is parsed by rustls and by nothing of ours.

use std::{io, time::Duration};

use rustix::net::RecvFlags;
use rustls::server::Acceptor;
use tokio::{io::Interest, net::TcpStream};

use crate::refusal::Refusal;

/// What a connection speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniffed {
    /// TLS, with what its ClientHello says.
    Tls(ClientHello),
    /// HTTP/1: a method and a space.
    Http1,
    /// HTTP/2 with prior knowledge: the whole preface.
    Http2,
}

/// What the agent claims in its ClientHello. None of it is a fact.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The server name, in lower case. `None` also where an address stands in its place.
    pub sni: Option<String>,
    /// The application protocols, the preferred one first.
    pub alpn: Vec<Vec<u8>>,
    /// Whether the `encrypted_client_hello` extension is there: then another name may be hidden behind [`ClientHello::sni`].
    /// Some clients send it with random content, which can't be told apart.
    pub ech: bool,
}

impl ClientHello {
    /// Whether the agent offers this protocol.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.alpn.iter().any(|offered| offered == protocol)
    }
}

/// What some first bytes amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// They can still become a protocol that is known here.
    More,
    /// They are this, whatever follows.
    Known(Sniffed),
    /// They are nothing that is known here, whatever follows.
    Unknown,
}

/// Waits until the first bytes say what the connection speaks, and leaves them unread.
///
/// Silence, an end, a protocol that is not known and a beginning that is not complete within the limit are all refused.
pub async fn sniff(stream: &TcpStream, limit: Duration) -> Result<Sniffed, Refusal> {
    tokio::time::timeout(limit, look(stream)).await.unwrap_or(Err(Refusal::UnknownProtocol))
}

/// What these first bytes of a connection begin.
pub fn classify(bytes: &[u8]) -> Progress {
    match bytes.first() {
        None => Progress::More,
        Some(&TLS_HANDSHAKE) => client_hello(bytes),
        Some(byte) if byte.is_ascii_uppercase() => http(bytes),
        Some(_) => Progress::Unknown,
    }
}

async fn look(stream: &TcpStream) -> Result<Sniffed, Refusal> {
    let mut buffer = vec![0; FIRST_LOOK];
    let mut seen = 0;
    loop {
        let closed = stream.ready(Interest::READABLE).await.map_err(|_| Refusal::UnknownProtocol)?.is_read_closed();
        match peek(stream, &mut buffer, seen) {
            Ok(length) => seen = length,
            // After the agent's end nothing more can come, and the end would be reported for ever.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !closed => continue,
            Err(_) => return Err(Refusal::UnknownProtocol),
        }
        match classify(&buffer[..seen]) {
            Progress::Known(what) => return Ok(what),
            Progress::Unknown => return Err(Refusal::UnknownProtocol),
            Progress::More if seen < buffer.len() => {}
            Progress::More if buffer.len() < LAST_LOOK => buffer.resize(buffer.len() * 2, 0),
            Progress::More => return Err(Refusal::UnknownProtocol),
        }
    }
}

/// Looks at what has arrived; `WouldBlock` where that is no more than was seen before.
///
/// Bytes that are not consumed keep a socket readable, so waiting for it to become readable would return at once, for
/// ever. Reporting `WouldBlock` from inside `try_io` makes the runtime forget that it is readable, until the kernel
/// reports the next arrival (epoll reports each one, since the runtime asks for edges). What arrives between the look
/// and the forgetting isn't lost: the runtime keeps readiness that is newer than the look.
fn peek(stream: &TcpStream, buffer: &mut [u8], seen: usize) -> io::Result<usize> {
    stream.try_io(Interest::READABLE, || {
        let (length, _) = rustix::net::recv(stream, &mut *buffer, RecvFlags::PEEK)?;
        if length > seen { Ok(length) } else { Err(io::ErrorKind::WouldBlock.into()) }
    })
}

fn client_hello(bytes: &[u8]) -> Progress {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        // Nothing taken of what is there means that the library waits for something else than a ClientHello.
        let Ok(1..) = acceptor.read_tls(&mut rest) else { return Progress::Unknown };
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return Progress::Known(Sniffed::Tls(ClientHello {
                    sni: hello.server_name().map(str::to_owned),
                    alpn: hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect(),
                    // The library accepted the message, so it has extensions; one that could not be walked through is
                    // taken to hide something.
                    ech: has_extension(&handshake(bytes), ENCRYPTED_CLIENT_HELLO).unwrap_or(true),
                }));
            }
            Err(_) => return Progress::Unknown,
        }
    }
    Progress::More
}

fn http(bytes: &[u8]) -> Progress {
    if bytes.starts_with(b"PRI ") {
        return match bytes.get(..HTTP_2_PREFACE.len()) {
            Some(HTTP_2_PREFACE) => Progress::Known(Sniffed::Http2),
            None if HTTP_2_PREFACE.starts_with(bytes) => Progress::More,
            Some(_) | None => Progress::Unknown,
        };
    }
    // Registered methods are of these letters only. Digits and dots would let `SSH-2.0-… ` pass for a method.
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    match bytes.get(method) {
        _ if method > LONGEST_METHOD => Progress::Unknown,
        Some(b' ') => Progress::Known(Sniffed::Http1),
        Some(_) => Progress::Unknown,
        None => Progress::More,
    }
}

/// The handshake bytes in complete TLS records that the TLS library has accepted.
fn handshake(mut records: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(records.len());
    while let Some(([TLS_HANDSHAKE, _, _, high, low], rest)) = records.split_first_chunk() {
        let Some((fragment, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))) else {
            break;
        };
        joined.extend_from_slice(fragment);
        records = rest;
    }
    joined
}

/// Whether an accepted ClientHello has an extension of this type. The library doesn't tell of those that it ignores.
fn has_extension(hello: &[u8], wanted: u16) -> Option<bool> {
    const TYPE_LENGTH_VERSION_RANDOM: usize = 1 + 3 + 2 + 32;
    let (_session, rest) = vector(hello.get(TYPE_LENGTH_VERSION_RANDOM..)?, 1)?;
    let (_suites, rest) = vector(rest, 2)?;
    let (_compressions, rest) = vector(rest, 1)?;
    let (mut extensions, _) = vector(rest, 2)?;
    while let Some((kind, rest)) = extensions.split_first_chunk() {
        if u16::from_be_bytes(*kind) == wanted {
            return Some(true);
        }
        (_, extensions) = vector(rest, 2)?;
    }
    Some(false)
}

/// Splits off what a length of so many bytes announces.
fn vector(bytes: &[u8], width: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(width)?;
    rest.split_at_checked(length.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)))
}

/// Enough for a ClientHello with a post-quantum key share, and for any first line.
const FIRST_LOOK: usize = 4096;
const LAST_LOOK: usize = 64 * 1024;

const TLS_HANDSHAKE: u8 = 0x16;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const HTTP_2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest registered method is `UPDATEREDIRECTREF`.
const LONGEST_METHOD: usize = 32;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::tls;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// What a real client sends first.
    fn hello(name: &str, alpn: &[Vec<u8>]) -> Vec<u8> {
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.to_vec();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut bytes = Vec::new();
        ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    }

    /// A ClientHello of about so many bytes: many protocol names of 250 bytes each.
    fn large_hello(size: usize) -> (Vec<u8>, ClientHello) {
        let alpn: Vec<_> = (0..size / 251).map(|number| vec![b'a' + (number % 26) as u8; 250]).collect();
        let claim = ClientHello { sni: Some("api.example.com".into()), alpn: alpn.clone(), ech: false };
        (hello("api.example.com", &alpn), claim)
    }

    /// The same handshake bytes in records of this size.
    fn fragmented(record: &[u8], size: usize) -> Vec<u8> {
        let header = |length: usize| [&[TLS_HANDSHAKE, 3, 1][..], &(length as u16).to_be_bytes()].concat();
        handshake(record).chunks(size).flat_map(|part| [header(part.len()), part.to_vec()].concat()).collect()
    }

    /// The hello with an empty ECH extension put at the end of its extensions.
    fn with_ech(record: &[u8]) -> Vec<u8> {
        let mut message = handshake(record);
        let mut at = 38;
        for width in [1, 2, 1] {
            let (skipped, _) = vector(&message[at..], width).unwrap();
            at += width + skipped.len();
        }
        let extensions = u16::from_be_bytes([message[at], message[at + 1]]) + 5;
        message[at..at + 2].copy_from_slice(&extensions.to_be_bytes());
        message.extend([0xfe, 0x0d, 0, 1, 1]);
        let length = (message.len() - 4) as u32;
        message[1..4].copy_from_slice(&length.to_be_bytes()[1..]);
        let header = [&[TLS_HANDSHAKE, 3, 1][..], &(message.len() as u16).to_be_bytes()].concat();
        [header, message].concat()
    }

    fn known(bytes: &[u8]) -> Sniffed {
        match classify(bytes) {
            Progress::Known(what) => what,
            other => panic!("{other:?}"),
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (agent, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let agent = agent.unwrap();
        agent.set_nodelay(true).unwrap();
        (agent, accepted.unwrap().0)
    }

    #[test]
    fn first_bytes_say_what_they_begin() {
        use Progress::{Known, More, Unknown};
        let table: [(&[u8], Progress); 25] = [
            (b"", More),
            (b"G", More),
            (b"GET", More),
            (b"GET ", Known(Sniffed::Http1)),
            (b"GET / HTTP/1.1\r\n", Known(Sniffed::Http1)),
            (b"CONNECT a:443 HTTP/1.1\r\n", Known(Sniffed::Http1)),
            (b"M-SEARCH * HTTP/1.1", Known(Sniffed::Http1)),
            (b"PRINT /", Known(Sniffed::Http1)),
            (b"PRI", More),
            (b"PRI ", More),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", More),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Known(Sniffed::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04", Known(Sniffed::Http2)),
            (b"PRI * HTTP/1.1\r\n", Unknown),
            (b"PRI / HTTP/2.0\r\n", Unknown),
            (b"get / HTTP/1.1\r\n", Unknown),
            (b"SSH-2.0-OpenSSH_9.2p1 Debian", Unknown),
            (b" GET / HTTP/1.1", Unknown),
            (b"\r\nGET / HTTP/1.1", Unknown),
            (b"GET\t/ HTTP/1.1", Unknown),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Unknown),
            (b"\x16", More),
            (b"\x16\x03\x01\x02", More),
            (b"\x15\x03\x01\x00\x02\x02\x28", Unknown),
            (b"\x80\x2e\x01\x00\x02", Unknown),
        ];
        for (bytes, expected) in table {
            assert_eq!(classify(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_hello_is_read_as_the_agent_wrote_it() {
        let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let claim = ClientHello { sni: Some("api.example.com".into()), alpn: alpn.clone(), ech: false };
        assert!(claim.offers(b"h2") && !claim.offers(b"h3"));
        assert_eq!(known(&hello("API.example.com", &alpn)), Sniffed::Tls(claim));
        assert_eq!(known(&hello("192.0.2.7", &[])), Sniffed::Tls(ClientHello::default()));
    }

    #[test]
    fn an_encrypted_hello_is_noticed() {
        let Sniffed::Tls(claim) = known(&with_ech(&hello("outer.example.com", &[]))) else { panic!("not TLS") };
        assert_eq!((claim.sni.as_deref(), claim.ech), (Some("outer.example.com"), true));
    }

    #[test]
    fn a_hello_may_span_records() {
        let (large, claim) = large_hello(40_000);
        assert!(large.len() > 2 * 16 * 1024);
        assert_eq!(known(&large), Sniffed::Tls(claim));
        let small = hello("api.example.com", &[]);
        for size in [1, 7, 100, 1000] {
            let cut = fragmented(&small, size);
            assert_eq!(classify(&cut), classify(&small), "{size}");
            assert_eq!(classify(&cut[..cut.len() - 1]), Progress::More, "{size}");
        }
    }

    #[test]
    fn bytes_after_a_hello_change_nothing() {
        let first = hello("api.example.com", &[]);
        let followed = [&first[..], b"\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x05hello"].concat();
        assert_eq!(classify(&followed), classify(&first));
    }

    #[test]
    fn a_broken_hello_is_nothing() {
        let good = hello("api.example.com", &[]);
        let breaks: [(&str, &dyn Fn(&mut Vec<u8>)); 4] = [
            ("another message", &|bytes| bytes[5] = 2),
            ("a wrong inner length", &|bytes| bytes[8] -= 1),
            ("an endless message", &|bytes| bytes[6] = 0xff),
            ("a record of another protocol", &|bytes| bytes[1] = 9),
        ];
        for (what, damage) in breaks {
            let mut bytes = good.clone();
            damage(&mut bytes);
            assert_eq!(classify(&bytes), Progress::Unknown, "{what}");
        }
    }

    #[tokio::test]
    async fn what_was_looked_at_can_still_be_read() {
        let (mut agent, stream) = pair().await;
        agent.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(sniff(&stream, PATIENCE).await.unwrap(), Sniffed::Http1);
        let mut read = vec![0; 18];
        { stream }.read_exact(&mut read).await.unwrap();
        assert_eq!(read, b"GET / HTTP/1.1\r\n\r\n");
    }

    #[tokio::test]
    async fn a_hello_that_comes_in_pieces_is_waited_for() {
        let (bytes, claim) = large_hello(20_000);
        let (mut agent, stream) = pair().await;
        let send = async {
            for piece in bytes.chunks(700) {
                agent.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (sniffed, ()) = tokio::join!(sniff(&stream, PATIENCE), send);
        assert_eq!(sniffed.unwrap(), Sniffed::Tls(claim));
    }

    #[tokio::test]
    async fn a_hello_of_nearly_64_kib_is_read() {
        let (bytes, claim) = large_hello(62_000);
        let (mut agent, stream) = pair().await;
        let (sniffed, sent) = tokio::join!(sniff(&stream, PATIENCE), agent.write_all(&bytes));
        sent.unwrap();
        assert_eq!(sniffed.unwrap(), Sniffed::Tls(claim));
    }

    #[tokio::test]
    async fn silence_and_half_a_beginning_end_at_the_limit() {
        for beginning in [&b""[..], b"GE", b"\x16\x03\x01", &hello("api.example.com", &[])[..200]] {
            let (mut agent, stream) = pair().await;
            agent.write_all(beginning).await.unwrap();
            let refused = sniff(&stream, Duration::from_millis(20)).await;
            assert!(matches!(refused, Err(Refusal::UnknownProtocol)));
        }
    }

    #[tokio::test]
    async fn an_end_is_not_waited_out() {
        for beginning in [&b""[..], b"GE", &hello("api.example.com", &[])[..200]] {
            let (mut agent, stream) = pair().await;
            agent.write_all(beginning).await.unwrap();
            agent.shutdown().await.unwrap();
            let began = std::time::Instant::now();
            assert!(matches!(sniff(&stream, PATIENCE).await, Err(Refusal::UnknownProtocol)));
            assert!(began.elapsed() < PATIENCE / 2);
        }
    }

    #[tokio::test]
    async fn a_request_that_is_followed_by_an_end_is_seen() {
        let (mut agent, stream) = pair().await;
        agent.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        agent.shutdown().await.unwrap();
        assert_eq!(sniff(&stream, PATIENCE).await.unwrap(), Sniffed::Http1);
    }

    #[tokio::test]
    async fn waiting_for_more_does_not_spin() {
        let (mut agent, stream) = pair().await;
        agent.write_all(b"GE").await.unwrap();
        let mut looking = std::pin::pin!(look(&stream));
        let mut polls = 0;
        let counted = std::future::poll_fn(|context| {
            polls += 1;
            looking.as_mut().poll(context)
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), counted).await.is_err());
        assert!(polls <= 3, "{polls}");
    }

    proptest! {
        #[test]
        fn a_prefix_of_a_hello_is_never_something_else(cut in 0.0..1.0_f64, size in 1..3000_usize, kind in 0..3_usize) {
            let first = hello("api.example.com", &[b"h2".to_vec(), b"http/1.1".to_vec()]);
            let whole = match kind {
                0 => first,
                1 => fragmented(&first, size),
                _ => with_ech(&first),
            };
            let cut = (whole.len() as f64 * cut) as usize;
            prop_assert_eq!(classify(&whole[..cut]), Progress::More);
            prop_assert!(matches!(classify(&whole), Progress::Known(Sniffed::Tls(_))));
        }

        #[test]
        fn a_prefix_of_http_is_never_something_else(method in "[A-Z][A-Z-]{0,20}", rest in "[ -~]{0,20}", cut in 0..60_usize) {
            let whole = format!("{method} {rest}").into_bytes();
            let prefix = classify(&whole[..cut.min(whole.len())]);
            prop_assert!(prefix == Progress::More || prefix == classify(&whole));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = classify(&bytes);
            let _ = classify(&[b"\x16\x03\x01", &bytes[..]].concat());
            let _ = has_extension(&handshake(&bytes), ENCRYPTED_CLIENT_HELLO);
        }

        #[test]
        fn a_damaged_hello_is_never_http(position in 1..300_usize, value in any::<u8>()) {
            let mut bytes = hello("api.example.com", &[]);
            let position = position.min(bytes.len() - 1);
            bytes[position] = value;
            prop_assert!(!matches!(classify(&bytes), Progress::Known(Sniffed::Http1 | Sniffed::Http2)));
        }
    }
}
