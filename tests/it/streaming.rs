//! Bodies pass as they come, in both directions.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::{sync::mpsc, time::timeout};

use crate::actors::{Answer, Origin, Sidecar, agent, agent::request, origin};

/// A body that ends when the sender is dropped.
fn channel() -> (mpsc::Sender<Bytes>, impl futures_util::Stream<Item = Frame<Bytes>> + Send + 'static) {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|data| (Frame::data(data), receiver))
    });
    (sender, stream)
}

fn streaming_origin() -> (mpsc::UnboundedReceiver<mpsc::Sender<Bytes>>, origin::Setup) {
    let (open, opened) = mpsc::unbounded_channel();
    let setup = Origin::https("events.example.com").answering(move |_| {
        let (sender, stream) = channel();
        let _ = open.send(sender);
        async move {
            use futures_util::StreamExt;
            let mut response = Response::new(StreamBody::new(stream.map(Ok)).boxed_unsync());
            response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
            response
        }
    });
    (opened, setup)
}

#[tokio::test]
async fn an_event_passes_before_the_next_one_is_sent() {
    let (mut opened, setup) = streaming_origin();
    let origin = setup.start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    for agent in [sidecar.agent(), sidecar.agent().http2()] {
        let url = origin.url("/events").parse().expect("a URL");
        let mut connection = agent.connection(&url).await.expect("the destination is configured");
        let mut response = connection.begin(request(Method::GET, &origin.url("/events"), "")).await.expect("an answer");
        let events = opened.recv().await.expect("the origin was called");

        for number in 0..5 {
            let event = Bytes::from(format!("data: {number}\n\n"));
            events.send(event.clone()).await.expect("the origin streams");
            let frame = timeout(Duration::from_secs(5), response.frame()).await.expect("it is not held back");
            assert_eq!(frame.expect("a frame").expect("whole").into_data().expect("data"), event);
        }
        drop(events);
        let rest = timeout(Duration::from_secs(5), response.collect()).await.expect("the end is not held back");
        assert!(rest.expect("whole").to_bytes().is_empty(), "the end passes too");
        sidecar.ended().await;
    }
    assert_eq!(sidecar.audit().await[0]["outcome"], "completed");
}

#[tokio::test]
async fn an_upload_streams_while_it_is_sent() {
    let (seen, mut arrived) = mpsc::unbounded_channel();
    let origin = Origin::https("files.example.com")
        .answering(move |mut request: Request<hyper::body::Incoming>| {
            let seen = seen.clone();
            async move {
                while let Some(Ok(frame)) = request.body_mut().frame().await {
                    let _ = seen.send(frame.into_data().unwrap_or_default());
                }
                Response::new(origin::full("done"))
            }
        })
        .start()
        .await;
    let sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let url = origin.url("/upload").parse().expect("a URL");
    let mut connection = sidecar.agent().http2().connection(&url).await.expect("the destination is configured");
    let (sender, stream) = channel();
    let body: agent::Body = {
        use futures_util::StreamExt;
        StreamBody::new(stream.map(Ok)).boxed_unsync()
    };
    let call = Request::post(origin.url("/upload")).body(body).expect("a valid request");
    let answering = tokio::spawn(async move { Answer::of(connection.begin(call).await.expect("an answer")).await });

    for piece in ["one", "two", "three"] {
        sender.send(piece.into()).await.expect("the agent streams");
        let got = timeout(Duration::from_secs(5), arrived.recv()).await.expect("it is not held back");
        assert_eq!(got, Some(Bytes::from(piece)));
    }
    drop(sender);
    assert_eq!(answering.await.expect("no panic").text(), "done");
}

#[tokio::test]
async fn an_agent_that_goes_away_leaves_a_record_and_frees_the_origin() {
    let (mut opened, setup) = streaming_origin();
    let origin = setup.start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let url = origin.url("/events").parse().expect("a URL");
    let mut connection = sidecar.agent().connection(&url).await.expect("the destination is configured");
    let response = connection.begin(request(Method::GET, &origin.url("/events"), "")).await.expect("an answer");
    let events = opened.recv().await.expect("the origin was called");

    drop(response);
    drop(connection);

    timeout(Duration::from_secs(10), events.closed()).await.expect("the origin is told");
    sidecar.ended().await;
    let record = &sidecar.audit().await[0];
    assert_eq!(record["outcome"], "abandoned");
    assert_eq!(record["decision"]["verdict"], "allow");
}

