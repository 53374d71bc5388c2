//! We as the server that the agent wanted to reach.
//!
//! Each server name has a configuration of its own, with a certificate for that name alone: an HTTP/2 client sends
//! requests for every name that a certificate covers over one connection, so a broader one would mix destinations.

use std::{fmt, sync::Arc, time::Duration};

use moka::{policy::EvictionPolicy, sync::Cache};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs::kx_group},
    server::{NoServerSessionStorage, ResolvesServerCertUsingSni},
    sign::SingleCertAndKey,
};

pub use super::Alpn as AgentAlpn;
use super::{Alpn, Error, authority::Authority, provider};

/// Server configurations by name, made when they are first asked for.
pub struct AgentTls {
    authority: Arc<Authority>,
    http2_or_http1: Offer,
    http1: Offer,
    http2: Offer,
}

/// All that the names have in common for one choice of protocols.
struct Offer {
    template: ServerConfig,
    by_name: Cache<String, Arc<ServerConfig>>,
}

impl AgentTls {
    /// Stands in for origins with certificates of this authority.
    pub fn new(authority: Arc<Authority>) -> Self {
        let provider = pod_local_provider();
        let offer = |alpn| Offer::new(&provider, alpn);
        Self {
            authority,
            http2_or_http1: offer(Alpn::Http2OrHttp1),
            http1: offer(Alpn::Http1),
            http2: offer(Alpn::Http2),
        }
    }

    /// The authority that the agent trusts.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The configuration that answers as this canonical host name or IP literal and offers these protocols.
    ///
    /// An agent that offers protocols of its own, and none of these, fails in the handshake; one that offers none at all
    /// gets through without, and speaks HTTP/1.1.
    pub fn config_for(&self, name: &str, alpn: Alpn) -> Result<Arc<ServerConfig>, Arc<Error>> {
        let offer = match alpn {
            Alpn::Http2OrHttp1 => &self.http2_or_http1,
            Alpn::Http1 => &self.http1,
            Alpn::Http2 => &self.http2,
        };
        if let Some(config) = offer.by_name.get(name) {
            return Ok(config);
        }
        let leaf = self.authority.leaf(name)?;
        let mut config = offer.template.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(leaf));
        let config = Arc::new(config);
        offer.by_name.insert(name.to_owned(), Arc::clone(&config));
        Ok(config)
    }
}

impl fmt::Debug for AgentTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentTls").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Offer {
    fn new(provider: &Arc<CryptoProvider>, alpn: Alpn) -> Self {
        let mut template = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites and key exchange groups for TLS 1.2 and 1.3")
            .with_no_client_auth()
            // Knows no certificate, so a template that was used as it is would refuse every handshake.
            .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        template.alpn_protocols = alpn.to_vec();
        // No resumption towards the agent. A full handshake costs one P-256 signature more than a resumed one (some 20
        // microseconds) on a connection that never leaves the pod. In exchange each connection would cost two sealed
        // tickets, or each name a store of 256 sessions, and a ticket taken under one name must never open a session
        // under another. With nothing kept, there is nothing to mix.
        template.session_storage = Arc::new(NoServerSessionStorage {});
        template.send_tls13_tickets = 0;
        let by_name = Cache::builder()
            .max_capacity(CACHED_CONFIGS)
            .time_to_live(CONFIG_REUSE)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { template, by_name }
    }
}

/// Key exchange without the post-quantum hybrid, which guards recorded traffic against later machines.
///
/// Whoever could record this connection is inside the pod, where the plain text is. The hybrid would cost more than the
/// rest of the key exchange together and two kilobytes per handshake. It is left out rather than put last, because
/// rustls follows the client's order; clients that prefer the hybrid send a classical share beside it.
fn pod_local_provider() -> Arc<CryptoProvider> {
    let kx_groups = vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    Arc::new(CryptoProvider { kx_groups, ..CryptoProvider::clone(&provider()) })
}

const CACHED_CONFIGS: u64 = 512;

