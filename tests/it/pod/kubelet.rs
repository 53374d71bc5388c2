//! Runs a pod of this machine as the kubelet would: containers with views of their own, in the order of the manifest.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::machine::{Namespace, PATH, POD4, TOLLGATE};

/// A pod whose init containers have run, and whose sidecar runs.
pub struct Pod<'a> {
    // Ends before the files that it watches.
    sidecar: Option<Container>,
    network: &'a Namespace,
    world: &'a Namespace,
    spec: Value,
    volumes: TempDir,
}

/// A running container. It is killed when it is dropped.
pub struct Container(Child);

impl<'a> Pod<'a> {
    /// Starts what comes before the agents. `config_maps` are the files of each, by its name.
    pub fn start(
        network: &'a Namespace,
        world: &'a Namespace,
        spec: Value,
        config_maps: &BTreeMap<&str, BTreeMap<&str, String>>,
    ) -> Self {
        let volumes = tempfile::tempdir().expect("a directory");
        open_to_all(volumes.path());
        for volume in list(&spec, "volumes") {
            let dir = volumes.path().join(text(volume, "name"));
            fs::create_dir(&dir).expect("made");
            open_to_all(&dir);
            if let Some(name) = volume["configMap"]["name"].as_str() {
                for (file, content) in &config_maps[name] {
                    fs::write(dir.join(file), content).expect("written");
                }
            }
            for source in list(&volume["projected"], "sources") {
                let wanted = &source["serviceAccountToken"];
                fs::write(dir.join(text(wanted, "path")), token(wanted)).expect("written");
            }
        }
        let mut pod = Self { sidecar: None, network, world, spec, volumes };
        for container in list(&pod.spec, "initContainers").to_vec() {
            if container["restartPolicy"] == "Always" {
                pod.start_sidecar();
            } else {
                let output = pod.command(&container, None).output().expect("it can be started");
                let said = [output.stdout, output.stderr].concat();
                assert!(output.status.success(), "{}: {}", text(&container, "name"), String::from_utf8_lossy(&said));
            }
        }
        pod
    }

