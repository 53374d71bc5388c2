//! OpenBao and Vault: every way to log in, and every engine.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SerialNumber};
use serde_json::{Value, json};

use super::{
    issuer::Step,
    scene::{Scene, own},
    search::Secret,
};

/// A token that is given, by its number and the name that it is revoked by.
fn token(number: usize, accessor: &str, seconds: u64) -> Value {
    let auth = json!({
        "client_token": own(number), "accessor": accessor, "lease_duration": seconds, "token_type": "service",
        "token_policies": ["agent"],
    });
    json!({"request_id": "r-1", "auth": auth, "data": null})
}

fn login(path: &'static str) -> Step {
    Step::new(path, 200, &token(80, "login-name", 1200))
}

fn child() -> Step {
    Step::new("/v1/auth/token/create", 200, &token(81, CHILD, 300))
}

fn ending_children() -> Option<Step> {
    Some(Step { path: "/v1/auth/token/revoke-accessor", status: 204, answer: String::new() })
}

fn vault(base: &str, auth: &Value, more: Value) -> Value {
    let mut credential = json!({"kind": "vault", "address": base, "auth": auth});
    credential.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    credential
}

#[tokio::test]
async fn the_secret_of_a_role_and_a_field_of_kv_are_shown_nowhere() {
    let kept = json!({"request_id": "r-2", "lease_id": "", "data": {"data": {"token": own(90), "other": own(91)}}});
    let scene = Scene {
        files: vec![("secret-id", own(1))],
        steps: vec![login("/v1/auth/approle/login"), Step::new("/v1/secret/data/app", 200, &kept)],
        secrets: vec![
            Secret::text("the secret id", &own(1)),
            Secret::text("the login", &own(80)),
            Secret::text("the field", &own(90)),
            Secret::text("another field", &own(91)),
        ],
        ..Scene::default()
    };
    let auth = json!({"approle": {"role_id": "r", "secret_id": {"file": "secret-id"}}});
    let more = json!({"secret": "secret/data/app", "field": "token", "as": {"header": "x-api-key"}});
    let searched = scene.search(|base| vault(base, &auth, more.clone())).await;
    assert_eq!(searched.seen[0].header("x-api-key"), Some(&*own(90)));
}

#[tokio::test]
async fn a_token_that_logs_in_and_the_password_of_a_database_are_shown_nowhere() {
    let leased = json!({
        "lease_id": "database/creds/readonly/lease-1", "lease_duration": 300,
        "data": {"username": "v-agent-1", "password": own(90)},
    });
    let scene = Scene {
        files: vec![("jwt", own(1))],
        steps: vec![login("/v1/auth/jwt/login"), child(), Step::new("/v1/database/creds/readonly", 200, &leased)],
        revocation: ending_children(),
        secrets: vec![
            Secret::text("the token that logs in", &own(1)),
            Secret::text("the login", &own(80)),
            Secret::text("the child token", &own(81)),
            Secret::text("the password", &own(90)),
        ],
        reference: Some(CHILD),
        ..Scene::default()
    };
    let auth = json!({"jwt": {"role": "agent", "token": {"file": "jwt"}}});
    let more =
        json!({"secret": "database/creds/readonly", "as": {"basic": {"user": "username", "password": "password"}}});
    let searched = scene.search(|base| vault(base, &auth, more.clone())).await;
    assert!(searched.seen[0].header("authorization").is_some_and(|value| value.starts_with("Basic ")));
}

#[tokio::test]
async fn a_service_accounts_login_and_the_key_of_an_issued_certificate_are_shown_nowhere() {
    let authority = KeyPair::generate().expect("a key can be made");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, authority).expect("a certificate can be made");
    let key = KeyPair::generate().expect("a key can be made");
    let mut params = CertificateParams::new(vec!["triage.example.com".to_owned()]).expect("a name");
    params.serial_number = Some(SerialNumber::from(0xa1));
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.not_after = (SystemTime::now() + Duration::from_secs(300)).into();
    let certificate = params.signed_by(&key, &authority).expect("a certificate can be made");
    let issued = json!({"lease_id": "", "data": {
        "certificate": certificate.pem(), "ca_chain": [authority.pem()], "private_key": key.serialize_pem(),
    }});
    let scene = Scene {
        files: vec![("account", own(1))],
        steps: vec![login("/v1/auth/kubernetes/login"), child(), Step::new("/v1/pki/issue/agents", 200, &issued)],
        revocation: ending_children(),
        secrets: vec![
            Secret::text("the service account's token", &own(1)),
            Secret::text("the login", &own(80)),
            Secret::text("the child token", &own(81)),
            Secret::key("the key", &key.serialize_pem()),
        ],
        asking: Some(authority.pem()),
        reference: Some(CHILD),
        ..Scene::default()
    };
    let auth = json!({"kubernetes": {"role": "agent", "token": {"file": "account"}}});
    let more = json!({"certificate": {"path": "pki/issue/agents", "common_name": "triage.example.com"}});
    let searched = scene.search(|base| vault(base, &auth, more.clone())).await;
    assert_eq!(searched.seen.map(|seen| seen.shown), [Some("a1".into()), Some("a1".into())]);
}

#[tokio::test]
async fn a_wrapped_secret_and_a_token_that_the_server_signs_are_shown_nowhere() {
    let lookup = json!({"data": {"creation_path": "auth/approle/role/agent/secret-id", "creation_ttl": 60}});
    let signature = URL_SAFE_NO_PAD.encode(own(90));
    let signed = json!({"data": {"signature": format!("vault:v1:{signature}"), "key_version": 1}});
    let scene = Scene {
        files: vec![("wrapping", own(1))],
        steps: vec![
            Step::new("/v1/sys/wrapping/lookup", 200, &lookup),
            Step::new("/v1/sys/wrapping/unwrap", 200, &json!({"data": {"secret_id": own(2), "ttl": 60}})),
            login("/v1/auth/approle/login"),
            Step::new("/v1/transit/sign/agents", 200, &signed),
        ],
        secrets: vec![
            Secret::text("the wrapping token", &own(1)),
            Secret::text("the secret id", &own(2)),
            Secret::text("the login", &own(80)),
            Secret::text("the signature", &own(90)),
        ],
        ..Scene::default()
    };
    let auth = json!({"approle": {"role_id": "r", "secret_id": {"file": "wrapping", "wrapped": true}}});
    let more =
        json!({"signed": {"path": "transit/sign/agents", "issuer": "https://agents.example.com", "audience": "a"}});
    let searched = scene.search(|base| vault(base, &auth, more.clone())).await;
    assert!(searched.seen[0].header("authorization").is_some_and(|value| value.ends_with(&signature)));
}

/// The name of a child token, which is no secret.
const CHILD: &str = "child-name";
