//! What stands somewhere and nobody can end: used only while it holds, and only if it ends as early as policy says.

use std::sync::atomic::AtomicBool;

use futures_util::FutureExt;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

use super::{declared::database, *};
use crate::credential::{
    SecretPlace,
    mtls::Mtls,
    vault::{Fields, Wanted as WantedThere},
};

const HOUR: Duration = Duration::from_secs(3600);

/// A client certificate for two hours, but for this change.
fn certificate(dir: &Path, change: impl FnOnce(&mut CertificateParams)) -> Arc<Declaration> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
    params.not_after = (SystemTime::now() + 2 * HOUR).into();
    change(&mut params);
    fs::write(dir.join("tls.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
    Arc::new(Declaration {
        name: "partner".into(),
        source: Source::Mtls(Mtls {
            certificate: SecretPlace::File(dir.join("tls.crt")),
            key: SecretPlace::File(dir.join("tls.key")),
            exception: Exception { owner: "team-x".into(), expires: None },
        }),
        placement: Placement::Certificate,
        max_ttl: Duration::MAX,
        per_call: false,
    })
}

#[tokio::test]
async fn a_certificate_is_used_from_its_beginning_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let subject = Subject::new();
    let early = certificate(dir.path(), |params| params.not_before = (SystemTime::now() + HOUR).into());
    assert_eq!(subject.refusal(&early).await, CredentialRefusal::Unavailable);
    let subject = Subject::new();
    let late = certificate(dir.path(), |params| params.not_after = (SystemTime::now() - HOUR).into());
    assert_eq!(subject.refusal(&late).await, CredentialRefusal::Expired);
    let subject = Subject::new();
    let now = certificate(dir.path(), |_| ());
    assert!(subject.obtain(&now).await.unwrap().remaining().is_some_and(|left| left > HOUR));
}

#[tokio::test]
async fn what_nobody_can_end_is_not_used_longer_than_policy_says() {
    let dir = tempfile::tempdir().unwrap();
    let (subject, declaration) = (Subject::new(), certificate(dir.path(), |_| ()));
    for (bound, refusal) in [(HOUR, Some(CredentialRefusal::LifetimeExceeded)), (3 * HOUR, None)] {
        let bound = obligations(None, Some(bound));
        assert_eq!(subject.obtain_for(&declaration, &bound, &task("t")).await.err(), refusal);
    }
    let secret = dir.path().join("secret");
    fs::write(&secret, "canary").unwrap();
    let endless = subject.obtain_for(&file(&secret, None), &obligations(None, Some(HOUR)), &task("t")).await;
    assert_eq!(endless.err(), Some(CredentialRefusal::LifetimeExceeded));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_others_keep_outlives_a_short_outage_of_its_server() {
    let (up, version) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(1)));
    let endpoint = Endpoint::start({
        let (up, version) = (Arc::clone(&up), Arc::clone(&version));
        move |seen: &Seen| match seen.path.as_str() {
            _ if !up.load(Ordering::Relaxed) => Reply::status(503),
            "/v1/auth/jwt/login" => Reply::json(
                r#"{"auth":{"client_token":"s.login","accessor":"a","lease_duration":3600,"token_type":"service"}}"#,
            ),
            _ => {
                let key = format!("canary-{}", version.load(Ordering::Relaxed));
                Reply::json(&json!({"data": {"data": {"password": key}}}).to_string())
            }
        }
    })
    .await;
    let mut declaration = Declaration::clone(&database(&endpoint));
    if let Source::Vault(vault) = &mut declaration.source {
        let fields = Fields::One("password".into());
        vault.wanted = WantedThere::Kept { path: "kv/data/x".into(), fields };
    }
    let (subject, declaration) = (Subject::new(), Arc::new(declaration));
    assert_eq!(value(&subject.obtain(&declaration).await.unwrap()), "Bearer canary-1");

    up.store(false, Ordering::Relaxed);
    version.store(2, Ordering::Relaxed);
    advance(500 * SECOND).await;
    assert_eq!(value(&subject.obtain(&declaration).await.unwrap()), "Bearer canary-1");
    subject.happened(Event::Refused).await;
    advance(50 * SECOND).await;
    up.store(true, Ordering::Relaxed);
    assert_eq!(value(&subject.obtain(&declaration).await.unwrap()), "Bearer canary-1");
    subject.happened(Event::Refreshed).await;
    assert_eq!(value(&subject.obtain(&declaration).await.unwrap()), "Bearer canary-2");
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_again_when_it_changes() {
    let place = tempfile::NamedTempFile::new().unwrap();
    fs::write(place.path(), "one\n").unwrap();
    let (subject, declaration) = (Subject::new(), file(place.path(), None));
    let first = subject.obtain(&declaration).await.unwrap();
    assert_eq!((value(&first).as_str(), first.remaining()), ("Bearer one", None));
    advance(2 * SECOND).await;
    assert_eq!(subject.obtain(&declaration).await.unwrap().partition, first.partition);
    fs::write(place.path(), "two\n").unwrap();
    advance(2 * SECOND).await;
    let second = subject.obtain(&declaration).await.unwrap();
    assert_eq!(value(&second), "Bearer two");
    assert!(second.partition != first.partition && second.fingerprint != first.fingerprint);
    assert_eq!(subject.events(), [Event::Minted, Event::Refreshed]);
    fs::remove_file(place.path()).unwrap();
    advance(2 * SECOND).await;
    assert_eq!(subject.refusal(&declaration).await, CredentialRefusal::Unavailable);
    for unusable in ["\n", "with\u{1}control"] {
        fs::write(place.path(), unusable).unwrap();
        advance(2 * SECOND).await;
        assert_eq!(subject.refusal(&declaration).await, CredentialRefusal::Misconfigured, "{unusable:?}");
    }
    fs::write(place.path(), "three").unwrap();
    advance(2 * SECOND).await;
    assert_eq!(value(&subject.obtain(&declaration).await.unwrap()), "Bearer three");
}

#[tokio::test(start_paused = true)]
async fn a_file_in_use_is_read_again_without_keeping_a_call_waiting() {
    let place = tempfile::NamedTempFile::new().unwrap();
    fs::write(place.path(), "one").unwrap();
    let (subject, declaration) = (Subject::new(), file(place.path(), None));
    subject.obtain(&declaration).await.unwrap();
    fs::write(place.path(), "two").unwrap();
    advance(Duration::from_millis(900)).await;
    let (credential, polled) = (subject.obtain(&declaration).now_or_never(), Instant::now());
    assert_eq!(value(&credential.expect("it is at hand").unwrap()), "Bearer one");
    subject.happened(Event::Refreshed).await;
    assert!(polled.elapsed() < SECOND);
    assert_eq!(value(&subject.obtain(&declaration).await.unwrap()), "Bearer two");
}

#[tokio::test]
async fn an_exception_that_ended_is_not_read() {
    let place = tempfile::NamedTempFile::new().unwrap();
    fs::write(place.path(), "canary").unwrap();
    let (subject, now) = (Subject::new(), SystemTime::now());
    assert_eq!(subject.refusal(&file(place.path(), Some(now))).await, CredentialRefusal::Expired);
    let later = file(place.path(), Some(now + 60 * SECOND));
    assert!(subject.obtain(&later).await.unwrap().remaining().is_some_and(|left| left <= 60 * SECOND));
    for (bound, refusal) in [(30, Some(CredentialRefusal::LifetimeExceeded)), (90, None)] {
        let bound = obligations(None, Some(bound * SECOND));
        assert_eq!(subject.obtain_for(&later, &bound, &task("t")).await.err(), refusal);
    }
}
