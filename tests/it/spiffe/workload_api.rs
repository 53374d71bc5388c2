//! A SPIFFE Workload API in a process of its own, which does what the test tells it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{clients::resolved, identity::Authority};

/// A running one. Ends when it is stopped or dropped.
pub struct WorkloadApi {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    socket: PathBuf,
}

impl WorkloadApi {
    /// Where the API of this authority is, or will be.
    pub fn socket(authority: &Authority) -> PathBuf {
        authority.dir.path().join("agent.sock")
    }

    /// Gives out certificates of this authority for this identity.
    pub async fn start(authority: &Authority, id: &str) -> Self {
        let (dir, socket) = (authority.dir.path(), Self::socket(authority));
        let mut process = Command::new(resolved(PYTHON))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts/spiffe/workload_api.py"))
            .args([&socket, &dir.join("ca.pem"), &dir.join("ca.key")])
            .arg(id)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Python can be started");
        let input = process.stdin.take().expect("it is piped");
        let output = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let mut api = Self { process, input, output, socket };
        assert_eq!(api.answer().await, "ready");
        api
    }

    /// Tells it one command, and gives its answer.
    pub async fn tell(&mut self, command: &str) -> String {
        self.input.write_all(format!("{command}\n").as_bytes()).await.expect("it listens");
        self.answer().await
    }

    /// Ends it, and takes its socket away.
    pub async fn stop(mut self) {
        self.process.kill().await.expect("it can be ended");
        // Python may have removed it.
        let _ = std::fs::remove_file(&self.socket);
    }

    async fn answer(&mut self) -> String {
        let line = timeout(LIMIT, self.output.next_line()).await.expect("it answers in time");
        line.expect("it can be read").expect("it runs")
    }
}

pub const PYTHON: &str = "parts/python/bin/python";
const LIMIT: Duration = Duration::from_secs(20);
