//! Where credentials come from: a variant for each kind of issuer, with a file of its own.
//!
//! A source is configuration: it holds no secret and no state. To add one, write its file with the five methods that
//! are called here, then follow the compiler through the matches.

use super::{
    Failure, SecretPlace,
    aws::AssumeRole,
    file::Register,
    gcp::Gcp,
    github_app::GithubApp,
    kubernetes::ServiceAccount,
    mint::{Asking, Handle, Minted, Tools, Unusable},
    mtls::Mtls,
    oauth::Oauth,
    spiffe_jwt::SpiffeJwt,
    spiffe_x509::SpiffeX509,
    vault::Vault,
};

/// Where a credential comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The exception register: a long-lived secret in a file, re-read on change.
    File(Register),
    /// A token that an OAuth 2.0 issuer gives.
    Oauth(Box<Oauth>),
    /// A JWT-SVID of the agent's identity.
    SpiffeJwt(SpiffeJwt),
    /// The X.509-SVID of the agent's identity.
    SpiffeX509(SpiffeX509),
    /// The exception register: a client certificate in files, re-read on change.
    Mtls(Mtls),
    /// A secret of OpenBao or HashiCorp Vault.
    Vault(Box<Vault>),
    /// Keys for AWS, which sign requests.
    Aws(AssumeRole),
    /// An installation token of a GitHub App.
    GithubApp(GithubApp),
    /// A token for Google Cloud.
    Gcp(Gcp),
    /// A token of Microsoft Entra ID.
    Azure(Box<Oauth>),
    /// A token of a Kubernetes service account.
    Kubernetes(ServiceAccount),
}

impl Source {
    /// The kind as it stands in configuration, policy input, spans and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Oauth(source) => source.kind(),
            Self::SpiffeJwt(_) => "spiffe_jwt",
            Self::SpiffeX509(_) => "spiffe_x509",
            Self::Mtls(_) => "mtls",
            Self::Vault(_) => "vault",
            Self::Aws(_) => "aws",
            Self::GithubApp(_) => "github_app",
            Self::Gcp(_) => "gcp",
            Self::Azure(_) => "azure",
            Self::Kubernetes(_) => "kubernetes",
        }
    }

    /// Whether its issuer can end a credential before it expires.
    pub fn revocable(&self) -> bool {
        match self {
            Self::File(_) | Self::SpiffeJwt(_) | Self::SpiffeX509(_) | Self::Mtls(_) | Self::Aws(_) => false,
            Self::Gcp(_) | Self::Azure(_) | Self::Kubernetes(_) => false,
            Self::GithubApp(_) => true,
            Self::Oauth(source) => source.revocable(),
            Self::Vault(source) => source.revocable(),
        }
    }

    /// All that a policy may choose from.
    pub(super) fn scopes(&self) -> &[String] {
        match self {
            Self::File(_)
            | Self::SpiffeJwt(_)
            | Self::SpiffeX509(_)
            | Self::Mtls(_)
            | Self::Vault(_)
            | Self::Aws(_) => &[],
            Self::Kubernetes(_) => &[],
            Self::GithubApp(source) => &source.scopes,
            Self::Gcp(source) => &source.scopes,
            Self::Oauth(source) | Self::Azure(source) => source.scopes(),
        }
    }

    /// Where our own secrets stand that this source asks with.
    pub fn own_secrets(&self) -> Vec<&SecretPlace> {
        match self {
            Self::File(_) | Self::SpiffeJwt(_) | Self::SpiffeX509(_) => Vec::new(),
            Self::Mtls(source) => source.own_secrets(),
            Self::Oauth(source) | Self::Azure(source) => source.own_secrets(),
            Self::GithubApp(source) => source.own_secrets(),
            Self::Gcp(source) => source.own_secrets(),
            Self::Kubernetes(source) => source.own_secrets(),
            Self::Vault(source) => source.own_secrets(),
            Self::Aws(source) => source.own_secrets(),
        }
    }

    /// Who is asked, where someone is: all that ask the same issuer share one budget and one circuit breaker.
    pub(super) fn issuer(&self) -> Option<&str> {
        match self {
            Self::File(_) | Self::SpiffeJwt(_) | Self::SpiffeX509(_) | Self::Mtls(_) => None,
            Self::Oauth(source) | Self::Azure(source) => Some(source.issuer()),
            Self::GithubApp(source) => Some(&source.api),
            Self::Gcp(source) => Some(&source.token_endpoint),
            Self::Kubernetes(source) => source.issuer(),
            Self::Vault(source) => Some(source.issuer()),
            Self::Aws(source) => Some(source.issuer()),
        }
    }

    /// Asks for a credential.
    pub(super) async fn mint(&self, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        match self {
            Self::File(source) => source.mint(asking).await,
            Self::SpiffeJwt(source) => source.mint(asking).await,
            Self::SpiffeX509(source) => source.mint(asking),
            Self::Mtls(source) => source.mint(asking).await,
            Self::Oauth(source) | Self::Azure(source) => source.mint(asking).await,
            Self::GithubApp(source) => source.mint(asking).await,
            Self::Gcp(source) => source.mint(asking).await,
            Self::Kubernetes(source) => source.mint(asking).await,
            Self::Vault(source) => source.mint(asking).await,
            Self::Aws(source) => source.mint(asking).await,
        }
    }

    /// Ends one that was given: one attempt. Ending what has ended is no failure.
    pub(super) async fn revoke(&self, tools: &Tools, handle: &Handle) -> Result<(), Failure> {
        match self {
            Self::File(_) => Err(Failure::malformed("nobody can end a secret from a file")),
            Self::SpiffeJwt(_)
            | Self::SpiffeX509(_)
            | Self::Mtls(_)
            | Self::Aws(_)
            | Self::Gcp(_)
            | Self::Azure(_)
            | Self::Kubernetes(_) => Err(Failure::malformed("nobody can end it before its time")),
            Self::Oauth(source) => source.revoke(tools, handle).await,
            Self::GithubApp(source) => source.revoke(tools, handle).await,
            Self::Vault(source) => source.revoke(tools, handle).await,
        }
    }
}
