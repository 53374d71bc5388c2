//! Hands out credentials: one per declaration, task, destination, scopes and life, and nothing shared between them.
//!
//! However many calls come at once, the issuer is asked once; an issuer that fails is left in peace for a while. A
//! credential is refreshed before it ends, on use, so that one that nobody needs any longer ends by itself. None is
//! served after its end, after its task's end, or for longer than policy said.
//!
//! Where a declaration says `per_call`, a call shares nothing with the others of its task either.

mod accept;
mod alone;
mod event;
mod minting;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fmt,
    hash::RandomState,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicU64},
    time::Duration,
};

use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Credential, Declaration, Failure, Fingerprints,
    circuit::Circuits,
    client::Client,
    entries::{Entries, is_among},
    entry::{Entry, NEVER, Now, Wanted},
    journal::Journal,
    mint::Tools,
    pace::Paces,
    revocation::{Cause, Outstanding, Revocations},
};
use crate::{
    call::HttpCall,
    config::{Upstream, Upstreams},
    identity::Identity,
    policy::{Obligations, Permit},
    refusal::{CredentialRefusal, Refusal},
    task::Task,
};
pub use event::{Event, Events};

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
            circuits: Arc::default(),
            changed: Mutex::default(),
            events,
            fingerprints: Fingerprints::new(),
            partitions: AtomicU64::new(1),
            claimed: Mutex::default(),
            entries: RwLock::default(),
            hasher: RandomState::new(),
            opened: Instant::now(),
            background: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }))
    }

    /// The credential for a permitted call. Answered at once while one is served. A call whose task is over is refused for
    /// that, whatever else is wrong.
    pub async fn obtain(
        &self,
        declaration: &Arc<Declaration>,
        upstream: &Arc<Upstream>,
        permit: &Permit,
        task: &Task,
        call: &HttpCall,
    ) -> Result<Arc<Credential>, Refusal> {
        let obligations = permit.obligations();
        let needs = declaration.source.needs(call, obligations.scopes.as_deref()).map_err(|failure| {
            self.0.report(declaration, (upstream, task), &failure, Duration::ZERO);
            Refusal::Credential(failure.refusal)
        })?;
        self.obtain_for(&Wanted { declaration, upstream, obligations, task, needs }).await
    }

    async fn obtain_for(&self, wanted: &Wanted<'_>) -> Result<Arc<Credential>, Refusal> {
        let Wanted { upstream, task, .. } = wanted;
        let now = Now::read();
        if task.expires_at.is_some_and(|end| end <= now.wall) {
            return Err(Refusal::TaskExpired);
        }
        let obtained = self.serve(wanted, now).await;
        obtained.map_err(|refusal| task.refusal(&upstream.name).unwrap_or(Refusal::Credential(refusal)))
    }

    async fn serve(&self, wanted: &Wanted<'_>, now: Now) -> Result<Arc<Credential>, CredentialRefusal> {
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
        let (shared, upstreams, since) = (Arc::clone(&self.0), Arc::clone(upstreams), Instant::now());
        drop(self.0.background.spawn(async move {
            shared.outstanding.end_unless(since, |cause| is_among(&cause.upstream, &upstreams)).await;
            // After what was ended with them.
            let Tools { vault, client, .. } = &*shared.tools;
            vault.retain(client, &shared.outstanding.today()).await;
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
        let task = Arc::clone(task);
        self.0.end_unless(move |cause| cause.task != task);
    }

    /// Ends everything that was minted for a destination.
    pub fn end_destination(&self, name: &str) {
        self.0.entries.write().unwrap_or_else(PoisonError::into_inner).forget(|entry| *entry.upstream.name == *name);
        let name = name.to_owned();
        self.0.end_unless(move |cause| *cause.upstream.name != *name);
    }

    /// Gives a credential up before its time: it was seen where it must not be, or its origin takes it no longer. The
    /// next call gets another one, if its source has another.
    ///
    /// Agents and origins can bring this about, so it is done now and then only: an origin that answers every call with
    /// 401 must not cost its issuer a mint for each.
    pub fn rotate(&self, credential: &Credential) {
        let partition = credential.partition;
        let entry = if credential.is_for_one_call() {
            (self.0.events)(credential.kind, Event::Rotated);
            None
        } else {
            self.0.entries.read().unwrap_or_else(PoisonError::into_inner).serving(partition)
        };
        if let Some(entry) = entry {
            if !entry.may_rotate(Instant::now()) {
                return;
            }
            if entry.drop_held(partition) {
                (self.0.events)(credential.kind, Event::Rotated);
            }
        }
        let (shared, since) = (Arc::clone(&self.0), Instant::now());
        drop(self.0.background.spawn(async move { shared.outstanding.end(partition, since).await }));
    }

    /// Takes note of what is declared from now on: what has to be revoked is revoked as its declaration says today. Ends,
    /// without keeping anyone waiting, what an earlier process was given and could not end.
    pub fn declare(&self, declared: BTreeMap<String, Arc<Declaration>>) {
        declared.values().for_each(|declaration| self.0.tools.exceptions.look(declaration));
        self.0.outstanding.declare(declared);
        let shared = Arc::clone(&self.0);
        drop(self.0.background.spawn(async move {
            tokio::select! {
                () = shared.outstanding.sweep() => {}
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
    circuits: Arc<Circuits>,
    /// The tasks that changed or ended last, with the least epoch that still counts: a call that was permitted just before
    /// gets nothing any more.
    changed: Mutex<VecDeque<(Arc<str>, u64)>>,
    events: Events,
    fingerprints: Fingerprints,
    partitions: AtomicU64,
    /// The fingerprints of those that are for one call.
    claimed: Mutex<HashSet<Arc<str>>>,
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
            self.report(wanted.declaration, (wanted.upstream, wanted.task), &failure, Duration::ZERO);
            return Err(failure.refusal);
        }
        let digest = wanted.digest(&self.hasher);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        // Asked under the lock under which a task that ends has its entries taken away: one that is added is seen by it.
        if self.is_past(wanted.task) {
            return Err(CredentialRefusal::Unavailable);
        }
        // Another call may have come between.
        if let Some(entry) = entries.find(digest, wanted) {
            return Ok(entry);
        }
        let entry = Arc::new(Entry::new(wanted));
        entries.add(digest, Arc::clone(&entry), now);
        Ok(entry)
    }

    /// Revokes a token when its serving ends before its life does.
    fn end_at(self: &Arc<Self>, partition: u64, at: Instant) {
        let shared = Arc::clone(self);
        drop(self.background.spawn(async move {
            tokio::select! {
                () = sleep_until(at) => shared.outstanding.end(partition, at).await,
                () = shared.stopping.cancelled() => {}
            }
        }));
    }

    /// Ends what was minted for what is not wanted any longer, without keeping anyone waiting.
    fn end_unless(self: &Arc<Self>, wanted: impl Fn(&Cause) -> bool + Send + 'static) {
        let (shared, since) = (Arc::clone(self), Instant::now());
        drop(self.background.spawn(async move { shared.outstanding.end_unless(since, wanted).await }));
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

    fn moment(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.opened).as_millis()).unwrap_or(NEVER)
    }
}

/// What policy asks for must be within what was declared, and not nothing: an issuer that is asked for no scope gives
/// its default.
fn within_declaration(wanted: &Wanted<'_>) -> Result<(), Failure> {
    let Obligations { scopes, max_ttl, .. } = wanted.obligations;
    let declared = wanted.declaration.source.scopes();
    // What the call needs was held against both before.
    if let Some(scopes) = scopes.as_ref().filter(|_| wanted.needs.is_none()) {
        let undeclared = scopes.iter().any(|scope| !declared.iter().any(|each| **each == **scope));
        if undeclared || (scopes.is_empty() && !declared.is_empty()) {
            return Err(Failure::misconfigured("policy asks for scopes that are not declared"));
        }
    }
    if *max_ttl == Some(Duration::ZERO) {
        return Err(Failure::new(CredentialRefusal::LifetimeExceeded, "policy allows no life at all"));
    }
    Ok(())
}

/// How many of these are remembered: calls that were permitted before do not take so long.
const CHANGES: usize = 1024;

#[cfg(test)]
mod tests;
