//! A sidecar that is killed, and the next one in its place: nothing that the first was given outlives the second's start.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, Response};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tollgate::admin::{api::OpenedTask, client};

use crate::{
    actors::{Agent, Origin, Sidecar, agent::request, bao::free, origin::Body, sidecar::Setup},
    brokers::vault::{Database, app_role, readonly},
    machine::{TOLLGATE, ending_with_us},
};

/// The program under test, with a configuration of its own. Killed when it is dropped.
struct Program(Child);

impl Program {
    async fn start(dir: &Path) -> Self {
        let mut command = ending_with_us(TOLLGATE);
        command.args(["run", "--log", "warn", "--config"]).arg(dir.join("tollgate.yaml"));
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        let program = Self(command.spawn().expect("it can be started"));
        let ready = async {
            while client::ask::<Value>(&dir.join("admin.sock"), "GET", "/v1/status", None::<&()>).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(30), ready).await.expect("it is ready in time");
        program
    }

    fn kill(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_a_killed_sidecar_was_given_is_ended_by_the_next() {
    let Some(database) = Database::start().await else { return };
    let origin = Origin::https("api.example.com").start().await;
    let (setup, proxy) = with_journal(&database, &origin, json!({})).await;
    setup.write();
    let dir = setup.path();

    let first = Program::start(dir).await;
    let agent = agent(dir, proxy);
    let calls = stream::iter(0..LEASES).map(async |_| {
        let purpose = json!({"purpose": "triage"});
        let opened = client::ask::<OpenedTask>(&dir.join("admin.sock"), "POST", "/v1/tasks", Some(&purpose)).await;
        let mut call = request(Method::GET, &origin.url("/"), "");
        let handle = HeaderValue::try_from(&*opened.expect("it is opened").handle).expect("a value");
        call.headers_mut().insert("tollgate-task", handle);
        assert_eq!(agent.send(call).await.to_string(), "200");
    });
    calls.buffer_unordered(8).collect::<Vec<()>>().await;
    assert_eq!((database.postgres.roles().len(), database.leases().await.len()), (LEASES, LEASES));

    first.kill();
    assert_eq!(database.postgres.roles().len(), LEASES, "nobody was there to end them");
    let journal = fs::read_to_string(dir.join("journal.jsonl")).expect("it is kept");
    assert_eq!(journal.lines().count(), LEASES);
    for seen in origin.requests() {
        let carried = seen.header("authorization").expect("a credential").trim_start_matches("Basic ");
        assert!(!journal.contains(carried));
    }

    let begun = Instant::now();
    let second = Program::start(dir).await;
    database.is_clean_within(Duration::from_secs(30)).await;
    println!("{LEASES} leases were ended {:?} after the next start", begun.elapsed());
    let settled = async {
        let file = dir.join("journal.jsonl");
        while fs::read_to_string(&file).expect("it is kept").matches("\"expires\"").count() * 2
            != fs::read_to_string(&file).expect("it is kept").lines().count()
        {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), settled).await.expect("it is written down that they ended");
    second.kill();
    assert!(database.bao.tokens().await <= 2, "of the killed ones only the logins are left, until they expire");
}

#[tokio::test]
async fn what_a_call_had_when_its_sidecar_was_killed_is_ended_once_it_is_declared_again() {
    let Some(database) = Database::start().await else { return };
    let (called, mut calls) = mpsc::unbounded_channel();
    let silent = move |_| {
        let called = called.clone();
        async move {
            called.send(()).expect("the test waits for it");
            std::future::pending::<Response<Body>>().await
        }
    };
    let origin = Origin::https("api.example.com").answering(silent).start().await;
    let (setup, proxy) = with_journal(&database, &origin, json!({"per_call": true})).await;
    let file = setup.write();
    let (dir, settings) = (setup.path(), fs::read_to_string(&file).expect("it was written"));

    let first = Program::start(dir).await;
    let (agent, url) = (agent(dir, proxy), origin.url("/"));
    let call = tokio::spawn(async move { agent.get(&url).await.to_string() });
    calls.recv().await.expect("the origin was called");
    first.kill();
    call.abort();
    assert_eq!((database.postgres.roles().len(), database.leases().await.len()), (1, 1));

    let mut without: Value = serde_json::from_str(&settings).expect("it was written as JSON");
    without["credentials"] = json!({});
    for destination in without["destinations"].as_object_mut().expect("a map").values_mut() {
        destination.as_object_mut().expect("a map").remove("credential");
    }
    fs::write(&file, without.to_string()).expect("it can be written");
    let _second = Program::start(dir).await;
    assert_eq!(database.postgres.roles().len(), 1, "nobody knows how to end it");
    fs::write(dir.join("next"), settings).expect("it can be written");
    fs::rename(dir.join("next"), &file).expect("both stand in one directory");
    database.is_clean_within(Duration::from_secs(30)).await;
}

/// A sidecar that uses a role of the database for its origin, and writes down what it was given.
async fn with_journal(database: &Database, origin: &Origin, more: Value) -> (Setup, SocketAddr) {
    let (setup, proxy) = (Sidecar::permissive(), free());
    let mut credential = readonly();
    credential["kind"] = "vault".into();
    credential["address"] = database.bao.url().into();
    credential["auth"] = app_role(&database.bao, &setup).await;
    let setup = setup.in_front_of_as(origin, json!({"credential": "db"})).set(json!({
        "listen": {"proxy": proxy, "admin": "admin.sock"},
        "tls": {"authority": {"dir": "ca", "trust_bundle": "ca.pem"}},
        "credentials": {"db": credential},
        "state": {"journal": "journal.jsonl"},
        // Others do their work on this machine at the same time.
        "limits": {"sniff": "5s"},
    }));
    (setup.set(json!({"credentials": {"db": more}})), proxy)
}

/// The agent beside the sidecar that runs there.
fn agent(dir: &Path, proxy: SocketAddr) -> Agent {
    let root = fs::read(dir.join("ca/ca.pem")).or_else(|_| fs::read(dir.join("ca.pem"))).expect("it was written");
    let root = CertificateDer::pem_slice_iter(&root).last().expect("ours is the last").expect("a certificate");
    Agent::new(proxy, root)
}

const LEASES: usize = 50;
