//! From what was written to what can be used: every value is checked once, here, and every problem is reported at once.

use std::path::{Path, PathBuf};

use super::{
    mesh,
    settings::{Native, Ports, Settings, Spiffe},
};
use crate::{
    config::{
        Problems,
        document::{Document, Place},
        file,
    },
    kubernetes::{CHECK_UID, Capture, UID},
};

/// How pods are injected, checked and ready to use.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The sidecar's image.
    pub image: String,
    /// Whether the sidecar is a native one.
    pub native: bool,
    /// The users that the fence lets out beside the sidecar.
    pub exempt_uids: Vec<u32>,
    /// Everything else, as it was written.
    pub settings: Settings,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        let name = path.display().to_string();
        let text = file::read(path).map_err(|error| Problems::one(&name, None, format!("can't be read: {error}")))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("")), &name, env)
    }

    /// Reads and checks a text. Relative paths in it are relative to `base`; problems name `file`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, base: &Path, file: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        let mut check = Check { document: Document::read(text, file, env)? };
        let Some(mut settings) = check.document.settle::<Settings>(&Place::root()) else {
            return Err(check.document.into_problems());
        };
        let config = check.config(&mut settings, base);
        let problems = check.document.into_problems();
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// How a pod's traffic comes to the sidecar.
    pub fn capture(&self) -> Capture {
        self.settings.capture
    }

    /// The sidecar's ports.
    pub fn ports(&self) -> Ports {
        self.settings.ports
    }
}

struct Check {
    document: Document,
}

impl Check {
    fn config(&mut self, settings: &mut Settings, base: &Path) -> Config {
        let image = self.image(settings.image.as_deref());
        let native = self.native(settings);
        self.ports(settings);
        self.names(settings);
        self.identity(settings);
        self.meshes(settings);
        self.rest(settings);
        for path in [&mut settings.serve.certificate, &mut settings.serve.key] {
            *path = base.join(&*path);
        }
        let exempt_uids = self.exempt_uids(settings);
        Config { image, native, exempt_uids, settings: settings.clone() }
    }

    fn image(&mut self, image: Option<&str>) -> String {
        let place = at(&["image"]);
        let Some(image) = image else {
            self.document.report(&place, "is required: REPOSITORY:TAG or REPOSITORY@sha256:DIGEST");
            return String::new();
        };
        let last = image.rsplit('/').next().unwrap_or_default();
        if !image.contains("@sha256:") && !last.contains(':') {
            self.document.report(&place, "names neither a tag nor a digest");
        }
        if image.is_empty() || image.contains(|c: char| c.is_whitespace() || c.is_control()) {
            self.document.report(&place, "is no name of an image");
        }
        image.to_owned()
    }

    fn native(&mut self, settings: &Settings) -> bool {
        let version = minor(&settings.cluster_version);
        if version.is_none() {
            self.document.report(&at(&["cluster_version"]), "expected a version such as 1.33");
        }
        match settings.native {
            Native::Yes => true,
            Native::No => false,
            Native::Auto => version.is_some_and(|version| version >= NATIVE_SINCE),
        }
    }

    fn ports(&mut self, settings: &Settings) {
        let Ports { proxy, transparent, dns, health } = settings.ports;
        let ports = [("proxy", proxy), ("transparent", transparent), ("dns", dns), ("health", health)];
        for (index, (key, port)) in ports.into_iter().enumerate() {
            let place = at(&["ports", key]);
            if port < 1024 {
                self.document.report(&place, "expected a port from 1024 on, for the sidecar has no privilege");
            }
            if let Some((other, _)) = ports[..index].iter().find(|(_, earlier)| *earlier == port) {
                self.document.report(&place, format!("is also ports.{other}"));
            }
            for mesh in &settings.meshes {
                if mesh::ports(mesh.kind).contains(&port) {
                    self.document.report(&place, format!("{port} is a port of {}", mesh::name(mesh.kind)));
                }
            }
        }
    }