    /// Starts the sidecar's container, and waits for its startup probe.
    pub fn start_sidecar(&mut self) {
        let container = self.container("tollgate").clone();
        let log = fs::File::create(self.volumes.path().join("sidecar.log")).expect("made");
        let mut command = self.command(&container, None);
        self.sidecar = Some(Container(command.stdout(Stdio::null()).stderr(log).spawn().expect("it can be started")));
        let probe = &container["startupProbe"]["httpGet"];
        let (path, port) = (text(probe, "path").to_owned(), probe["port"].as_u64().expect("a port"));
        let address: SocketAddr = format!("{POD4}:{port}").parse().expect("an address");
        let end = Instant::now() + PATIENCE;
        while !self.world.within(|| probed(address, &path)) {
            let log = || fs::read_to_string(self.volumes.path().join("sidecar.log")).unwrap_or_default();
            assert!(Instant::now() < end, "the sidecar does not start: {}", log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What one of the pod's containers says when it is started with this command.
    pub fn run(&self, container: &str, command: &[&str]) -> Output {
        let spec = self.container(container).clone();
        self.command(&spec, Some(command)).stdin(Stdio::null()).output().expect("it can be started")
    }

    /// The same by another user, who sees what the container sees.
    pub fn run_as(&self, user: u32, container: &str, command: &[&str]) -> Output {
        let mut spec = self.container(container).clone();
        spec["securityContext"]["runAsUser"] = user.into();
        spec["securityContext"]["runAsGroup"] = user.into();
        self.command(&spec, Some(command)).stdin(Stdio::null()).output().expect("it can be started")
    }

    /// Starts one of the pod's containers with this command.
    pub fn begin(&self, container: &str, command: &[&str]) -> Container {
        let spec = self.container(container).clone();
        let mut command = self.command(&spec, Some(command));
        Container(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it can be started"))
    }

    /// Runs the manifest's containers as they are written, until the pod ends. Once all have that end by themselves, the
    /// one that would always run on is asked to end, and is killed if it does not within the pod's grace period. Tells
    /// what each said, and how it ended.
    pub fn complete(&mut self) -> BTreeMap<String, Output> {
        let mut running = Vec::new();
        for container in list(&self.spec, "containers") {
            let mut command = self.command(container, None);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            running.push((text(container, "name").to_owned(), command.spawn().expect("it can be started")));
        }
        let ended = running.into_iter().map(|(name, child)| (name, child.wait_with_output().expect("it is ours")));
        let mut ended: BTreeMap<String, Output> = ended.collect();
        let grace = self.spec["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        let sidecar = self.sidecar();
        sidecar.signal(Signal::TERM);
        let status = sidecar.ended_within(Duration::from_secs(grace));
        ended.insert("tollgate".to_owned(), Output { status, stdout: Vec::new(), stderr: Vec::new() });
        ended
    }

    pub fn sidecar(&mut self) -> &mut Container {
        self.sidecar.as_mut().expect("it was started")
    }

    /// A file of a volume, as the node sees it.
    pub fn file(&self, volume: &str, name: &str) -> PathBuf {
        self.volumes.path().join(volume).join(name)
    }

    fn container(&self, name: &str) -> &Value {
        let mut all = list(&self.spec, "initContainers").iter().chain(list(&self.spec, "containers"));
        all.find(|container| container["name"] == name).expect("the manifest has it")
    }

    /// `None` where it comes from a key that may be missing, and is.
    fn variable(&self, entry: &Value) -> Option<String> {
        let from = &entry["valueFrom"]["configMapKeyRef"];
        if from.is_null() {
            return Some(variable(entry));
        }
        let of_it = |volume: &&Value| volume["configMap"]["name"] == from["name"];
        let volume = list(&self.spec, "volumes").iter().find(of_it).expect("it is mounted too");
        match fs::read_to_string(self.file(text(volume, "name"), text(from, "key"))) {
            Ok(value) => Some(format!("{}={value}", text(entry, "name"))),
            Err(_) if from["optional"] == true => None,
            Err(error) => panic!("{from}: {error}"),
        }
    }

    /// A container's process: a root of its own, the volumes that it mounts, its user and its rights.
    fn command(&self, container: &Value, instead: Option<&[&str]>) -> Command {
        let root = self.volumes.path().join("root");
        let _ = fs::create_dir(&root);
        let mut script = format!("root={}\n{ROOT}", root.display());
        for mount in list(container, "volumeMounts") {
            let from = self.volumes.path().join(text(mount, "name"));
            // `/var/run` leads to `/run`, and runtimes follow links inside the container's root.
            let (from, to) = (from.display(), text(mount, "mountPath").replacen("/var/run/", "/run/", 1));
            script.push_str(&format!("mkdir -p $root{to}\nmount --bind {from} $root{to}\n"));
            if mount["readOnly"] == true {
                script.push_str(&format!("mount -o remount,bind,ro $root{to}\n"));
            }
        }
        script.push_str("exec chroot $root setpriv \"$@\"\n");
        let mut command = self.network.command("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", &script, "sh"]);
        command.args(rights(&container["securityContext"])).args(["env", "-i", &format!("PATH={PATH}"), "HOME=/tmp"]);
        command.args(list(container, "env").iter().filter_map(|entry| self.variable(entry)));
        match instead {
            Some(words) => command.args(words),
            None => command.args(words(container)),
        };
        command
    }
}

impl Container {
    /// The process inside, which `unshare` waits for.
    fn pid(&self) -> Pid {
        let id = self.0.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("it runs");
        let child = children.split_whitespace().next().expect("it has one").parse().expect("a number");
        Pid::from_raw(child).expect("not zero")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        self.0.wait().expect("it is ours")
    }

    /// Waits for its end this long, and then kills it.
    fn ended_within(&mut self, patience: Duration) -> ExitStatus {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if let Some(status) = self.0.try_wait().expect("it is ours") {
                return status;
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.signal(Signal::KILL);
        self.ended()
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().expect("a pipe"), "{line}").expect("it listens");
    }

    /// The next line that it says.
    pub fn hear(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        let output = self.0.stdout.as_mut().expect("a pipe");
        while output.read(&mut byte).expect("it speaks") == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).expect("text")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A security context in the words of `setpriv`. Runtimes give root these capabilities, and other users none.
fn rights(context: &Value) -> Vec<String> {
    let mut left: Vec<&str> = DEFAULT_CAPABILITIES.to_vec();
    let names = |key: &str| {
        list(&context["capabilities"], key).iter().map(|name| name.as_str().expect("a name").to_lowercase())
    };
    for dropped in names("drop") {
        left.retain(|name| dropped != "all" && *name != dropped);
    }
    let bounding: String =
        left.iter().map(|name| (*name).to_owned()).chain(names("add")).map(|name| format!(",+{name}")).collect();
    let id = |key: &str| context[key].as_u64().unwrap_or(0);
    let mut words = vec![
        format!("--reuid={}", id("runAsUser")),
        format!("--regid={}", id("runAsGroup")),
        "--clear-groups".to_owned(),
        format!("--bounding-set=-all{bounding}"),
        "--inh-caps=-all".to_owned(),
        // Said here, because who changes the user forgets what was said before.
        "--pdeathsig=KILL".to_owned(),
    ];
    if context["allowPrivilegeEscalation"] == false {
        words.push("--no-new-privs".to_owned());
    }
    words
}

fn variable(entry: &Value) -> String {
    let value = match entry["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
        None => entry["value"].as_str().expect("a value"),
        Some("metadata.name") => "triage-0",
        Some("metadata.namespace") => "agents",
        Some("metadata.uid") => "6f1c",
        Some("spec.serviceAccountName") => "triage",
        Some("spec.nodeName") => "node-1",
        Some("status.podIP") => POD4,
        Some(other) => panic!("no kubelet here knows {other}"),
    };
    format!("{}={value}", text(entry, "name"))
}

/// What an API server would give for this volume, but for its signature: only who has its keys could make that.
fn token(wanted: &Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs();
    let claims = json!({
        "iss": "https://kubernetes.default.svc",
        "sub": "system:serviceaccount:agents:triage",
        "aud": [wanted["audience"]],
        "iat": now,
        "exp": now + wanted["expirationSeconds"].as_u64().expect("it says how long"),
        "jti": "0f1e",
        "kubernetes.io": {"namespace": "agents", "pod": {"name": "triage-0", "uid": "6f1c"}},
    });
    let encoded = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!(
        "{}.{}.{}",
        encoded(json!({"alg": "RS256", "kid": "1"})),
        encoded(claims),
        URL_SAFE_NO_PAD.encode("signature")
    )
}

/// The image's program stands for itself.
fn words(container: &Value) -> Vec<&str> {
    let words = list(container, "command").iter().chain(list(container, "args"));
    let words = words.map(|word| word.as_str().expect("a word"));
    words.map(|word| if word == "tollgate" { TOLLGATE } else { word }).collect()
}

fn probed(address: SocketAddr, path: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer)).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

fn list<'v>(of: &'v Value, key: &str) -> &'v [Value] {
    of[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'v>(of: &'v Value, key: &str) -> &'v str {
    of[key].as_str().unwrap_or_else(|| panic!("{key} is missing in {of}"))
}

fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("ours");
}

/// What containerd gives root.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "net_bind_service",
    "net_raw",
    "sys_chroot",
    "mknod",
    "audit_write",
    "setfcap",
];

/// This machine's programs serve as every container's image. Its volumes, its `/run` and its `/tmp` are not to be seen,
/// and `/proc` shows the container's processes alone.
const ROOT: &str = concat!(
    r#"
mount -t tmpfs -o mode=755 tmpfs $root
for entry in /*; do
    name=${entry#/}
    case $name in proc | tmp | run | etc | root) continue ;; esac
    if [ -L $entry ]; then cp -P $entry $root/$name
    elif [ -d $entry ]; then mkdir $root/$name && mount --rbind $entry $root/$name; fi
done
mkdir $root/proc $root/run $root/root
mkdir -m 1777 $root/tmp
cp -a /etc $root/etc
printf 'nameserver 10.77.0.53\nsearch agents.svc.cluster.local\noptions ndots:5\n' > $root/etc/resolv.conf
mount -t proc proc $root/proc
repository="#,
    env!("CARGO_MANIFEST_DIR"),
    r#"
if [ ! -d $root$repository ]; then mkdir -p $root$repository && mount --rbind $repository $root$repository; fi
if [ -d /root/.pyenv ]; then mkdir $root/root/.pyenv && mount --bind /root/.pyenv $root/root/.pyenv; fi
"#
);

const PATIENCE: Duration = Duration::from_secs(30);
