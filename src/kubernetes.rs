//! Tollgate in a Kubernetes pod: who puts the sidecar there, what keeps the agent to it, and who proves that it holds.
//!
//! [`inject`] changes a pod before it is made, [`fence`] is the kernel's table inside the pod, [`cni`] has the node put it
//! there, and [`assurance`] says what all of it amounts to. Nothing here is on the path of a call.

pub mod assurance;
pub mod cni;
pub mod fence;
pub mod inject;

use serde::{Deserialize, Serialize};

/// How a pod's traffic comes to the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// By rules that an init container makes.
    #[default]
    Init,
    /// By rules that the node makes.
    Cni,
    /// By variables that clients may ignore.
    Proxy,
}

impl Capture {
    /// Reads what [`as_str`](Self::as_str) gives.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Init, Self::Cni, Self::Proxy].into_iter().find(|capture| capture.as_str() == text)
    }

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Cni => "cni",
            Self::Proxy => "proxy",
        }
    }

    /// Whether the kernel keeps the agent to the sidecar.
    pub fn is_fenced(self) -> bool {
        match self {
            Self::Init | Self::Cni => true,
            Self::Proxy => false,
        }
    }
}

/// The user and group of the sidecar: the one user that the fence lets out.
pub const UID: u32 = 15000;
/// The user and group of the container that checks the fence: neither root nor the sidecar.
pub const CHECK_UID: u32 = 15001;

/// The explicit proxy.
pub const PROXY_PORT: u16 = 15001;
/// Where redirected connections arrive.
pub const TRANSPARENT_PORT: u16 = 15002;
/// The stub resolver.
pub const DNS_PORT: u16 = 15053;
/// Health and metrics.
pub const HEALTH_PORT: u16 = 15020;

/// The sidecar's container.
pub const SIDECAR: &str = "tollgate";
/// The init container that puts up the fence.
pub const FENCE: &str = "tollgate-fence";
/// The init container that checks the fence.
pub const FENCE_CHECK: &str = "tollgate-fence-check";

/// Says `"false"` on a pod that wants no sidecar, where the platform permits that.
pub const ANNOTATION_INJECT: &str = "tollgate.dev/inject";
/// Which version injected a pod; as a label `"true"`.
pub const ANNOTATION_INJECTED: &str = "tollgate.dev/injected";
/// How a pod's traffic is captured: `init`, `cni` or `proxy`.
pub const ANNOTATION_CAPTURE: &str = "tollgate.dev/capture";
/// The fence's users and ports as JSON, for the CNI plugin.
pub const ANNOTATION_FENCE: &str = "tollgate.dev/fence";
/// The variables that a pod sets itself and that were left as they are.
pub const ANNOTATION_KEPT_VARIABLES: &str = "tollgate.dev/kept-variables";
/// What a pod is for: the keys of `tasks.static`.
pub const ANNOTATION_TASK: &str = "tollgate.dev/task";
/// The container of a pod that may open tasks, where the platform permits one.
pub const ANNOTATION_ORCHESTRATOR: &str = "tollgate.dev/orchestrator";

/// Where the sidecar's settings are mounted.
pub const CONFIG_DIR: &str = "/etc/tollgate/config";
/// Where the sidecar's policy is mounted.
pub const POLICY_DIR: &str = "/etc/tollgate/policy";
/// Where Secrets that only the sidecar may read are mounted, each below its name.
pub const SECRETS_DIR: &str = "/etc/tollgate/secrets";
/// Where further ConfigMaps of the sidecar are mounted, each below its name.
pub const FILES_DIR: &str = "/etc/tollgate/files";
/// What agents trust; the one directory that they share with the sidecar, read only.
pub const TRUST_DIR: &str = "/etc/tollgate/trust";
/// The authority's key, in memory, for the sidecar alone.
pub const AUTHORITY_DIR: &str = "/run/tollgate/ca";
/// What the check of the fence found, for the sidecar to read.
pub const FENCE_REPORT_DIR: &str = "/run/tollgate/fence";
/// The directory of the admin API's socket, in memory, for the sidecar and the pod's orchestrator, if it has one.
pub const ADMIN_DIR: &str = "/run/tollgate/admin";
/// The sidecar's records.
pub const AUDIT_DIR: &str = "/var/log/tollgate";
/// The sidecar's service account token.
pub const IDENTITY_DIR: &str = "/var/run/secrets/tollgate.dev/identity";
/// The directory of the SPIFFE Workload API's socket.
pub const SPIFFE_DIR: &str = "/run/spiffe";
