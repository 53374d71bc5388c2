//! The fence in a real kernel: the table is what `nft` makes of it, it is replaced at once, and its check finds holes.

use std::{
    net::UdpSocket,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use tollgate::kubernetes::fence::{
    self, Failure, Fence, Standing,
    check::{Report, Way},
    rules,
};

use crate::machine::{Namespace, Network, TOLLGATE, can_be_had, said};

#[test]
fn the_kernel_has_the_same_table_from_us_as_from_nft() {
    if !can_be_had() {
        return;
    }
    let (ours, theirs) = (Namespace::new(), Namespace::new());
    for fence in [Fence::default(), Fence { exempt: vec![1337, 2102], dns: 5353, ..Fence::default() }] {
        ours.within(|| fence::apply(&fence.table())).expect("root may");
        theirs.nft(&fence.table().replacement());
        let list = |namespace: &Namespace| namespace.sh("nft list ruleset");
        assert_eq!(list(&ours), list(&theirs));
        // What nft made reads as ours as well.
        assert_eq!(theirs.within(|| fence::standing(&fence.table())).expect("root may"), Standing::Whole);
    }
}

#[test]
fn a_table_that_was_changed_is_told_from_one_that_stands() {
    if !can_be_had() {
        return;
    }
    let (pod, table) = (Namespace::new(), Fence::default().table());
    let standing = || pod.within(|| fence::standing(&table)).expect("root may");
    assert_eq!(standing(), Standing::Absent);
    for change in [
        "nft insert rule inet tollgate fence accept",
        "nft add rule inet tollgate capture udp dport 443 accept",
        "nft flush chain inet tollgate door",
        "nft delete chain inet tollgate wall",
        "nft add chain inet tollgate more",
        "nft replace rule inet tollgate fence handle $(nft -a list chain inet tollgate fence | sed -n 's/.*skuid 15000 .*handle //p' | head -1) meta skuid 1000 accept",
        "nft chain inet tollgate fence '{ policy accept; }'",
        "nft 'add table inet tollgate { flags dormant; }'",
        "nft flush table inet tollgate",
        "for chain in capture fence wall door; do nft delete chain inet tollgate $chain; done",
    ] {
        pod.within(|| fence::apply(&table)).expect("root may");
        assert_eq!(standing(), Standing::Whole);
        pod.sh(change);
        assert!(matches!(standing(), Standing::Differs(_)), "{change}: {:?}", standing());
    }
    pod.within(|| fence::remove(rules::NAME)).expect("root may");
    pod.within(|| fence::remove(rules::NAME)).expect("what is gone can be removed");
    assert_eq!(standing(), Standing::Absent);
}

#[test]
fn a_fence_is_replaced_without_a_gap() {
    if !can_be_had() {
        return;
    }
    let network = Network::new();
    let table = Fence::default().table();
    network.pod.within(|| fence::apply(&table)).expect("root may");
    let send = || UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"x", "192.0.2.1:9"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            network.pod.within(|| {
                let mut tried = 0;
                while !stop.load(Ordering::Relaxed) {
                    assert!(send().is_err(), "it is refused at any time");
                    tried += 1;
                }
                tried
            })
        });
        network.pod.within(|| (0..200).for_each(|_| fence::apply(&table).expect("root may")));
        stop.store(true, Ordering::Relaxed);
        assert!(sender.join().expect("nothing was sent") > 200);
    });
    assert!(network.escaped().is_empty(), "{:?}", network.escaped());

    network.pod.within(|| fence::remove(rules::NAME)).expect("root may");
    network.pod.within(send).expect("nothing stands any more");
    assert_eq!(network.escaped().get("udp"), Some(&1), "the world does see what is sent");
}

