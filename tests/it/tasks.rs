//! Tasks: opened by the orchestrator, presented by the agent's calls, ended at once and with everything that they caused.

use std::{
    fs::Permissions,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::{sleep, timeout},
};
use tollgate::admin::{
    api::{OpenedTask, State, Task},
    client::{self, Failure},
};

use crate::{
    actors::{
        Agent, Issuer, Origin, Sidecar,
        agent::{self, request},
        issuer::Behaviour,
        sidecar::Setup,
    },
    canary::Logs,
    secrets::with_issuer,
};

/// A sidecar with an admin socket.
trait Administered {
    fn administered(self) -> Self;
}

impl Administered for Setup {
    fn administered(self) -> Self {
        self.set(json!({"listen": {"admin": "admin.sock"}}))
    }
}

fn socket(sidecar: &Sidecar) -> PathBuf {
    sidecar.dir.path().join("admin.sock")
}

async fn ask<T: serde::de::DeserializeOwned>(sidecar: &Sidecar, method: &str, path: &str, body: Value) -> T {
    client::ask(&socket(sidecar), method, path, Some(&body)).await.expect("it is done")
}

async fn refused(sidecar: &Sidecar, method: &str, path: &str, body: Value) -> u16 {
    match client::ask::<Value>(&socket(sidecar), method, path, Some(&body)).await {
        Err(Failure::Refused(problem)) => problem.status,
        other => panic!("{method} {path}: {other:?}"),
    }
}

async fn open(sidecar: &Sidecar, task: Value) -> OpenedTask {
    ask(sidecar, "POST", "/v1/tasks", task).await
}

fn presenting(handle: &str, url: &str) -> Request<agent::Body> {
    let mut call = request(Method::GET, url, "");
    call.headers_mut().insert("tollgate-task", HeaderValue::try_from(handle).expect("a value"));
    call
}

async fn call(agent: &Agent, handle: &str, url: &str) -> String {
    agent.send(presenting(handle, url)).await.to_string()
}

/// Waits for what happens in the background.
async fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Says what the task is for in the name of its rule; what is for reading may not write.
const BY_PURPOSE: &str = r#"
package tollgate

default decision := {"decision": "deny", "reason": "no_purpose"}

decision := {"decision": "allow", "rule": input.task.purpose} if input.task.purpose != "forbidden"
"#;

