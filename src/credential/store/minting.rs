//! Asks issuers for what is wanted: once, however many wait for it, and ahead of its end while it is in use.

use std::{sync::Arc, time::Duration};

use tokio::sync::OwnedMutexGuard;
use tracing::warn;

use super::{
    super::{
        Credential, Declaration, Failure,
        entry::{BackOff, Entry, Held, NEVER, Now, SHORTEST_WAIT},
    },
    Event, Shared,
};
use crate::{
    config::Upstream,
    refusal::{CredentialRefusal, Refusal},
    task::Task,
};

impl Shared {
    /// Asks the issuer, or waits for the one who does. The asking goes on when its caller goes away: a token that was
    /// minted is never lost sight of.
    pub(super) async fn mint_once(self: &Arc<Self>, entry: Arc<Entry>) -> Result<Arc<Credential>, CredentialRefusal> {
        if entry.declaration.per_call {
            return self.mint_alone(entry).await;
        }
        let gate = Arc::clone(&entry.gate).lock_owned().await;
        let now = Now::read();
        if let Some(credential) = entry.served(now) {
            return Ok(credential);
        }
        if let Some(refusal) = gate.refusal(now) {
            return Err(refusal);
        }
        let minting = self.background.spawn(Arc::clone(self).mint(entry, gate, Event::Minted));
        minting.await.unwrap_or(Err(CredentialRefusal::Unavailable))
    }

    pub(super) fn refresh_if_due(self: &Arc<Self>, entry: &Arc<Entry>, now: Now) {
        let moment = self.moment(now.monotonic);
        if !entry.take_due(moment) {
            return;
        }
        match Arc::clone(&entry.gate).try_lock_owned() {
            Ok(gate) => drop(self.background.spawn(Arc::clone(self).mint(Arc::clone(entry), gate, Event::Refreshed))),
            Err(_) => entry.put_back_due(moment),
        }
    }

    async fn mint(
        self: Arc<Self>,
        entry: Arc<Entry>,
        mut gate: OwnedMutexGuard<BackOff>,
        event: Event,
    ) -> Result<Arc<Credential>, CredentialRefusal> {
        let outcome = self.ask(&entry, event).await;
        let now = Now::read();
        match outcome.and_then(|held| self.usable(&entry, held, now)) {
            Ok(held) => {
                gate.clear();
                entry.set_due(held.refresh_at.map_or(NEVER, |at| self.moment(at)));
                let credential = Arc::clone(&held.credential);
                entry.held.store(Some(Arc::new(held)));
                Ok(credential)
            }
            Err(failure) => {
                let wait = gate.note(&failure, now, longest_wait(&entry));
                entry.set_due(self.moment(now.monotonic + wait));
                if entry.served(now).is_none() {
                    entry.held.store(None);
                }
                self.report(&entry.declaration, (&entry.upstream, &entry.task), &failure, wait);
                Err(failure.refusal)
            }
        }
    }

    /// What was minted, unless nobody may use it any more.
    pub(super) fn usable(self: &Arc<Self>, entry: &Entry, held: Held, now: Now) -> Result<Held, Failure> {
        if entry.is_gone() {
            // Whoever ended it looked for what to revoke before this was there.
            self.end_at(held.credential.partition, now.monotonic);
            return Err(Failure::new(CredentialRefusal::Unavailable, "its task or its destination is gone"));
        }
        match (held.serves(now), entry.declaration.source.issuer()) {
            (true, _) => Ok(held),
            (false, Some(_)) => Err(Failure::malformed("it ended before it could be used")),
            (false, None) => Err(Failure::new(CredentialRefusal::Expired, "it has ended")),
        }
    }

    pub(super) fn report(
        &self,
        declaration: &Declaration,
        (upstream, task): (&Upstream, &Task),
        failure: &Failure,
        wait: Duration,
    ) {
        let refusal = Refusal::Credential(failure.refusal).label();
        let (destination, task) = (&*upstream.name, &*task.id);
        let hint = (failure.refusal == CredentialRefusal::LifetimeExceeded).then_some(LIVES_TOO_LONG);
        let credential = &*declaration.name;
        warn!(credential, destination, task, refusal, why = failure.detail, hint, ?wait, "credential refused");
        (self.events)(declaration.kind(), Event::Refused);
    }
}

/// How long its issuer is left in peace at the most.
pub(super) fn longest_wait(entry: &Entry) -> Duration {
    if entry.declaration.source.issuer().is_some() { LONGEST_WAIT } else { SHORTEST_WAIT }
}

const LIVES_TOO_LONG: &str = "have its issuer make it shorter, or raise the credential's `max_ttl` and policy's";

/// The longest time that a failing issuer is left in peace, unless it asks for more.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