#[test]
fn nothing_answers_to_an_address_that_a_process_chose() {
    if !can_be_had() {
        return;
    }
    let network = Network::new();
    let pod = &network.pod;
    pod.within(|| fence::apply(&Fence::default().table())).expect("root may");
    pod.sh("echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range");
    let call = || {
        let mut command = pod.command("setpriv");
        said(command.args(WITHOUT_RIGHTS).args(["/usr/bin/python3", "-c", IN_ANOTHERS_NAME]))
    };
    call();
    assert!(network.escaped().is_empty(), "{:?}", network.escaped());

    pod.sh(WITHOUT_OWNERS);
    call();
    assert!(!network.escaped().contains_key("tcp"), "{:?}", network.escaped());

    pod.sh(ANYBODYS_NAME);
    call();
    let escaped = network.escaped();
    for way in ["tcp", "echo", "error"] {
        assert!(escaped.contains_key(way), "the world does see {way}: {escaped:?}");
    }
}

#[test]
fn without_the_right_to_it_nothing_changes() {
    if !can_be_had() {
        return;
    }
    let pod = Namespace::new();
    let output =
        pod.command("setpriv").args(WITHOUT_RIGHTS).args([TOLLGATE, "fence", "apply"]).output().expect("started");
    assert_eq!(output.status.code(), Some(77));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("does not permit") && text.contains("hint: it needs the capability NET_ADMIN"), "{text}");
    assert_eq!(pod.within(|| fence::standing(&Fence::default().table())).expect("root may"), Standing::Absent);
    assert!(matches!(Failure::from(std::io::Error::from_raw_os_error(1)), Failure::NotPermitted));
}

#[test]
fn what_is_printed_is_what_is_applied() {
    let print = |more: &[&str]| said(Command::new(TOLLGATE).args(["fence", "print"]).args(more));
    assert_eq!(print(&[]), Fence::default().table().replacement());
    let changed = Fence { uid: 7, exempt: vec![8, 9], proxy: 1, transparent: 2, dns: 3 };
    let flags = "--uid 7 --exempt-uid 8 --exempt-uid 9 --proxy-port 1 --transparent-port 2 --dns-port 3";
    assert_eq!(print(&flags.split(' ').collect::<Vec<_>>()), changed.table().replacement());
    for wrong in [["--uid", "0"], ["--exempt-uid", "0"], ["--dns-port", "15001"]] {
        let output = Command::new(TOLLGATE).args(["fence", "print"]).args(wrong).output().expect("started");
        assert_eq!(output.status.code(), Some(64), "{wrong:?}");
    }
}

/// Calls servers of the pod in the name of an address outside, so that they, or the kernel for them, answer there.
const IN_ANOTHERS_NAME: &str = r#"
import socket as s
FREEBIND, OUTSIDE, POD = 78, "2001:db8::7", "fd77::2"
def outside(kind, protocol=0):
    c = s.socket(s.AF_INET6, kind, protocol)
    c.setsockopt(s.IPPROTO_IPV6, FREEBIND, 1)
    c.bind((OUTSIDE, 7777))
    c.setblocking(False)
    return c
def attempt(act):
    try:
        act()
    except OSError as error:
        print(error)
server = s.socket(s.AF_INET6)
server.bind((POD, 9000))
server.listen()
attempt(lambda: outside(s.SOCK_STREAM).connect((POD, 9000)))
attempt(lambda: outside(s.SOCK_DGRAM, s.IPPROTO_ICMPV6).sendto(b"\x80\0\0\0\0\1\0\1secret", (POD, 0)))
attempt(lambda: outside(s.SOCK_DGRAM).sendto(b"secret", (POD, 9)))
attempt(lambda: outside(s.SOCK_DGRAM).sendto(b"secret", ("2001:db8::1", 9)))
"#;

/// One way in which a fence is broken, and where the check must find it.
struct Hole {
    name: &'static str,
    /// Done in the pod after the fence stands.
    made: &'static str,
    /// How the check is started, but for its user.
    rights: &'static [&'static str],
    uid: u32,
    more: &'static [&'static str],
    shared_processes: bool,
    found: &'static [Way],
}

const NO_HOLE: Hole =
    Hole { name: "none", made: "true", rights: NO_RIGHTS, uid: 15001, more: &[], shared_processes: false, found: &[] };

