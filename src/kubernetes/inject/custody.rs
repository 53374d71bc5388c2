//! What a pod must not take to itself: the Secrets and the identity that are the sidecar's alone.
//!
//! This holds for pods that pass without a sidecar as well: what is theirs for the asking is nobody's secret.

use super::{
    Config,
    pod::{Container, Pod, Volume},
    settings::{AccountToken, Spiffe},
    unsafe_pod::Unsafe,
};

/// Looks for everything of that kind.
pub fn check(pod: &Pod, config: &Config, found: &mut Unsafe) {
    let mut check = Check { config, found };
    for (path, container) in pod.containers() {
        check.container(&path, container);
    }
    for (index, volume) in pod.spec.volumes.iter().enumerate() {
        check.volume(&format!("spec.volumes[{index}]"), volume);
    }
}

/// Looks for ways to the API server of a pod that does not ask for its token, where the platform withholds it.
pub fn access(pod: &Pod, config: &Config, found: &mut Unsafe) {
    const WHY: &str = "the pod's token is withheld; who needs it says `automountServiceAccountToken: true`";
    let asked = pod.spec.automount_service_account_token;
    if asked == Some(true) || config.settings.agent.service_account_token == AccountToken::Keep {
        return;
    }
    for (index, volume) in pod.spec.volumes.iter().enumerate() {
        if asked.is_none() && volume.name.starts_with(GENERATED_TOKEN) {
            // The API server put it there, and it is taken out.
            continue;
        }
        for (place, source) in volume.projected.iter().flat_map(|projected| &projected.sources).enumerate() {
            let path = format!("spec.volumes[{index}].projected.sources[{place}]");
            if source.service_account_token.as_ref().is_some_and(|token| is_of_the_api(&token.audience)) {
                found.add(format!("{path}.serviceAccountToken.audience"), WHY);
            }
            if source.pod_certificate.as_ref().is_some_and(|one| one.signer_name == API_SIGNER) {
                found.add(format!("{path}.podCertificate.signerName"), WHY);
            }
        }
    }
}

/// Clusters name their API as they like; none is the API server's own, and these are what clusters are made with.
fn is_of_the_api(audience: &str) -> bool {
    audience.is_empty() || ["api", "kubernetes"].contains(&audience) || audience.contains("kubernetes.default")
}

struct Check<'a> {
    config: &'a Config,
    found: &'a mut Unsafe,
}

impl Check<'_> {
    fn container(&mut self, path: &str, container: &Container) {
        for (index, variable) in container.env.iter().enumerate() {
            if let Some(from) = &variable.value_from {
                self.secret(&format!("{path}.env[{index}].valueFrom.secretKeyRef.name"), &from.secret_key_ref.name);
            }
        }
        for (index, from) in container.env_from.iter().enumerate() {
            self.secret(&format!("{path}.envFrom[{index}].secretRef.name"), &from.secret_ref.name);
        }
    }

    fn volume(&mut self, path: &str, volume: &Volume) {
        self.secret(&format!("{path}.secret.secretName"), &volume.secret.secret_name);
        for (index, source) in volume.projected.iter().flat_map(|projected| &projected.sources).enumerate() {
            let path = format!("{path}.projected.sources[{index}]");
            self.secret(&format!("{path}.secret.name"), &source.secret.name);
            let ours = self.config.settings.identity.token.as_ref().map(|token| &token.audience);
            if source.service_account_token.as_ref().is_some_and(|token| Some(&token.audience) == ours) {
                let why = "a token for this audience is the sidecar's identity";
                self.found.add(format!("{path}.serviceAccountToken.audience"), why);
            }
        }
        if let Some(Spiffe::Csi(driver)) = &self.config.settings.identity.spiffe
            && volume.csi.driver == *driver
        {
            self.found.add(format!("{path}.csi.driver"), "the Workload API gives out the sidecar's identity");
        }
    }

    fn secret(&mut self, field: &str, name: &str) {
        if self.config.settings.sidecar.secrets.iter().any(|mount| mount.secret == name) {
            self.found.add(field, format!("the Secret {name} is for the sidecar alone"));
        }
    }
}

