//! The agent's own identity as a credential, as written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Placement, max_ttl};
use crate::config::values::Period;

/// A JWT-SVID of the agent's identity. Needs `agent.identity: {kind: spiffe}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpiffeJwt {
    /// Whom it is for: one audience. Example: `https://api.example.com`.
    #[schemars(required)]
    pub audience: Option<String>,
    /// How it goes onto a request. Example: `bearer`.
    #[serde(default, rename = "as")]
    pub placement: Placement,
    /// The longest life that is accepted. Example: `15m`.
    #[serde(default = "max_ttl")]
    pub max_ttl: Period,
}

/// The X.509-SVID of the agent's identity, as a client certificate. Needs `agent.identity: {kind: spiffe}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpiffeX509 {}
