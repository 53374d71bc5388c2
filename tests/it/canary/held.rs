//! Secrets that somebody put into files, and those that came with the environment.

use std::process::Command;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use serde_json::{Value, json};
use tollgate::config::Config;

use super::{
    Logs,
    scene::{Scene, Sinks, own},
    search::{Secret, tokens},
};
use crate::{actors::Origin, brokers::vault::projected, identity::identified, machine::TOLLGATE};

#[tokio::test]
async fn a_secret_from_a_file_is_shown_nowhere() {
    let words = format!("{} and more", own(2));
    let register =
        |file: &str, placement: Value| json!({"kind": "file", "file": file, "owner": "team-x", "as": placement});
    let scene = Scene {
        files: vec![("key", own(1)), ("words", words.clone()), ("lines", format!("{}\n{}", own(1), own(2)))],
        secrets: vec![Secret::text("the key", &own(1)), Secret::text("the words", &own(2))],
        failing: vec![
            register("words", json!("bearer")),
            register("lines", json!({"header": "x-key"})),
            register("lines", json!({"basic": "user"})),
            register("lines", json!({"query": "key"})),
        ],
        ..Scene::default()
    };
    let searched = scene
        .search(|base| match base.ends_with("/0") {
            true => register("key", json!({"basic": "user"})),
            false => register("words", json!({"header": "x-key"})),
        })
        .await;
    assert_eq!(searched.seen[1].header("x-key"), Some(&*words));
}

#[tokio::test]
async fn a_projected_token_is_shown_nowhere() {
    let key = KeyPair::generate().expect("a key can be made");
    let (token, other) = (projected(&key, "https://api.example.com"), projected(&key, "elsewhere"));
    let signature = |token: &str| token.rsplit('.').next().expect("split gives one").to_owned();
    let cut = format!("{}.{}", own(1), signature(&token));
    let kubernetes =
        |file: &str| json!({"kind": "kubernetes", "audience": "https://api.example.com", "token": {"file": file}});
    let scene = Scene {
        files: vec![("token", token.clone()), ("other", other.clone()), ("cut", cut)],
        keys: vec![Secret::text("a token for somebody else", &signature(&other)), Secret::text("no token", &own(1))],
        failing: vec![kubernetes("other"), kubernetes("cut")],
        ..Scene::default()
    };
    let searched = scene.search(|_| kubernetes("token")).await;
    assert!(searched.tokens.contains(&token));
}

#[tokio::test]
async fn the_key_of_a_client_certificate_is_shown_nowhere() {
    let certified = |name: &str| {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.serial_number = Some(rcgen::SerialNumber::from(0xa1));
        CertifiedIssuer::self_signed(params, key).expect("a certificate can be made")
    };
    let (client, other) = (certified("client.example.com"), certified("other.example.com"));
    let [key, others] = [&client, &other].map(|certified| certified.key().serialize_pem());
    let cut: String = key.lines().take(2).collect::<Vec<_>>().join("\n");
    let mtls = |certificate: &str, key: &str| json!({"kind": "mtls", "certificate": {"file": certificate}, "key": {"file": key}, "owner": "team-x"});
    let scene = Scene {
        files: vec![("tls.crt", client.pem()), ("tls.key", key.clone()), ("other.key", others.clone()), ("cut", cut)],
        keys: vec![Secret::key("the key", &key), Secret::key("another key", &others)],
        asking: Some(client.pem()),
        failing: vec![mtls("tls.crt", "other.key"), mtls("tls.crt", "cut"), mtls("tls.key", "tls.key")],
        ..Scene::default()
    };
    let searched = scene.search(|_| mtls("tls.crt", "tls.key")).await;
    assert_eq!(searched.seen.map(|seen| seen.shown), [Some("a1".into()), Some("a1".into())]);
}

