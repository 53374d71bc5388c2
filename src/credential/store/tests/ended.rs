//! What was minted ends: with its task, its destination, its declaration, its time, and ours.

use super::*;
use crate::task::End;

#[tokio::test(start_paused = true)]
async fn what_a_reload_took_away_is_revoked_and_what_it_left_is_served() {
    let (endpoint, declaration) = issuer(100).await;
    let subject = Subject::new();
    let (obligations, task) = (Obligations::default(), task("t"));
    let (api, other) = (upstream("api", &declaration), upstream("other", &declaration));
    let obtain = async |upstream| {
        let wanted =
            Wanted { declaration: &declaration, upstream, obligations: &obligations, task: &task, needs: None };
        value(&subject.store.obtain_for(&wanted).await.unwrap())
    };
    assert_eq!((obtain(&api).await, obtain(&other).await), ("Bearer canary-1".into(), "Bearer canary-2".into()));
    // One that is no longer used, but lives.
    advance(85 * SECOND).await;
    obtain(&api).await;
    subject.happened(Event::Refreshed).await;
    subject.store.retain(&upstreams(&[&api, &other]));
    assert_eq!(obtain(&api).await, "Bearer canary-3");
    let moved = Arc::new(Upstream { ports: vec![8443], ..Upstream::clone(&api) });
    subject.store.retain(&upstreams(&[&moved, &Arc::new(Upstream::clone(&other))]));
    let mut revoked = endpoint.revoked(2).await;
    revoked.sort();
    let form = |number| format!("token=canary-{number}&token_type_hint=access_token");
    assert_eq!(revoked, [form(1), form(3)]);
    assert_eq!((obtain(&moved).await, obtain(&other).await), ("Bearer canary-4".into(), "Bearer canary-2".into()));
    let undeclared = Arc::new(Upstream { credential: None, ..Upstream::clone(&other) });
    subject.store.retain(&upstreams(&[&moved, &undeclared]));
    assert!(endpoint.revoked(3).await.contains(&form(2)));
}

#[tokio::test]
async fn what_was_being_minted_when_a_reload_took_it_away_is_revoked() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Subject::new();
    let mut call = Box::pin(subject.obtain(&declaration));
    assert!(std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending())).await);
    subject.store.retain(&upstreams(&[]));
    assert_eq!(call.await.err(), Some(CredentialRefusal::Unavailable));
    assert_eq!(endpoint.revoked(1).await, ["token=canary-1&token_type_hint=access_token"]);
    assert!(subject.obtain(&declaration).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_credential_ends_with_its_task() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Subject::new();
    let none = Obligations::default();
    let ending = Task { expires_at: Some(SystemTime::now() + 60 * SECOND), ..task("t") };
    subject.obtain_for(&declaration, &none, &ending).await.unwrap();
    advance(60 * SECOND).await;
    assert_eq!(endpoint.revoked(1).await.len(), 1);
    let ended = Task { expires_at: Some(SystemTime::now() - SECOND), ..task("u") };
    let upstream = upstream("api", &declaration);
    let wanted =
        Wanted { declaration: &declaration, upstream: &upstream, obligations: &none, task: &ended, needs: None };
    assert_eq!(subject.store.obtain_for(&wanted).await.unwrap_err().label(), "task_expired");
    assert_eq!(endpoint.minted(), 1);
}

#[tokio::test(start_paused = true)]
async fn stopping_revokes_everything_that_lives_and_mints_nothing_more() {
    let (endpoint, declaration) = issuer(100).await;
    let subject = Subject::new();
    subject.obtain(&declaration).await.unwrap();
    advance(85 * SECOND).await;
    subject.obtain(&declaration).await.unwrap();
    subject.happened(Event::Refreshed).await;
    subject.obtain_for(&declaration, &Obligations::default(), &task("u")).await.unwrap();
    let revocations = subject.store.revoke_all(5 * SECOND).await;
    assert_eq!(revocations, Revocations { revoked: 3, failed: 0 });
    let mut revoked = endpoint.revoked(3).await;
    revoked.sort();
    let form = |number| format!("token=canary-{number}&token_type_hint=access_token");
    assert_eq!(revoked, [form(1), form(2), form(3)]);
    assert_eq!(subject.refusal(&declaration).await, CredentialRefusal::Unavailable);
    assert_eq!(endpoint.minted(), 3);
    assert_eq!(subject.store.revoke_all(SECOND).await, Revocations::default());
}