#[tokio::test]
async fn calls_of_two_tasks_differ_in_what_policy_sees_and_in_their_credentials() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").start().await;
    let setup = with_issuer(Sidecar::with_policy(BY_PURPOSE), &origin, &issuer).administered();
    let mut sidecar = setup.set(json!({"tasks": {"static": {"purpose": "fixed"}}})).start().await;
    let one = open(&sidecar, json!({"purpose": "triage", "max_effect": "read", "ceiling": "internal"})).await;
    let other = open(&sidecar, json!({"purpose": "release", "subject": "alice@example.com"})).await;
    let agent = sidecar.agent();

    for handle in [&one.handle, &other.handle, &one.handle] {
        assert_eq!(call(&agent, handle, &origin.url("/")).await, "200");
        sidecar.ended().await;
    }
    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "200");
    sidecar.ended().await;

    let requests = origin.requests();
    let tokens: Vec<_> = requests.iter().map(|seen| seen.header("authorization").expect("a token")).collect();
    assert_eq!(tokens[0], tokens[2], "one task, one token");
    assert!(tokens[0] != tokens[1] && tokens[0] != tokens[3] && tokens[1] != tokens[3]);
    let records = sidecar.audit().await;
    let told = |record: &Value| {
        format!("{} {} {}", record["task"]["source"], record["task"]["purpose"], record["decision"]["rule"])
    };
    let told: Vec<String> = records.iter().map(told).collect();
    let header = |purpose: &str| format!(r#""header" "{purpose}" "{purpose}""#);
    assert_eq!(told, [header("triage"), header("release"), header("triage"), r#""static" "fixed" "fixed""#.to_owned()]);
    assert_eq!(records[1]["task"]["id"], other.task.id);
    let hash = other.task.subject_hash.expect("a subject was named");
    assert!(hash.starts_with("ff8d9819"), "{hash}");
}

#[tokio::test]
async fn the_next_call_of_a_task_that_ended_is_refused_on_its_open_connection_and_its_token_revoked() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = with_issuer(Sidecar::permissive(), &origin, &issuer).administered().start().await;
    for (method, after, state, label) in
        [("DELETE", "", State::Ended, "403 task_ended"), ("POST", "/kill", State::Killed, "403 task_killed")]
    {
        let opened = open(&sidecar, json!({"purpose": "triage"})).await;
        let url = origin.url("/").parse().expect("a URL");
        let mut connection = sidecar.agent().connection(&url).await.expect("the destination is configured");
        assert_eq!(connection.send(presenting(&opened.handle, &origin.url("/"))).await.to_string(), "200");
        let before = origin.requests().len();

        let ended: Task = ask(&sidecar, method, &format!("/v1/tasks/{}{after}", opened.task.id), Value::Null).await;

        assert_eq!((ended.state, ended.history.calls, ended.epoch), (state, 1, 2));
        assert_eq!(connection.send(presenting(&opened.handle, &origin.url("/"))).await.to_string(), label);
        assert_eq!(origin.requests().len(), before, "the origin saw nothing of it");
        let token = issuer.issued().pop().expect("one was minted");
        soon("the token is revoked", || issuer.revoked().contains(&token)).await;
        let shown: Task = ask(&sidecar, "GET", &format!("/v1/tasks/{}", opened.task.id), Value::Null).await;
        assert_eq!(shown.state, state);
    }
}

/// An origin whose answers go on until the sender is dropped.
async fn streaming() -> (mpsc::UnboundedReceiver<mpsc::Sender<Bytes>>, Origin) {
    let (opened, streams) = mpsc::unbounded_channel();
    let origin = Origin::https("api.example.com").answering(move |_| {
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let _ = opened.send(sender);
        let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|data| (Ok(Frame::data(data)), receiver))
        });
        async move { Response::new(StreamBody::new(frames.boxed()).boxed_unsync()) }
    });
    (streams, origin.start().await)
}

#[tokio::test]
async fn an_open_stream_of_a_killed_task_is_cut_and_that_of_another_goes_on() {
    let (mut streams, origin) = streaming().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).administered().start().await;
    let kept = open(&sidecar, json!({"purpose": "kept"})).await;
    for agent in [sidecar.agent(), sidecar.agent().http2()] {
        let killed = open(&sidecar, json!({"purpose": "killed"})).await;
        let mut answers = Vec::new();
        for opened in [&killed, &kept] {
            let url = origin.url("/events").parse().expect("a URL");
            let mut connection = agent.connection(&url).await.expect("the destination is configured");
            let answer = connection.begin(presenting(&opened.handle, &origin.url("/events"))).await.expect("an answer");
            let sender = streams.recv().await.expect("the origin was called");
            answers.push((answer, sender, connection));
        }
        for (answer, sender, _) in &mut answers {
            sender.send("data: 1\n\n".into()).await.expect("the origin streams");
            assert!(answer.frame().await.expect("a frame").is_ok());
        }

        let _: Task = ask(&sidecar, "POST", &format!("/v1/tasks/{}/kill", killed.task.id), Value::Null).await;

        let (cut, sender, _) = &mut answers[0];
        let end = timeout(Duration::from_secs(2), cut.frame()).await.expect("it does not go on");
        assert!(!matches!(end, Some(Ok(_)) | None), "it is no orderly end");
        timeout(Duration::from_secs(2), sender.closed()).await.expect("the origin is left alone");
        sidecar.ended().await;
        let record = sidecar.audit().await.pop().expect("the call has a record");
        assert_eq!((&record["refusal"]["label"], &record["status"]), (&json!("task_killed"), &json!(200)));
        let (goes_on, sender, _) = &mut answers[1];
        sender.send("data: 2\n\n".into()).await.expect("the origin streams");
        assert!(goes_on.frame().await.expect("a frame").is_ok());
    }
}

