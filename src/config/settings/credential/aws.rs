//! Keys for AWS, as written.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::max_ttl;
use crate::config::values::Period;

/// Keys for AWS, from `AssumeRoleWithWebIdentity`. Requests are signed anew with them; the agent uses dummy keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AwsCredential {
    /// The role that is assumed. Example: `arn:aws:iam::123456789012:role/agent`.
    #[schemars(required)]
    pub role_arn: Option<String>,
    /// The region whose STS is asked, and that requests are signed for where their host names none. Example: `eu-west-1`.
    pub region: Option<String>,
    /// The service that requests are signed for. Needed where the host does not say it. Example: `s3`.
    pub service: Option<String>,
    /// What of the role is left, as a policy of 2048 characters at most; an empty one is not sent. Example:
    /// `{Version: "2012-10-17", Statement: [{Effect: Allow, Action: "s3:GetObject", Resource: "*"}]}`.
    #[serde(default)]
    pub session_policy: BTreeMap<String, serde_json::Value>,
    /// What proves who the agent is. Example: `{audience: sts.amazonaws.com}`.
    #[serde(default)]
    pub web_identity: AwsWebIdentity,
    /// Where STS answers, if not at the region's own endpoint; https, or http to a loopback address. Example:
    /// `https://sts.eu-west-1.amazonaws.com/`.
    pub sts_endpoint: Option<String>,
    /// The longest time that keys are used. STS gives none for less than 15 minutes: those are given up earlier. Example:
    /// `15m`.
    #[serde(default = "max_ttl")]
    pub max_ttl: Period,
    /// Whether each call has one of its own, which ends with it. Example: `true`.
    #[serde(default)]
    pub per_call: bool,
}

/// The token that STS is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AwsWebIdentity {
    /// The agent's own identity, for this audience. Example: `{audience: sts.amazonaws.com}`.
    Audience(String),
    /// A file that others write. Example: `{file: /var/run/secrets/eks.amazonaws.com/serviceaccount/token}`.
    File(PathBuf),
}

impl Default for AwsWebIdentity {
    fn default() -> Self {
        Self::Audience("sts.amazonaws.com".to_owned())
    }
}
