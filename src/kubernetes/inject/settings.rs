//! The injector's configuration file as it was written: plain data, one field per key.
//!
//! Nothing here is checked beyond its shape; [`Config`](super::Config) is what can be used.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    config::values::{Period, Size},
    kubernetes::{Capture, DNS_PORT, HEALTH_PORT, PROXY_PORT, TRANSPARENT_PORT},
};

/// How pods are injected.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The sidecar's image, with a tag or a digest. Required.
    pub image: Option<String>,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: PullPolicy,
    /// Names of Secrets that are added to a pod's `imagePullSecrets`.
    pub image_pull_secrets: Vec<String>,
    /// How a pod's traffic comes to the sidecar.
    pub capture: Capture,
    /// Whether the sidecar is a native one, an init container that goes on running.
    #[cfg_attr(test, schemars(with = "String"))]
    pub native: Native,
    /// The cluster's version, which `native: auto` asks.
    pub cluster_version: String,
    /// The sidecar's ports.
    pub ports: Ports,
    /// Given to the sidecar as `TOLLGATE_TRUST_DOMAIN`.
    pub trust_domain: String,
    /// Further users that the fence lets out.
    pub exempt_uids: Vec<u32>,
    /// Namespaces whose pods pass unchanged.
    pub exempt_namespaces: Vec<String>,
    /// Which pods pass unchanged.
    pub skip: Skip,
    /// What pods may have although it weakens them.
    pub permit: Permit,
    /// The pod's own containers.
    pub agent: Agent,
    /// The sidecar.
    pub sidecar: Sidecar,
    /// Where the sidecar's own identity comes from.
    pub identity: Identity,
    /// Service meshes whose containers may stand in injected pods.
    pub meshes: Vec<Mesh>,
    /// The webhook.
    pub serve: Serve,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image: None,
            image_pull_policy: PullPolicy::default(),
            image_pull_secrets: Vec::new(),
            capture: Capture::default(),
            native: Native::default(),
            cluster_version: "1.33".to_owned(),
            ports: Ports::default(),
            trust_domain: "cluster.local".to_owned(),
            exempt_uids: Vec::new(),
            exempt_namespaces: vec!["kube-system".to_owned()],
            skip: Skip::default(),
            permit: Permit::default(),
            agent: Agent::default(),
            sidecar: Sidecar::default(),
            identity: Identity::default(),
            meshes: Vec::new(),
            serve: Serve::default(),
        }
    }
}

/// When the kubelet pulls the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// When the node lacks it.
    #[default]
    IfNotPresent,
    /// Never.
    Never,
}

/// Whether the sidecar is a native one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Native {
    /// Where the cluster knows native sidecars.
    #[default]
    Auto,
    /// Always.
    Yes,
    /// Never.
    No,
}

impl<'de> Deserialize<'de> for Native {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Truth(bool),
            Word(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Truth(true)) => Ok(Self::Yes),
            Ok(Written::Truth(false)) => Ok(Self::No),
            Ok(Written::Word(word)) if word == "auto" => Ok(Self::Auto),
            Ok(Written::Word(_)) | Err(_) => Err(serde::de::Error::custom("expected auto, true or false")),
        }
    }
}

/// The sidecar's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Ports {
    /// The explicit proxy.
    pub proxy: u16,
    /// Where redirected connections arrive.
    pub transparent: u16,
    /// The stub resolver.
    pub dns: u16,
    /// Health and metrics.
    pub health: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { proxy: PROXY_PORT, transparent: TRANSPARENT_PORT, dns: DNS_PORT, health: HEALTH_PORT }
    }
}

/// Which pods pass unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Skip {
    /// Pods for Windows nodes. If not, they are refused.
    pub windows: bool,
    /// Pods that say `tollgate.dev/inject: "false"`. If not, they are refused.
    pub opted_out: bool,
}

impl Default for Skip {
    fn default() -> Self {
        Self { windows: true, opted_out: false }
    }
}

/// What pods may have although it weakens them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Permit {
    /// Directories and files of the node that pods may mount, each by itself: not what is below it.
    pub host_paths: Vec<String>,
    /// Drivers of inline `csi` volumes that pods may use.
    pub csi_drivers: Vec<String>,
    /// Whether pods may say what they are for, by the annotation `tollgate.dev/task`.
    pub tasks: bool,
    /// Whether the annotation `tollgate.dev/orchestrator` of a pod may name a container that opens tasks.
    pub orchestrators: bool,
}

impl Default for Permit {
    fn default() -> Self {
        Self { host_paths: Vec::new(), csi_drivers: Vec::new(), tasks: true, orchestrators: false }
    }
}

/// The pod's own containers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    /// What becomes of privileges with which a container could become the sidecar's user.
    pub privileges: Privileges,
    /// What becomes of the pod's service account token.
    pub service_account_token: AccountToken,
    /// Hosts that are reached without the proxy, where variables name one.
    pub no_proxy: Vec<String>,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            privileges: Privileges::default(),
            service_account_token: AccountToken::default(),
            no_proxy: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec(),
        }
    }
}

