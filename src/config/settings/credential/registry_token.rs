//! Tokens of container registries, as written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::max_ttl;
use crate::{
    config::values::{Period, SecretPlace},
    credential::registry_token::scope::Action,
};

/// Tokens of a container registry, for the repository and the action of each call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryToken {
    /// Where the registry sends its clients for tokens, as its challenge says (`realm="…"`); https, or http to a loopback
    /// address. Example: `https://auth.docker.io/token`.
    #[schemars(required)]
    pub realm: Option<String>,
    /// What the registry calls itself there, as its challenge says (`service="…"`). Example: `registry.docker.io`.
    #[schemars(required)]
    pub service: Option<String>,
    /// Who asks for tokens. Default: nobody, which gives what is public. Example: `example`.
    pub user: Option<String>,
    /// The user's password, or an access token that stands for it. Example: `{file: /etc/tollgate/secrets/docker}`.
    pub secret: Option<SecretPlace>,
    /// What may be asked for at the most. Example: `[pull, push]`.
    #[serde(default = "pull")]
    pub actions: Vec<Action>,
    /// The repositories that it may be asked for: `*` stands for any text within a component of their names, `**`, at most
    /// twice, for any number of components. Default: all. Example: `[example/*]`.
    #[serde(default)]
    pub repositories: Vec<String>,
    /// Whether the names of all repositories may be asked for (`/v2/_catalog`). Example: `false`.
    #[serde(default)]
    pub catalog: bool,
    /// The longest life of a token that is accepted. Example: `15m`.
    #[serde(default = "max_ttl")]
    pub max_ttl: Period,
    /// Whether each call has one of its own, which ends with it. Example: `true`.
    #[serde(default)]
    pub per_call: bool,
}

fn pull() -> Vec<Action> {
    vec![Action::Pull]
}