#[tokio::test]
async fn a_call_that_waits_for_its_answer_is_refused_when_its_task_is_killed() {
    let (seen, mut asked) = mpsc::unbounded_channel();
    let origin = Origin::https("api.example.com")
        .answering(move |_| {
            let _ = seen.send(());
            std::future::pending()
        })
        .start()
        .await;
    let sidecar = Sidecar::permissive().in_front_of(&origin).administered().start().await;
    let opened = open(&sidecar, json!({"purpose": "slow"})).await;
    let (agent, url) = (sidecar.agent(), origin.url("/"));
    let waiting = tokio::spawn(async move { call(&agent, &opened.handle, &url).await });
    asked.recv().await.expect("the origin was called");

    let _: Value = ask(&sidecar, "POST", "/v1/kill", json!({"task": opened.task.id})).await;

    let answer = timeout(Duration::from_secs(5), waiting).await.expect("it does not wait on").expect("no panic");
    assert_eq!(answer, "403 task_killed");
}

#[tokio::test]
async fn a_tunnel_is_asked_about_again_when_its_task_changes_and_cut_when_it_is_killed() {
    let origin = Origin::http("raw.example.com").start().await;
    let opaque = json!({"protocol": "opaque", "tls": "passthrough"});
    let mut sidecar = Sidecar::with_policy(BY_PURPOSE).in_front_of_as(&origin, opaque).administered().start().await;
    for (method, after, body, label) in
        [("PATCH", "", json!({"purpose": "forbidden"}), "policy_denied"), ("POST", "/kill", Value::Null, "task_killed")]
    {
        let opened = open(&sidecar, json!({"purpose": "raw"})).await;
        let target = format!("raw.example.com:{}", origin.addr.port());
        let head = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\ntollgate-task: {}\r\n\r\n", opened.handle);
        let mut tunnel = sidecar.agent().stream().await;
        tunnel.write_all(head.as_bytes()).await.expect("it is open");
        let mut answer = [0; 15];
        tunnel.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        let task = format!("/v1/tasks/{}", opened.task.id);
        let _: Task = ask(&sidecar, "PATCH", &task, json!({"purpose": "still raw"})).await;
        tunnel.write_all(b"GET /x HTTP/1.1\r\nhost: raw.example.com\r\n\r\n").await.expect("it is open");
        let mut echoed = Vec::new();
        while !echoed.ends_with(b"GET /x ") {
            echoed.push(tunnel.read_u8().await.expect("it answers"));
        }

        let _: Task = ask(&sidecar, method, &format!("{task}{after}"), body).await;

        let mut rest = Vec::new();
        timeout(Duration::from_secs(5), tunnel.read_to_end(&mut rest)).await.expect("it is cut").expect("orderly");
        sidecar.ended().await;
        let record = sidecar.audit().await.pop().expect("the tunnel has a record");
        assert_eq!((&record["refusal"]["label"], &record["task"]["purpose"]), (&json!(label), &json!("raw")));
    }
}

#[tokio::test]
async fn a_change_of_what_a_task_may_do_is_decided_anew_with_another_token() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = with_issuer(Sidecar::with_policy(BY_PURPOSE), &origin, &issuer).administered().start().await;
    let opened = open(&sidecar, json!({"purpose": "read"})).await;
    let (agent, task) = (sidecar.agent(), format!("/v1/tasks/{}", opened.task.id));
    assert_eq!(call(&agent, &opened.handle, &origin.url("/")).await, "200");
    let first = issuer.issued().pop().expect("one was minted");

    let changed: Task = ask(&sidecar, "PATCH", &task, json!({"purpose": "write"})).await;
    assert_eq!((changed.epoch, &*changed.purpose), (2, "write"));
    assert_eq!(call(&agent, &opened.handle, &origin.url("/")).await, "200");

    let second = issuer.issued().pop().expect("another was minted");
    assert_ne!(first, second);
    soon("the first token is revoked", || issuer.revoked().contains(&first)).await;
    let _: Task = ask(&sidecar, "PATCH", &task, json!({"purpose": "forbidden"})).await;
    assert_eq!(call(&agent, &opened.handle, &origin.url("/")).await, "403 no_purpose");
}

