//! Hands out credentials: one per declaration, task, destination, scopes and life, and nothing shared between them.
//!
//! However many calls come at once, the issuer is asked once; an issuer that fails is left in peace for a while. A
//! credential is refreshed before it ends, on use, so that one that nobody needs any longer ends by itself. None is
//! served after its end, after its task's end, or for longer than policy said.

use std::{
    collections::VecDeque,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::{
    Credential, Declaration, Failure, Fingerprints, Seal,
    client::Client,
    entries::{Entries, is_among},
    entry::{BackOff, Entry, Held, NEVER, Now, SHORTEST_WAIT, Wanted},
    journal::Journal,
    mint::{Asking, Handle, Life, Minted, Secret, Tools, Unusable},
    pace::Paces,
    revocation::{Outstanding, Revocations},
};
use crate::{
    config::{Upstream, Upstreams},
    identity::Identity,
    policy::{Obligations, Permit},
    refusal::CredentialRefusal,
    task::Task,
};
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

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
    Revoked {
        /// How long after it was to end.
        lag: Duration,
    },
    /// Given up before its time, because it was seen where it must not be or its origin took it no longer.
    Rotated,
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
            Self::Revoked { .. } => "revoked",
            Self::Rotated => "rotated",
            Self::RevokeFailed => "revoke_failed",
        }
    }
}

/// The credentials in use. Clones share them.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

impl Store {
    /// An empty store. Issuers are asked through this client; what has to be revoked is written down in the journal.
    pub fn new(client: Client, identity: Arc<Identity>, journal: Journal, events: Events) -> Self {
        let tools = Arc::new(Tools::new(client, identity));
        Self(Arc::new(Shared {
            outstanding: Outstanding::new(Arc::clone(&tools), Arc::clone(&events), journal),
            tools,
            paces: Paces::default(),
            changed: Mutex::default(),
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
            shared.outstanding.end_unless(|cause| is_among(&cause.upstream, &upstreams)).await;
        }));
    }

    /// Ends everything that was minted for a task, and mints nothing for it from now on: at once for new calls, in the
    /// background at the issuers. Says nothing about the task itself.
    pub fn end(&self, task: &Arc<str>) {
        // No call has so high an epoch.
        self.renew(task, u64::MAX);
    }

    /// Ends everything that was minted for a task whose context changed. What it needs from now on is minted anew.
    ///
    /// A call that was permitted before the change, and so has an epoch below this one, gets nothing any more.
    pub fn renew(&self, task: &Arc<str>, epoch: u64) {
        self.0.note_change(task, epoch);
        self.0.entries.write().unwrap_or_else(PoisonError::into_inner).forget(|entry| entry.task.id == *task);
        let (shared, task) = (Arc::clone(&self.0), Arc::clone(task));
        drop(self.0.background.spawn(async move {
            shared.outstanding.end_unless(|cause| cause.task != task).await;
        }));
    }

    /// Ends everything that was minted for a destination.
    pub fn end_destination(&self, name: &str) {
        self.0.entries.write().unwrap_or_else(PoisonError::into_inner).forget(|entry| *entry.upstream.name == *name);
        let (shared, name) = (Arc::clone(&self.0), name.to_owned());
        drop(self.0.background.spawn(async move {
            shared.outstanding.end_unless(|cause| *cause.upstream.name != *name).await;
        }));
    }

    /// Gives a credential up before its time: it was seen where it must not be, or its origin takes it no longer. The
    /// next call gets another one, if its source has another.
    ///
    /// Agents and origins can bring this about, so it is done now and then only: an origin that answers every call with
    /// 401 must not cost its issuer a mint for each.
    pub fn rotate(&self, credential: &Credential) {
        let partition = credential.partition;
        let entry = self.0.entries.read().unwrap_or_else(PoisonError::into_inner).serving(partition);
        if let Some(entry) = entry {
            if !entry.may_rotate(Instant::now()) {
                return;
            }
            if entry.drop_held(partition) {
                (self.0.events)(credential.kind, Event::Rotated);
            }
        }
        let shared = Arc::clone(&self.0);
        drop(self.0.background.spawn(async move { shared.outstanding.end(partition).await }));
    }

