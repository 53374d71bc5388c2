//! What an agent can read, of itself and of the sidecar that runs as the same user, holds no secret.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tollgate::admin::client;

use crate::{
    actors::{Issuer, Origin, Sidecar, bao::free, issuer::Behaviour, origin::full, sidecar::Setup},
    canary::search::{Secret, folded},
    machine::{PATH, TOLLGATE},
};

/// Two origins, of which one says what it was sent, and an issuer whose tokens go there.
struct World {
    api: Origin,
    echo: Origin,
    issuer: Issuer,
}

/// What the agent found.
struct Found {
    told: Value,
    own: Vec<u8>,
}

impl World {
    async fn new() -> Self {
        let echo = |request: Request<Incoming>| async move {
            let text = format!("{:?}", request.headers());
            let mut response = Response::new(full(text));
            let carried = request.headers().get("authorization").cloned();
            response.headers_mut().insert("x-echo", carried.unwrap_or(HeaderValue::from_static("nothing")));
            response
        };
        Self {
            api: Origin::https("api.example.test").start().await,
            echo: Origin::https("echo.example.test").answering(echo).start().await,
            issuer: Issuer::start(Behaviour::Issues { expires_in: 300 }).await,
        }
    }

    /// A sidecar in front, whose own secret comes with its environment.
    fn setup(&self) -> Setup {
        let destination = json!({"credential": "token", "placeholder": PLACEHOLDER});
        Sidecar::permissive()
            .in_front_of_as(&self.api, destination.clone())
            .in_front_of_as(&self.echo, destination)
            .set(json!({"credentials": {"token": {
                "kind": "oauth_client_credentials",
                "token_endpoint": self.issuer.url("/token"),
                "client": {"id": "tollgate", "secret": {"env": VARIABLE}},
            }}}))
    }

    /// The agent's command line.
    fn agent(&self, out: &Path, sidecar: &str) -> Vec<String> {
        let out = out.display().to_string();
        let urls = [self.api.url("/x"), self.echo.url("/x")];
        let fixed = ["/usr/bin/python3", "-c", AGENT, &out, PLACEHOLDER, sidecar].map(str::to_owned);
        fixed.into_iter().chain(urls).collect()
    }

    /// Asserts that the secrets were in use, and that the agent has none of them.
    fn is_kept_from(&self, found: &Found) {
        let Found { told, own } = found;
        let issued = self.issuer.issued();
        let carried = |origin: &Origin| {
            let seen = origin.requests();
            seen[0].header("authorization").expect("it carries one").trim_start_matches("Bearer ").to_owned()
        };
        assert_eq!(issued.len(), 2, "each destination has a token of its own");
        assert!([&self.api, &self.echo].map(carried).iter().all(|token| issued.contains(token)), "they are in use");
        let answers = told["answers"].as_array().expect("a list");
        assert!(answers.len() == 2 && answers.iter().all(|answer| answer[0] == 200), "{told}");
        let echoed = answers[1][2].as_str().expect("text");
        assert!(echoed.contains("authorization") && answers[1][1].to_string().contains("x-echo"), "{told}");

        let own = folded(own);
        assert!(own.len() > 1 << 20, "it is a whole memory: {}", own.len());
        assert!(Secret::text("what it was given", PLACEHOLDER).is_in(&own), "what it knows is found");
        for token in &issued {
            assert!(!Secret::text("a token", token).is_in(&own), "the agent holds a token");
        }
        assert!(!Secret::text("the client secret", SECRET).is_in(&own), "the agent holds the client secret");
    }
}

impl Found {
    /// Runs the agent to its end.
    fn by(command: &mut Command, out: &Path) -> Self {
        let Output { status, stdout, stderr } = command.output().expect("it can be started");
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{stdout}{stderr}");
        let told = serde_json::from_str(stdout.trim()).expect("JSON");
        Self { told, own: fs::read(out).expect("it was written") }
    }