#[tokio::test]
async fn a_static_task_ends_in_time_and_its_token_with_it() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").start().await;
    let fixed = json!({"tasks": {"static": {"purpose": "triage", "ttl": "1m"}}});
    let sidecar = with_issuer(Sidecar::permissive(), &origin, &issuer).set(fixed).start().await;
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
    let token = issuer.issued().pop().expect("one was minted");

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();

    soon("the token is revoked", || issuer.revoked().contains(&token)).await;
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "403 task_expired");
}

#[tokio::test]
async fn a_handle_is_seen_by_nobody_but_the_sidecar() {
    let logs = Logs::listen();
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).administered().start().await;
    let opened = open(&sidecar, json!({"purpose": "triage"})).await;
    let unknown = format!("{}x", opened.handle);
    let mut answers = Vec::new();
    for agent in [sidecar.agent(), sidecar.agent().http2()] {
        for (handle, path) in [(&opened.handle, "/x"), (&unknown, "/x"), (&opened.handle, "/%zz")] {
            let answer = agent.send(presenting(handle, &origin.url(path))).await;
            answers.push(format!("{:?} {}", answer.headers, answer.text()));
            sidecar.ended().await;
        }
    }
    let own = sidecar.agent().send(presenting(&opened.handle, "http://tollgate.internal/v1/task")).await;
    answers.push(own.text());
    sidecar.ended().await;
    let listed: Value = ask(&sidecar, "GET", "/v1/tasks", Value::Null).await;
    let seen: Vec<String> = origin.requests().iter().map(|seen| format!("{seen:?}")).collect();
    assert!(!seen.is_empty() && logs.text().contains("task opened"));
    let records = sidecar.audit().await.iter().map(Value::to_string).collect::<String>();
    let spans = format!("{:?}", sidecar.heard());
    let debug = format!("{:?}", sidecar.inner().tasks());
    for (sink, text) in [
        ("the origin", seen.concat()),
        ("the answers", answers.concat()),
        ("the audit log", records),
        ("the spans", spans),
        ("the metrics", sidecar.metrics()),
        ("the log", logs.text()),
        ("the list", listed.to_string()),
        ("debugging", debug),
    ] {
        assert!(!text.contains(&opened.handle[14..]), "{sink} holds the handle: {text}");
        assert!(!text.contains("tollgate-task"), "{sink} names the field: {text}");
    }
}

#[tokio::test]
async fn a_handle_presented_with_connect_holds_for_the_requests_inside() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).administered().start().await;
    let opened = open(&sidecar, json!({"purpose": "outer"})).await;
    let inner = open(&sidecar, json!({"purpose": "inner"})).await;
    let agent = sidecar.agent();
    let target = format!("api.example.com:{}", origin.addr.port());
    let connect =
        |handle: &str| format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\ntollgate-task: {handle}\r\n\r\n");
    let mut stream = agent.stream().await;
    stream.write_all(connect(&opened.handle).as_bytes()).await.expect("it is open");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    let tls = agent.tls(stream, "api.example.com").await.expect("it is opened");
    let mut connection = agent::Connection::http1(tls, true).await;
    assert_eq!(connection.get(&origin.url("/")).await.to_string(), "200");
    assert_eq!(connection.send(presenting(&inner.handle, &origin.url("/"))).await.to_string(), "200");
    sidecar.ended().await;
    sidecar.ended().await;
    let records = sidecar.audit().await;
    let purposes: Vec<&Value> = records.iter().map(|record| &record["task"]["purpose"]).collect();
    assert_eq!(purposes, ["outer", "inner"]);

    let unknown = format!("{}connection: close\r\n\r\n", connect("unknown").strip_suffix("\r\n").expect("it ends so"));
    let refused = agent.raw(unknown.as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("task_unknown"), "{refused}");
}

