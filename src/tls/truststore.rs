//! The roots that verify origins, and the files by which an agent comes to trust them and us.
//!
//! A configured root file that can't be read, is empty or holds something that is no certificate is an error: a verifier
//! that silently knows fewer roots than it was told would be found out at night.

use std::{collections::BTreeSet, path::Path};

use pem::{EncodeConfig, LineEnding, Pem};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{Error, authority::Authority, origin::OriginTls, write_file};
use crate::config;

/// The certificates that verify origins: the system's where the configuration wants them, then the configured files'.
pub fn roots(config: &config::Tls) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut roots = Vec::new();
    let mut trouble = String::new();
    if config.system_roots {
        let found = rustls_native_certs::load_native_certs();
        if let Some(error) = found.errors.first() {
            tracing::warn!(%error, "some of the system's root certificates can't be read");
            trouble = format!(" ({error})");
        }
        roots = found.certs;
    }
    for path in &config.root_files {
        roots.extend(root_file(path)?);
    }
    if roots.is_empty() {
        return Err(Error::NoRoots(trouble));
    }
    Ok(roots)
}

/// The given roots and this pod's authority as PEM text, each certificate once, the authority last.
pub fn trust_bundle(authority: &Authority, roots: &[CertificateDer<'_>]) -> String {
    let mut seen: BTreeSet<&[u8]> = BTreeSet::from([authority.certificate().as_ref()]);
    let new = roots.iter().map(AsRef::as_ref).filter(|root: &&[u8]| seen.insert(root));
    let sections: Vec<Pem> = new.map(|root| Pem::new("CERTIFICATE", root)).collect();
    let mut text = pem::encode_many_config(&sections, EncodeConfig::new().set_line_ending(LineEnding::LF));
    text.push_str(authority.certificate_pem());
    text
}

/// Writes what verifies origins and what verifies us as one PEM file, readable by everyone: the agent is another user.
pub fn write_trust_bundle(path: &Path, authority: &Authority, origins: &OriginTls) -> Result<(), Error> {
    write_public(path, trust_bundle(authority, origins.roots()).as_bytes())
}

/// Writes the same for Java.
pub fn write_java_store(path: &Path, authority: &Authority, origins: &OriginTls) -> Result<(), Error> {
    let ours = authority.certificate();
    let others = origins.roots().iter().filter(|root| *root != ours);
    let all: Vec<CertificateDer<'_>> = others.chain([ours]).map(|root| CertificateDer::from(root.as_ref())).collect();
    write_public(path, &jks(&all))
}

/// Writes a file that everyone may read, whole: a reader sees the old content or the new one.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), Error> {
    write_file(path, content, 0o644)
}

/// The certificates as a Java key store (JKS) with the password [`JKS_PASSWORD`], for `javax.net.ssl.trustStore`.
///
/// The same certificates give the same bytes. The format's digest is SHA-1 and its password is known to all: it guards
/// against damage only, and the certificates are public.
pub fn jks(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    let mut store = Vec::new();
    store.extend(JKS_MAGIC.to_be_bytes());
    store.extend(JKS_VERSION.to_be_bytes());
    store.extend(length(certificates.len()));
    for (number, certificate) in certificates.iter().enumerate() {
        store.extend(JKS_TRUSTED_CERTIFICATE.to_be_bytes());
        push_text(&mut store, &format!("tollgate-{number}"));
        // The moment of creation; nobody asks for it, and without it the content is reproducible.
        store.extend(0_u64.to_be_bytes());
        push_text(&mut store, "X.509");
        store.extend(length(certificate.len()));
        store.extend_from_slice(certificate);
    }
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    for unit in JKS_PASSWORD.encode_utf16() {
        digest.update(&unit.to_be_bytes());
    }
    digest.update(b"Mighty Aphrodite");
    digest.update(&store);
    store.extend_from_slice(digest.finish().as_ref());
    store
}

