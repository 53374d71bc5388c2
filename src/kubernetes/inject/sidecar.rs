//! The containers and volumes that a pod gets.
//!
//! Of the volumes, agents see the one with public certificates and no other; an orchestrator also sees the one with the
//! admin API's socket. All containers but the one that puts up the fence have no power at all.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{
    Config,
    pod::{self, CONTAINERS, INIT_CONTAINERS},
    settings::Spiffe,
};
use crate::kubernetes::{
    ADMIN_DIR, AUDIT_DIR, AUTHORITY_DIR, CHECK_UID, CONFIG_DIR, Capture, FENCE, FENCE_CHECK, FENCE_REPORT_DIR,
    FILES_DIR, IDENTITY_DIR, POLICY_DIR, SECRETS_DIR, SIDECAR, SPIFFE_DIR, TRUST_DIR, UID,
};

/// What the sidecar is told about its pod.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The pod's labels.
    pub labels: BTreeMap<&'a str, &'a str>,
    /// By what a container could still leave the fence.
    pub weaknesses: Vec<String>,
    /// What its author says that it is for.
    pub task: Option<&'a str>,
    /// The user of its container that may open tasks.
    pub orchestrator: Option<i64>,
    /// How long its containers have to end.
    pub grace: Duration,
    /// How many of its init containers set up a mesh's network. The fence is checked after them.
    pub after: usize,
}

/// Adds the containers, before the pod's own, and their volumes.
pub fn add(pod: &mut Value, facts: &Facts<'_>, config: &Config) {
    let spec = &mut pod["spec"];
    let sidecar = sidecar(facts, config);
    let mut first = Vec::new();
    if config.capture() == Capture::Init {
        first.push(fence(config));
    }
    if config.native {
        first.push(sidecar);
    } else {
        // The kubelet starts plain containers in their order, and waits for the hook of each.
        pod::list(spec, CONTAINERS).insert(0, sidecar);
    }
    if config.capture().is_fenced() {
        pod::list(spec, INIT_CONTAINERS).insert(facts.after, fence_check(config));
    }
    if !first.is_empty() {
        pod::list(spec, INIT_CONTAINERS).splice(0..0, first);
    }
    pod::list(spec, "volumes").extend(volumes(config));
    for name in &config.settings.image_pull_secrets {
        let secrets = pod::list(spec, "imagePullSecrets");
        if !secrets.iter().any(|secret| pod::name(secret) == name) {
            secrets.push(json!({"name": name}));
        }
    }
}

fn sidecar(facts: &Facts<'_>, config: &Config) -> Value {
    let port = config.ports().health;
    let mut container = container(SIDECAR, &["run", "--config", &format!("{CONFIG_DIR}/{CONFIG_FILE}")], UID, config);
    container["resources"] = json!(config.settings.sidecar.resources);
    container["env"] = variables(facts, config);
    container["ports"] = json!([{"name": HEALTH_PORT_NAME, "containerPort": port, "protocol": "TCP"}]);
    container["volumeMounts"] = mounts(config);
    let probe = |path: &str, period: u32, failures: u32| {
        json!({"httpGet": {"path": path, "port": port}, "periodSeconds": period, "timeoutSeconds": 2,
               "failureThreshold": failures})
    };
    container["startupProbe"] = probe("/startupz", 1, 120);
    container["readinessProbe"] = probe("/readyz", 5, 2);
    container["livenessProbe"] = probe("/livez", 10, 6);
    if config.native {
        // The kubelet stops it after all other containers, so it needs no hook to outlive them.
        container["restartPolicy"] = json!("Always");
    } else {
        let wait = |more: &[&str]| {
            let port = port.to_string();
            let command = [&[PROGRAM, "inject", "wait", "--health-port", &port], more].concat();
            json!({"exec": {"command": command}})
        };
        // What is left of the grace is the sidecar's own, to end what is open and to write its records.
        let patience = facts.grace.saturating_sub(OWN_GRACE).as_secs().to_string();
        let (begin, end) = (wait(&[]), wait(&["--idle", "--timeout", &patience]));
        container["lifecycle"] = json!({"postStart": begin, "preStop": end});
    }
    container
}

fn fence(config: &Config) -> Value {
    let arguments = [vec!["fence".to_owned(), "apply".to_owned()], fence_flags(config)].concat();
    let mut container = container(FENCE, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), 0, config);
    container["securityContext"]["capabilities"]["add"] = json!(["NET_ADMIN"]);
    container
}

