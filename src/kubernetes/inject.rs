//! Puts the sidecar into a pod, or says why that can't be made safe.
//!
//! [`inject`] is the one transformation: the webhook and the command line both call it. It is deterministic, injecting
//! what it has injected changes nothing, and fields that are not known here survive it.

pub mod agent;
pub mod config;
pub mod custody;
mod earlier;
pub mod manifest;
pub mod mesh;
pub mod metrics;
pub mod orchestrator;
pub mod outward;
pub mod patch;
pub mod pod;
pub mod review;
pub mod safety;
pub mod serve;
pub mod settings;
pub mod sidecar;
pub mod task;
pub mod unsafe_pod;
pub mod wait;
pub mod weakness;
pub mod yaml;

use std::time::Duration;

use serde_json::{Value, json};

use self::{
    agent::Kept,
    pod::{CONTAINERS, INIT_CONTAINERS, Pod},
    sidecar::Facts,
};
pub use self::{config::Config, unsafe_pod::Unsafe};
use crate::kubernetes::{
    ANNOTATION_CAPTURE, ANNOTATION_FENCE, ANNOTATION_INJECT, ANNOTATION_INJECTED, ANNOTATION_KEPT_VARIABLES, UID,
};

/// What became of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It has a sidecar.
    Inject(Injected),
    /// It passes unchanged, for this reason.
    Skip(&'static str),
}

/// A pod with its sidecar.
#[derive(Debug, Clone, PartialEq)]
pub struct Injected {
    /// The pod.
    pub pod: Value,
    /// What its author should know.
    pub warnings: Vec<String>,
}

/// Puts the sidecar into a pod, or a pod's template, of this namespace.
///
/// # Errors
/// Everything that can't be made safe.
pub fn inject(original: &Value, namespace: &str, config: &Config) -> Result<Outcome, Unsafe> {
    let mut seen = Pod::read(original)?;
    if is_exempt(&seen, namespace, config) {
        return Ok(Outcome::Skip("its namespace is exempt"));
    }
    if let Some(reason) = skip(&seen, config)? {
        let mut found = Unsafe::default();
        custody::check(&seen, config, &mut found);
        return found.into_result().map(|()| Outcome::Skip(reason));
    }
    let mut pod = original.clone();
    if seen.metadata.annotations.contains_key(ANNOTATION_INJECTED) {
        strip(&mut pod, &seen);
        seen = Pod::read(&pod)?;
    }
    safety::check(&pod, &seen, config)?;
    let kept = agent::change(&mut pod, &seen, config);
    agent::withhold_token(&mut pod, &seen, config);
    let changed = Pod::read(&pod)?;
    let weaknesses: Vec<String> = weakness::weaknesses(&changed, config).into_iter().map(|(_, why)| why).collect();
    let labels = seen.metadata.labels.iter().filter(|(name, _)| !name.starts_with(OWN_DOMAIN));
    let grace = seen.spec.termination_grace_period_seconds.unwrap_or(GRACE);
    let facts = Facts {
        labels: labels.map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        weaknesses: weaknesses.clone(),
        task: task::written(&seen),
        orchestrator: orchestrator::user(&seen),
        after: mesh::set_up_first(&config.settings.meshes, &seen.spec.init_containers),
        grace: Duration::from_secs(u64::try_from(grace).unwrap_or(0)),
    };
    sidecar::add(&mut pod, &facts, config);
    describe(&mut pod, &seen, &kept, config);
    Ok(Outcome::Inject(Injected { pod, warnings: warnings(&seen, &kept, weaknesses, config) }))
}

fn is_exempt(pod: &Pod, namespace: &str, config: &Config) -> bool {
    let namespace = if namespace.is_empty() { &pod.metadata.namespace } else { namespace };
    config.settings.exempt_namespaces.iter().any(|exempt| exempt == namespace)
}

fn skip(pod: &Pod, config: &Config) -> Result<Option<&'static str>, Unsafe> {
    let settings = &config.settings;
    let windows = |name: Option<&String>| name.is_some_and(|name| name.eq_ignore_ascii_case("windows"));
    if windows(Some(&pod.spec.os.name)) || windows(pod.spec.node_selector.get(OS_LABEL)) {
        return match settings.skip.windows {
            true => Ok(Some("it is for Windows")),
            false => Err(Unsafe::one("spec.os.name", "there is no sidecar for Windows")),
        };
    }
    match pod.metadata.annotations.get(ANNOTATION_INJECT).map(String::as_str) {
        Some("false" | "disabled") if settings.skip.opted_out => Ok(Some("it opted out")),
        Some("false" | "disabled") => {
            let field = format!("metadata.annotations[{ANNOTATION_INJECT}]");
            Err(Unsafe::one(&field, "the platform does not permit pods without a sidecar here"))
        }
        Some(_) | None => Ok(None),
    }
}

