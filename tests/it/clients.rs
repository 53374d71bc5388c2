//! Real clients, unchanged, in an environment that holds nothing but what they need to come to the sidecar and to trust
//! it. What they are given here is what `docs/clients.md` says.

mod custody;
mod git;
mod grpc;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::{process::Command, time::timeout};
use tollgate::tls::truststore::{JKS_PASSWORD, jks};

use crate::actors::{Origin, Sidecar, origin, sidecar};

/// One way to use one client.
struct Client {
    /// Programs on `PATH`, or files below `target`.
    needs: &'static [&'static str],
    /// A program and what it is told before the origin's URL; it runs in `tests/parts/clients`.
    command: &'static [&'static str],
    variables: &'static [(&'static str, Says)],
    /// The HTTP version that it comes to speak with the sidecar.
    speaks: &'static str,
}

/// What a variable says.
#[derive(Clone, Copy)]
enum Says {
    /// The sidecar's explicit proxy as a URL.
    Proxy,
    /// The sidecar's trust bundle.
    Bundle,
    /// The options that lead Java to both.
    JavaOptions,
    /// The folder of the npm packages.
    NodeModules,
    One,
}

const PYTHON: &str = "parts/python/bin/python";
const NODE24: &str = "parts/python/nodejs/bin/node";
const NODE: &str = "parts/node/runtime";
const NODE_MODULES: &str = "parts/node/node_modules";

#[tokio::test]
async fn curl_over_http1() {
    tells_the_story(&Client {
        needs: &["curl"],
        command: &["sh", "curl.sh", "--http1.1"],
        variables: &[("https_proxy", Says::Proxy), ("SSL_CERT_FILE", Says::Bundle)],
        speaks: "1.1",
    })
    .await;
}

#[tokio::test]
async fn curl_over_http2() {
    tells_the_story(&Client {
        needs: &["curl"],
        command: &["sh", "curl.sh", "--http2"],
        variables: &[("HTTPS_PROXY", Says::Proxy), ("CURL_CA_BUNDLE", Says::Bundle)],
        speaks: "2",
    })
    .await;
}

#[tokio::test]
async fn python_requests() {
    tells_the_story(&Client {
        needs: &[PYTHON],
        command: &[PYTHON, "requests_client.py"],
        variables: &[("HTTPS_PROXY", Says::Proxy), ("REQUESTS_CA_BUNDLE", Says::Bundle)],
        speaks: "1.1",
    })
    .await;
}

#[tokio::test]
async fn python_httpx() {
    tells_the_story(&Client {
        needs: &[PYTHON],
        command: &[PYTHON, "httpx_client.py"],
        variables: &[("HTTPS_PROXY", Says::Proxy), ("SSL_CERT_FILE", Says::Bundle)],
        speaks: "2",
    })
    .await;
}

#[tokio::test]
async fn python_aiohttp() {
    tells_the_story(&Client {
        needs: &[PYTHON],
        command: &[PYTHON, "aiohttp_client.py"],
        variables: &[("HTTPS_PROXY", Says::Proxy), ("SSL_CERT_FILE", Says::Bundle)],
        speaks: "1.1",
    })
    .await;
}

#[tokio::test]
async fn node_fetch_through_undici() {
    tells_the_story(&Client {
        needs: &[NODE, NODE_MODULES],
        command: &[NODE, "--require", "./undici_proxy.cjs", "fetch.mjs"],
        variables: &[
            ("HTTPS_PROXY", Says::Proxy),
            ("NODE_EXTRA_CA_CERTS", Says::Bundle),
            ("NODE_PATH", Says::NodeModules),
        ],
        speaks: "1.1",
    })
    .await;
}

#[tokio::test]
async fn node_24_fetch() {
    tells_the_story(&Client {
        needs: &[NODE24],
        command: &[NODE24, "fetch.mjs"],
        variables: &[
            ("HTTPS_PROXY", Says::Proxy),
            ("NODE_EXTRA_CA_CERTS", Says::Bundle),
            ("NODE_USE_ENV_PROXY", Says::One),
        ],
        speaks: "1.1",
    })
    .await;
}

#[tokio::test]
async fn java_http_client() {
    tells_the_story(&Client {
        needs: &["java"],
        command: &["java", "Client.java"],
        variables: &[("JAVA_TOOL_OPTIONS", Says::JavaOptions)],
        speaks: "2",
    })
    .await;
}

