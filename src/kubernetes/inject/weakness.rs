//! By what a container could leave the fence although nothing in its pod is forbidden.
//!
//! What becomes of it is for the platform to say: it lowers the level, or the pod is refused.

use super::{
    Config,
    pod::{Container, Pod, SecurityContext, Spec},
    safety::{is_other, plain},
};
use crate::kubernetes::UID;

/// By what a container could still leave the fence: its field and a sentence. Nothing where there is no fence to leave.
pub fn weaknesses(pod: &Pod, config: &Config) -> Vec<(String, String)> {
    if !config.capture().is_fenced() {
        return Vec::new();
    }
    let own = pod.containers().filter(|(_, container)| !is_other(container, config));
    own.flat_map(|(path, container)| {
        let found = weaknesses_of(container, &pod.spec);
        found.into_iter().map(move |(field, why)| (format!("{path}.securityContext{field}"), why))
    })
    .collect()
}

/// Each with the field below the container's `securityContext`.
fn weaknesses_of(container: &Container, spec: &Spec) -> Vec<(&'static str, String)> {
    let context = &container.security_context;
    let user = context.run_as_user.or(spec.security_context.run_as_user);
    let not_root = context.run_as_non_root.or(spec.security_context.run_as_non_root) == Some(true);
    let root = user == Some(0) || (user.is_none() && !not_root);
    let name = &container.name;
    let mut found = Vec::new();
    if user.is_none() {
        let why = format!(
            "container {name} runs as the user that its image names, which may be one that the fence lets out; set \
             runAsUser to any but {UID}"
        );
        found.push((".runAsUser", why));
    }
    if root && !drops(context, "NET_RAW") {
        found.push(("", format!("container {name} may run as root with NET_RAW, which passes by the fence")));
    } else if root && !drops(context, "SETUID") {
        let why = format!("container {name} may run as root with SETUID and so become the sidecar's user");
        found.push(("", why));
    } else if context.allow_privilege_escalation != Some(false) {
        found.push(("", format!("container {name} may gain privileges and so become the sidecar's user")));
    }
    found
}

/// Whether a capability that containers usually have is taken away.
pub fn drops(context: &SecurityContext, capability: &str) -> bool {
    context
        .capabilities
        .drop
        .iter()
        .any(|dropped| matches!(plain(dropped).as_str(), "ALL") || plain(dropped) == capability)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::kubernetes::inject::safety;

    fn config(more: &str) -> Config {
        Config::parse(&format!("image: a:1\n{more}"), Path::new(""), "f", &|_| None).unwrap()
    }

    fn refused(pod: &Value, config: &Config) -> Vec<String> {
        let found = safety::check(pod, &Pod::read(pod).unwrap(), config).err().unwrap_or_default();
        found.reasons().iter().map(|reason| reason.field.clone()).collect()
    }

    fn container(fields: Value) -> Value {
        json!({"spec": {"containers": [fields]}})
    }

    #[test]
    fn what_a_container_could_still_do_is_told() {
        let (lower, refuse) = (config("agent: {privileges: lower}"), config("agent: {privileges: refuse}"));
        let unknown = "the user that its image names";
        for (context, expected) in [
            (json!({}), vec![unknown, "NET_RAW"]),
            (json!({"runAsUser": 0}), vec!["NET_RAW"]),
            (json!({"runAsUser": 0, "capabilities": {"drop": ["NET_RAW"]}}), vec!["SETUID"]),
            // An image may hold a file that makes whoever runs it another user.
            (json!({"runAsUser": 0, "capabilities": {"drop": ["all"]}}), vec!["gain privileges"]),
            (json!({"runAsUser": 0, "capabilities": {"drop": ["all"]}, "allowPrivilegeEscalation": false}), vec![]),
            (json!({"runAsNonRoot": true}), vec![unknown, "gain privileges"]),
            (json!({"runAsNonRoot": true, "allowPrivilegeEscalation": false}), vec![unknown]),
            (json!({"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false}), vec![unknown]),
            (json!({"runAsUser": 7, "allowPrivilegeEscalation": false}), vec![]),
        ] {
            let pod = container(json!({"name": "a", "securityContext": context}));
            let found = weaknesses(&Pod::read(&pod).unwrap(), &lower);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for ((_, why), expected) in found.iter().zip(&expected) {
                assert!(why.contains(expected), "{why}");
            }
            assert_eq!(refused(&pod, &refuse).len(), expected.len(), "{pod}");
        }
    }

    #[test]
    fn a_user_that_nobody_wrote_down_is_a_weakness_by_its_field() {
        let unknown = container(json!({"name": "a", "securityContext": {"runAsNonRoot": true,
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}));
        let field = "spec.containers[0].securityContext.runAsUser";
        assert_eq!(refused(&unknown, &config("agent: {privileges: refuse}")), [field]);
        for privileges in ["drop", "lower"] {
            let config = config(&format!("agent: {{privileges: {privileges}}}"));
            assert_eq!(refused(&unknown, &config), [""; 0]);
            assert_eq!(weaknesses(&Pod::read(&unknown).unwrap(), &config)[0].0, field);
        }
        let mut known = unknown;
        known["spec"]["securityContext"] = json!({"runAsUser": 1000});
        assert_eq!(refused(&known, &config("agent: {privileges: refuse}")), [""; 0]);
        assert_eq!(weaknesses(&Pod::read(&known).unwrap(), &config("")), []);
    }
}
