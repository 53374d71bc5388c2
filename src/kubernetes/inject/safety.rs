//! What a pod must not have, because with it the sidecar could be gone around or robbed.
//!
//! All that is wrong is found at once. What only weakens a pod is no reason to refuse it, unless the platform says so: see
//! [`weakness`](super::weakness).

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::{
    Config, custody, mesh, orchestrator, outward,
    pod::{Container, Handler, Pod, SecurityContext, Volume},
    settings::Privileges,
    task,
    unsafe_pod::Unsafe,
    weakness::weaknesses,
};
use crate::kubernetes::{SIDECAR, UID};

/// Looks for everything that can't be made safe.
///
/// # Errors
/// All of it.
pub fn check(original: &Value, pod: &Pod, config: &Config) -> Result<(), Unsafe> {
    let mut check = Check { config, found: Unsafe::default() };
    check.pod(pod);
    for (path, container) in pod.containers() {
        check.container(&path, container);
    }
    for (index, volume) in pod.spec.volumes.iter().enumerate() {
        check.volume(&format!("spec.volumes[{index}]"), volume);
    }
    custody::check(pod, config, &mut check.found);
    custody::access(pod, config, &mut check.found);
    outward::check(original, config, &mut check.found);
    task::check(pod, config, &mut check.found);
    orchestrator::check(pod, config, &mut check.found);
    check.found.into_result()
}

/// Whether a container is neither an agent's nor to be looked at as one: ours, or a mesh's.
pub fn is_other(container: &Container, config: &Config) -> bool {
    is_ours(&container.name) || mesh::owns(&config.settings.meshes, container)
}

/// Whether a container or a volume has a name of ours.
pub fn is_ours(name: &str) -> bool {
    name == SIDECAR || name.starts_with(PREFIX)
}

/// Runtimes take names of capabilities in either case, with or without their prefix.
pub fn plain(capability: &str) -> String {
    let name = capability.trim().to_ascii_uppercase();
    name.strip_prefix("CAP_").map(str::to_owned).unwrap_or(name)
}

/// Where a mount really lands: runtimes take relative paths from the root and resolve `..`.
fn absolute(path: &str) -> PathBuf {
    let mut absolute = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => absolute.push(name),
            Component::ParentDir => {
                absolute.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    absolute
}

struct Check<'a> {
    config: &'a Config,
    found: Unsafe,
}