/// The client reads, writes, reads a stream, is denied and is kept from a host that no destination covers.
async fn tells_the_story(client: &Client) {
    if !are_there(client.needs) {
        return;
    }
    let origin = Origin::https("api.example.test").answering(serve).start().await;
    let mut sidecar = trusted(Sidecar::with_policy(NO_WRITES).in_front_of(&origin)).await;
    let mut command = cleaned(client.command, client.variables, &sidecar);

    let told = lines(command.current_dir(CLIENTS).args([&origin.url(""), "https://paste.example.test/"])).await;

    let expected =
        ["GET 200 /hello took 0", "POST 200 /files took 5", "STREAM 3", "DENIED 403 no_writes", "UNLISTED refused"];
    assert_eq!(told, expected);
    let seen: Vec<_> = origin.requests().iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect();
    assert_eq!(seen, ["GET /hello", "POST /files", "GET /events"]);
    for _ in 0..5 {
        sidecar.ended().await;
    }
    let recorded = [
        "CONNECT paste.example.test unknown_destination",
        "GET api.example.test allow",
        "GET api.example.test allow",
        "POST api.example.test allow",
        "POST api.example.test policy_denied",
    ];
    assert_eq!(sorted(sidecar.records().await), recorded);
    let first = &sidecar.audit().await[0];
    assert_eq!(first["call"]["agent_http"], client.speaks);
}

pub(crate) async fn serve(request: Request<Incoming>) -> Response<origin::Body> {
    if request.uri().path() == "/events" {
        let events = (0..3).map(|number| Ok(Frame::data(Bytes::from(format!("data: {number}\n\n")))));
        let mut response = Response::new(StreamBody::new(stream::iter(events)).boxed_unsync());
        response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
        return response;
    }
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.expect("the body is whole").to_bytes();
    Response::new(origin::full(format!("{path} took {}", body.len())))
}

/// Starts the sidecar with its trust bundle and a Java trust store written where clients are shown them.
async fn trusted(setup: sidecar::Setup) -> Sidecar {
    let settings = json!({
        "tls": {"authority": {"trust_bundle": BUNDLE}},
    });
    let sidecar = setup.set(settings).start().await;
    let store = jks(&[sidecar.inner().authority().certificate().clone()]);
    fs::write(sidecar.dir.path().join(JAVA_STORE), store).expect("it can be written");
    sidecar
}

/// A command whose environment says these things and no others.
fn cleaned(command: &[&str], variables: &[(&str, Says)], sidecar: &Sidecar) -> Command {
    let (program, arguments) = command.split_first().expect("a command has a program");
    let mut command = Command::new(resolved(program));
    clean(&mut command, sidecar.dir.path()).args(arguments);
    command.envs(variables.iter().map(|(name, says)| (name, says.in_front_of(sidecar))));
    command
}

fn clean<'a>(command: &'a mut Command, home: &Path) -> &'a mut Command {
    command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default()).env("HOME", home);
    command.envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_TERMINAL_PROMPT", "0"), ("LC_ALL", "C.UTF-8")])
}

impl Says {
    fn in_front_of(self, sidecar: &Sidecar) -> String {
        let file = |name: &str| sidecar.dir.path().join(name).display().to_string();
        let proxy = sidecar.proxy;
        match self {
            Self::Proxy => format!("http://{proxy}"),
            Self::Bundle => file(BUNDLE),
            Self::JavaOptions => format!(
                "-Djavax.net.ssl.trustStore={} -Djavax.net.ssl.trustStorePassword={JKS_PASSWORD} \
                 -Dhttps.proxyHost={} -Dhttps.proxyPort={}",
                file(JAVA_STORE),
                proxy.ip(),
                proxy.port()
            ),
            Self::NodeModules => resolved(NODE_MODULES).display().to_string(),
            Self::One => "1".to_owned(),
        }
    }
}

async fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    timeout(LIMIT, output).await.expect("the client ends in time").expect("the client can be started")
}

/// What a client that succeeds says.
async fn lines(command: &mut Command) -> Vec<String> {
    let Output { status, stdout, stderr } = run(command).await;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{stdout}{stderr}");
    stdout.lines().map(str::to_owned).collect()
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// Whether this machine has what the client needs; in CI it must.
pub(crate) fn are_there(needs: &[&str]) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = |program: &str| env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing = |need: &&&str| if need.contains('/') { !resolved(need).exists() } else { !on_path(need) };
    let Some(missing) = needs.iter().find(missing) else { return true };
    assert!(env::var_os("CI").is_none(), "{missing} is missing; tests/parts/install installs it");
    println!("skipped: needs {missing} (tests/parts/install)");
    false
}

/// A program by its name on `PATH`, or a file below `target`.
pub(crate) fn resolved(name: &str) -> PathBuf {
    if name.contains('/') { Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(name) } else { name.into() }
}

const NO_WRITES: &str = r#"
package tollgate

default decision := {"decision": "allow"}

decision := {"decision": "deny", "reason": "no_writes", "message": "this task only reads", "rule": "test.no_writes", "class": "security"} if {
	writes
}

writes if input.call.segments[0] == "readonly"

writes if "git-receive-pack" in input.call.query.service

writes if input.call.grpc.method == "Delete"
"#;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts/clients");
const BUNDLE: &str = "bundle.pem";
const JAVA_STORE: &str = "trust.jks";
const LIMIT: Duration = Duration::from_secs(30);
