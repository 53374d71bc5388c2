//! The issuer, in a process of its own.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStdin, Command},
    sync::Mutex,
    time::timeout,
};

use crate::clients::resolved;

/// A running issuer. Ends when it is dropped.
pub struct Provider {
    pub issuer: String,
    /// What verifies its assertions.
    pub key: Value,
    input: Mutex<ChildStdin>,
    _process: Child,
}

impl Provider {
    pub async fn start(settings: &Value) -> Self {
        let mut process = Command::new(resolved(NODE))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/brokers/oidc/issuer.mjs"))
            .arg(resolved(NODE_MODULES))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("Node can be started");
        let input = Mutex::new(process.stdin.take().expect("it is piped"));
        let mut output = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        say(&input, settings).await;
        let line = timeout(LIMIT, output.next_line()).await.expect("it starts in time").expect("it can be read");
        let mut told: Value = serde_json::from_str(&line.expect("it runs")).expect("it says JSON");
        let issuer = told["issuer"].as_str().expect("text").to_owned();
        Self { issuer, key: told["key"].take(), input, _process: process }
    }

    /// Tells it what it could not know before.
    pub async fn tell(&self, more: &Value) {
        say(&self.input, more).await;
    }

    /// What it says of a token, to the origin.
    pub async fn introspect(&self, token: &str) -> Value {
        let addr: SocketAddr = self.issuer.strip_prefix("http://").and_then(|at| at.parse().ok()).expect("an address");
        let stream = TcpStream::connect(addr).await.expect("it listens");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("it speaks HTTP");
        let request = Request::post("/token/introspection")
            .header(header::HOST, addr.to_string())
            .header(header::AUTHORIZATION, format!("Basic {}", STANDARD.encode("origin:origin")))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(format!("token={token}"))))
            .expect("a request");
        let answer = async {
            let response = sender.send_request(request).await.expect("it answers");
            response.into_body().collect().await.expect("it answers whole").to_bytes()
        };
        tokio::select! {
            answer = answer => serde_json::from_slice(&answer).expect("it says JSON"),
            _ = connection => panic!("the connection ended before its answer"),
        }
    }
}

async fn say(input: &Mutex<ChildStdin>, what: &Value) {
    input.lock().await.write_all(format!("{what}\n").as_bytes()).await.expect("it reads");
}

/// The Node that the package runs on is newer than that of some systems.
const NODE: &str = "parts/python/nodejs/bin/node";
const NODE_MODULES: &str = "parts/node/node_modules";
pub const NEEDS: &[&str] = &[NODE, "parts/node/node_modules/oidc-provider"];
const LIMIT: Duration = Duration::from_secs(20);
