//! Credentials as written.

mod aws;
mod cloud;
mod github_app;
mod mtls;
mod oauth;
mod spiffe;
mod vault;

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::{Day, Period};
pub use aws::{AwsCredential, AwsWebIdentity};
pub use cloud::{AccountName, Azure, Gcp, Kubernetes, PodName};
pub use github_app::GithubApp;
pub use mtls::Mtls;
pub use oauth::{
    ClientAssertion, IdentityProvider, Oauth, OauthClient, OauthToken, RequestedType, SecretMethod, ShownType,
};
pub use spiffe::{SpiffeJwt, SpiffeX509};
pub use vault::{
    VaultAlgorithm, VaultAppRole, VaultAuth, VaultCertificate, VaultCredential, VaultJwt, VaultKubernetes,
    VaultSecretId, VaultSigned,
};

/// One credential. Holds no secret, only where one stands or who issues it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Credential {
    /// A long-lived secret in a file: the exception register.
    File(FileCredential),
    /// OAuth 2.0 client credentials (RFC 6749 section 4.4).
    OauthClientCredentials(Box<Oauth>),
    /// Installation tokens of a GitHub App.
    GithubApp(GithubApp),
    /// A secret of OpenBao or HashiCorp Vault.
    Vault(Box<VaultCredential>),
    /// OAuth 2.0 token exchange (RFC 8693).
    OauthTokenExchange(Box<Oauth>),
    /// OAuth 2.0 with a JWT as the grant (RFC 7523).
    OauthJwtBearer(Box<Oauth>),
    /// OAuth 2.0 across two issuers: an identity assertion of one is the grant at the other (ID-JAG).
    IdJag(Box<Oauth>),
    /// Keys for AWS, which requests are signed with.
    Aws(AwsCredential),
    /// Google Cloud by workload identity federation.
    Gcp(Gcp),
    /// Microsoft Entra ID by a federated credential.
    Azure(Azure),
    /// A token of a Kubernetes service account.
    Kubernetes(Kubernetes),
    /// A JWT-SVID of the agent's own identity.
    SpiffeJwt(SpiffeJwt),
    /// The X.509-SVID of the agent's own identity, as a client certificate.
    SpiffeX509(SpiffeX509),
    /// A client certificate in files: the exception register.
    Mtls(Mtls),
}

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

/// How a credential goes onto a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// `Authorization: Bearer …`.
    #[default]
    Bearer,
    /// `Authorization: Basic …` with this user. Example: `{basic: build}`.
    Basic(BasicUser),
    /// A header of its own. Example: `{header: X-Api-Key}`.
    Header(String),
    /// A query parameter. Example: `{query: api_key}`.
    Query(String),
}

/// The user that goes with a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum BasicUser {
    /// This one. Example: `build`.
    Name(String),
    /// The one that the issuer made. Example: `{user: username, password: password}`.
    Fields {
        /// The field of the secret with the user's name. Example: `username`.
        user: String,
        /// The field of the secret with the password. Example: `password`.
        password: String,
    },
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
