//! The pod's own certificate authority. It issues one leaf per server name, each for exactly that name.
//!
//! The authority's key lives in memory, or in a directory that only the sidecar can read when it must survive a restart
//! of the container: agents that run already can't learn a new authority. The key of the leaves is never written anywhere.
//! A stolen authority is worth nothing elsewhere, because only the agent in this pod trusts it, and it ends after 30 days.

use std::{
    fmt, fs,
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use moka::{policy::EvictionPolicy, sync::Cache};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

use super::{Error, random, server_name, write_file};

/// Issues the certificates that the agent sees.
pub struct Authority {
    issuer: Issuer<'static, Key>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    valid_from: SystemTime,
    expires_at: SystemTime,
    /// One key for all leaves: making a key costs more than making a certificate, and all leaves live in one process.
    leaf_key: KeyPair,
    leaf_signer: Arc<dyn rustls::sign::SigningKey>,
    leaves: Cache<String, Arc<CertifiedKey>>,
}

impl Authority {
    /// The authority kept in `dir`, or a new one where there is none or where it is near its end. Without a directory
    /// it is a new one, in memory only.
    ///
    /// A key that others can read, or that does not belong to its certificate, is refused: it may be known to someone.
    pub fn open(dir: Option<&Path>) -> Result<Self, Error> {
        let now = SystemTime::now();
        let Some(dir) = dir else { return Self::generate(now) };
        if let Some(kept) = Self::load(dir)? {
            if kept.valid_from <= now && now + RENEWED_BEFORE_END < kept.expires_at {
                return Ok(kept);
            }
            tracing::warn!(dir = %dir.display(), "the kept authority is near its end and is replaced; running agents must restart");
        }
        let fresh = Self::generate(now)?;
        fresh.store(dir)?;
        Ok(fresh)
    }

    /// The authority's certificate, for those who are to trust it.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority's certificate as PEM text.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// When the authority ends. From then on it issues nothing, and the pod must be restarted.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// The certificate and key for one canonical host name or IP literal. Made at most once in twelve hours.
    pub fn leaf(&self, name: &str) -> Result<Arc<CertifiedKey>, Arc<Error>> {
        self.leaves.try_get_with_by_ref(name, || self.mint(name, SystemTime::now()).map(Arc::new))
    }

    fn generate(now: SystemTime) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now - CLOCK_SKEW + AUTHORITY_LIFE).into();
        params.serial_number = Some(serial()?);
        // The name differs from pod to pod, so that no verifier takes one authority for another by its name.
        params.distinguished_name = common_name(format!("Tollgate authority {:08x}", u32::from_be_bytes(random()?)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Self::assemble(certificate.pem(), key, Path::new(CERTIFICATE_FILE))
    }

    fn load(dir: &Path) -> Result<Option<Self>, Error> {
        let (certificate_path, key_path) = (dir.join(CERTIFICATE_FILE), dir.join(KEY_FILE));
        let key = read(&key_path, true)?;
        match (read(&certificate_path, false)?, key) {
            (Some(certificate), Some(key)) => {
                let key = KeyPair::from_pkcs8_pem_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256)
                    .map_err(|_| unusable(&key_path, "is no P-256 key in PKCS#8 PEM form", REMOVE_BOTH))?;
                Self::assemble(certificate.to_string(), key, &certificate_path).map(Some)
            }
            (Some(_), None) => Err(unusable(&certificate_path, "has no `ca.key` beside it", REMOVE_BOTH)),
            // The certificate is written last, so nobody was ever told to trust a key without one.
            (None, _) => Ok(None),
        }
    }

    fn store(&self, dir: &Path) -> Result<(), Error> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| Error::File {
            action: "create the directory",
            path: dir.to_owned(),
            source,
        })?;
        // Between these steps there is never a certificate that does not match the key.
        let certificate_path = dir.join(CERTIFICATE_FILE);
        match fs::remove_file(&certificate_path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::File { action: "replace", path: certificate_path, source });
            }
            Ok(()) | Err(_) => {}
        }
        let key = Zeroizing::new(self.issuer.key().0.serialize_pem());
        write_file(&dir.join(KEY_FILE), key.as_bytes(), 0o600)?;
        write_file(&certificate_path, self.certificate_pem.as_bytes(), 0o644)
    }

    /// Both a new authority and a kept one come through here, so that both are checked alike.
    fn assemble(certificate_pem: String, key: KeyPair, path: &Path) -> Result<Self, Error> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| unusable(path, "holds no certificate in PEM form", REMOVE_BOTH))?;
        let (valid_from, expires_at) = validity_of_authority(&certificate, &key, path)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, Key(Zeroizing::new(key)))?;

        let leaf_key = KeyPair::generate()?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let leaf_signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der)?;
        // Least recently used goes first: an admission policy could refuse the very name that is asked for now.
        let leaves = Cache::builder()
            .max_capacity(CACHED_LEAVES)
            .time_to_live(LEAF_REUSE)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Ok(Self { issuer, certificate, certificate_pem, valid_from, expires_at, leaf_key, leaf_signer, leaves })
    }

    fn mint(&self, name: &str, now: SystemTime) -> Result<CertifiedKey, Error> {
        if now >= self.expires_at {
            return Err(Error::AuthorityExpired);
        }
        let unnamable = || Error::Name(name.to_owned());
        let san = match server_name(name).ok_or_else(unnamable)? {
            ServerName::DnsName(dns) => SanType::DnsName(dns.as_ref().try_into()?),
            ServerName::IpAddress(address) => SanType::IpAddress(address.into()),
            _ => return Err(unnamable()),
        };
        let mut params = CertificateParams::default();
        params.not_before = (now - CLOCK_SKEW).max(self.valid_from).into();
        params.not_after = (now - CLOCK_SKEW + LEAF_LIFE).min(self.expires_at).into();
        params.serial_number = Some(serial()?);
        // X.509 ends a common name at 64 characters; verifiers look at the alternative name only.
        params.distinguished_name =
            common_name(if name.len() <= 64 { name.to_owned() } else { "Tollgate leaf".into() });
        params.subject_alt_names = vec![san];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&self.leaf_key, &self.issuer)?;
        Ok(CertifiedKey::new(vec![leaf.into()], Arc::clone(&self.leaf_signer)))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// The authority's key. Its serialised form is wiped when it is dropped.