    /// Ends what an earlier process was given and could not end, without keeping anyone waiting. Asks for the
    /// declarations of today by name.
    pub fn sweep(&self, declared: impl Fn(&str) -> Option<Arc<Declaration>> + Send + Sync + 'static) {
        let shared = Arc::clone(&self.0);
        drop(self.0.background.spawn(async move {
            tokio::select! {
                () = shared.outstanding.sweep(declared) => {}
                () = shared.stopping.cancelled() => {}
            }
        }));
    }

    /// Revokes every token that was minted and still lives, and mints none from now on.
    pub async fn revoke_all(&self, within: Duration) -> Revocations {
        let deadline = Instant::now() + within;
        let Shared { stopping, entries, outstanding, background, tools, .. } = &*self.0;
        stopping.cancel();
        entries.write().unwrap_or_else(PoisonError::into_inner).clear();
        let revocations = outstanding.end_all(deadline).await;
        // A mint that was under way finds the store closed and revokes its own token.
        background.close();
        let _ = timeout_at(deadline, background.wait()).await;
        let _ = timeout_at(deadline, tools.vault.end(&tools.client)).await;
        revocations
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

struct Shared {
    tools: Arc<Tools>,
    paces: Paces,
    /// The tasks that changed or ended last, with the least epoch that still counts: a call that was permitted just before
    /// gets nothing any more.
    changed: Mutex<VecDeque<(Arc<str>, u64)>>,
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
        // Asked under the lock under which a task that ends has its entries taken away: one that is added is seen by it.
        if self.is_past(wanted.task) {
            return Err(CredentialRefusal::Expired);
        }
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
        let most = if entry.declaration.source.issuer().is_some() { LONGEST_WAIT } else { SHORTEST_WAIT };
        let outcome = self.ask(&entry, event).await;
        let now = Now::read();
        let outcome = outcome.and_then(|held| {
            if entry.is_gone() {
                // Whoever ended it looked for what to revoke before this was there.
                self.end_at(held.credential.partition, now.monotonic);
                return Err(Failure::new(CredentialRefusal::Unavailable, "its task or its destination is gone"));
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

    /// Asks the source, as often as its issuer is to bear. A life longer than policy allows is asked for only if we can
    /// end it ourselves.
    async fn ask(self: &Arc<Self>, entry: &Entry, event: Event) -> Result<Held, Failure> {
        let Declaration { source, max_ttl, .. } = &*entry.declaration;
        if let Some(issuer) = source.issuer() {
            self.paces.take(issuer)?;
        }
        let longest = match entry.max_ttl {
            Some(most) if !source.revocable() => most.min(*max_ttl),
            _ => *max_ttl,
        };
        // Read before the issuer is asked: what it gives is at most this old.
        let asked = Now::read();
        let useful = entry.bound(asked).map_or(longest, |bound| bound.min(longest));
        let scopes = entry.asked();
        let (bound, task, upstream) = (entry.max_ttl, &entry.task, &*entry.upstream);
        let asking = Asking { tools: &self.tools, scopes: &scopes, longest, bound, useful, task, upstream };
        let outcome = source.mint(&asking).await;
        if let Some(issuer) = source.issuer() {
            let refusal = outcome.as_ref().err().map(|unusable| unusable.failure.refusal);
            if let Some(pause) = self.paces.note(issuer, refusal) {
                warn!(issuer, ?pause, "the issuer keeps failing and is left alone");
            }
        }
        match outcome {
            Ok(Minted { secret, life: Life::Standing { ends, again }, handle: _ }) => {
                self.stand(entry, event, secret, asked, ends, again)
            }
            Ok(Minted { secret, life: Life::For(life), handle }) if life <= longest => {
                self.hold(entry, event, asked, (secret, life, handle))
            }
            // Served as long as allowed, and then ended by us.
            Ok(Minted { secret, life: Life::Fixed(life), handle }) if life <= longest || handle.is_some() => {
                self.hold(entry, event, asked, (secret, life, handle))
            }
            Ok(Minted { life: Life::For(life) | Life::Fixed(life), handle, .. }) => {
                self.discard(entry, handle);
                let detail = format!("it lives {life:?}, allowed are {longest:?}");
                Err(Failure::new(CredentialRefusal::LifetimeExceeded, detail))
            }
            Err(Unusable { failure, handle }) => {
                self.discard(entry, handle);
                Err(failure)
            }
        }
    }

    /// One that stands until it is looked at again. The same value stays the same credential.
    fn stand(
        &self,
        entry: &Entry,
        event: Event,
        secret: Secret,
        asked: Now,
        ends: Option<SystemTime>,
        again: Duration,
    ) -> Result<Held, Failure> {
        let until = asked.monotonic + again;
        let hold = |credential| Held { credential, until, wall_until: ends, refresh_at: None };
        let seal = self.seal(&secret);
        let credential = Credential::new(&entry.declaration, secret, ends, seal)?;
        let event = match entry.held.load_full() {
            Some(last) if last.credential.same_value(&credential) => return Ok(hold(Arc::clone(&last.credential))),
            Some(_) => Event::Refreshed,
            None => event,
        };
        (self.events)(entry.declaration.kind(), event);
        Ok(hold(Arc::new(credential)))
    }

    fn hold(
        self: &Arc<Self>,
        entry: &Entry,
        event: Event,
        asked: Now,
        (secret, life, handle): (Secret, Duration, Option<Handle>),
    ) -> Result<Held, Failure> {
        let bound = entry.bound(asked).into_iter().chain([entry.declaration.max_ttl]).min();
        let own = life - (life / 10).min(MARGIN);
        let served = bound.map_or(own, |bound| bound.min(own));
        let (Some(expires), Some(until)) = (asked.after(life), asked.after(served)) else {
            self.discard(entry, handle);
            return Err(Failure::malformed("its life is beyond every clock"));
        };
        let seal = self.seal(&secret);
        let partition = seal.partition;
        let credential = match Credential::new(&entry.declaration, secret, Some(until.wall), seal) {
            Ok(credential) => credential,
            Err(failure) => {
                self.discard(entry, handle);
                return Err(failure);
            }
        };
        if let Some(handle) = handle {
            if let Err(unkept) = self.outstanding.keep(partition, entry.given(handle, expires.monotonic)) {
                self.discard(entry, Some(unkept.handle));
                return Err(Failure::new(CredentialRefusal::Unavailable, "it could not be kept to be revoked"));
            }
            if served < own {
                self.end_at(partition, until.monotonic);
            }
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

    /// Revokes, at once and without keeping anyone waiting, what was minted and can't be used.
    fn discard(self: &Arc<Self>, entry: &Entry, handle: Option<Handle>) {
        let Some(handle) = handle else { return };
        let expires = Instant::now() + DISCARDING;
        let (shared, given) = (Arc::clone(self), entry.given(handle, expires));
        drop(self.background.spawn(async move { shared.outstanding.revoke(&given, expires).await }));
    }

    fn seal(&self, secret: &Secret) -> Seal {
        let partition = self.partitions.fetch_add(1, Ordering::Relaxed);
        Seal { fingerprint: self.fingerprints.of(secret), partition }
    }

    fn note_change(&self, task: &Arc<str>, epoch: u64) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        // Two changes may be told in another order than they were made in.
        let known = changed.iter().position(|(known, _)| known == task).and_then(|index| changed.remove(index));
        if changed.len() == CHANGES {
            changed.pop_front();
        }
        changed.push_back((Arc::clone(task), known.map_or(epoch, |(_, before)| before.max(epoch))));
    }

    /// Whether this is a task as it was before it changed or ended.
    fn is_past(&self, task: &Task) -> bool {
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.iter().any(|(known, least)| *known == task.id && task.epoch < *least)
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
    let declared = wanted.declaration.source.scopes();
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

/// How many of these are remembered: calls that were permitted before do not take so long.
const CHANGES: usize = 1024;

/// The longest time that a failing issuer is left in peace, unless it asks for more.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A token is not sent when it could expire on its way; a tenth of its life for short ones.
const MARGIN: Duration = Duration::from_secs(5);

/// How long revoking a token that can't be used is tried.
const DISCARDING: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests;
