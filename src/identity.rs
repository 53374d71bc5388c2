//! Who the agent is, and what proves it.
//!
//! One sidecar stands for one agent. The id that the configuration expects, or else the one that is proven first, is the
//! agent's for as long as the sidecar runs; a proof of any other id is refused. The proof itself, a certificate or a token,
//! is renewed all the time: its serial shows that, and no call fails by it. Without a proof that is valid now no call is
//! forwarded, no credential is minted and the sidecar is not ready.

pub mod configured;
pub mod kubernetes;
pub mod spiffe;
mod standing;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::{refusal::CredentialRefusal, tls::certificate::ClientCertificate};
use configured::Configured;
use kubernetes::Kubernetes;
use spiffe::Spiffe;

/// What proves who the agent is.
#[derive(Debug)]
pub enum Identity {
    /// The configuration says so, and nothing proves it.
    Configured(Configured),
    /// A service account token that the kubelet wrote.
    Kubernetes(Kubernetes),
    /// The SPIFFE Workload API.
    Spiffe(Spiffe),
}

/// Where an identity comes from, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The configuration, which gave the id.
    Configured,
    /// A projected service account token.
    Kubernetes(kubernetes::Projected),
    /// The SPIFFE Workload API at this address.
    Spiffe(spiffe::Endpoint),
}

/// The agent's id, shared by all who hold a copy. It is set once, and stays.
#[derive(Clone, Default)]
pub struct Id(Arc<OnceLock<Arc<str>>>);

/// What proves the identity at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Tells one proof from the one that replaces it: a certificate's serial number, a token's id.
    pub serial: Option<Arc<str>>,
    /// When it ends, if it does.
    pub expires_at: Option<SystemTime>,
}

/// Why there is no proof of the identity, or none of the wanted kind. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityFailure {
    /// Nothing proves it now.
    #[error("{0}")]
    Unavailable(Arc<str>),
    /// What proved it has ended, and nothing has replaced it.
    #[error("what proved the identity has expired")]
    Expired,
    /// Whoever gives it out refuses it to this workload.
    #[error("refused: {0}")]
    Rejected(Arc<str>),
    /// What was given is not what the standard says.
    #[error("{0}")]
    Malformed(Arc<str>),
    /// No answer came in time.
    #[error("no answer in time")]
    Timeout,
    /// It proves somebody else's identity.
    #[error("it proves `{found}`, but this sidecar stands for `{expected}`; hint: restart the pod if that changed")]
    Another {
        /// Who the agent is.
        expected: Arc<str>,
        /// Whom it proves.
        found: Arc<str>,
    },
    /// An identity of this kind can't give it.
    #[error("this kind of identity has no {lacks}; hint: set `agent.identity.kind` to {kinds}")]
    Unproven {
        /// What was asked for.
        lacks: &'static str,
        /// Which kinds have it.
        kinds: &'static str,
    },
    /// The one token that there is goes to somebody else.
    #[error("the service account token is for {held}, not for `{asked}`; hint: project one with that audience")]
    Audience {
        /// Whom a token was asked for.
        asked: Arc<str>,
        /// Whom the one at hand is for.
        held: Arc<str>,
    },
}

impl Identity {
    /// An identity that nothing proves yet, unless it needs no proof.
    pub fn new(source: &Source, id: Id) -> Self {
        match source {
            Source::Configured => Self::Configured(Configured::new(id)),
            Source::Kubernetes(projected) => Self::Kubernetes(Kubernetes::new(projected.clone(), id)),
            Source::Spiffe(endpoint) => Self::Spiffe(Spiffe::new(endpoint.clone(), id)),
        }
    }

    /// Keeps the proof up to date, until it is dropped.
    pub async fn follow(&self) {
        match self {
            Self::Configured(_) => {}
            Self::Kubernetes(kubernetes) => kubernetes.follow().await,
            Self::Spiffe(spiffe) => spiffe.follow().await,
        }
    }

    /// What proves the identity now.
    ///
    /// # Errors
    /// Why nothing does.
    pub fn proof(&self) -> Result<Proof, IdentityFailure> {
        match self {
            Self::Configured(configured) => configured.standing.proof(),
            Self::Kubernetes(kubernetes) => kubernetes.standing.proof(),
            Self::Spiffe(spiffe) => spiffe.standing.proof(),
        }
    }

