//! Credentials of one call each (`per_call`): another one for the next call, and worth nothing once the call is over.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::yield_now, time::timeout};

use super::{
    oauth::{
        RESOURCE, credential, given,
        keys::Key,
        provider::{NEEDS, Provider},
    },
    vault::{Database, as_role, basic, readonly},
};
use crate::{
    actors::{
        Issuer, Origin, Sidecar,
        agent::request,
        issuer::Behaviour,
        origin::{self, full},
        sidecar::Setup,
    },
    clients::are_there,
    tunnels::{echo_upgraded, socket},
};

/// A sidecar whose calls to the origin each have a token of this provider.
async fn with_provider(provider: &Provider, origin: &Origin) -> Sidecar {
    let client = json!({"id": "secret", "secret": {"file": "client-secret"}});
    let more = json!({"resources": [RESOURCE], "per_call": true});
    given(Sidecar::permissive(), origin, credential("oauth_client_credentials", provider, &client, more)).start().await
}

async fn provider() -> Provider {
    let key = Key::new();
    Provider::start(&json!({"trusted": key.jwk(), "client": key.jwk()})).await
}

/// The same from an issuer that is not a real one, and can be asked what it saw.
fn with_issuer(issuer: &Issuer, origin: &Origin) -> Setup {
    let credential = json!({
        "kind": "oauth_client_credentials",
        "token_endpoint": issuer.url("/token"),
        "revocation_endpoint": issuer.url("/revoke"),
        "client": {"id": "tollgate", "secret": {"file": "client-secret"}},
        "max_ttl": "10m",
        "per_call": true,
    });
    given(Sidecar::permissive(), origin, credential)
}

/// The tokens that came with the requests so far.
fn tokens(origin: &Origin) -> Vec<String> {
    let requests = origin.requests();
    let carried = requests.iter().map(|seen| seen.header("authorization").expect("it has a token"));
    carried.map(|value| value.strip_prefix("Bearer ").expect("a token").to_owned()).collect()
}

async fn is_active(provider: &Provider, token: &str) -> bool {
    provider.introspect(token).await["active"] == json!(true)
}

/// Waits until the provider says of a token that it is worth nothing.
async fn dies(provider: &Provider, token: &str) {
    let gone = async { while is_active(provider, token).await {} };
    timeout(SOON, gone).await.expect("it is revoked in time");
}

/// Waits until this is so.
async fn comes(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            yield_now().await;
        }
    };
    timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{what} in time"));
}

/// An origin that streams what it is given, one sender for each call.
fn streaming() -> (mpsc::UnboundedReceiver<mpsc::Sender<Bytes>>, origin::Setup) {
    let (open, opened) = mpsc::unbounded_channel();
    let setup = Origin::https("api.example.com").answering(move |_| {
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let _ = open.send(sender);
        let events = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|data| (Ok(Frame::data(data)), receiver))
        });
        async move {
            let mut response = Response::new(StreamBody::new(events.boxed()).boxed_unsync());
            response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
            response
        }
    });
    (opened, setup)
}

#[tokio::test]
async fn each_call_has_a_token_of_its_own_that_is_worth_nothing_after_it() {
    if !are_there(NEEDS) {
        return;
    }
    let provider = provider().await;
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = with_provider(&provider, &origin).await;

    for _ in 0..2 {
        assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
        sidecar.ended().await;
    }

    let tokens = tokens(&origin);
    assert_ne!(tokens[0], tokens[1]);
    for token in &tokens {
        dies(&provider, token).await;
    }
    let records = sidecar.audit().await;
    assert_ne!(records[0]["credential"]["fingerprint"], records[1]["credential"]["fingerprint"]);
    assert_eq!(records[0]["task"]["id"], records[1]["task"]["id"]);
}

#[tokio::test]
async fn a_token_lives_as_long_as_the_stream_that_it_was_for() {
    if !are_there(NEEDS) {
        return;
    }
    let provider = provider().await;
    for http1_only in [true, false] {
        let (mut opened, setup) = streaming();
        let setup = if http1_only { setup.http1_only() } else { setup };
        let origin = setup.start().await;
        let sidecar = with_provider(&provider, &origin).await;
        let url = origin.url("/events");
        let mut connection = sidecar.agent().connection(&url.parse().expect("a URL")).await.expect("it is configured");
        let mut response = connection.begin(request(Method::GET, &url, "")).await.expect("an answer");
        let events = opened.recv().await.expect("the origin was called");
        let token = tokens(&origin).remove(0);

        for _ in 0..3 {
            events.send("data: 1\n\n".into()).await.expect("the origin streams");
            timeout(SOON, response.frame()).await.expect("it passes").expect("a frame").expect("whole");
            assert!(is_active(&provider, &token).await, "it is in use");
        }
        drop(events);
        timeout(SOON, response.collect()).await.expect("the end passes").expect("whole");

        dies(&provider, &token).await;
        comes("the connection is closed", || origin.open() == 0).await;
    }
}

