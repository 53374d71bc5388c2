//! Keeps every credential that its issuer can still end, and ends it.
//!
//! One stands here from its mint until it is revoked or expires, also after a newer one took its place: what was minted
//! is not forgotten because it is no longer used. Where it is known by a name that is no secret, the name is also
//! written down ([`super::journal`]), so that what a crash left behind is ended by the next start.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::{
    Declaration, Failure,
    journal::{Journal, Left},
    mint::{Handle, Tools},
    store::{Event, Events},
};
use crate::{config::Upstream, refusal::CredentialRefusal};

/// What became of the credentials that were to be revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Their issuer ended them.
    pub revoked: usize,
    /// They stay valid until they expire.
    pub failed: usize,
}

/// A minted credential that its issuer can end.
pub(super) struct Given {
    pub(super) handle: Handle,
    pub(super) declaration: Arc<Declaration>,
    /// For whom; none for what an earlier process left behind.
    pub(super) cause: Option<Cause>,
    pub(super) expires: Instant,
    /// Whether its issuer is being asked to end it.
    pub(super) ending: AtomicBool,
}

/// What a credential was minted for.
pub(super) struct Cause {
    pub(super) upstream: Arc<Upstream>,
    pub(super) task: Arc<str>,
}

/// The minted credentials, by their partition.
pub(super) struct Outstanding {
    tools: Arc<Tools>,
    events: Events,
    journal: Journal,
    /// `None` once everything was ended: nothing is kept from then on.
    given: Mutex<Option<HashMap<u64, Arc<Given>>>>,
    /// What an earlier process left behind and nobody has ended yet.
    left: Mutex<Vec<(Left, Instant)>>,
    /// The declarations of today, by name.
    declared: RwLock<BTreeMap<String, Arc<Declaration>>>,
}

impl Outstanding {
    pub(super) fn new(tools: Arc<Tools>, events: Events, journal: Journal) -> Self {
        let now = Instant::now();
        // Later the journal also holds what this process was given.
        let left = journal.left_behind().into_iter().filter_map(|left| {
            let expires = now.checked_add(left.remaining)?;
            Some((left, expires))
        });
        let left = Mutex::new(left.collect());
        Self { tools, events, journal, given: Mutex::new(Some(HashMap::new())), left, declared: RwLock::default() }
    }

    /// Takes note of what is declared from now on.
    pub(super) fn declare(&self, declared: BTreeMap<String, Arc<Declaration>>) {
        *self.declared.write().unwrap_or_else(PoisonError::into_inner) = declared;
    }

    /// Keeps one, or gives it back when it is too late to keep any, or when it can't be written down.
    pub(super) async fn keep(&self, partition: u64, given: Given) -> Result<(), Given> {
        if let Err(error) = self.write_down(&given).await {
            warn!(credential = %given.declaration.name, %error, "credential not written down, so not used");
            return Err(given);
        }
        match &mut *self.given() {
            None => Err(given),
            Some(all) => {
                let now = Instant::now();
                all.retain(|_, kept| kept.expires > now);
                all.insert(partition, Arc::new(given));
                Ok(())
            }
        }
    }

    async fn write_down(&self, given: &Given) -> io::Result<()> {
        let Handle::Reference(name) = &given.handle else { return Ok(()) };
        let left = given.expires.saturating_duration_since(Instant::now());
        self.journal.given(&given.declaration.name, name, left).await
    }

    /// Ends one that was to end at this moment, if it was not ended yet. It is kept until it has, so that the end of all
    /// finds it. What has expired is over.
    pub(super) async fn end(&self, partition: u64, since: Instant) {
        let given = self.given().as_ref().and_then(|all| all.get(&partition).cloned());
        let Some(given) = given.filter(|given| !given.ending.swap(true, Ordering::Relaxed)) else { return };
        if given.expires <= Instant::now() || self.revoke(&given, since, given.expires).await {
            if let Some(all) = &mut *self.given() {
                all.remove(&partition);
            }
        } else {
            given.ending.store(false, Ordering::Relaxed);
        }
    }

    /// Ends those that were minted for what is no longer wanted since this moment, several at a time.
    pub(super) async fn end_unless(&self, since: Instant, wanted: impl Fn(&Cause) -> bool) {
        let gone: Vec<u64> = match &*self.given() {
            Some(all) => {
                let unwanted = |given: &Arc<Given>| given.cause.as_ref().is_some_and(|cause| !wanted(cause));
                all.iter().filter(|(_, given)| unwanted(given)).map(|(partition, _)| *partition).collect()
            }
            None => Vec::new(),
        };
        stream::iter(gone).for_each_concurrent(AT_A_TIME, async |partition| self.end(partition, since).await).await;
    }