    /// Whether the identity is proven, told anew whenever a proof comes, is renewed or is lost.
    pub fn changes(&self) -> watch::Receiver<bool> {
        match self {
            Self::Configured(configured) => configured.standing.changes(),
            Self::Kubernetes(kubernetes) => kubernetes.standing.changes(),
            Self::Spiffe(spiffe) => spiffe.standing.changes(),
        }
    }

    /// Who the agent is, once that is known.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Configured(configured) => configured.standing.id().known(),
            Self::Kubernetes(kubernetes) => kubernetes.standing.id().known(),
            Self::Spiffe(spiffe) => spiffe.standing.id().known(),
        }
    }

    /// A token that proves the identity to this audience: a JWT-SVID, or the projected token if that is for it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn token(&self, audience: &str) -> Result<Zeroizing<String>, IdentityFailure> {
        match self {
            Self::Configured(_) => Err(IdentityFailure::Unproven { lacks: "token", kinds: "spiffe or kubernetes" }),
            Self::Kubernetes(kubernetes) => kubernetes.token(audience).await,
            Self::Spiffe(spiffe) => spiffe.token(audience).await,
        }
    }

    /// The certificate that proves the identity now: an X.509-SVID.
    ///
    /// # Errors
    /// Why there is none.
    pub fn certificate(&self) -> Result<Arc<ClientCertificate>, IdentityFailure> {
        match self {
            Self::Configured(_) | Self::Kubernetes(_) => {
                Err(IdentityFailure::Unproven { lacks: "certificate", kinds: "spiffe" })
            }
            Self::Spiffe(spiffe) => spiffe.certificate(),
        }
    }
}

impl IdentityFailure {
    /// What the agent is told when a credential can't be had for this.
    pub fn refusal(&self) -> CredentialRefusal {
        match self {
            Self::Unavailable(_) | Self::Expired => CredentialRefusal::Unavailable,
            Self::Timeout => CredentialRefusal::Timeout,
            Self::Malformed(_) => CredentialRefusal::Malformed,
            Self::Rejected(_) | Self::Another { .. } => CredentialRefusal::Rejected,
            Self::Unproven { .. } | Self::Audience { .. } => CredentialRefusal::Misconfigured,
        }
    }

    fn unavailable(why: impl fmt::Display) -> Self {
        Self::Unavailable(why.to_string().into())
    }

    fn malformed(why: impl fmt::Display) -> Self {
        Self::Malformed(why.to_string().into())
    }
}

impl Id {
    /// The id, once it is known.
    pub fn known(&self) -> Option<&str> {
        self.0.get().map(|id| &**id)
    }

    /// A copy that goes its own way.
    pub fn apart(&self) -> Self {
        self.known().map_or_else(Self::default, Self::from)
    }

    /// Makes this the id, or finds out that it is another.
    fn claim(&self, found: &str) -> Result<(), IdentityFailure> {
        let expected = self.0.get_or_init(|| found.into());
        if **expected == *found {
            return Ok(());
        }
        Err(IdentityFailure::Another { expected: Arc::clone(expected), found: found.into() })
    }
}

impl From<&str> for Id {
    fn from(id: &str) -> Self {
        Self(Arc::new(OnceLock::from(Arc::from(id))))
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        self.known() == other.known()
    }
}

impl Eq for Id {}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.known(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_set_once_and_shared() {
        let id = Id::default();
        let other = id.clone();
        assert_eq!(id.known(), None);
        assert_eq!(id.claim("spiffe://td/a"), Ok(()));
        assert_eq!(other.claim("spiffe://td/a"), Ok(()));
        let refused = other.claim("spiffe://td/b").unwrap_err();
        assert_eq!(
            refused,
            IdentityFailure::Another { expected: "spiffe://td/a".into(), found: "spiffe://td/b".into() }
        );
        assert_eq!(other.known(), Some("spiffe://td/a"));
    }

    #[tokio::test]
    async fn a_configured_identity_is_there_at_once_and_proves_nothing() {
        let identity = Identity::new(&Source::Configured, "local".into());
        assert_eq!(identity.id(), Some("local"));
        assert_eq!(identity.proof(), Ok(Proof { serial: None, expires_at: None }));
        assert!(*identity.changes().borrow());
        assert_eq!(
            identity.token("vault").await.unwrap_err().to_string(),
            "this kind of identity has no token; hint: set `agent.identity.kind` to spiffe or kubernetes"
        );
        assert!(identity.certificate().is_err());
    }
}
