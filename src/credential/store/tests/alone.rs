//! Credentials of one call each.

use std::future::poll_fn;

use serde_json::{Value, json};
use tokio::task::yield_now;

use super::{
    declared::{database, keeping, left_behind},
    *,
};
use crate::credential::{
    assertion::Assertion,
    kubernetes::{Origin, ServiceAccount, TokenRequest},
    testing::own,
};

fn per_call(declaration: &Declaration) -> Arc<Declaration> {
    Arc::new(Declaration { per_call: true, ..declaration.clone() })
}

/// An issuer whose credentials are for one call each.
async fn issuer_for_calls(life: u64) -> (Endpoint, Arc<Declaration>) {
    let (endpoint, declaration) = issuer(life).await;
    (endpoint, per_call(&declaration))
}

fn form(token: &str) -> String {
    format!("token={token}&token_type_hint=access_token")
}

/// Waits until so many were revoked and all calls are over. Stopping then finds nothing to revoke.
async fn is_over(subject: &Subject, revoked: usize) {
    let count = |events: &Vec<Event>| events.iter().filter(|event| matches!(event, Event::Revoked { .. })).count();
    subject.events.clone().wait_for(|events| count(events) >= revoked).await.unwrap();
    while !subject.store.0.claimed.lock().unwrap().is_empty() {
        yield_now().await;
    }
    assert_eq!(subject.store.revoke_all(5 * SECOND).await, Revocations::default());
    assert_eq!(count(&subject.events()), revoked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_at_once_get_one_each_and_each_is_revoked_when_its_call_is_over() {
    let (endpoint, declaration) = issuer_for_calls(600).await;
    let subject = Arc::new(Subject::new());
    let calls = (0..50).map(|_| {
        let (subject, declaration) = (Arc::clone(&subject), Arc::clone(&declaration));
        tokio::spawn(async move { subject.obtain(&declaration).await.unwrap() })
    });
    let held: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    let mut partitions: Vec<u64> = held.iter().map(|credential| credential.partition).collect();
    partitions.sort_unstable();
    partitions.dedup();
    assert_eq!((partitions.len(), endpoint.minted()), (50, 50));
    assert!(held.iter().all(|credential| credential.is_for_one_call()));
    assert_eq!(endpoint.revoked(0).await, [""; 0]);

    drop(held);

    let mut revoked = endpoint.revoked(50).await;
    revoked.sort();
    let mut minted: Vec<_> = (1..=50).map(|number| form(&format!("canary-{number}"))).collect();
    minted.sort();
    assert_eq!(revoked, minted);
    is_over(&subject, 50).await;
}

#[tokio::test(start_paused = true)]
async fn it_lives_while_its_call_goes_on_and_no_other_call_gets_it() {
    let (endpoint, declaration) = issuer_for_calls(600).await;
    let subject = Subject::new();
    let first = subject.obtain(&declaration).await.unwrap();
    advance(500 * SECOND).await;
    let second = subject.obtain(&declaration).await.unwrap();
    assert_eq!((value(&first).as_str(), value(&second).as_str()), ("Bearer canary-1", "Bearer canary-2"));
    drop(second);
    assert_eq!(endpoint.revoked(1).await, [form("canary-2")]);
    drop(first);
    assert_eq!(endpoint.revoked(2).await[1], form("canary-1"));
    is_over(&subject, 2).await;
}

#[tokio::test]
async fn what_is_minted_for_a_call_that_went_away_is_revoked() {
    let (endpoint, declaration) = issuer_for_calls(600).await;
    let subject = Subject::new();
    let mut call = Box::pin(subject.obtain(&declaration));
    assert!(poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending())).await);
    drop(call);
    assert_eq!(endpoint.revoked(1).await, [form("canary-1")]);
    is_over(&subject, 1).await;
}