#[tokio::test]
async fn an_agent_sees_and_ends_its_own_task_and_nothing_else() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).administered().start().await;
    let agent = sidecar.agent();
    let own = |path: &str| format!("http://tollgate.internal{path}");
    assert_eq!(agent.get(&own("/v1/task")).await.status, 404, "it has none");
    let opened = open(&sidecar, json!({"purpose": "triage", "ttl": "10m"})).await;
    let other = open(&sidecar, json!({"purpose": "other"})).await;

    let shown = agent.send(presenting(&opened.handle, &own("/v1/task"))).await;
    assert_eq!((&shown.json()["id"], &shown.json()["state"]), (&json!(opened.task.id), &json!("open")));
    assert!(shown.headers.contains_key("tollgate-decision"));
    for (method, path, status) in [
        (Method::GET, format!("/v1/tasks/{}", other.task.id), 404),
        (Method::POST, "/v1/tasks".to_owned(), 404),
        (Method::POST, "/v1/kill".to_owned(), 404),
        (Method::POST, "/v1/task".to_owned(), 405),
        (Method::PATCH, "/v1/task".to_owned(), 405),
        (Method::GET, "/v1/task/end".to_owned(), 405),
    ] {
        let mut asked = request(method, &own(&path), "");
        asked.headers_mut().insert("tollgate-task", HeaderValue::try_from(&opened.handle).expect("a value"));
        assert_eq!(agent.send(asked).await.status, status, "{path}");
    }
    assert_eq!(call(&agent, "unknown", &own("/v1/task")).await, "403 task_unknown");

    let mut end = request(Method::POST, &own("/v1/task/end"), "");
    end.headers_mut().insert("tollgate-task", HeaderValue::try_from(&opened.handle).expect("a value"));
    assert_eq!(agent.send(end).await.json()["state"], "ended");
    assert_eq!(call(&agent, &opened.handle, &origin.url("/")).await, "403 task_ended");
    assert_eq!(call(&agent, &other.handle, &origin.url("/")).await, "200");

    // Only through the proxy, and only there.
    let elsewhere = agent.connect("tollgate.internal:443").await.expect_err("there is no such destination");
    assert_eq!(elsewhere.to_string(), "403 unknown_destination");
    for _ in 0..12 {
        sidecar.ended().await;
    }
    let records = sidecar.records().await;
    assert_eq!(records[0], "GET tollgate.internal -");
}

#[tokio::test]
async fn what_is_switched_off_stays_so_for_every_task() {
    let (mut streams, origin) = streaming().await;
    let other = Origin::https("tools.example.com").start().await;
    let setup = Sidecar::permissive().in_front_of(&origin).in_front_of(&other).administered();
    let sidecar = setup.set(json!({"tasks": {"static": {"purpose": "fixed"}}})).start().await;
    let agent = sidecar.agent();
    let url = origin.url("/events").parse().expect("a URL");
    let mut connection = agent.connection(&url).await.expect("the destination is configured");
    let mut stream = connection.begin(request(Method::GET, &origin.url("/events"), "")).await.expect("an answer");
    let _open = streams.recv().await.expect("the origin was called");

    let killed: Value = ask(&sidecar, "POST", "/v1/kill", json!({"destination": "api"})).await;

    assert_eq!(killed, json!({"agent": false, "destinations": ["api"]}));
    let end = timeout(Duration::from_secs(2), stream.frame()).await.expect("it does not go on");
    assert!(!matches!(end, Some(Ok(_)) | None));
    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "403 destination_killed");
    assert_eq!(agent.get(&other.url("/")).await.to_string(), "200");
    assert_eq!(refused(&sidecar, "POST", "/v1/kill", json!({"destination": "nowhere"})).await, 404);
    assert_eq!(refused(&sidecar, "POST", "/v1/kill", json!({"agent": "another"})).await, 404);

    let _: Value = ask(&sidecar, "POST", "/v1/kill", json!({"agent": "tester"})).await;
    assert_eq!(agent.get(&other.url("/")).await.to_string(), "403 agent_killed");
    let status: Value = ask(&sidecar, "GET", "/v1/status", Value::Null).await;
    assert_eq!((&status["killed"]["agent"], &status["tasks"]), (&json!(true), &json!(0)));
}

