//! Hands out credentials: one per declaration, task, destination, scopes and life, and nothing shared between them.
//!
//! However many calls come at once, the issuer is asked once; an issuer that fails is left in peace for a while. A
//! credential is refreshed before it ends, on use, so that one that nobody needs any longer ends by itself. None is
//! served after its end, after its task's end, or for longer than policy said.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;
use zeroize::Zeroizing;

use super::{
    Credential, Declaration, Failure, Fingerprints, Seal, Source,
    client::Client,
    entries::{Entries, is_among},
    entry::{BackOff, Entry, Held, NEVER, Now, SHORTEST_WAIT, Wanted},
    file::{self, Look},
    oauth::{self, Issuer, Unusable},
    revocation::{Outstanding, Revocations},
};
use crate::{
    config::{Upstream, Upstreams},
    policy::{Obligations, Permit},
    refusal::CredentialRefusal,
    task::Task,
};

/// Told of everything that happens to a credential: its kind, and what happened.
pub type Events = Arc<dyn Fn(&'static str, Event) + Send + Sync>;

/// What happens to a credential, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Minted or read for the first time.
    Minted,
    /// Replaced by a newer one.
    Refreshed,
    /// Not to be had.
    Refused,
    /// Ended by its issuer on our word.
    Revoked,
    /// Not ended by its issuer: valid until it expires.
    RevokeFailed,
}

impl Event {
    /// As it stands in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minted => "minted",
            Self::Refreshed => "refreshed",
            Self::Refused => "refused",
            Self::Revoked => "revoked",
            Self::RevokeFailed => "revoke_failed",
        }
    }
}

/// The credentials in use. Clones share them.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

impl Store {
    /// An empty store. Issuers are asked through this client.
    pub fn new(client: Client, events: Events) -> Self {
        Self(Arc::new(Shared {
            outstanding: Outstanding::new(client.clone(), Arc::clone(&events)),
            client,
            events,
            fingerprints: Fingerprints::new(),
            partitions: AtomicU64::new(1),
            entries: RwLock::default(),
            hasher: RandomState::new(),
            opened: Instant::now(),
            background: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }))
    }

    /// The credential for a permitted call. Answered at once while one is served.
    pub async fn obtain(
        &self,
        declaration: &Arc<Declaration>,
        upstream: &Arc<Upstream>,
        permit: &Permit,
        task: &Task,
    ) -> Result<Arc<Credential>, CredentialRefusal> {
        self.bound(&Wanted { declaration, upstream, obligations: permit.obligations(), task }).await
    }

    async fn bound(&self, wanted: &Wanted<'_>) -> Result<Arc<Credential>, CredentialRefusal> {
        let now = Now::read();
        if wanted.task.expires_at.is_some_and(|end| end <= now.wall) {
            return Err(CredentialRefusal::Expired);
        }
        let entry = match self.0.find(wanted) {
            Some(entry) => entry,
            None => self.0.open(wanted, now)?,
        };
        match entry.served(now) {
            Some(credential) => {
                self.0.refresh_if_due(&entry, now);
                Ok(credential)
            }
            // Boxed, because it is large and rare.
            None => Box::pin(self.0.mint_once(entry)).await,
        }
    }

    /// Forgets what belongs to a destination or declaration that is not among these any longer, and revokes its tokens
    /// without keeping anyone waiting.
    pub fn retain(&self, upstreams: &Arc<Upstreams>) {
        self.0.entries.write().unwrap_or_else(PoisonError::into_inner).retain(upstreams);
        let (shared, upstreams) = (Arc::clone(&self.0), Arc::clone(upstreams));
        drop(self.0.background.spawn(async move {
            shared.outstanding.end_unless(|upstream| is_among(upstream, &upstreams)).await;
        }));
    }

