//! A certificate and its key that origins are shown, if they ask for one.
//!
//! Sessions are resumed within one certificate and one choice of protocols only, so a resumed session never carries
//! anybody else's identity. The key is held by the TLS library and leaves it in no form.

use std::{
    fmt::{self, Write},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, time::ASN1Time};

use super::{Alpn, Error, provider};

/// A chain, and the key of its first certificate.
pub struct ClientCertificate {
    shown: Arc<SingleCertAndKey>,
    serial: Arc<str>,
    begins_at: SystemTime,
    expires_at: SystemTime,
    fingerprint: [u8; 32],
    configs: [OnceLock<Arc<ClientConfig>>; Alpn::COUNT],
}

/// Why a certificate can't be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is no certificate.
    #[error("there is no certificate that can be read")]
    Certificate,
    /// There is no key.
    #[error("there is no private key that can be read")]
    Key,
    /// They do not belong together, or the key is of no known kind.
    #[error("certificate and key can't be used together: {0}")]
    Pair(String),
}

impl ClientCertificate {
    /// From a chain in DER, the own certificate first, and a PKCS#8 key.
    ///
    /// # Errors
    /// What is not as it should be.
    pub fn from_der<'a>(chain: impl IntoIterator<Item = &'a [u8]>, key: &[u8]) -> Result<Self, Unusable> {
        let chain = chain.into_iter().map(|certificate| CertificateDer::from(certificate.to_vec())).collect();
        Self::new(chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec())))
    }

    /// From a chain and a key in PEM.
    ///
    /// # Errors
    /// What is not as it should be.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Unusable> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Unusable::Key)?;
        Self::new(chain.map_err(|_| Unusable::Certificate)?, key)
    }

    /// The library wipes the key once it has read it.
    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, Unusable> {
        let first = chain.first().ok_or(Unusable::Certificate)?;
        let (_, parsed) = X509Certificate::from_der(first).map_err(|_| Unusable::Certificate)?;
        let (serial, validity) = (hex(unsigned(parsed.raw_serial())).into(), parsed.validity().clone());
        let fingerprint = digest::digest(&digest::SHA256, first).as_ref().try_into();
        let certified = CertifiedKey::from_der(chain, key, &provider());
        let certified = certified.map_err(|error| Unusable::Pair(error.to_string()))?;
        Ok(Self {
            shown: Arc::new(SingleCertAndKey::from(certified)),
            serial,
            begins_at: moment(validity.not_before),
            expires_at: moment(validity.not_after),
            fingerprint: fingerprint.expect("SHA-256 has 32 bytes"),
            configs: [const { OnceLock::new() }; Alpn::COUNT],
        })
    }

    /// The certificate's serial number in hexadecimal, as people compare it.
    pub fn serial(&self) -> &Arc<str> {
        &self.serial
    }

    /// When the certificate begins to be valid.
    pub fn begins_at(&self) -> SystemTime {
        self.begins_at
    }

    /// When the certificate ends.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// The SHA-256 digest of the certificate.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// The configuration that shows it, made when it is first asked for.
    pub(super) fn config(
        &self,
        alpn: Alpn,
        make: impl FnOnce(Arc<SingleCertAndKey>) -> Result<Arc<ClientConfig>, Error>,
    ) -> Result<&Arc<ClientConfig>, Error> {
        let place = &self.configs[alpn as usize];
        if let Some(config) = place.get() {
            return Ok(config);
        }
        let made = make(Arc::clone(&self.shown))?;
        Ok(place.get_or_init(|| made))
    }
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for ClientCertificate {}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("serial", &self.serial).finish_non_exhaustive()
    }
}

fn moment(time: ASN1Time) -> SystemTime {
    let since = Duration::from_secs(time.timestamp().unsigned_abs());
    let found = match time.timestamp() {
        0.. => SystemTime::UNIX_EPOCH.checked_add(since),
        _ => SystemTime::UNIX_EPOCH.checked_sub(since),
    };
    found.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Without the zero that keeps a number from being negative in DER.
fn unsigned(serial: &[u8]) -> &[u8] {
    match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        whole => whole,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SerialNumber};

    use super::*;

    fn pair() -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["client.example.com".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(0x0001_02ab_u64));
        params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
        let certificate = params.self_signed(&key).unwrap();
        (certificate, key)
    }

    #[test]
    fn a_pair_is_read_from_both_encodings() {
        let (certificate, key) = pair();
        let der = ClientCertificate::from_der([&certificate.der()[..]], &key.serialize_der()).unwrap();
        let pem = ClientCertificate::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        assert_eq!((&**der.serial(), &der), ("0102ab", &pem));
        let left = der.expires_at().duration_since(SystemTime::now()).unwrap().as_secs();
        assert!((3590..=3600).contains(&left), "{left}");
        assert_eq!(format!("{der:?}"), r#"ClientCertificate { serial: "0102ab", .. }"#);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let ((certificate, key), (_, other)) = (pair(), pair());
        let (chain, key) = (certificate.pem(), key.serialize_pem());
        let read = |chain: &str, key: &str| ClientCertificate::from_pem(chain.as_bytes(), key.as_bytes());
        assert_eq!(read("", &key).unwrap_err(), Unusable::Certificate);
        assert_eq!(read(&chain, &chain).unwrap_err(), Unusable::Key);
        assert!(matches!(read(&chain, &other.serialize_pem()), Err(Unusable::Pair(_))));
        assert!(matches!(ClientCertificate::from_der([&certificate.der()[..]], b"x"), Err(Unusable::Pair(_))));
        assert!(ClientCertificate::from_der([], b"x").is_err());
    }
}