#[tokio::test]
async fn what_stands_where_the_proof_of_the_identity_should_is_shown_nowhere() {
    let key = KeyPair::generate().expect("a key can be made");
    let elsewhere = projected(&key, "elsewhere");
    let signature = elsewhere.rsplit('.').next().expect("split gives one");
    let claims = URL_SAFE_NO_PAD.encode(json!({"sub": [own(4)], "aud": own(5), "exp": own(6)}).to_string());
    let texts = [own(1), format!("{}.{}.{}", own(1), own(2), own(3)), format!("e30.{claims}.{}", own(3))];
    let cut = elsewhere.replace("eyJ", "ey-");
    for content in texts.into_iter().chain([cut]) {
        let (logs, mut sinks) = (Logs::listen(), Sinks::default());
        let origin = Origin::https("api.example.com").start().await;
        let setup = identified(json!({"kind": "kubernetes", "token": "token"})).file("token", &content);
        let setup = setup.in_front_of(&origin).set(json!({"listen": {"admin": "admin.sock"}}));
        let mut sidecar = setup.start().await;
        let answer = sidecar.agent().get(&origin.url("/")).await;
        assert_eq!(answer.to_string(), "503 identity_unavailable", "{content}");
        sinks.add("the answer", format!("{:?} {}", answer.headers, answer.text()));
        sinks.gather(&mut sidecar).await;
        sidecar.stop().await;
        let log = logs.text();
        assert!(log.contains("identity unavailable"), "it was read: {log}");
        sinks.add("the log", log);
        let secrets = (1..7).map(|number| Secret::text("a part of it", &own(number)));
        sinks.hold_none_of(&secrets.chain([Secret::text("the signature", signature)]).collect::<Vec<_>>());
    }
}

/// A configuration with a secret of every place that takes one from the environment.
fn from_environment() -> Value {
    let place = json!({"env": "CANARY"});
    let (client, endpoint) = (json!({"id": "t", "secret": place}), "https://issuer.example.com/token");
    let provider = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x";
    let credentials = json!({
        "client": {"kind": "oauth_client_credentials", "token_endpoint": endpoint, "client": client},
        "signing": {"kind": "oauth_client_credentials", "token_endpoint": endpoint, "client": {"id": "t", "key": place}},
        "bearer": {"kind": "oauth_jwt_bearer", "token_endpoint": endpoint, "client": client, "assertion": {"token": place}},
        "exchange": {
            "kind": "oauth_token_exchange", "token_endpoint": endpoint, "client": client, "audience": "a",
            "subject": {"token": place, "type": "id_token"}, "actor": {"key": place, "subject": "s"},
        },
        "jag": {
            "kind": "id_jag", "token_endpoint": endpoint, "issuer": "https://issuer.example.com", "client": client,
            "subject": {"token": place, "type": "id_token"},
            "identity_provider": {"token_endpoint": endpoint, "client": client},
        },
        "app": {"kind": "github_app", "app_id": "1", "installation_id": "2", "private_key": place},
        "google": {"kind": "gcp", "audience": provider, "token": place},
        "account": {"kind": "kubernetes", "audience": "a", "token": place},
        "jwt": {
            "kind": "vault", "address": "https://bao:8200", "auth": {"jwt": {"role": "r", "token": place}},
            "secret": "kv/data/x", "field": "f",
        },
        "role": {
            "kind": "vault", "address": "https://bao:8200", "secret": "kv/data/x", "field": "f",
            "auth": {"approle": {"role_id": "r", "secret_id": {"env": "CANARY"}}},
        },
        "registry": {"kind": "registry_token", "realm": endpoint, "service": "s", "user": "u", "secret": place},
        "certificate": {"kind": "mtls", "certificate": place, "key": place, "owner": "team-x"},
    });
    let identity = json!({"kind": "static", "id": "t"});
    json!({"agent": {"name": "t", "identity": identity}, "destinations": {}, "credentials": credentials})
}

#[test]
fn a_secret_from_the_environment_is_shown_by_no_configuration() {
    let mut settings = from_environment();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("tollgate.yaml");
    let (secret, mut sinks) = (Secret::text("the variable", &own(1)), Sinks::default());
    let mut run = |settings: &Value, command: &[&str], works: bool| {
        std::fs::write(&file, settings.to_string()).expect("it can be written");
        let output = Command::new(TOLLGATE).args(command).arg(&file).env("CANARY", own(1)).output().expect("it runs");
        assert_eq!(output.status.success(), works, "{output:?}");
        sinks.add(command.join(" "), format!("{output:?}"));
    };
    run(&settings, &["config", "show"], true);
    run(&settings, &["config", "show", "--output", "json"], true);
    run(&settings, &["config", "check"], true);
    for name in ["token", "secret", "kind"] {
        settings["credentials"]["client"][name] = json!({"env": "CANARY"});
    }
    run(&settings, &["config", "check"], false);
    run(&settings, &["run", "--config"], false);

    let read = |name: &str| (name == "CANARY").then(|| own(1));
    let text = from_environment().to_string();
    let config = Config::parse(&text, dir.path(), "tollgate.yaml", &read).expect("it can be used");
    assert!(config.environment_secrets.len() > 15, "each of them is noted");
    let shown = format!("{config:?} {config:#?}");
    assert!(shown.matches("[secret]").count() > 15 && tokens(&shown).is_empty(), "{shown}");
    sinks.add("debugging", shown);
    sinks.hold_none_of(&[secret]);
}
