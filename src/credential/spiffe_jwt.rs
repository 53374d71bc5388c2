//! The agent's own identity as a bearer: a JWT-SVID for exactly one audience.
//!
//! Whoever issues it can't end it, so its life is short: SPIRE gives five minutes. Every task and destination has one of
//! its own.

use std::time::SystemTime;

use super::{
    Failure,
    jose::Unverified,
    mint::{Asking, Life, Minted, Secret, Unusable},
};

/// A JWT-SVID for an audience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffeJwt {
    /// Whom it is for.
    pub audience: String,
}

impl SpiffeJwt {
    /// Fetches one.
    pub(super) async fn mint(&self, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        let token = asking.tools.identity.token(&self.audience).await;
        let token = token.map_err(|failure| Failure::new(failure.refusal(), failure.to_string()))?;
        let ends = Unverified::read(&token).and_then(|token| token.expires_at());
        let life = ends.and_then(|end| end.duration_since(SystemTime::now()).ok());
        let life = life.ok_or_else(|| Failure::malformed("a JWT-SVID without an end, or past it"))?;
        Ok(Minted { secret: Secret::Value(token), life: Life::Fixed(life), handle: None })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::testing::Scene, *};
    use crate::refusal::CredentialRefusal;

    #[tokio::test]
    async fn an_identity_that_nothing_proves_gives_no_credential() {
        let scene = Scene::new();
        let source = SpiffeJwt { audience: "https://api.example.com".into() };
        let refused = source.mint(&scene.asking(&[], Duration::from_secs(60))).await.err().unwrap().failure;
        assert_eq!(refused.refusal, CredentialRefusal::Rejected);
        assert!(refused.detail.contains("`agent.identity.kind`"), "{}", refused.detail);
    }
}
