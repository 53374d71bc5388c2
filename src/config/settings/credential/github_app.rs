//! Installation tokens of GitHub Apps, as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Placement, max_ttl};
use crate::{
    config::values::{Period, SecretPlace},
    credential::github_app::Level,
};

/// Installation tokens of a GitHub App, ended with their task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GithubApp {
    /// The app's client ID or number. Example: `Iv23liabc`.
    #[schemars(required)]
    pub app_id: Option<String>,
    /// The installation's number. Example: `"12345678"`.
    #[schemars(required)]
    pub installation_id: Option<String>,
    /// The app's private key, in PEM. Example: `{file: /etc/tollgate/secrets/github/key.pem}`.
    #[schemars(required)]
    pub private_key: Option<SecretPlace>,
    /// The repositories that may be asked for, without their owner. Default: all of the installation. Example: `[shop]`.
    #[serde(default)]
    pub repositories: Vec<String>,
    /// The permissions that may be asked for, each with the most. Default: all of the app. Example: `{issues: write}`.
    #[serde(default)]
    pub permissions: BTreeMap<String, Level>,
    /// Where the API is. Default: `https://api.github.com`. Example: `https://github.your.org/api/v3`.
    pub api: Option<String>,
    /// How it goes onto a request; `{basic: x-access-token}` for git. Example: `bearer`.
    #[serde(default, rename = "as")]
    pub placement: Placement,
    /// How long one token is used before it is ended. Example: `15m`.
    #[serde(default = "max_ttl")]
    pub max_ttl: Period,
    /// Whether each call has one of its own, which ends with it. Example: `true`.
    #[serde(default)]
    pub per_call: bool,
}
