//! SVIDs, and a Workload API that says in its errors what it must not.

use std::sync::Arc;

use serde_json::json;

use super::{
    Logs,
    issuer::canary,
    scene::{Scene, Sinks, own},
    search::Secret,
};
use crate::{
    actors::Origin,
    clients::are_there,
    identity::{Authority, identified, until},
    spiffe::workload_api::{PYTHON, WorkloadApi},
};

const ID: &str = "spiffe://example.org/ns/agents/sa/triage";

/// The key of the certificate that the API gives out.
async fn key_of(api: &mut WorkloadApi) -> Secret {
    let key = api.tell("key").await;
    let bytes: Vec<u8> =
        (0..key.len()).step_by(2).map(|at| u8::from_str_radix(&key[at..at + 2], 16).expect("hex")).collect();
    // What is secret of a P-256 key in PKCS #8.
    Secret::bytes("the key of the SVID", &bytes[40..64])
}

#[tokio::test]
async fn a_jwt_svid_is_shown_nowhere() {
    if !are_there(&[PYTHON]) {
        return;
    }
    let authority = Authority::new();
    let mut api = WorkloadApi::start(&authority, ID).await;
    let socket = WorkloadApi::socket(&authority);
    let scene = Scene {
        identity: Some(json!({"kind": "spiffe", "socket": format!("unix://{}", socket.display())})),
        keys: vec![key_of(&mut api).await],
        ..Scene::default()
    };
    let searched = scene.search(|_| json!({"kind": "spiffe_jwt", "audience": "https://api.example.com"})).await;
    let carried = searched.seen.map(|seen| seen.header("authorization").map(str::to_owned).expect("it carries one"));
    assert!(carried.iter().all(|carried| searched.tokens.contains(&carried["Bearer ".len()..].to_owned())));
}

#[tokio::test]
async fn the_key_of_an_x509_svid_is_shown_nowhere() {
    if !are_there(&[PYTHON]) {
        return;
    }
    let authority = Authority::new();
    let mut api = WorkloadApi::start(&authority, ID).await;
    let serial: Arc<str> = api.tell("rotate").await.into();
    let socket = WorkloadApi::socket(&authority);
    let scene = Scene {
        identity: Some(json!({"kind": "spiffe", "socket": format!("unix://{}", socket.display())})),
        keys: vec![key_of(&mut api).await],
        asking: Some(authority.pem()),
        ..Scene::default()
    };
    let searched = scene.search(|_| json!({"kind": "spiffe_x509"})).await;
    assert_eq!(searched.seen.map(|seen| seen.shown), [Some(Arc::clone(&serial)), Some(serial)]);
}

#[tokio::test]
async fn what_a_workload_api_says_in_its_errors_is_shown_nowhere() {
    if !are_there(&[PYTHON]) {
        return;
    }
    let (logs, authority) = (Logs::listen(), Authority::new());
    let mut api = WorkloadApi::start(&authority, ID).await;
    let socket = WorkloadApi::socket(&authority);
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = identified(json!({"kind": "spiffe", "socket": format!("unix://{}", socket.display())}))
        .in_front_of_as(&origin, json!({"credential": "own"}))
        .set(json!({"credentials": {"own": {"kind": "spiffe_jwt", "audience": "https://api.example.com"}}}))
        .set(json!({"listen": {"admin": "admin.sock"}}))
        .start()
        .await;
    until(&sidecar, true).await;
    let (agent, mut sinks) = (sidecar.agent(), Sinks::default());

    // An answer that can't be used, a call that fails, and the end of the identity: each with a secret in it.
    for (number, (command, label, proven)) in [
        ("garble", "503 credential_malformed", true),
        ("fail", "503 credential_unavailable", true),
        ("deny", "503 identity_unavailable", false),
    ]
    .into_iter()
    .enumerate()
    {
        api.tell(&format!("{command} {}", own(number))).await;
        until(&sidecar, proven).await;
        // Between two failures an issuer is left in peace.
        sidecar.inner().credentials().retain(&Arc::default());
        let answer = agent.get(&origin.url("/")).await;
        assert_eq!(answer.to_string(), label, "{command}");
        sinks.add(command, format!("{:?} {}", answer.headers, answer.text()));
        sinks.gather(&mut sidecar).await;
    }
    assert!(origin.requests().is_empty());
    sidecar.stop().await;

    let log = logs.text();
    assert!(log.contains("identity unavailable") && log.contains("credential refused"), "{log}");
    sinks.add("the log", log);
    let told = (0..3).map(|number| Secret::text(&format!("what it said in error {number}"), &canary(9000 + number)));
    sinks.hold_none_of(&told.collect::<Vec<_>>());
}