    /// Asserts that a sidecar of the same user is closed, to whom a process of its own is open.
    fn sees_nothing_of_the_sidecar(&self) {
        let Self { told, .. } = self;
        let all = |told: &Value| told.as_object().map(|ways| ways.len()).expect("an object");
        assert_eq!((all(&told["child"]), all(&told["sidecar"])), (7, 7));
        assert_eq!(told["same_user"], true, "it is the same user's");
        for (way, open) in told["child"].as_object().expect("an object") {
            assert_eq!(open, true, "{way} of a process of its own");
        }
        for (way, open) in told["sidecar"].as_object().expect("an object") {
            assert_eq!(open, false, "{way} of the sidecar");
        }
    }
}

/// A program as the user that agents are, where we can become it. It is killed when we end: a change of users would undo
/// that, so it comes first.
fn as_agent(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::getuid().is_root() {
        command.args(["--reuid=1000", "--regid=1000", "--clear-groups"]);
    }
    command.args(["--pdeathsig", "KILL", program]);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    command
}

/// A program that runs until it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Gives a directory and what is in it to that user.
fn give(dir: &Path) {
    if rustix::process::getuid().is_root() {
        let given = Command::new("chown").args(["-R", "1000:1000"]).arg(dir).status().expect("it can be started");
        assert!(given.success());
    }
}

fn can_be_tried() -> bool {
    let there = Path::new("/usr/bin/python3").exists() && Path::new("/usr/bin/setpriv").exists();
    assert!(there || std::env::var_os("CI").is_none(), "needs python3 and setpriv");
    if !there {
        println!("skipped: needs python3 and setpriv");
    }
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_exec_has_no_secret_and_reads_nothing_of_the_sidecar() {
    if !can_be_tried() {
        return;
    }
    let world = World::new().await;
    let setup = world.setup();
    let (file, out) = (setup.write(), setup.path().join("own"));
    give(setup.path());

    let mut command = as_agent(TOLLGATE);
    command.args(["exec", "--fence", "env", "--config"]).arg(file).arg("--").args(world.agent(&out, "parent"));
    let found = Found::by(command.env(VARIABLE, SECRET), &out);

    world.is_kept_from(&found);
    found.sees_nothing_of_the_sidecar();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_beside_a_sidecar_has_no_secret_and_reads_nothing_of_it() {
    if !can_be_tried() {
        return;
    }
    let world = World::new().await;
    let proxy = free();
    let setup = world.setup().set(json!({
        "listen": {"proxy": proxy, "admin": "admin.sock"},
        "tls": {"authority": {"dir": "ca", "trust_bundle": "bundle.pem"}},
        "limits": {"sniff": "5s"},
    }));
    let (file, out, bundle) = (setup.write(), setup.path().join("own"), setup.path().join("bundle.pem"));
    give(setup.path());
    let mut sidecar = as_agent(TOLLGATE);
    sidecar.args(["run", "--log", "warn", "--config"]).arg(file).env(VARIABLE, SECRET);
    let sidecar = Running(sidecar.stdout(Stdio::null()).spawn().expect("it can be started"));
    let admin = setup.path().join("admin.sock");
    let ready = async {
        while client::ask::<Value>(&admin, "GET", "/v1/status", None::<&()>).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), ready).await.expect("it is ready in time");
    assert!(rustls::pki_types::CertificateDer::from_pem_file(&bundle).is_ok(), "agents can trust it");

    let [program, arguments @ ..] = &world.agent(&out, &sidecar.0.id().to_string())[..] else { panic!("a program") };
    let mut agent = as_agent(program);
    agent.args(arguments).env("https_proxy", format!("http://{proxy}")).env("SSL_CERT_FILE", bundle);
    let found = Found::by(&mut agent, &out);

    world.is_kept_from(&found);
    found.sees_nothing_of_the_sidecar();
    assert_eq!(found.told["core"], json!(["0", "0"]), "there would be no core file either");
}

const AGENT: &str = include_str!("../parts/clients/curious_agent.py");
const PLACEHOLDER: &str = "sk-tollgate-000000000000000000000000";
const VARIABLE: &str = "CLIENT_SECRET";
const SECRET: &str = "ought-not-be-9999-seen-anywhere";
