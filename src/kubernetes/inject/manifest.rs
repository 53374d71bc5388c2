//! Injection of manifests: every pod, and every template of one, in a text of one or more documents.
//!
//! A document without a pod passes as it was written, comments and all.

use serde_json::Value;

use super::{Config, Outcome, Unsafe, inject, yaml};

/// Manifests with sidecars.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifests {
    /// The documents.
    pub text: String,
    /// What their authors should know, each with its document.
    pub warnings: Vec<String>,
}

/// Injects all pods in a text.
///
/// # Errors
/// Everything that is wrong, each with its document and field.
pub fn inject_text(text: &str, config: &Config) -> Result<Manifests, Vec<String>> {
    let mut manifests = Manifests::default();
    let mut errors = Vec::new();
    for (number, document) in (1..).zip(yaml::split(text)) {
        if yaml::is_empty(document) {
            manifests.text.push_str(document);
            continue;
        }
        let mut object = match yaml::read(document) {
            Ok(object) => object,
            Err(error) => {
                errors.push(format!("document {number}: {error}"));
                continue;
            }
        };
        let mut walk = Walk { config, number, changed: false, warnings: Vec::new(), errors: Vec::new() };
        walk.object(&mut object, "");
        errors.append(&mut walk.errors);
        manifests.warnings.append(&mut walk.warnings);
        if walk.changed {
            manifests.text.push_str(&yaml::write(&object, document));
        } else {
            manifests.text.push_str(document);
        }
    }
    if errors.is_empty() { Ok(manifests) } else { Err(errors) }
}

struct Walk<'a> {
    config: &'a Config,
    number: usize,
    changed: bool,
    warnings: Vec<String>,
    errors: Vec<String>,
}

impl Walk<'_> {
    /// `prefix` is the path of the object in its document.
    fn object(&mut self, object: &mut Value, prefix: &str) {
        let kind = text(object, "kind").to_owned();
        if kind.is_empty() || text(object, "apiVersion").is_empty() {
            let at = if prefix.is_empty() { String::new() } else { format!(": {}", prefix.trim_end_matches('.')) };
            return self
                .errors
                .push(format!("document {}{at}: expected a manifest, with apiVersion and kind", self.number));
        }
        if kind.ends_with("List") && object["items"].is_array() {
            for (index, item) in object["items"].as_array_mut().into_iter().flatten().enumerate() {
                self.object(item, &format!("{prefix}items[{index}]."));
            }
            return;
        }
        let title = format!("document {} ({kind} {:?})", self.number, text(&object["metadata"], "name"));
        match template(text(object, "apiVersion"), &kind) {
            Some(path) => self.template(object, path, prefix, &title),
            None if object.pointer("/spec/template/spec/containers").is_some() => {
                self.warnings
                    .push(format!("{title}: {kind} is not known; the pods that it makes are not injected here"));
            }
            None => {}
        }
    }

    fn template(&mut self, object: &mut Value, path: &[&str], prefix: &str, title: &str) {
        let namespace = text(&object["metadata"], "namespace").to_owned();
        let at = |field: &str| {
            let way: Vec<&str> = path.iter().copied().chain([field]).collect();
            format!("{title}: {prefix}{}", way.join("."))
        };
        let pod = path.iter().try_fold(object, |value, key| value.get_mut(*key));
        let Some(pod) = pod.filter(|pod| pod.is_object()) else {
            return self.errors.push(format!("{}: expected a template of pods", at("").trim_end_matches('.')));
        };
        let pods_own = pod.clone();
        match inject(&pods_own, &namespace, self.config) {
            Ok(Outcome::Inject(injected)) => {
                self.changed |= injected.pod != *pod;
                *pod = injected.pod;
                self.warnings.extend(injected.warnings.iter().map(|warning| format!("{title}: {warning}")));
            }
            Ok(Outcome::Skip(_)) => {}
            Err(refused) => self.errors.extend(errors(&refused, at)),
        }
    }
}

fn errors(refused: &Unsafe, at: impl Fn(&str) -> String) -> impl Iterator<Item = String> {
    refused.reasons().iter().map(move |reason| format!("{}: {}", at(&reason.field), reason.why))
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The way to the template of pods in an object of this kind; `None`: it has none.
fn template(version: &str, kind: &str) -> Option<&'static [&'static str]> {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Pod") => Some(&[]),
        ("", "PodTemplate") => Some(&["template"]),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => Some(&["spec", "template"]),
        ("batch", "CronJob") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn run(text: &str) -> Result<Manifests, Vec<String>> {
        inject_text(text, &Config::parse("image: a:1", Path::new(""), "f", &|_| None).unwrap())
    }

    #[test]
    fn what_has_no_pod_passes_as_it_was_written() {
        let text = "# first\nkind:   ConfigMap # odd\napiVersion: v1\ndata: {a: 'x'}\n---\n# nothing\n---\napiVersion: v1\nkind: Service\n";
        let manifests = run(text).unwrap();
        assert_eq!(manifests.text, text);
        assert_eq!(manifests.warnings, [""; 0]);
    }

    #[test]
    fn errors_name_document_and_field() {
        let text = "\
kind: List
apiVersion: v1
items:
- {kind: CronJob, apiVersion: batch/v1, metadata: {name: c}, spec: {jobTemplate: {spec: {template: {spec: {hostNetwork: true, containers: [{name: a}]}}}}}}
---
kind: Deployment
apiVersion: apps/v1
metadata: {name: d}
---
a: [
---
kind: Pod
apiVersion: v1
metadata: {name: p}
spec: {containers: {}}
";
        let errors = run(text).unwrap_err();
        insta::assert_snapshot!(errors.join("\n"), @r#"
        document 1 (CronJob "c"): items[0].spec.jobTemplate.spec.template.spec.hostNetwork: the node's network has no fence of the pod's own
        document 2 (Deployment "d"): spec.template: expected a template of pods
        document 3: not valid YAML in its line 2: unclosed bracket '['
        document 4 (Pod "p"): spec.containers: invalid type: map, expected a sequence
        "#);
    }

    #[test]
    fn an_unknown_kind_with_pods_is_told() {
        let text = "kind: Rollout\napiVersion: argoproj.io/v1alpha1\nmetadata: {name: r}\nspec: {template: {spec: {containers: []}}}\n";
        let manifests = run(text).unwrap();
        assert_eq!(manifests.text, text);
        assert_eq!(manifests.warnings.len(), 1);
    }

    #[test]
    fn a_namespace_that_is_exempt_passes() {
        let text =
            "kind: Pod\napiVersion: v1\nmetadata: {name: p, namespace: kube-system}\nspec: {containers: [{name: a}]}\n";
        assert_eq!(run(text).unwrap().text, text);
    }
}