fn fence_check(config: &Config) -> Value {
    let mut arguments = [vec!["fence".to_owned(), "check".to_owned()], fence_flags(config)].concat();
    let report = format!("{FENCE_REPORT_DIR}/{FENCE_REPORT_FILE}");
    arguments.extend(["--report".to_owned(), report]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut container = container(FENCE_CHECK, &arguments, CHECK_UID, config);
    container["volumeMounts"] = json!([{"name": REPORT_VOLUME, "mountPath": FENCE_REPORT_DIR}]);
    container
}

fn fence_flags(config: &Config) -> Vec<String> {
    let ports = config.ports();
    let mut flags = vec!["--uid".to_owned(), UID.to_string()];
    for uid in &config.exempt_uids {
        flags.extend(["--exempt-uid".to_owned(), uid.to_string()]);
    }
    for (flag, port) in
        [("--proxy-port", ports.proxy), ("--transparent-port", ports.transparent), ("--dns-port", ports.dns)]
    {
        flags.extend([flag.to_owned(), port.to_string()]);
    }
    flags
}

/// What all of ours have in common. It passes Pod Security's `restricted` for every user but root.
fn container(name: &str, arguments: &[&str], user: u32, config: &Config) -> Value {
    json!({
        "name": name,
        "image": config.image,
        "imagePullPolicy": config.settings.image_pull_policy,
        "command": [PROGRAM],
        "args": arguments,
        "resources": config.settings.sidecar.init_resources,
        // The last line says why it ended.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "runAsUser": user,
            "runAsGroup": user,
            "runAsNonRoot": user != 0,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

fn variables(facts: &Facts<'_>, config: &Config) -> Value {
    let settings = &config.settings;
    let (sidecar, ports) = (&settings.sidecar, config.ports());
    let of_pod = |(name, path): (&str, &str)| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let literal = |name: &str, value: &str| json!({"name": name, "value": escaped(value)});
    let mut variables: Vec<Value> = POD_FACTS.into_iter().map(of_pod).collect();
    variables.push(literal("TOLLGATE_POD_LABELS", &json!(facts.labels).to_string()));
    variables.push(literal("TOLLGATE_POD_WEAKNESSES", &json!(facts.weaknesses).to_string()));
    variables.push(literal("TOLLGATE_TRUST_DOMAIN", &settings.trust_domain));
    variables.push(literal("TOLLGATE_CAPTURE", config.capture().as_str()));
    // Only where the chart placed a NetworkPolicy does the namespace's ConfigMap say so.
    let key = json!({"name": sidecar.config, "key": NETWORK_POLICY_KEY, "optional": true});
    variables.push(json!({"name": "TOLLGATE_NETWORK_POLICY", "valueFrom": {"configMapKeyRef": key}}));
    if config.capture().is_fenced() {
        variables.push(literal("TOLLGATE_FENCE_REPORT", &format!("{FENCE_REPORT_DIR}/{FENCE_REPORT_FILE}")));
    }
    for (name, port) in [
        ("TOLLGATE_PROXY_PORT", ports.proxy),
        ("TOLLGATE_TRANSPARENT_PORT", ports.transparent),
        ("TOLLGATE_DNS_PORT", ports.dns),
        ("TOLLGATE_HEALTH_PORT", ports.health),
    ] {
        variables.push(literal(name, &port.to_string()));
    }
    variables.push(literal("TOLLGATE_LOG", &sidecar.log));
    // For who runs `tollgate task` in the container, too.
    variables.push(literal("TOLLGATE_ADMIN", &format!("{ADMIN_DIR}/{ADMIN_SOCKET}")));
    // Empty is as good as nothing. They always stand there so that an admission policy can count what does.
    if settings.permit.tasks {
        variables.push(literal("TOLLGATE_TASK", facts.task.unwrap_or_default()));
    }
    if settings.permit.orchestrators {
        let user = facts.orchestrator.map(|user| user.to_string());
        variables.push(literal("TOLLGATE_ADMIN_USER", &user.unwrap_or_default()));
    }
    if settings.identity.spiffe.is_some() {
        let socket = format!("unix://{SPIFFE_DIR}/{}", settings.identity.spiffe_socket);
        variables.push(literal("SPIFFE_ENDPOINT_SOCKET", &socket));
    }
    // These may refer to the ones above.
    variables.extend(sidecar.env.iter().map(|(name, value)| json!({"name": name, "value": value})));
    Value::Array(variables)
}

/// The kubelet expands `$(NAME)` in values; in a fact it must not.
fn escaped(value: &str) -> String {
    value.replace('$', "$$")
}

fn mounts(config: &Config) -> Value {
    let settings = &config.settings;
    let read = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    let write = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    let mut mounts = vec![
        read(CONFIG_VOLUME, CONFIG_DIR),
        write(AUTHORITY_VOLUME, AUTHORITY_DIR),
        write(ADMIN_VOLUME, ADMIN_DIR),
        write(TRUST_VOLUME, TRUST_DIR),
        write(AUDIT_VOLUME, AUDIT_DIR),
    ];
    if settings.sidecar.policy.is_some() {
        mounts.push(read(POLICY_VOLUME, POLICY_DIR));
    }
    if config.capture().is_fenced() {
        mounts.push(read(REPORT_VOLUME, FENCE_REPORT_DIR));
    }
    if settings.identity.token.is_some() {
        mounts.push(read(IDENTITY_VOLUME, IDENTITY_DIR));
    }
    if settings.identity.spiffe.is_some() {
        mounts.push(read(SPIFFE_VOLUME, SPIFFE_DIR));
    }
    let secrets = settings.sidecar.secrets.iter();
    mounts.extend(secrets.map(|mount| read(&secret_volume(&mount.name), &format!("{SECRETS_DIR}/{}", mount.name))));
    let files = settings.sidecar.config_maps.iter();
    mounts.extend(files.map(|mount| read(&files_volume(&mount.name), &format!("{FILES_DIR}/{}", mount.name))));
    Value::Array(mounts)
}

fn volumes(config: &Config) -> Vec<Value> {
    let settings = &config.settings;
    let empty = |name: &str, size: &str| json!({"name": name, "emptyDir": {"sizeLimit": size}});
    let config_map = |name: &str, object: &str| json!({"name": name, "configMap": {"name": object}});
    let mut volumes = vec![
        config_map(CONFIG_VOLUME, &settings.sidecar.config),
        // The journal of what is to be revoked is kept there too.
        json!({"name": AUTHORITY_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}}),
        json!({"name": ADMIN_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
        empty(TRUST_VOLUME, "16Mi"),
        empty(AUDIT_VOLUME, &settings.sidecar.audit_size),
    ];
    if let Some(policy) = &settings.sidecar.policy {
        volumes.push(config_map(POLICY_VOLUME, policy));
    }
    if config.capture().is_fenced() {
        volumes.push(empty(REPORT_VOLUME, "1Mi"));
    }
    if let Some(token) = &settings.identity.token {
        let source = json!({"audience": token.audience, "expirationSeconds": token.expiration.0.as_secs(),
                            "path": TOKEN_FILE});
        volumes.push(json!({"name": IDENTITY_VOLUME, "projected": {"sources": [{"serviceAccountToken": source}]}}));
    }
    match &settings.identity.spiffe {
        None => {}
        Some(Spiffe::Csi(driver)) => {
            volumes.push(json!({"name": SPIFFE_VOLUME, "csi": {"driver": driver, "readOnly": true}}));
        }
        Some(Spiffe::HostPath(path)) => {
            volumes.push(json!({"name": SPIFFE_VOLUME, "hostPath": {"path": path, "type": "Directory"}}));
        }
    }
    for mount in &settings.sidecar.secrets {
        let secret = json!({"secretName": mount.secret, "optional": mount.optional});
        volumes.push(json!({"name": secret_volume(&mount.name), "secret": secret}));
    }
    for mount in &settings.sidecar.config_maps {
        let config_map = json!({"name": mount.config_map, "optional": mount.optional});
        volumes.push(json!({"name": files_volume(&mount.name), "configMap": config_map}));
    }
    volumes
}

fn secret_volume(name: &str) -> String {
    format!("tollgate-secret-{name}")
}

fn files_volume(name: &str) -> String {
    format!("tollgate-files-{name}")
}

/// The program inside the image.
const PROGRAM: &str = "tollgate";
/// The sidecar's port for health and metrics, by which monitors find it.
pub const HEALTH_PORT_NAME: &str = "tollgate-health";
/// The key of the ConfigMap with the sidecar's configuration.
const CONFIG_FILE: &str = "config.yaml";
/// Beside it, `true` where the platform placed a NetworkPolicy on the namespace's pods.
const NETWORK_POLICY_KEY: &str = "network-policy";
/// Of a pod's time to end, what the sidecar needs after the hook that waits for open connections.
const OWN_GRACE: Duration = Duration::from_secs(10);
/// What the check of the fence leaves for the sidecar.
const FENCE_REPORT_FILE: &str = "report.json";
/// The socket of the admin API below its directory.
const ADMIN_SOCKET: &str = "admin.sock";
/// The service account token below its directory.
const TOKEN_FILE: &str = "token";
/// What the downward API tells.
const POD_FACTS: [(&str, &str); 5] = [
    ("TOLLGATE_POD_NAME", "metadata.name"),
    ("TOLLGATE_POD_NAMESPACE", "metadata.namespace"),
    ("TOLLGATE_POD_UID", "metadata.uid"),
    ("TOLLGATE_SERVICE_ACCOUNT", "spec.serviceAccountName"),
    ("TOLLGATE_NODE_NAME", "spec.nodeName"),
];

/// Public certificates: the one volume that agents see.
pub const TRUST_VOLUME: &str = "tollgate-ca";
/// The admin API's socket, which an orchestrator sees as well.
pub const ADMIN_VOLUME: &str = "tollgate-admin";
const AUTHORITY_VOLUME: &str = "tollgate-ca-key";
const CONFIG_VOLUME: &str = "tollgate-config";
const POLICY_VOLUME: &str = "tollgate-policy";
const AUDIT_VOLUME: &str = "tollgate-audit";
const REPORT_VOLUME: &str = "tollgate-fence";
const IDENTITY_VOLUME: &str = "tollgate-identity";
const SPIFFE_VOLUME: &str = "tollgate-spiffe";