    /// Revokes every token that was minted and still lives, and mints none from now on.
    pub async fn revoke_all(&self, within: Duration) -> Revocations {
        let deadline = Instant::now() + within;
        let Shared { stopping, entries, outstanding, background, .. } = &*self.0;
        stopping.cancel();
        entries.write().unwrap_or_else(PoisonError::into_inner).clear();
        let revocations = outstanding.end_all(deadline).await;
        // A mint that was under way finds the store closed and revokes its own token.
        background.close();
        let _ = timeout_at(deadline, background.wait()).await;
        revocations
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

struct Shared {
    client: Client,
    events: Events,
    fingerprints: Fingerprints,
    partitions: AtomicU64,
    entries: RwLock<Entries>,
    hasher: RandomState,
    opened: Instant,
    outstanding: Outstanding,
    background: TaskTracker,
    stopping: CancellationToken,
}

impl Shared {
    fn find(&self, wanted: &Wanted<'_>) -> Option<Arc<Entry>> {
        let digest = wanted.digest(&self.hasher);
        self.entries.read().unwrap_or_else(PoisonError::into_inner).find(digest, wanted)
    }

    /// A new entry, if what is wanted is within what was declared.
    fn open(&self, wanted: &Wanted<'_>, now: Now) -> Result<Arc<Entry>, CredentialRefusal> {
        if self.stopping.is_cancelled() {
            return Err(CredentialRefusal::Unavailable);
        }
        if let Err(failure) = within_declaration(wanted) {
            self.report(wanted.declaration, &failure, Duration::ZERO);
            return Err(failure.refusal);
        }
        let digest = wanted.digest(&self.hasher);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        // Another call may have come between.
        if let Some(entry) = entries.find(digest, wanted) {
            return Ok(entry);
        }
        let entry = Arc::new(Entry::new(wanted));
        entries.add(digest, Arc::clone(&entry), now);
        Ok(entry)
    }

    /// Asks the issuer, or waits for the one who does. The asking goes on when its caller goes away: a token that was
    /// minted is never lost sight of.
    async fn mint_once(self: &Arc<Self>, entry: Arc<Entry>) -> Result<Arc<Credential>, CredentialRefusal> {
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

    fn refresh_if_due(self: &Arc<Self>, entry: &Arc<Entry>, now: Now) {
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
        let (outcome, most) = match &entry.declaration.source {
            Source::File { file, expires, .. } => (self.read(&entry, file, *expires).await, SHORTEST_WAIT),
            Source::OauthClientCredentials { .. } => (self.ask(&entry, event).await, LONGEST_WAIT),
        };
        let now = Now::read();
        let outcome = outcome.and_then(|held| {
            if entry.is_gone() {
                // The reload looked for tokens to end before this one was there.
                self.end_at(held.credential.partition, now.monotonic);
                return Err(Failure::new(CredentialRefusal::Unavailable, "what it is for is no longer configured"));
            }
            match held.serves(now) {
                true => Ok(held),
                false => Err(Failure::new(CredentialRefusal::Expired, "it ended before it could be used")),
            }
        });
        match outcome {
            Ok(held) => {
                gate.clear();
                entry.set_due(held.refresh_at.map_or(NEVER, |at| self.moment(at)));
                let credential = Arc::clone(&held.credential);
                entry.held.store(Some(Arc::new(held)));
                Ok(credential)
            }
            Err(failure) => {
                let wait = gate.note(&failure, now, most);
                entry.set_due(self.moment(now.monotonic + wait));
                if entry.served(now).is_none() {
                    entry.held.store(None);
                }
                self.report(&entry.declaration, &failure, wait);
                Err(failure.refusal)
            }
        }
    }

    /// The exception register: what the file says now.
    async fn read(&self, entry: &Entry, path: &Path, expires: Option<SystemTime>) -> Result<Held, Failure> {
        let now = Now::read();
        if expires.is_some_and(|end| end <= now.wall) {
            return Err(Failure::new(CredentialRefusal::Expired, "the exception has ended"));
        }
        let outlives =
            |life: Duration| expires.is_none_or(|end| now.wall.checked_add(life).is_some_and(|most| end > most));
        if entry.max_ttl.is_some_and(outlives) {
            let detail = "policy bounds the life of this credential, and nobody can end one from a file";
            return Err(Failure::new(CredentialRefusal::LifetimeExceeded, detail));
        }
        let last = entry.held.load_full();
        let look = file::look(path, last.as_ref().and_then(|held| held.stamp)).await?;
        let hold = |credential, stamp| Held {
            credential,
            until: now.monotonic + RECHECK,
            wall_until: expires,
            refresh_at: None,
            stamp,
        };
        match (look, last) {
            (Look::Unchanged, Some(last)) => Ok(hold(Arc::clone(&last.credential), last.stamp)),
            (Look::Unchanged, None) => Err(Failure::new(CredentialRefusal::Unavailable, "the file was not read")),
            (Look::Read(value, stamp), last) => {
                let credential = Credential::new(&entry.declaration, &value, expires, self.seal(&value))?;
                let event = match last {
                    Some(last) if last.credential.same_value(&credential) => {
                        return Ok(hold(Arc::clone(&last.credential), stamp));
                    }
                    Some(_) => Event::Refreshed,
                    None => Event::Minted,
                };
                (self.events)(entry.declaration.kind(), event);
                Ok(hold(Arc::new(credential), stamp))
            }
        }
    }

    /// A token from the issuer. A life longer than policy allows is accepted only if we can end it ourselves.
    async fn ask(self: &Arc<Self>, entry: &Entry, event: Event) -> Result<Held, Failure> {
        let declaration = &entry.declaration;
        let issuer =
            Issuer::of(&declaration.source).ok_or_else(|| Failure::malformed("nobody issues this credential"))?;
        let longest = match entry.max_ttl {
            Some(most) if !declaration.revocable() => declaration.max_ttl.min(most),
            _ => declaration.max_ttl,
        };
        // Read before the issuer is asked: the token is at most this old.
        let asked = Now::read();
        match issuer.mint(&self.client, &entry.asked(), longest).await {
            Ok(token) => {
                let held = self.hold(entry, asked, token)?;
                (self.events)(declaration.kind(), event);
                Ok(held)
            }
            Err(Unusable { failure, token }) => {
                if let Some(value) = token {
                    self.discard(entry, value);
                }
                Err(failure)
            }
        }
    }

    fn hold(self: &Arc<Self>, entry: &Entry, asked: Now, token: oauth::Token) -> Result<Held, Failure> {
        let declaration = &entry.declaration;
        let task_left = entry.task_ends.map(|end| end.duration_since(asked.wall).unwrap_or_default());
        let bound = [entry.max_ttl, task_left].into_iter().flatten().min();
        let own = token.life - (token.life / 10).min(MARGIN);
        let served = bound.map_or(own, |bound| bound.min(own));
        let (Some(expires), Some(until)) = (asked.after(token.life), asked.after(served)) else {
            return Err(Failure::malformed("the token's life is beyond every clock"));
        };
        let seal = self.seal(&token.value);
        let partition = seal.partition;
        let credential = match Credential::new(declaration, &token.value, Some(until.wall), seal) {
            Ok(credential) => credential,
            Err(failure) => {
                self.discard(entry, token.value);
                return Err(failure);
            }
        };
        if declaration.revocable() {
            if let Err(late) = self.outstanding.keep(partition, entry.token(token.value, expires.monotonic)) {
                self.discard(entry, late.value);
                return Err(Failure::new(CredentialRefusal::Unavailable, "the sidecar is stopping"));
            }
            if served < own {
                self.end_at(partition, until.monotonic);
            }
        }
        let refresh_at = asked.monotonic + served.mul_f64(self.jittered(partition));
        Ok(Held {
            credential: Arc::new(credential),
            until: until.monotonic,
            wall_until: Some(until.wall),
            // A task's last credential is not refreshed.
            refresh_at: Some(refresh_at).filter(|_| task_left != Some(served)),
            stamp: None,
        })
    }

    /// Revokes a token when its serving ends before its life does.
    fn end_at(self: &Arc<Self>, partition: u64, at: Instant) {
        let shared = Arc::clone(self);
        drop(self.background.spawn(async move {
            tokio::select! {
                () = sleep_until(at) => shared.outstanding.end(partition).await,
                () = shared.stopping.cancelled() => {}
            }
        }));
    }

    /// Revokes, at once and without keeping anyone waiting, a token that was minted and can't be used.
    fn discard(self: &Arc<Self>, entry: &Entry, value: Zeroizing<String>) {
        if entry.declaration.revocable() {
            let shared = Arc::clone(self);
            let expires = Instant::now() + DISCARDING;
            let token = entry.token(value, expires);
            drop(self.background.spawn(async move { shared.outstanding.revoke(&token, expires).await }));
        }
    }

    fn seal(&self, value: &str) -> Seal {
        let partition = self.partitions.fetch_add(1, Ordering::Relaxed);
        Seal { fingerprint: self.fingerprints.of(value), partition }
    }

    /// Between 75 and 80 hundredths, so that what was minted together is not refreshed together.
    fn jittered(&self, partition: u64) -> f64 {
        let random = self.hasher.hash_one(partition) % 1000;
        f64::from(u16::try_from(random).unwrap_or_default()).mul_add(0.000_05, 0.75)
    }

    fn moment(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.opened).as_millis()).unwrap_or(NEVER)
    }

    fn report(&self, declaration: &Declaration, failure: &Failure, wait: Duration) {
        let refusal = crate::refusal::Refusal::Credential(failure.refusal).label();
        warn!(credential = %declaration.name, refusal, why = failure.detail, ?wait, "credential refused");
        (self.events)(declaration.kind(), Event::Refused);
    }
}

/// What policy asks for must be within what was declared, and not nothing: an issuer that is asked for no scope gives
/// its default.
fn within_declaration(wanted: &Wanted<'_>) -> Result<(), Failure> {
    let Obligations { scopes, max_ttl, .. } = wanted.obligations;
    let declared = wanted.declaration.scopes();
    if let Some(scopes) = scopes {
        let undeclared = scopes.iter().any(|scope| !declared.iter().any(|each| **each == **scope));
        if undeclared || (scopes.is_empty() && !declared.is_empty()) {
            return Err(Failure::new(CredentialRefusal::Rejected, "policy asks for scopes that are not declared"));
        }
    }
    if *max_ttl == Some(Duration::ZERO) {
        return Err(Failure::new(CredentialRefusal::LifetimeExceeded, "policy allows no life at all"));
    }
    Ok(())
}

/// How often a file is looked at, at most.
const RECHECK: Duration = Duration::from_secs(1);

/// The longest time that a failing issuer is left in peace, unless it asks for more.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A token is not sent when it could expire on its way; a tenth of its life for short ones.
const MARGIN: Duration = Duration::from_secs(5);

/// How long revoking a token that can't be used is tried.
const DISCARDING: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests;