#[tokio::test]
async fn nothing_of_an_upload_passes_after_its_answer_has_ended() {
    for http1_only in [true, false] {
        let (seen, mut arrived) = mpsc::unbounded_channel();
        let setup = Origin::https("files.example.com").answering(move |request: Request<hyper::body::Incoming>| {
            let seen = seen.clone();
            async move {
                let mut body = request.into_body();
                let _ = seen.send(next(&mut body).await);
                tokio::spawn(async move {
                    // The answer is out, and this origin goes on listening.
                    while let Some(piece) = next(&mut body).await {
                        let _ = seen.send(Some(piece));
                    }
                    let _ = seen.send(None);
                });
                Response::new(origin::full("enough"))
            }
        });
        let origin = if http1_only { setup.http1_only() } else { setup }.start().await;
        let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
        for agent in [sidecar.agent(), sidecar.agent().http2()] {
            let url = origin.url("/upload").parse().expect("a URL");
            let mut connection = agent.connection(&url).await.expect("the destination is configured");
            let (sender, stream) = channel();
            let body: agent::Body = {
                use futures_util::StreamExt;
                StreamBody::new(stream.map(Ok)).boxed_unsync()
            };
            let call = Request::post(origin.url("/upload")).body(body).expect("a valid request");
            sender.send("one".into()).await.expect("the agent streams");

            let answer = Answer::of(connection.begin(call).await.expect("an answer")).await;
            sidecar.ended().await;
            let _ = sender.send("two".into()).await;

            assert_eq!(answer.text(), "enough");
            assert_eq!(arrived.recv().await, Some(Some("one".into())));
            let rest = timeout(Duration::from_secs(5), arrived.recv()).await.expect("the origin is told at once");
            assert_eq!(rest, Some(None), "the upload is cut");
        }
        for record in sidecar.audit().await {
            assert_eq!((&record["outcome"], &record["bytes"]["request"]), (&"completed".into(), &3.into()));
        }
    }
}

/// The next piece; `None` when the body was cut or has ended.
async fn next(body: &mut hyper::body::Incoming) -> Option<Bytes> {
    body.frame().await?.ok()?.into_data().ok()
}

#[tokio::test]
async fn a_body_that_the_agent_breaks_is_not_blamed_on_the_origin() {
    let origin = Origin::http("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let authority = format!("api.example.com:{}", origin.addr.port());
    let head = format!("POST http://{authority}/ HTTP/1.1\r\nhost: {authority}\r\ntransfer-encoding: chunked\r\n\r\n");

    let answer = sidecar.agent().raw(format!("{head}5\r\nhello\r\nZZ\r\n").as_bytes()).await;

    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("body_incomplete"), "{answer}");
    assert!(origin.requests().iter().all(|seen| seen.body.is_empty()), "it got no whole request");
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["POST api.example.com body_incomplete"]);
}

#[tokio::test]
async fn the_agent_is_asked_to_continue_only_after_policy_permits() {
    let origin = Origin::http("api.example.com").start().await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: api.example.com:{}\r\nexpect: 100-continue\r\ncontent-length: 2\r\nconnection: close\r\n\r\n",
        origin.url("/"),
        origin.addr.port()
    );

    let strict = Sidecar::permissive().in_front_of(&origin).allowing(serde_json::json!([])).start().await;
    let denied = strict.agent().raw(head.as_bytes()).await;
    assert!(denied.starts_with("HTTP/1.1 403"), "{denied}");

    let permissive = Sidecar::permissive().in_front_of(&origin).start().await;
    let permitted = permissive.agent().raw(format!("{head}ok").as_bytes()).await;
    assert!(permitted.contains("HTTP/1.1 200") && permitted.ends_with("POST / ok"), "{permitted}");
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_connection_outlives_a_refused_request_whose_body_comes_late() {
    let origin = Origin::http("api.example.com").start().await;
    let sidecar = Sidecar::permissive()
        .in_front_of(&origin)
        .allowing(serde_json::json!([{"id": "reads", "destination": "api", "methods": ["GET"]}]))
        .start()
        .await;
    let url = origin.url("/").parse().expect("a URL");
    let mut connection = sidecar.agent().connection(&url).await.expect("the proxy listens");
    let (sender, stream) = channel();
    let body: agent::Body = {
        use futures_util::StreamExt;
        StreamBody::new(stream.map(Ok)).boxed_unsync()
    };

    let refused = connection.begin(Request::post(origin.url("/")).body(body).expect("a valid request")).await;
    let refused = refused.expect("it is answered before its body has come");
    sender.send("late".into()).await.expect("the body is taken");
    drop(sender);
    assert_eq!(Answer::of(refused).await.to_string(), "403 not_listed");

    assert_eq!(connection.get(&origin.url("/next")).await.to_string(), "200");
}

#[tokio::test]
async fn large_bodies_pass_whole_in_both_directions() {
    let origin = Origin::https("files.example.com")
        .answering(|request: Request<hyper::body::Incoming>| async move { Response::new(echo(request.into_body())) })
        .start()
        .await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let payload = vec![7_u8; 8 * 1024 * 1024];
    for agent in [sidecar.agent(), sidecar.agent().http2()] {
        let call = Request::post(origin.url("/echo")).body(agent::full(payload.clone())).expect("a valid request");
        let answer = agent.send(call).await;
        assert_eq!(answer.body.len(), payload.len());
        sidecar.ended().await;
    }
    let record = &sidecar.audit().await[0];
    assert_eq!(record["bytes"]["request"], payload.len());
    assert_eq!(record["bytes"]["response"], payload.len());
}

fn echo(body: hyper::body::Incoming) -> origin::Body {
    let frames = futures_util::stream::unfold(body, |mut body| async move {
        let frame = body.frame().await?.ok()?;
        Some((Ok(frame), body))
    });
    StreamBody::new(frames).boxed_unsync()
}
