//! Everything that is TLS: we as the origin's stand-in towards the agent, and we as a client towards the origin.
//!
//! Only this module knows rustls configuration. Each configuration is given its [`provider`] explicitly, so that nothing
//! depends on a default of the process. Verification of origins can't be switched off, because nothing here can do it.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{crypto::CryptoProvider, pki_types::ServerName};

pub mod agent;
pub mod authority;
pub mod certificate;
pub mod origin;
pub mod truststore;
pub mod webhook;

pub use truststore::{write_java_store, write_trust_bundle};

/// Why TLS can't be set up, or why there is no certificate for a name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system said no.
    #[error("can't {action} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is there, but must not or can't be used.
    #[error("`{}` {problem}; hint: {hint}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// No origin could be verified.
    #[error(
        "no root certificate is there to verify destinations with{0}; hint: install ca-certificates or name PEM files in `tls.origin_roots.files`"
    )]
    NoRoots(String),
    /// Not something that a certificate can stand for.
    #[error("no certificate can be made for `{0}`: it is neither a host name nor an address")]
    Name(String),
    /// The pod outlived its authority.
    #[error("the authority of this pod has expired; hint: restart the pod")]
    AuthorityExpired,
    /// Making a key or a certificate failed.
    #[error("can't make a key or a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused a key or a configuration.
    #[error("can't set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// Which application protocols are offered in a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/2 preferred, HTTP/1.1 accepted.
    Http2OrHttp1,
    /// HTTP/1.1 only: what an `Upgrade` needs.
    Http1,
    /// HTTP/2 only: what gRPC needs.
    Http2,
}

impl Alpn {
    /// How many choices there are.
    const COUNT: usize = 3;

    /// The names on the wire, the preferred one first.
    pub fn protocols(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http2OrHttp1 => &[H2, HTTP_1_1],
            Self::Http1 => &[HTTP_1_1],
            Self::Http2 => &[H2],
        }
    }

    fn to_vec(self) -> Vec<Vec<u8>> {
        self.protocols().iter().map(|name| name.to_vec()).collect()
    }
}

/// The ALPN name of HTTP/2.
pub const H2: &[u8] = b"h2";

/// The ALPN name of HTTP/1.1.
pub const HTTP_1_1: &[u8] = b"http/1.1";

/// The cryptography of every connection that leaves the pod: aws-lc-rs, post-quantum key exchange preferred.
///
/// What an agent sends through the open network may be recorded today and broken later, so the hybrid group comes first.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A canonical host name or IP literal (IPv6 with or without brackets) as certificates know it.
fn server_name(host: &str) -> Option<ServerName<'_>> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare).ok()
}

/// Puts a whole file with exactly this mode into place: a reader sees the old content or the new one, never a part.
fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let failed = |action, source| Error::File { action, path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}", u64::from_be_bytes(random()?)));
    let draft = path.with_file_name(name);

    // `create_new` follows no link that someone left there, and the mode holds from the first moment on.
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .map_err(|source| failed("create a file beside", source))?;
    // The umask may have taken bits away that the agent needs to read the bundle.
    let written = file
        .set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| file.write_all(content))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&draft, path));
    written.map_err(|source| {
        // The draft is of no use to anyone; the error that matters is the first one.
        let _ = fs::remove_file(&draft);
        failed("write", source)
    })
}

/// Random bytes from the one cryptographic source.
fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_has_its_mode_and_leaves_no_draft() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("open", 0o644), ("closed", 0o600)] {
            let path = dir.path().join(name);
            write_file(&path, b"first, and longer", mode).unwrap();
            write_file(&path, b"second", mode).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"second");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_impossible_write_names_the_file() {
        let error = write_file(Path::new("/nonexistent/bundle.pem"), b"", 0o644).unwrap_err();
        assert!(error.to_string().contains("`/nonexistent/bundle.pem`"), "{error}");
    }

    #[test]
    fn names_and_addresses_are_told_apart() {
        let table = [
            ("api.example.com", Some(false)),
            ("192.0.2.7", Some(true)),
            ("2001:db8::1", Some(true)),
            ("[2001:db8::1]", Some(true)),
            ("*.example.com", None),
            ("a b", None),
            ("", None),
        ];
        for (host, address) in table {
            let found = server_name(host).map(|name| matches!(name, ServerName::IpAddress(_)));
            assert_eq!(found, address, "{host}");
        }
    }
}
