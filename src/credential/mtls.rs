//! A client certificate that we hold in files, shown to origins that ask who connects.
//!
//! A long-lived secret, and so an entry of the exception register: somebody answers for it, and it has an end. The files
//! are read once a second while they are in use. A certificate and a key that do not belong together are most likely being
//! replaced one after the other, so they are read again before that counts.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    Failure, SecretPlace,
    exception::Exception,
    mint::{Life, Minted, Secret, Unusable},
};
use crate::tls::certificate::{self, ClientCertificate};

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mtls {
    /// Where the chain stands, as PEM.
    pub certificate: SecretPlace,
    /// Where the key stands, as PEM.
    pub key: SecretPlace,
    /// Why it is used although its key is a long-lived secret.
    pub exception: Exception,
}

impl Mtls {
    /// What the files say now.
    pub(super) async fn mint(&self) -> Result<Minted, Unusable> {
        self.exception.check()?;
        let certificate = self.read().await?;
        let ends = self.exception.expires.map_or(certificate.expires_at(), |end| end.min(certificate.expires_at()));
        let life = Life::Standing { ends: Some(ends), again: AGAIN };
        Ok(Minted { secret: Secret::Certificate(Arc::new(certificate)), life, handle: None })
    }

    async fn read(&self) -> Result<ClientCertificate, Failure> {
        let mut tries = 1;
        loop {
            let chain = self.certificate.read().await.map_err(|failure| failure.about("certificate"))?;
            let key = self.key.read().await.map_err(|failure| failure.about("key"))?;
            match ClientCertificate::from_pem(chain.as_bytes(), key.as_bytes()) {
                Ok(certificate) => return Ok(certificate),
                Err(certificate::Unusable::Pair(_)) if tries < TRIES => sleep(BETWEEN).await,
                Err(unusable) => return Err(Failure::misconfigured(unusable.to_string())),
            }
            tries += 1;
        }
    }
}

/// How often the files are looked at, at most.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the second file may come after the first: half a second.
const TRIES: u32 = 6;
const BETWEEN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::SystemTime};

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::refusal::CredentialRefusal;

    const HOUR: Duration = Duration::from_secs(3600);

    fn write(dir: &Path) -> Mtls {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        params.not_after = (SystemTime::now() + 2 * HOUR).into();
        fs::write(dir.join("tls.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
        Mtls {
            certificate: SecretPlace::File(dir.join("tls.crt")),
            key: SecretPlace::File(dir.join("tls.key")),
            exception: Exception { owner: "team-x".into(), expires: Some(SystemTime::now() + HOUR) },
        }
    }

    async fn mint(source: &Mtls) -> Result<Minted, CredentialRefusal> {
        source.mint().await.map_err(|unusable| unusable.failure.refusal)
    }

    #[tokio::test]
    async fn what_the_files_say_is_shown_until_the_nearer_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut source = write(dir.path());
        let minted = mint(&source).await.ok().unwrap();
        let Life::Standing { ends, .. } = minted.life else { panic!("it stands") };
        assert_eq!(ends, source.exception.expires);
        assert!(minted.secret.values().is_empty() && minted.handle.is_none());
        source.exception.expires = None;
        let Life::Standing { ends, .. } = mint(&source).await.ok().unwrap().life else { panic!("it stands") };
        assert!(ends.unwrap() > SystemTime::now() + HOUR);
        source.exception.expires = Some(SystemTime::now());
        assert_eq!(mint(&source).await.err(), Some(CredentialRefusal::Expired));
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_do_not_belong_together_are_refused_once_they_had_their_time() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = write(dir.path());
        write(other.path());
        fs::copy(other.path().join("tls.key"), dir.path().join("tls.key")).unwrap();
        assert_eq!(mint(&source).await.err(), Some(CredentialRefusal::Misconfigured));
        fs::copy(other.path().join("tls.crt"), dir.path().join("tls.crt")).unwrap();
        assert!(mint(&source).await.is_ok());
        fs::remove_file(dir.path().join("tls.key")).unwrap();
        assert_eq!(mint(&source).await.err(), Some(CredentialRefusal::Unavailable));
    }
}
