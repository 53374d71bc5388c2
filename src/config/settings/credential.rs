//! Credentials as written.

mod aws;
mod cloud;
mod github_app;
mod mtls;
mod oauth;
mod registry_token;
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
pub use registry_token::RegistryToken;
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
    /// A container registry's token, for the repository and the action of each call.
    RegistryToken(RegistryToken),
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
    /// Whether each call has one of its own.
    pub fn per_call(&self) -> bool {
        match self {
            Self::File(_) | Self::SpiffeJwt(_) | Self::SpiffeX509(_) | Self::Mtls(_) => false,
            Self::OauthClientCredentials(it)
            | Self::OauthTokenExchange(it)
            | Self::OauthJwtBearer(it)
            | Self::IdJag(it) => it.per_call,
            Self::GithubApp(it) => it.per_call,
            Self::Vault(it) => it.per_call,
            Self::Aws(it) => it.per_call,
            Self::Gcp(it) => it.per_call,
            Self::Azure(it) => it.per_call,
            Self::Kubernetes(it) => it.per_call,
            Self::RegistryToken(it) => it.per_call,
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
        let text = r#"{"kind":"file","file":"/x","as":{"basic":"u"},"owner":"t","expires":"2027-01-31"}"#;
        let credential: Credential = serde_json::from_str(text).unwrap();
        assert!(matches!(credential, Credential::File(_)));
        assert_eq!(serde_json::to_string(&credential).unwrap(), text);
        let later: Credential = serde_json::from_str(r#"{"kind":"vault","address":"x"}"#).unwrap();
        assert!(matches!(later, Credential::Vault(_)));
    }
}
