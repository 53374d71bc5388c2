//! The agent's own identity as a client certificate: its X.509-SVID, shown to origins that ask who connects.
//!
//! A renewed SVID is shown on new connections within a second, while calls on the old ones go on. It can't be ended before
//! its time by anybody, so a policy that bounds its life below that gets none.

use std::time::Duration;

use super::{
    Failure,
    mint::{Asking, Life, Minted, Secret, Unusable},
};

/// The X.509-SVID at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpiffeX509;

impl SpiffeX509 {
    /// The SVID that there is now.
    pub(super) fn mint(self, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        let certificate = asking.tools.identity.certificate();
        let certificate = certificate.map_err(|failure| Failure::new(failure.refusal(), failure.to_string()))?;
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
    use crate::refusal::CredentialRefusal;

    #[test]
    fn an_identity_that_nothing_proves_gives_no_credential() {
        let scene = Scene::new();
        let refused = SpiffeX509.mint(&scene.asking(&[], Duration::from_secs(60))).err().unwrap().failure;
        assert_eq!(refused.refusal, CredentialRefusal::Misconfigured);
        assert!(refused.detail.contains("no certificate"), "{}", refused.detail);
    }
}