/// Takes out what an earlier injection added: this one may add something else. Privileges that were dropped stay so, as
/// nobody can tell by whom.
fn strip(pod: &mut Value, seen: &Pod) {
    earlier::take_variables(pod, seen);
    let spec = &mut pod["spec"];
    for list in [INIT_CONTAINERS, CONTAINERS] {
        strip_list(spec, list);
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            strip_list(container, "volumeMounts");
        }
    }
    strip_list(spec, "volumes");
    if let Some(annotations) = pod["metadata"]["annotations"].as_object_mut() {
        for name in [ANNOTATION_INJECTED, ANNOTATION_CAPTURE, ANNOTATION_FENCE, ANNOTATION_KEPT_VARIABLES] {
            annotations.remove(name);
        }
    }
}

/// Takes what is ours out of the list in this field, and the field too where nothing else was in it.
fn strip_list(parent: &mut Value, key: &str) {
    let length = |parent: &Value| parent.get(key).and_then(Value::as_array).map_or(0, Vec::len);
    let before = length(parent);
    pod::retain(parent, key, |entry| !safety::is_ours(pod::name(entry)));
    if before > 0 && length(parent) == 0 {
        pod::remove(parent, key);
    }
}

/// Writes down what was done, for people, monitors and the node.
fn describe(pod: &mut Value, seen: &Pod, kept: &Kept, config: &Config) {
    let metadata = &mut pod["metadata"];
    pod::object(metadata, "labels").insert(ANNOTATION_INJECTED.to_owned(), json!("true"));
    let annotations = pod::object(metadata, "annotations");
    let mut annotate = |name: &str, value: String| annotations.insert(name.to_owned(), Value::String(value));
    annotate(ANNOTATION_INJECTED, env!("CARGO_PKG_VERSION").to_owned());
    annotate(ANNOTATION_CAPTURE, config.capture().as_str().to_owned());
    if config.capture().is_fenced() {
        let ports = config.ports();
        let fence = json!({"uid": UID, "exempt": config.exempt_uids, "proxy": ports.proxy,
                           "transparent": ports.transparent, "dns": ports.dns, "health": ports.health});
        annotate(ANNOTATION_FENCE, fence.to_string());
    }
    if !kept.variables.is_empty() {
        annotate(ANNOTATION_KEPT_VARIABLES, kept_variables(kept).join("; "));
    }
    // Without this, `kubectl logs` would show the sidecar, which comes first in the older form.
    if !config.native
        && !seen.metadata.annotations.contains_key(DEFAULT_CONTAINER)
        && let Some(first) = seen.spec.containers.first()
    {
        annotate(DEFAULT_CONTAINER, first.name.clone());
    }
}

fn kept_variables(kept: &Kept) -> Vec<String> {
    kept.variables.iter().map(|(container, names)| format!("{container}: {}", names.join(", "))).collect()
}

fn warnings(seen: &Pod, kept: &Kept, weaknesses: Vec<String>, config: &Config) -> Vec<String> {
    let mut warnings: Vec<String> = kept_variables(kept)
        .into_iter()
        .map(|kept| format!("container {kept} is set by the pod and was left; what reads it may not trust the sidecar"))
        .collect();
    for container in &kept.hidden {
        warnings.push(format!("container {container}: what envFrom says of certificates or proxies is overridden"));
    }
    warnings.extend(weaknesses.into_iter().map(|why| format!("assurance falls to L0: {why}")));
    if !config.native && !seen.spec.init_containers.is_empty() && config.capture().is_fenced() {
        warnings
            .push("init containers run before the sidecar and reach nothing; that needs Kubernetes 1.29".to_owned());
    }
    warnings
}

/// How many seconds a pod that does not say has to end.
const GRACE: i64 = 30;
/// What our labels and annotations begin with.
const OWN_DOMAIN: &str = "tollgate.dev/";
const OS_LABEL: &str = "kubernetes.io/os";
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

#[cfg(test)]
mod tests;