    fn names(&mut self, settings: &Settings) {
        let sidecar = &settings.sidecar;
        self.object(&at(&["sidecar", "config"]), &sidecar.config);
        if let Some(policy) = &sidecar.policy {
            self.object(&at(&["sidecar", "policy"]), policy);
        }
        let secrets = sidecar.secrets.iter().map(|mount| (&mount.name, &mount.secret));
        self.mounts("secrets", "secret", secrets.collect());
        let files = sidecar.config_maps.iter().map(|mount| (&mount.name, &mount.config_map));
        self.mounts("config_maps", "config_map", files.collect());
        for name in sidecar.env.keys() {
            if name.starts_with("TOLLGATE_") || name.is_empty() || name.contains('=') {
                self.document.report(&at(&["sidecar", "env"]).key(name), "is no name that may be set here");
            }
        }
        for (index, name) in settings.image_pull_secrets.iter().enumerate() {
            self.object(&at(&["image_pull_secrets"]).index(index), name);
        }
    }

    fn mounts(&mut self, list: &str, key: &str, mounts: Vec<(&String, &String)>) {
        for (index, (name, object)) in mounts.iter().enumerate() {
            let place = at(&["sidecar", list]).index(index);
            if !is_label(name) || name.len() > LONGEST_MOUNT {
                let expected = "expected lower-case letters, digits and `-`, at most 40";
                self.document.report(&place.key("name"), expected);
            }
            if mounts[..index].iter().any(|(earlier, _)| earlier == name) {
                self.document.report(&place.key("name"), "is used twice");
            }
            self.object(&place.key(key), object);
        }
    }

    fn identity(&mut self, settings: &Settings) {
        let identity = &settings.identity;
        if let Some(token) = &identity.token {
            let place = at(&["identity", "token"]);
            if token.audience.is_empty() {
                self.document.report(&place.key("audience"), "is empty");
            }
            if token.expiration.0.as_secs() < 600 {
                self.document.report(&place.key("expiration"), "expected at least 10m, which Kubernetes asks for");
            }
        }
        if let Some(Spiffe::HostPath(socket)) = &identity.spiffe {
            let (socket, permitted) = (Path::new(socket), settings.permit.host_paths.iter().map(Path::new));
            for (index, path) in permitted.enumerate() {
                if socket.starts_with(path) || path.starts_with(socket) {
                    let place = at(&["permit", "host_paths"]).index(index);
                    self.document.report(&place, "the sidecar's Workload API is there, which gives out its identity");
                }
            }
        }
        if let Some(Spiffe::Csi(driver)) = &identity.spiffe
            && driver.is_empty()
        {
            self.document.report(&at(&["identity", "spiffe", "csi"]), "is empty");
        }
        if identity.spiffe_socket.is_empty() || identity.spiffe_socket.contains('/') {
            self.document.report(&at(&["identity", "spiffe_socket"]), "expected the name of a file");
        }
    }

    fn meshes(&mut self, settings: &Settings) {
        for (index, mesh) in settings.meshes.iter().enumerate() {
            let place = at(&["meshes"]).index(index).key("images");
            if mesh.images.is_empty() || mesh.images.iter().any(|name| name.is_empty() || name.ends_with('/')) {
                self.document.report(&place, "expected whole names of the mesh's images: docker.io/istio/proxyv2");
            }
        }
    }

