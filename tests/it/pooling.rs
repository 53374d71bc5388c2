//! Connections to origins: which call gets which, and what moves while it is used.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};

use crate::actors::{Agent, Origin, Sidecar, origin::full};

/// Makes a call, and tells whether a connection was opened for it.
async fn opens(sidecar: &mut Sidecar, agent: &Agent, url: &str) -> bool {
    assert_eq!(agent.get(url).await.to_string(), "200");
    sidecar.next_spans().await.iter().any(|span| span.name == "connect")
}

#[tokio::test]
async fn a_connection_is_taken_up_by_the_next_call() {
    let origin = Origin::https("api.example.com").http1_only().start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let agent: Agent = sidecar.agent();

    assert!(opens(&mut sidecar, &agent, &origin.url("/first")).await);
    assert!(!opens(&mut sidecar, &agent, &origin.url("/second")).await);
}

#[tokio::test]
async fn a_connection_that_the_origin_has_closed_is_replaced() {
    let origin =
        Origin::http("api.example.com").saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let agent: Agent = sidecar.agent();

    for _ in 0..3 {
        assert!(opens(&mut sidecar, &agent, &origin.url("/")).await);
    }
}

#[tokio::test]
async fn what_an_origin_says_unasked_is_never_the_answer_to_the_next_call() {
    let twice = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 418 Unasked\r\ncontent-length: 0\r\n\r\n";
    let origin = Origin::http("api.example.com").saying(twice).start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let agent: Agent = sidecar.agent();

    for _ in 0..3 {
        assert!(opens(&mut sidecar, &agent, &origin.url("/")).await);
    }
}

#[tokio::test]
async fn what_was_opened_under_another_configuration_is_not_taken_up() {
    let origin = Origin::https("api.example.com").http1_only().start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let mut changes = sidecar.inner().changes();
    let agent: Agent = sidecar.agent();
    assert!(opens(&mut sidecar, &agent, &origin.url("/before")).await);

    sidecar.reconfigure(json!({"mode": "shadow"}));
    timeout(SOON, changes.changed()).await.expect("it is noticed").expect("the sidecar runs");

    assert!(opens(&mut sidecar, &agent, &origin.url("/after")).await);
    assert!(!opens(&mut sidecar, &agent, &origin.url("/again")).await);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_yet_does_not_hold_up_its_own_upload() {
    let (seen, mut arrived) = mpsc::unbounded_channel();
    let origin = Origin::https("files.example.com")
        .http1_only()
        .answering(move |mut request: Request<Incoming>| {
            let seen = seen.clone();
            tokio::spawn(async move {
                while let Some(Ok(frame)) = request.body_mut().frame().await {
                    let _ = seen.send(frame.into_data().map_or(0, |data| data.len()));
                }
            });
            async { Response::new(full(vec![b'x'; MUCH])) }
        })
        .start()
        .await;
    let sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let url = origin.url("/upload").parse().expect("a URL");
    for agent in [sidecar.agent(), sidecar.agent().http2()] {
        let mut connection = agent.connection(&url).await.expect("the destination is configured");
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|data| (Ok(Frame::data(data)), receiver))
        });
        let call = Request::post(origin.url("/upload")).body(StreamBody::new(pieces.boxed()).boxed_unsync());
        let answering = connection.begin(call.expect("a valid request"));
        let response = timeout(SOON, answering).await.expect("the answer comes early").expect("an answer");

        let mut left = MUCH;
        for _ in 0..PIECES {
            let sending = sender.send(vec![b'y'; MUCH / PIECES].into());
            timeout(SOON, sending).await.expect("the upload goes on").expect("the agent streams");
        }
        drop(sender);
        while left > 0 {
            left -= timeout(SOON, arrived.recv()).await.expect("the upload goes on").expect("the origin reads");
        }
        let body = timeout(SOON, response.collect()).await.expect("the answer goes on").expect("whole").to_bytes();
        assert_eq!(body.len(), MUCH);
    }
}

const SOON: Duration = Duration::from_secs(10);
const PIECES: usize = 16;
/// More than all that stands between an agent and its origin holds.
const MUCH: usize = 16 << 20;
