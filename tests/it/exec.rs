//! `tollgate exec` as a user runs it: the built program, real clients, a real kernel.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::actors::Origin;

const NAME: &str = "api.example.test";

/// What makes an origin known to `tollgate exec`, on the loopback outside.
struct Known {
    allow: String,
    dir: tempfile::TempDir,
}

impl Known {
    fn of(origin: &Origin) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        // Also for the user that some tests change to.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        fs::write(dir.path().join("root.pem"), &origin.root).expect("written");
        Self { allow: format!("{NAME}:{}=127.0.0.1", origin.addr.port()), dir }
    }

    fn to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.args(["--allow", &self.allow, "--origin-root"]).arg(self.dir.path().join("root.pem"))
    }
}

/// `tollgate exec` from an environment that says nothing of proxies and certificates.
fn tollgate(fence: &str) -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_tollgate")), fence)
}

fn clean(mut command: Command, fence: &str) -> Command {
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
    command.env("HOME", "/").env("NO_PROXY", "*").args(["exec", "--fence", fence]);
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().expect("it can be run");
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    (status.code().expect("not killed"), text(&stdout), text(&stderr))
}

/// Whether this machine gives namespaces; in CI it must.
fn fence_can_be_had() -> bool {
    let (code, _, stderr) = run(tollgate("netns").args(["--", "true"]));
    if code == 0 {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "no fence: {stderr}");
    println!("skipped: needs user namespaces and ip: {stderr}");
    false
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(found || std::env::var_os("CI").is_none(), "{program} is missing");
    if !found {
        println!("skipped: needs {program}");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_proxies_reaches_an_allowed_origin() {
    let origin = Origin::https(NAME).start().await;
    let known = Known::of(&origin);
    let fences: &[&str] = if fence_can_be_had() { &["env", "netns"] } else { &["env"] };
    for fence in fences {
        let ran = run(known.to(&mut tollgate(fence)).args(["--", "curl", "-sS", &origin.url("/v1")]));
        assert_eq!(ran, (0, "GET /v1".into(), String::new()), "{fence}");
    }
    assert_eq!(origin.requests().len(), fences.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ignores_proxies_is_captured() {
    if !fence_can_be_had() || !has("node") {
        return;
    }
    let origin = Origin::https(NAME).start().await;
    let (known, url) = (Known::of(&origin), origin.url("/v1"));
    let ran = run(known.to(&mut tollgate("netns")).args(["--", "curl", "-sS", "--noproxy", "*", &url]));
    assert_eq!(ran, (0, "GET /v1".into(), String::new()));
    let script = format!("fetch('{url}').then(r => r.text()).then(t => console.log(t))");
    let node = ["--", "env", "-u", "NODE_USE_ENV_PROXY", "node", "-e", &script];
    assert_eq!(run(known.to(&mut tollgate("netns")).args(node)), (0, "GET /v1".into(), String::new()));
    assert_eq!(origin.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_fenced_in_as_well() {
    if !fence_can_be_had() || !rustix::process::getuid().is_root() {
        println!("skipped: needs root to become another user");
        return;
    }
    let origin = Origin::https(NAME).start().await;
    let mut as_user = Command::new("setpriv");
    as_user.args(["--reuid=1000", "--regid=1000", "--clear-groups", env!("CARGO_BIN_EXE_tollgate")]);
    let mut as_user = clean(as_user, "netns");
    let script = format!("id -u; curl -sS --noproxy '*' {}", origin.url("/v1"));
    let ran = run(Known::of(&origin).to(&mut as_user).args(["--", "sh", "-c", &script]));
    assert_eq!(ran, (0, "1000\nGET /v1".into(), String::new()));
}

#[test]
fn what_is_not_allowed_never_leaves() {
    if !fence_can_be_had() || !has("python3") {
        return;
    }
    // Listeners outside that must hear nothing.
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let (tcp_port, udp_port) = (tcp.local_addr().expect("bound").port(), udp.local_addr().expect("bound").port());
    let script = format!(
        r"
import socket
def tcp(family, address):
    try:
        with socket.socket(family) as s:
            s.settimeout(10)
            s.connect(address)
            s.sendall(b'SSH-2.0-x\r\n')
            return 'open' if s.recv(1) else 'closed'
    except OSError as error:
        return 'refused'
def udp(family, address):
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.sendto(b'x', address)
            return 'sent'
    except OSError as error:
        return 'refused'
def name(name):
    try:
        return socket.getaddrinfo(name, 443)[0][4][0]
    except OSError:
        return 'unknown'
print(tcp(socket.AF_INET, ('203.0.113.7', 22)))
print(tcp(socket.AF_INET, ('169.254.169.254', 80)))
print(tcp(socket.AF_INET, ('127.0.0.1', {tcp_port})))
print(tcp(socket.AF_INET6, ('2001:db8::7', 443)))
print(udp(socket.AF_INET, ('203.0.113.7', 443)))
print(udp(socket.AF_INET6, ('2001:db8::7', 443)))
print(name('not-allowed.example.test'))
print(name('api.example.test').startswith('198.18.'))
udp(socket.AF_INET, ('127.0.0.1', {udp_port}))
"
    );
    let mut exec = tollgate("netns");
    let (code, stdout, stderr) = run(exec.args(["--allow", "api.example.test", "--", "python3", "-c", &script]));
    assert_eq!(code, 0, "{stderr}");
    let answers: Vec<&str> = stdout.lines().collect();
    assert!(answers[..4].iter().all(|answer| matches!(*answer, "closed" | "refused")), "{answers:?}");
    assert_eq!(answers[4..], ["refused", "refused", "unknown", "True"]);
    tcp.set_nonblocking(true).expect("set");
    assert!(tcp.accept().is_err(), "nothing connected from inside");
    udp.set_read_timeout(Some(Duration::from_millis(1))).expect("set");
    assert!(udp.recv(&mut [0; 8]).is_err(), "nothing was sent from inside");
}

#[test]
fn the_rules_can_not_be_changed_from_inside() {
    if !fence_can_be_had() {
        return;
    }
    let script = "nft flush ruleset; ip link set lo down; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status";
    let path = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin";
    let (_, stdout, stderr) = run(tollgate("netns").env("PATH", path).args(["--", "sh", "-c", script]));
    assert_eq!(stdout, "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1");
    assert!(stderr.contains("not permitted"), "{stderr}");
}

#[test]
fn the_commands_own_loopback_is_its_own() {
    if !fence_can_be_had() || !has("python3") || !has("curl") {
        return;
    }
    let script = r"
import http.server, subprocess, threading
server = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = 'http://localhost:%d/' % server.server_port
print(subprocess.run(['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', url], capture_output=True, text=True).stdout)
";
    let (code, stdout, stderr) = run(tollgate("netns").args(["--", "python3", "-c", script]));
    assert_eq!((code, stdout.as_str()), (0, "200"), "{stderr}");
}

#[test]
fn the_exit_code_is_the_commands() {
    let fences: &[&str] = if fence_can_be_had() { &["env", "netns"] } else { &["env"] };
    for fence in fences {
        for (command, expected) in [
            (&["sh", "-c", "exit 0"][..], 0),
            (&["sh", "-c", "exit 7"], 7),
            (&["sh", "-c", "kill -KILL $$"], 137),
            (&["no-such-program-here"], 127),
            (&["/"], 126),
        ] {
            let (code, _, stderr) = run(tollgate(fence).arg("--").args(command));
            assert_eq!(code, expected, "{fence} {command:?}: {stderr}");
        }
    }
}

#[test]
fn standard_input_reaches_the_command() {
    let fences: &[&str] = if fence_can_be_had() { &["env", "netns"] } else { &["env"] };
    for fence in fences {
        let mut command = tollgate(fence);
        command.args(["--", "tr", "a-z", "A-Z"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be run");
        child.stdin.take().expect("a pipe").write_all(b"through").expect("written");
        let output = child.wait_with_output().expect("ended");
        assert_eq!(output.stdout, b"THROUGH", "{fence}");
    }
}

#[test]
fn a_signal_reaches_the_command() {
    let fences: &[&str] = if fence_can_be_had() { &["env", "netns"] } else { &["env"] };
    for fence in fences {
        let mut command = tollgate(fence);
        // The command says when it is ready, so that nothing is sent too early.
        let script = "trap 'exit 42' TERM; echo ready; while :; do read -r line || sleep 1; done";
        command.args(["--", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be run");
        let mut ready = [0; 6];
        child.stdout.as_mut().expect("a pipe").read_exact(&mut ready).expect("it says so");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("sent");
        let status = child.wait().expect("ended");
        assert_eq!(status.code(), Some(42), "{fence}");
    }
}

#[test]
fn the_sidecars_own_secret_is_not_inherited() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("tollgate.yaml");
    fs::write(
        &config,
        r#"
agent: {name: t, identity: {kind: static, id: t}}
destinations: {api: {hosts: [api.example.com], credential: token}}
credentials:
  token:
    kind: oauth_client_credentials
    token_endpoint: "https://issuer.example.com/token"
    client: {id: t, secret: {env: OAUTH_SECRET}}
"#,
    )
    .expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["exec", "--fence", "env", "--config"])
        .arg(&config)
        .args(["--", "env"])
        .env("OAUTH_SECRET", "canary-of-the-sidecar")
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("HTTPS_PROXY"), "{output:?}");
    assert!(!text.contains("canary-of-the-sidecar"), "{text}");
}
