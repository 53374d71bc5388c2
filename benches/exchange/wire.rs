//! What all processes agree on: the protocol, the origin's name, and how TLS is set up.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The origin's name in certificates and requests.
pub const HOST: &str = "origin.example.com";

/// Which HTTP is spoken, on both sides of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wire {
    Http1,
    Http2,
}

impl Wire {
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }

    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
        }
    }

    /// Answers as [`HOST`] with a certificate made now; the first part verifies it, in PEM.
    pub fn server(self) -> anyhow::Result<(String, TlsAcceptor)> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([HOST.to_owned()])?.self_signed(&key)?;
        let chain = vec![certificate.der().clone()];
        let mut config = ServerConfig::builder_with_provider(tollgate::tls::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
        config.alpn_protocols = self.alpn();
        Ok((certificate.pem(), TlsAcceptor::from(Arc::new(config))))
    }

    /// Trusts this root alone.
    pub fn client(self, root: &str) -> anyhow::Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(root.as_bytes())?)?;
        let mut config = ClientConfig::builder_with_provider(tollgate::tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = self.alpn();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}
