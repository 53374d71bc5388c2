//! Keeps every credential that its issuer can still end, and ends it.
//!
//! One stands here from its mint until it is revoked or expires, also after a newer one took its place: what was minted
//! is not forgotten because it is no longer used. Where it is known by a name that is no secret, the name is also
//! written down ([`super::journal`]), so that what a crash left behind is ended by the next start.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::{
    Declaration, Failure,
    journal::Journal,
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
}

impl Outstanding {
    pub(super) fn new(tools: Arc<Tools>, events: Events, journal: Journal) -> Self {
        Self { tools, events, journal, given: Mutex::new(Some(HashMap::new())) }
    }

    /// Keeps one, or gives it back when it is too late to keep any, or when it can't be written down.
    pub(super) fn keep(&self, partition: u64, given: Given) -> Result<(), Given> {
        match &mut *self.given() {
            None => Err(given),
            Some(all) => {
                let now = Instant::now();
                all.retain(|_, kept| kept.expires > now);
                if let Handle::Reference(name) = &given.handle
                    && let Err(error) = self.journal.given(&given.declaration.name, name, given.expires - now)
                {
                    warn!(credential = %given.declaration.name, %error, "credential not written down, so not used");
                    return Err(given);
                }
                all.insert(partition, Arc::new(given));
                Ok(())
            }
        }
    }

    /// Ends one, if it was not ended yet. It is kept until it has, so that the end of all finds it.
    pub(super) async fn end(&self, partition: u64) {
        let given = self.given().as_ref().and_then(|all| all.get(&partition).cloned());
        let Some(given) = given.filter(|given| !given.ending.swap(true, Ordering::Relaxed)) else { return };
        if self.revoke(&given, given.expires).await {
            if let Some(all) = &mut *self.given() {
                all.remove(&partition);
            }
        } else {
            given.ending.store(false, Ordering::Relaxed);
        }
    }

    /// Ends those that were minted for what is no longer wanted, several at a time.
    pub(super) async fn end_unless(&self, wanted: impl Fn(&Cause) -> bool) {
        let gone: Vec<u64> = match &*self.given() {
            Some(all) => {
                let unwanted = |given: &Arc<Given>| given.cause.as_ref().is_some_and(|cause| !wanted(cause));
                all.iter().filter(|(_, given)| unwanted(given)).map(|(partition, _)| *partition).collect()
            }
            None => Vec::new(),
        };
        stream::iter(gone).for_each_concurrent(AT_A_TIME, async |partition| self.end(partition).await).await;
    }

    /// Ends what an earlier process left behind, as far as its credential is still declared.
    pub(super) async fn sweep(&self, declared: impl Fn(&str) -> Option<Arc<Declaration>>) {
        let left = stream::iter(self.journal.left_behind());
        left.for_each_concurrent(AT_A_TIME, async |left| {
            let Some(declaration) = declared(&left.credential) else {
                warn!(credential = %left.credential, "left behind by an earlier process, and no longer declared");
                return;
            };
            let expires = Instant::now() + left.remaining;
            let handle = Handle::Reference(left.reference);
            self.revoke(&Given { handle, declaration, cause: None, expires, ending: AtomicBool::new(true) }, expires)
                .await;
        })
        .await;
    }

    /// Ends all, several at a time, and keeps none from now on.
    pub(super) async fn end_all(&self, deadline: Instant) -> Revocations {
        let now = Instant::now();
        let given = self.given().take().unwrap_or_default();
        let given = stream::iter(given.into_values().filter(|given| given.expires > now));
        let mut outcomes = given.map(async |given| self.revoke(&given, deadline).await).buffer_unordered(AT_A_TIME);
        let mut total = Revocations::default();
        while let Some(revoked) = outcomes.next().await {
            match revoked {
                true => total.revoked += 1,
                false => total.failed += 1,
            }
        }
        total
    }

    /// Asks the issuer to end one until it has, or says no, or the time is over; whether it did.
    pub(super) async fn revoke(&self, given: &Given, deadline: Instant) -> bool {
        let begun = Instant::now();
        let late = || Failure::new(CredentialRefusal::Timeout, "no time is left");
        let revoking = timeout_at(deadline, self.persist(given)).await;
        let kind = given.declaration.kind();
        match revoking.unwrap_or_else(|_| Err(late())) {
            Ok(()) => {
                if let Handle::Reference(name) = &given.handle {
                    self.journal.ended(&given.declaration.name, name);
                }
                (self.events)(kind, Event::Revoked { lag: begun.elapsed() });
                true
            }
            Err(failure) => {
                warn!(credential = %given.declaration.name, why = failure.detail, "credential not revoked");
                (self.events)(kind, Event::RevokeFailed);
                false
            }
        }
    }

    /// Tries again while the issuer is unwell, as the credential is valid until it says otherwise.
    async fn persist(&self, given: &Given) -> Result<(), Failure> {
        let mut pause = FIRST_PAUSE;
        loop {
            let failure = match given.declaration.source.revoke(&self.tools, &given.handle).await {
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
