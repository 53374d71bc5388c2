//! One credential in use: for which declaration, task, destination and scopes, how long it is served, and when its
//! issuer may be asked again.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use tokio::{sync::Mutex, time::Instant};

use super::{
    Credential, Declaration, Failure,
    mint::Handle,
    revocation::{Cause, Given},
};
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
    /// What the call itself needs, where its source gives no more than that: within what policy chose, and in its place.
    pub(super) needs: Option<Vec<Arc<str>>>,
}

impl Wanted<'_> {
    /// The scopes to ask for; `None` for all that are declared.
    fn scopes(&self) -> Option<&[Arc<str>]> {
        self.needs.as_deref().or(self.obligations.scopes.as_deref())
    }

    /// A digest for looking up; [`Entry::is_for`] compares.
    pub(super) fn digest(&self, hasher: &RandomState) -> u64 {
        let (scopes, max_ttl) = (self.scopes(), &self.obligations.max_ttl);
        hasher.hash_one((&*self.declaration.name, &*self.upstream.name, &*self.task.id, scopes, max_ttl))
    }
}

/// The state of one wanted credential.
pub(super) struct Entry {
    pub(super) declaration: Arc<Declaration>,
    /// The destination as it was configured: under one name a reload may lead elsewhere.
    pub(super) upstream: Arc<Upstream>,
    /// What it is asked for; only its identifier, its epoch and its end tell it from another.
    pub(super) task: Task,
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
    rotations: std::sync::Mutex<Rotations>,
}

impl Entry {
    pub(super) fn new(wanted: &Wanted<'_>) -> Self {
        Self {
            declaration: Arc::clone(wanted.declaration),
            upstream: Arc::clone(wanted.upstream),
            task: wanted.task.clone(),
            scopes: wanted.scopes().map(<[_]>::to_vec),
            max_ttl: wanted.obligations.max_ttl,
            held: ArcSwapOption::empty(),
            gate: Arc::default(),
            due: AtomicU64::new(NEVER),
            gone: AtomicBool::new(false),
            rotations: std::sync::Mutex::default(),
        }
    }

    /// What is left of its task, where that ends.
    pub(super) fn task_left(&self, now: Now) -> Option<Duration> {
        self.task.expires_at.map(|end| end.duration_since(now.wall).unwrap_or_default())
    }

    /// How long it may be served by policy and by its task, where either says so.
    pub(super) fn allowed_life(&self, now: Now) -> Option<Duration> {
        [self.max_ttl, self.task_left(now)].into_iter().flatten().min()
    }

    /// Whether this is what is wanted. A declaration or destination that was changed by a reload is another one. Where
    /// nothing changed they are the same allocation, which comparing looks at first.
    pub(super) fn is_for(&self, wanted: &Wanted<'_>) -> bool {
        let Wanted { declaration, upstream, obligations, task, .. } = wanted;
        self.declaration == **declaration
            && self.upstream == **upstream
            && self.task.id == task.id
            && self.task.epoch == task.epoch
            && self.task.expires_at == task.expires_at
            && self.scopes.as_deref() == wanted.scopes()
            && self.max_ttl == obligations.max_ttl
    }

    /// What was minted for it, to be kept until it is ended.
    pub(super) fn given(&self, handle: Handle, expires: Instant) -> Given {
        let cause = Cause { upstream: Arc::clone(&self.upstream), task: Arc::clone(&self.task.id) };
        Given {
            handle,
            declaration: Arc::clone(&self.declaration),
            cause: Some(cause),
            expires,
            ending: AtomicBool::new(false),
        }
    }

    /// From now on nothing is minted for it: its task has ended, or its destination is no longer configured so.
    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether its task has ended, or its destination is no longer configured so.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// The credential, while it is served.
    pub(super) fn served(&self, now: Now) -> Option<Arc<Credential>> {
        let held = self.held.load();
        held.as_ref().filter(|held| held.serves(now)).map(|held| Arc::clone(&held.credential))
    }

    /// The scopes to ask for: those of the call or of the decision, else all that are declared.
    pub(super) fn asked(&self) -> Vec<&str> {
        match &self.scopes {
            Some(scopes) => scopes.iter().map(|scope| &**scope).collect(),
            None => self.declaration.source.scopes().iter().map(String::as_str).collect(),
        }
    }

    /// Whether what is served may be given up before its time. Whoever asks is told so once in a while, and less often the
    /// more often it asks.
    pub(super) fn may_rotate(&self, now: Instant) -> bool {
        self.rotations.lock().unwrap_or_else(PoisonError::into_inner).take(now)
    }

    /// Serves it no longer, if it still is the one of this partition.
    pub(super) fn drop_held(&self, partition: u64) -> bool {
        let held = self.held.load();
        let is_it = held.as_ref().is_some_and(|held| held.credential.partition == partition);
        if is_it {
            // Whoever stored another one in between keeps it.
            self.held.compare_and_swap(&held, None);
        }
        is_it
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
}

impl Held {
    /// Whether both clocks agree that it may be served.
    pub(super) fn serves(&self, now: Now) -> bool {
        now.monotonic < self.until && self.wall_until.is_none_or(|end| now.wall < end)
    }
}

/// When a credential may be given up again before its time.
#[derive(Debug, Default)]
struct Rotations {
    next: Option<Instant>,
    pause: Duration,
}

impl Rotations {
    fn take(&mut self, now: Instant) -> bool {
        let Some(next) = self.next else { return self.begin(now, FIRST_ROTATION_PAUSE) };
        if now < next {
            return false;
        }
        let quiet = now.duration_since(next) > self.pause;
        let pause = if quiet { FIRST_ROTATION_PAUSE } else { (self.pause * 2).min(LONGEST_ROTATION_PAUSE) };
        self.begin(now, pause)
    }

    fn begin(&mut self, now: Instant, pause: Duration) -> bool {
        (self.next, self.pause) = (Some(now + pause), pause);
        true
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

const FIRST_ROTATION_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_ROTATION_PAUSE: Duration = Duration::from_secs(300);

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
    fn a_credential_is_given_up_less_often_the_more_often_that_is_wanted() {
        let now = Instant::now();
        let mut rotations = Rotations::default();
        let taken: Vec<u64> = (0..600).filter(|second| rotations.take(now + Duration::from_secs(*second))).collect();
        assert_eq!(taken, [0, 10, 30, 70, 150, 310]);
        assert!(rotations.take(now + Duration::from_secs(3600)));
        assert!(!rotations.take(now + Duration::from_secs(3605)));
        assert!(rotations.take(now + Duration::from_secs(3611)));
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
                source: super::super::testing::register("/f"),
                placement: super::super::Placement::Bearer,
                max_ttl: second,
                per_call: false,
            };
            let seal = super::super::Seal { fingerprint: "0".into(), partition: 1 };
            Arc::new(Credential::new(&declaration, super::super::testing::value("v"), None, seal).unwrap())
        };
        let held = |until, wall_until| Held { credential: credential(), until, wall_until, refresh_at: None };
        assert!(held(now.monotonic + second, None).serves(now));
        assert!(held(now.monotonic + second, Some(now.wall + second)).serves(now));
        assert!(!held(now.monotonic, None).serves(now));
        assert!(!held(now.monotonic + second, Some(now.wall)).serves(now));
        assert!(!held(now.monotonic, Some(now.wall + second)).serves(now));
    }
}
