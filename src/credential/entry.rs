//! One credential in use: for which declaration, task, destination and scopes, how long it is served, and when its
//! issuer may be asked again.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use tokio::{sync::Mutex, time::Instant};
use zeroize::Zeroizing;

use super::{Credential, Declaration, Failure, file::Stamp, revocation::Token};
use crate::{config::Upstream, policy::Obligations, refusal::CredentialRefusal, task::Task};

/// One moment by both clocks: the wall's can be set, the monotonic one stands still while the machine sleeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) monotonic: Instant,
    pub(super) wall: SystemTime,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// The moment after this much time; `None` when no clock goes so far.
    pub(super) fn after(self, time: Duration) -> Option<Self> {
        Some(Self { monotonic: self.monotonic.checked_add(time)?, wall: self.wall.checked_add(time)? })
    }
}

/// What is asked for: all that tells one credential from another.
pub(super) struct Wanted<'a> {
    pub(super) declaration: &'a Arc<Declaration>,
    pub(super) upstream: &'a Arc<Upstream>,
    pub(super) obligations: &'a Obligations,
    pub(super) task: &'a Task,
}

impl Wanted<'_> {
    /// A digest for looking up; [`Entry::is_for`] compares.
    pub(super) fn digest(&self, hasher: &RandomState) -> u64 {
        let Obligations { scopes, max_ttl, .. } = self.obligations;
        hasher.hash_one((&*self.declaration.name, &*self.upstream.name, &*self.task.id, scopes, max_ttl))
    }
}

/// The state of one wanted credential.
pub(super) struct Entry {
    pub(super) declaration: Arc<Declaration>,
    /// The destination as it was configured: under one name a reload may lead elsewhere.
    pub(super) upstream: Arc<Upstream>,
    task: Arc<str>,
    pub(super) task_ends: Option<SystemTime>,
    scopes: Option<Vec<Arc<str>>>,
    /// The life that policy allows, where it is bound.
    pub(super) max_ttl: Option<Duration>,
    /// What is served at the moment.
    pub(super) held: ArcSwapOption<Held>,
    /// Whoever holds the gate asks the issuer; all others wait for what comes of it.
    pub(super) gate: Arc<Mutex<BackOff>>,
    /// When to refresh ahead, in milliseconds since the store was opened; [`NEVER`] while that is under way.
    due: AtomicU64,
    gone: AtomicBool,
}

impl Entry {
    pub(super) fn new(wanted: &Wanted<'_>) -> Self {
        Self {
            declaration: Arc::clone(wanted.declaration),
            upstream: Arc::clone(wanted.upstream),
            task: Arc::clone(&wanted.task.id),
            task_ends: wanted.task.expires_at,
            scopes: wanted.obligations.scopes.clone(),
            max_ttl: wanted.obligations.max_ttl,
            held: ArcSwapOption::empty(),
            gate: Arc::default(),
            due: AtomicU64::new(NEVER),
            gone: AtomicBool::new(false),
        }
    }

    /// Whether this is what is wanted. A declaration or destination that was changed by a reload is another one. Where
    /// nothing changed they are the same allocation, which comparing looks at first.
    pub(super) fn is_for(&self, wanted: &Wanted<'_>) -> bool {
        let Wanted { declaration, upstream, obligations, task } = wanted;
        self.declaration == **declaration
            && self.upstream == **upstream
            && self.task == task.id
            && self.task_ends == task.expires_at
            && self.scopes == obligations.scopes
            && self.max_ttl == obligations.max_ttl
    }

    /// A token of its own, to be kept until it is ended.
    pub(super) fn token(&self, value: Zeroizing<String>, expires: Instant) -> Token {
        Token { value, declaration: Arc::clone(&self.declaration), upstream: Arc::clone(&self.upstream), expires }
    }

    /// From now on nothing is minted for it: its declaration or its destination is no longer configured.
    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether its declaration or its destination is no longer configured.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// The credential, while it is served.
    pub(super) fn served(&self, now: Now) -> Option<Arc<Credential>> {
        let held = self.held.load();
        held.as_ref().filter(|held| held.serves(now)).map(|held| Arc::clone(&held.credential))
    }

    /// The scopes to ask for: those of the decision, else all that are declared.
    pub(super) fn asked(&self) -> Vec<&str> {
        match &self.scopes {
            Some(scopes) => scopes.iter().map(|scope| &**scope).collect(),
            None => self.declaration.scopes().iter().map(String::as_str).collect(),
        }
    }

