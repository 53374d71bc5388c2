//! How long a connection may do nothing.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

/// The requests of one connection.
#[derive(Debug)]
pub struct Activity {
    seen: watch::Sender<Seen>,
}

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
pub struct Busy<'a> {
    activity: &'a Activity,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    begun: u64,
    open: usize,
}

impl Activity {
    /// A connection without a request yet.
    pub fn new() -> Self {
        Self { seen: watch::Sender::new(Seen::default()) }
    }

    /// A request has begun.
    pub fn begin(&self) -> Busy<'_> {
        self.seen.send_modify(|seen| {
            seen.begun += 1;
            seen.open += 1;
        });
        Busy { activity: self }
    }

    /// Resolves when no first request came within `first`, or no further one within `idle` after all were answered.
    pub async fn ends(&self, first: Duration, idle: Duration) {
        let (mut seen, mut patience, mut known) = (self.seen.subscribe(), first, 0);
        // The sender lives as long as this borrow, so that no wait for it fails.
        while timeout(patience, seen.wait_for(|seen| seen.begun > known)).await.is_ok() {
            known = seen.wait_for(|seen| seen.open == 0).await.map_or(u64::MAX, |seen| seen.begun);
            patience = idle;
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.activity.seen.send_modify(|seen| seen.open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const FIRST: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_ends_early() {
        let begun = Instant::now();
        Activity::new().ends(FIRST, IDLE).await;
        assert_eq!(begun.elapsed().as_secs(), FIRST.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn time_counts_from_the_last_answer() {
        let (activity, begun) = (Activity::new(), Instant::now());
        let requests = async {
            for pause in [5, 50] {
                sleep(Duration::from_secs(pause)).await;
                let _busy = activity.begin();
                sleep(Duration::from_secs(100)).await;
            }
            // So short that nobody sees it open.
            sleep(Duration::from_secs(30)).await;
            drop(activity.begin());
        };
        tokio::join!(requests, activity.ends(FIRST, IDLE));
        assert_eq!(begun.elapsed().as_secs(), 5 + 100 + 50 + 100 + 30 + IDLE.as_secs());
    }
}
