//! Spares an issuer that failed several times in a row: nobody asks it for a while, and then one asks for all.
//!
//! Each server that is asked has a circuit of its own, by its host and port. So of two that give a credential together,
//! one that is down costs the other nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use super::Failure;
use crate::refusal::CredentialRefusal;

/// The circuits of all servers that were asked.
#[derive(Debug, Default)]
pub(super) struct Circuits(Mutex<HashMap<String, Circuit>>);

impl Circuits {
    /// Leave to ask this server once, now.
    pub(super) fn pass(&self, server: &str) -> Result<(), Failure> {
        let now = Instant::now();
        match self.lock().get_mut(server) {
            Some(circuit) => circuit.pass(now),
            None => Ok(()),
        }
    }

    /// What came of asking it.
    pub(super) fn note(&self, server: &str, unwell: bool) {
        let mut circuits = self.lock();
        if !unwell {
            circuits.remove(server);
            return;
        }
        let circuit = match circuits.get_mut(server) {
            Some(circuit) => circuit,
            None => circuits.entry(server.to_owned()).or_default(),
        };
        if let Some(pause) = circuit.fail(Instant::now()) {
            warn!(server, ?pause, "the issuer keeps failing and is left alone");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Circuit>> {
        // Nothing that runs under the lock leaves a circuit half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One server's, from its first failure to its next success.
#[derive(Debug, Default)]
struct Circuit {
    failures: u32,
    broken_until: Option<Instant>,
}

impl Circuit {
    fn pass(&mut self, now: Instant) -> Result<(), Failure> {
        let Some(until) = self.broken_until else { return Ok(()) };
        if now < until {
            let detail = "the issuer failed several times in a row and is left alone for a while";
            return Err(Failure::new(CredentialRefusal::CircuitOpen, detail));
        }
        // The first after a break finds out for all others: until it is known how that went, they keep waiting.
        self.broken_until = Some(now + PROBE);
        Ok(())
    }

    /// Notes a failure. Tells a break by the time that it lasts.
    fn fail(&mut self, now: Instant) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        let over = self.failures.checked_sub(PATIENCE)?;
        let pause = (SHORTEST * 2u32.saturating_pow(over.min(8))).min(LONGEST);
        self.broken_until = Some(now + pause);
        Some(pause)
    }
}

/// So many failures in a row break the circuit.
pub(super) const PATIENCE: u32 = 5;

/// The first break, which doubles with each further failure.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// How long others wait for whoever tries a server again: longer than any request to one takes.
const PROBE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn is_open(circuits: &Circuits, server: &str) -> bool {
        circuits.pass(server).is_err_and(|failure| failure.refusal == CredentialRefusal::CircuitOpen)
    }

    fn broken() -> Circuits {
        let circuits = Circuits::default();
        for _ in 0..PATIENCE {
            assert!(!is_open(&circuits, "a"));
            circuits.note("a", true);
        }
        circuits
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_break_the_circuit_and_one_success_closes_it() {
        let circuits = broken();
        assert!(is_open(&circuits, "a"));
        assert!(!is_open(&circuits, "b"));
        advance(SHORTEST).await;
        assert!(!is_open(&circuits, "a"));
        circuits.note("a", false);
        assert!(!is_open(&circuits, "a"));
        for _ in 1..PATIENCE {
            circuits.note("a", true);
            assert!(!is_open(&circuits, "a"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_break_one_tries_for_all_and_the_next_break_is_longer() {
        let circuits = broken();
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let pause = Duration::from_secs(pause);
            advance(pause - Duration::from_millis(1)).await;
            assert!(is_open(&circuits, "a"));
            advance(Duration::from_millis(1)).await;
            assert!(!is_open(&circuits, "a"));
            assert!(is_open(&circuits, "a"), "another one tries");
            circuits.note("a", true);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_tries_and_never_tells_is_not_waited_for_for_ever() {
        let circuits = broken();
        advance(SHORTEST).await;
        assert!(!is_open(&circuits, "a"));
        advance(PROBE).await;
        assert!(!is_open(&circuits, "a"));
    }
}