const NO_RIGHTS: &[&str] = &["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"];
const WITHOUT_RIGHTS: &[&str] =
    &["--reuid=15001", "--regid=15001", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"];

const ANYBODYS_NAME: &str = "nft -a list chain inet tollgate fence | sed -n 's/.*fib saddr.*handle //p' |
    while read -r handle; do nft delete rule inet tollgate fence handle $handle; done";

/// What is left of the fence for a socket that the kernel opened in place of a process.
const WITHOUT_OWNERS: &str = "nft delete rule inet tollgate fence handle \
    $(nft -a list chain inet tollgate fence | sed -n 's/.*skuid != 15000 fib saddr.*handle //p')";

const HOLES: &[Hole] = &[
    Hole {
        name: "there is no fence",
        made: "nft delete table inet tollgate",
        found: &[Way::Tcp, Way::Udp, Way::Dns, Way::Icmp, Way::Source],
        ..NO_HOLE
    },
    Hole {
        name: "IPv6 was forgotten",
        made: "for chain in capture fence wall; do nft insert rule inet tollgate $chain meta nfproto ipv6 accept; done",
        found: &[Way::Tcp, Way::Udp, Way::Dns, Way::Icmp, Way::Source],
        ..NO_HOLE
    },
    Hole {
        name: "only the usual ports are captured",
        made: "for chain in capture fence wall; do nft insert rule inet tollgate $chain tcp dport 22 accept; done",
        found: &[Way::Tcp],
        ..NO_HOLE
    },
    Hole {
        name: "the metadata service is exempt",
        made: "for chain in capture fence wall; do nft insert rule inet tollgate $chain ip daddr 169.254.169.254 accept; done",
        found: &[Way::Tcp],
        ..NO_HOLE
    },
    Hole {
        name: "QUIC is let out",
        made: "for chain in fence wall; do nft insert rule inet tollgate $chain udp dport 443 accept; done",
        found: &[Way::Udp],
        ..NO_HOLE
    },
    Hole {
        name: "other resolvers can be asked",
        made: "for chain in capture fence wall; do nft insert rule inet tollgate $chain udp dport 53 accept; done",
        found: &[Way::Dns],
        ..NO_HOLE
    },
    Hole {
        name: "other resolvers can be asked over TCP",
        made: "for chain in capture fence wall; do nft insert rule inet tollgate $chain tcp dport 53 accept; done",
        found: &[Way::Dns],
        ..NO_HOLE
    },
    Hole {
        name: "echo requests are let out",
        made: "for chain in fence wall; do nft insert rule inet tollgate $chain meta l4proto icmp accept; done",
        found: &[Way::Icmp],
        ..NO_HOLE
    },
    Hole {
        name: "the agent's user is let out",
        made: "for chain in capture fence wall; do nft insert rule inet tollgate $chain meta skuid 15001 accept; done",
        found: &[Way::Tcp, Way::Udp, Way::Dns, Way::Icmp, Way::Source],
        ..NO_HOLE
    },
    Hole {
        name: "the table is switched off",
        made: "nft 'add table inet tollgate { flags dormant; }'",
        found: &[Way::Tcp, Way::Udp, Way::Dns, Way::Icmp, Way::Source],
        ..NO_HOLE
    },
    Hole { name: "a process can send in another's name", made: ANYBODYS_NAME, found: &[Way::Source], ..NO_HOLE },
    Hole {
        name: "nothing stands behind routing",
        made: "nft delete chain inet tollgate wall",
        found: &[Way::Udp],
        ..NO_HOLE
    },
    Hole {
        name: "it is the sidecar's user",
        uid: 15000,
        found: &[Way::Tcp, Way::Udp, Way::Dns, Way::Icmp, Way::Source, Way::User, Way::Process],
        ..NO_HOLE
    },
    Hole {
        name: "it is root and can become the sidecar",
        uid: 0,
        rights: &["--bounding-set=-all,+setuid", "--no-new-privs"],
        found: &[Way::User, Way::Capability],
        ..NO_HOLE
    },
    Hole {
        name: "it may open raw sockets",
        rights: &[
            "--no-new-privs",
            "--bounding-set=-all,+net_raw",
            "--inh-caps=-all,+net_raw",
            "--ambient-caps=+net_raw",
        ],
        found: &[Way::Raw, Way::Capability],
        ..NO_HOLE
    },
    Hole {
        name: "it may change the table",
        rights: &[
            "--no-new-privs",
            "--bounding-set=-all,+net_admin",
            "--inh-caps=-all,+net_admin",
            "--ambient-caps=+net_admin",
        ],
        found: &[Way::Rules, Way::Capability],
        ..NO_HOLE
    },
    Hole {
        name: "it may trace the sidecar",
        rights: &[
            "--no-new-privs",
            "--bounding-set=-all,+sys_ptrace",
            "--inh-caps=-all,+sys_ptrace",
            "--ambient-caps=+sys_ptrace",
        ],
        found: &[Way::Capability],
        ..NO_HOLE
    },
    Hole {
        name: "it can gain capabilities",
        rights: &["--bounding-set=-all,+net_admin", "--inh-caps=-all"],
        found: &[Way::Capability],
        ..NO_HOLE
    },
    Hole { name: "it sees the sidecar's processes", shared_processes: true, found: &[Way::Process], ..NO_HOLE },
    Hole {
        name: "it can read the authority's key",
        more: &["--hidden", "/etc/passwd"],
        found: &[Way::File],
        ..NO_HOLE
    },
];

#[test]
fn a_fence_that_holds_is_found_to_hold() {
    if !can_be_had() {
        return;
    }
    let network = Network::new();
    let report = checked(&network, &NO_HOLE);
    assert_eq!(found(&report), []);
    assert!(report.holds && report.uid == 15001);
    let captured = report.findings.iter().filter(|finding| finding.seen.starts_with("captured")).count();
    assert!(captured >= 18, "IPv4 and IPv6 both have a route here: {report}");
    assert!(network.escaped().is_empty(), "{:?}", network.escaped());
}

#[test]
fn every_hole_is_found_and_no_other() {
    if !can_be_had() {
        return;
    }
    // A process of the sidecar's, for the pod whose processes are shared.
    let mut sleep = Command::new("sleep");
    let sidecar = Ended(sleep.arg("infinity").uid(15000).spawn().expect("root may"));
    thread::scope(|scope| {
        for hole in HOLES {
            scope.spawn(move || {
                let report = checked(&Network::new(), hole);
                assert_eq!(found(&report), hole.found, "{}:\n{report}", hole.name);
                assert!(!report.holds, "{}", hole.name);
            });
        }
    });
    drop(sidecar);
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kinds of leak, each once, in the order of their finding.
fn found(report: &Report) -> Vec<Way> {
    let mut ways: Vec<Way> = report.leaks().map(|leak| leak.way).collect();
    ways.dedup();
    let mut once = Vec::new();
    for way in [
        Way::Tcp,
        Way::Udp,
        Way::Dns,
        Way::Icmp,
        Way::Source,
        Way::Raw,
        Way::Relay,
        Way::User,
        Way::Rules,
        Way::Capability,
        Way::Process,
        Way::File,
    ] {
        if ways.contains(&way) {
            once.push(way);
        }
    }
    once
}

/// What the check says of a fence with this hole, where no sidecar serves yet.
fn checked(network: &Network, hole: &Hole) -> Report {
    let pod = &network.pod;
    pod.within(|| fence::apply(&Fence::default().table())).expect("root may");
    // As the runtimes of Kubernetes have it.
    pod.sh("echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range");
    pod.sh(hole.made);
    let mut command = if hole.shared_processes {
        pod.command("setpriv")
    } else {
        let mut command = pod.command("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "setpriv"]);
        command
    };
    command.arg(format!("--reuid={}", hole.uid)).arg(format!("--regid={}", hole.uid)).arg("--clear-groups");
    command.args(hole.rights).args([TOLLGATE, "fence", "check", "--output", "json"]).args(hole.more);
    let output = command.stderr(Stdio::piped()).output().expect("it can be started");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{}: {error}: {stderr}", hole.name));
    assert_eq!(output.status.code(), Some(i32::from(!report.holds)), "{}: {stderr}", hole.name);
    report
}