/// What becomes of privileges with which a container could become the sidecar's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Privileges {
    /// They are taken away.
    #[default]
    Drop,
    /// They stay, and the assurance level falls.
    Lower,
    /// The pod is refused.
    Refuse,
}

/// What becomes of the pod's service account token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AccountToken {
    /// Only a pod that asks for it by `automountServiceAccountToken: true` gets it.
    #[default]
    Withhold,
    /// As without injection.
    Keep,
}

/// The sidecar.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Sidecar {
    /// The ConfigMap in the pod's namespace whose key `config.yaml` is the sidecar's configuration.
    pub config: String,
    /// The ConfigMap in the pod's namespace that holds the policy.
    pub policy: Option<String>,
    /// What the sidecar logs.
    pub log: String,
    /// What it asks for and may use.
    pub resources: Resources,
    /// The same for the containers that make and check the fence.
    pub init_resources: Resources,
    /// The room for records.
    pub audit_size: String,
    /// Further variables.
    pub env: BTreeMap<String, String>,
    /// Secrets that only the sidecar reads.
    pub secrets: Vec<SecretMount>,
    /// Further ConfigMaps that it reads.
    pub config_maps: Vec<ConfigMapMount>,
}

impl Default for Sidecar {
    fn default() -> Self {
        Self {
            config: "tollgate-config".to_owned(),
            policy: None,
            log: "info".to_owned(),
            resources: Resources::new([("cpu", "20m"), ("memory", "48Mi")], [("memory", "256Mi")]),
            init_resources: Resources::new([("cpu", "10m"), ("memory", "16Mi")], [("memory", "64Mi")]),
            audit_size: "1Gi".to_owned(),
            env: BTreeMap::new(),
            secrets: Vec::new(),
            config_maps: Vec::new(),
        }
    }
}

/// What a container asks for and may use, in the notation of Kubernetes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// What the scheduler sets aside.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Quantity>,
    /// What it may use at most.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quantity>,
}

impl Resources {
    fn new<const R: usize, const L: usize>(requests: [(&str, &str); R], limits: [(&str, &str); L]) -> Self {
        let entry = |(name, quantity): (&str, &str)| (name.to_owned(), Quantity::Text(quantity.to_owned()));
        Self { requests: requests.into_iter().map(entry).collect(), limits: limits.into_iter().map(entry).collect() }
    }
}

/// An amount of a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Quantity {
    /// `200m`, `64Mi`.
    Text(String),
    /// `2`.
    Number(serde_json::Number),
}

/// A Secret that only the sidecar reads, mounted below `/etc/tollgate/secrets`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretMount {
    /// The directory's name.
    pub name: String,
    /// The Secret in the pod's namespace.
    pub secret: String,
    /// Whether a pod starts without it.
    #[serde(default)]
    pub optional: bool,
}

/// A ConfigMap of the sidecar, mounted below `/etc/tollgate/files`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ConfigMapMount {
    /// The directory's name.
    pub name: String,
    /// The ConfigMap in the pod's namespace.
    pub config_map: String,
    /// Whether a pod starts without it.
    #[serde(default)]
    pub optional: bool,
}

/// Where the sidecar's own identity comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Identity {
    /// A service account token that only the sidecar sees.
    pub token: Option<Token>,
    /// The SPIFFE Workload API.
    pub spiffe: Option<Spiffe>,
    /// The file name of its socket.
    pub spiffe_socket: String,
}

impl Default for Identity {
    fn default() -> Self {
        Self { token: Some(Token::default()), spiffe: None, spiffe_socket: "spire-agent.sock".to_owned() }
    }
}

/// A service account token that only the sidecar sees.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Token {
    /// Whom it is for.
    pub audience: String,
    /// How long one is valid; the kubelet renews it in time.
    pub expiration: Period,
}

impl Default for Token {
    fn default() -> Self {
        Self { audience: "tollgate".to_owned(), expiration: Period(Duration::from_secs(3600)) }
    }
}

/// How the SPIFFE Workload API's socket comes into the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Spiffe {
    /// By this CSI driver.
    Csi(String),
    /// From this directory of the node.
    HostPath(String),
}

/// A service mesh whose containers may stand in injected pods.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Mesh {
    /// Which one.
    pub kind: MeshKind,
    /// Its images' names, whole, without tags.
    pub images: Vec<String>,
}

/// Which service mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum MeshKind {
    /// Istio.
    Istio,
    /// Linkerd.
    Linkerd,
}

/// The webhook.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Serve {
    /// Where reviews arrive, over TLS.
    pub listen: SocketAddr,
    /// Health and metrics.
    pub health: SocketAddr,
    /// The certificate chain as PEM.
    pub certificate: PathBuf,
    /// Its key as PEM.
    pub key: PathBuf,
    /// The largest review.
    pub max_body: Size,
    /// How long it goes on serving after the signal to stop, until nobody sends it anything more.
    pub linger: Period,
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0; 8], 15443)),
            health: SocketAddr::from(([0; 8], HEALTH_PORT)),
            certificate: "/etc/tollgate/webhook/tls.crt".into(),
            key: "/etc/tollgate/webhook/tls.key".into(),
            max_body: Size(8 << 20),
            linger: Period(Duration::from_secs(5)),
        }
    }
}
