//! Who the agent is: proven by a token of the kubelet's, and shown to origins as a certificate.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, Method};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SerialNumber};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;
use tollgate::task::registry::Opening;

use crate::actors::{Origin, Sidecar, agent::request, sidecar::Setup};

/// Whoever certifies clients.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) dir: TempDir,
}

impl Authority {
    /// A new one, whose certificate and key stand in its directory as `ca.pem` and `ca.key`.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "clients");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let (dir, secret) = (tempfile::tempdir().expect("a temporary directory"), key.serialize_pem());
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate can be made");
        fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("it can be written");
        fs::write(dir.path().join("ca.key"), secret).expect("it can be written");
        Self { issuer, dir }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Puts a client's certificate of this serial number and its key into place, as a mounted secret does: both at once.
    fn certify(&self, serial: u64, dir: &Path) {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new(vec!["client.example.com".to_owned()]).expect("a name");
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be made");
        let next = dir.join(format!("{serial:x}"));
        fs::create_dir(&next).expect("a new directory");
        fs::write(next.join("tls.crt"), certificate.pem()).expect("it can be written");
        fs::write(next.join("tls.key"), key.serialize_pem()).expect("it can be written");
        std::os::unix::fs::symlink(&next, dir.join("next")).expect("a new link");
        fs::rename(dir.join("next"), dir.join("data")).expect("links can be replaced");
    }
}

/// Writes a token as the kubelet does.
fn project(dir: &Path, id: &str, audience: &str) {
    let exp = (SystemTime::now() + Duration::from_secs(600)).duration_since(UNIX_EPOCH).expect("it is later").as_secs();
    let claims = json!({"sub": "system:serviceaccount:agents:triage", "aud": [audience], "exp": exp, "jti": id});
    let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
    fs::write(dir.join("token.next"), token).expect("it can be written");
    fs::rename(dir.join("token.next"), dir.join("token")).expect("it can be replaced");
}

/// Waits until the identity is proven, or is not any longer.
pub(crate) async fn until(sidecar: &Sidecar, proven: bool) {
    let mut changes = sidecar.inner().identity().changes();
    let changed = timeout(LIMIT, changes.wait_for(|now| *now == proven)).await;
    drop(changed.expect("it comes in time").expect("the sidecar runs"));
    let told = async {
        while sidecar.inner().readiness().is_ready() != proven {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, told).await.expect("readiness follows");
}

/// The sidecar with this identity in place of the usual one.
pub(crate) fn identified(identity: Value) -> Setup {
    let mut setup = Sidecar::permissive();
    setup.settings["agent"]["identity"] = identity;
    setup
}

fn with_mtls(setup: Setup, origin: &Origin, dir: &Path, more: Value) -> Setup {
    let file = |name: &str| json!({"file": dir.join("data").join(name)});
    let mut credential =
        json!({"kind": "mtls", "certificate": file("tls.crt"), "key": file("tls.key"), "owner": "team-x"});
    for (name, value) in more.as_object().expect("further settings") {
        credential[name] = value.clone();
    }
    setup.in_front_of_as(origin, json!({"credential": "client"})).set(json!({"credentials": {"client": credential}}))
}

#[tokio::test]
async fn without_a_token_no_call_leaves_and_one_that_comes_is_enough() {
    let origin = Origin::https("api.example.com").start().await;
    let identity = json!({"kind": "kubernetes", "token": "token", "trust_domain": "example.org"});
    let mut sidecar = identified(identity).in_front_of(&origin).start().await;
    let agent = sidecar.agent();

    assert!(!sidecar.inner().readiness().is_ready());
    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "503 identity_unavailable");
    assert!(origin.requests().is_empty());
    sidecar.ended().await;

    project(sidecar.dir.path(), "j-1", "tollgate");
    until(&sidecar, true).await;
    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "200");
    let spans = sidecar.next_spans().await;
    let call = spans.last().expect("a call has a span");
    assert_eq!(call.attribute("tollgate.identity.serial"), Some("j-1"));
    let records = sidecar.audit().await;
    assert_eq!(records[0]["refusal"]["label"], "identity_unavailable");
    assert_eq!(records[0]["agent"]["id"], Value::Null);
    assert_eq!(records[1]["agent"]["id"], "spiffe://example.org/ns/agents/sa/triage");
}

