//! Rows about the sidecar itself: full, stopping, or without a place for its records.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{Row, Told, run};
use crate::actors::{
    Origin, Sidecar,
    agent::{rest, shown},
    origin,
};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::new("a connection too many", "too_many_connections", "503 too_many_connections", one_too_many()),
        Row::new("it stops", "stopping", "503 stopping", asked_while_stopping()),
        Row::new("no place for records", "audit_unavailable", "503 audit_unavailable", without_a_place_for_records()),
    ]
}

async fn one_too_many() -> Told {
    let origin = Origin::https("api.example.com").start().await;
    let setup = Sidecar::permissive().in_front_of(&origin).set(json!({"limits": {"connections": 1}}));
    let mut sidecar = setup.start().await;
    let agent = sidecar.agent();
    let url = origin.url("/").parse().expect("a URL");
    let mut first = agent.connection(&url).await.expect("there is room for one");
    assert_eq!(first.get(&origin.url("/")).await.to_string(), "200");
    sidecar.ended().await;

    let second = agent.raw(b"GET http://api.example.com/ HTTP/1.1\r\nhost: api.example.com\r\n\r\n").await;

    sidecar.ended().await;
    assert_eq!(origin.requests().len(), 1);
    Told { answer: shown(&second), record: last(&sidecar).await }
}

/// An origin that holds its answers back until it is given permits, and says when it was asked.
fn holding(name: &str) -> (origin::Setup, mpsc::UnboundedReceiver<()>, Arc<Semaphore>) {
    let (asked, hears) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&gate);
    let setup = Origin::http(name).answering(move |_: Request<Incoming>| {
        let (asked, permits) = (asked.clone(), Arc::clone(&permits));
        async move {
            let _ = asked.send(());
            permits.acquire().await.expect("it is never closed").forget();
            Response::new(origin::full("at last"))
        }
    });
    (setup, hears, gate)
}

/// Waits until nobody listens there any more.
async fn deaf(sidecar: &Sidecar) {
    let deaf = async { while TcpStream::connect(sidecar.proxy).await.is_ok() {} };
    timeout(Duration::from_secs(10), deaf).await.expect("it stops to listen");
}

/// One call is under way and the head of another has half arrived when the signal comes.
async fn asked_while_stopping() -> Told {
    let (setup, mut asked, gate) = holding("api.example.com");
    let origin = setup.start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let (agent, url) = (sidecar.agent(), origin.url("/"));
    let target = format!("api.example.com:{}", origin.addr.port());
    let under_way = tokio::spawn(async move { agent.get(&url).await });
    asked.recv().await.expect("the origin was asked");
    let mut late = sidecar.agent().connect(&target).await.expect("the destination is configured");
    late.write_all(b"GET / HTTP/1.1\r\n").await.expect("it is open");
    // By the time that a whole call has been answered, the half that came before it has been read.
    assert_eq!(sidecar.agent().get("http://paste.example.net/").await.to_string(), "403 unknown_destination");
    sidecar.ended().await;

    sidecar.begin_to_stop();
    deaf(&sidecar).await;
    late.write_all(format!("host: {target}\r\n\r\n").as_bytes()).await.expect("it is open");
    let answer = shown(&rest(&mut late).await);

    sidecar.ended().await;
    let record = last(&sidecar).await;
    gate.add_permits(1);
    assert_eq!(under_way.await.expect("no panic").text(), "at last", "what had begun is finished");
    assert_eq!(origin.requests().len(), 1);
    sidecar.stopped().await;
    Told { answer, record }
}

/// The directory of the audit file is moved away, and later back.
async fn without_a_place_for_records() -> Told {
    let origin = Origin::https("api.example.com").start().await;
    let setup = Sidecar::permissive().in_front_of(&origin).set(json!({"audit": {"file": "log/audit.jsonl"}}));
    let (log, away) = (setup.path().join("log"), setup.path().join("away"));
    fs::create_dir(&log).expect("a directory");
    let sidecar = setup.start().await;
    let agent = sidecar.agent();
    let url = origin.url("/");
    assert_eq!(agent.get(&url).await.to_string(), "200");

    fs::rename(&log, &away).expect("it can be moved");
    let refused = async {
        loop {
            let answer = agent.get(&url).await.to_string();
            if answer != "200" {
                return answer;
            }
        }
    };
    let answer = timeout(Duration::from_secs(20), refused).await.expect("it is noticed");
    let reached = origin.requests().len();
    assert_eq!(agent.get(&url).await.to_string(), answer, "it stays so");
    assert_eq!(origin.requests().len(), reached, "the origin sees nothing");

    fs::rename(&away, &log).expect("it can be moved back");
    let again = async { while agent.get(&url).await.to_string() != "200" {} };
    timeout(Duration::from_secs(20), again).await.expect("it recovers");
    let records = sidecar.audit().await;
    let forwarded = records.iter().filter(|record| record["status"] == 200).count();
    assert_eq!(forwarded, origin.requests().len(), "each call that the origin saw has its record");
    let refused = records.into_iter().find(|record| record["outcome"] == "refused");
    Told { answer, record: refused.expect("the refusals were recorded when that was possible again") }
}

