//! What is declared today ends what was given before.

use std::collections::BTreeMap;

use serde_json::json;
use tokio::task::yield_now;

use super::*;
use crate::credential::{
    assertion::Assertion,
    oauth::{
        Oauth,
        authentication::{Authentication, Client as OauthClient},
    },
    testing::own,
    vault::{Auth, AuthMethod, Fields, Server, Vault, Wanted as WantedThere},
};

fn today(declarations: &[&Arc<Declaration>]) -> BTreeMap<String, Arc<Declaration>> {
    declarations.iter().map(|each| (each.name.to_string(), Arc::clone(each))).collect()
}

fn changed(declaration: &Declaration, change: impl FnOnce(&mut Oauth)) -> Arc<Declaration> {
    let mut declaration = declaration.clone();
    if let Source::Oauth(oauth) = &mut declaration.source {
        change(oauth);
    }
    Arc::new(declaration)
}

/// A dynamic secret of this server.
pub(super) fn database(endpoint: &Endpoint) -> Arc<Declaration> {
    let vault = Vault {
        server: Server { address: endpoint.base(), namespace: None },
        auth: Auth {
            mount: "jwt".into(),
            method: AuthMethod::Jwt { role: "agent".into(), token: Assertion::At(own("a.b.c")) },
        },
        wanted: WantedThere::Leased { path: "database/creds/x".into(), fields: Fields::One("password".into()) },
        policies: Vec::new(),
    };
    Arc::new(Declaration {
        name: "db".into(),
        source: Source::Vault(Box::new(vault)),
        placement: Placement::Bearer,
        max_ttl: 600 * SECOND,
        per_call: false,
    })
}

/// A subject with this journal.
pub(super) fn keeping(path: &Path) -> Subject {
    let (sender, events) = watch::channel(Vec::new());
    let note: Events = Arc::new(move |_, event| sender.send_modify(|all| all.push(event)));
    let identity = crate::credential::testing::identity();
    Subject { store: Store::new(client(), identity, Journal::open(path).unwrap(), note), events }
}

/// How much stands in a journal that another one keeps.
pub(super) fn left_behind(journal: &Path) -> usize {
    let copy = journal.with_extension("copy");
    fs::copy(journal, &copy).unwrap();
    Journal::open(&copy).unwrap().left_behind().len()
}

/// Who asked to revoke.
fn asked(endpoint: &Endpoint) -> String {
    let seen = endpoint.seen();
    seen.iter().find(|seen| seen.path == "/revoke").expect("it was asked").authorization.clone()
}

#[tokio::test]
async fn a_secret_that_was_replaced_revokes_what_the_old_one_got() {
    let (endpoint, declaration) = issuer(600).await;
    let client = |id: &str, secret: &str| {
        let authentication = Authentication::Basic(own(secret));
        OauthClient { id: id.into(), authentication, audience: None }
    };
    let replaced = changed(&declaration, |oauth| oauth.server.client = client("tollgate", "replaced"));
    let another = changed(&declaration, |oauth| oauth.server.client = client("another", "replaced"));
    let irrevocable = changed(&declaration, |oauth| oauth.server = client_credentials(&endpoint.url(), None).server);
    let mut by = Vec::new();
    for now in [&[&declaration][..], &[&replaced], &[&another], &[&irrevocable], &[]] {
        let (endpoint, declaration) = (issuer(600).await.0, Arc::clone(&declaration));
        // The same declarations, at this issuer.
        let here = |declaration: &Declaration| {
            changed(declaration, |oauth| {
                let revocation = oauth.revocable().then(|| endpoint.revocation_url());
                let at = client_credentials(&endpoint.url(), revocation.as_deref()).server.endpoints;
                oauth.server.endpoints = at;
            })
        };
        let subject = Subject::new();
        subject.obtain(&here(&declaration)).await.unwrap();
        let now: Vec<_> = now.iter().map(|each| here(each)).collect();
        subject.store.declare(today(&now.iter().collect::<Vec<_>>()));
        subject.store.end(&"t".into());
        endpoint.revoked(1).await;
        by.push(asked(&endpoint));
    }
    assert_eq!(by[0], by[2], "another client is not the one that it was given to");
    assert_eq!([&by[3], &by[4]], [&by[0], &by[0]]);
    assert_ne!(by[0], by[1]);
}