    /// Ends what an earlier process left behind, as far as its credential is declared today.
    pub(super) async fn sweep(&self) {
        let (since, due) = (Instant::now(), stream::iter(self.due()));
        due.for_each_concurrent(AT_A_TIME, async |(declaration, left, expires)| {
            let handle = Handle::Reference(Arc::clone(&left.reference));
            let given = Given { handle, declaration, cause: None, expires, ending: AtomicBool::new(true) };
            if !self.revoke(&given, since, expires).await {
                // What is declared tomorrow may do better.
                self.left().push((left, expires));
            }
        })
        .await;
    }

    /// Takes what can be ended out of what was left behind.
    fn due(&self) -> Vec<(Arc<Declaration>, Left, Instant)> {
        let (now, mut left) = (Instant::now(), self.left());
        let (mut due, mut others) = (Vec::new(), Vec::new());
        for (each, expires) in left.drain(..).filter(|(_, expires)| *expires > now) {
            match self.declared(&each.credential) {
                Some(declaration) => due.push((declaration, each, expires)),
                None => {
                    warn!(credential = %each.credential, "left behind by an earlier process, and no longer declared");
                    others.push((each, expires));
                }
            }
        }
        *left = others;
        due
    }

    /// Ends all, several at a time, and keeps none from now on.
    pub(super) async fn end_all(&self, deadline: Instant) -> Revocations {
        let now = Instant::now();
        let given = self.given().take().unwrap_or_default();
        let given = stream::iter(given.into_values().filter(|given| given.expires > now));
        let mut outcomes =
            given.map(async |given| self.revoke(&given, now, deadline).await).buffer_unordered(AT_A_TIME);
        let mut total = Revocations::default();
        while let Some(revoked) = outcomes.next().await {
            match revoked {
                true => total.revoked += 1,
                false => total.failed += 1,
            }
        }
        total
    }

    /// Asks the issuer to end one that was to end at this moment, until it has, or says no, or the time is over; whether
    /// it did.
    pub(super) async fn revoke(&self, given: &Given, since: Instant, deadline: Instant) -> bool {
        let late = || Failure::new(CredentialRefusal::Timeout, "no time is left");
        let revoking = timeout_at(deadline, self.persist(given)).await;
        let (kind, lag) = (given.declaration.kind(), since.elapsed());
        match revoking.unwrap_or_else(|_| Err(late())) {
            Ok(()) => {
                if let Handle::Reference(name) = &given.handle {
                    self.journal.ended(&given.declaration.name, name).await;
                }
                (self.events)(kind, Event::Revoked { lag });
                true
            }
            Err(failure) => {
                let (destination, task) =
                    given.cause.as_ref().map(|cause| (&*cause.upstream.name, &*cause.task)).unzip();
                let credential = &*given.declaration.name;
                warn!(credential, destination, task, why = failure.detail, "credential not revoked");
                (self.events)(kind, Event::RevokeFailed);
                false
            }
        }
    }

    /// Tries again while the issuer is unwell, as the credential is valid until it says otherwise.
    async fn persist(&self, given: &Given) -> Result<(), Failure> {
        let mut pause = FIRST_PAUSE;
        loop {
            // Asked for each time: a reload may have brought what the issuer takes.
            let failure = match self.declaration_for(given).source.revoke(&self.tools, &given.handle).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if !matches!(failure.refusal, CredentialRefusal::Unavailable | CredentialRefusal::Timeout) {
                return Err(failure);
            }
            sleep(pause.max(failure.retry_after.unwrap_or_default().min(LONGEST_PAUSE))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// What one is ended by: its declaration as it is today, or as it was if today's leads to another issuer.
    fn declaration_for(&self, given: &Given) -> Arc<Declaration> {
        let today = self.declared(&given.declaration.name);
        let fit = today.filter(|today| given.declaration.source.can_be_ended_by(&today.source));
        fit.unwrap_or_else(|| Arc::clone(&given.declaration))
    }

    /// All declarations of today.
    pub(super) fn today(&self) -> Vec<Arc<Declaration>> {
        self.declared.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn declared(&self, name: &str) -> Option<Arc<Declaration>> {
        self.declared.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn left(&self) -> MutexGuard<'_, Vec<(Left, Instant)>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given(&self) -> MutexGuard<'_, Option<HashMap<u64, Arc<Given>>>> {
        // Nothing that runs under the lock leaves the map half changed.
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many revocations run at a time: each may need a connection of its own.
const AT_A_TIME: usize = 32;

/// After the first attempt to revoke, then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
