//! Takes what an issuer gives: held against what was allowed, and then served for as long as that. What is beyond it is
//! ended.

use std::{
    hash::BuildHasher,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    super::{
        Credential, Declaration, Failure, Seal,
        entry::{Entry, Held, Now},
        mint::{Asking, Handle, Life, Minted, Secret, Unusable},
        reply,
    },
    Event, Shared,
};
use crate::refusal::CredentialRefusal;

impl Shared {
    /// Asks the source, as often as its issuer is to bear. A life longer than policy allows is asked for only if we can
    /// end it ourselves.
    pub(super) async fn ask(self: &Arc<Self>, entry: &Entry, event: Event) -> Result<Held, Failure> {
        let Declaration { source, max_ttl, per_call, .. } = &*entry.declaration;
        if let Some(issuer) = source.issuer() {
            self.paces.take(issuer)?;
        }
        let longest = match entry.max_ttl {
            Some(most) if !source.revocable() => most.min(*max_ttl),
            _ => *max_ttl,
        };
        // Read before the issuer is asked: what it gives is at most this old.
        let asked = Now::read();
        let useful = entry.allowed_life(asked).map_or(longest, |bound| bound.min(longest));
        // What nobody ends with its call is of use for its beginning only.
        let useful = if *per_call && !source.revocable() { useful.min(BEGINNING) } else { useful };
        let scopes = entry.asked();
        let (task, upstream) = (&entry.task, &*entry.upstream);
        let tools = self.tools.for_mint(&self.circuits, asked.monotonic + WHOLE_MINT);
        let asking = Asking { tools: &tools, scopes: &scopes, longest, useful, task, upstream };
        match source.mint(&asking).await {
            Ok(Minted { secret, life: Life::Standing { ends, again }, handle: _ }) => {
                self.stand(entry, event, secret, asked, ends, again)
            }
            Ok(Minted { secret, life: Life::For(life), handle }) if life <= longest => {
                self.hold(entry, event, asked, (secret, life, handle)).await
            }
            // Served as long as allowed, and then ended by us.
            Ok(Minted { secret, life: Life::Fixed(life), handle }) if life <= longest || handle.is_some() => {
                self.hold(entry, event, asked, (secret, life, handle)).await
            }
            Ok(Minted { life: Life::For(life) | Life::Fixed(life), handle, .. }) => {
                self.discard(entry, handle, life);
                Err(reply::outlives(life, longest))
            }
            Err(Unusable { failure, handle }) => {
                // How long it lives is not known: it was asked for no longer than this.
                self.discard(entry, handle, longest);
                Err(failure)
            }
        }
    }

    /// One that stands until it is looked at again. The same value stays the same credential. Nobody can end it before it
    /// ends by itself, so where policy bounds its life, that has to come first.
    fn stand(
        &self,
        entry: &Entry,
        event: Event,
        secret: Secret,
        asked: Now,
        ends: Option<SystemTime>,
        again: Duration,
    ) -> Result<Held, Failure> {
        match (entry.max_ttl, ends) {
            // An exception ends by our own clock, all else by that of whoever made it.
            (Some(bound), Some(ends)) => {
                let skew = entry.declaration.source.exception().map_or(reply::SKEW, |_| Duration::ZERO);
                reply::life_within(ends, bound, skew)?;
            }
            (Some(_), None) => {
                let detail = "policy bounds its life, and it has no end that is known";
                return Err(Failure::new(CredentialRefusal::LifetimeExceeded, detail));
            }
            (None, _) => {}
        }
        self.tools.exceptions.look(&entry.declaration);
        let until = asked.monotonic + again;
        let seal = self.seal(&secret);
        let refresh_at = Some(asked.monotonic + again.mul_f64(self.jittered(seal.partition)));
        let hold = |credential| Held { credential, until, wall_until: ends, refresh_at };
        // What stands somewhere is nobody's answer: who put it there has to look.
        let ours = |failure: Failure| match failure.refusal {
            CredentialRefusal::Malformed => Failure::misconfigured(failure.detail),
            _ => failure,
        };
        let credential = Credential::new(&entry.declaration, secret, ends, seal).map_err(ours)?;
        let event = match entry.held.load_full() {
            Some(last) if last.credential.same_value(&credential) => return Ok(hold(Arc::clone(&last.credential))),
            Some(_) => Event::Refreshed,
            None => event,
        };
        (self.events)(entry.declaration.kind(), event);
        Ok(hold(Arc::new(credential)))
    }