impl Check<'_> {
    fn pod(&mut self, pod: &Pod) {
        let spec = &pod.spec;
        let shared = [
            ("spec.hostNetwork", spec.host_network, "the node's network has no fence of the pod's own"),
            ("spec.hostPID", spec.host_pid, "with the node's processes in sight no secret of the sidecar is safe"),
            ("spec.hostIPC", spec.host_ipc, "the node's shared memory leads out of the pod"),
            (
                "spec.shareProcessNamespace",
                spec.share_process_namespace,
                "containers that see each other's processes could read the sidecar's memory and files",
            ),
        ];
        for (field, set, why) in shared {
            if set {
                self.found.add(field, why);
            }
        }
        if pod.metadata.annotations.contains_key(MIRROR) {
            self.found.add(format!("metadata.annotations[{MIRROR}]"), "a static pod can't be injected");
        }
        if spec.containers.is_empty() {
            self.found.add("spec.containers", "there is none");
        }
        if !self.config.native && spec.restart_policy.as_deref().is_some_and(|policy| policy != "Always") {
            let why = "such a pod would never end, as its sidecar is no native one; that needs Kubernetes 1.29";
            self.found.add("spec.restartPolicy", why);
        }
        self.user("spec.securityContext.runAsUser", spec.security_context.run_as_user);
        if self.config.capture().is_fenced() && self.config.settings.agent.privileges == Privileges::Refuse {
            for (field, why) in weaknesses(pod, self.config) {
                self.found.add(field, why);
            }
        }
    }

    fn container(&mut self, path: &str, container: &Container) {
        if is_ours(&container.name) {
            self.found.add(format!("{path}.name"), format!("{} is a name of the sidecar's", container.name));
        }
        self.mounts(path, container);
        for (index, port) in container.ports.iter().enumerate() {
            let ours = self.config.ports();
            if [ours.proxy, ours.transparent, ours.dns, ours.health].map(i64::from).contains(&port.container_port) {
                let why = format!("{} is a port of the sidecar's", port.container_port);
                self.found.add(format!("{path}.ports[{index}].containerPort"), why);
            }
        }
        if mesh::owns(&self.config.settings.meshes, container) {
            self.mesh(path, container);
        } else {
            self.privileges(&format!("{path}.securityContext"), &container.security_context);
        }
    }

    /// A mesh's container runs as a user whom the fence lets out, and one of them has NET_ADMIN: it may run nothing but
    /// what its image runs.
    fn mesh(&mut self, path: &str, container: &Container) {
        let context = &container.security_context;
        if context.privileged {
            self.found.add(format!("{path}.securityContext.privileged"), "no mesh needs a privileged container");
        }
        if context.proc_mount == "Unmasked" {
            self.found.add(format!("{path}.securityContext.procMount"), "an unmasked /proc leads out of the container");
        }
        for (index, added) in context.capabilities.add.iter().enumerate() {
            if !(mesh::sets_up(container) && ["NET_ADMIN", "NET_RAW"].contains(&plain(added).as_str())) {
                let field = format!("{path}.securityContext.capabilities.add[{index}]");
                self.found.add(field, "more than a container of the mesh needs");
            }
        }
        self.mesh_commands(path, container);
    }

    fn mesh_commands(&mut self, path: &str, container: &Container) {
        let lifecycle = &container.lifecycle;
        let nothing = |handler: &Handler| handler.exec.command.is_empty();
        for (field, is_its_own) in [
            ("command", mesh::runs_its_own(container)),
            ("args", mesh::is_told_its_own(container)),
            ("lifecycle.postStart.exec.command", mesh::may_begin_with(&lifecycle.post_start.exec.command)),
            ("lifecycle.preStop.exec.command", mesh::may_end_with(&lifecycle.pre_stop.exec.command)),
            ("startupProbe.exec.command", nothing(&container.startup_probe)),
            ("readinessProbe.exec.command", nothing(&container.readiness_probe)),
            ("livenessProbe.exec.command", nothing(&container.liveness_probe)),
        ] {
            if !is_its_own {
                self.found.add(format!("{path}.{field}"), "not what the mesh has its container run");
            }
        }
    }

    fn privileges(&mut self, path: &str, context: &SecurityContext) {
        self.user(&format!("{path}.runAsUser"), context.run_as_user);
        if context.privileged {
            self.found.add(format!("{path}.privileged"), "a privileged container can undo the fence");
        }
        if context.proc_mount == "Unmasked" {
            self.found.add(format!("{path}.procMount"), "an unmasked /proc leads out of the container");
        }
        let fenced = self.config.capture().is_fenced();
        let strict = fenced && self.config.settings.agent.privileges != Privileges::Lower;
        for (index, added) in context.capabilities.add.iter().enumerate() {
            let name = plain(added);
            if FORBIDDEN.contains(&name.as_str()) || (strict && IDENTITY.contains(&name.as_str())) {
                let mut why = format!("with {name} a container can go around the sidecar");
                if name.starts_with("NET_") {
                    why.push_str("; a mesh's container is known by `meshes` in the injector's configuration");
                }
                self.found.add(format!("{path}.capabilities.add[{index}]"), why);
            }
        }
        if strict && context.allow_privilege_escalation == Some(true) {
            let why = "a process that gains privileges could become the sidecar's user";
            self.found.add(format!("{path}.allowPrivilegeEscalation"), why);
        }
    }

    fn user(&mut self, field: &str, user: Option<i64>) {
        let Some(user) = user else { return };
        if user == i64::from(UID) {
            self.found.add(field, format!("{UID} is the sidecar's user, whom the fence lets out"));
        } else if self.config.exempt_uids.iter().any(|exempt| i64::from(*exempt) == user) {
            self.found.add(field, format!("{user} is a user whom the fence lets out"));
        }
    }

    fn mounts(&mut self, path: &str, container: &Container) {
        for (index, mount) in container.volume_mounts.iter().enumerate() {
            if is_ours(&mount.name) {
                let why = format!("{} is a volume of the sidecar's", mount.name);
                self.found.add(format!("{path}.volumeMounts[{index}].name"), why);
            }
            let at = absolute(&mount.mount_path);
            if OWN_DIRECTORIES.iter().any(|own| at.starts_with(own)) {
                self.found.add(format!("{path}.volumeMounts[{index}].mountPath"), "the sidecar's own directory");
            }
        }
    }

    fn volume(&mut self, path: &str, volume: &Volume) {
        if is_ours(&volume.name) {
            self.found.add(format!("{path}.name"), format!("{} is a name of the sidecar's", volume.name));
        }
        if let Some(host_path) = &volume.host_path
            && !self.permits(&host_path.path)
        {
            let why = "what is the node's may hold the sidecar's secrets; `permit.host_paths` in the injector's \
                       configuration lists what is harmless, each path by itself";
            self.found.add(format!("{path}.hostPath.path"), why);
        }
    }

    /// What is below a permitted directory may be a link of a tenant's that leads out of it.
    fn permits(&self, path: &str) -> bool {
        let plain = |path: &str| path.trim_end_matches('/').to_owned();
        self.config.settings.permit.host_paths.iter().any(|permitted| plain(permitted) == plain(path))
    }
}

