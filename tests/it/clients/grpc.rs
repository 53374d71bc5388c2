//! grpcio, in front of a server of the same library.

use std::{fs, path::Path, process::Stdio};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use super::{CLIENTS, LIMIT, NO_WRITES, PYTHON, Says, are_there, clean, cleaned, lines, resolved, sorted, trusted};
use crate::actors::Sidecar;

/// A gRPC server on loopback. Ends when it is dropped.
struct Server {
    port: u16,
    /// What verifies it, in PEM.
    root: String,
    process: Child,
    said: BufReader<ChildStdout>,
}

#[tokio::test]
async fn python_grpcio() {
    if !are_there(&[PYTHON]) {
        return;
    }
    let server = Server::start("grpc.example.test").await;
    let destination = json!({"hosts": ["grpc.example.test"], "ports": [server.port], "addresses": ["127.0.0.1"]});
    let setup = Sidecar::with_policy(NO_WRITES).set(json!({"destinations": {"grpc": destination}}));
    let mut sidecar = trusted(setup.file("roots.pem", &server.root)).await;
    let variables = [("https_proxy", Says::Proxy), ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", Says::Bundle)];
    let mut client = cleaned(&[PYTHON, "grpcio_client.py"], &variables, &sidecar);

    let origin = format!("grpc.example.test:{}", server.port);
    let told = lines(client.current_dir(CLIENTS).args([&origin, "paste.example.test:443"])).await;

    let denied = "DENIED PERMISSION_DENIED this task only reads";
    assert_eq!(told, ["UNARY hello", "STREAM 3", denied, "UNLISTED UNAVAILABLE"]);
    assert_eq!(server.called().await, "/test.Shop/Read\n/test.Shop/Watch\n");
    for _ in 0..4 {
        sidecar.ended().await;
    }
    let mut recorded = sorted(sidecar.records().await);
    // It may try an address that it can't reach more than once.
    recorded.dedup_by(|one, other| one == other && one.starts_with("CONNECT"));
    let expected = [
        "CONNECT paste.example.test unknown_destination",
        "POST grpc.example.test allow",
        "POST grpc.example.test allow",
        "POST grpc.example.test policy_denied",
    ];
    assert_eq!(recorded, expected);
}

impl Server {
    async fn start(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        let params = rcgen::CertificateParams::new([name.to_owned()]).expect("a host name");
        let root = params.self_signed(&key).expect("a certificate can be made").pem();
        let dir = tempfile::tempdir().expect("a directory");
        let files = ["certificate.pem", "key.pem"].map(|name| dir.path().join(name));
        fs::write(&files[0], &root).expect("it can be written");
        fs::write(&files[1], key.serialize_pem()).expect("it can be written");
        let mut command = Command::new(resolved(PYTHON));
        clean(&mut command, dir.path()).arg(Path::new(CLIENTS).join("grpcio_server.py")).args(files);
        let mut process = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it can be started");
        let mut said = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut port = String::new();
        timeout(LIMIT, said.read_line(&mut port)).await.expect("it starts in time").expect("it says its port");
        Self { port: port.trim().parse().expect("a port"), root, process, said }
    }

    /// Ends it. Tells which methods were called, a line each.
    async fn called(mut self) -> String {
        self.process.kill().await.expect("it can be ended");
        let mut called = String::new();
        self.said.read_to_string(&mut called).await.expect("what it said is text");
        called
    }
}
