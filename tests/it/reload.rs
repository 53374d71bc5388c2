//! What its files say while it runs: taken over whole, or not at all.

use std::{fs, process::Command};

use http::{Method, Response};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Duration, advance, pause, resume, timeout},
};

use crate::{
    actors::{Issuer, Origin, Sidecar, agent::request, issuer::Behaviour, origin::full},
    policy::NO_WRITES,
    secrets::with_issuer,
};

const DENY: &str =
    "package tollgate\n\ndecision := {\"decision\": \"deny\", \"reason\": \"closed\", \"class\": \"security\"}\n";

/// What the sidecar swaps in.
struct Changes(watch::Receiver<u64>);

impl Changes {
    fn of(sidecar: &Sidecar) -> Self {
        Self(sidecar.inner().changes())
    }

    /// Waits for the next, for less long than the files are polled.
    async fn next(&mut self) -> u64 {
        timeout(SOON, self.0.changed()).await.expect("it is noticed").expect("the sidecar runs");
        *self.0.borrow_and_update()
    }
}

/// Writes a file at one stroke.
fn write(sidecar: &Sidecar, name: &str, text: &str) {
    let (file, next) = (sidecar.dir.path().join(name), sidecar.dir.path().join("next"));
    fs::create_dir_all(file.parent().expect("it stands in the directory")).expect("a directory");
    fs::write(&next, text).expect("it can be written");
    fs::rename(next, file).expect("both stand on one disk");
}

/// Waits until something is so.
async fn until(what: &str, so: impl Fn() -> bool) {
    let found = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, found).await.unwrap_or_else(|_| panic!("{what}"));
}

async fn failures(sidecar: &Sidecar, count: u32) {
    let line = format!("tollgate_config_reload_failures_total {count}\n");
    until(&line, || sidecar.metrics().contains(&line)).await;
}

#[tokio::test]
async fn a_reload_decides_on_connections_already_open() {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let url = origin.url("/").parse().expect("a URL");
    let mut connection = sidecar.agent().connection(&url).await.expect("the destination is configured");
    assert_eq!(connection.get(&origin.url("/before")).await.to_string(), "200");

    let mut changes = Changes::of(&sidecar);
    write(&sidecar, "policy/data.json", r#"{"tollgate": {"allow": []}}"#);
    changes.next().await;

    assert_eq!(connection.get(&origin.url("/after")).await.to_string(), "403 not_listed");
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_policy_that_cannot_be_used_leaves_the_running_one_in_place() {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::with_policy(NO_WRITES).in_front_of(&origin).start().await;
    let generation = sidecar.inner().generation().number;

    write(&sidecar, "policy/policy.rego", "package tollgate\ndecision := {");
    failures(&sidecar, 1).await;

    assert_eq!(sidecar.inner().generation().number, generation);
    let denied = sidecar.agent().send(request(Method::POST, &origin.url("/"), "")).await;
    assert_eq!(denied.to_string(), "403 no_writes");
}

#[tokio::test]
async fn what_a_reload_named_is_watched_from_then_on() {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::with_policy(NO_WRITES).in_front_of(&origin).start().await;
    let mut changes = Changes::of(&sidecar);

    write(&sidecar, "other/policy.rego", &NO_WRITES.replace("no_writes", "other_writes"));
    sidecar.reconfigure(json!({"policy": {"paths": ["other"]}}));
    changes.next().await;
    assert_eq!(sidecar.agent().post(&origin.url("/"), "").await.to_string(), "403 other_writes");
    write(&sidecar, "other/policy.rego", DENY);
    changes.next().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "403 closed");
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn what_could_not_be_used_is_tried_again() {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::with_policy(NO_WRITES).in_front_of(&origin).start().await;
    let mut changes = Changes::of(&sidecar);
    sidecar.reconfigure(json!({"policy": {"paths": ["missing"]}}));
    failures(&sidecar, 1).await;

    // Nothing that is watched changes, nor what was loaded.
    write(&sidecar, "missing/policy.rego", DENY);
    pause();
    advance(POLL).await;
    resume();
    changes.next().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "403 closed");
}

#[tokio::test]
async fn sighup_reloads_what_did_not_change_and_opens_the_audit_file_anew() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let mut changes = Changes::of(&sidecar);
    // Once it has followed a change it surely listens to signals.
    write(&sidecar, "policy/data.json", r#"{"tollgate": {"allow": []}}"#);
    let before = changes.next().await;
    let file = sidecar.dir.path().join("audit.jsonl");
    fs::rename(&file, file.with_extension("old")).expect("it is there");

    kill_process(getpid(), Signal::HUP).expect("it is our own process");

    assert_eq!(changes.next().await, before + 1);
    sidecar.agent().get(&origin.url("/")).await;
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["GET api.example.com policy_denied"]);
}

#[tokio::test]
async fn the_mode_is_taken_over() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::with_policy(NO_WRITES).in_front_of(&origin).set(json!({"mode": "shadow"})).start().await;
    assert_eq!(sidecar.agent().post(&origin.url("/"), "").await.to_string(), "200");
    sidecar.ended().await;

    let mut changes = Changes::of(&sidecar);
    sidecar.reconfigure(json!({"mode": "enforce"}));
    changes.next().await;

    assert_eq!(sidecar.agent().post(&origin.url("/"), "").await.to_string(), "403 no_writes");
    assert_eq!(sidecar.agent().get("http://elsewhere.example.com/").await.to_string(), "403 unknown_destination");
    assert_eq!(origin.requests().len(), 1);
    sidecar.ended().await;
    sidecar.ended().await;
    let modes: Vec<_> = sidecar.audit().await.into_iter().map(|mut record| record["mode"].take()).collect();
    assert_eq!(modes, ["shadow", "enforce", "enforce"]);
}

