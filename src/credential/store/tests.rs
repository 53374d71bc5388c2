mod alone;
mod declared;
mod ended;
mod standing;

use std::{fs, path::Path, sync::atomic::Ordering, task::Poll, time::SystemTime};

use futures_util::future::join_all;
use tokio::{sync::watch, time::advance};

use super::{
    super::{
        Onto, Placement, Source,
        endpoint::{Endpoint, Reply, Seen, client},
        entries::SWEEP_FROM,
        exception::Exception,
        file::Register,
        testing::client_credentials,
    },
    *,
};
use crate::config::{HostPattern, TlsMode};

const SECOND: Duration = Duration::from_secs(1);

/// A store, and what it told of its credentials.
struct Subject {
    store: Store,
    events: watch::Receiver<Vec<Event>>,
}

impl Subject {
    fn new() -> Self {
        let (sender, events) = watch::channel(Vec::new());
        let note: Events = Arc::new(move |_, event| sender.send_modify(|all| all.push(event)));
        Self { store: Store::new(client(), super::super::testing::identity(), Journal::default(), note), events }
    }

    async fn obtain(&self, declaration: &Arc<Declaration>) -> Result<Arc<Credential>, CredentialRefusal> {
        self.obtain_for(declaration, &Obligations::default(), &task("t")).await
    }

    async fn obtain_for(
        &self,
        declaration: &Arc<Declaration>,
        obligations: &Obligations,
        task: &Task,
    ) -> Result<Arc<Credential>, CredentialRefusal> {
        let upstream = upstream("api", declaration);
        let wanted = Wanted { declaration, upstream: &upstream, obligations, task, needs: None };
        self.store.obtain_for(&wanted).await.map_err(|refusal| match refusal {
            Refusal::Credential(why) => why,
            other => panic!("{other:?}"),
        })
    }

    async fn refusal(&self, declaration: &Arc<Declaration>) -> CredentialRefusal {
        self.obtain(declaration).await.expect_err("nothing to be had")
    }

    fn events(&self) -> Vec<Event> {
        self.events.borrow().clone()
    }

    async fn happened(&self, event: Event) {
        self.events.clone().wait_for(|events| events.contains(&event)).await.unwrap();
    }
}

fn task(id: &str) -> Task {
    Task { id: id.into(), ..Task::none() }
}

fn upstream(name: &str, declaration: &Arc<Declaration>) -> Arc<Upstream> {
    let credential = Some(Arc::clone(declaration));
    Arc::new(Upstream { name: name.into(), credential, ..crate::audit::testing::upstream() })
}

fn upstreams(all: &[&Arc<Upstream>]) -> Arc<Upstreams> {
    Arc::new(Upstreams::new(all.iter().map(|upstream| Arc::clone(upstream)).collect()))
}

fn obligations(scopes: Option<&[&str]>, max_ttl: Option<Duration>) -> Obligations {
    let scopes = scopes.map(|scopes| scopes.iter().map(|scope| Arc::from(*scope)).collect());
    Obligations { scopes, max_ttl, ..Obligations::default() }
}

fn oauth(token_endpoint: String, revocation_endpoint: Option<String>) -> Arc<Declaration> {
    Arc::new(Declaration {
        name: "issued".into(),
        source: Source::Oauth(Box::new(client_credentials(&token_endpoint, revocation_endpoint.as_deref()))),
        placement: Placement::Bearer,
        max_ttl: Duration::from_secs(900),
        per_call: false,
    })
}

fn file(path: &Path, expires: Option<SystemTime>) -> Arc<Declaration> {
    Arc::new(Declaration {
        name: "legacy".into(),
        source: Source::File(Register { file: path.into(), exception: Exception { owner: "team-x".into(), expires } }),
        placement: Placement::Bearer,
        max_ttl: Duration::from_secs(900),
        per_call: false,
    })
}

/// An issuer of `canary-1`, `canary-2` and so on, which live so many seconds, and that can revoke.
async fn issuer(life: u64) -> (Endpoint, Arc<Declaration>) {
    let mut minted = 0;
    let endpoint = Endpoint::start(move |seen: &Seen| match seen.path.as_str() {
        "/token" => {
            minted += 1;
            Reply::token(&format!("canary-{minted}"), life)
        }
        _ => Reply::status(200),
    })
    .await;
    let declaration = oauth(endpoint.url(), Some(endpoint.revocation_url()));
    (endpoint, declaration)
}

