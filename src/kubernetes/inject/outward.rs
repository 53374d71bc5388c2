//! What a pod must not ask of others: of the node, which would act for it from outside its fence, and of whoever tells
//! its sidecar where a name leads.
//!
//! This looks at the pod as it came, so that a kind of volume that is not known here is refused and not overlooked.

use serde_json::{Map, Value};

use super::{
    Config,
    pod::{CONTAINERS, INIT_CONTAINERS, name},
    safety::is_ours,
    unsafe_pod::Unsafe,
};

/// Looks for everything of that kind.
pub fn check(pod: &Value, config: &Config, found: &mut Unsafe) {
    let spec = &pod["spec"];
    names(spec, found);
    for (index, volume) in entries(spec, "volumes") {
        self::volume(&format!("spec.volumes[{index}]"), volume, config, found);
    }
    for list in [INIT_CONTAINERS, CONTAINERS] {
        for (index, container) in entries(spec, list) {
            self::container(&format!("spec.{list}[{index}]"), container, found);
        }
    }
}

/// The sidecar resolves names with the files that the kubelet writes by these.
fn names(spec: &Value, found: &mut Unsafe) {
    const WHY: &str = "it would choose where a permitted name leads";
    if !entries(spec, "hostAliases").is_empty() {
        found.add("spec.hostAliases", WHY);
    }
    if !entries(&spec["dnsConfig"], "nameservers").is_empty() {
        found.add("spec.dnsConfig.nameservers", WHY);
    }
    if spec["dnsPolicy"] == "None" {
        found.add("spec.dnsPolicy", WHY);
    }
    if !spec["hostnameOverride"].is_null() {
        found.add("spec.hostnameOverride", WHY);
    }
}

/// Only what Pod Security's `restricted` has, and `hostPath`, which is looked at elsewhere: many others are the node's
/// own connections to a server that the pod names.
fn volume(path: &str, volume: &Value, config: &Config, found: &mut Unsafe) {
    for (kind, source) in fields(volume).into_iter().flatten().filter(|(_, source)| !source.is_null()) {
        match kind.as_str() {
            "name" => {}
            "csi" => {
                let driver = source["driver"].as_str().unwrap_or_default();
                if !config.settings.permit.csi_drivers.iter().any(|permitted| permitted == driver) {
                    let why = "the driver acts for the pod from the node; `permit.csi_drivers` in the injector's \
                               configuration lists those that may";
                    found.add(format!("{path}.csi.driver"), why);
                }
            }
            kind if VOLUMES.contains(&kind) => {}
            kind => found.add(format!("{path}.{kind}"), "the node would connect to a server of the pod's choice"),
        }
    }
}

fn container(path: &str, container: &Value, found: &mut Unsafe) {
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        handler(&format!("{path}.{probe}"), &container[probe], found);
    }
    for hook in ["postStart", "preStop"] {
        handler(&format!("{path}.lifecycle.{hook}"), &container["lifecycle"][hook], found);
    }
    for (index, device) in entries(container, "volumeDevices") {
        if is_ours(name(device)) {
            found.add(format!("{path}.volumeDevices[{index}].name"), "a volume of the sidecar's");
        }
    }
    for (index, variable) in entries(container, "env") {
        let volume = variable["valueFrom"]["fileKeyRef"]["volumeName"].as_str();
        if volume.is_some_and(is_ours) {
            let field = format!("{path}.env[{index}].valueFrom.fileKeyRef.volumeName");
            found.add(field, "a volume of the sidecar's");
        }
    }
}

/// The kubelet calls from the node, past the pod's fence. Without a host it calls the pod itself.
fn handler(path: &str, handler: &Value, found: &mut Unsafe) {
    for kind in ["httpGet", "tcpSocket"] {
        if !handler[kind]["host"].as_str().unwrap_or_default().is_empty() {
            found.add(format!("{path}.{kind}.host"), "the node would call a host of the pod's choice");
        }
    }
}

