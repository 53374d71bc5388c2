//! A real PostgreSQL server on a Unix socket.

use std::{
    fs,
    os::unix::fs::chown,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::machine::said;

/// A server that trusts whoever reaches its socket. Ends when it is dropped.
pub struct Postgres {
    process: Child,
    dir: TempDir,
}

impl Postgres {
    /// Whether its programs are there; in CI they must be.
    pub fn is_there() -> bool {
        let there = programs().is_some();
        assert!(there || std::env::var_os("CI").is_none(), "PostgreSQL is missing; tests/parts/install installs it");
        if !there {
            println!("skipped: needs PostgreSQL (tests/parts/install)");
        }
        there
    }

    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        if rustix::process::getuid().is_root() {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("root may give it away");
        }
        let data = dir.path().join("data");
        let mut command = unprivileged("initdb");
        said(command.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]));
        let process = unprivileged("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c"])
            .arg(format!("unix_socket_directories={}", dir.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it can be started");
        let postgres = Self { process, dir };
        let ready = async {
            while !postgres.psql("select 1").output().is_ok_and(|output| output.status.success()) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LIMIT, ready).await.expect("it is ready in time");
        postgres
    }

    /// How to come in as its superuser.
    pub fn url(&self) -> String {
        format!("postgresql:///postgres?host={}&user=postgres&sslmode=disable", self.dir.path().display())
    }

    /// The roles that may log in, but for the superuser.
    pub fn roles(&self) -> Vec<String> {
        let roles = self.ask("select rolname from pg_roles where rolcanlogin and not rolsuper order by rolname");
        roles.lines().map(str::to_owned).collect()
    }

    pub fn ask(&self, query: &str) -> String {
        said(&mut self.psql(query)).trim().to_owned()
    }

    fn psql(&self, query: &str) -> Command {
        let mut command = Command::new(programs().expect("it was started").join("psql"));
        command.env_clear().arg("-h").arg(self.dir.path()).args(["-U", "postgres", "-d", "postgres", "-Atc", query]);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The server refuses to run as root. It ends with the thread that starts it, also where that is killed.
fn unprivileged(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if rustix::process::getuid().is_root() {
        let nobody = NOBODY.to_string();
        command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
    }
    command.arg(programs().expect("it is there").join(program)).env_clear().env("LC_ALL", "C.UTF-8");
    command
}

/// Debian keeps them off `PATH`, a directory for each version.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let programs = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    programs.filter(|programs| programs.join("initdb").is_file()).max()
}

const NOBODY: u32 = 65534;
const LIMIT: Duration = Duration::from_secs(30);