#[tokio::test]
async fn another_issuer_is_never_shown_a_token() {
    let ((endpoint, declaration), (other, elsewhere)) = (issuer(600).await, issuer(600).await);
    let subject = Subject::new();
    subject.obtain(&declaration).await.unwrap();
    subject.store.declare(today(&[&elsewhere]));
    subject.store.end(&"t".into());
    endpoint.revoked(1).await;
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn what_a_crash_left_behind_is_ended_once_it_is_declared_again() {
    let endpoint = Endpoint::start(|seen: &Seen| match seen.path.as_str() {
        "/v1/auth/jwt/login" => Reply::json(
            r#"{"auth":{"client_token":"s.login","accessor":"a","lease_duration":1200,"token_type":"service"}}"#,
        ),
        _ => Reply::status(204),
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let before = Journal::open(&path).unwrap();
    before.given("db", "acc-1", 600 * SECOND).await.unwrap();
    before.given("other", "acc-2", 600 * SECOND).await.unwrap();
    drop(before);
    let subject = keeping(&path);

    subject.store.declare(BTreeMap::new());
    yield_now().await;
    assert!(endpoint.seen().is_empty());
    let declaration = database(&endpoint);
    subject.store.declare(today(&[&declaration]));
    let revoked = |events: &Vec<Event>| events.iter().any(|event| matches!(event, Event::Revoked { .. }));
    subject.events.clone().wait_for(revoked).await.unwrap();
    subject.store.declare(today(&[&declaration]));
    yield_now().await;

    let accessors: Vec<_> = endpoint.seen().into_iter().filter(|seen| seen.path.ends_with("revoke-accessor")).collect();
    assert_eq!(accessors.len(), 1);
    assert!(accessors[0].body.contains("acc-1"));
    assert_eq!(left_behind(&path), 1, "the other one is not declared");
}

#[tokio::test]
async fn a_login_ends_with_its_declaration_and_after_what_it_made() {
    let auth = |token: &str, life: u32| {
        let auth = json!({"client_token": token, "accessor": token, "lease_duration": life, "token_type": "service"});
        Reply::json(&json!({"auth": auth}).to_string())
    };
    let endpoint = Endpoint::start(move |seen: &Seen| match seen.path.as_str() {
        "/v1/auth/jwt/login" | "/v1/auth/other/login" => auth("login", 1200),
        "/v1/auth/token/create" => auth("child", 600),
        "/v1/database/creds/x" => {
            Reply::json(r#"{"lease_id": "l", "lease_duration": 300, "data": {"password": "canary-pw"}}"#)
        }
        _ => Reply::status(204),
    })
    .await;
    let (subject, before) = (Subject::new(), database(&endpoint));
    let mut after = Declaration::clone(&before);
    if let Source::Vault(vault) = &mut after.source {
        vault.auth.mount = "other".into();
    }
    let after = Arc::new(after);
    let ended = || -> Vec<String> {
        let seen = endpoint.seen().into_iter().map(|seen| seen.path);
        seen.filter(|path| path.contains("revoke") || path.contains("login")).collect()
    };
    for today in [&before, &after] {
        subject.store.declare(super::declared::today(&[today]));
        subject.store.retain(&upstreams(&[&upstream("api", today)]));
        settled(&subject).await;
        subject.obtain(today).await.unwrap();
    }
    assert_eq!(
        ended(),
        [
            "/v1/auth/jwt/login",
            // By who asks today.
            "/v1/auth/other/login",
            "/v1/auth/token/revoke-accessor",
            "/v1/auth/token/revoke-self",
        ]
    );
}
