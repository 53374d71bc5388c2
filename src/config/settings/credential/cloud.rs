//! Tokens of clouds that trust our identity, as written.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Placement, max_ttl};
use crate::config::values::{Period, SecretPlace};

/// Google Cloud by workload identity federation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gcp {
    /// The provider. Example:
    /// `//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/agents/providers/cluster`.
    #[schemars(required)]
    pub audience: Option<String>,
    /// The service account to impersonate. Without one the pool itself needs the rights. Example:
    /// `agent@project.iam.gserviceaccount.com`.
    pub service_account: Option<String>,
    /// The scopes that may be asked for. Default: `[https://www.googleapis.com/auth/cloud-platform]`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The token that proves who we are. Default: the agent's identity. Example: `{file: /run/secrets/token}`.
    pub token: Option<SecretPlace>,
    /// Whom the identity's token is for. Default: `https:` and the provider. Example: `tollgate`.
    pub token_audience: Option<String>,
    /// Google's token service. Default: `https://sts.googleapis.com/v1/token`.
    pub token_endpoint: Option<String>,
    /// Google's service for service accounts. Default: `https://iamcredentials.googleapis.com`.
    pub credentials_api: Option<String>,
    /// How it goes onto a request. Example: `bearer`.
    #[serde(default, rename = "as")]
    pub placement: Placement,
    /// The longest life of a token. Example: `15m`.
    #[serde(default = "max_ttl")]
    pub max_ttl: Period,
    /// Whether each call has one of its own, which ends with it. Example: `true`.
    #[serde(default)]
    pub per_call: bool,
}

/// Microsoft Entra ID by a federated credential of an application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Azure {
    /// The tenant. Example: `00000000-0000-0000-0000-000000000000`.
    #[schemars(required)]
    pub tenant: Option<String>,
    /// The application's (client) ID. Example: `11111111-1111-1111-1111-111111111111`.
    #[schemars(required)]
    pub client_id: Option<String>,
    /// The one resource, with its default scope. Example: `[https://storage.azure.com/.default]`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Where Entra is. Default: `https://login.microsoftonline.com`.
    pub authority: Option<String>,
    /// How it goes onto a request. Example: `bearer`.
    #[serde(default, rename = "as")]
    pub placement: Placement,
    /// The longest life of a token that is accepted; Entra's live 60 to 90 minutes. Example: `90m`.
    #[serde(default = "entra_ttl")]
    pub max_ttl: Period,
    /// Whether each call has one of its own, which ends with it. Example: `true`.
    #[serde(default)]
    pub per_call: bool,
}

/// A token of a Kubernetes service account, for one audience.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// Whom the token is for. Example: `https://kubernetes.default.svc`.
    #[schemars(required)]
    pub audience: Option<String>,
    /// The API server that is asked. Without it the token in `token` is used as it is. Example:
    /// `https://kubernetes.default.svc`.
    pub server: Option<String>,
    /// The service account that a token is asked for. Example: `{namespace: agents, name: reader}`.
    pub service_account: Option<AccountName>,
    /// The pod that the token dies with. Example: `{name: agent-0, uid: 1f0a}`.
    pub pod: Option<PodName>,
    /// A projected token: what is used, or, where `server` is given, who we are there. Default there: the agent's
    /// identity. Example: `{file: /var/run/secrets/tollgate.dev/identity/token}`.
    pub token: Option<SecretPlace>,
    /// How it goes onto a request. Example: `bearer`.
    #[serde(default, rename = "as")]
    pub placement: Placement,
    /// The longest life that is accepted; at least 10m where the API server is asked. Example: `1h`.
    #[serde(default = "projected_ttl")]
    pub max_ttl: Period,
    /// Whether each call has one of its own, which ends with it. Example: `true`.
    #[serde(default)]
    pub per_call: bool,
}

/// A service account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PodName {
    /// Its name.
    pub name: String,
    /// What tells it from its namesakes.
    pub uid: String,
}

fn entra_ttl() -> Period {
    Period(Duration::from_secs(90 * 60))
}

fn projected_ttl() -> Period {
    Period(Duration::from_secs(60 * 60))
}
