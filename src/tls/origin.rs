//! We as a client of the origin. Every connection is verified for exactly the name that policy saw.
//!
//! There is no way to connect without verification, and none to verify for another name than the one that is dialled.

use std::{fmt, io, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, RootCertStore, crypto::CryptoProvider, pki_types::CertificateDer,
    sign::SingleCertAndKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

pub use super::Alpn as OriginAlpn;
use super::{Alpn, Error, H2, certificate::ClientCertificate, provider, server_name, truststore};
use crate::{
    config,
    refusal::{CredentialRefusal, Refusal},
};

/// Opens verified TLS towards origins.
///
/// Sessions are resumed within one choice of protocols only, since the store of the TLS library looks at the name and not
/// at the protocol. A client certificate has configurations of its own, so that no session that was made with it, or
/// without it, is resumed in any other way.
pub struct OriginTls {
    store: Arc<RootCertStore>,
    roots: Vec<CertificateDer<'static>>,
    http2_or_http1: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    own: Arc<ClientConfig>,
}

impl OriginTls {
    /// Verifies by the configured roots.
    pub fn new(config: &config::Tls) -> Result<Self, Error> {
        Self::with_roots(truststore::roots(config)?)
    }

    /// Verifies by these roots, as [`truststore::roots`] gives them.
    ///
    /// Single roots that can't be parsed are left out: a system's set has such ones, and leaving one out trusts less.
    pub fn with_roots(roots: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        if store.is_empty() {
            return Err(Error::NoRoots(" (none can be parsed)".into()));
        }
        let (store, provider) = (Arc::new(store), provider());
        let offering = |alpn: Option<Alpn>| verifying(&store, &provider, alpn, None);
        Ok(Self {
            http2_or_http1: offering(Some(Alpn::Http2OrHttp1))?,
            http1: offering(Some(Alpn::Http1))?,
            http2: offering(Some(Alpn::Http2))?,
            own: offering(None)?,
            store,
            roots,
        })
    }

    /// The certificates by which origins are verified.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Makes the handshake over a connection to a checked address and verifies the certificate for this canonical host
    /// name or IP literal.
    ///
    /// With [`Alpn::Http2`] an origin that does not answer `h2` is refused; otherwise one that answers nothing is left to
    /// the caller, who speaks HTTP/1.1. How long it may take is the caller's to bound.
    ///
    /// An origin that asks who we are is shown the certificate, if there is one.
    pub async fn connect(
        &self,
        stream: TcpStream,
        host: &str,
        alpn: Alpn,
        certificate: Option<&ClientCertificate>,
    ) -> Result<TlsStream<TcpStream>, Refusal> {
        let config = match (certificate, alpn) {
            (Some(certificate), alpn) => self.showing(certificate, alpn)?,
            (None, Alpn::Http2OrHttp1) => &self.http2_or_http1,
            (None, Alpn::Http1) => &self.http1,
            (None, Alpn::Http2) => &self.http2,
        };
        let name = server_name(host).ok_or(Refusal::OriginCertificate(WRONG_NAME))?.to_owned();
        let stream =
            TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(|error| refusal(&error))?;
        if alpn == Alpn::Http2 && stream.get_ref().1.alpn_protocol() != Some(H2) {
            return Err(Refusal::OriginProtocol);
        }
        Ok(stream)
    }

    fn showing<'a>(&self, certificate: &'a ClientCertificate, alpn: Alpn) -> Result<&'a Arc<ClientConfig>, Refusal> {
        let made = certificate.config(alpn, |shown| verifying(&self.store, &provider(), Some(alpn), Some(shown)));
        made.map_err(|error| {
            tracing::error!(%error, "client certificate not usable");
            Refusal::Credential(CredentialRefusal::Malformed)
        })
    }

    /// The same verification for our own calls: token endpoints and telemetry. The HTTP client adds the protocols.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.own)
    }
}