#[tokio::test]
async fn what_a_call_holds_is_revoked_once_when_its_task_ends() {
    let (endpoint, declaration) = issuer_for_calls(600).await;
    let subject = Subject::new();
    let held = subject.obtain(&declaration).await.unwrap();

    subject.store.end(&"t".into());

    assert_eq!(endpoint.revoked(1).await, [form("canary-1")]);
    assert_eq!(subject.refusal(&declaration).await, CredentialRefusal::Unavailable);
    drop(held);
    is_over(&subject, 1).await;
}

#[tokio::test]
async fn what_is_being_minted_when_its_task_ends_is_revoked() {
    let (endpoint, declaration) = issuer_for_calls(600).await;
    let subject = Subject::new();
    let mut call = Box::pin(subject.obtain(&declaration));
    assert!(poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending())).await);
    subject.store.end(&"t".into());
    assert_eq!(call.await.err(), Some(CredentialRefusal::Unavailable));
    assert_eq!(endpoint.revoked(1).await, [form("canary-1")]);
}

#[tokio::test]
async fn stopping_revokes_what_a_call_still_holds() {
    let (endpoint, declaration) = issuer_for_calls(600).await;
    let subject = Subject::new();
    let held = subject.obtain(&declaration).await.unwrap();
    assert_eq!(subject.store.revoke_all(5 * SECOND).await, Revocations { revoked: 1, failed: 0 });
    drop(held);
    assert_eq!(endpoint.revoked(1).await, [form("canary-1")]);
}