#[tokio::test]
async fn a_token_of_another_account_than_expected_proves_nothing() {
    let origin = Origin::https("api.example.com").start().await;
    let identity = json!({"kind": "kubernetes", "token": "token", "id": "spiffe://cluster.local/ns/agents/sa/other"});
    let setup = identified(identity).in_front_of(&origin);
    project(setup.path(), "j-1", "tollgate");
    let sidecar = setup.start().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "503 identity_unavailable");
    let refused = sidecar.inner().identity().token("tollgate").await.expect_err("it proves another identity");
    assert!(refused.to_string().contains("sa/triage"), "{refused}");
    assert!(!sidecar.inner().readiness().is_ready());
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn a_certificate_from_files_is_shown_and_renewed_without_a_failed_call() {
    let authority = Authority::new();
    authority.certify(0xa1, authority.dir.path());
    let origin = Origin::https("api.example.com").asking(&authority.pem()).start().await;
    let setup = with_mtls(Sidecar::permissive(), &origin, authority.dir.path(), json!({"expires": "2999-12-31"}));
    let mut sidecar = setup.start().await;
    let agent = sidecar.agent();

    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "200");
    assert_eq!(shown(&origin), ["a1"]);
    let spans = sidecar.next_spans().await;
    let call = spans.last().expect("a call has a span");
    assert_eq!(call.attribute("tollgate.credential.kind"), Some("mtls"));

    authority.certify(0xb2, authority.dir.path());
    let renewed = async {
        while shown(&origin).last().map(String::as_str) != Some("b2") {
            assert_eq!(agent.get(&origin.url("/")).await.to_string(), "200");
        }
    };
    timeout(LIMIT, renewed).await.expect("the new certificate is shown in time");
    let mut serials = shown(&origin);
    serials.dedup();
    assert_eq!(serials, ["a1", "b2"]);
}

#[tokio::test]
async fn two_tasks_share_no_connection_that_shows_a_certificate() {
    let authority = Authority::new();
    authority.certify(0xa1, authority.dir.path());
    let origin = Origin::https("api.example.com").asking(&authority.pem()).start().await;
    let sidecar = with_mtls(Sidecar::permissive(), &origin, authority.dir.path(), json!({})).start().await;
    let agent = sidecar.agent();
    let handles: Vec<_> = ["one", "other"].map(|purpose| open(&sidecar, purpose)).into();

    for handle in handles.iter().chain(&handles) {
        let mut call = request(Method::GET, &origin.url("/"), "");
        call.headers_mut().insert("tollgate-task", handle.clone());
        assert_eq!(agent.send(call).await.to_string(), "200");
    }
    let connections: Vec<usize> = origin.requests().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [1, 2, 1, 2]);
    assert_eq!(shown(&origin), ["a1"; 4]);
}

#[tokio::test]
async fn an_exception_that_has_ended_is_refused_and_a_missing_certificate_too() {
    let authority = Authority::new();
    authority.certify(0xa1, authority.dir.path());
    let origin = Origin::https("api.example.com").asking(&authority.pem()).start().await;
    let setup = with_mtls(Sidecar::permissive(), &origin, authority.dir.path(), json!({"expires": "2020-01-31"}));
    let sidecar = setup.start().await;
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "503 credential_expired");

    let nowhere = authority.dir.path().join("nowhere");
    let sidecar = with_mtls(Sidecar::permissive(), &origin, &nowhere, json!({})).start().await;
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "503 credential_unavailable");
    assert!(origin.requests().is_empty());
}

fn shown(origin: &Origin) -> Vec<String> {
    origin.requests().iter().filter_map(|seen| seen.shown.as_deref().map(str::to_owned)).collect()
}

/// The handle of a new task, as its calls present it.
fn open(sidecar: &Sidecar, purpose: &str) -> HeaderValue {
    let opening = Opening {
        purpose: purpose.into(),
        max_effect: None,
        ceiling: None,
        subject: None,
        manifest: None,
        ttl: Duration::from_secs(60),
        idle: None,
    };
    let opened = sidecar.inner().tasks().open(opening).expect("tasks can be opened");
    HeaderValue::try_from(opened.handle.as_str()).expect("a handle stands in a header")
}

const LIMIT: Duration = Duration::from_secs(10);