/// What the names of volumes begin with that the API server adds for a pod's token.
pub const GENERATED_TOKEN: &str = "kube-api-access-";
/// Its certificates are as good as a token.
const API_SIGNER: &str = "kubernetes.io/kube-apiserver-client-pod";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn config(more: &str) -> Config {
        Config::parse(&format!("image: a:1\n{more}"), Path::new(""), "f", &|_| None).unwrap()
    }

    fn found(spec: &Value, config: &Config, look: fn(&Pod, &Config, &mut Unsafe)) -> Vec<String> {
        let pod = Pod::read(&json!({"spec": spec})).unwrap();
        let mut found = Unsafe::default();
        look(&pod, config, &mut found);
        found.reasons().iter().map(|reason| reason.field.clone()).collect()
    }

    #[test]
    fn what_is_the_sidecars_is_refused_by_its_field() {
        let config =
            config("sidecar: {secrets: [{name: s, secret: ours}]}\nidentity: {spiffe: {csi: csi.spiffe.io}}\n");
        let container = |fields: Value| json!({"containers": [fields]});
        let volume = |fields: Value| json!({"volumes": [fields]});
        for (spec, field) in [
            (
                container(json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "ours", "key": "k"}}}]})),
                "spec.containers[0].env[0].valueFrom.secretKeyRef.name",
            ),
            (
                container(json!({"envFrom": [{"secretRef": {"name": "ours"}}]})),
                "spec.containers[0].envFrom[0].secretRef.name",
            ),
            (volume(json!({"name": "v", "secret": {"secretName": "ours"}})), "spec.volumes[0].secret.secretName"),
            (
                volume(json!({"name": "v", "projected": {"sources": [{"secret": {"name": "ours"}}]}})),
                "spec.volumes[0].projected.sources[0].secret.name",
            ),
            (
                volume(json!({"projected": {"sources": [{"serviceAccountToken": {"audience": "tollgate"}}]}})),
                "spec.volumes[0].projected.sources[0].serviceAccountToken.audience",
            ),
            (volume(json!({"name": "v", "csi": {"driver": "csi.spiffe.io"}})), "spec.volumes[0].csi.driver"),
        ] {
            assert_eq!(found(&spec, &config, check), [field], "{spec}");
        }
        let others = volume(json!({"name": "v", "secret": {"secretName": "theirs"}}));
        assert_eq!(found(&others, &config, check), [""; 0]);
    }

    #[test]
    fn a_token_that_is_withheld_is_not_had_by_another_name() {
        let token = |audience: &str| json!([{"serviceAccountToken": {"path": "t", "audience": audience}}]);
        let signed = |signer: &str| json!([{"podCertificate": {"signerName": signer, "keyType": "ED25519"}}]);
        for (name, sources, refused) in [
            ("t", json!([{"serviceAccountToken": {"path": "t"}}]), Some("serviceAccountToken.audience")),
            ("t", token("https://kubernetes.default.svc.cluster.local"), Some("serviceAccountToken.audience")),
            ("t", token("api"), Some("serviceAccountToken.audience")),
            ("t", signed("kubernetes.io/kube-apiserver-client-pod"), Some("podCertificate.signerName")),
            ("t", token("vault"), None),
            ("t", signed("example.org/mine"), None),
            ("kube-api-access-x7z2q", json!([{"serviceAccountToken": {"path": "token"}}]), None),
        ] {
            let fields: Vec<String> =
                refused.into_iter().map(|field| format!("spec.volumes[0].projected.sources[0].{field}")).collect();
            let mut spec = json!({"volumes": [{"name": name, "projected": {"sources": sources}}]});
            assert_eq!(found(&spec, &config(""), access), fields, "{spec}");
            assert_eq!(found(&spec, &config("agent: {service_account_token: keep}"), access), [""; 0], "{spec}");
            spec["automountServiceAccountToken"] = json!(true);
            assert_eq!(found(&spec, &config(""), access), [""; 0], "{spec}");
        }
        let own = json!({"automountServiceAccountToken": false, "volumes": [
            {"name": "kube-api-access-mine", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]});
        assert_eq!(found(&own, &config(""), access).len(), 1);
    }
}
