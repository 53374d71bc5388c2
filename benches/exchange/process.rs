//! The other processes: started from this program, told what to be, ended when nobody holds them any more.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::wire::Wire;

/// Stands before a role's name and setting on the command line.
pub const ROLE: &str = "--role";

/// What a role is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setting {
    pub wire: Wire,
    pub scratch: PathBuf,
    pub origin: Option<SocketAddr>,
    /// What verifies the origin, in PEM.
    pub root: String,
    pub services: Option<SocketAddr>,
}

/// What a role tells when it can be used.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    pub addr: SocketAddr,
    /// What verifies it, in PEM.
    pub root: String,
    pub health: Option<SocketAddr>,
}

/// A process that plays a role. It ends when this is dropped, or when this process is gone.
pub struct Process {
    pub ready: Ready,
    child: Child,
}

impl Setting {
    pub fn new(wire: Wire, scratch: &Path) -> Self {
        Self { wire, scratch: scratch.into(), origin: None, root: String::new(), services: None }
    }
}

impl Ready {
    /// Tells whoever started this process, then waits until it is gone.
    pub async fn until_released(&self) -> anyhow::Result<()> {
        println!("{}", serde_json::to_string(self)?);
        released().await;
        Ok(())
    }
}

/// Resolves when whoever started this process has let go of it.
pub async fn released() {
    let (gone, waiting) = oneshot::channel();
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = gone.send(());
    });
    let _ = waiting.await;
}

impl Process {
    pub fn start(role: &str, setting: &Setting) -> anyhow::Result<Self> {
        let log = setting.scratch.join(format!("{role}.log"));
        let mut child = Command::new(std::env::current_exe()?)
            .args([ROLE, role, &serde_json::to_string(setting)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("{role} can't be started"))?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let (told, ready) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = told.send(line);
        });
        let line = ready.recv_timeout(START).unwrap_or_default();
        let ready = serde_json::from_str(&line).with_context(|| {
            let _ = child.kill();
            format!("{role} did not start: {}", fs::read_to_string(&log).unwrap_or_default())
        })?;
        Ok(Self { ready, child })
    }

    /// What it has used so far, in user and kernel mode.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name comes second, in brackets, and may hold anything.
        let (_, rest) = stat.rsplit_once(')').context("the name is in brackets")?;
        let ticks: Vec<u64> = rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        Ok(TICK * u32::try_from(ticks.iter().sum::<u64>())?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let begun = Instant::now();
        while begun.elapsed() < STOP {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(10);
/// The unit of times in `/proc` on every Linux.
const TICK: Duration = Duration::from_millis(10);