#[tokio::test]
async fn an_agent_that_hangs_up_ends_the_token_of_its_call() {
    if !are_there(NEEDS) {
        return;
    }
    let provider = provider().await;
    let (mut opened, setup) = streaming();
    let origin = setup.start().await;
    let mut sidecar = with_provider(&provider, &origin).await;
    for agent in [sidecar.agent(), sidecar.agent().http2()] {
        let url = origin.url("/events");
        let mut connection = agent.connection(&url.parse().expect("a URL")).await.expect("it is configured");
        let mut response = connection.begin(request(Method::GET, &url, "")).await.expect("an answer");
        let events = opened.recv().await.expect("the origin was called");
        events.send("data: 1\n\n".into()).await.expect("the origin streams");
        timeout(SOON, response.frame()).await.expect("it passes").expect("a frame").expect("whole");
        let token = tokens(&origin).pop().expect("it was called");
        assert!(is_active(&provider, &token).await);

        drop((response, connection));

        dies(&provider, &token).await;
        sidecar.ended().await;
    }
    assert_eq!(sidecar.audit().await[1]["outcome"], "abandoned");
}

#[tokio::test]
async fn a_connection_is_not_kept_for_a_credential_that_has_ended() {
    for http1_only in [true, false] {
        let setup = Origin::https("api.example.com");
        let origin = if http1_only { setup.http1_only() } else { setup }.start().await;
        let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
        let sidecar = with_issuer(&issuer, &origin).start().await;
        let agent = sidecar.agent();

        for count in 1..=3 {
            assert_eq!(agent.get(&origin.url("/")).await.to_string(), "200");
            comes("the connection is closed", || origin.open() == 0).await;
            comes("the token is revoked", || issuer.revoked().len() == count).await;
        }

        let connections: Vec<_> = origin.requests().iter().map(|seen| seen.connection).collect();
        assert_eq!(connections, [1, 2, 3]);
        assert_eq!((issuer.issued(), issuer.revoked()), (tokens(&origin), tokens(&origin)));
    }
}

#[tokio::test]
async fn what_the_origin_refuses_is_revoked_and_the_next_try_has_another() {
    let (asked, issuer) = (AtomicUsize::new(0), Issuer::start(Behaviour::Issues { expires_in: 300 }).await);
    let service = move |_: Request<Incoming>| {
        let mut response = Response::new(full("seen"));
        if asked.fetch_add(1, Ordering::Relaxed) == 0 {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        async move { response }
    };
    let origin = Origin::https("api.example.com").answering(service).start().await;
    let sidecar = with_issuer(&issuer, &origin).start().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");

    assert_eq!((origin.requests().len(), issuer.issued()), (2, tokens(&origin)));
    comes("both are revoked", || issuer.revoked().len() == 2).await;
    comes("their connections are closed", || origin.open() == 0).await;
}

#[tokio::test]
async fn a_call_that_fails_leaves_nothing_behind() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").certificate(origin::Certificate::WrongName).start().await;
    let mut sidecar = with_issuer(&issuer, &origin).start().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.status, StatusCode::BAD_GATEWAY);

    sidecar.ended().await;
    comes("it is revoked", || issuer.revoked().len() == 1).await;
    assert_eq!(issuer.revoked(), issuer.issued());
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn a_websocket_keeps_its_token_until_it_ends() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").answering(echo_upgraded).start().await;
    let mut sidecar = with_issuer(&issuer, &origin).start().await;
    let (socket, connection) = socket(&sidecar, &origin).await.expect("it is permitted");
    // Another call is over before this one.
    sidecar.agent().get(&origin.url("/")).await;
    comes("that call's is revoked", || issuer.revoked().len() == 1).await;
    assert_eq!(issuer.revoked(), tokens(&origin)[1..]);

    drop((socket, connection));

    sidecar.ended().await;
    comes("it is revoked", || issuer.revoked().len() == 2).await;
    assert_eq!(issuer.revoked()[1..], tokens(&origin)[..1]);
}

#[tokio::test]
async fn calls_at_once_have_a_token_each() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = with_issuer(&issuer, &origin).start().await;
    let (agent, url) = (sidecar.agent(), origin.url("/"));

    let answers = futures_util::future::join_all((0..40).map(|_| agent.get(&url))).await;

    assert!(answers.iter().all(|answer| answer.to_string() == "200"));
    let mut used = tokens(&origin);
    used.sort();
    used.dedup();
    assert_eq!(used.len(), 40);
    comes("all are revoked", || issuer.revoked().len() == 40).await;
    sidecar.stop().await;
    assert_eq!(issuer.revoked().len(), 40, "each once");
}

#[tokio::test]
async fn a_database_role_lives_as_long_as_its_call() {
    let Some(database) = Database::start().await else { return };
    let (mut opened, setup) = streaming();
    let origin = setup.start().await;
    let mut credential = readonly();
    credential["per_call"] = Value::Bool(true);
    let sidecar = as_role(&origin, &database.bao, credential).await.start().await;
    let (agent, url) = (sidecar.agent(), origin.url("/rows"));

    let mut users = Vec::new();
    for _ in 0..2 {
        let call = tokio::spawn({
            let (agent, url) = (agent.clone(), url.clone());
            async move { agent.get(&url).await.to_string() }
        });
        let rows = opened.recv().await.expect("the origin was called");
        let (user, _) = basic(origin.requests().last().expect("it was called").header("authorization"));
        assert_eq!(database.postgres.roles(), [user.as_str()]);
        users.push(user);
        drop(rows);
        assert_eq!(call.await.expect("no panic"), "200");
        database.is_clean_within(SOON).await;
    }

    assert_ne!(users[0], users[1]);
    assert_eq!(database.bao.tokens().await, 1, "the login serves other calls");
}

const SOON: Duration = Duration::from_secs(5);
