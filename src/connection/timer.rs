//! The timer for the heads of one connection's requests.
//!
//! hyper begins a timer for each head and gives it up when the head is there; with tokio's own each of the two takes the
//! lock of all timers of the process. Here one timer serves a whole connection: it is put off, which takes no lock, and
//! never given up. At the worst it wakes an idle connection once, which then finds that it has more time.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};

/// One connection's timer.
#[derive(Clone, Default)]
pub struct HeadTimer(Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>);

/// One wait on it. Only the last one that was begun is waited for.
struct Wait {
    deadline: tokio::time::Instant,
    timer: HeadTimer,
}

impl Timer for HeadTimer {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Wait { deadline: deadline.into(), timer: self.clone() })
    }
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut timer = self.timer.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sleep = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.deadline)));
        if sleep.deadline() != self.deadline {
            sleep.as_mut().reset(self.deadline);
        }
        sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_deadline_whatever_was_waited_for_before() {
        let timer = HeadTimer::default();
        let begun = tokio::time::Instant::now();
        let base = begun.into_std();
        assert!(tokio::time::timeout(LIMIT / 2, timer.sleep_until(base + LIMIT)).await.is_err(), "the head came");

        timer.sleep_until(base + LIMIT * 2).await;

        assert_eq!(begun.elapsed(), LIMIT * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_has_passed_ends_a_wait_at_once() {
        let timer = HeadTimer::default();
        let begun = tokio::time::Instant::now();
        timer.sleep_until(begun.into_std() + LIMIT).await;

        timer.sleep_until(begun.into_std() + LIMIT / 2).await;

        assert_eq!(begun.elapsed(), LIMIT);
    }
}
