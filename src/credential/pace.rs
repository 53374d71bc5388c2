//! Spares an issuer: so many mints at once, and so many a second after that.
//!
//! Counted for each issuer over all that ask it, so that a thousand tasks can't do together what none may do alone.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

use super::Failure;
use crate::refusal::CredentialRefusal;

/// The pace of every issuer that was asked.
#[derive(Default)]
pub(super) struct Paces(Mutex<HashMap<String, Pace>>);

impl Paces {
    /// Leave to ask this issuer for one credential, now.
    pub(super) fn take(&self, issuer: &str) -> Result<(), Failure> {
        let now = Instant::now();
        // Nothing that runs under the lock leaves a pace half changed.
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match paces.get_mut(issuer) {
            Some(pace) => pace.take(now),
            None => paces.entry(issuer.to_owned()).or_insert_with(|| Pace::new(now)).take(now),
        }
    }
}

/// One issuer's: a bucket of mints that fills steadily.
struct Pace {
    mints: f64,
    filled: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { mints: AT_ONCE, filled: now }
    }

    fn take(&mut self, now: Instant) -> Result<(), Failure> {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.mints = since.mul_add(A_SECOND, self.mints).min(AT_ONCE);
        self.filled = now;
        if self.mints < 1.0 {
            let detail =
                format!("asked of this issuer were {AT_ONCE} at once, and more than {A_SECOND} a second since");
            return Err(Failure::new(CredentialRefusal::BudgetSpent, detail));
        }
        self.mints -= 1.0;
        Ok(())
    }
}

/// How many mints one issuer is asked for at once, at most: what the tasks of one sidecar begin with, and where each call
/// has a credential of its own, so many calls at a time.
pub(super) const AT_ONCE: f64 = 60.0;

/// How many more after that, in each second.
const A_SECOND: f64 = 5.0;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    /// How many mints this issuer is asked for before the next is refused.
    fn taken(paces: &Paces, issuer: &str) -> usize {
        let mut taken = 0;
        loop {
            match paces.take(issuer) {
                Ok(()) => taken += 1,
                Err(failure) => {
                    assert_eq!(failure.refusal, CredentialRefusal::BudgetSpent);
                    return taken;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_spent_and_fills_again() {
        let paces = Paces::default();
        assert_eq!((taken(&paces, "a"), taken(&paces, "b")), (60, 60));
        advance(Duration::from_secs(1)).await;
        assert_eq!(taken(&paces, "a"), 5);
        advance(Duration::from_secs(3600)).await;
        assert_eq!(taken(&paces, "a"), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_minute_an_issuer_is_asked_for_no_more_than_is_documented() {
        let paces = Paces::default();
        let mut asked = taken(&paces, "a");
        for _ in 0..60 {
            advance(Duration::from_secs(1)).await;
            asked += taken(&paces, "a");
        }
        assert_eq!(asked, 60 + 60 * 5);
    }
}
