//! The real registry and the real client.

use std::{
    fs,
    path::Path,
    process::{self, Child, Output, Stdio},
    sync::Mutex,
    time::Duration,
};

use aws_lc_rs::digest;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::Command,
    time::{sleep, timeout},
};

use super::issuer::{ISSUER, SERVICE, TokenServer};
use crate::{
    actors::{Sidecar, bao::free},
    clients::resolved,
    machine::ending_with_us,
};

pub const NEEDS: &[&str] = &[REGISTRY, SKOPEO];
pub const PLACEHOLDER: &str = "dckr_pat_tollgate00000000000000000";

/// A registry that takes only the tokens of one server. Ends when it is dropped.
pub struct Registry {
    pub port: u16,
    /// What verifies it, in PEM.
    pub root: String,
    process: Child,
    home: TempDir,
}

impl Registry {
    pub async fn start(name: &str, tokens: &TokenServer) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let key = KeyPair::generate().expect("a key can be made");
        let params = CertificateParams::new([name.to_owned()]).expect("a host name");
        let root = params.self_signed(&key).expect("a certificate can be made").pem();
        let addr = free();
        let file = |name: &str| home.path().join(name);
        let configuration = json!({
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": file("storage")}, "delete": {"enabled": true}},
            "http": {"addr": addr, "tls": {"certificate": file("tls.crt"), "key": file("tls.key")}},
            "auth": {"token": {
                "realm": tokens.realm(), "service": SERVICE, "issuer": ISSUER, "rootcertbundle": file("tokens.pem"),
            }},
        });
        for (name, text) in [
            ("tls.crt", &root),
            ("tls.key", &key.serialize_pem()),
            ("tokens.pem", &tokens.root().to_owned()),
            ("config.yml", &configuration.to_string()),
        ] {
            fs::write(file(name), text).expect("it can be written");
        }
        let process = ending_with_us(&resolved(REGISTRY).display().to_string())
            .arg("serve")
            .arg(file("config.yml"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it can be started");
        let ready = async {
            while TcpStream::connect(addr).await.is_err() {
                sleep(Duration::from_millis(20)).await
            }
        };
        timeout(LIMIT, ready).await.expect("it is ready in time");
        Self { port: addr.port(), root, process, home }
    }

    /// Whether nothing was ever written to it.
    pub fn is_empty(&self) -> bool {
        !self.home.path().join("storage").exists()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// skopeo in an environment that holds nothing but the way to a sidecar, and all that it ever said.
pub struct Skopeo {
    home: TempDir,
    heard: Mutex<String>,
}

impl Skopeo {
    pub fn new() -> Self {
        Self { home: tempfile::tempdir().expect("a temporary directory"), heard: Mutex::default() }
    }

    /// Where it runs.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub async fn does(&self, sidecar: &Sidecar, arguments: &[&str]) {
        let output = self.run(sidecar, arguments).await;
        assert!(output.status.success(), "{}", self.heard());
    }

    pub async fn fails(&self, sidecar: &Sidecar, arguments: &[&str]) {
        let output = self.run(sidecar, arguments).await;
        assert!(!output.status.success(), "{}", self.heard());
    }

    /// All that it said, in its most talkative mode.
    pub fn heard(&self) -> String {
        self.heard.lock().expect("no test panics inside").clone()
    }

    async fn run(&self, sidecar: &Sidecar, arguments: &[&str]) -> Output {
        let home = self.home();
        let mut command = Command::new("env");
        // Where root's it would keep what it learns below /var/lib. In a namespace of its own it is somebody else.
        let elsewhere = ["unshare", "--user", "--map-user=1000"];
        if said_yes(&elsewhere) {
            command.args(elsewhere);
        }
        command.arg(resolved(SKOPEO)).args(["--debug", "--insecure-policy"]).args(arguments);
        command.current_dir(home).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home);
        command.env("XDG_RUNTIME_DIR", home).env("TMPDIR", home).env("REGISTRY_AUTH_FILE", home.join("auth.json"));
        command.env("HTTPS_PROXY", format!("http://{}", sidecar.proxy));
        command.env("SSL_CERT_FILE", sidecar.dir.path().join("bundle.pem"));
        // What it is linked with and the system lacks lies beside it.
        command.env("LD_LIBRARY_PATH", resolved(LIBRARIES));
        let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = timeout(LIMIT, running).await.expect("it ends in time").expect("it can be started");
        let mut heard = self.heard.lock().expect("no test panics inside");
        heard.push_str(&String::from_utf8_lossy(&output.stdout));
        heard.push_str(&String::from_utf8_lossy(&output.stderr));
        output
    }
}

/// Whether a program can be run in this way.
fn said_yes(way: &[&str]) -> bool {
    let tried = process::Command::new(way[0]).args(&way[1..]).arg("true").output();
    tried.is_ok_and(|output| output.status.success())
}

/// Writes an image of one layer as an OCI layout; returns the layer.
pub fn layout(dir: &Path) -> Vec<u8> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory");
    let blob = |bytes: &[u8]| {
        let digest = hex(bytes);
        fs::write(blobs.join(&digest), bytes).expect("it can be written");
        (format!("sha256:{digest}"), bytes.len())
    };
    let described = |kind: &str, (digest, size): (String, usize)| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size});
    // Compressed as far as its first bytes say, so that the client sends it as it is.
    let layer = [&[0x1f, 0x8b, 8, 0][..], b"layer of the demo"].concat();
    let configuration = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]},
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", blob(configuration.to_string().as_bytes())),
        "layers": [described("layer.v1.tar+gzip", blob(&layer))],
    });
    let mut entry = described("manifest.v1+json", blob(manifest.to_string().as_bytes()));
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(dir.join("index.json"), index.to_string()).expect("it can be written");
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).expect("it can be written");
    layer
}

/// The one layer of an OCI layout.
pub fn stored(dir: &Path) -> Vec<u8> {
    let read = |path: &str| fs::read(dir.join(path)).expect("it was written");
    let json = |bytes: Vec<u8>| -> Value { serde_json::from_slice(&bytes).expect("JSON") };
    let blob = |described: &Value| {
        let digest = described["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:")).expect("a digest");
        read(&format!("blobs/sha256/{digest}"))
    };
    let manifest = json(blob(&json(read("index.json"))["manifests"][0]));
    blob(&manifest["layers"][0])
}

fn hex(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

const REGISTRY: &str = "parts/registry/usr/bin/docker-registry";
const SKOPEO: &str = "parts/registry/usr/bin/skopeo";
const LIBRARIES: &str = "parts/registry/libraries";
const LIMIT: Duration = Duration::from_secs(30);