    async fn hold(
        self: &Arc<Self>,
        entry: &Entry,
        event: Event,
        asked: Now,
        (secret, life, handle): (Secret, Duration, Option<Handle>),
    ) -> Result<Held, Failure> {
        let bound = entry.allowed_life(asked).into_iter().chain([entry.declaration.max_ttl]).min();
        let own = life - (life / 10).min(MARGIN);
        let served = bound.map_or(own, |bound| bound.min(own));
        let (Some(expires), Some(until)) = (asked.after(life), asked.after(served)) else {
            self.discard(entry, handle, LONGEST_TRIED);
            return Err(Failure::malformed("its life is beyond every clock"));
        };
        let seal = self.seal(&secret);
        let partition = seal.partition;
        let claim = match entry.declaration.per_call.then(|| self.claim(&seal.fingerprint)).transpose() {
            Ok(claim) => claim,
            Err(failure) => {
                // One that is its own handle is in use.
                self.discard(entry, handle.filter(|handle| matches!(handle, Handle::Reference(_))), life);
                return Err(failure);
            }
        };
        let mut credential = match Credential::new(&entry.declaration, secret, Some(until.wall), seal) {
            Ok(credential) => credential,
            Err(failure) => {
                self.discard(entry, handle, life);
                return Err(failure);
            }
        };
        let early = (served < own && handle.is_some()).then_some(until.monotonic);
        if let Some(handle) = handle
            && let Err(unkept) = self.outstanding.keep(partition, entry.given(handle, expires.monotonic)).await
        {
            self.discard(entry, Some(unkept.handle), life);
            return Err(Failure::new(CredentialRefusal::Unavailable, "it could not be kept to be revoked"));
        }
        match (claim, early) {
            (Some(claim), early) => credential.alone = Some(self.lend(claim, partition, early, expires.monotonic)),
            (None, Some(early)) => self.end_at(partition, early),
            (None, None) => {}
        }
        (self.events)(entry.declaration.kind(), event);
        let refresh_at = asked.monotonic + served.mul_f64(self.jittered(partition));
        let last = entry.task_left(asked) == Some(served);
        Ok(Held {
            credential: Arc::new(credential),
            until: until.monotonic,
            wall_until: Some(until.wall),
            // A task's last credential is not refreshed.
            refresh_at: Some(refresh_at).filter(|_| !last),
        })
    }

    /// Ends what was minted, lives so long and can't be used, as everything else: without keeping anyone waiting.
    fn discard(self: &Arc<Self>, entry: &Entry, handle: Option<Handle>, life: Duration) {
        let Some(handle) = handle else { return };
        let since = Instant::now();
        let partition = self.partitions.fetch_add(1, Ordering::Relaxed);
        let (shared, given) = (Arc::clone(self), entry.given(handle, since + life.min(LONGEST_TRIED)));
        drop(self.background.spawn(async move {
            match shared.outstanding.keep(partition, given).await {
                Ok(()) => shared.outstanding.end(partition, since).await,
                // Nothing finds it again.
                Err(unkept) => drop(shared.outstanding.revoke(&unkept, since, since + LONGEST_UNKEPT).await),
            }
        }));
    }

    fn seal(&self, secret: &Secret) -> Seal {
        let partition = self.partitions.fetch_add(1, Ordering::Relaxed);
        Seal { fingerprint: self.fingerprints.of(secret), partition }
    }

    /// Between 75 and 80 hundredths, so that what was minted together is not refreshed together.
    fn jittered(&self, partition: u64) -> f64 {
        let random = self.hasher.hash_one(partition) % 1000;
        f64::from(u16::try_from(random).unwrap_or_default()).mul_add(0.000_05, 0.75)
    }
}

/// A token is not sent when it could expire on its way; a tenth of its life for short ones.
const MARGIN: Duration = Duration::from_secs(5);

/// How long a call takes to begin, with a new connection and all: origins look at credentials no later.
const BEGINNING: Duration = Duration::from_secs(60);

/// How long the answers of all who are asked for one credential may take together.
const WHOLE_MINT: Duration = Duration::from_secs(9);

/// How long revoking what can't be used is tried, however long it says that it lives.
const LONGEST_TRIED: Duration = Duration::from_secs(3600);

/// The same where it could not be kept: when we stop, nobody would find it.
const LONGEST_UNKEPT: Duration = Duration::from_secs(20);
