//! Credentials of one call each (`per_call`): minted for it however many come at once, and ended as soon as it is over.
//!
//! Such a credential is in no entry, so nobody else finds it: the call's is the only hold on it. What ends it hangs on
//! that hold, so that it is ended on every way out of a call: its answer has passed, was cut or never came, its agent
//! has gone, or it failed in our own hands.

use std::{
    collections::HashSet,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    super::{
        Credential, Failure,
        entry::{Entry, Now},
    },
    Event, Shared,
    minting::longest_wait,
};
use crate::refusal::CredentialRefusal;

/// A value that one call has and no other may get.
pub(super) struct Claim {
    shared: Arc<Shared>,
    fingerprint: Arc<str>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shared.claims().remove(&self.fingerprint);
    }
}

impl Shared {
    /// Asks the issuer for a credential of one call. The asking goes on when the call goes away: what comes of it is
    /// then ended at once.
    pub(super) async fn mint_alone(self: &Arc<Self>, entry: Arc<Entry>) -> Result<Arc<Credential>, CredentialRefusal> {
        if let Some(refusal) = entry.gate.lock().await.refusal(Now::read()) {
            return Err(refusal);
        }
        let shared = Arc::clone(self);
        let minting = self.background.spawn(async move {
            let outcome = shared.ask(&entry, Event::Minted).await;
            // Held for this only: other calls ask at the same time.
            let (mut gate, now) = (entry.gate.lock().await, Now::read());
            match outcome.and_then(|held| shared.usable(&entry, held, now)) {
                Ok(held) => {
                    gate.clear();
                    Ok(held.credential)
                }
                Err(failure) => {
                    // Of calls that fail together, the first tells how long the issuer is left in peace.
                    let wait = match gate.refusal(now) {
                        Some(_) => Duration::ZERO,
                        None => gate.note(&failure, now, longest_wait(&entry)),
                    };
                    shared.report(&entry.declaration, (&entry.upstream, &entry.task), &failure, wait);
                    Err(failure.refusal)
                }
            }
        });
        minting.await.unwrap_or(Err(CredentialRefusal::Unavailable))
    }

    /// The claim on a value for one call. An issuer that gives the same one to another call at the same time would have
    /// the end of the first call end it for both.
    pub(super) fn claim(self: &Arc<Self>, fingerprint: &Arc<str>) -> Result<Claim, Failure> {
        if self.claims().insert(Arc::clone(fingerprint)) {
            return Ok(Claim { shared: Arc::clone(self), fingerprint: Arc::clone(fingerprint) });
        }
        let detail = "the issuer gave the same one to two calls; hint: `per_call` needs an issuer that makes a new one \
                      each time";
        Err(Failure::new(CredentialRefusal::Rejected, detail))
    }

    /// Gives what was minted and kept to its call, whose end is the end of the guard. It is also ended when its serving
    /// ends before it expires.
    pub(super) fn lend(
        self: &Arc<Self>,
        claim: Claim,
        partition: u64,
        until: Option<Instant>,
        expires: Instant,
    ) -> DropGuard {
        let over = CancellationToken::new();
        let (shared, guard) = (Arc::clone(self), over.clone().drop_guard());
        drop(self.background.spawn(async move {
            let alive = tokio::select! {
                // In this order: what has expired is not revoked.
                biased;
                () = sleep_until(until.unwrap_or(expires)) => until.is_some(),
                () = over.cancelled() => true,
                // Whoever stops ends all.
                () = shared.stopping.cancelled() => false,
            };
            if alive {
                shared.outstanding.end(partition, Instant::now()).await;
            }
            // Not before: the issuer may still give it again.
            drop(claim);
        }));
        guard
    }

    fn claims(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