fn value(credential: &Credential) -> String {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    credential.apply(&mut parts, &Onto { host: "api.test", port: 443, body: None, signing: None }).unwrap();
    parts.headers["authorization"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_hundred_first_calls_are_one_mint() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Arc::new(Subject::new());
    let calls = (0..500).map(|_| {
        let (subject, declaration) = (Arc::clone(&subject), Arc::clone(&declaration));
        tokio::spawn(async move { subject.obtain(&declaration).await.unwrap().partition })
    });
    let partitions: Vec<u64> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(partitions, [partitions[0]; 500]);
    assert_eq!(endpoint.minted(), 1);
    assert_eq!(subject.events(), [Event::Minted]);
}

#[tokio::test]
async fn nothing_is_shared_between_tasks_destinations_scopes_and_lives() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Subject::new();
    let none = Obligations::default();
    let read = obligations(Some(&["read"]), None);
    let short = obligations(None, Some(300 * SECOND));
    let wanted =
        [("api", &none, "t"), ("api", &none, "u"), ("other", &none, "t"), ("api", &read, "t"), ("api", &short, "t")];
    let mut partitions = Vec::new();
    for (destination, obligations, id) in wanted.into_iter().chain(wanted) {
        let task = task(id);
        let upstream = upstream(destination, &declaration);
        let wanted = Wanted { declaration: &declaration, upstream: &upstream, obligations, task: &task, needs: None };
        partitions.push(subject.store.obtain_for(&wanted).await.unwrap().partition);
    }
    assert_eq!(partitions[..5], partitions[5..]);
    partitions.truncate(5);
    partitions.sort_unstable();
    partitions.dedup();
    assert_eq!(partitions.len(), 5);
    assert_eq!(endpoint.minted(), 5);
}

#[tokio::test]
async fn a_declaration_that_changed_is_another_one() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Subject::new();
    subject.obtain(&declaration).await.unwrap();
    subject.obtain(&Arc::new(Declaration::clone(&declaration))).await.unwrap();
    assert_eq!(endpoint.minted(), 1);
    let changed = Declaration { placement: Placement::Basic("user".into()), ..Declaration::clone(&declaration) };
    assert!(value(&subject.obtain(&Arc::new(changed)).await.unwrap()).starts_with("Basic"));
    assert_eq!(endpoint.minted(), 2);
}

#[tokio::test]
async fn a_destination_that_leads_elsewhere_is_another_one() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Subject::new();
    let before = upstream("api", &declaration);
    let changes: [fn(&mut Upstream); 5] = [
        |_| {},
        |upstream| upstream.hosts = vec![HostPattern::Exact("api.example.net".into())],
        |upstream| upstream.ports = vec![8443],
        |upstream| upstream.addresses = vec![[127, 0, 0, 1].into()],
        |upstream| upstream.tls = TlsMode::Passthrough,
    ];
    for (minted, change) in (1..).zip(changes) {
        let mut changed = Upstream::clone(&before);
        change(&mut changed);
        let (obligations, task) = (Obligations::default(), task("t"));
        for upstream in [Arc::new(changed.clone()), Arc::new(changed)] {
            let wanted = Wanted {
                declaration: &declaration,
                upstream: &upstream,
                obligations: &obligations,
                task: &task,
                needs: None,
            };
            subject.store.obtain_for(&wanted).await.unwrap();
        }
        assert_eq!(endpoint.minted(), minted);
    }
}

