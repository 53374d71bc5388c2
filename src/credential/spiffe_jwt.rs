//! The agent's own identity as a bearer: a JWT-SVID for exactly one audience.
//!
//! Whoever issues it can't end it, so its life is short: SPIRE gives five minutes. Every task and destination asks for
//! one; SPIRE's agent keeps those that it fetched, and may give the same one to several that ask for the same audience.

use super::{
    Failure,
    assertion::identity,
    jose::Unverified,
    mint::{Asking, Life, Minted, Secret, Unusable},
    reply,
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
        let token = identity(asking.tools, &self.audience).await?;
        let ends = Unverified::read(&token).and_then(|token| token.expires_at());
        let ends = ends.ok_or_else(|| Failure::malformed("a JWT-SVID without an end"))?;
        let life = Life::For(reply::life_until(ends, asking.longest)?);
        Ok(Minted { secret: Secret::Value(token), life, handle: None })
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
        assert_eq!(refused.refusal, CredentialRefusal::Misconfigured);
        assert!(refused.detail.contains("`agent.identity.kind`"), "{}", refused.detail);
    }
}
