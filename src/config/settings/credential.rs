//! Credentials as written.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::{Day, Period, SecretPlace};

/// One credential. Holds no secret, only where one stands or who issues it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Credential {
    /// A long-lived secret in a file: the exception register.
    File(FileCredential),
    /// OAuth 2.0 client credentials (RFC 6749 section 4.4).
    OauthClientCredentials(OauthClientCredentials),
    /// Not available in this version.
    GithubApp(Later),
    /// Not available in this version.
    Vault(Later),
    /// Not available in this version.
    OauthTokenExchange(Later),
    /// Not available in this version.
    OauthJwtBearer(Later),
    /// Not available in this version.
    IdJag(Later),
    /// Not available in this version.
    Aws(Later),
    /// Not available in this version.
    Gcp(Later),
    /// Not available in this version.
    Azure(Later),
    /// Not available in this version.
    Kubernetes(Later),
    /// Not available in this version.
    SpiffeJwt(Later),
    /// Not available in this version.
    SpiffeX509(Later),
    /// Not available in this version.
    Mtls(Later),
}

/// The keys of a kind that this version does not serve.
pub type Later = BTreeMap<String, serde_json::Value>;

/// A long-lived secret in a file: an exception with an owner and an end. Re-read on change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileCredential {
    /// The file that holds the secret; trailing line breaks are not part of it. Example: `/run/secrets/legacy`.
    #[schemars(required)]
    pub file: Option<PathBuf>,
    /// How it goes onto a request. Example: `bearer`.
    #[serde(default, rename = "as")]
    pub placement: Placement,
    /// Who answers for this exception. Example: `team-x`.
    #[schemars(required)]
    pub owner: Option<String>,
    /// The last day, in UTC, on which it is used. Example: `2027-01-31`.
    pub expires: Option<Day>,
    /// The longest time that one reading of the file is used. Example: `15m`.
    #[serde(default = "max_ttl")]
    pub max_ttl: Period,
}

/// Tokens from an OAuth 2.0 issuer, for one task and one destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OauthClientCredentials {
    /// Where tokens are asked for; https, or http to a loopback address. Example: `https://issuer.example/token`.
    #[schemars(required)]
    pub token_endpoint: Option<String>,
    /// Where they are revoked (RFC 7009), where the issuer can. Example: `https://issuer.example/revoke`.
    pub revocation_endpoint: Option<String>,
    /// Who we are to the issuer.
    #[schemars(required)]
    pub client: Option<OauthClient>,
    /// The scopes that are asked for. Example: `[read]`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The audience that is asked for. Example: `https://api.example.com`.
    pub audience: Option<String>,
    /// The longest life of a token that is accepted. Example: `15m`.
    #[serde(default = "max_ttl")]
    pub max_ttl: Period,
    /// How it goes onto a request. Example: `bearer`.
    #[serde(default, rename = "as")]
    pub placement: Placement,
}

/// A client of an OAuth issuer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OauthClient {
    /// The client's identifier. Example: `tollgate`.
    #[schemars(required)]
    pub id: Option<String>,
    /// Where the client's secret stands. Example: `{file: /run/secrets/client-secret}`.
    #[schemars(required)]
    pub secret: Option<SecretPlace>,
}

/// How a credential goes onto a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// `Authorization: Bearer …`.
    #[default]
    Bearer,
    /// `Authorization: Basic …` with this user. Example: `{basic: build}`.
    Basic(String),
    /// A header of its own. Example: `{header: X-Api-Key}`.
    Header(String),
    /// A query parameter. Example: `{query: api_key}`.
    Query(String),
}

impl Credential {
    /// The kind as it is written.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::OauthClientCredentials(_) => "oauth_client_credentials",
            Self::GithubApp(_) => "github_app",
            Self::Vault(_) => "vault",
            Self::OauthTokenExchange(_) => "oauth_token_exchange",
            Self::OauthJwtBearer(_) => "oauth_jwt_bearer",
            Self::IdJag(_) => "id_jag",
            Self::Aws(_) => "aws",
            Self::Gcp(_) => "gcp",
            Self::Azure(_) => "azure",
            Self::Kubernetes(_) => "kubernetes",
            Self::SpiffeJwt(_) => "spiffe_jwt",
            Self::SpiffeX509(_) => "spiffe_x509",
            Self::Mtls(_) => "mtls",
        }
    }
}

fn max_ttl() -> Period {
    Period(Duration::from_secs(15 * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_read_and_written_by_its_kind() {
        let text =
            r#"{"kind":"file","file":"/x","as":{"basic":"u"},"owner":"t","expires":"2027-01-31","max_ttl":"15m"}"#;
        let credential: Credential = serde_json::from_str(text).unwrap();
        assert_eq!(credential.kind(), "file");
        assert_eq!(serde_json::to_string(&credential).unwrap(), text);
        let later: Credential = serde_json::from_str(r#"{"kind":"vault","address":"x"}"#).unwrap();
        assert_eq!(later.kind(), "vault");
    }
}
