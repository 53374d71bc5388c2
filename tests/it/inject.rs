//! Pods and their sidecars: manifests by the command line, reviews by the webhook, and that both give the same pod.

mod brief;
mod reviews;
mod webhook;

use std::{
    fs,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use insta::{assert_snapshot, with_settings};
use serde_json::Value;
use tollgate::kubernetes::inject::{Config, Injected, Outcome, inject, yaml};

/// A manifest with what it wants of the injector's configuration: its first line, `# with: {…}`.
struct Manifest {
    name: String,
    text: String,
    settings: String,
}

impl Manifest {
    /// All of a directory beside this file, in order.
    fn all(directory: &str) -> Vec<Self> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/inject").join(directory);
        let mut paths: Vec<PathBuf> =
            fs::read_dir(directory).expect("it is there").map(|entry| entry.expect("it can be read").path()).collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("UTF-8");
        let more = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# with: {"))
            .map(|rest| format!("{{image: {IMAGE}, {rest}"));
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        Self { name, text, settings: more.unwrap_or_else(|| format!("{{image: {IMAGE}}}")) }
    }

    fn config(&self) -> Config {
        Config::parse(&self.settings, Path::new("/"), &self.name, &|_| None)
            .unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// Runs the program on a text. Returns exit code, output and complaints.
    fn run_on(&self, text: &str) -> (i32, String, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("inject.yaml");
        fs::write(&config, &self.settings).expect("written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["inject", "file", "--config"])
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads all");
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
    }

    /// Every pod, and every template of one, that stands in a text.
    fn pods(text: &str) -> Vec<Value> {
        let documents = yaml::split(text).into_iter().filter(|document| !yaml::is_empty(document));
        documents.flat_map(|document| pods_in(&yaml::read(document).expect("a document"))).collect()
    }
}

fn pods_in(value: &Value) -> Vec<Value> {
    if value.pointer("/spec/containers").is_some() {
        return vec![value.clone()];
    }
    match value {
        Value::Object(fields) => fields.values().flat_map(pods_in).collect(),
        Value::Array(items) => items.iter().flat_map(pods_in).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

/// The pod with its sidecar; `None` where it passes unchanged.
fn injected(pod: &Value, namespace: &str, config: &Config) -> Option<Injected> {
    match inject(pod, namespace, config).expect("it can be made safe") {
        Outcome::Inject(injected) => Some(injected),
        Outcome::Skip(_) => None,
    }
}

/// Compares each text with its snapshot, all of them before it fails.
fn assert_snapshots(texts: impl IntoIterator<Item = (String, String)>) {
    let differs = |(name, text): &(String, String)| {
        let compare = || {
            with_settings!({snapshot_path => "inject/snapshots", prepend_module_to_snapshot => false, omit_expression => true}, {
                assert_snapshot!(name.as_str(), text);
            });
        };
        catch_unwind(AssertUnwindSafe(compare)).is_err()
    };
    let different: Vec<String> = texts.into_iter().filter(differs).map(|(name, _)| name).collect();
    assert_eq!(different, [""; 0], "these snapshots differ");
}

/// One of each way of capture, and the older form, are kept whole; of the others only what injection changes.
#[test]
fn manifests_get_their_sidecars() {
    let manifests = Manifest::all("corpus");
    assert!(manifests.len() >= 25);
    let outputs: Vec<(String, String)> = manifests
        .iter()
        .map(|manifest| {
            let (code, output, complaints) = manifest.run_on(&manifest.text);
            assert_eq!(code, 0, "{}: {complaints}", manifest.name);
            (output.replace(env!("CARGO_PKG_VERSION"), "VERSION"), complaints)
        })
        .collect();
    let is_whole = |manifest: &Manifest| WHOLE.contains(&manifest.name.as_str());
    let whole = manifests.iter().zip(&outputs).filter(|(manifest, _)| is_whole(manifest));
    let pods = whole
        .flat_map(|(manifest, (output, _))| Manifest::pods(output).into_iter().map(|pod| (manifest.name.clone(), pod)));
    let brief = brief::Brief::of(pods);
    let texts = manifests.iter().zip(&outputs).map(|(manifest, (output, complaints))| {
        let text = if is_whole(manifest) { output.clone() } else { brief.changes(&manifest.text, output) };
        (manifest.name.clone(), format!("{text}\n--- standard error\n{complaints}"))
    });
    assert_snapshots(texts);
}

#[test]
fn injecting_twice_changes_nothing() {
    for manifest in Manifest::all("corpus") {
        let (_, once, first) = manifest.run_on(&manifest.text);
        let (code, twice, second) = manifest.run_on(&once);
        assert_eq!((code, &twice), (0, &once), "{}", manifest.name);
        assert_eq!(second, first, "{}", manifest.name);
    }
}

#[test]
fn what_can_not_be_made_safe_is_refused_by_document_and_field() {
    let manifests = Manifest::all("refused");
    assert!(manifests.len() >= 8);
    let texts = manifests.iter().map(|manifest| {
        let (code, output, complaints) = manifest.run_on(&manifest.text);
        assert_eq!((code, output.as_str()), (65, ""), "{}", manifest.name);
        (format!("refused-{}", manifest.name), complaints)
    });
    assert_snapshots(texts);
}

#[test]
fn a_configuration_that_is_wrong_is_refused_with_its_lines() {
    let manifest = Manifest {
        name: String::new(),
        text: String::new(),
        settings: "imagee: x\ncapture: tproxy\nsidecar:\n  resources: {request: {}}\n".to_owned(),
    };
    let (code, _, complaints) = manifest.run_on("");
    assert_eq!(code, 78);
    for line in [":1: imagee", ":2: capture", ":4: sidecar.resources.request"] {
        assert!(complaints.contains(line), "{complaints}");
    }
}

const IMAGE: &str = "registry.example/tollgate:stable";
/// Capture by an init container, by the node, by variables, and the form of clusters without native sidecars.
const WHOLE: [&str; 4] = ["deployment-plain.yaml", "pod-cni.yaml", "job-proxy.yaml", "pod-older-cluster.yaml"];
