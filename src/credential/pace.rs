//! Spares an issuer: so many mints a minute, and none for a while after it failed several times in a row.
//!
//! Counted for each issuer over all that ask it, so that a thousand tasks can't do together what none may do alone.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::Failure;
use crate::refusal::CredentialRefusal;

/// The pace of every issuer that was asked.
#[derive(Default)]
pub(super) struct Paces(Mutex<HashMap<String, Pace>>);

impl Paces {
    /// Leave to ask this issuer once, now.
    pub(super) fn take(&self, issuer: &str) -> Result<(), Failure> {
        let now = Instant::now();
        self.of(issuer, |pace| pace.take(now))
    }

    /// What came of asking it. Tells a new circuit break by the time that it lasts.
    pub(super) fn note(&self, issuer: &str, refusal: Option<CredentialRefusal>) -> Option<Duration> {
        let now = Instant::now();
        self.of(issuer, |pace| pace.note(now, refusal))
    }

    fn of<T>(&self, issuer: &str, act: impl FnOnce(&mut Pace) -> T) -> T {
        let mut paces = self.lock();
        if let Some(pace) = paces.get_mut(issuer) {
            return act(pace);
        }
        act(paces.entry(issuer.to_owned()).or_insert_with(|| Pace::new(Instant::now())))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Pace>> {
        // Nothing that runs under the lock leaves a pace half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One issuer's: a bucket of mints that fills steadily, and a circuit that breaks.
struct Pace {
    mints: f64,
    filled: Instant,
    failures: u32,
    broken_until: Option<Instant>,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { mints: f64::from(BUDGET), filled: now, failures: 0, broken_until: None }
    }

    fn take(&mut self, now: Instant) -> Result<(), Failure> {
        if self.broken_until.is_some_and(|until| now < until) {
            let detail = "the issuer failed several times in a row and is left alone for a while";
            return Err(Failure::new(CredentialRefusal::CircuitOpen, detail));
        }
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.mints = since.mul_add(f64::from(BUDGET) / MINUTE.as_secs_f64(), self.mints).min(f64::from(BUDGET));
        self.filled = now;
        if self.mints < 1.0 {
            let detail = format!("more than {BUDGET} credentials were asked of this issuer within a minute");
            return Err(Failure::new(CredentialRefusal::BudgetSpent, detail));
        }
        self.mints -= 1.0;
        // The first after a break finds out for all others: until it is known how that went, they keep waiting.
        if self.broken_until.is_some() {
            self.broken_until = Some(now + PROBE);
        }
        Ok(())
    }

    fn note(&mut self, now: Instant, refusal: Option<CredentialRefusal>) -> Option<Duration> {
        let unwell = matches!(refusal, Some(CredentialRefusal::Unavailable | CredentialRefusal::Timeout));
        if !unwell {
            (self.failures, self.broken_until) = (0, None);
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        let over = self.failures.checked_sub(PATIENCE)?;
        let pause = (SHORTEST * 2u32.saturating_pow(over.min(8))).min(LONGEST);
        self.broken_until = Some(now + pause);
        Some(pause)
    }
}

/// How many mints one issuer is asked for in a minute, at most.
const BUDGET: u32 = 300;
const MINUTE: Duration = Duration::from_secs(60);

/// So many failures in a row break the circuit.
const PATIENCE: u32 = 5;

/// The first break, which doubles with each further failure.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// How long others wait for whoever tries an issuer again: longer than any call to one takes.
const PROBE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const DOWN: Option<CredentialRefusal> = Some(CredentialRefusal::Unavailable);

    fn refusal(paces: &Paces, issuer: &str) -> Option<CredentialRefusal> {
        paces.take(issuer).err().map(|failure| failure.refusal)
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_spent_and_fills_again() {
        let paces = Paces::default();
        for _ in 0..BUDGET {
            assert_eq!(refusal(&paces, "a"), None);
        }
        assert_eq!(refusal(&paces, "a"), Some(CredentialRefusal::BudgetSpent));
        assert_eq!(refusal(&paces, "b"), None);
        advance(MINUTE / BUDGET).await;
        assert_eq!(refusal(&paces, "a"), None);
        assert_eq!(refusal(&paces, "a"), Some(CredentialRefusal::BudgetSpent));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_break_the_circuit_and_one_success_closes_it() {
        let paces = Paces::default();
        for _ in 1..PATIENCE {
            assert_eq!(paces.note("a", DOWN), None);
            assert_eq!(refusal(&paces, "a"), None);
        }
        assert_eq!(paces.note("a", DOWN), Some(SHORTEST));
        assert_eq!(refusal(&paces, "a"), Some(CredentialRefusal::CircuitOpen));
        assert_eq!(refusal(&paces, "b"), None);
        advance(SHORTEST).await;
        assert_eq!(refusal(&paces, "a"), None);
        assert_eq!(paces.note("a", None), None);
        assert_eq!(refusal(&paces, "a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_break_one_tries_for_all() {
        let paces = Paces::default();
        for _ in 0..PATIENCE {
            paces.note("a", DOWN);
        }
        advance(SHORTEST).await;
        assert_eq!(refusal(&paces, "a"), None);
        assert_eq!(refusal(&paces, "a"), Some(CredentialRefusal::CircuitOpen));
        assert_eq!(paces.note("a", DOWN), Some(SHORTEST * 2));
    }

    #[test]
    fn an_issuer_that_says_no_is_well() {
        let paces = Paces::default();
        for _ in 0..2 * PATIENCE {
            assert_eq!(paces.note("a", Some(CredentialRefusal::Rejected)), None);
        }
        assert_eq!(refusal(&paces, "a"), None);
    }
}