impl fmt::Debug for OriginTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OriginTls").finish_non_exhaustive()
    }
}

fn verifying(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    alpn: Option<Alpn>,
    shown: Option<Arc<SingleCertAndKey>>,
) -> Result<Arc<ClientConfig>, Error> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(Arc::clone(roots));
    let mut config = match shown {
        Some(shown) => config.with_client_cert_resolver(shown),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.map(Alpn::to_vec).unwrap_or_default();
    Ok(Arc::new(config))
}

fn refusal(error: &io::Error) -> Refusal {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => Refusal::OriginCertificate(sentence(why)),
        Some(rustls::Error::NoCertificatesPresented) => Refusal::OriginCertificate(UNVERIFIABLE),
        // The library may gain kinds of errors; whatever they are, the connection is not used.
        Some(_) | None => Refusal::OriginProtocol,
    }
}

fn sentence(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => EXPIRED,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => NOT_YET_VALID,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => WRONG_NAME,
        CertificateError::UnknownIssuer => UNKNOWN_ISSUER,
        // The library may gain reasons; this sentence is true of each of them.
        _ => UNVERIFIABLE,
    }
}

const EXPIRED: &str = "the destination's certificate has expired";
const NOT_YET_VALID: &str = "the destination's certificate is not valid yet";
const WRONG_NAME: &str = "the destination's certificate is not for this name";
const UNKNOWN_ISSUER: &str = "the destination's certificate is from an issuer that is not trusted here";
const UNVERIFIABLE: &str = "the destination's certificate can't be verified";

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    use rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    };
    use tokio::{io::AsyncWriteExt, net::TcpListener};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    struct World {
        issuer: CertifiedIssuer<'static, KeyPair>,
        tls: OriginTls,
    }

    fn issuer(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn world() -> World {
        let issuer = issuer("trusted");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roots.pem");
        std::fs::write(&path, issuer.pem()).unwrap();
        let config = config::Tls { system_roots: false, root_files: vec![path], ..config::Tls::default() };
        World { issuer, tls: OriginTls::new(&config).unwrap() }
    }

    /// Valid for the name from an hour ago to in an hour, but for what the test changes.
    fn certificate(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + HOUR).into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        params
    }

    fn server(params: &CertificateParams, issuer: &CertifiedIssuer<'_, KeyPair>, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.into()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// Connects to a loopback server; gives what we got and which SNI the server saw.
    async fn connect(
        tls: &OriginTls,
        server: Arc<ServerConfig>,
        host: &str,
        alpn: Alpn,
    ) -> (Result<TlsStream<TcpStream>, Refusal>, Option<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            TlsAcceptor::from(server).accept(stream).await.ok()
        };
        let dial = async { tls.connect(TcpStream::connect(address).await.unwrap(), host, alpn, None).await };
        let (served, connected) = tokio::join!(serve, dial);
        (connected, served.and_then(|stream| stream.get_ref().1.server_name().map(str::to_owned)))
    }

    fn why(result: Result<TlsStream<TcpStream>, Refusal>) -> &'static str {
        match result {
            Err(Refusal::OriginCertificate(why)) => why,
            Err(other) => other.label(),
            Ok(_) => "connected",
        }
    }

    #[tokio::test]
    async fn a_valid_origin_is_connected_to_by_its_name() {
        let world = world();
        let origin = server(&certificate("api.example.com", |_| ()), &world.issuer, &[b"h2", b"http/1.1"]);
        let (result, sni) = connect(&world.tls, origin, "api.example.com", Alpn::Http2OrHttp1).await;
        assert_eq!(result.unwrap().get_ref().1.alpn_protocol(), Some(H2));
        assert_eq!(sni.as_deref(), Some("api.example.com"));
    }

    #[tokio::test]
    async fn an_address_is_verified_as_an_address_and_sends_no_name() {
        let world = world();
        for host in ["127.0.0.1", "::1", "[::1]"] {
            let origin = server(&certificate(host.trim_matches(['[', ']']), |_| ()), &world.issuer, &[]);
            let (result, sni) = connect(&world.tls, origin, host, Alpn::Http2OrHttp1).await;
            assert_eq!((why(result), sni), ("connected", None), "{host}");
        }
        let origin = server(&certificate("127.0.0.1", |_| ()), &world.issuer, &[]);
        assert_eq!(why(connect(&world.tls, origin, "127.0.0.2", Alpn::Http2OrHttp1).await.0), WRONG_NAME);
    }

    #[tokio::test]
    async fn an_origin_that_does_not_verify_is_refused_and_told_why() {
        let (world, stranger, namesake) = (world(), issuer("stranger"), issuer("trusted"));
        let name = "api.example.com";
        let table = [
            (WRONG_NAME, certificate("other.example.com", |_| ()), &world.issuer),
            (
                EXPIRED,
                certificate(name, |params| params.not_after = (SystemTime::now() - HOUR / 2).into()),
                &world.issuer,
            ),
            (
                NOT_YET_VALID,
                certificate(name, |params| params.not_before = (SystemTime::now() + HOUR / 2).into()),
                &world.issuer,
            ),
            (UNKNOWN_ISSUER, certificate(name, |_| ()), &stranger),
            (UNVERIFIABLE, certificate(name, |_| ()), &namesake),
            (
                UNVERIFIABLE,
                certificate(name, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
                &world.issuer,
            ),
        ];
        for (expected, params, issuer) in table {
            let (result, _) = connect(&world.tls, server(&params, issuer, &[]), name, Alpn::Http2OrHttp1).await;
            assert_eq!(why(result), expected);
        }
    }

    #[tokio::test]
    async fn our_own_authority_does_not_verify_origins() {
        let world = world();
        let agent =
            super::super::agent::AgentTls::new(Arc::new(super::super::authority::Authority::open(None).unwrap()));
        let impostor = agent.config_for("api.example.com", Alpn::Http2OrHttp1).unwrap();
        let (result, _) = connect(&world.tls, impostor, "api.example.com", Alpn::Http2OrHttp1).await;
        assert_eq!(why(result), UNKNOWN_ISSUER);
    }

    #[tokio::test]
    async fn http2_only_means_it() {
        let world = world();
        let params = certificate("api.example.com", |_| ());
        let table: [(Alpn, &[&[u8]], &str); 5] = [
            (Alpn::Http2, &[b"h2"], "connected"),
            (Alpn::Http2, &[b"http/1.1"], "origin_protocol"),
            (Alpn::Http2, &[], "origin_protocol"),
            (Alpn::Http1, &[b"h2"], "origin_protocol"),
            (Alpn::Http2OrHttp1, &[], "connected"),
        ];
        for (alpn, offered, expected) in table {
            let (result, _) =
                connect(&world.tls, server(&params, &world.issuer, offered), "api.example.com", alpn).await;
            assert_eq!(why(result), expected, "{alpn:?} {offered:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_tls_is_a_broken_protocol() {
        let world = world();
        for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let serve = async { listener.accept().await.unwrap().0.write_all(answer).await };
            let dial = async {
                world.tls.connect(TcpStream::connect(address).await.unwrap(), "a.test", Alpn::Http2OrHttp1, None).await
            };
            let (_, result) = tokio::join!(serve, dial);
            assert_eq!(why(result), "origin_protocol");
        }
    }

    #[test]
    fn no_roots_is_an_error() {
        assert!(matches!(OriginTls::with_roots(vec![]), Err(Error::NoRoots(_))));
        assert!(matches!(OriginTls::with_roots(vec![CertificateDer::from(vec![1, 2, 3])]), Err(Error::NoRoots(_))));
    }

    #[test]
    fn the_configuration_for_our_own_calls_leaves_the_protocols_open() {
        assert!(world().tls.client_config().alpn_protocols.is_empty());
    }
}