fn entries<'a>(parent: &'a Value, list: &str) -> Vec<(usize, &'a Value)> {
    parent[list].as_array().into_iter().flatten().enumerate().collect()
}

fn fields(value: &Value) -> Option<&Map<String, Value>> {
    value.as_object()
}

const VOLUMES: [&str; 9] = [
    "configMap",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "hostPath",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn found(spec: Value) -> Vec<String> {
        let config = Config::parse("image: a:1\npermit: {csi_drivers: [ours]}", Path::new(""), "f", &|_| None).unwrap();
        let mut found = Unsafe::default();
        check(&json!({"spec": spec}), &config, &mut found);
        found.reasons().iter().map(|reason| reason.field.clone()).collect()
    }

    fn container(fields: Value) -> Value {
        json!({"initContainers": [fields.clone()], "containers": [fields]})
    }

    #[test]
    fn what_chooses_where_a_name_leads_is_refused() {
        for (spec, field) in [
            (json!({"hostAliases": [{"ip": "10.9.9.9", "hostnames": ["db.example.com"]}]}), "spec.hostAliases"),
            (json!({"dnsConfig": {"nameservers": ["10.9.9.9"]}}), "spec.dnsConfig.nameservers"),
            (json!({"dnsPolicy": "None"}), "spec.dnsPolicy"),
            (json!({"hostnameOverride": "db.example.com"}), "spec.hostnameOverride"),
        ] {
            assert_eq!(found(spec.clone()), [field], "{spec}");
        }
        let usual =
            json!({"dnsPolicy": "ClusterFirst", "hostAliases": [], "dnsConfig": {"options": [{"name": "ndots"}]}});
        assert_eq!(found(usual), [""; 0]);
    }

    #[test]
    fn a_volume_that_the_node_connects_for_is_refused() {
        for (volume, field) in [
            (json!({"name": "v", "nfs": {"server": "s", "path": "/"}}), Some("spec.volumes[0].nfs")),
            (json!({"name": "v", "gitRepo": {"repository": "r"}}), Some("spec.volumes[0].gitRepo")),
            (json!({"name": "v", "flexVolume": {"driver": "d"}}), Some("spec.volumes[0].flexVolume")),
            (json!({"name": "v", "ofTomorrow": {}}), Some("spec.volumes[0].ofTomorrow")),
            (json!({"name": "v", "csi": {"driver": "theirs"}}), Some("spec.volumes[0].csi.driver")),
            (json!({"name": "v", "csi": {"driver": "ours"}}), None),
            (json!({"name": "v", "emptyDir": {}, "nfs": null}), None),
            (json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}), None),
        ] {
            let expected: Vec<&str> = field.into_iter().collect();
            assert_eq!(found(json!({"volumes": [volume.clone()]})), expected, "{volume}");
        }
    }

    #[test]
    fn the_kubelet_calls_nobody_but_the_pod() {
        for (fields, field) in [
            (
                json!({"livenessProbe": {"httpGet": {"host": "169.254.169.254", "port": 80}}}),
                "livenessProbe.httpGet.host",
            ),
            (json!({"readinessProbe": {"tcpSocket": {"host": "h", "port": 80}}}), "readinessProbe.tcpSocket.host"),
            (
                json!({"lifecycle": {"postStart": {"httpGet": {"host": "h", "port": 80}}}}),
                "lifecycle.postStart.httpGet.host",
            ),
            (json!({"volumeDevices": [{"name": "tollgate-ca-key"}]}), "volumeDevices[0].name"),
            (
                json!({"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "tollgate-ca-key"}}}]}),
                "env[0].valueFrom.fileKeyRef.volumeName",
            ),
        ] {
            let expected = [format!("spec.initContainers[0].{field}"), format!("spec.containers[0].{field}")];
            assert_eq!(found(container(fields)), expected);
        }
        let usual = json!({"livenessProbe": {"httpGet": {"path": "/", "port": 80}}, "startupProbe": {"exec": {}}});
        assert_eq!(found(container(usual)), [""; 0]);
    }
}