    fn exempt_uids(&mut self, settings: &Settings) -> Vec<u32> {
        for (index, uid) in settings.exempt_uids.iter().enumerate() {
            if [0, UID, CHECK_UID].contains(uid) {
                self.document.report(&at(&["exempt_uids"]).index(index), "can't be let out");
            }
        }
        let meshes = settings.meshes.iter().map(|mesh| mesh::uid(mesh.kind));
        let mut all: Vec<u32> = meshes.chain(settings.exempt_uids.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn rest(&mut self, settings: &Settings) {
        for (index, path) in settings.permit.host_paths.iter().enumerate() {
            if !path.starts_with('/')
                || path == "/"
                || Path::new(path).components().any(|part| part.as_os_str() == "..")
            {
                self.document.report(&at(&["permit", "host_paths"]).index(index), "expected an absolute path");
            }
        }
        if settings.serve.max_body.0 < 64 << 10 || settings.serve.max_body.0 > 64 << 20 {
            self.document.report(&at(&["serve", "max_body"]), "expected from 64KiB to 64MiB");
        }
        for (key, path) in [("certificate", &settings.serve.certificate), ("key", &settings.serve.key)] {
            if *path == PathBuf::new() {
                self.document.report(&at(&["serve", key]), "is empty");
            }
        }
        if settings.trust_domain.is_empty() {
            self.document.report(&at(&["trust_domain"]), "is empty");
        }
    }

    /// The name of a Kubernetes object.
    fn object(&mut self, place: &Place, name: &str) {
        if name.len() > 253 || !name.split('.').all(is_label) {
            self.document.report(place, "is no name of a Kubernetes object");
        }
    }
}

fn at(keys: &[&str]) -> Place {
    keys.iter().fold(Place::root(), |place, key| place.key(key))
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The first two numbers of a version: of `v1.33.2+k3s1`, 1 and 33.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.strip_prefix('v').unwrap_or(version).split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor[..digits].parse().ok()?))
}

