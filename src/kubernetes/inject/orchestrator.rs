//! The container of a pod that may open tasks: none, unless its author names one and the platform permits that.
//!
//! Who opens a task says what its calls may do, so the agent itself must not. What keeps it out is that the volume of the
//! socket is mounted nowhere else. That the orchestrator runs as a user of its own is asked for too, because the sidecar
//! knows its callers by their user.

use super::{Config, Unsafe, pod::Pod, safety::is_other};
use crate::kubernetes::ANNOTATION_ORCHESTRATOR;

/// The container that the pod's author names.
pub fn named(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.get(ANNOTATION_ORCHESTRATOR).map(String::as_str)
}

/// The user that it runs as.
pub fn user(pod: &Pod) -> Option<i64> {
    let name = named(pod)?;
    let container = pod.spec.containers.iter().find(|container| container.name == name)?;
    container.security_context.run_as_user.or(pod.spec.security_context.run_as_user)
}

/// Looks for everything by which a pod's agent could open tasks for itself.
pub fn check(pod: &Pod, config: &Config, found: &mut Unsafe) {
    let Some(name) = named(pod) else { return };
    let field = format!("metadata.annotations[{ANNOTATION_ORCHESTRATOR}]");
    if !config.settings.permit.orchestrators {
        let why = "the platform permits no container that opens tasks; `permit.orchestrators` in the injector's \
                   configuration does";
        return found.add(field, why);
    }
    let own = || pod.spec.containers.iter().filter(|container| !is_other(container, config));
    if own().filter(|container| container.name == name).count() != 1 {
        return found.add(field, format!("{name:?} is none of spec.containers"));
    }
    if own().all(|container| container.name == name) {
        found.add(field, "no agent is beside it, and who works in tasks must not open them");
    }
    users(pod, name, config, found);
}

/// Each must be written down, because an image may name any user.
fn users(pod: &Pod, name: &str, config: &Config, found: &mut Unsafe) {
    let orchestrator = user(pod);
    for (path, container) in pod.containers().filter(|(_, container)| !is_other(container, config)) {
        let user = container.security_context.run_as_user.or(pod.spec.security_context.run_as_user);
        let is_it = container.name == name;
        let why = match user {
            None => "is needed where a container opens tasks, which is known by its user",
            Some(0) if is_it => "root opens no tasks: take a user that no other container has",
            Some(_) if !is_it && user == orchestrator => "the user of the container that opens tasks",
            Some(_) => continue,
        };
        found.add(format!("{path}.securityContext.runAsUser"), why);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn found(spec: &Value, more: &str) -> Vec<String> {
        let config = Config::parse(&format!("image: a:1\n{more}"), Path::new(""), "f", &|_| None).unwrap();
        let annotations = json!({ANNOTATION_ORCHESTRATOR: "boss"});
        let pod = Pod::read(&json!({"metadata": {"annotations": annotations}, "spec": spec})).unwrap();
        let mut found = Unsafe::default();
        check(&pod, &config, &mut found);
        found.reasons().iter().map(|reason| reason.field.clone()).collect()
    }

    const ANNOTATION: &str = "metadata.annotations[tollgate.dev/orchestrator]";

    fn container(name: &str, user: u32) -> Value {
        json!({"name": name, "securityContext": {"runAsUser": user}})
    }

    #[test]
    fn an_orchestrator_is_a_container_of_its_own_with_a_user_of_its_own() {
        let permit = "permit: {orchestrators: true}";
        let user = |list: &str, index: usize| format!("spec.{list}[{index}].securityContext.runAsUser");
        for (spec, fields) in [
            (json!({"containers": [container("agent", 1000), container("boss", 2000)]}), vec![]),
            (json!({"containers": [container("agent", 1000)]}), vec![ANNOTATION.to_owned()]),
            (json!({"containers": [container("boss", 2000)]}), vec![ANNOTATION.to_owned()]),
            // An init container has ended when agents run, or is not looked for here.
            (
                json!({"initContainers": [container("boss", 2000)], "containers": [container("agent", 1000)]}),
                vec![ANNOTATION.to_owned()],
            ),
            (json!({"containers": [container("agent", 1000), container("boss", 0)]}), vec![user("containers", 1)]),
            (json!({"containers": [container("agent", 2000), container("boss", 2000)]}), vec![user("containers", 0)]),
            (json!({"containers": [{"name": "agent"}, container("boss", 2000)]}), vec![user("containers", 0)]),
            (json!({"containers": [container("agent", 1000), {"name": "boss"}]}), vec![user("containers", 1)]),
            (
                json!({"securityContext": {"runAsUser": 2000}, "containers": [container("agent", 1000), {"name": "boss"}],
                       "initContainers": [{"name": "prepare"}]}),
                vec![user("initContainers", 0)],
            ),
        ] {
            assert_eq!(found(&spec, permit), fields, "{spec}");
            assert_eq!(found(&spec, ""), [ANNOTATION], "it is for the platform to permit");
        }
    }

    #[test]
    fn a_meshs_container_is_no_orchestrator() {
        let more = "permit: {orchestrators: true}\nmeshes: [{kind: linkerd, images: [linkerd/proxy]}]";
        let config = Config::parse(&format!("image: a:1\n{more}"), Path::new(""), "f", &|_| None).unwrap();
        let proxy =
            json!({"name": "linkerd-proxy", "image": "linkerd/proxy:1", "securityContext": {"runAsUser": 2102}});
        let pod = json!({"metadata": {"annotations": {ANNOTATION_ORCHESTRATOR: "linkerd-proxy"}},
                         "spec": {"containers": [container("agent", 1000), proxy]}});
        let mut found = Unsafe::default();
        check(&Pod::read(&pod).unwrap(), &config, &mut found);
        assert_eq!(found.reasons().iter().map(|reason| &*reason.field).collect::<Vec<_>>(), [ANNOTATION]);
    }
}
