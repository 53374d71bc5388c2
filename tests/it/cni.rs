//! The plugin as a container runtime calls it: variables, JSON on standard input, JSON on standard output.

use std::{
    fs,
    io::Write,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tollgate::kubernetes::fence::{self, Fence, Standing};

use crate::machine::{Namespace, TOLLGATE, can_be_had};

/// A runtime that has a network of one plugin before ours, and one container.
pub struct Runtime {
    version: &'static str,
    namespace: String,
    annotations: Value,
}

impl Runtime {
    pub fn of(namespace: &Namespace, annotations: Value) -> Self {
        Self { version: "1.1.0", namespace: namespace.path(), annotations }
    }

    fn entry(&self) -> Value {
        json!({
            "cniVersion": self.version, "name": "pods", "type": "tollgate-cni",
            "capabilities": {"io.kubernetes.cri.pod-annotations": true},
            "runtimeConfig": {"io.kubernetes.cri.pod-annotations": self.annotations},
        })
    }

    /// What the plugin before ours made of the namespace.
    fn previous(&self) -> Value {
        let mut address = json!({"address": "10.77.0.2/24", "gateway": "10.77.0.1", "interface": 0});
        if self.version < "1.0.0" {
            address["version"] = "4".into();
        }
        json!({
            "cniVersion": self.version,
            "interfaces": [{"name": "eth0", "mac": "0e:00:00:00:00:01", "sandbox": self.namespace}],
            "ips": [address],
            "dns": {"nameservers": ["10.96.0.10"]},
        })
    }

    /// Calls the plugin as the protocol has it: no arguments.
    fn call(&self, verb: &str, more: Value) -> Result<Option<Value>, Value> {
        let mut entry = self.entry();
        entry.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let mut command = Command::new(TOLLGATE);
        command.env_clear().env("CNI_COMMAND", verb).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.envs([
            ("CNI_CONTAINERID", "c0ffee"),
            ("CNI_NETNS", &self.namespace),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=agents;K8S_POD_NAME=triage-0;K8S_POD_UID=u"),
        ]);
        let mut child = command.spawn().expect("it can be started");
        child.stdin.take().expect("a pipe").write_all(entry.to_string().as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let answer = (!output.stdout.is_empty()).then(|| serde_json::from_slice(&output.stdout).expect("JSON"));
        match output.status.success() {
            true => Ok(answer),
            false => Err(answer.expect("a failure says why")),
        }
    }

    /// Adds the container, as the last plugin of the list.
    pub fn add(&self) -> Result<Value, Value> {
        let added = self.call("ADD", json!({"prevResult": self.previous()}))?;
        Ok(added.expect("ADD answers with a result"))
    }

    fn check(&self) -> Result<Option<Value>, Value> {
        self.call("CHECK", json!({"prevResult": self.previous()}))
    }

    fn del(&self) -> Result<Option<Value>, Value> {
        self.call("DEL", json!({"prevResult": self.previous()}))
    }
}

/// What the injector writes.
pub fn annotations() -> Value {
    json!({
        "tollgate.dev/capture": "cni",
        "tollgate.dev/fence": r#"{"uid":15000,"proxy":15001,"transparent":15002,"dns":15053,"health":15020,"exempt":[]}"#,
    })
}

fn standing(namespace: &Namespace) -> Standing {
    namespace.within(|| fence::standing(&Fence::default().table())).expect("root may")
}

#[test]
fn a_container_lives_from_add_to_del() {
    if !can_be_had() {
        return;
    }
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let pod = Namespace::new();
        let runtime = Runtime { version, ..Runtime::of(&pod, annotations()) };
        // What these versions brought; who speaks an older one does not ask.
        let (has_check, has_status) = (version >= "0.4.0", version >= "1.1.0");
        if has_status {
            assert_eq!(runtime.call("STATUS", json!({})), Ok(None));
        }
        assert_eq!(runtime.add(), Ok(runtime.previous()), "the result is handed on");
        assert_eq!(standing(&pod), Standing::Whole);
        assert_eq!(runtime.add(), Ok(runtime.previous()), "adding twice changes nothing");
        assert_eq!(standing(&pod), Standing::Whole);
        if has_check {
            assert_eq!(runtime.check(), Ok(None));
            for change in [
                "nft insert rule inet tollgate fence accept",
                "nft flush ruleset; tollgate fence apply; nft 'add table inet tollgate { flags dormant; }'",
            ] {
                pod.sh(&change.replace("tollgate fence apply", &format!("{TOLLGATE} fence apply")));
                let changed = runtime.check().expect_err("it was changed");
                assert_eq!((&changed["cniVersion"], &changed["code"]), (&json!(version), &json!(100)), "{changed}");
                assert_eq!(changed["msg"], "the fence was changed");
            }
            pod.sh("nft delete table inet tollgate");
            assert_eq!(runtime.check().expect_err("it is gone")["msg"], "the fence is gone");
        }
        if has_status {
            let valid = json!({"cni.dev/valid-attachments": [{"containerID": "c0ffee", "ifname": "eth0"}]});
            assert_eq!(runtime.call("GC", valid), Ok(None));
        }
        assert_eq!(runtime.del(), Ok(None));
        drop(pod);
        assert_eq!(runtime.del(), Ok(None), "also when the namespace is gone");
        let gone = runtime.add().expect_err("there is no namespace");
        assert_eq!((&gone["cniVersion"], &gone["code"]), (&json!(version), &json!(3)), "{gone}");
    }
}

#[test]
fn the_fence_stands_until_the_namespace_ends() {
    if !can_be_had() {
        return;
    }
    let pod = Namespace::new();
    let runtime = Runtime::of(&pod, annotations());
    runtime.add().expect("added");
    runtime.del().expect("deleted");
    assert_eq!(standing(&pod), Standing::Whole, "processes may be left in it");
}

#[test]
fn a_pod_that_does_not_ask_is_left_alone() {
    if !can_be_had() {
        return;
    }
    let pod = Namespace::new();
    for annotations in [json!({}), json!({"tollgate.dev/capture": "init"})] {
        let runtime = Runtime::of(&pod, annotations);
        assert_eq!(runtime.add(), Ok(runtime.previous()));
        assert_eq!(runtime.check(), Ok(None));
        assert_eq!(standing(&pod), Standing::Absent);
    }
}

#[test]
fn what_can_not_be_done_is_an_error_of_the_protocol() {
    if !can_be_had() {
        return;
    }
    let pod = Namespace::new();
    let asking = |fence: &str| json!({"tollgate.dev/capture": "cni", "tollgate.dev/fence": fence});
    for (runtime, verb, more, code) in [
        (Runtime::of(&pod, annotations()), "ADD", json!({}), 7),
        (Runtime::of(&pod, annotations()), "ADD", json!({"cniVersion": "2.0.0"}), 1),
        (Runtime::of(&pod, annotations()), "FLY", json!({}), 4),
        (Runtime::of(&pod, Value::Null), "ADD", json!({"prevResult": {}}), 7),
        (Runtime::of(&pod, asking("nonsense")), "ADD", json!({"prevResult": {}}), 7),
        (
            Runtime::of(&pod, asking(r#"{"uid":1000,"proxy":1,"transparent":2,"dns":3}"#)),
            "ADD",
            json!({"prevResult": {}}),
            7,
        ),
    ] {
        let refused = runtime.call(verb, more.clone()).expect_err("refused");
        assert_eq!(refused["code"], code, "{verb} {more}: {refused}");
        assert!(refused["cniVersion"].is_string() && !refused["msg"].as_str().expect("text").is_empty());
    }
    assert_eq!(standing(&pod), Standing::Absent);
}

#[test]
fn it_says_which_versions_it_speaks() {
    let mut command = Command::new(TOLLGATE);
    command.arg("fence").env_clear().env("CNI_COMMAND", "VERSION").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it can be started");
    child.stdin.take().expect("a pipe").write_all(br#"{"cniVersion":"1.0.0"}"#).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let versions = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(answer, json!({"cniVersion": "1.0.0", "supportedVersions": versions}));
}

#[test]
fn a_node_has_the_plugin_until_its_installer_is_told_to_take_it_away() {
    let node = tempfile::tempdir().expect("a directory");
    let (bin, conf) = (node.path().join("bin"), node.path().join("net.d"));
    fs::create_dir(&bin).and_then(|()| fs::create_dir(&conf)).expect("made");
    let list = conf.join("10-pods.conflist");
    let network = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}, {"type": "portmap"}]});
    let write = || fs::write(&list, network.to_string()).expect("written");
    let read = || -> Value { serde_json::from_slice(&fs::read(&list).expect("there")).unwrap_or_default() };
    let last = || read()["plugins"].as_array().and_then(|all| all.last().cloned()).unwrap_or_default();
    let until = |done: &dyn Fn() -> bool| {
        let end = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < end, "{}", read());
            thread::sleep(Duration::from_millis(20));
        }
    };
    write();
    let started = |further: &[&str]| {
        let mut command = Command::new(TOLLGATE);
        command.args(["fence", "install", "--exempt-uid", "1337", "--bin-dir"]).arg(&bin).arg("--conf-dir").arg(&conf);
        command.args(further).stderr(Stdio::null()).spawn().expect("it can be started")
    };
    let end = |mut installer: Child| {
        kill_process(Pid::from_child(&installer), Signal::TERM).expect("it runs");
        assert!(installer.wait().expect("it is ours").success());
    };
    let installer = started(&[]);

    until(&|| last()["type"] == "tollgate-cni");
    let capability = json!({"io.kubernetes.cri.pod-annotations": true});
    assert_eq!(last(), json!({"type": "tollgate-cni", "capabilities": capability, "uid": 15000, "exemptUids": [1337]}));
    let mut plugin = Command::new(bin.join("tollgate-cni"));
    plugin.env_clear().env("CNI_COMMAND", "VERSION").stdin(Stdio::null());
    assert!(plugin.output().expect("it is there").status.success());
    // The network's own installer writes its list anew.
    write();
    until(&|| last()["type"] == "tollgate-cni");

    end(installer);
    assert_eq!(last()["type"], "tollgate-cni", "a node that restarts keeps its fence");
    let removing = started(&["--remove"]);
    until(&|| read() == network);
    end(removing);
    assert_eq!(read(), network);
}
