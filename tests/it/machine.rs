//! Network namespaces of this machine: a pod's, and that of the world behind it, which counts what it sees.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Output, Stdio},
    thread,
};

use nix::sched::{CloneFlags, setns};

/// A network namespace. It ends when it is dropped, and what is left in it loses its network.
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    pub fn new() -> Self {
        let script = "ip link set lo up && echo ready && exec sleep infinity";
        let mut command = ending_with_us("unshare");
        command.args(["--net", "sh", "-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("unshare is there");
        holder.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 6]).expect("it is ready");
        Self { holder }
    }

    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// A program inside, from an environment that says nothing.
    pub fn command(&self, program: &str) -> Command {
        let mut command = ending_with_us("nsenter");
        command.arg(format!("--net={}", self.path())).arg("--").arg(program);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    }

    /// What a script inside says, which must succeed.
    pub fn sh(&self, script: &str) -> String {
        said(self.command("sh").args(["-euc", script]))
    }

    /// Hands rules to `nft` inside.
    pub fn nft(&self, rules: &str) {
        let mut command = self.command("nft");
        let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is there");
        child.stdin.take().expect("a pipe").write_all(rules.as_bytes()).expect("it reads");
        assert!(child.wait().expect("it ends").success(), "{rules}");
    }

    /// Does something on a thread that is inside. Sockets that it makes stay inside.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(self.path()).expect("it is there");
        let inside = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter it");
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join().expect("it does not panic"))
    }

    pub fn listen(&self, address: &str) -> TcpListener {
        let address: SocketAddr = address.parse().expect("an address");
        self.within(|| TcpListener::bind(address).expect("it is free"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A pod's network and the world's, with a cable between.
pub struct Network {
    pub pod: Namespace,
    pub world: Namespace,
}

impl Network {
    pub fn new() -> Self {
        let (pod, world) = (Namespace::new(), Namespace::new());
        world.sh(&format!("ip link add out0 type veth peer name eth0 netns {}", pod.holder.id()));
        world.sh(&format!(
            "ip addr add {WORLD4}/24 dev out0; ip -6 addr add {WORLD6}/64 dev out0 nodad; ip link set out0 up"
        ));
        pod.sh(&format!(
            "ip addr add {POD4}/24 dev eth0; ip -6 addr add {POD6}/64 dev eth0 nodad; ip link set eth0 up
             ip route add default via {WORLD4}; ip -6 route add default via {WORLD6}"
        ));
        world.nft(COUNTERS);
        Self { pod, world }
    }

    /// What came out of the pod that only an agent would send, by kind.
    pub fn escaped(&self) -> BTreeMap<String, u64> {
        let text = self.world.sh("nft list counters table inet seen");
        let words: Vec<&str> = text.split_whitespace().collect();
        let counters = words.windows(5).filter(|part| part[0] == "counter" && part[3] == "packets");
        let count = |part: &[&str]| (part[1].trim_start_matches("of_").to_owned(), part[4].parse().expect("a number"));
        counters.map(count).filter(|(_, packets)| *packets > 0).collect()
    }
}

/// A program that is killed when the thread that starts it ends, also where that is killed itself.
pub fn ending_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// What a program says, which must succeed.
pub fn said(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("it can be started");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {stdout}{stderr}");
    stdout.into_owned()
}

/// Whether this machine gives network namespaces and has `nft` to hold ours against; in CI it must.
pub fn can_be_had() -> bool {
    let there =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    let root = rustix::process::getuid().is_root();
    let made = root && Command::new("unshare").args(["--net", "true"]).status().is_ok_and(|status| status.success());
    let tools = ["nft", "nsenter", "setpriv"].iter().all(|program| there(program));
    assert!((made && tools) || std::env::var_os("CI").is_none(), "needs root, nft, nsenter and setpriv");
    if !made || !tools {
        println!("skipped: needs root, nft, nsenter and setpriv");
    }
    made && tools
}

/// The program under test.
pub const TOLLGATE: &str = env!("CARGO_BIN_EXE_tollgate");

pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub const POD4: &str = "10.77.0.2";
pub const WORLD4: &str = "10.77.0.1";
const POD6: &str = "fd77::2";
const WORLD6: &str = "fd77::1";

/// The sidecar calls the world at one address over TCP. Neighbours are found by multicast and ICMP, which is no escape.
const COUNTERS: &str = "
table inet seen {
  counter of_tcp { }
  counter of_udp { }
  counter of_echo { }
  counter of_error { }
  counter of_other { }
  chain in {
    type filter hook prerouting priority -300; policy accept;
    iifname != \"out0\" accept
    ip daddr 10.77.0.1 meta l4proto tcp accept
    ip6 daddr fd77::1 meta l4proto tcp accept
    meta l4proto tcp counter name \"of_tcp\" drop
    meta l4proto udp counter name \"of_udp\" drop
    icmp type { echo-request, echo-reply } counter name \"of_echo\" drop
    icmpv6 type { echo-request, echo-reply } counter name \"of_echo\" drop
    icmp type destination-unreachable counter name \"of_error\" drop
    icmpv6 type destination-unreachable counter name \"of_error\" drop
    meta l4proto { icmp, ipv6-icmp } accept
    counter name \"of_other\" drop
  }
}
";