#[tokio::test(start_paused = true)]
async fn what_expired_is_not_revoked() {
    let (endpoint, declaration) = issuer(100).await;
    let subject = Subject::new();
    subject.obtain(&declaration).await.unwrap();
    advance(100 * SECOND).await;
    assert_eq!(subject.store.revoke_all(SECOND).await, Revocations::default());
    assert_eq!(endpoint.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_expired_is_over_and_nobody_is_asked_to_end_it() {
    let ends: [fn(&Store); 4] = [
        |store| store.end(&"t".into()),
        |store| store.renew(&"t".into(), 9),
        |store| store.end_destination("api"),
        |store| store.retain(&upstreams(&[])),
    ];
    for end in ends {
        let (endpoint, declaration) = issuer(100).await;
        let subject = Subject::new();
        subject.obtain(&declaration).await.unwrap();
        advance(100 * SECOND).await;
        end(&subject.store);
        settled(&subject).await;
        assert_eq!((endpoint.seen().len(), subject.events()), (1, vec![Event::Minted]));
    }
}

#[tokio::test(start_paused = true)]
async fn the_lag_of_a_revocation_counts_from_when_it_was_wanted() {
    const SLOW: usize = 40;
    let (mut minted, mut down) = (0, SLOW);
    let endpoint = Endpoint::start(move |seen: &Seen| match seen.path.as_str() {
        "/token" => {
            minted += 1;
            Reply::token(&format!("canary-{minted}"), 600)
        }
        // Each of those that go first has to be asked for twice.
        _ if down > 0 => {
            down -= 1;
            Reply::status(503).header("retry-after", "5")
        }
        _ => Reply::status(200),
    })
    .await;
    let declaration = oauth(endpoint.url(), Some(endpoint.revocation_url()));
    let subject = Subject::new();
    for number in 0..SLOW {
        let wide = upstream(&format!("api-{number}"), &declaration);
        let (obligations, task) = (Obligations::default(), task("t"));
        let wanted =
            Wanted { declaration: &declaration, upstream: &wide, obligations: &obligations, task: &task, needs: None };
        subject.store.obtain_for(&wanted).await.unwrap();
    }
    subject.store.end(&"t".into());
    settled(&subject).await;
    let events = subject.events();
    let lags = events.iter().filter_map(|event| match event {
        Event::Revoked { lag } => Some(*lag),
        _ => None,
    });
    let lags: Vec<_> = lags.collect();
    assert_eq!(lags.len(), SLOW);
    assert!(lags.iter().all(|lag| *lag >= 5 * SECOND), "those that had to wait for others too: {lags:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_given_beyond_what_was_asked_is_ended_however_long_that_takes() {
    let mut down = 12;
    let endpoint = Endpoint::start(move |seen: &Seen| match seen.path.as_str() {
        "/token" => Reply::json(
            r#"{"access_token":"canary","token_type":"Bearer","expires_in":600,"scope":"read write admin"}"#,
        ),
        _ if down > 0 => {
            down -= 1;
            Reply::status(503)
        }
        _ => Reply::status(200),
    })
    .await;
    let declaration = oauth(endpoint.url(), Some(endpoint.revocation_url()));
    let (subject, begun) = (Subject::new(), Instant::now());
    assert_eq!(subject.refusal(&declaration).await, CredentialRefusal::ScopeExceeded);
    settled(&subject).await;
    assert!(begun.elapsed() > 30 * SECOND);
    assert!(matches!(subject.events()[..], [Event::Refused, Event::Revoked { .. }]), "{:?}", subject.events());
}

#[tokio::test]
async fn a_call_whose_task_is_over_is_refused_for_that() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Subject::new();
    let (obligations, upstream) = (Obligations::default(), upstream("api", &declaration));
    for (end, label) in [(End::Ended, "task_ended"), (End::Killed, "task_killed"), (End::Expired, "task_expired")] {
        let task = task(label);
        task.life.finish(end);
        subject.store.end(&task.id);
        let wanted = Wanted {
            declaration: &declaration,
            upstream: &upstream,
            obligations: &obligations,
            task: &task,
            needs: None,
        };
        assert_eq!(subject.store.obtain_for(&wanted).await.unwrap_err().label(), label);
    }
    assert_eq!(endpoint.minted(), 0);
}

#[tokio::test(start_paused = true)]
async fn stopping_waits_no_longer_than_told() {
    let endpoint = Endpoint::start(|seen: &Seen| match seen.path.as_str() {
        "/token" => Reply::token("canary", 600),
        _ => Reply::Never,
    })
    .await;
    let subject = Subject::new();
    subject.obtain(&oauth(endpoint.url(), Some(endpoint.revocation_url()))).await.unwrap();
    let started = Instant::now();
    assert_eq!(subject.store.revoke_all(2 * SECOND).await, Revocations { revoked: 0, failed: 1 });
    assert!(started.elapsed() <= 2 * SECOND + Duration::from_millis(10));
    assert_eq!(subject.events(), [Event::Minted, Event::RevokeFailed]);
}

#[tokio::test]
async fn what_a_task_caused_ends_with_it_and_a_late_call_gets_nothing() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Subject::new();
    let obligations = Obligations::default();
    for id in ["t", "other"] {
        subject.obtain_for(&declaration, &obligations, &task(id)).await.unwrap();
    }

    subject.store.end(&"t".into());

    assert_eq!(endpoint.revoked(1).await, ["token=canary-1&token_type_hint=access_token"]);
    let late = subject.obtain_for(&declaration, &obligations, &task("t")).await;
    assert_eq!(late.unwrap_err(), CredentialRefusal::Unavailable);
    subject.obtain_for(&declaration, &obligations, &task("other")).await.unwrap();
    assert_eq!(endpoint.minted(), 2);
}

#[tokio::test]
async fn a_changed_task_gets_new_credentials_and_what_was_decided_before_gets_none() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Subject::new();
    let obligations = Obligations::default();
    let at = |epoch| Task { epoch, ..task("t") };
    subject.obtain_for(&declaration, &obligations, &at(1)).await.unwrap();

    subject.store.renew(&"t".into(), 2);

    let before = subject.obtain_for(&declaration, &obligations, &at(1)).await;
    assert_eq!(before.unwrap_err(), CredentialRefusal::Unavailable);
    let now = subject.obtain_for(&declaration, &obligations, &at(2)).await.unwrap();
    assert_eq!(value(&now), "Bearer canary-2");
    assert_eq!(endpoint.revoked(1).await, ["token=canary-1&token_type_hint=access_token"]);
}

#[tokio::test]
async fn a_credential_that_is_given_up_is_revoked_and_the_next_call_gets_another() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Subject::new();
    let first = subject.obtain(&declaration).await.unwrap();

    subject.store.rotate(&first);
    subject.store.rotate(&first);

    assert_eq!(endpoint.revoked(1).await, ["token=canary-1&token_type_hint=access_token"]);
    assert_eq!(value(&subject.obtain(&declaration).await.unwrap()), "Bearer canary-2");
    assert_eq!(subject.events().iter().filter(|event| **event == Event::Rotated).count(), 1);
}

#[tokio::test]
async fn what_was_minted_for_a_destination_ends_when_that_is_switched_off() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Subject::new();
    let (api, other) = (upstream("api", &declaration), upstream("other", &declaration));
    let obligations = Obligations::default();
    for upstream in [&api, &other] {
        let task = task("t");
        let wanted =
            Wanted { declaration: &declaration, upstream, obligations: &obligations, task: &task, needs: None };
        subject.store.obtain_for(&wanted).await.unwrap();
    }

    subject.store.end_destination("api");

    assert_eq!(endpoint.revoked(1).await, ["token=canary-1&token_type_hint=access_token"]);
}