#[tokio::test]
async fn what_only_a_restart_changes_is_refused_with_all_that_came_with_it() {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::with_policy(NO_WRITES).in_front_of(&origin).start().await;

    sidecar.reconfigure(json!({"mode": "shadow", "limits": {"json_depth": 7}}));
    failures(&sidecar, 1).await;
    assert_eq!(sidecar.inner().generation().number, 1);
    assert_eq!(sidecar.agent().post(&origin.url("/"), "").await.to_string(), "403 no_writes");

    let mut changes = Changes::of(&sidecar);
    sidecar.reconfigure(json!({"limits": {"json_depth": 64}}));
    changes.next().await;
    assert_eq!(sidecar.agent().post(&origin.url("/"), "").await.to_string(), "200");
}

#[tokio::test]
async fn a_token_is_never_sent_where_its_destination_leads_after_a_reload() {
    let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
    let origin = Origin::https("api.example.com").start().await;
    let moved = Origin::https("moved.example.com").start().await;
    let sidecar = with_issuer(Sidecar::permissive().in_front_of(&moved), &origin, &issuer).start().await;
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");

    let mut changes = Changes::of(&sidecar);
    sidecar.reconfigure(json!({"destinations": {
        "api": {"hosts": ["moved.example.com"], "ports": [moved.addr.port()]},
        "moved": {"hosts": ["unused.example.com"]},
    }}));
    changes.next().await;

    assert_eq!(sidecar.agent().get(&moved.url("/")).await.to_string(), "200");
    let issued = issuer.issued();
    assert_eq!(issued.len(), 2);
    assert_eq!(moved.requests()[0].header("authorization"), Some(&*format!("Bearer {}", issued[1])));
    until("the old token is revoked", || issuer.revoked() == issued[..1]).await;
}

#[tokio::test]
async fn it_says_that_it_stops_while_it_finishes_what_has_begun() {
    let (finish, finished) = watch::channel(false);
    let slow = move |_| {
        let mut finished = finished.clone();
        async move {
            let _ = finished.wait_for(|finished| *finished).await;
            Response::new(full("done"))
        }
    };
    let origin = Origin::https("api.example.com").answering(slow).start().await;
    let setup = Sidecar::permissive().in_front_of(&origin);
    let sidecar = setup.set(json!({"listen": {"health": "127.0.0.1:0"}})).start().await;
    let health = sidecar.health.expect("it was configured");
    let (agent, url) = (sidecar.agent(), origin.url("/"));
    let call = tokio::spawn(async move { agent.get(&url).await.to_string() });
    until("the call is under way", || !origin.requests().is_empty()).await;
    assert!(readiness(health).await.starts_with("HTTP/1.1 200"));

    let stopping = tokio::spawn(sidecar.stop());
    let mut answer = readiness(health).await;
    while answer.starts_with("HTTP/1.1 200") {
        answer = readiness(health).await;
    }
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("stopping\n"), "{answer}");
    assert!(!stopping.is_finished());

    finish.send_replace(true);
    assert_eq!(call.await.expect("it does not panic"), "200");
    stopping.await.expect("it does not panic");
    assert!(TcpStream::connect(health).await.is_err(), "nobody listens any more");
}

async fn readiness(health: std::net::SocketAddr) -> String {
    let mut stream = TcpStream::connect(health).await.expect("it listens until the end");
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}

#[test]
fn a_policy_that_cannot_be_used_is_a_bad_configuration() {
    let dir = tempfile::tempdir().expect("a directory");
    let policy = dir.path().join("policy.rego");
    let file = dir.path().join("tollgate.yaml");
    let settings = json!({
        "agent": {"identity": {"kind": "static", "id": "spiffe://example.org/tester"}},
        "policy": {"paths": [policy]},
    });
    fs::write(&file, settings.to_string()).expect("it can be written");
    let file = file.to_str().expect("a plain path");
    let tollgate = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tollgate")).args(arguments).output().expect("the program runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("it says text"))
    };
    for (text, told) in [(None, "No such file"), (Some("package tollgate\n\ndecision := nosuch(1)\n"), "nosuch")] {
        if let Some(text) = text {
            fs::write(&policy, text).expect("it can be written");
        }
        for arguments in [
            &["config", "check", file][..],
            &["config", "check", "--output", "json", file],
            &["run", "--config", file],
            &["exec", "--fence", "env", "--config", file, "--", "true"],
        ] {
            let (code, said) = tollgate(arguments);
            assert_eq!(code, Some(78), "{arguments:?}: {said}");
            assert!(said.contains("policy.rego") && said.contains(told), "{arguments:?}: {said}");
        }
    }
    fs::write(&policy, DENY).expect("it can be written");
    assert_eq!(tollgate(&["config", "check", file]), (Some(0), format!("{file}: valid\n")));
}

/// Less than the time between two polls.
const SOON: Duration = Duration::from_secs(20);
/// At least the time between two polls.
const POLL: Duration = Duration::from_secs(31);
