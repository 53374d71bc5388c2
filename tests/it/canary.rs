//! A secret that is put into every place of requests, and into credential files, is found in none of the places where
//! operators and agents look: logs, spans, metrics, records and refusals. Nor is one that any broker is given, asks with
//! or is told by an issuer that can't keep anything to itself.

mod clouds;
mod held;
mod issuer;
mod oauth;
mod scene;
pub mod search;
mod spiffe;
mod vault;

use std::{
    io,
    sync::{Arc, Mutex},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tracing::subscriber::DefaultGuard;

use crate::{
    actors::{
        Answer, Issuer, Origin, Sidecar,
        agent::{self, request, rest},
        issuer::Behaviour,
        sidecar::Setup,
    },
    identity,
};

/// Says everything that it is asked, in every text of its answer. Reads are allowed, writes denied, and for a deletion
/// it fails over what it was asked.
const REPEATS: &str = r#"
package tollgate

said := json.marshal(input.call)

reason := to_number(input.call.path) if {
	input.call.method == "DELETE"
} else := said

verdict := "allow" if {
	input.call.effect == "read"
} else := "deny"

decision := {"decision": verdict, "reason": reason, "message": said, "rule": concat(" ", [input.call.path, said])}
"#;

#[tokio::test]
async fn no_sink_ever_holds_a_secret() {
    Scene::new(Sidecar::permissive()).await.search().await;
}

#[tokio::test]
async fn a_policy_that_repeats_what_it_is_asked_repeats_no_secret() {
    let logs = Scene::new(Sidecar::with_policy(REPEATS)).await.search().await;
    assert!(logs.contains("policy evaluation failed"), "the log was listened to: {logs}");
}

/// Shaped like a real token, so that it is recognised where only values can tell.
fn canary(place: usize) -> String {
    format!("ghp_{}{place:02}", "CaNaRy9".repeat(5).get(..34).expect("it is long enough"))
}

/// A service account token with this signature.
fn identity_token(signature: &str) -> String {
    let claims = json!({"sub": "system:serviceaccount:agents:tester", "aud": "tollgate", "exp": 4_000_000_000_u64});
    format!("e30.{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// What STS answers: keys that sign, and the token that goes along.
fn session_keys(secret: &str, token: &str) -> String {
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(15);
    format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
         <AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
         <SessionToken>{token}</SessionToken><Expiration>{end}</Expiration>\
         </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )
}

/// Origins of several kinds, a sidecar in front of them, and everything that must not be seen.
struct Scene {
    origin: Origin,
    plain: Origin,
    tools: Origin,
    /// Nobody listens there any more.
    gone: String,
    /// Its issuer's answer can't be used and holds a secret.
    starved: Origin,
    tunnel: Origin,
    /// What goes there is signed.
    bucket: Origin,
    issuer: Issuer,
    _chatty: Issuer,
    _keys: Issuer,
    sidecar: Sidecar,
    logs: Logs,
    secrets: Vec<String>,
}

impl Scene {
    async fn new(setup: Setup) -> Self {
        let logs = Logs::listen();
        let mut secrets: Vec<String> = (90..97).map(canary).collect();
        let words = json!({"error": "invalid_client", "error_description": secrets[2], "access_token": secrets[2]});
        let chatty = Issuer::start(Behaviour::Says(words.to_string().leak())).await;
        let issuer = Issuer::start(Behaviour::Issues { expires_in: 300 }).await;
        let origin = Origin::https("api.example.com").start().await;
        let plain = Origin::http("plain.example.com").start().await;
        let tools = Origin::https("tools.example.com").start().await;
        let gone = Origin::https("gone.example.com").start().await;
        let starved = Origin::https("starved.example.com").start().await;
        let tunnel = Origin::https("tunnel.example.com").start().await;
        let bucket = Origin::https("s3.eu-west-1.amazonaws.com").start().await;
        let keys = Issuer::start(Behaviour::Says(session_keys(&secrets[4], &secrets[5]).leak())).await;
        let role = "arn:aws:iam::123456789012:role/agent";
        let client = json!({"id": "tollgate", "secret": {"file": "client-secret"}});
        let token = |issuer: &Issuer| json!({"kind": "oauth_client_credentials", "token_endpoint": issuer.url("/token"), "client": client});
        // A secret of somebody else's, which its issuer might say again.
        let shown = json!({
            "kind": "oauth_jwt_bearer",
            "token_endpoint": chatty.url("/token"),
            "client": {"id": "tollgate", "secret": {"file": "client-secret"}, "method": "client_secret_post"},
            "assertion": {"token": {"file": "assertion"}},
        });
        let sidecar = setup
            .file("key", &secrets[0])
            .file("client-secret", &secrets[1])
            .file("assertion", &secrets[6])
            .file("identity-token", &identity_token(&secrets[3]))
            .in_front_of_as(&origin, json!({"credential": "key"}))
            .in_front_of(&plain)
            .in_front_of_as(&tools, json!({"protocol": "mcp", "credential": "token"}))
            .in_front_of(&gone)
            .in_front_of_as(&starved, json!({"credential": "starved"}))
            .in_front_of_as(&tunnel, json!({"tls": "passthrough"}))
            .in_front_of_as(&bucket, json!({"credential": "keys"}))
            .set(json!({"agent": {"identity": {"kind": "kubernetes", "id": null, "token": "identity-token"}}}))
            .set(json!({"credentials": {
                "key": {"kind": "file", "file": "key", "owner": "team-x"},
                "token": token(&issuer),
                "starved": shown,
                "keys": {"kind": "aws", "role_arn": role, "sts_endpoint": keys.url("/"), "web_identity": {"file": "identity-token"}},
            }}))
            .start()
            .await;
        identity::until(&sidecar, true).await;
        let gone_url = gone.url("");
        drop(gone);
        // What differs from one by its encoding alone is one too.
        secrets.push(STANDARD.encode(format!("user:{}", secrets[0])));
        let (gone, _chatty, _keys) = (gone_url, chatty, keys);
        Self { origin, plain, tools, gone, starved, tunnel, bucket, issuer, _chatty, _keys, sidecar, logs, secrets }
    }

    /// A secret that stands nowhere yet.
    fn next(&mut self) -> String {
        let secret = canary(self.secrets.len());
        self.secrets.push(secret.clone());
        secret
    }

    /// Sends all calls and searches what they left behind. Returns the log.
    async fn search(mut self) -> String {
        let answers = self.send_all().await;
        self.send_raw().await;
        let issued = self.issuer.issued();
        assert!(!issued.is_empty(), "tokens were minted");
        let signed = self.bucket.requests();
        assert_eq!(signed[0].header("x-amz-security-token"), Some(&*self.secrets[5]), "keys were minted and used");
        self.secrets.extend(issued);

        let records = self.sidecar.audit().await;
        assert!(records.len() > 50, "the calls were recorded: {}", records.len());
        let mut sinks: Vec<(String, String)> = answers;
        sinks.push(("the audit log".into(), records.iter().map(|record| format!("{record}\n")).collect()));
        sinks.push(("the metrics".into(), self.sidecar.metrics()));
        let spans = self.sidecar.heard().iter().map(|span| format!("{span:?}\n")).collect();
        sinks.push(("the spans".into(), spans));
        sinks.push(("the log".into(), self.logs.text()));
        for (sink, text) in &sinks {
            for line in text.lines() {
                let shown = line.to_lowercase();
                let held = self.secrets.iter().find(|secret| shown.contains(&secret[8..24].to_lowercase()));
                assert!(held.is_none(), "{sink} holds {held:?} or a part of it: {line}");
            }
        }
        self.logs.text()
    }

    /// Sends what a client library sends. Returns the answers that are the sidecar's own.
    async fn send_all(&mut self) -> Vec<(String, String)> {
        let mut calls = self.with_headers();
        calls.extend(self.with_targets());
        calls.extend(self.with_bodies());
        calls.extend(self.with_messages());
        let agents = [self.sidecar.agent(), self.sidecar.agent().http2()];
        let (mut own, mut failures) = (Vec::new(), 0);
        for (number, (call, spoken)) in calls.into_iter().enumerate() {
            let about = format!("the answer to call {number}, {} {}", call.method(), call.uri().host().unwrap_or("-"));
            let answer = agents[spoken].send(call).await;
            self.sidecar.ended().await;
            failures += usize::from(answer.status.is_server_error());
            own.extend(said(&answer).map(|text| (about, text)));
        }
        assert!(failures > 1, "origins and issuers that fail are among them");
        own
    }

    fn with_headers(&mut self) -> Vec<(Request<agent::Body>, usize)> {
        let mut calls = Vec::new();
        for (number, name) in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "x-api-key",
            "x-auth-token",
            "private-token",
            "x-goog-api-key",
            "x-anything",
            "user-agent",
            "referer",
            "tollgate-decision",
            "baggage",
            "tracestate",
            "traceparent",
            "content-type",
            "accept",
        ]
        .into_iter()
        .enumerate()
        {
            let mut call = request(Method::GET, &self.origin.url("/x"), "");
            call.headers_mut().insert(name, HeaderValue::try_from(self.next()).expect("a value"));
            calls.push((call, number % 2));
        }
        for spoken in [0, 1] {
            let mut signed = request(Method::GET, &self.bucket.url("/x"), "");
            let signature = format!(
                "AWS4-HMAC-SHA256 Credential={}/20260101/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature={}",
                self.next(),
                self.next()
            );
            for (name, value) in [("authorization", signature), ("x-amz-security-token", self.next())] {
                signed.headers_mut().insert(name, HeaderValue::try_from(value).expect("a value"));
            }
            calls.push((signed, spoken));
        }
        let mut upgrade = request(Method::GET, &self.origin.url("/socket"), "");
        for (name, value) in [
            ("connection", "upgrade".to_owned()),
            ("upgrade", "websocket".to_owned()),
            ("sec-websocket-version", "13".to_owned()),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".to_owned()),
            ("sec-websocket-protocol", self.next()),
            ("origin", format!("https://{}.example.com", self.next())),
            ("cookie", format!("session={}", self.next())),
        ] {
            upgrade.headers_mut().insert(name, HeaderValue::try_from(value).expect("a value"));
        }
        calls.push((upgrade, 0));
        calls
    }

    fn with_targets(&mut self) -> Vec<(Request<agent::Body>, usize)> {
        let bases = [self.origin.url(""), self.plain.url(""), self.gone.clone(), self.starved.url("")];
        let mut calls = Vec::new();
        for base in bases {
            for target in [
                "/x?access_token=SECRET",
                "/x?q=SECRET",
                "/x?q=a%20SECRET",
                "/x?SECRET=1",
                "/bot/SECRET/send",
                "/%67SECRET",
                "/a/../SECRET",
                "/a;key=SECRET",
            ] {
                let method = if target.contains(';') { Method::DELETE } else { Method::GET };
                // Where its first letter is escaped, the rest follows.
                let secret = self.next();
                let target = match target.contains("%67") {
                    true => target.replace("SECRET", &secret[1..]),
                    false => target.replace("SECRET", &secret),
                };
                calls.push((request(method, &format!("{base}{target}"), ""), 0));
            }
        }
        calls
    }

    fn with_bodies(&mut self) -> Vec<(Request<agent::Body>, usize)> {
        let mut calls = Vec::new();
        for (content, body) in [
            ("text/plain", "SECRET"),
            ("application/x-www-form-urlencoded", "grant_type=password&access_token=SECRET&client_secret=SECRET"),
            (
                "multipart/form-data; boundary=b",
                "--b\r\ncontent-disposition: form-data; name=k\r\n\r\nSECRET\r\n--b--\r\n",
            ),
        ] {
            let mut call = request(Method::POST, &self.origin.url("/form"), &body.replace("SECRET", &self.next()));
            call.headers_mut().insert("content-type", HeaderValue::from_static(content));
            calls.push((call, 0));
        }
        for (content, spoken) in [("text/plain", 0), ("text/plain", 1), ("application/grpc", 1)] {
            let mut trailers = HeaderMap::new();
            for name in ["x-canary", "x-api-key", "grpc-status-details-bin"] {
                trailers.insert(name, HeaderValue::try_from(self.next()).expect("a value"));
            }
            let frames = [Ok(Frame::data("data".into())), Ok(Frame::trailers(trailers))];
            let body: agent::Body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
            let call = Request::post(self.origin.url("/pkg.Service/Method"))
                .header("content-type", content)
                .header("trailer", "x-canary, x-api-key, grpc-status-details-bin")
                .header("te", "trailers");
            calls.push((call.body(body).expect("a valid request"), spoken));
        }
        calls
    }

    fn with_messages(&mut self) -> Vec<(Request<agent::Body>, usize)> {
        let mut calls = Vec::new();
        for body in [
            r#"{"jsonrpc":"2.0","id":"SECRET","method":"tools/call","params":{"name":"t","arguments":{"key":"SECRET"}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":[{"b":"see SECRET"}]}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"SECRET":1}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"u":"https://x.test/?k=SECRET"}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"SECRET","arguments":{}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///SECRET"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"SECRET","params":{}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/x","params":{"text":"SECRET"}}"#,
            r#"{"SECRET":1,"SECRET":2}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"} SECRET"#,
            "SECRET",
        ] {
            calls.push((self.message(body), 0));
        }
        for name in ["mcp-session-id", "mcp-method", "mcp-name", "mcp-protocol-version", "last-event-id"] {
            let mut call = self.message(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
            call.headers_mut().insert(name, HeaderValue::try_from(self.next()).expect("a value"));
            calls.push((call, 0));
        }
        calls
    }

    fn message(&mut self, body: &str) -> Request<agent::Body> {
        let body = if body.contains("SECRET") { body.replace("SECRET", &self.next()) } else { body.to_owned() };
        let mut call = request(Method::POST, &self.tools.url("/mcp"), &body);
        call.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        call
    }

    /// Sends what no client library would.
    async fn send_raw(&mut self) {
        let basic = self.secrets[3].clone();
        let known = |origin: &Origin| format!("{}:{}", origin.name, origin.addr.port());
        let targets = [known(&self.origin), known(&self.tunnel), "paste.example.net:443".to_owned()];
        let agent = self.sidecar.agent();
        for target in targets {
            for credentials in [format!("Basic {basic}"), format!("Bearer {}", self.next())] {
                let head = format!(
                    "CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nproxy-authorization: {credentials}\r\nconnection: close\r\n\r\n"
                );
                let mut stream = agent.stream().await;
                stream.write_all(head.as_bytes()).await.expect("it is open");
                stream.shutdown().await.expect("it is open");
                let answer = rest(&mut stream).await;
                self.sidecar.ended().await;
                assert!(!answer.contains(&credentials[8..]), "{answer}");
            }
        }
        let host = known(&self.plain);
        for head in [
            format!("GET http://u:SECRET@{host}/ HTTP/1.1\r\nhost: x\r\nx SECRET\r\n\r\n"),
            format!("GET http://u:SECRET@{host}/ HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"),
            "GET /SECRET HTTP/1.1\r\nhost: SECRET\r\nconnection: close\r\n\r\n".to_owned(),
            format!("SECRET http://{host}/ HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"),
        ] {
            let secret = self.next();
            let answer = agent.raw(head.replace("SECRET", &secret).as_bytes()).await;
            self.sidecar.ended().await;
            assert!(!answer.contains(&secret), "{answer}");
        }
    }
}

/// The text of an answer that is the sidecar's own, which refusals are, whatever their status.
fn said(answer: &Answer) -> Option<String> {
    let mut document = answer.json();
    let own =
        answer.status.as_u16() >= 400 || document.get("error").is_some() || answer.headers.contains_key("grpc-status");
    // The id of a message is the agent's own word, which JSON-RPC wants back.
    let text = match document.as_object_mut().and_then(|document| document.remove("id")) {
        Some(_) => document.to_string(),
        None => answer.text(),
    };
    own.then(|| format!("{:?} {text}", answer.headers))
}

/// The log lines of everything that runs on this thread, as `--log trace` shows them.
pub struct Logs {
    lines: Arc<Mutex<Vec<u8>>>,
    _guard: DefaultGuard,
}

impl Logs {
    pub fn listen() -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&lines);
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("trace,hyper=off,h2=off,rustls=off,hickory=off")
            .with_ansi(false)
            .with_writer(move || Writer(Arc::clone(&writer)))
            .finish();
        Self { lines, _guard: tracing::subscriber::set_default(subscriber) }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lines.lock().expect("no writer panics")).into_owned()
    }
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no writer panics").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
