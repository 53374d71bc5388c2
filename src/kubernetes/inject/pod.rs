//! A pod as far as injection looks at it.
//!
//! Reading it proves that what is looked at has its proper shape; what is changed is the JSON itself, so that fields
//! which are not known here survive.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::unsafe_pod::Unsafe;

/// A pod, or the template of one.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Its labels and annotations.
    pub metadata: Metadata,
    /// What it consists of.
    pub spec: Spec,
}

/// Labels and annotations.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// The namespace, where one is written.
    pub namespace: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The annotations.
    pub annotations: BTreeMap<String, String>,
}

/// What a pod consists of.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// The operating system.
    pub os: Os,
    /// Labels that its node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Whether it shares the node's network.
    pub host_network: bool,
    /// Whether it shares the node's processes.
    #[serde(rename = "hostPID")]
    pub host_pid: bool,
    /// Whether it shares the node's inter-process communication.
    #[serde(rename = "hostIPC")]
    pub host_ipc: bool,
    /// Whether its containers see each other's processes.
    pub share_process_namespace: bool,
    /// When its containers are started again.
    pub restart_policy: Option<String>,
    /// How many seconds its containers have to end.
    pub termination_grace_period_seconds: Option<i64>,
    /// Whether it gets a service account token.
    pub automount_service_account_token: Option<bool>,
    /// What holds for all containers.
    pub security_context: SecurityContext,
    /// They run first, one after the other.
    pub init_containers: Vec<Container>,
    /// They run at the same time.
    pub containers: Vec<Container>,
    /// What containers may mount.
    pub volumes: Vec<Volume>,
}

/// The operating system.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Os {
    /// `linux` or `windows`.
    pub name: String,
}

/// What a container, or all of a pod's, may do.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SecurityContext {
    /// The user.
    pub run_as_user: Option<i64>,
    /// Whether the user must not be root.
    pub run_as_non_root: Option<bool>,
    /// Whether it is as good as the node.
    pub privileged: bool,
    /// Whether a process may gain more than its parent has.
    pub allow_privilege_escalation: Option<bool>,
    /// What of root's powers it has.
    pub capabilities: Capabilities,
    /// How much of `/proc` it sees.
    pub proc_mount: String,
}

/// What of root's powers a container has.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// More than usual.
    pub add: Vec<String>,
    /// Less than usual.
    pub drop: Vec<String>,
}

/// A container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// What it runs instead of what its image runs.
    pub command: Vec<String>,
    /// With which arguments.
    pub args: Vec<String>,
    /// What is asked until it has started.
    pub startup_probe: Handler,
    /// What is asked to know whether it can be used.
    pub readiness_probe: Handler,
    /// What is asked to know whether it must be started again.
    pub liveness_probe: Handler,
    /// What is done at its start and before its end.
    pub lifecycle: Lifecycle,
    /// What it may do.
    pub security_context: SecurityContext,
    /// The ports it says it listens on.
    pub ports: Vec<Port>,
    /// What it sees of the pod's volumes.
    pub volume_mounts: Vec<Mount>,
    /// Its variables.
    pub env: Vec<Variable>,
    /// Where further variables come from.
    pub env_from: Vec<Origin>,
}

/// What is done at a container's start and before its end.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Lifecycle {
    /// Right after its start.
    pub post_start: Handler,
    /// Before its end.
    pub pre_stop: Handler,
}

/// Something that is done. Only commands matter here.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Handler {
    /// A command in the container.
    pub exec: Exec,
}

/// A command in a container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Exec {
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// A port that a container says it listens on.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Port {
    /// Its number.
    pub container_port: i64,
}

/// What a container sees of a volume.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Mount {
    /// The volume.
    pub name: String,
    /// Where.
    pub mount_path: String,
}

/// A variable.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Option<String>,
    /// Where its value comes from.
    pub value_from: Option<Origin>,
}

/// Where variables come from. Only Secrets matter here.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Origin {
    /// One key of a Secret.
    pub secret_key_ref: Named,
    /// All keys of a Secret.
    pub secret_ref: Named,
}

/// The name of another object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Named {
    /// Its name.
    pub name: String,
}

/// A volume.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// A directory or file of the node.
    pub host_path: Option<HostPath>,
    /// A Secret.
    pub secret: SecretVolume,
    /// Several things in one directory.
    pub projected: Option<Projected>,
    /// What a driver provides.
    pub csi: Csi,
}

