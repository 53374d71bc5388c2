//! We as a server of the cluster, with a certificate that someone else puts on disk and replaces.
//!
//! A certificate is used only together with the key that belongs to it: while the two files are being replaced one after
//! the other, the old pair stays.

use std::{fmt, fs, path::PathBuf, sync::Arc, time::SystemTime};

use aws_lc_rs::digest;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{Alpn, Error, provider};

/// Where certificate and key stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The chain as PEM, our own certificate first.
    pub certificate: PathBuf,
    /// Its key as PEM.
    pub key: PathBuf,
}

/// Names what the two files held. Tells nothing of the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Content([u8; 32]);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content")
    }
}

/// A certificate in use.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Serves with it, HTTP/2 preferred.
    pub config: Arc<ServerConfig>,
    /// When it ends.
    pub expires: SystemTime,
    /// What the files held.
    pub content: Content,
}

impl Files {
    /// Reads both.
    ///
    /// # Errors
    /// Why they can't be used.
    pub fn load(&self) -> Result<Loaded, Error> {
        let (certificate, key) = self.read()?;
        self.assemble(&certificate, &key)
    }

    /// Reads both, and uses them where they hold something else than `content`.
    pub fn load_if_changed(&self, content: &Content) -> Option<Result<Loaded, (Content, Error)>> {
        // A file that is gone for a moment is one that is being replaced.
        let (certificate, key) = self.read().ok()?;
        let now = named(&certificate, &key);
        if now == *content {
            return None;
        }
        Some(self.assemble(&certificate, &key).map_err(|error| (now, error)))
    }

    fn read(&self) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), Error> {
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|source| Error::File { action: "read", path: path.clone(), source })
        };
        Ok((read(&self.certificate)?, Zeroizing::new(read(&self.key)?)))
    }

    fn assemble(&self, certificate: &[u8], key: &[u8]) -> Result<Loaded, Error> {
        let unusable = |path: &PathBuf, problem: &str| Error::Unusable {
            path: path.clone(),
            problem: problem.to_owned(),
            hint: "`serve.certificate` and `serve.key` name PEM files that belong together",
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| unusable(&self.certificate, "is not PEM"))?;
        let first = chain.first().ok_or_else(|| unusable(&self.certificate, "holds no certificate"))?;
        let expires =
            expiry(first).ok_or_else(|| unusable(&self.certificate, "holds no certificate that can be read"))?;
        let private = PrivateKeyDer::from_pem_slice(key).map_err(|_| unusable(&self.key, "holds no private key"))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(|error| unusable(&self.key, &format!("can't be used with the certificate: {error}")))?;
        config.alpn_protocols = Alpn::Http2OrHttp1.to_vec();
        Ok(Loaded { config: Arc::new(config), expires, content: named(certificate, key) })
    }
}

fn expiry(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
}

fn named(certificate: &[u8], key: &[u8]) -> Content {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&(certificate.len() as u64).to_be_bytes());
    context.update(certificate);
    context.update(key);
    Content(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["injector.svc".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_is_replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { certificate: dir.path().join("tls.crt"), key: dir.path().join("tls.key") };
        assert!(files.load().is_err());
        let (old, new) = (pair(), pair());
        fs::write(&files.certificate, &old.0).unwrap();
        fs::write(&files.key, &old.1).unwrap();
        let loaded = files.load().unwrap();
        assert!(loaded.expires > SystemTime::now());
        assert!(files.load_if_changed(&loaded.content).is_none());

        fs::write(&files.certificate, &new.0).unwrap();
        let (between, error) = files.load_if_changed(&loaded.content).unwrap().unwrap_err();
        assert!(error.to_string().contains("belong together"), "{error}");
        assert!(files.load_if_changed(&between).is_none());
        fs::write(&files.key, &new.1).unwrap();
        assert!(files.load_if_changed(&between).unwrap().is_ok());
        fs::remove_file(&files.key).unwrap();
        assert!(files.load_if_changed(&between).is_none());
    }

    #[test]
    fn what_is_no_certificate_is_said_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { certificate: dir.path().join("tls.crt"), key: dir.path().join("tls.key") };
        let (certificate, key) = pair();
        for (first, second, expected) in [
            ("", &*key, "tls.crt"),
            ("junk", &key, "tls.crt"),
            (&certificate, "junk", "tls.key"),
            (&certificate, "", "tls.key"),
        ] {
            fs::write(&files.certificate, first).unwrap();
            fs::write(&files.key, second).unwrap();
            let error = files.load().unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("PRIVATE"), "{error}");
        }
    }
}
