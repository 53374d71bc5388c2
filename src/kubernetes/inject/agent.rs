//! What changes in the pod's own containers: they see what to trust, are told of it, and lose what would lead around
//! the sidecar.
//!
//! A variable that the pod sets stays as it is, and is told about: clients that read it will not trust the sidecar,
//! so their calls fail instead of going another way.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::{
    Config,
    custody::GENERATED_TOKEN,
    earlier, orchestrator,
    pod::{self, CONTAINERS, Container, INIT_CONTAINERS, Pod, Variable},
    safety,
    settings::{AccountToken, Privileges},
    sidecar::{ADMIN_VOLUME, TRUST_VOLUME},
    weakness,
};
use crate::{
    exec::environment,
    kubernetes::{ADMIN_DIR, Capture, TRUST_DIR},
};

/// What is told about a pod's own containers.
#[derive(Debug, Default)]
pub struct Kept {
    /// Each container with the variables that were left as they are.
    pub variables: Vec<(String, Vec<String>)>,
    /// Containers whose variables come from elsewhere, where ours win.
    pub hidden: Vec<String>,
}

/// Changes every container that is neither ours nor a mesh's. `seen` is the same pod, read.
pub fn change(pod: &mut Value, seen: &Pod, config: &Config) -> Kept {
    let wanted = Wanted::of(config);
    let mut kept = Kept::default();
    let spec = &mut pod["spec"];
    for (list, containers) in [(INIT_CONTAINERS, &seen.spec.init_containers), (CONTAINERS, &seen.spec.containers)] {
        for (index, container) in containers.iter().enumerate() {
            if safety::is_other(container, config) {
                continue;
            }
            let value = &mut spec[list][index];
            mount(value, TRUST_VOLUME, TRUST_DIR);
            if list == CONTAINERS && orchestrator::named(seen) == Some(&container.name) {
                mount(value, ADMIN_VOLUME, ADMIN_DIR);
            }
            let variables = wanted.set(value, container);
            if !variables.is_empty() {
                kept.variables.push((container.name.clone(), variables));
            }
            if !container.env_from.is_empty() {
                kept.hidden.push(container.name.clone());
            }
            drop_privileges(value, container, config);
        }
    }
    kept
}

/// Takes the pod's service account token away, unless the pod asks for it.
pub fn withhold_token(pod: &mut Value, seen: &Pod, config: &Config) {
    let asked = seen.spec.automount_service_account_token.is_some();
    if asked || config.settings.agent.service_account_token == AccountToken::Keep {
        return;
    }
    let spec = &mut pod["spec"];
    spec["automountServiceAccountToken"] = json!(false);
    // The API server may have mounted it already.
    let generated = seen.spec.volumes.iter().filter(|v| v.projected.is_some() && v.name.starts_with(GENERATED_TOKEN));
    let generated: Vec<&str> = generated.map(|volume| volume.name.as_str()).collect();
    if generated.is_empty() {
        return;
    }
    pod::retain(spec, "volumes", |volume| !generated.contains(&pod::name(volume)));
    for list in [INIT_CONTAINERS, CONTAINERS] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            pod::retain(container, "volumeMounts", |mount| !generated.contains(&pod::name(mount)));
        }
    }
}

fn mount(container: &mut Value, volume: &str, path: &str) {
    let mount = json!({"name": volume, "mountPath": path, "readOnly": true});
    pod::list(container, "volumeMounts").push(mount);
}

/// Without these no process in the container becomes the sidecar's user or sends what the fence does not see.
fn drop_privileges(container: &mut Value, seen: &Container, config: &Config) {
    match config.settings.agent.privileges {
        Privileges::Drop if config.capture().is_fenced() => {}
        Privileges::Drop | Privileges::Lower | Privileges::Refuse => return,
    }
    let context = &seen.security_context;
    let missing: Vec<&str> = DROPPED.into_iter().filter(|name| !weakness::drops(context, name)).collect();
    if missing.is_empty() && context.allow_privilege_escalation == Some(false) {
        return;
    }
    pod::object(container, "securityContext").insert("allowPrivilegeEscalation".to_owned(), json!(false));
    if !missing.is_empty() {
        pod::object(&mut container["securityContext"], "capabilities");
        let drop = pod::list(&mut container["securityContext"]["capabilities"], "drop");
        drop.extend(missing.into_iter().map(Value::from));
    }
}