#[tokio::test]
async fn policy_sees_what_the_task_did_and_the_span_whether_it_was_foreseen() {
    let policy = r#"
package tollgate

decision := {"decision": "deny", "reason": "enough"} if input.task.history.calls >= 2
else := {"decision": "allow"}
"#;
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::with_policy(policy).in_front_of(&origin).administered().start().await;
    let manifest = json!([{"destination": "api", "max_effect": "read"}]);
    let opened = open(&sidecar, json!({"purpose": "triage", "manifest": manifest})).await;
    let agent = sidecar.agent();
    let mut flows = Vec::new();
    for (method, expected) in [(Method::GET, "200"), (Method::POST, "200"), (Method::GET, "403 enough")] {
        let mut call = presenting(&opened.handle, &origin.url("/"));
        *call.method_mut() = method;
        assert_eq!(agent.send(call).await.to_string(), expected);
        let span = sidecar.next_spans().await.pop().expect("the call's own span");
        flows.push(span.attribute("tollgate.flow").map(str::to_owned));
    }
    assert_eq!(flows, [Some("in_manifest".to_owned()), Some("drift".to_owned()), Some("in_manifest".to_owned())]);
    let shown: Task = ask(&sidecar, "GET", &format!("/v1/tasks/{}", opened.task.id), Value::Null).await;
    assert_eq!((shown.history.calls, shown.history.denied, shown.history.hosts), (3, 1, 1));
}