    /// Whether to refresh at this moment. Only one caller is told so.
    pub(super) fn take_due(&self, moment: u64) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        moment >= due && self.due.compare_exchange(due, NEVER, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Sets when to refresh ahead.
    pub(super) fn set_due(&self, moment: u64) {
        self.due.store(moment, Ordering::Relaxed);
    }

    /// Gives back what [`Self::take_due`] took, unless someone set another moment since.
    pub(super) fn put_back_due(&self, moment: u64) {
        let _ = self.due.compare_exchange(NEVER, moment, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether forgetting it would lose nothing: it serves nobody, and no issuer waits for peace.
    pub(super) fn is_idle(&self, now: Now) -> bool {
        self.served(now).is_none() && self.gate.try_lock().is_ok_and(|gate| gate.refusal(now).is_none())
    }
}

/// A credential and how long it is served.
pub(super) struct Held {
    pub(super) credential: Arc<Credential>,
    /// By the monotonic clock.
    pub(super) until: Instant,
    /// By the wall's clock, where the credential ends.
    pub(super) wall_until: Option<SystemTime>,
    /// When to refresh ahead, where that is of use.
    pub(super) refresh_at: Option<Instant>,
    /// The file that it was read from, as it was.
    pub(super) stamp: Option<Stamp>,
}

impl Held {
    /// Whether both clocks agree that it may be served.
    pub(super) fn serves(&self, now: Now) -> bool {
        now.monotonic < self.until && self.wall_until.is_none_or(|end| now.wall < end)
    }
}

/// Leaves an issuer in peace after a failure: one second, then twice as long each time.
#[derive(Debug, Default)]
pub(super) struct BackOff {
    last: Option<(CredentialRefusal, Instant)>,
    wait: Duration,
}

impl BackOff {
    /// The refusal that stands for now, if the issuer is left in peace.
    pub(super) fn refusal(&self, now: Now) -> Option<CredentialRefusal> {
        self.last.filter(|(_, until)| now.monotonic < *until).map(|(refusal, _)| refusal)
    }

    /// Notes a failure, and says how long the issuer is left in peace. An issuer may ask for more time, within bounds.
    pub(super) fn note(&mut self, failure: &Failure, now: Now, most: Duration) -> Duration {
        self.wait = (self.wait * 2).clamp(SHORTEST_WAIT, most);
        let wait = self.wait.max(failure.retry_after.unwrap_or_default().min(MOST_PATIENCE));
        self.last = Some((failure.refusal, now.monotonic + wait));
        wait
    }

    /// The issuer is well.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// No moment to refresh at.
pub(super) const NEVER: u64 = u64::MAX;

/// After the first failure.
pub(super) const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// The longest `Retry-After` that is honoured.
const MOST_PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_left_in_peace_twice_as_long_each_time() {
        let (now, most) = (Now::read(), Duration::from_secs(30));
        let failure = Failure::new(CredentialRefusal::Unavailable, "down");
        let mut back_off = BackOff::default();
        let mut wait = || back_off.note(&failure, now, most).as_secs();
        assert_eq!([wait(), wait(), wait(), wait(), wait(), wait(), wait()], [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(back_off.refusal(now), Some(CredentialRefusal::Unavailable));
        assert_eq!(back_off.refusal(now.after(most).unwrap()), None);
        back_off.clear();
        assert_eq!(back_off.refusal(now), None);
        assert_eq!(back_off.note(&failure, now, most), SHORTEST_WAIT);
    }

    #[test]
    fn an_issuer_may_ask_for_more_time_within_bounds() {
        let (now, most) = (Now::read(), Duration::from_secs(30));
        for (asked, given) in [(0, 1), (7, 7), (3600, 60), (u64::MAX, 60)] {
            let failure = Failure {
                retry_after: Some(Duration::from_secs(asked)),
                ..Failure::new(CredentialRefusal::Unavailable, "busy")
            };
            assert_eq!(BackOff::default().note(&failure, now, most).as_secs(), given);
        }
    }

    #[test]
    fn the_nearer_of_both_clocks_ends_a_credential() {
        let now = Now::read();
        let second = Duration::from_secs(1);
        let credential = || {
            let declaration = Declaration {
                name: "c".into(),
                source: super::super::Source::File { file: "/f".into(), owner: "o".into(), expires: None },
                placement: super::super::Placement::Bearer,
                max_ttl: second,
            };
            let seal = super::super::Seal { fingerprint: "0".into(), partition: 1 };
            Arc::new(Credential::new(&declaration, "v", None, seal).unwrap())
        };
        let held =
            |until, wall_until| Held { credential: credential(), until, wall_until, refresh_at: None, stamp: None };
        assert!(held(now.monotonic + second, None).serves(now));
        assert!(held(now.monotonic + second, Some(now.wall + second)).serves(now));
        assert!(!held(now.monotonic, None).serves(now));
        assert!(!held(now.monotonic + second, Some(now.wall)).serves(now));
        assert!(!held(now.monotonic, Some(now.wall + second)).serves(now));
    }
}