/// The variables that every container is to have.
struct Wanted {
    variables: Vec<(&'static str, String)>,
    java: String,
    /// Variables that lead a client around the proxy, if the pod sets them.
    around: &'static [&'static str],
}

impl Wanted {
    fn of(config: &Config) -> Self {
        let bundle = format!("{TRUST_DIR}/{BUNDLE_FILE}");
        let java = environment::java_trust(&format!("{TRUST_DIR}/{JAVA_STORE_FILE}"));
        let mut variables: Vec<(&'static str, String)> =
            environment::BUNDLE.into_iter().map(|name| (name, bundle.clone())).collect();
        if config.capture() != Capture::Proxy {
            return Self { variables, java, around: &[] };
        }
        let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, config.ports().proxy));
        let direct: Vec<&str> = config.settings.agent.no_proxy.iter().map(String::as_str).collect();
        variables.extend(environment::PROXY.map(|name| (name, format!("http://{proxy}"))));
        variables.push((environment::NODE_USES_PROXY, "1".to_owned()));
        variables.extend(environment::DIRECT.map(|name| (name, direct.join(","))));
        let java = format!("{java} {}", environment::java_proxy(proxy, &direct));
        Self { variables, java, around: &environment::NOT_INHERITED }
    }

    /// Sets what the container does not set itself. Returns the variables that stay as they are.
    fn set(&self, container: &mut Value, seen: &Container) -> Vec<String> {
        let mut kept = Vec::new();
        // Of a variable that is set twice, the last one counts.
        let find = |name: &str| seen.env.iter().rposition(|variable| variable.name == name);
        for (name, value) in &self.variables {
            match find(name) {
                None => push(container, name, value),
                Some(index) if seen.env[index].value.as_deref() == Some(value) => {}
                Some(_) => kept.push((*name).to_owned()),
            }
        }
        match find(environment::JAVA_OPTIONS) {
            None => push(container, environment::JAVA_OPTIONS, &self.java),
            Some(index) => match self.java_with(&seen.env[index]) {
                Some(options) => container["env"][index]["value"] = json!(options),
                None => kept.push(environment::JAVA_OPTIONS.to_owned()),
            },
        }
        kept.extend(self.around.iter().filter(|name| find(name).is_some()).map(|name| (*name).to_owned()));
        kept
    }

    /// Java's options are a list: ours are put after those of the pod. `None`: that can't be done, or would undo one.
    fn java_with(&self, before: &Variable) -> Option<String> {
        if before.value_from.is_some() {
            return None;
        }
        // Ours of another way of capture may be among them.
        let before = earlier::without_ours(before.value.as_deref().unwrap_or_default());
        if before.contains("javax.net.ssl.trustStore") {
            return None;
        }
        Some(format!("{before} {}", self.java).trim_start().to_owned())
    }
}

fn push(container: &mut Value, name: &str, value: &str) {
    pod::list(container, "env").push(json!({"name": name, "value": value}));
}