#[tokio::test]
async fn the_admin_api_says_what_is_wrong_with_what_it_is_asked() {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::permissive().in_front_of(&origin).administered().start().await;
    for (method, path, body, status) in [
        ("GET", "/v1/tasks/0199", Value::Null, 404),
        ("DELETE", "/v1/tasks/0199", Value::Null, 404),
        ("GET", "/v1/nothing", Value::Null, 404),
        ("PUT", "/v1/tasks", Value::Null, 405),
        ("POST", "/v1/tasks", json!({"purpose": "x", "owner": "y"}), 400),
        ("POST", "/v1/tasks", json!({"purpose": ""}), 422),
        ("POST", "/v1/tasks", json!({"purpose": "x", "ttl": "25h"}), 422),
        ("POST", "/v1/tasks", json!({"purpose": "x".repeat(70_000)}), 413),
        ("POST", "/v1/kill", json!({"all": false}), 422),
    ] {
        assert_eq!(refused(&sidecar, method, path, body).await, status, "{method} {path}");
    }
    let document: Value = ask(&sidecar, "GET", "/v1/openapi.json", Value::Null).await;
    assert_eq!(document["openapi"], "3.1.0");
    let policy: Value = ask(&sidecar, "GET", "/v1/policy", Value::Null).await;
    assert_eq!(policy["revision"], **sidecar.inner().generation().policy.revision());
    assert!(policy.get("failure").is_none());

    std::fs::write(sidecar.dir.path().join("policy/data.json"), "{").expect("it can be written");
    let failed = async {
        loop {
            let status: Value = ask(&sidecar, "GET", "/v1/status", Value::Null).await;
            match status["policy"]["failure"]["error"].as_str() {
                Some(error) => return error.to_owned(),
                None => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let error = timeout(Duration::from_secs(20), failed).await.expect("the change is noticed");
    assert!(error.contains("data.json"), "{error}");
}

/// Runs the command line against this socket. Returns its exit code, output and complaints.
async fn tollgate(socket: &Path, arguments: &[&str], user: Option<u32>) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments).env("TOLLGATE_ADMIN", socket).stdin(Stdio::null());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_opens_lists_shows_ends_and_kills() {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::permissive().in_front_of(&origin).administered().start().await;
    let socket = socket(&sidecar);
    let run = async |arguments: &[&str]| tollgate(&socket, arguments, None).await;

    let (code, opened, _) = run(&[
        "task",
        "open",
        "--purpose",
        "triage",
        "--max-effect",
        "read",
        "--ttl",
        "10m",
        "--destination",
        "api:read",
        "--output",
        "json",
    ])
    .await;
    assert_eq!(code, Some(0));
    let opened: OpenedTask = serde_json::from_str(&opened).expect("JSON");
    assert_eq!(call(&sidecar.agent(), &opened.handle, &origin.url("/")).await, "200");
    let id = &*opened.task.id;
    let (_, listed, _) = run(&["task", "list"]).await;
    assert!(listed.lines().nth(1).is_some_and(|line| line.starts_with(id) && line.ends_with("triage")), "{listed}");
    let (_, shown, _) = run(&["task", "show", id]).await;
    assert!(shown.contains("manifest:   api:read\n") && shown.contains("1 calls"), "{shown}");
    assert_eq!(run(&["task", "end", id]).await, (Some(0), format!("ended {id}\n"), String::new()));
    assert_eq!(call(&sidecar.agent(), &opened.handle, &origin.url("/")).await, "403 task_ended");
    let (_, said, _) = run(&["task", "open", "--purpose", "second"]).await;
    let second = said.lines().next().and_then(|line| line.strip_prefix("task:    ")).expect("it is named").to_owned();
    assert_eq!(run(&["task", "kill", &second]).await, (Some(0), format!("killed {second}\n"), String::new()));

    for (arguments, expected) in [
        (&["task", "show", "0199"][..], 1),
        (&["task", "end", "no/path"], 1),
        (&["task", "open"], 64),
        (&["task", "open", "--purpose", "x", "--max-effect", "look"], 64),
        (&["task", "open", "--purpose", " "], 65),
        (&["task", "open", "--purpose", "x", "--ttl", "2d"], 65),
        (&["task", "list", "--admin", "/nonexistent/admin.sock"], 69),
    ] {
        let (code, printed, complaints) = run(arguments).await;
        assert_eq!((code, &*printed), (Some(expected), ""), "{arguments:?}: {complaints}");
        assert!(complaints.starts_with("error: "), "{complaints}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_gets_nothing_from_the_socket() {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "needs root");
    if !root {
        println!("skipped: needs root");
        return;
    }
    const NOBODY: u32 = 65534;
    let dir = tempfile::tempdir().expect("a directory");
    let sidecar = Sidecar::permissive().set(json!({"listen": {"admin": dir.path().join("run/admin.sock")}}));
    let _sidecar = sidecar.start().await;
    let socket = dir.path().join("run/admin.sock");
    let program = dir.path().join("tollgate");
    std::fs::copy(env!("CARGO_BIN_EXE_tollgate"), &program).expect("it can be copied");
    let open = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
    open(dir.path(), 0o755);
    let ask = async || {
        let mut command = Command::new(&program);
        command.args(["task", "list"]).env("TOLLGATE_ADMIN", &socket).stdin(Stdio::null()).uid(NOBODY).gid(NOBODY);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };

    let (code, complaints) = ask().await;
    assert_eq!(code, Some(77), "the file's mode: {complaints}");
    open(&dir.path().join("run"), 0o755);
    assert_eq!(ask().await.0, Some(77), "the socket's mode");
    open(&socket, 0o666);
    let (code, complaints) = ask().await;
    assert_eq!(code, Some(77), "the kernel's word: {complaints}");
    assert!(complaints.contains("only root and the sidecar's own user"), "{complaints}");
    assert_eq!(tollgate(&socket, &["task", "list"], None).await.0, Some(0), "root is served");
}