/// Half as long as a leaf is used, so that the leaf in a configuration is valid for hours after its last use.
const CONFIG_REUSE: Duration = Duration::from_secs(6 * 3600);

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, pki_types::ServerName, version};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

    use super::*;

    fn agent() -> AgentTls {
        AgentTls::new(Arc::new(Authority::open(None).unwrap()))
    }

    /// A client that trusts this authority and nothing else.
    fn trusting(authority: &Authority, offered: &[&[u8]]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        config
    }

    async fn handshake(
        server: Arc<ServerConfig>,
        client: Arc<ClientConfig>,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let serve = async {
            let (stream, _) = listener.accept().await?;
            TlsAcceptor::from(server).accept(stream).await
        };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connect = async { TlsConnector::from(client).connect(name, TcpStream::connect(address).await?).await };
        let (served, connected) = tokio::join!(serve, connect);
        let connected = connected?;
        served?;
        Ok(connected)
    }

    #[tokio::test]
    async fn an_agent_that_trusts_only_us_sees_one_name() {
        let agent = agent();
        for name in ["api.example.com", "127.0.0.1"] {
            let client = Arc::new(trusting(agent.authority(), &[b"h2", b"http/1.1"]));
            let stream = handshake(agent.config_for(name, Alpn::Http2OrHttp1).unwrap(), client, name).await.unwrap();
            let connection = stream.get_ref().1;
            assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
            assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            let chain = connection.peer_certificates().unwrap();
            assert_eq!(chain.len(), 1);
            let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
            let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
            assert!(matches!(names[..], [GeneralName::DNSName(_)] | [GeneralName::IPAddress(_)]), "{names:?}");
        }
    }

    #[tokio::test]
    async fn tls_1_2_is_spoken_too() {
        let agent = agent();
        let mut roots = RootCertStore::empty();
        roots.add(agent.authority().certificate().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = agent.config_for("api.example.com", Alpn::Http2OrHttp1).unwrap();
        let stream = handshake(server, Arc::new(client), "api.example.com").await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
        assert_eq!(stream.get_ref().1.alpn_protocol(), None);
    }

    #[tokio::test]
    async fn a_kept_authority_still_convinces_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let before = Authority::open(Some(dir.path())).unwrap();
        let after = AgentTls::new(Arc::new(Authority::open(Some(dir.path())).unwrap()));
        let server = after.config_for("api.example.com", Alpn::Http2OrHttp1).unwrap();
        handshake(server, Arc::new(trusting(&before, &[])), "api.example.com").await.unwrap();
    }

    #[tokio::test]
    async fn an_agent_of_another_pod_does_not_trust_us() {
        let stranger = Authority::open(None).unwrap();
        let server = agent().config_for("api.example.com", Alpn::Http2OrHttp1).unwrap();
        handshake(server, Arc::new(trusting(&stranger, &[])), "api.example.com").await.unwrap_err();
    }

    #[tokio::test]
    async fn the_caller_chooses_what_is_offered() {
        let agent = agent();
        let table: [(Alpn, &[&[u8]], Option<Option<&[u8]>>); 7] = [
            (Alpn::Http2OrHttp1, &[b"http/1.1"], Some(Some(b"http/1.1"))),
            (Alpn::Http2OrHttp1, &[b"http/1.1", b"h2"], Some(Some(b"h2"))),
            (Alpn::Http2OrHttp1, &[], Some(None)),
            (Alpn::Http2OrHttp1, &[b"h3"], None),
            (Alpn::Http1, &[b"h2", b"http/1.1"], Some(Some(b"http/1.1"))),
            (Alpn::Http2, &[b"h2", b"http/1.1"], Some(Some(b"h2"))),
            (Alpn::Http2, &[b"http/1.1"], None),
        ];
        for (alpn, offered, expected) in table {
            let client = Arc::new(trusting(agent.authority(), offered));
            let server = agent.config_for("api.example.com", alpn).unwrap();
            let stream = handshake(server, client, "api.example.com").await;
            let negotiated = stream.as_ref().ok().map(|stream| stream.get_ref().1.alpn_protocol());
            assert_eq!(negotiated, expected, "{alpn:?} {offered:?}");
        }
    }

    #[tokio::test]
    async fn nothing_is_resumed() {
        let agent = agent();
        let client = Arc::new(trusting(agent.authority(), &[]));
        for _ in 0..2 {
            let server = agent.config_for("api.example.com", Alpn::Http2OrHttp1).unwrap();
            let stream = handshake(server, Arc::clone(&client), "api.example.com").await.unwrap();
            // A retry would mean that this client's first choice of key shares left us nothing to take.
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
        }
    }

    #[test]
    fn a_configuration_is_made_once_for_a_name_and_its_protocols() {
        let agent = agent();
        let first = agent.config_for("api.example.com", Alpn::Http2OrHttp1).unwrap();
        assert!(Arc::ptr_eq(&first, &agent.config_for("api.example.com", Alpn::Http2OrHttp1).unwrap()));
        assert!(!Arc::ptr_eq(&first, &agent.config_for("api.example.com", Alpn::Http1).unwrap()));
        assert!(!Arc::ptr_eq(&first, &agent.config_for("b.example.com", Alpn::Http2OrHttp1).unwrap()));
        assert!(agent.config_for("*.example.com", Alpn::Http2OrHttp1).is_err());
    }
}