fn root_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = std::fs::read(path).map_err(|source| Error::File {
        action: "read the root certificates in",
        path: path.to_owned(),
        source,
    })?;
    let unusable = |problem: String| Error::Unusable {
        path: path.to_owned(),
        problem,
        hint: "`tls.origin_roots.files` names PEM files with at least one certificate each",
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(format!("is not PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(unusable("holds no certificate".into()));
    }
    let mut trial = RootCertStore::empty();
    for (number, certificate) in (1..).zip(&certificates) {
        trial
            .add(certificate.clone())
            .map_err(|error| unusable(format!("holds a certificate (number {number}) that can't be read: {error}")))?;
    }
    Ok(certificates)
}

/// The format counts in 32 bits.
fn length(count: usize) -> [u8; 4] {
    u32::try_from(count).expect("certificates and their number are far smaller than four gigabytes").to_be_bytes()
}

/// Text as Java's `DataOutput` writes it; ours is ASCII and short.
fn push_text(store: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("the texts in a key store are our own and short");
    store.extend(length.to_be_bytes());
    store.extend_from_slice(text.as_bytes());
}

/// What Java's tools take when nobody says otherwise.
pub const JKS_PASSWORD: &str = "changeit";

const JKS_MAGIC: u32 = 0xfeed_feed;
const JKS_VERSION: u32 = 2;
const JKS_TRUSTED_CERTIFICATE: u32 = 2;

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    fn only(files: &[&Path]) -> config::Tls {
        config::Tls {
            authority_dir: None,
            trust_bundle: None,
            java_trust_store: None,
            system_roots: false,
            root_files: files.iter().map(|path| path.to_path_buf()).collect(),
        }
    }

    fn parsed(text: &str) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_bundle_holds_every_certificate_once_and_ours_last() {
        let (ours, other) = (Authority::open(None).unwrap(), Authority::open(None).unwrap());
        let roots = [other.certificate().clone(), ours.certificate().clone(), other.certificate().clone()];
        let text = trust_bundle(&ours, &roots);
        assert_eq!(parsed(&text), [other.certificate().clone(), ours.certificate().clone()]);
        assert!(!text.contains('\r') && text.ends_with("-----END CERTIFICATE-----\n"));
        assert!(!text.contains("PRIVATE"));
    }

    #[test]
    fn a_bundle_file_is_readable_by_everyone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.pem");
        let authority = Authority::open(None).unwrap();
        let root = Authority::open(None).unwrap().certificate().clone();
        let origins = OriginTls::with_roots(vec![root.clone()]).unwrap();
        write_trust_bundle(&path, &authority, &origins).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        let written = fs::read_to_string(&path).unwrap();
        assert_eq!(parsed(&written), [root, authority.certificate().clone()]);
    }

    #[test]
    fn root_files_are_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roots.pem");
        let pair = [Authority::open(None).unwrap(), Authority::open(None).unwrap()];
        fs::write(&path, format!("# two\n{}\n{}", pair[0].certificate_pem(), pair[1].certificate_pem())).unwrap();
        let expected: Vec<_> = pair.iter().map(|authority| authority.certificate().clone()).collect();
        assert_eq!(roots(&only(&[&path])).unwrap(), expected);
    }

    #[test]
    fn a_root_file_that_is_not_what_it_should_be_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let table = [
            ("empty", "", "holds no certificate"),
            ("text", "hello", "holds no certificate"),
            ("cut", "-----BEGIN CERTIFICATE-----\nAAAA", "is not PEM"),
            ("junk", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "(number 1)"),
        ];
        for (name, content, expected) in table {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            let error = roots(&only(&[&path])).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(name), "{error}");
        }
        let error = roots(&only(&[&dir.path().join("absent")])).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
    }

    #[test]
    fn no_roots_at_all_is_an_error() {
        assert!(matches!(roots(&only(&[])), Err(Error::NoRoots(_))));
    }

    #[test]
    fn an_empty_java_store_has_the_known_bytes() {
        let store = jks(&[]);
        assert_eq!(store[..12], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(store.len(), 12 + 20);
    }

    #[test]
    fn java_reads_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust.jks");
        let pair = [Authority::open(None).unwrap(), Authority::open(None).unwrap()];
        write_public(&path, &jks(&pair.map(|authority| authority.certificate().clone()))).unwrap();
        let mut keytool = Command::new("keytool");
        keytool.arg("-list").arg("-keystore").arg(&path).args(["-storepass", JKS_PASSWORD]);
        let Ok(output) = keytool.output() else {
            println!("skipped: needs keytool");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("contains 2 entries") && text.contains("trustedCertEntry"), "{text}");
    }
}