async fn last(sidecar: &Sidecar) -> Value {
    sidecar.audit().await.pop().expect("a record")
}

#[tokio::test]
async fn a_sidecar_that_cannot_do_its_work_refuses() {
    run(rows()).await;
}

#[tokio::test]
async fn a_full_disk_refuses_calls_from_the_first_failed_write_on() {
    let origin = Origin::https("api.example.com").start().await;
    let setup = Sidecar::permissive().in_front_of(&origin).set(json!({"audit": {"file": "/dev/full"}}));
    let sidecar = setup.start().await;
    let agent = sidecar.agent();
    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "200", "nothing was written yet");

    let refused = async { while agent.get(&origin.url("/")).await.to_string() != "503 audit_unavailable" {} };
    timeout(Duration::from_secs(20), refused).await.expect("it is noticed");

    let metrics = sidecar.metrics();
    assert!(metrics.contains(r#"tollgate_refusals_total{label="audit_unavailable"} 1"#), "{metrics}");
    assert!(!metrics.contains("tollgate_audit_failures_total 0"), "{metrics}");
}

#[tokio::test]
async fn an_audit_file_that_cannot_be_opened_keeps_the_sidecar_from_starting() {
    let error =
        Sidecar::permissive().set(json!({"audit": {"file": "no-such-directory/audit.jsonl"}})).try_start().await;
    assert!(error.is_err_and(|error| format!("{error:#}").contains("audit")));
}

/// The origin looks for the decision on disk while the call is with it.
#[tokio::test]
async fn durable_records_are_on_disk_before_the_call_is_forwarded() {
    let setup = Sidecar::permissive().set(json!({"audit": {"durable": "before_forward"}}));
    let intents = setup.path().join("audit.jsonl.intents");
    let looked_at = intents.clone();
    let origin = Origin::https("api.example.com")
        .answering(move |_: Request<Incoming>| {
            let text = fs::read_to_string(&looked_at).unwrap_or_default();
            let last = text.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
            async move { Response::new(origin::full(last.unwrap_or_default().to_string())) }
        })
        .start()
        .await;
    let mut sidecar = setup.in_front_of(&origin).start().await;

    let answer = sidecar.agent().get(&origin.url("/durable")).await;

    let intent = answer.json();
    assert_eq!(intent["decision_id"], answer.headers["tollgate-decision"].to_str().expect("text"), "{intent}");
    assert_eq!((&intent["call"]["path"], &intent["decision"]["verdict"]), (&json!("/durable"), &json!("allow")));
    let mode = fs::metadata(intents).expect("intents are kept beside the file").permissions().mode();
    assert_eq!(mode & 0o077, 0, "nobody else reads them");
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["GET api.example.com allow"]);
}

#[tokio::test]
async fn a_stopping_sidecar_finishes_what_has_begun_and_takes_nothing_new() {
    let (setup, mut asked, gate) = holding("api.example.com");
    let origin = setup.start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let (agent, url) = (sidecar.agent(), origin.url("/"));
    let under_way = tokio::spawn(async move { agent.get(&url).await });
    asked.recv().await.expect("the origin was asked");

    sidecar.begin_to_stop();
    deaf(&sidecar).await;
    assert!(!under_way.is_finished(), "the call is still with the origin");
    gate.add_permits(1);

    let answer = under_way.await.expect("no panic");
    assert_eq!((answer.to_string(), answer.text()), ("200".to_owned(), "at last".to_owned()));
    let dir = sidecar.stopped().await;
    let log = fs::read_to_string(dir.path().join("audit.jsonl")).expect("there is a file");
    let records: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["outcome"], "completed");
}