struct Key(Zeroizing<KeyPair>);

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        PublicKeyData::algorithm(&*self.0)
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

/// The whole file, or `None` where there is none. A private file must not be open to the group or to others.
fn read(path: &Path, private: bool) -> Result<Option<Zeroizing<String>>, Error> {
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // Asked of the open file, so that it can't be another one by the time it is read.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if private && mode & 0o077 != 0 {
        return Err(unusable(path, format!("has mode {mode:04o}, so that others may have read it"), REMOVE_BOTH));
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}

/// From when until when an authority's certificate is valid, once it is sure that it is one and belongs to the key.
fn validity_of_authority(
    certificate: &CertificateDer<'_>,
    key: &KeyPair,
    path: &Path,
) -> Result<(SystemTime, SystemTime), Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| unusable(path, "holds a certificate that can't be read", REMOVE_BOTH))?;
    if !parsed.is_ca() {
        return Err(unusable(path, "holds a certificate that is no authority", REMOVE_BOTH));
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(unusable(path, "does not match `ca.key`", REMOVE_BOTH));
    }
    let at = |time: x509_parser::time::ASN1Time| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(time.timestamp().try_into().unwrap_or(0))
    };
    Ok((at(parsed.validity().not_before), at(parsed.validity().not_after)))
}

fn unusable(path: &Path, problem: impl Into<String>, hint: &'static str) -> Error {
    Error::Unusable { path: path.to_owned(), problem: problem.into(), hint }
}