#[tokio::test(start_paused = true)]
async fn it_is_not_kept_for_longer_than_policy_says() {
    let (endpoint, declaration) = issuer_for_calls(600).await;
    let subject = Subject::new();
    let bound = obligations(None, Some(10 * SECOND));
    let held = subject.obtain_for(&declaration, &bound, &task("t")).await.unwrap();
    advance(10 * SECOND).await;
    assert_eq!(endpoint.revoked(1).await, [form("canary-1")]);
    drop(held);
    is_over(&subject, 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_expired_in_its_call_is_not_revoked() {
    let (endpoint, declaration) = issuer_for_calls(100).await;
    let subject = Subject::new();
    let held = subject.obtain(&declaration).await.unwrap();
    advance(101 * SECOND).await;
    drop(held);
    is_over(&subject, 0).await;
    assert_eq!(endpoint.seen().len(), 1);
    assert_eq!(subject.events(), [Event::Minted]);
}

#[tokio::test]
async fn what_its_origin_refuses_is_revoked_before_the_call_is_over() {
    let (endpoint, declaration) = issuer_for_calls(600).await;
    let subject = Subject::new();
    let refused = subject.obtain(&declaration).await.unwrap();
    subject.store.rotate(&refused);
    let next = subject.obtain(&declaration).await.unwrap();
    assert_eq!(value(&next), "Bearer canary-2");
    assert_eq!(endpoint.revoked(1).await, [form("canary-1")]);
    assert!(subject.events().contains(&Event::Rotated));
}

#[tokio::test]
async fn each_call_counts_for_the_budget() {
    let (endpoint, declaration) = issuer_for_calls(600).await;
    let subject = Subject::new();
    let mut spent = 0;
    for _ in 0..100 {
        match subject.obtain(&declaration).await {
            Ok(_) => {}
            Err(refusal) => {
                assert_eq!(refusal, CredentialRefusal::BudgetSpent);
                spent += 1;
            }
        }
    }
    assert!((1..=40).contains(&spent), "{spent}");
    assert_eq!(endpoint.minted(), 100 - spent);
    assert_eq!(endpoint.revoked(100 - spent).await.len(), 100 - spent);
}

#[tokio::test(start_paused = true)]
async fn calls_that_fail_together_leave_the_issuer_in_peace_as_one_does() {
    let mut asked = 0;
    let endpoint = Endpoint::start(move |seen: &Seen| match seen.path.as_str() {
        "/token" => {
            asked += 1;
            if asked <= 4 { Reply::status(500) } else { Reply::token("canary", 60) }
        }
        _ => Reply::status(200),
    })
    .await;
    let (subject, declaration) = (Subject::new(), per_call(&oauth(endpoint.url(), Some(endpoint.revocation_url()))));
    let failed = join_all((0..4).map(|_| subject.obtain(&declaration))).await;
    assert!(failed.into_iter().all(|failed| failed.err() == Some(CredentialRefusal::Unavailable)));
    assert_eq!(subject.refusal(&declaration).await, CredentialRefusal::Unavailable);
    assert_eq!(endpoint.minted(), 4);
    advance(SECOND).await;
    drop(subject.obtain(&declaration).await.unwrap());
    assert_eq!(endpoint.revoked(1).await, [form("canary")]);
}

#[tokio::test]
async fn one_that_another_call_has_is_refused_and_stays_with_that_call() {
    let endpoint = Endpoint::start(|seen: &Seen| match seen.path.as_str() {
        "/token" => Reply::token("canary", 600),
        _ => Reply::status(200),
    })
    .await;
    let (subject, declaration) = (Subject::new(), per_call(&oauth(endpoint.url(), Some(endpoint.revocation_url()))));
    let held = subject.obtain(&declaration).await.unwrap();
    assert_eq!(subject.refusal(&declaration).await, CredentialRefusal::Rejected);
    assert_eq!(endpoint.revoked(0).await, [""; 0]);
    drop(held);
    assert_eq!(endpoint.revoked(1).await, [form("canary")]);
}

#[tokio::test]
async fn what_nobody_can_revoke_is_minted_for_each_call_as_well() {
    let (endpoint, _) = issuer(600).await;
    let (subject, declaration) = (Subject::new(), per_call(&oauth(endpoint.url(), None)));
    for number in 1..=2 {
        assert_eq!(value(&subject.obtain(&declaration).await.unwrap()), format!("Bearer canary-{number}"));
    }
    is_over(&subject, 0).await;
}

#[tokio::test]
async fn what_nobody_can_revoke_is_asked_for_the_shortest_life() {
    for (each, life) in [(true, 600), (false, 1800)] {
        let endpoint = Endpoint::start(|_| Reply::status(500)).await;
        let request = TokenRequest {
            server: endpoint.base(),
            namespace: "agents".into(),
            name: "reader".into(),
            token: Assertion::At(own("a.b.c")),
            pod: None,
        };
        let account = ServiceAccount { audience: "https://x.test".into(), origin: Origin::Request(Box::new(request)) };
        let declaration = Arc::new(Declaration {
            name: "account".into(),
            source: Source::Kubernetes(account),
            placement: Placement::Bearer,
            max_ttl: 1800 * SECOND,
            per_call: each,
        });
        Subject::new().refusal(&declaration).await;
        let asked: Value = serde_json::from_str(&endpoint.seen()[0].body).unwrap();
        assert_eq!(asked["spec"]["expirationSeconds"], json!(life));
    }
}

#[tokio::test]
async fn what_a_crash_in_a_call_leaves_behind_is_written_down() {
    let auth = |token: &str, life: u32| {
        let auth = json!({"client_token": token, "accessor": token, "lease_duration": life, "token_type": "service"});
        Reply::json(&json!({"auth": auth}).to_string())
    };
    let endpoint = Endpoint::start(move |seen: &Seen| match seen.path.as_str() {
        "/v1/auth/jwt/login" => auth("login", 1200),
        "/v1/auth/token/create" => auth("child", 600),
        "/v1/database/creds/x" => {
            Reply::json(r#"{"lease_id": "l", "lease_duration": 300, "data": {"password": "canary-pw"}}"#)
        }
        _ => Reply::status(204),
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let subject = keeping(&path);
    let held = subject.obtain(&per_call(&database(&endpoint))).await.unwrap();
    assert_eq!((value(&held).as_str(), left_behind(&path)), ("Bearer canary-pw", 1));

    drop(held);

    is_over(&subject, 1).await;
    assert_eq!(left_behind(&path), 0);
}
