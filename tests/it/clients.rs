//! Real clients, unchanged, in an environment that holds nothing but what they need to come to the sidecar and to trust
//! it. What they are given here is what `docs/clients.md` says.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::Command,
    time::timeout,
};
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
const NODE24: &str = "parts/python/bin/node24";
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
        needs: &["node", NODE_MODULES],
        command: &["node", "--require", "./undici_proxy.cjs", "fetch.mjs"],
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

/// The client reads, writes, is denied, reads a stream and is kept from a host that no destination covers.
async fn tells_the_story(client: &Client) {
    if !are_there(client.needs) {
        return;
    }
    let origin = Origin::https("api.example.test").answering(serve).start().await;
    let mut sidecar = trusted(Sidecar::with_policy(NO_WRITES).in_front_of(&origin)).await;
    let mut command = cleaned(client.command, client.variables, &sidecar);

    let told = lines(command.current_dir(CLIENTS).args([&origin.url(""), "https://paste.example.test/"])).await;

    let expected =
        ["GET 200 /hello took 0", "POST 200 /files took 5", "DENIED 403 no_writes", "STREAM 3", "UNLISTED refused"];
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

async fn serve(request: Request<Incoming>) -> Response<origin::Body> {
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

#[tokio::test]
async fn git_clones_and_its_push_is_denied() {
    if !are_there(&["git"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let served = project(dir.path()).await;
    let origin =
        Origin::https("git.example.test").answering(move |request| http_backend(served.clone(), request)).start().await;
    let mut sidecar = trusted(Sidecar::with_policy(NO_WRITES).in_front_of(&origin)).await;
    let git = |arguments: &[&str]| {
        let variables = [("https_proxy", Says::Proxy), ("GIT_SSL_CAINFO", Says::Bundle)];
        let mut git = cleaned(&["git"], &variables, &sidecar);
        git.current_dir(dir.path()).args(arguments);
        git
    };

    lines(&mut git(&["clone", "--quiet", &origin.url("/project.git"), "copy"])).await;
    let cloned = fs::read_to_string(dir.path().join("copy/large.txt")).expect("it was cloned");
    assert_eq!(cloned, large());
    let pushed = run(&mut git(&["-C", "copy", "push", "--quiet", "origin", "HEAD:refs/heads/mine"])).await;

    assert!(!pushed.status.success());
    let complaint = String::from_utf8_lossy(&pushed.stderr).into_owned();
    assert!(complaint.contains("The requested URL returned error: 403"), "{complaint}");
    assert!(origin.requests().iter().all(|seen| !seen.target.contains("receive-pack")));
    for _ in 0..4 {
        sidecar.ended().await;
    }
    let recorded = [
        "GET git.example.test allow",
        "GET git.example.test policy_denied",
        "POST git.example.test allow",
        "POST git.example.test allow",
    ];
    assert_eq!(sorted(sidecar.records().await), recorded);
}

/// A folder that holds `project.git`, to which everyone may push.
async fn project(dir: &Path) -> PathBuf {
    let work = dir.join("work");
    fs::create_dir(&work).expect("a directory");
    fs::write(work.join("large.txt"), large()).expect("it can be written");
    for arguments in [
        "init --quiet",
        "add large.txt",
        "-c user.name=t -c user.email=t@example.test commit --quiet --message=first",
        "clone --quiet --bare . ../served/project.git",
        "-C ../served/project.git config http.receivepack true",
    ] {
        lines(clean(&mut Command::new("git"), dir).current_dir(&work).args(arguments.split(' '))).await;
    }
    dir.join("served")
}

/// Numbers that compress badly enough for the pack to come in several pieces.
fn large() -> String {
    (0..50_000_u64).map(|n| format!("{:x}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect()
}

/// git's own server, as a CGI program.
async fn http_backend(served: PathBuf, request: Request<Incoming>) -> Response<origin::Body> {
    let (parts, body) = request.into_parts();
    let field = |name: &str| parts.headers.get(name).map_or("", |value| value.to_str().expect("git sends text"));
    let mut backend = Command::new("git");
    clean(&mut backend, &served)
        .arg("http-backend")
        .envs([("GIT_HTTP_EXPORT_ALL", "1"), ("REMOTE_ADDR", "127.0.0.1")])
        .env("GIT_PROJECT_ROOT", &served)
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", field("content-type"))
        .env("HTTP_CONTENT_ENCODING", field("content-encoding"))
        .env("GIT_PROTOCOL", field("git-protocol"));
    let mut backend = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git can be started");
    let body = body.collect().await.expect("the body is whole").to_bytes();
    let mut stdin = backend.stdin.take().expect("it is piped");
    stdin.write_all(&body).await.expect("git reads its requests");
    drop(stdin);
    let answer = backend.wait_with_output().await.expect("git answers").stdout;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a CGI program begins with a head");
    let mut response = Response::new(origin::full(answer[end + 4..].to_vec()));
    for line in std::str::from_utf8(&answer[..end]).expect("the head is text").lines() {
        let (name, value) = line.split_once(": ").expect("a line of the head is a field");
        if name == "Status" {
            *response.status_mut() = StatusCode::from_bytes(&value.as_bytes()[..3]).expect("a status");
        } else {
            let name: HeaderName = name.parse().expect("a field's name");
            response.headers_mut().insert(name, value.parse().expect("a field's value"));
        }
    }
    response
}

#[tokio::test]
async fn python_grpcio() {
    if !are_there(&[PYTHON]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (certificate, key) = certificate("grpc.example.test");
    let (certificate_file, key_file) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
    fs::write(&certificate_file, &certificate).expect("it can be written");
    fs::write(&key_file, key).expect("it can be written");
    let mut server = Command::new(resolved(PYTHON));
    clean(&mut server, dir.path()).arg(Path::new(CLIENTS).join("grpcio_server.py")).args([certificate_file, key_file]);
    let mut server = server.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it can be started");
    let mut said = BufReader::new(server.stdout.take().expect("it is piped"));
    let mut port = String::new();
    timeout(LIMIT, said.read_line(&mut port)).await.expect("it starts in time").expect("it says its port");
    let port: u16 = port.trim().parse().expect("a port");
    let destination = json!({"hosts": ["grpc.example.test"], "ports": [port], "addresses": ["127.0.0.1"]});
    let setup = Sidecar::with_policy(NO_WRITES).set(json!({"destinations": {"grpc": destination}}));
    let sidecar = trusted(setup.file("roots.pem", &certificate)).await;
    let variables = [("https_proxy", Says::Proxy), ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", Says::Bundle)];
    let mut client = cleaned(&[PYTHON, "grpcio_client.py"], &variables, &sidecar);

    let origin = format!("grpc.example.test:{port}");
    let told = lines(client.current_dir(CLIENTS).args([&origin, "paste.example.test:443"])).await;

    let denied = "DENIED PERMISSION_DENIED this task only reads";
    assert_eq!(told, ["UNARY hello", "STREAM 3", denied, "UNLISTED UNAVAILABLE"]);
    server.kill().await.expect("it can be ended");
    let mut called = String::new();
    said.read_to_string(&mut called).await.expect("what it said is text");
    assert_eq!(called, "/test.Shop/Read\n/test.Shop/Watch\n");
    let mut recorded = sorted(sidecar.records().await);
    // It tries an unreachable address more than once.
    recorded.dedup();
    let expected = [
        "CONNECT paste.example.test unknown_destination",
        "POST grpc.example.test allow",
        "POST grpc.example.test policy_denied",
    ];
    assert_eq!(recorded, expected);
}

/// A self-signed certificate of this name and its key, in PEM.
fn certificate(name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key can be made");
    let params = rcgen::CertificateParams::new([name.to_owned()]).expect("a host name");
    (params.self_signed(&key).expect("a certificate can be made").pem(), key.serialize_pem())
}

/// Starts the sidecar with its trust bundle and a Java trust store written where clients are shown them.
async fn trusted(setup: sidecar::Setup) -> Sidecar {
    let sidecar = setup.set(json!({"tls": {"authority": {"trust_bundle": BUNDLE}}})).start().await;
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
fn are_there(needs: &[&str]) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = |program: &str| env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing = |need: &&&str| if need.contains('/') { !resolved(need).exists() } else { !on_path(need) };
    let Some(missing) = needs.iter().find(missing) else { return true };
    assert!(env::var_os("CI").is_none(), "{missing} is missing; tests/parts/install installs it");
    println!("skipped: needs {missing} (tests/parts/install)");
    false
}

/// A program by its name on `PATH`, or a file below `target`.
fn resolved(name: &str) -> PathBuf {
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
