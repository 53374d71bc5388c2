//! A client certificate that we hold in files, shown to origins that ask who connects.
//!
//! A long-lived secret, and so an entry of the exception register: somebody answers for it, and it has an end. The files
//! are read once a second while they are in use. A certificate and a key that do not belong together are most likely being
//! replaced one after the other, so they are read again before that counts.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::sleep;

use super::{
    Failure, SecretPlace,
    mint::{Asking, Life, Minted, Secret, Unusable},
};
use crate::{
    refusal::CredentialRefusal,
    tls::certificate::{self, ClientCertificate},
};

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mtls {
    /// Where the chain stands, as PEM.
    pub certificate: SecretPlace,
    /// Where the key stands, as PEM.
    pub key: SecretPlace,
    /// Who answers for it.
    pub owner: String,
    /// When the exception ends.
    pub expires: Option<SystemTime>,
}

impl Mtls {
    /// What the files say now.
    pub(super) async fn mint(&self, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        let now = SystemTime::now();
        if self.expires.is_some_and(|end| end <= now) {
            return Err(Failure::new(CredentialRefusal::Expired, "the exception has ended").into());
        }
        let certificate = self.read().await?;
        if certificate.begins_at() > now {
            return Err(Failure::new(CredentialRefusal::Unavailable, "the certificate is not valid yet").into());
        }
        let ends = self.expires.map_or(certificate.expires_at(), |end| end.min(certificate.expires_at()));
        let Ok(left) = ends.duration_since(now) else {
            return Err(Failure::new(CredentialRefusal::Expired, "the certificate has expired").into());
        };
        if asking.bound.is_some_and(|bound| bound < left) {
            let detail = "policy bounds the life of this credential, and nobody can end a certificate from a file";
            return Err(Failure::new(CredentialRefusal::LifetimeExceeded, detail).into());
        }
        let life = Life::Standing { ends: Some(ends), again: AGAIN };
        Ok(Minted { secret: Secret::Certificate(Arc::new(certificate)), life, handle: None })
    }

    /// Where our own secrets stand.
    pub(super) fn own_secrets(&self) -> Vec<&SecretPlace> {
        vec![&self.key]
    }

    async fn read(&self) -> Result<ClientCertificate, Failure> {
        let mut tries = 1;
        loop {
            let chain = self.certificate.read().await.map_err(|failure| failure.about("certificate"))?;
            let key = self.key.read().await.map_err(|failure| failure.about("key"))?;
            match ClientCertificate::from_pem(chain.as_bytes(), key.as_bytes()) {
                Ok(certificate) => return Ok(certificate),
                Err(certificate::Unusable::Pair(_)) if tries < TRIES => sleep(BETWEEN).await,
                Err(unusable) => return Err(Failure::malformed(&unusable.to_string())),
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
    use std::{fs, path::Path};

    use rcgen::{CertificateParams, KeyPair};

    use super::{super::testing::Scene, *};

    const HOUR: Duration = Duration::from_secs(3600);

    fn write(dir: &Path, change: impl FnOnce(&mut CertificateParams)) -> Mtls {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        params.not_after = (SystemTime::now() + 2 * HOUR).into();
        change(&mut params);
        fs::write(dir.join("tls.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
        Mtls {
            certificate: SecretPlace::File(dir.join("tls.crt")),
            key: SecretPlace::File(dir.join("tls.key")),
            owner: "team-x".into(),
            expires: Some(SystemTime::now() + HOUR),
        }
    }

    async fn mint(source: &Mtls, bound: Option<Duration>) -> Result<Minted, CredentialRefusal> {
        let scene = Scene::new();
        let asking = Asking { bound, ..scene.asking(&[], HOUR) };
        source.mint(&asking).await.map_err(|unusable| unusable.failure.refusal)
    }

    #[tokio::test]
    async fn what_the_files_say_is_shown_until_the_nearer_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut source = write(dir.path(), |_| ());
        let minted = mint(&source, None).await.ok().unwrap();
        let Life::Standing { ends, .. } = minted.life else { panic!("it stands") };
        assert_eq!(ends, source.expires);
        assert!(minted.secret.values().is_empty() && minted.handle.is_none());
        source.expires = None;
        let Life::Standing { ends, .. } = mint(&source, None).await.ok().unwrap().life else { panic!("it stands") };
        assert!(ends.unwrap() > SystemTime::now() + HOUR);
        assert!(mint(&source, Some(3 * HOUR)).await.is_ok());
    }

    #[tokio::test]
    async fn what_has_ended_or_not_begun_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let source = write(dir.path(), |_| ());
        let over = Mtls { expires: Some(SystemTime::now()), ..source.clone() };
        assert_eq!(mint(&over, None).await.err(), Some(CredentialRefusal::Expired));
        assert_eq!(mint(&source, Some(HOUR / 2)).await.err(), Some(CredentialRefusal::LifetimeExceeded));
        let source = write(dir.path(), |params| params.not_after = (SystemTime::now() - HOUR).into());
        assert_eq!(mint(&source, None).await.err(), Some(CredentialRefusal::Expired));
        let source = write(dir.path(), |params| params.not_before = (SystemTime::now() + HOUR).into());
        assert_eq!(mint(&source, None).await.err(), Some(CredentialRefusal::Unavailable));
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_do_not_belong_together_are_refused_once_they_had_their_time() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = write(dir.path(), |_| ());
        write(other.path(), |_| ());
        fs::copy(other.path().join("tls.key"), dir.path().join("tls.key")).unwrap();
        assert_eq!(mint(&source, None).await.err(), Some(CredentialRefusal::Malformed));
        fs::copy(other.path().join("tls.crt"), dir.path().join("tls.crt")).unwrap();
        assert!(mint(&source, None).await.is_ok());
        fs::remove_file(dir.path().join("tls.key")).unwrap();
        assert_eq!(mint(&source, None).await.err(), Some(CredentialRefusal::Unavailable));
    }
}
