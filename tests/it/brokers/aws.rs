//! AWS as moto plays it, with signatures and permissions checked. What the agent signs with are dummy keys.

use std::{
    collections::BTreeSet,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
    time::timeout,
};
use tollgate::task::End;

use crate::{
    actors::{
        Origin, Sidecar,
        agent::request,
        origin::{self, Seen},
        sidecar::Setup,
    },
    clients::{are_there, resolved},
};

#[tokio::test]
async fn boto3_with_dummy_keys_works_and_aws_sees_the_role_alone() {
    if !are_there(NEEDS) {
        return;
    }
    let aws = Aws::start().await;
    let sidecar = aws.sidecar(json!({"Statement": [
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
        {"Effect": "Allow", "Action": "sts:*", "Resource": "*"},
        {"Effect": "Deny", "Action": "s3:DeleteObject", "Resource": "*"},
    ]}));
    let sidecar = sidecar.start().await;

    let told = aws.lines(&sidecar, &[PYTHON, BOTO3, &aws.s3.url(""), &aws.sts.url("")]).await;

    let expected = [
        "PUT 200",
        "GET hello",
        "HASHED 200",
        "UNSIGNED 200",
        "MULTIPART 5242887",
        "LIST ['notes/a b(1)+ü.txt']",
        "PRESIGNED hello",
        "WHO arn:aws:sts::123456789012:assumed-role/agent",
        "DENIED AccessDenied",
    ];
    assert_eq!(told, expected);
    for seen in aws.s3.requests().iter().chain(&aws.sts.requests()) {
        let authorization = seen.header("authorization").expect("it is signed");
        assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=ASIA"), "{authorization}");
        assert!(seen.header("x-amz-security-token").is_some_and(|token| token != "dummy"), "{seen:?}");
        assert!(!format!("{seen:?}").contains(DUMMY) && !seen.target.contains("X-Amz-"), "{seen:?}");
    }
    // What boto3 does of itself, and what it can be told to do.
    let modes: BTreeSet<&str> = aws.s3.requests().iter().map(mode).collect();
    assert_eq!(modes, BTreeSet::from(["STREAMING-UNSIGNED-PAYLOAD-TRAILER", "UNSIGNED-PAYLOAD", "a hash"]));
    let whole = aws.s3.requests().iter().find(|seen| seen.target == "/box/hashed").map(mode);
    assert_eq!(whole, Some("a hash"));
    let records = sidecar.audit().await;
    assert_eq!(records.len(), aws.s3.requests().len() + aws.sts.requests().len());
    assert!(records.iter().all(|record| record.pointer("/credential/kind") == Some(&json!("aws"))), "{records:?}");
}

