//! Stopping in order: accept nothing more, let exchanges finish, revoke, flush.
//!
//! Every task of the sidecar is owned by one [`Drain`], so that stopping is a value passed in and nothing outlives it.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Owns the sidecar's tasks and the two signals that end them.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    tasks: TaskTracker,
    background: TaskTracker,
    stopping: CancellationToken,
    closing: CancellationToken,
    /// The same as `stopping`, to be asked at every call without a lock.
    stopped: Arc<AtomicBool>,
}

/// The two signals for one task. Each task has its own: waiting on a shared one takes a lock that all tasks would contend
/// for whenever they are polled.
#[derive(Debug)]
pub struct Signals {
    stopping: CancellationToken,
    closing: CancellationToken,
}

impl Signals {
    /// Resolves when no new work may be taken: finish what has begun.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Resolves when the time for finishing is over: whatever still runs ends now.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }
}

impl Drain {
    /// A drain that nothing has stopped yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a task that shutdown waits for.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task);
    }

    /// Runs a task that shutdown ends instead of waiting for it: a connection that is kept for calls to come.
    pub fn spawn_background<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let closing = self.closing.child_token();
        self.background.spawn(async move {
            tokio::select! {
                () = task => {}
                () = closing.cancelled() => {}
            }
        });
    }

    /// Whether no new work is taken.
    pub fn is_stopping(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// The signals for one task.
    pub fn signals(&self) -> Signals {
        Signals { stopping: self.stopping.child_token(), closing: self.closing.child_token() }
    }

    /// The first of them, for tasks that take a token.
    pub fn token(&self) -> CancellationToken {
        self.stopping.child_token()
    }

    /// Stops: gives exchanges `grace` to finish, then ends the rest. Returns whether all of them finished by themselves.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.stopped.store(true, Ordering::Relaxed);
        self.stopping.cancel();
        self.tasks.close();
        let finished = timeout(grace, self.tasks.wait()).await.is_ok();
        self.closing.cancel();
        self.background.close();
        // What is left only has to notice; it does no further I/O that could hang.
        let _ = timeout(LAST_STEPS, async { tokio::join!(self.tasks.wait(), self.background.wait()) }).await;
        finished
    }
}

/// How long cut-off tasks have for writing their records.
const LAST_STEPS: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stopping_waits_for_what_has_begun() {
        let drain = Drain::new();
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        drain.spawn(async move {
            let _ = finished.await;
        });
        let stop = tokio::spawn({
            let drain = drain.clone();
            async move { drain.stop(Duration::from_secs(60)).await }
        });
        drain.signals().stopping().await;
        finish.send(()).expect("the task waits");
        assert!(stop.await.expect("stop does not panic"), "it finished by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_finish_is_told_to_close() {
        let drain = Drain::new();
        let task = drain.clone();
        drain.spawn(async move { task.signals().closing().await });
        assert!(!drain.stop(Duration::from_millis(10)).await);
    }
}
