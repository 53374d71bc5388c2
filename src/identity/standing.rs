//! What is known of an identity at this moment, and who is told when that changes.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{sync::watch, time::sleep};

use super::{Id, IdentityFailure, Proof};

/// The standing of one identity. Asked by every call, so asking takes no lock.
pub(super) struct Standing {
    id: Id,
    now: ArcSwap<Result<Proof, IdentityFailure>>,
    changes: watch::Sender<bool>,
}

impl Standing {
    /// Not proven yet, for this reason.
    pub(super) fn unproven(id: Id, why: &str) -> Self {
        let now = Err(IdentityFailure::Unavailable(why.into()));
        Self { id, now: ArcSwap::from_pointee(now), changes: watch::Sender::new(false) }
    }

    /// Proven from the beginning.
    pub(super) fn proven(id: Id, proof: Proof) -> Self {
        Self { id, now: ArcSwap::from_pointee(Ok(proof)), changes: watch::Sender::new(true) }
    }

    pub(super) fn id(&self) -> &Id {
        &self.id
    }

    pub(super) fn changes(&self) -> watch::Receiver<bool> {
        self.changes.subscribe()
    }

    /// The proof, if it is valid by the wall's clock: a timer alone would miss the time that a machine was asleep.
    pub(super) fn proof(&self) -> Result<Proof, IdentityFailure> {
        match &**self.now.load() {
            Ok(proof) if proof.is_over(SystemTime::now()) => Err(IdentityFailure::Expired),
            Ok(proof) => Ok(proof.clone()),
            Err(failure) => Err(failure.clone()),
        }
    }

    /// This id is proven from now on, if it is the agent's; whatever proves another one takes the proof away.
    pub(super) fn prove(&self, id: &str, proof: Proof) -> Result<(), IdentityFailure> {
        self.id.claim(id).inspect_err(|failure| self.lose(failure))?;
        let serial = proof.serial.as_deref();
        match &**self.now.load() {
            Ok(last) if last.serial == proof.serial => {}
            Ok(_) => tracing::info!(serial, "identity renewed"),
            Err(_) => tracing::info!(id, serial, "identity proven"),
        }
        self.now.store(Arc::new(Ok(proof)));
        self.changes.send_replace(true);
        Ok(())
    }

    /// Nothing proves it any longer.
    pub(super) fn lose(&self, why: &IdentityFailure) {
        if self.now.load().as_ref().as_ref().err() == Some(why) {
            return;
        }
        tracing::warn!(%why, "identity unavailable");
        self.now.store(Arc::new(Err(why.clone())));
        self.changes.send_replace(false);
    }

    /// A proof could not be had or renewed. One that is valid is kept until it ends.
    pub(super) fn miss(&self, why: &IdentityFailure) {
        match self.proof() {
            Ok(_) => tracing::warn!(%why, "identity not renewed; what proves it is kept until it ends"),
            Err(IdentityFailure::Expired) => self.lose(&IdentityFailure::Expired),
            Err(_) => self.lose(why),
        }
    }

    /// Takes the proof away when it ends, and waits on.
    pub(super) async fn outlive(&self) {
        self.expiry().await;
        // Another one may have come at the last moment.
        if self.proof().is_err() {
            self.lose(&IdentityFailure::Expired);
        }
        std::future::pending().await
    }

    /// Resolves when the proof has ended; never while there is none, or one without an end.
    pub(super) async fn expiry(&self) {
        loop {
            let end = self.now.load().as_ref().as_ref().ok().and_then(|proof| proof.expires_at);
            let Some(end) = end else { return std::future::pending().await };
            match end.duration_since(SystemTime::now()) {
                // In steps, because the wall's clock can be set, and the machine can sleep.
                Ok(left) if !left.is_zero() => sleep(left.min(STEP)).await,
                Ok(_) | Err(_) => return,
            }
        }
    }
}

impl Proof {
    fn is_over(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").field("id", &self.id).field("now", &*self.now.load()).finish()
    }
}

const STEP: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(serial: &str, left: Duration) -> Proof {
        Proof { serial: Some(serial.into()), expires_at: Some(SystemTime::now() + left) }
    }

    #[test]
    fn a_proof_is_renewed_and_another_id_takes_it_away() {
        let standing = Standing::unproven(Id::default(), "nothing was asked yet");
        let changes = standing.changes();
        assert_eq!(standing.proof(), Err(IdentityFailure::Unavailable("nothing was asked yet".into())));
        let minute = Duration::from_secs(60);
        standing.prove("spiffe://td/a", proof("1", minute)).unwrap();
        standing.prove("spiffe://td/a", proof("2", minute)).unwrap();
        assert_eq!(standing.proof().unwrap().serial.as_deref(), Some("2"));
        assert!(*changes.borrow());
        assert!(standing.prove("spiffe://td/b", proof("3", minute)).is_err());
        assert!(matches!(standing.proof(), Err(IdentityFailure::Another { .. })));
        assert!(!*changes.borrow());
        standing.prove("spiffe://td/a", proof("4", minute)).unwrap();
        assert_eq!(standing.proof().unwrap().serial.as_deref(), Some("4"));
    }

    #[test]
    fn what_could_not_be_renewed_is_kept_until_it_ends() {
        let standing = Standing::unproven("spiffe://td/a".into(), "");
        let down = IdentityFailure::Unavailable("down".into());
        standing.prove("spiffe://td/a", proof("1", Duration::from_secs(60))).unwrap();
        standing.miss(&down);
        assert!(standing.proof().is_ok());
        standing.prove("spiffe://td/a", proof("2", Duration::ZERO)).unwrap();
        assert_eq!(standing.proof(), Err(IdentityFailure::Expired));
        standing.miss(&down);
        assert_eq!(standing.proof(), Err(IdentityFailure::Expired));
        assert!(!*standing.changes().borrow());
    }

    #[tokio::test]
    async fn a_proof_that_ends_is_taken_away() {
        let standing = Standing::unproven("spiffe://td/a".into(), "");
        standing.prove("spiffe://td/a", proof("1", Duration::from_millis(30))).unwrap();
        let mut changes = standing.changes();
        tokio::select! {
            () = standing.outlive() => {}
            lost = changes.wait_for(|proven| !proven) => assert!(lost.is_ok()),
        }
        assert_eq!(standing.proof(), Err(IdentityFailure::Expired));
    }
}
