//! The identity from a SPIFFE Workload API, a real one on a Unix socket: it comes, is renewed, is lost and comes back, and
//! goes to origins as a token and as a certificate.

pub mod workload_api;

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tollgate::identity::IdentityFailure;

use self::workload_api::WorkloadApi;
use crate::{
    actors::{Origin, Sidecar, sidecar::Setup},
    clients::are_there,
    identity::{Authority, identified, until},
};

const ID: &str = "spiffe://example.org/ns/agents/sa/triage";
const NEEDS: &[&str] = &[workload_api::PYTHON];

/// A sidecar whose identity comes from this authority's Workload API, wherever that is by now.
fn identified_by(authority: &Authority) -> Setup {
    identified(json!({"kind": "spiffe", "socket": format!("unix://{}", WorkloadApi::socket(authority).display())}))
}

/// In front of an origin that lets in only who shows a certificate of this authority.
async fn showing(authority: &Authority) -> (Sidecar, Origin) {
    let origin = Origin::https("api.example.com").asking(&authority.pem()).start().await;
    let setup = identified_by(authority).in_front_of_as(&origin, json!({"credential": "own"}));
    (setup.set(json!({"credentials": {"own": {"kind": "spiffe_x509"}}})).start().await, origin)
}

#[tokio::test]
async fn an_identity_that_comes_late_is_waited_for_and_no_call_leaves_before() {
    if !are_there(NEEDS) {
        return;
    }
    let authority = Authority::new();
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = identified_by(&authority).in_front_of(&origin).start().await;
    let agent = sidecar.agent();

    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "503 identity_unavailable");
    assert!(!sidecar.inner().readiness().is_ready());
    assert!(origin.requests().is_empty());

    let _api = WorkloadApi::start(&authority, ID).await;
    until(&sidecar, true).await;
    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "200");
    let records = sidecar.audit().await;
    assert_eq!((&records[0]["agent"]["id"], &records[1]["agent"]["id"]), (&Value::Null, &json!(ID)));
}

#[tokio::test]
async fn a_token_for_exactly_one_audience_goes_as_bearer() {
    if !are_there(NEEDS) {
        return;
    }
    let authority = Authority::new();
    let _api = WorkloadApi::start(&authority, ID).await;
    let origin = Origin::https("api.example.com").start().await;
    let setup = identified_by(&authority).in_front_of_as(&origin, json!({"credential": "own"}));
    let credential = json!({"kind": "spiffe_jwt", "audience": "https://api.example.com"});
    let sidecar = setup.set(json!({"credentials": {"own": credential}})).start().await;
    until(&sidecar, true).await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
    let seen = origin.requests();
    let bearer = seen[0].header("authorization").expect("it carries one");
    let payload = bearer.strip_prefix("Bearer ").and_then(|token| token.split('.').nth(1)).expect("a JWT");
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64url")).expect("JSON");
    assert_eq!((&claims["sub"], &claims["aud"]), (&json!(ID), &json!(["https://api.example.com"])));
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_under_load_without_a_failed_call() {
    if !are_there(NEEDS) {
        return;
    }
    let authority = Authority::new();
    let mut api = WorkloadApi::start(&authority, ID).await;
    let (mut sidecar, origin) = showing(&authority).await;
    until(&sidecar, true).await;

    let (enough, mut load) = (CancellationToken::new(), JoinSet::new());
    for _ in 0..8 {
        let (agent, url, enough) = (sidecar.agent(), origin.url("/"), enough.clone());
        load.spawn(async move {
            let mut answers = Vec::new();
            while !enough.is_cancelled() {
                answers.push(agent.get(&url).await.to_string());
            }
            answers
        });
    }
    let mut serials = Vec::new();
    for _ in 0..3 {
        let serial = api.tell("rotate").await;
        let arrived = async {
            while origin.requests().last().and_then(|seen| seen.shown.clone()).as_deref() != Some(&*serial) {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, arrived).await.expect("the new certificate is shown in time");
        serials.push(serial);
    }
    enough.cancel();
    let answers: Vec<String> = load.join_all().await.into_iter().flatten().collect();
    assert!(answers.iter().all(|answer| answer == "200"), "{answers:?}");
    let told = |serial: &String| {
        let spans = sidecar.heard().iter();
        spans.filter(|span| span.attribute("tollgate.identity.serial") == Some(serial)).count() > 0
    };
    assert!(serials.iter().all(told), "each renewal is seen in spans");
}

#[tokio::test]
async fn an_identity_that_is_withdrawn_ends_at_once_and_may_come_back() {
    if !are_there(NEEDS) {
        return;
    }
    let authority = Authority::new();
    let mut api = WorkloadApi::start(&authority, ID).await;
    let (sidecar, origin) = showing(&authority).await;
    until(&sidecar, true).await;
    let agent = sidecar.agent();
    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "200");

    api.tell("deny").await;
    until(&sidecar, false).await;
    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "503 identity_unavailable");
    assert!(matches!(sidecar.inner().identity().proof(), Err(IdentityFailure::Rejected(_))));
    api.tell("allow").await;
    until(&sidecar, true).await;
    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "200");
    assert_eq!(origin.requests().len(), 2);
}

#[tokio::test]
async fn another_identity_than_before_is_refused() {
    if !are_there(NEEDS) {
        return;
    }
    let authority = Authority::new();
    let mut api = WorkloadApi::start(&authority, ID).await;
    let (sidecar, origin) = showing(&authority).await;
    until(&sidecar, true).await;

    api.tell("become spiffe://example.org/ns/agents/sa/other").await;
    until(&sidecar, false).await;
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "503 identity_unavailable");
    assert!(origin.requests().is_empty());
    api.tell(&format!("become {ID}")).await;
    until(&sidecar, true).await;
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
}

#[tokio::test]
async fn what_is_at_hand_outlives_the_workload_api_but_not_its_own_end() {
    if !are_there(NEEDS) {
        return;
    }
    let authority = Authority::new();
    let mut api = WorkloadApi::start(&authority, ID).await;
    let (sidecar, origin) = showing(&authority).await;
    until(&sidecar, true).await;
    let serial: Arc<str> = api.tell("rotate 5").await.into();
    let mut changes = sidecar.inner().identity().changes();
    let taken = async {
        while sidecar.inner().identity().proof().ok().and_then(|proof| proof.serial).as_ref() != Some(&serial) {
            changes.changed().await.expect("the sidecar runs");
        }
    };
    timeout(LIMIT, taken).await.expect("it is taken in time");
    api.stop().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
    until(&sidecar, false).await;
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "503 identity_unavailable");
    let _api = WorkloadApi::start(&authority, ID).await;
    until(&sidecar, true).await;
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
}

const LIMIT: Duration = Duration::from_secs(20);