/// 128 random bits, less the one that would make the number negative and the one that keeps its length.
fn serial() -> Result<SerialNumber, Error> {
    let mut bytes: [u8; 16] = random()?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn common_name(text: String) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";
const REMOVE_BOTH: &str = "remove `ca.pem` and `ca.key` to get a new authority, and restart the agents";

const AUTHORITY_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
const LEAF_LIFE: Duration = Duration::from_secs(24 * 3600);

/// A kept authority must outlive at least the leaves that are made first.
const RENEWED_BEFORE_END: Duration = LEAF_LIFE;

/// With the six hours that a server configuration is kept, a leaf that is served has hours left.
const LEAF_REUSE: Duration = Duration::from_secs(12 * 3600);

/// Clocks in one pod agree, but a virtual machine's may be set back shortly after its start.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

const CACHED_LEAVES: u64 = 1024;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use x509_parser::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_leaf_is_for_exactly_one_name_and_lives_at_most_a_day() {
        let authority = Authority::open(None).unwrap();
        let table = [
            ("api.example.com", GeneralName::DNSName("api.example.com")),
            ("192.0.2.7", GeneralName::IPAddress(&[192, 0, 2, 7])),
            ("[::1]", GeneralName::IPAddress(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
        ];
        let mut serials = HashSet::new();
        for (name, expected) in table {
            let leaf = authority.leaf(name).unwrap();
            assert_eq!(leaf.cert.len(), 1);
            let (_, parsed) = parse_x509_certificate(&leaf.cert[0]).unwrap();
            assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names, [expected]);
            assert!(!parsed.is_ca());
            let usage = parsed.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.server_auth && !usage.client_auth && !usage.any);
            assert!(parsed.key_usage().unwrap().unwrap().value.digital_signature());
            let identifier = |extension: &X509Extension<'_>| {
                matches!(extension.parsed_extension(), ParsedExtension::AuthorityKeyIdentifier(_))
            };
            assert!(parsed.extensions().iter().any(identifier));
            let validity = parsed.validity();
            assert!(validity.not_after.timestamp() - validity.not_before.timestamp() <= DAY.as_secs() as i64);
            assert!(parsed.raw_serial().len() >= 8 && serials.insert(parsed.raw_serial().to_vec()));
        }
    }

    #[test]
    fn the_authority_signs_leaves_only() {
        let authority = Authority::open(None).unwrap();
        let (_, parsed) = parse_x509_certificate(authority.certificate()).unwrap();
        let constraints = parsed.basic_constraints().unwrap().unwrap().value;
        assert!(constraints.ca && constraints.path_len_constraint == Some(0));
        let usage = parsed.key_usage().unwrap().unwrap().value;
        assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
        let left = authority.expires_at().duration_since(SystemTime::now()).unwrap();
        assert!(left < 30 * DAY && left > 29 * DAY);
        assert!(parsed.raw_serial().len() >= 8);
    }

    #[test]
    fn a_leaf_is_made_once() {
        let authority = Authority::open(None).unwrap();
        let first = authority.leaf("api.example.com").unwrap();
        assert!(Arc::ptr_eq(&first, &authority.leaf("api.example.com").unwrap()));
        assert!(!Arc::ptr_eq(&first, &authority.leaf("b.example.com").unwrap()));
    }

    #[test]
    fn what_is_no_name_gets_no_leaf() {
        let authority = Authority::open(None).unwrap();
        for name in ["", "*.example.com", "a b", "example.com:443", "exämple.com"] {
            assert!(matches!(*authority.leaf(name).unwrap_err(), Error::Name(_)), "{name}");
        }
    }

    #[test]
    fn a_long_name_gets_a_leaf() {
        let name = format!("{}.{}.example.com", "a".repeat(60), "b".repeat(60));
        Authority::open(None).unwrap().leaf(&name).unwrap();
    }

    #[test]
    fn a_leaf_never_outlives_the_authority_and_ends_with_it() {
        let now = SystemTime::now();
        let aged = Authority::generate(now - 30 * DAY + DAY / 2).unwrap();
        let leaf = aged.mint("api.example.com", now).unwrap();
        let (_, parsed) = parse_x509_certificate(&leaf.cert[0]).unwrap();
        let end = aged.expires_at().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(parsed.validity().not_after.timestamp() as u64, end);
        let ended = Authority::generate(now - 31 * DAY).unwrap();
        assert!(matches!(*ended.leaf("api.example.com").unwrap_err(), Error::AuthorityExpired));
    }

    #[test]
    fn a_kept_authority_is_the_same_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new");
        let first = Authority::open(Some(&dir)).unwrap();
        assert_eq!((mode(&dir.join("ca.pem")), mode(&dir.join("ca.key"))), (0o644, 0o600));
        let second = Authority::open(Some(&dir)).unwrap();
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        second.leaf("api.example.com").unwrap();
    }

    #[test]
    fn an_authority_near_its_end_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let old = Authority::generate(SystemTime::now() - 30 * DAY + DAY).unwrap();
        old.store(dir.path()).unwrap();
        let fresh = Authority::open(Some(dir.path())).unwrap();
        assert_ne!(old.certificate_pem(), fresh.certificate_pem());
        assert_eq!(fresh.certificate_pem(), Authority::open(Some(dir.path())).unwrap().certificate_pem());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(Some(dir.path())).unwrap();
        for open in [0o640, 0o604, 0o660] {
            fs::set_permissions(dir.path().join("ca.key"), fs::Permissions::from_mode(open)).unwrap();
            let error = Authority::open(Some(dir.path())).unwrap_err().to_string();
            assert!(error.contains("others may have read it") && error.contains("hint: "), "{error}");
        }
    }

    #[test]
    fn a_damaged_pair_is_refused_and_the_key_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("ca.pem"), dir.path().join("ca.key"));
        let other = KeyPair::generate().unwrap().serialize_pem();
        let damage: [(&str, &dyn Fn()); 4] = [
            ("does not match `ca.key`", &|| write_file(&key, other.as_bytes(), 0o600).unwrap()),
            ("is no P-256 key", &|| write_file(&key, b"canary", 0o600).unwrap()),
            ("has no `ca.key` beside it", &|| fs::remove_file(&key).unwrap()),
            ("holds no certificate", &|| write_file(&certificate, b"", 0o644).unwrap()),
        ];
        for (expected, harm) in damage {
            Authority::generate(SystemTime::now()).unwrap().store(dir.path()).unwrap();
            harm();
            let error = Authority::open(Some(dir.path())).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_key_that_was_written_alone_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(Some(dir.path())).unwrap();
        fs::remove_file(dir.path().join("ca.pem")).unwrap();
        assert_ne!(first.certificate_pem(), Authority::open(Some(dir.path())).unwrap().certificate_pem());
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", Authority::open(None).unwrap());
        assert!(shown.starts_with("Authority { expires_at: ") && !shown.to_lowercase().contains("key"), "{shown}");
    }

    #[test]
    fn an_authority_is_shared_by_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Authority>();
    }
}