/// A directory or file of the node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HostPath {
    /// Where on the node.
    pub path: String,
}

/// A Secret as a volume.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SecretVolume {
    /// The Secret's name.
    pub secret_name: String,
}

/// Several things in one directory.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Projected {
    /// Each of them.
    pub sources: Vec<Source>,
}

/// One of several things in a directory.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Source {
    /// A Secret.
    pub secret: Named,
    /// A service account token.
    pub service_account_token: Option<Token>,
    /// A certificate of the pod's own.
    pub pod_certificate: Option<Certificate>,
}

/// A service account token.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Token {
    /// Whom it is for.
    pub audience: String,
}

/// A certificate of the pod's own.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Certificate {
    /// Who signs it.
    pub signer_name: String,
}

/// What a driver provides.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Csi {
    /// The driver.
    pub driver: String,
}

impl Pod {
    /// Reads a pod.
    ///
    /// # Errors
    /// The first field that has another shape than a pod's.
    pub fn read(pod: &Value) -> Result<Self, Unsafe> {
        if !pod.get("spec").is_some_and(Value::is_object) {
            return Err(Unsafe::one("spec", "expected the specification of a pod"));
        }
        typed(&without_nulls(pod))
    }

    /// All containers, those that run first first, each with the path of its field.
    pub fn containers(&self) -> impl Iterator<Item = (String, &Container)> {
        let paths = |list: &'static str| move |(index, container)| (format!("spec.{list}[{index}]"), container);
        let init = self.spec.init_containers.iter().enumerate().map(paths(INIT_CONTAINERS));
        init.chain(self.spec.containers.iter().enumerate().map(paths(CONTAINERS)))
    }
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Unsafe> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        Unsafe::one(&field, &error.into_inner().to_string())
    })
}

/// To Kubernetes a field that is null is one that is not there.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// The object in this field, made where there is none.
pub fn object<'a>(parent: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    let value = field(parent, key);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made an object above")
}

/// The list in this field, made where there is none.
pub fn list<'a>(parent: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    let value = field(parent, key);
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("it was made a list above")
}

/// Takes what is not to stay out of the list in this field, where there is one.
pub fn retain(parent: &mut Value, key: &str, stays: impl FnMut(&Value) -> bool) {
    if let Some(Value::Array(entries)) = parent.get_mut(key) {
        entries.retain(stays);
    }
}

/// Takes this field out, where there is one.
pub fn remove(parent: &mut Value, key: &str) {
    if let Some(fields) = parent.as_object_mut() {
        fields.remove(key);
    }
}

/// The value of this field, null where there is none.
fn field<'a>(parent: &'a mut Value, key: &str) -> &'a mut Value {
    if !parent.is_object() {
        *parent = Value::Object(Map::new());
    }
    parent.as_object_mut().expect("it was made an object above").entry(key).or_insert(Value::Null)
}

/// The name in a list's entry.
pub fn name(entry: &Value) -> &str {
    entry.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// The field of the containers that run first.
pub const INIT_CONTAINERS: &str = "initContainers";
/// The field of the containers that run at the same time.
pub const CONTAINERS: &str = "containers";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_is_as_good_as_nothing() {
        let pod = json!({"metadata": null, "spec": {"containers": [{"name": "a", "env": null, "ports": null}],
                         "initContainers": null, "hostNetwork": null}});
        let pod = Pod::read(&pod).unwrap();
        assert_eq!(pod.containers().map(|(path, _)| path).collect::<Vec<_>>(), ["spec.containers[0]"]);
    }

    #[test]
    fn another_shape_is_refused_with_its_field() {
        for (pod, field) in [
            (json!([]), "spec"),
            (json!({"spec": []}), "spec"),
            (json!({"spec": {"containers": {}}}), "spec.containers"),
            (json!({"spec": {"containers": [{"name": 1}]}}), "spec.containers[0].name"),
            (json!({"spec": {"hostNetwork": "true"}}), "spec.hostNetwork"),
            (
                json!({"spec": {"containers": [{"env": [{"name": "A", "value": 1}]}]}}),
                "spec.containers[0].env[0].value",
            ),
            (json!({"metadata": {"annotations": {"a": 1}}, "spec": {}}), "metadata.annotations.a"),
        ] {
            let refused = Pod::read(&pod).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("{field}: ")), "{refused}");
        }
    }
}
