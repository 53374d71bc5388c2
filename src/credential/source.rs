//! Where credentials come from: a variant for each kind of issuer, with a file of its own.
//!
//! A source is configuration: it holds no secret and no state. To add one, write its file, give it a variant here and
//! follow the compiler through the matches.

use std::sync::Arc;

use super::{
    Failure,
    aws::AssumeRole,
    azure,
    exception::Exception,
    file::Register,
    gcp::Gcp,
    github_app::GithubApp,
    kubernetes::ServiceAccount,
    mint::{Asking, Handle, Minted, Tools, Unusable},
    mtls::Mtls,
    oauth::Oauth,
    registry_token::RegistryToken,
    spiffe_jwt::SpiffeJwt,
    spiffe_x509::SpiffeX509,
    vault::Vault,
};
use crate::call::HttpCall;

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
    /// A container registry's token, for what one call needs.
    RegistryToken(RegistryToken),
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
            Self::RegistryToken(_) => "registry_token",
        }
    }

    /// Whether its issuer can end a credential before it expires.
    pub fn revocable(&self) -> bool {
        match self {
            Self::File(_) | Self::SpiffeJwt(_) | Self::SpiffeX509(_) | Self::Mtls(_) | Self::Aws(_) => false,
            Self::Gcp(_) | Self::Azure(_) | Self::Kubernetes(_) | Self::RegistryToken(_) => false,
            Self::GithubApp(_) => true,
            Self::Oauth(source) => source.revocable(),
            Self::Vault(source) => source.revocable(),
        }
    }

    /// Whether what it gives is ended by a name that is no secret, so that a journal helps after a crash.
    pub fn is_ended_by_name(&self) -> bool {
        match self {
            Self::Vault(source) => source.revocable() || source.certifies(),
            Self::File(_) | Self::SpiffeJwt(_) | Self::SpiffeX509(_) | Self::Mtls(_) | Self::Aws(_) => false,
            Self::Oauth(_) | Self::Azure(_) | Self::GithubApp(_) | Self::Gcp(_) => false,
            Self::Kubernetes(_) | Self::RegistryToken(_) => false,
        }
    }

    /// Whether each time that it is asked makes a new one. Others hand out what is there.
    pub fn minted(&self) -> bool {
        match self {
            Self::File(_) | Self::SpiffeJwt(_) | Self::SpiffeX509(_) | Self::Mtls(_) => false,
            Self::Oauth(_) | Self::Azure(_) | Self::GithubApp(_) | Self::Gcp(_) | Self::Aws(_) => true,
            Self::RegistryToken(_) => true,
            Self::Vault(source) => source.minted(),
            Self::Kubernetes(source) => source.minted(),
        }
    }

    /// Whether what this one gave can be ended by that one: they ask the same issuer. No other one is shown a token.
    pub(super) fn can_be_ended_by(&self, newer: &Self) -> bool {
        match (self, newer) {
            (Self::Oauth(given), Self::Oauth(newer)) => given.server.is_asked_alike(&newer.server) && newer.revocable(),
            (Self::Vault(given), Self::Vault(newer)) => given.server == newer.server,
            (Self::GithubApp(given), Self::GithubApp(newer)) => given.api == newer.api,
            (given, newer) => given == newer,
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
            Self::Kubernetes(_) | Self::RegistryToken(_) => &[],
            Self::GithubApp(source) => &source.scopes,
            Self::Gcp(source) => &source.scopes,
            Self::Oauth(source) | Self::Azure(source) => source.scopes(),
        }
    }

    /// The scopes that a call needs, of a source that gives just those: within what is declared, and within what policy
    /// granted. `None` where the scopes are policy's alone.
    pub(super) fn needs(
        &self,
        call: &HttpCall,
        granted: Option<&[Arc<str>]>,
    ) -> Result<Option<Vec<Arc<str>>>, Failure> {
        match self {
            Self::RegistryToken(source) => source.needs(call, granted).map(Some),
            Self::File(_) | Self::SpiffeJwt(_) | Self::SpiffeX509(_) | Self::Mtls(_) | Self::Vault(_) => Ok(None),
            Self::Oauth(_) | Self::Azure(_) | Self::Gcp(_) | Self::Kubernetes(_) => Ok(None),
            Self::Aws(_) | Self::GithubApp(_) => Ok(None),
        }
    }

    /// Why it is used, of a source that is an exception.
    pub(super) fn exception(&self) -> Option<&Exception> {
        match self {
            Self::File(source) => Some(&source.exception),
            Self::Mtls(source) => Some(&source.exception),
            Self::SpiffeJwt(_) | Self::SpiffeX509(_) | Self::Vault(_) | Self::Aws(_) | Self::RegistryToken(_) => None,
            Self::Oauth(_) | Self::Azure(_) | Self::Gcp(_) | Self::Kubernetes(_) | Self::GithubApp(_) => None,
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
            Self::RegistryToken(source) => Some(&source.realm),
        }
    }

    /// Asks for a credential.
    pub(super) async fn mint(&self, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        match self {
            Self::File(source) => source.mint().await,
            Self::SpiffeJwt(source) => source.mint(asking).await,
            Self::SpiffeX509(source) => source.mint(asking),
            Self::Mtls(source) => source.mint().await,
            Self::Oauth(source) => source.mint(asking).await,
            Self::Azure(source) => azure::mint(source, asking).await,
            Self::GithubApp(source) => source.mint(asking).await,
            Self::Gcp(source) => source.mint(asking).await,
            Self::Kubernetes(source) => source.mint(asking).await,
            Self::Vault(source) => source.mint(asking).await,
            Self::Aws(source) => source.mint(asking).await,
            Self::RegistryToken(source) => source.mint(asking).await,
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
            | Self::Kubernetes(_)
            | Self::RegistryToken(_) => Err(Failure::malformed("nobody can end it before its time")),
            Self::Oauth(source) => source.revoke(tools, handle).await,
            Self::GithubApp(source) => source.revoke(tools, handle).await,
            Self::Vault(source) => source.revoke(tools, handle).await,
        }
    }
}