/// What the sidecar's containers and volumes begin with.
const PREFIX: &str = "tollgate-";
/// On the copy of a static pod that the kubelet shows to the cluster.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// With any of these a container can undo the fence, pass by it or reach into other containers.
const FORBIDDEN: [&str; 11] = [
    "ALL",
    "NET_ADMIN",
    "NET_RAW",
    "SYS_ADMIN",
    "SYS_PTRACE",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_BOOT",
    "BPF",
    "PERFMON",
    "DAC_READ_SEARCH",
];
/// With these it can become another user.
const IDENTITY: [&str; 2] = ["SETUID", "SETGID"];
/// A mount there would stand in for what the sidecar wrote.
const OWN_DIRECTORIES: [&str; 2] = ["/etc/tollgate", "/run/tollgate"];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(more: &str) -> Config {
        Config::parse(&format!("image: a:1\n{more}"), Path::new(""), "f", &|_| None).unwrap()
    }

    fn refused(pod: &Value, config: &Config) -> Vec<String> {
        let found = check(pod, &Pod::read(pod).unwrap(), config).err().unwrap_or_default();
        found.reasons().iter().map(|reason| reason.field.clone()).collect()
    }

    fn with(spec: Value) -> Value {
        let mut pod = json!({"spec": {"containers": [{"name": "a", "image": "a"}]}});
        let fields = pod["spec"].as_object_mut().unwrap();
        fields.extend(spec.as_object().unwrap().clone());
        pod
    }

    fn container(fields: Value) -> Value {
        with(json!({"containers": [fields]}))
    }

    #[test]
    fn what_can_not_be_made_safe_is_refused_by_its_field() {
        let config = config(
            "meshes: [{kind: istio, images: [istio/proxyv2]}]\nports: {proxy: 16001, health: 16020, dns: 16053}\n\
             sidecar: {secrets: [{name: s, secret: ours}]}\nidentity: {spiffe: {csi: csi.spiffe.io}}\n\
             permit: {host_paths: [/dev/dri], csi_drivers: [csi.spiffe.io]}\n",
        );
        let volume = |fields: Value| with(json!({"volumes": [fields]}));
        for (pod, field) in [
            (with(json!({"hostNetwork": true})), "spec.hostNetwork"),
            (with(json!({"hostPID": true})), "spec.hostPID"),
            (with(json!({"hostIPC": true})), "spec.hostIPC"),
            (with(json!({"shareProcessNamespace": true})), "spec.shareProcessNamespace"),
            (with(json!({"containers": []})), "spec.containers"),
            (with(json!({"securityContext": {"runAsUser": 15000}})), "spec.securityContext.runAsUser"),
            (with(json!({"securityContext": {"runAsUser": 1337}})), "spec.securityContext.runAsUser"),
            (with(json!({"initContainers": [{"name": "tollgate"}]})), "spec.initContainers[0].name"),
            (container(json!({"name": "tollgate-x"})), "spec.containers[0].name"),
            (
                container(json!({"securityContext": {"runAsUser": 15000}})),
                "spec.containers[0].securityContext.runAsUser",
            ),
            (
                container(json!({"securityContext": {"privileged": true}})),
                "spec.containers[0].securityContext.privileged",
            ),
            (
                container(json!({"securityContext": {"procMount": "Unmasked"}})),
                "spec.containers[0].securityContext.procMount",
            ),
            (
                container(json!({"securityContext": {"allowPrivilegeEscalation": true}})),
                "spec.containers[0].securityContext.allowPrivilegeEscalation",
            ),
            (container(json!({"ports": [{"containerPort": 16020}]})), "spec.containers[0].ports[0].containerPort"),
            (
                container(json!({"volumeMounts": [{"name": "tollgate-ca-key", "mountPath": "/x"}]})),
                "spec.containers[0].volumeMounts[0].name",
            ),
            (
                container(json!({"volumeMounts": [{"name": "v", "mountPath": "etc/x/../tollgate/trust"}]})),
                "spec.containers[0].volumeMounts[0].mountPath",
            ),
            (volume(json!({"name": "tollgate-ca"})), "spec.volumes[0].name"),
            (volume(json!({"name": "v", "hostPath": {"path": "/dev"}})), "spec.volumes[0].hostPath.path"),
            (volume(json!({"name": "v", "hostPath": {"path": "/dev/dri/../.."}})), "spec.volumes[0].hostPath.path"),
            (volume(json!({"name": "v", "hostPath": {"path": "/dev/dri/card0"}})), "spec.volumes[0].hostPath.path"),
            (
                volume(json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}})),
                "spec.volumes[0].projected.sources[0].serviceAccountToken.audience",
            ),
            (volume(json!({"name": "v", "secret": {"secretName": "ours"}})), "spec.volumes[0].secret.secretName"),
        ] {
            assert_eq!(refused(&pod, &config), [field], "{pod}");
        }
        for path in ["/dev/dri", "/dev/dri/"] {
            assert_eq!(refused(&volume(json!({"name": "v", "hostPath": {"path": path}})), &config), [""; 0]);
        }
    }

    #[test]
    fn added_powers_are_refused_in_every_spelling() {
        for (added, expected) in [
            ("NET_ADMIN", true),
            ("net_raw", true),
            ("CAP_SYS_PTRACE", true),
            ("all", true),
            ("BPF", true),
            ("SETUID", true),
            ("NET_BIND_SERVICE", false),
            ("CHOWN", false),
        ] {
            let pod = container(json!({"securityContext": {"capabilities": {"add": [added]}}}));
            let expected =
                if expected { vec!["spec.containers[0].securityContext.capabilities.add[0]"] } else { vec![] };
            assert_eq!(refused(&pod, &config("")), expected, "{added}");
        }
        let pod = container(json!({"securityContext": {"capabilities": {"add": ["SETUID"]}}}));
        assert_eq!(refused(&pod, &config("capture: proxy")), [""; 0]);
        assert_eq!(refused(&pod, &config("agent: {privileges: lower}")), [""; 0]);
    }

    #[test]
    fn a_meshs_container_is_left_alone_only_where_the_platform_names_it() {
        let mesh = with(json!({"initContainers": [{"name": "istio-init", "image": "istio/proxyv2:1",
                        "args": ["istio-iptables"],
                        "securityContext": {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}}]}));
        assert_eq!(refused(&mesh, &config("")).len(), 2);
        let named = config(
            "meshes: [{kind: istio, images: [istio/proxyv2]}]\nports: {proxy: 16001, health: 16020, dns: 16053}",
        );
        assert_eq!(refused(&mesh, &named), [""; 0]);
        for (field, value) in [
            ("command", json!(["sh"])),
            ("args", json!(["sh", "-c", "nft flush ruleset"])),
            ("lifecycle.preStop.exec.command", json!(["sh"])),
            ("livenessProbe.exec.command", json!(["sh"])),
        ] {
            let mut other = mesh.clone();
            let mut place = &mut other["spec"]["initContainers"][0];
            for step in field.split('.') {
                place = &mut place[step];
            }
            *place = value;
            assert_eq!(refused(&other, &named), [format!("spec.initContainers[0].{field}")]);
        }
    }

    #[test]
    fn a_pod_that_would_never_end_is_refused() {
        let job = with(json!({"restartPolicy": "Never"}));
        assert_eq!(refused(&job, &config("native: false")), ["spec.restartPolicy"]);
        assert_eq!(refused(&job, &config("")), [""; 0]);
    }
}