/// Since this version native sidecars are on unless someone turned them off.
const NATIVE_SINCE: (u32, u32) = (1, 29);
/// With our prefix, the name of a volume has at most 63 characters.
const LONGEST_MOUNT: usize = 40;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::{Value, json};

    use super::*;
    use crate::kubernetes::inject::yaml;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/base"), "f", &|_| None).map_err(|problems| problems.to_string())
    }

    #[test]
    fn an_image_is_enough() {
        let config = parse("image: registry:5000/tollgate:1\n").unwrap();
        assert!(config.native);
        assert_eq!(config.capture(), Capture::Init);
        assert_eq!(config.exempt_uids, [0_u32; 0]);
        assert_eq!(config.settings.serve.key, Path::new("/etc/tollgate/webhook/tls.key"));
        assert_eq!(parse("image: a:1\nserve: {key: k}").unwrap().settings.serve.key, Path::new("/base/k"));
    }

    #[test]
    fn no_pod_is_permitted_the_directory_of_the_workload_api() {
        for (path, is_refused) in
            [("/run", true), ("/run/spire/", true), ("/run/spire/x", true), ("/run/spirit", false)]
        {
            let text = format!(
                "{{image: 'a:1', identity: {{spiffe: {{host_path: /run/spire}}}}, permit: {{host_paths: [{path}]}}}}"
            );
            assert_eq!(parse(&text).is_err_and(|why| why.contains("permit.host_paths[0]")), is_refused, "{path}");
        }
        assert!(
            parse("{image: 'a:1', identity: {spiffe: {csi: ''}}}")
                .unwrap_err()
                .contains("identity.spiffe.csi: is empty")
        );
    }

    #[test]
    fn native_sidecars_follow_the_clusters_version() {
        for (text, native) in [
            ("cluster_version: '1.28'", false),
            ("cluster_version: v1.28.9-eks-1", false),
            ("cluster_version: '1.29'", true),
            ("cluster_version: v1.33.2+k3s1", true),
            ("cluster_version: 1.30+", true),
            ("cluster_version: '2.0'", true),
            ("{cluster_version: '1.20', native: true}", true),
            ("native: false", false),
            ("native: auto", true),
        ] {
            let text = if text.starts_with('{') { text.to_owned() } else { format!("{{{text}}}") };
            let text = text.replacen('{', "{image: 'a:1', ", 1);
            assert_eq!(parse(&text).unwrap().native, native, "{text}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_reported_at_once() {
        let text = "\
imagee: x
native: maybe
cluster_version: new
ports: {proxy: 80, dns: 15021, health: 15021}
meshes: [{kind: istio, images: []}, {kind: linkerd, images: [cr.l5d.io/linkerd/]}]
exempt_uids: [0]
permit: {host_paths: [dev]}
sidecar:
  config: Not_a_name
  env: {TOLLGATE_POD_NAME: me}
  secrets: [{name: a, secret: s}, {name: a, secret: t}]
identity: {token: {expiration: 1m}, spiffe_socket: a/b}
serve: {max_body: 1KiB}
";
        insta::assert_snapshot!(parse(text).unwrap_err(), @r"
        f:1: imagee: unknown key; did you mean `image`?
        f:1: image: is required: REPOSITORY:TAG or REPOSITORY@sha256:DIGEST
        f:2: native: expected auto, true or false
        f:3: cluster_version: expected a version such as 1.33
        f:4: ports.proxy: expected a port from 1024 on, for the sidecar has no privilege
        f:4: ports.dns: 15021 is a port of Istio
        f:4: ports.health: is also ports.dns
        f:4: ports.health: 15021 is a port of Istio
        f:5: meshes[0].images: expected whole names of the mesh's images: docker.io/istio/proxyv2
        f:5: meshes[1].images: expected whole names of the mesh's images: docker.io/istio/proxyv2
        f:6: exempt_uids[0]: can't be let out
        f:7: permit.host_paths[0]: expected an absolute path
        f:9: sidecar.config: is no name of a Kubernetes object
        f:10: sidecar.env.TOLLGATE_POD_NAME: is no name that may be set here
        f:11: sidecar.secrets[1].name: is used twice
        f:12: identity.token.expiration: expected at least 10m, which Kubernetes asks for
        f:12: identity.spiffe_socket: expected the name of a file
        f:13: serve.max_body: expected from 64KiB to 64MiB
        ");
    }

    /// The rows of docs/inject.md: each key with its default, if it has one.
    fn documented() -> BTreeMap<String, Option<Value>> {
        let document = include_str!("../../../docs/inject.md");
        let rows = document.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| {
            let cells: Vec<&str> = row.split(" | ").collect();
            let key = cells[0].trim_start_matches("| ").trim_matches('`').to_owned();
            let default = cells[1].strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
            (key, default.map(|text| yaml::read(&format!("is: {text}")).unwrap()["is"].clone()))
        })
        .collect()
    }

    /// The keys below this part of a schema that hold no further keys.
    fn keys(part: &Value, schema: &Value, path: &str, found: &mut BTreeSet<String>) {
        if let Some(name) = part["$ref"].as_str() {
            return keys(schema.pointer(name.trim_start_matches('#')).unwrap(), schema, path, found);
        }
        let before = found.len();
        for (key, property) in part["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            keys(property, schema, &path, found);
        }
        let ways = ["anyOf", "oneOf", "allOf"].into_iter().flat_map(|way| part[way].as_array().into_iter().flatten());
        for way in ways.filter(|way| way.get("$ref").is_some() || way.get("properties").is_some()) {
            keys(way, schema, path, found);
        }
        let items = &part["items"]["$ref"];
        if items.is_string() {
            keys(&part["items"], schema, &format!("{path}[]"), found);
        }
        if found.len() == before {
            found.insert(path.to_owned());
        }
    }

    #[test]
    fn the_documented_keys_are_those_that_are_read() {
        let schema = json!(schemars::schema_for!(Settings));
        let mut read = BTreeSet::new();
        keys(&schema, &schema, "", &mut read);
        assert_eq!(documented().into_keys().collect::<BTreeSet<_>>(), read);
    }

    #[test]
    fn the_documented_defaults_are_those_that_are_used() {
        let mut written = json!({});
        for (key, default) in documented() {
            let Some(default) = default.filter(|_| !key.contains("[]")) else { continue };
            let mut place = &mut written;
            for step in key.split('.') {
                place = &mut place[step];
            }
            *place = default;
        }
        assert_eq!(serde_json::from_value::<Settings>(written).unwrap(), Settings::default());
    }
}
