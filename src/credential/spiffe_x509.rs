//! The agent's own identity as a client certificate: its X.509-SVID, shown to origins that ask who connects.
//!
//! A renewed SVID is shown on new connections within a second, while calls on the old ones go on. It can't be ended before
//! its time by anybody, so a policy that bounds its life below that gets none.

use std::time::{Duration, SystemTime};

use super::{
    Failure,
    mint::{Asking, Life, Minted, Secret, Unusable},
};
use crate::refusal::CredentialRefusal;

/// The X.509-SVID at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpiffeX509;

impl SpiffeX509 {
    /// The SVID that there is now.
    pub(super) fn mint(self, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        let certificate = asking.tools.identity.certificate();
        let certificate = certificate.map_err(|failure| Failure::new(failure.refusal(), failure.to_string()))?;
        let left = certificate.expires_at().duration_since(SystemTime::now()).unwrap_or_default();
        if asking.bound.is_some_and(|bound| bound < left) {
            let detail = "policy bounds the life of this credential below that of the SVID, which nobody can end";
            return Err(Failure::new(CredentialRefusal::LifetimeExceeded, detail).into());
        }
        let ends = Some(certificate.expires_at());
        Ok(Minted {
            secret: Secret::Certificate(certificate),
            life: Life::Standing { ends, again: AGAIN },
            handle: None,
        })
    }
}

/// How soon a renewed SVID is in use.
const AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::{super::testing::Scene, *};

    #[test]
    fn an_identity_that_nothing_proves_gives_no_credential() {
        let scene = Scene::new();
        let refused = SpiffeX509.mint(&scene.asking(&[], Duration::from_secs(60))).err().unwrap().failure;
        assert_eq!(refused.refusal, CredentialRefusal::Rejected);
        assert!(refused.detail.contains("no certificate"), "{}", refused.detail);
    }
}