/// What most clients trust.
pub const BUNDLE_FILE: &str = "ca.pem";
/// What Java trusts.
pub const JAVA_STORE_FILE: &str = "truststore.jks";
/// With NET_RAW a process sends packets that pass by the fence; with the others it becomes another user.
const DROPPED: [&str; 3] = ["NET_RAW", "SETGID", "SETUID"];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(more: &str) -> Config {
        Config::parse(&format!("image: a:1\n{more}"), Path::new(""), "f", &|_| None).unwrap()
    }

    fn changed(container: Value, config: &Config) -> (Value, Kept) {
        let mut pod = json!({"spec": {"containers": [container]}});
        let seen = Pod::read(&pod).unwrap();
        let kept = change(&mut pod, &seen, config);
        (pod["spec"]["containers"][0].clone(), kept)
    }

    fn value<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
        let variables = container["env"].as_array().unwrap();
        variables.iter().find(|variable| variable["name"] == name).and_then(|variable| variable["value"].as_str())
    }

    #[test]
    fn a_variable_that_is_set_stays_and_is_told() {
        let env = json!([{"name": "SSL_CERT_FILE", "value": "/own.pem"}, {"name": "PIP_CERT", "valueFrom": {}},
                         {"name": "AWS_CA_BUNDLE", "value": "/etc/tollgate/trust/ca.pem"}]);
        let (container, kept) = changed(json!({"name": "a", "env": env}), &config(""));
        assert_eq!(value(&container, "SSL_CERT_FILE"), Some("/own.pem"));
        assert_eq!(value(&container, "REQUESTS_CA_BUNDLE"), Some("/etc/tollgate/trust/ca.pem"));
        assert_eq!(value(&container, "HTTPS_PROXY"), None);
        assert_eq!(kept.variables, [("a".to_owned(), vec!["SSL_CERT_FILE".to_owned(), "PIP_CERT".to_owned()])]);
    }

    #[test]
    fn in_proxy_mode_variables_lead_to_the_proxy() {
        let env = json!([{"name": "npm_config_proxy", "value": "http://corp:1"}]);
        let (container, kept) = changed(json!({"name": "a", "env": env}), &config("capture: proxy"));
        assert_eq!(value(&container, "https_proxy"), Some("http://127.0.0.1:15001"));
        assert_eq!(value(&container, "NO_PROXY"), Some("localhost,127.0.0.1,::1"));
        assert_eq!(kept.variables[0].1, ["npm_config_proxy"]);
        assert_eq!(container.get("securityContext"), None);
    }

    #[test]
    fn javas_options_are_added_to() {
        let java = |before: Value| {
            let (container, kept) = changed(json!({"name": "a", "env": [before]}), &config(""));
            (value(&container, "JAVA_TOOL_OPTIONS").map(str::to_owned), !kept.variables.is_empty())
        };
        let ours = environment::java_trust("/etc/tollgate/trust/truststore.jks");
        let with = |value: &str| json!({"name": "JAVA_TOOL_OPTIONS", "value": value});
        assert_eq!(java(with("-Xmx1g")), (Some(format!("-Xmx1g {ours}")), false));
        assert_eq!(java(with("")), (Some(ours.clone()), false));
        assert_eq!(java(with(&format!("-Xmx1g {ours}"))), (Some(format!("-Xmx1g {ours}")), false));
        let other = "-Djavax.net.ssl.trustStore=/own.jks";
        assert_eq!(java(with(other)), (Some(other.to_owned()), true));
        assert_eq!(java(json!({"name": "JAVA_TOOL_OPTIONS", "valueFrom": {}})), (None, true));
    }

    #[test]
    fn privileges_that_lead_to_the_sidecars_user_are_dropped() {
        let context = |context: Value| changed(json!({"name": "a", "securityContext": context}), &config("")).0;
        assert_eq!(
            context(json!({}))["securityContext"],
            json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["NET_RAW", "SETGID", "SETUID"]}})
        );
        let restricted = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        assert_eq!(context(restricted.clone())["securityContext"], restricted);
        assert_eq!(
            context(json!({"capabilities": {"drop": ["SETUID", "MKNOD"]}}))["securityContext"]["capabilities"]["drop"],
            json!(["SETUID", "MKNOD", "NET_RAW", "SETGID"])
        );
    }

    #[test]
    fn the_account_token_is_withheld_unless_it_is_asked_for() {
        let pod = json!({"spec": {"volumes": [{"name": "kube-api-access-x2z", "projected": {"sources": []}}, {"name": "v"}],
            "containers": [{"name": "a", "volumeMounts": [{"name": "kube-api-access-x2z", "mountPath": "/x"}]}]}});
        let withheld = |mut pod: Value, more: &str| {
            let seen = Pod::read(&pod).unwrap();
            withhold_token(&mut pod, &seen, &config(more));
            pod
        };
        let result = withheld(pod.clone(), "");
        assert_eq!(result["spec"]["automountServiceAccountToken"], false);
        assert_eq!(result["spec"]["volumes"], json!([{"name": "v"}]));
        assert_eq!(result["spec"]["containers"][0]["volumeMounts"], json!([]));
        assert_eq!(withheld(result.clone(), ""), result);
        assert_eq!(withheld(pod.clone(), "agent: {service_account_token: keep}"), pod);
        let mut asking = pod;
        asking["spec"]["automountServiceAccountToken"] = json!(true);
        assert_eq!(withheld(asking.clone(), ""), asking);
    }
}