#[tokio::test]
async fn every_fault_of_an_issuer_is_a_refusal_of_its_own() {
    use CredentialRefusal::{LifetimeExceeded, Malformed, Rejected, ScopeExceeded, Unavailable};
    let table = [
        (200, r#"{"access_token":"canary","token_type":"Bearer","expires_in":901}"#, LifetimeExceeded, 1),
        (
            200,
            r#"{"access_token":"canary","token_type":"Bearer","expires_in":60,"scope":"read admin"}"#,
            ScopeExceeded,
            1,
        ),
        (200, r#"{"access_token":"canary","token_type":"mac","expires_in":60}"#, Malformed, 1),
        (200, r#"{"access_token":"canary","token_type":"Bearer"}"#, Malformed, 1),
        (200, "not json", Malformed, 0),
        (401, r#"{"error":"invalid_client"}"#, Rejected, 0),
        (500, "", Unavailable, 0),
    ];
    for (status, body, refusal, revoked) in table {
        let endpoint = Endpoint::start(move |seen: &Seen| match seen.path.as_str() {
            "/token" => Reply::status(status).body(body),
            _ => Reply::status(200),
        })
        .await;
        let subject = Subject::new();
        let declaration = oauth(endpoint.url(), Some(endpoint.revocation_url()));
        assert_eq!(subject.refusal(&declaration).await, refusal, "{body}");
        let forms = endpoint.revoked(revoked).await;
        settled(&subject).await;
        assert_eq!(forms, vec!["token=canary&token_type_hint=access_token"; revoked], "{body}");
        assert_eq!(endpoint.revoked(0).await.len(), revoked, "{body}");
        assert_eq!(subject.events()[0], Event::Refused);
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_silent_times_out() {
    let endpoint = Endpoint::start(|_| Reply::Never).await;
    assert_eq!(Subject::new().refusal(&oauth(endpoint.url(), None)).await, CredentialRefusal::Timeout);
}

#[tokio::test]
async fn an_issuer_that_is_down_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(Subject::new().refusal(&oauth(url, None)).await, CredentialRefusal::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_failing_issuer_is_left_in_peace_and_then_asked_again() {
    let mut answers =
        [Reply::status(500), Reply::status(500).header("retry-after", "20"), Reply::token("canary", 60)].into_iter();
    let endpoint = Endpoint::start(move |_| answers.next().unwrap()).await;
    let (subject, declaration) = (Subject::new(), oauth(endpoint.url(), None));
    for (asked, wait) in [(1, SECOND), (2, 20 * SECOND)] {
        for _ in 0..10 {
            assert_eq!(subject.refusal(&declaration).await, CredentialRefusal::Unavailable);
        }
        assert_eq!(endpoint.minted(), asked);
        advance(wait).await;
    }
    assert!(subject.obtain(&declaration).await.is_ok());
    assert_eq!(subject.events(), [Event::Refused, Event::Refused, Event::Minted]);
}

#[tokio::test(start_paused = true)]
async fn a_credential_is_refreshed_ahead_while_the_old_one_is_served() {
    let (endpoint, declaration) = issuer(100).await;
    let subject = Subject::new();
    let first = subject.obtain(&declaration).await.unwrap();
    advance(70 * SECOND).await;
    assert_eq!(subject.obtain(&declaration).await.unwrap().partition, first.partition);
    assert_eq!(endpoint.minted(), 1);
    advance(10 * SECOND).await;
    assert_eq!(subject.obtain(&declaration).await.unwrap().partition, first.partition);
    subject.happened(Event::Refreshed).await;
    assert_eq!(value(&subject.obtain(&declaration).await.unwrap()), "Bearer canary-2");
    assert_eq!(endpoint.minted(), 2);
}

#[tokio::test(start_paused = true)]
async fn when_refreshing_fails_the_old_one_is_served_until_its_end_and_not_longer() {
    let mut answers = vec![Reply::token("canary", 100)];
    let endpoint = Endpoint::start(move |_| answers.pop().unwrap_or_else(|| Reply::status(500))).await;
    let (subject, declaration) = (Subject::new(), oauth(endpoint.url(), None));
    subject.obtain(&declaration).await.unwrap();
    advance(81 * SECOND).await;
    subject.obtain(&declaration).await.unwrap();
    subject.happened(Event::Refused).await;
    assert!(subject.obtain(&declaration).await.is_ok());
    advance(19 * SECOND).await;
    assert_eq!(subject.refusal(&declaration).await, CredentialRefusal::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_nobody_used_ends_by_itself_and_is_minted_anew() {
    let (endpoint, declaration) = issuer(100).await;
    let subject = Subject::new();
    subject.obtain(&declaration).await.unwrap();
    advance(100 * SECOND).await;
    assert_eq!(endpoint.minted(), 1);
    assert_eq!(value(&subject.obtain(&declaration).await.unwrap()), "Bearer canary-2");
    assert_eq!(subject.events(), [Event::Minted, Event::Minted]);
}

#[tokio::test(start_paused = true)]
async fn a_life_that_policy_bounds_is_ended_by_us_or_refused() {
    let (endpoint, declaration) = issuer(600).await;
    let (subject, bound) = (Subject::new(), obligations(None, Some(10 * SECOND)));
    let credential = subject.obtain_for(&declaration, &bound, &task("t")).await.unwrap();
    assert!(credential.remaining().is_some_and(|left| left <= 10 * SECOND));
    advance(10 * SECOND).await;
    assert_eq!(endpoint.revoked(1).await, ["token=canary-1&token_type_hint=access_token"]);
    assert_eq!(value(&subject.obtain_for(&declaration, &bound, &task("t")).await.unwrap()), "Bearer canary-2");
    let irrevocable = oauth(endpoint.url(), None);
    let refused = subject.obtain_for(&irrevocable, &bound, &task("t")).await;
    assert_eq!(refused.err(), Some(CredentialRefusal::LifetimeExceeded));
    let none = obligations(None, Some(Duration::ZERO));
    let refused = subject.obtain_for(&declaration, &none, &task("t")).await;
    assert_eq!(refused.err(), Some(CredentialRefusal::LifetimeExceeded));
}

#[tokio::test]
async fn scopes_are_those_of_the_decision_and_never_more_than_declared() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Subject::new();
    for (scopes, sent) in [(None, "scope=read%20write"), (Some(&["write"][..]), "scope=write")] {
        subject.obtain_for(&declaration, &obligations(scopes, None), &task("t")).await.unwrap();
        assert!(endpoint.seen().last().unwrap().body.ends_with(sent));
    }
    for scopes in [&["admin"][..], &["read", "admin"], &["read write"], &[]] {
        let refused = subject.obtain_for(&declaration, &obligations(Some(scopes), None), &task("t")).await;
        assert_eq!(refused.err(), Some(CredentialRefusal::Misconfigured), "{scopes:?}");
    }
    assert_eq!(endpoint.minted(), 2);
}

#[tokio::test]
async fn a_mint_goes_on_when_its_caller_goes_away() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Subject::new();
    let mut call = Box::pin(subject.obtain(&declaration));
    assert!(std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending())).await);
    drop(call);
    subject.happened(Event::Minted).await;
    subject.obtain(&declaration).await.unwrap();
    assert_eq!(endpoint.minted(), 1);
}

/// Waits until everything that goes on in the background has come to its end.
async fn settled(subject: &Subject) {
    subject.store.0.background.close();
    subject.store.0.background.wait().await;
}

#[tokio::test(start_paused = true)]
async fn what_serves_nobody_is_forgotten() {
    let place = tempfile::NamedTempFile::new().unwrap();
    fs::write(place.path(), "canary").unwrap();
    let (subject, declaration) = (Subject::new(), file(place.path(), None));
    for number in 0..SWEEP_FROM {
        subject.obtain_for(&declaration, &Obligations::default(), &task(&number.to_string())).await.unwrap();
    }
    advance(10 * SECOND).await;
    subject.obtain_for(&declaration, &Obligations::default(), &task("last")).await.unwrap();
    assert_eq!(subject.store.0.entries.read().unwrap().count, 1);
}

#[tokio::test]
async fn debug_shows_no_secret() {
    let (_endpoint, declaration) = issuer(600).await;
    let subject = Subject::new();
    let credential = subject.obtain(&declaration).await.unwrap();
    let shown = format!("{declaration:?} {credential:?} {:?}", subject.store);
    assert!(!shown.contains("canary"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_tasks_at_once_spend_the_budget_and_no_more() {
    let (endpoint, declaration) = issuer(600).await;
    let subject = Arc::new(Subject::new());
    let calls = (0..1000).map(|number| {
        let (subject, declaration) = (Arc::clone(&subject), Arc::clone(&declaration));
        tokio::spawn(async move {
            subject.obtain_for(&declaration, &Obligations::default(), &task(&format!("t{number}"))).await.err()
        })
    });
    let refused: Vec<_> = join_all(calls).await.into_iter().filter_map(Result::unwrap).collect();
    assert!(refused.iter().all(|refusal| *refusal == CredentialRefusal::BudgetSpent), "{refused:?}");
    // Some are given back while this goes on.
    assert!((900..=940).contains(&refused.len()), "{}", refused.len());
    assert_eq!(endpoint.minted(), 1000 - refused.len());
}