#[tokio::test]
async fn keys_are_minted_once_for_a_task_and_a_destination_and_given_up_with_the_task() {
    if !are_there(NEEDS) {
        return;
    }
    let aws = Aws::start().await;
    let sidecar = aws.sidecar(json!({"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}));
    let sidecar = sidecar.start().await;
    let url = aws.s3.url("/box?list-type=2");
    let agent = sidecar.agent();

    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let (agent, url) = (agent.clone(), url.clone());
        calls.spawn(async move { agent.get(&url).await.to_string() });
    }
    assert_eq!(calls.join_all().await, ["200"; 20]);

    let forms = aws.forms();
    let [form] = &forms[..] else { panic!("asked {} times", forms.len()) };
    let field = |name: &str| form.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).expect(name);
    assert_eq!(field("Action"), "AssumeRoleWithWebIdentity");
    assert_eq!(field("RoleArn"), "arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fagent");
    assert_eq!(field("WebIdentityToken"), "who.we.are");
    assert_eq!(field("DurationSeconds"), "900");
    assert!(field("Policy").starts_with("%7B%22Statement%22"), "{form}");
    let task = sidecar.audit().await[0].pointer("/task/id").and_then(Value::as_str).expect("it has one").to_owned();
    assert_eq!(field("RoleSessionName"), task);

    sidecar.inner().tasks().end(&task, End::Ended).expect("the task is known");
    let before = aws.s3.requests().len();
    assert_eq!(agent.get(&url).await.to_string(), "403 task_ended");
    assert_eq!((aws.s3.requests().len(), aws.forms().len()), (before, 1));
}

#[tokio::test]
async fn what_a_session_policy_denies_is_denied_by_aws() {
    if !are_there(NEEDS) || !are_there(&["curl"]) {
        return;
    }
    let aws = Aws::start().await;
    let sidecar = aws.sidecar(json!({"Statement": [
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
        {"Effect": "Deny", "Action": "s3:PutObject", "Resource": "*"},
    ]}));
    let sidecar = sidecar.start().await;
    let url = aws.s3.url("/box");
    let signed =
        ["curl", "-sS", "-w", "\n%{http_code}\n", "--aws-sigv4", "aws:amz:eu-west-1:s3", "--user", "AKIADUMMY:x"];
    let curl = |more: &[&str]| signed.iter().chain(more).map(|text| (*text).to_owned()).collect::<Vec<_>>();

    let (listed, put) = (curl(&[&url]), curl(&["-X", "PUT", "-d", "hello", &format!("{url}/key")]));
    let texts = |lines: &[String]| lines.join(" ");
    let listed = texts(&aws.lines(&sidecar, &listed.iter().map(String::as_str).collect::<Vec<_>>()).await);
    let put = texts(&aws.lines(&sidecar, &put.iter().map(String::as_str).collect::<Vec<_>>()).await);

    assert!(listed.contains("<Name>box</Name>") && listed.ends_with("200"), "{listed}");
    assert!(put.contains("<Code>AccessDenied</Code>") && put.ends_with("403"), "{put}");
}

#[tokio::test]
async fn what_can_not_be_signed_anew_is_refused_and_nobody_is_asked_for_keys() {
    let s3 = Origin::https("s3.eu-west-1.amazonaws.com").start().await;
    let other = Origin::https("other.example.test").start().await;
    let issuer = Origin::http("127.0.0.1").start().await;
    let sidecar = Sidecar::permissive()
        .file("token", "who.we.are")
        .in_front_of_as(&s3, json!({"credential": "aws"}))
        .in_front_of_as(&other, json!({"credential": "aws"}))
        .set(json!({"credentials": {"aws": declared(&issuer, json!({}))}, "limits": {"inspect_bytes": "1KiB"}}))
        .start()
        .await;
    let agent = sidecar.agent();
    let put = |origin: &Origin, sha256: &'static str, authorization: &'static str, length: usize| {
        let mut call = request(Method::PUT, &origin.url("/box/key"), &"x".repeat(length));
        for (name, value) in [("x-amz-content-sha256", sha256), ("authorization", authorization)] {
            if !value.is_empty() {
                call.headers_mut().insert(name, HeaderValue::from_static(value));
            }
        }
        call
    };
    let scope =
        "AWS4-HMAC-SHA256 Credential=AKIADUMMY/20260101/eu-west-1/sts/aws4_request, SignedHeaders=host, Signature=0";
    let table = [
        (put(&s3, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "", 1), "403 unsupported_protocol"),
        (put(&s3, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", "", 1), "403 unsupported_protocol"),
        (put(&s3, "UNSIGNED-PAYLOAD", "AWS4-ECDSA-P256-SHA256 Credential=AKIADUMMY", 1), "403 unsupported_protocol"),
        (put(&s3, "UNSIGNED-PAYLOAD", scope, 1), "403 unsupported_protocol"),
        (put(&s3, "canary", "", 1), "400 malformed_request"),
        (put(&s3, "", "", 1025), "413 body_too_large"),
        (put(&other, "UNSIGNED-PAYLOAD", "", 1), "403 unsupported_protocol"),
    ];
    for (call, expected) in table {
        assert_eq!(agent.send(call).await.to_string(), expected);
    }
    assert!(s3.requests().is_empty() && other.requests().is_empty() && issuer.requests().is_empty());
}

/// AWS: an endpoint that is only asked for keys, and two that an agent may call.
struct Aws {
    s3: Origin,
    sts: Origin,
    issuer: Origin,
    forms: Arc<Mutex<Vec<String>>>,
    _moto: Child,
}

impl Aws {
    async fn start() -> Self {
        let (port, moto) = moto().await;
        let forms = Arc::default();
        let noted = Arc::clone(&forms);
        let agents = Arc::default();
        let s3 = Origin::https("s3.eu-west-1.amazonaws.com").answering(forwarding(port, Arc::clone(&agents)));
        let sts = Origin::https("sts.eu-west-1.amazonaws.com").answering(forwarding(port, agents));
        let issuer = Origin::http("127.0.0.1").answering(forwarding(port, noted));
        Self { s3: s3.start().await, sts: sts.start().await, issuer: issuer.start().await, forms, _moto: moto }
    }

    fn sidecar(&self, session_policy: Value) -> Setup {
        Sidecar::permissive()
            .file("token", "who.we.are\n")
            .in_front_of_as(&self.s3, json!({"credential": "aws"}))
            .in_front_of_as(&self.sts, json!({"credential": "aws"}))
            .set(json!({
                "credentials": {"aws": declared(&self.issuer, session_policy)},
                "tasks": {"source": ["static"], "static": {"purpose": "triage"}},
                "tls": {"authority": {"trust_bundle": BUNDLE}},
            }))
    }

    /// What was posted to have keys.
    fn forms(&self) -> Vec<String> {
        self.forms.lock().expect("no test panics inside").clone()
    }

    /// What a command says whose environment leads to the sidecar and holds dummy keys.
    async fn lines(&self, sidecar: &Sidecar, command: &[&str]) -> Vec<String> {
        let (program, arguments) = command.split_first().expect("a command has a program");
        let home = sidecar.dir.path();
        let proxy = format!("http://{}", sidecar.proxy);
        let bundle = home.join(BUNDLE);
        let mut command = Command::new(resolved(program));
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home);
        command.envs([("HTTPS_PROXY", &proxy), ("https_proxy", &proxy)]);
        command.envs([("AWS_CA_BUNDLE", &bundle), ("SSL_CERT_FILE", &bundle)]);
        command.envs([
            ("AWS_ACCESS_KEY_ID", DUMMY),
            ("AWS_SECRET_ACCESS_KEY", "dummy"),
            ("AWS_SESSION_TOKEN", "dummy"),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("LC_ALL", "C.UTF-8"),
        ]);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = timeout(LIMIT, output).await.expect("it ends in time").expect("it can be started");
        let (told, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{told}{error}");
        told.lines().map(str::to_owned).collect()
    }
}

/// What a request says of its body.
fn mode(seen: &Seen) -> &'static str {
    match seen.header("x-amz-content-sha256") {
        Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER") => "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        Some("UNSIGNED-PAYLOAD") => "UNSIGNED-PAYLOAD",
        Some(hash) if hash.len() == 64 => "a hash",
        _ => "nothing",
    }
}

fn declared(issuer: &Origin, session_policy: Value) -> Value {
    json!({
        "kind": "aws", "role_arn": "arn:aws:iam::123456789012:role/agent", "sts_endpoint": issuer.url("/"),
        "web_identity": {"file": "token"}, "session_policy": session_policy,
    })
}

/// A running moto and its port. It ends with its standard input.
async fn moto() -> (SocketAddr, Child) {
    let mut command = Command::new(resolved(PYTHON));
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts/moto_server.py")).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("moto can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let line = timeout(LIMIT, lines.next_line()).await.expect("moto starts in time").expect("it says text");
    let port: u16 = line.expect("it says its port").parse().expect("a port");
    (SocketAddr::from(([127, 0, 0, 1], port)), child)
}

type Answering = Pin<Box<dyn Future<Output = Response<origin::Body>> + Send>>;

/// Passes requests on to moto, which speaks no TLS, and notes their bodies where they are forms.
fn forwarding(
    moto: SocketAddr,
    forms: Arc<Mutex<Vec<String>>>,
) -> impl Fn(Request<Incoming>) -> Answering + Send + Sync {
    move |request| {
        let forms = Arc::clone(&forms);
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let body = body.collect().await.expect("the request is whole").to_bytes();
            if parts.method == Method::POST {
                forms.lock().expect("no test panics inside").push(String::from_utf8_lossy(&body).into_owned());
            }
            if let Some(authority) = parts.uri.authority() {
                let host = HeaderValue::from_str(authority.as_str()).expect("an authority is a header value");
                parts.headers.insert(header::HOST, host);
            }
            let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).parse();
            parts.uri = target.expect("a path is a URI");
            parts.version = http::Version::HTTP_11;
            let answer = ask(moto, Request::from_parts(parts, Full::new(body))).await;
            let (mut parts, body) = answer.into_parts();
            parts.version = http::Version::default();
            for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
                parts.headers.remove(name);
            }
            let body = body.collect().await.expect("moto's answer is whole").to_bytes();
            Response::from_parts(parts, origin::full(body))
        })
    }
}

async fn ask(moto: SocketAddr, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(moto).await.expect("moto listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a fresh connection");
    tokio::spawn(connection);
    sender.send_request(request).await.expect("moto answers")
}

const PYTHON: &str = "parts/python/bin/python";
const NEEDS: &[&str] = &[PYTHON, "parts/python/bin/moto_server"];
const BOTO3: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts/clients/boto3_client.py");
const BUNDLE: &str = "bundle.pem";
const DUMMY: &str = "AKIAIOSFODNN7EXAMPLE";
const LIMIT: Duration = Duration::from_secs(60);
