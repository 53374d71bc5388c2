//! Secrets of OpenBao and HashiCorp Vault, as written.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Placement, max_ttl};
use crate::config::values::{Period, SecretPlace};

/// A secret of OpenBao or HashiCorp Vault: one of `secret`, `certificate` and `signed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultCredential {
    /// The server; https, or http to a loopback address. Example: `https://bao:8200`.
    #[schemars(required)]
    pub address: Option<String>,
    /// The namespace that all paths are in. Example: `team-a`.
    pub namespace: Option<String>,
    /// How we log in. Example: `{jwt: {role: agent}}`.
    #[schemars(required)]
    pub auth: Option<VaultAuth>,
    /// Where the secret is read: a dynamic one, or one of KV version 2 at `MOUNT/data/PATH`. Example:
    /// `database/creds/readonly`.
    pub secret: Option<String>,
    /// The field of the secret that goes onto a request, unless `as` names two. Example: `token`.
    pub field: Option<String>,
    /// A client certificate that the server issues with its PKI engine.
    pub certificate: Option<VaultCertificate>,
    /// A token that the server signs with a key of its transit engine.
    pub signed: Option<VaultSigned>,
    /// The policies that the token of a dynamic secret is narrowed to; all that the login has, if empty. Example:
    /// `[readonly]`.
    #[serde(default)]
    pub policies: Vec<String>,
    /// The longest life that is accepted. Example: `15m`.
    #[serde(default = "max_ttl")]
    pub max_ttl: Period,
    /// Whether each call has one of its own, which ends with it. Example: `true`.
    #[serde(default)]
    pub per_call: bool,
    /// How it goes onto a request. Example: `{basic: {user: username, password: password}}`.
    #[serde(default, rename = "as")]
    pub placement: Placement,
}

/// How we log in to OpenBao or HashiCorp Vault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VaultAuth {
    /// With a signed token: the agent's identity, unless `token` says otherwise. Example: `{jwt: {role: agent}}`.
    Jwt(VaultJwt),
    /// With a service account token. Example: `{kubernetes: {role: agent}}`.
    Kubernetes(VaultKubernetes),
    /// With a role's identifier and secret. Example: `{approle: {role_id: "1", secret_id: {file: /run/secrets/id}}}`.
    Approle(VaultAppRole),
}

/// A login with a signed token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultJwt {
    /// Where the method is mounted. Example: `jwt`.
    pub mount: Option<String>,
    /// The role to log in with. Example: `agent`.
    #[schemars(required)]
    pub role: Option<String>,
    /// Whom the token of the agent's identity is for; the server's address, if missing. Example: `vault`.
    pub audience: Option<String>,
    /// Another token than that of the agent's identity. Example: `{file: /run/secrets/jwt}`.
    pub token: Option<SecretPlace>,
}

/// A login with a service account token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultKubernetes {
    /// Where the method is mounted. Example: `kubernetes`.
    pub mount: Option<String>,
    /// The role to log in with. Example: `agent`.
    #[schemars(required)]
    pub role: Option<String>,
    /// The token; that of the pod's service account, if missing. Example: `{file: /var/run/secrets/vault/token}`.
    pub token: Option<SecretPlace>,
}

/// A login with a role's identifier and secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultAppRole {
    /// Where the method is mounted. Example: `approle`.
    pub mount: Option<String>,
    /// The role's identifier.
    #[schemars(required)]
    pub role_id: Option<String>,
    /// Where its secret stands. Example: `{file: /run/secrets/secret-id, wrapped: true}`.
    #[schemars(required)]
    pub secret_id: Option<VaultSecretId>,
}

/// Where a role's secret stands: in one of `file` and `env`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultSecretId {
    /// In this file. Example: `/run/secrets/secret-id`.
    pub file: Option<PathBuf>,
    /// In this environment variable of the sidecar. Example: `SECRET_ID`.
    pub env: Option<String>,
    /// Whether a wrapping token stands there, which gives the secret once. Example: `true`.
    #[serde(default)]
    pub wrapped: bool,
}

/// A client certificate that a server issues.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultCertificate {
    /// Where it is issued. Example: `pki/issue/agents`.
    #[schemars(required)]
    pub path: Option<String>,
    /// Whom it names. Example: `triage.agents.example.com`.
    #[schemars(required)]
    pub common_name: Option<String>,
    /// Whether it also names the agent's identity, as a URI. Example: `true`.
    #[serde(default)]
    pub identity: bool,
}

/// A token that a server signs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultSigned {
    /// Where it is signed. Example: `transit/sign/agents`.
    #[schemars(required)]
    pub path: Option<String>,
    /// The algorithm, which the key's type must suit. Example: `ES256`.
    #[serde(default)]
    pub algorithm: VaultAlgorithm,
    /// The name that whoever verifies it knows the key by. Example: `agents-1`.
    pub key_id: Option<String>,
    /// Who issues it. Example: `https://agents.example.com`.
    #[schemars(required)]
    pub issuer: Option<String>,
    /// Whom it is for. Example: `https://api.example.com`.
    #[schemars(required)]
    pub audience: Option<String>,
}

/// An algorithm that signs (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum VaultAlgorithm {
    /// ECDSA on P-256 with SHA-256: a key of type `ecdsa-p256`.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// RSA with SHA-256: a key of type `rsa-2048` or larger.
    #[serde(rename = "RS256")]
    Rs256,
    /// Ed25519: a key of type `ed25519`.
    #[serde(rename = "EdDSA")]
    EdDsa,
}
