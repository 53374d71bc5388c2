//! A real OpenBao server, in memory.

use std::{
    net::SocketAddr,
    process::{Child, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{clients::resolved, machine::ending_with_us};

/// A server whose root is the test. Ends when it is dropped.
pub struct Bao {
    pub addr: SocketAddr,
    process: Child,
    http: Client<HttpConnector, Full<Bytes>>,
    _home: TempDir,
}

impl Bao {
    pub async fn start() -> Self {
        let addr = free();
        let home = tempfile::tempdir().expect("a temporary directory");
        let process = ending_with_us(&resolved(BAO).display().to_string())
            .args(["server", "-dev", "-dev-no-store-token", &format!("-dev-root-token-id={ROOT}")])
            .arg(format!("-dev-listen-address={addr}"))
            .env_clear()
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it can be started");
        let http = Client::builder(TokioExecutor::new()).build_http();
        let bao = Self { addr, process, http, _home: home };
        let ready = async {
            while bao.send(Method::GET, "sys/health", None, None).await.is_none_or(|(status, _)| status != 200) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, ready).await.expect("it is ready in time");
        bao
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Tells it something, which must succeed.
    pub async fn tell(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.send(Method::POST, path, Some(body), None).await.expect("it answers");
        assert!(matches!(status, 200 | 204), "{path}: {status} {answer}");
        answer
    }

    pub async fn read(&self, path: &str) -> Value {
        let (status, answer) = self.send(Method::GET, path, None, None).await.expect("it answers");
        assert_eq!(status, 200, "{path}: {answer}");
        answer["data"].clone()
    }

    /// What it has there.
    pub async fn list(&self, path: &str) -> Vec<String> {
        let list = Method::from_bytes(b"LIST").expect("a method");
        let (_, answer) = self.send(list, path, None, None).await.expect("it answers");
        let keys = answer.pointer("/data/keys").and_then(Value::as_array).cloned().unwrap_or_default();
        keys.iter().map(|key| key.as_str().expect("a name").to_owned()).collect()
    }

    /// A token that gives what it would have answered, once.
    pub async fn wrapped(&self, path: &str) -> String {
        let (_, answer) = self.send(Method::POST, path, None, Some("60s")).await.expect("it answers");
        answer["wrap_info"]["token"].as_str().expect("a token").to_owned()
    }

    /// Spends a quota on reading something.
    pub async fn spend(&self, path: &str) {
        let spent =
            async { while self.send(Method::GET, path, None, None).await.is_none_or(|(status, _)| status != 429) {} };
        timeout(LIMIT, spent).await.expect("there is a quota");
    }

    pub async fn delete(&self, path: &str) {
        let (status, answer) = self.send(Method::DELETE, path, None, None).await.expect("it answers");
        assert!(matches!(status, 200 | 204), "{path}: {status} {answer}");
    }

    /// Its tokens, but for the root's.
    pub async fn tokens(&self) -> usize {
        self.list("auth/token/accessors").await.len() - 1
    }

    /// Lets in who shows a token that this key signed, as an account with this policy.
    pub async fn trust(&self, public_key: &str, audience: &str) {
        self.tell("sys/auth/jwt", json!({"type": "jwt"})).await;
        self.tell("auth/jwt/config", json!({"jwt_validation_pubkeys": [public_key]})).await;
        let role = json!({
            "role_type": "jwt", "user_claim": "sub", "bound_audiences": [audience],
            "token_policies": ["agent"], "token_ttl": "20m",
        });
        self.tell("auth/jwt/role/agent", role).await;
    }

    /// Answers nobody until it is told to go on.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let process = i32::try_from(self.process.id()).expect("a process id");
        kill(Pid::from_raw(process), signal).expect("it runs");
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        wrapped: Option<&str>,
    ) -> Option<(u16, Value)> {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = Request::builder().method(method).uri(format!("{}/v1/{path}", self.url()));
        let request = request.header("x-vault-token", ROOT);
        let request = match wrapped {
            Some(life) => request.header("x-vault-wrap-ttl", life),
            None => request,
        };
        let request = request.body(Full::new(body)).expect("a request");
        let answer = self.http.request(request).await.ok()?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An address for a program that can't be told to choose one.
pub fn free() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    listener.local_addr().expect("it is bound")
}

pub const BAO: &str = "parts/openbao/bao";
const ROOT: &str = "root";
const LIMIT: Duration = Duration::from_secs(30);
