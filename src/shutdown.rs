//! Stopping in order: accept nothing more, let exchanges finish, revoke, flush.
//!
//! Every task of the sidecar is owned by one [`Drain`], so that stopping is a value passed in and nothing outlives it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::timeout;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};

/// Owns the sidecar's tasks and the two signals that end them.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    tasks: TaskTracker,
    background: TaskTracker,
    stopping: Signal,
    closing: Signal,
}

/// The two signals for one task.
#[derive(Debug)]
pub struct Signals {
    stopping: Signal,
    closing: Signal,
}

/// Something that is told once to everyone.
#[derive(Debug, Clone, Default)]
struct Signal {
    token: CancellationToken,
    /// Set before the token is cancelled, to be asked without a lock.
    given: Arc<AtomicBool>,
}

/// Waits for a signal. A task is polled far more often than a signal is given, so the token, which takes its lock to
/// answer, is asked only for a waker that it does not know yet.
struct Wait<'a> {
    signal: &'a Signal,
    cancelled: Pin<Box<WaitForCancellationFuture<'a>>>,
    known: Option<Waker>,
}

impl Signals {
    /// Resolves when no new work may be taken: finish what has begun.
    pub fn stopping(&self) -> impl Future<Output = ()> + '_ {
        self.stopping.wait()
    }

    /// Resolves when the time for finishing is over: whatever still runs ends now.
    pub fn closing(&self) -> impl Future<Output = ()> + '_ {
        self.closing.wait()
    }
}

impl Signal {
    fn give(&self) {
        self.given.store(true, Ordering::Release);
        self.token.cancel();
    }

    fn is_given(&self) -> bool {
        self.given.load(Ordering::Acquire)
    }

    /// The same signal with a token of its own, for one task: waiting on a shared one takes a lock that all tasks would
    /// contend for.
    fn for_task(&self) -> Self {
        Self { token: self.token.child_token(), given: Arc::clone(&self.given) }
    }

    fn wait(&self) -> Wait<'_> {
        Wait { signal: self, cancelled: Box::pin(self.token.cancelled()), known: None }
    }
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.signal.is_given() {
            return Poll::Ready(());
        }
        if self.known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        self.known = Some(cx.waker().clone());
        self.cancelled.as_mut().poll(cx)
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
        let closing = self.closing.for_task();
        self.background.spawn(async move {
            tokio::select! {
                // First, so that what was begun at the very end takes its one step.
                biased;
                () = task => {}
                () = closing.wait() => {}
            }
        });
    }

    /// Whether no new work is taken.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_given()
    }

    /// The signals for one task.
    pub fn signals(&self) -> Signals {
        Signals { stopping: self.stopping.for_task(), closing: self.closing.for_task() }
    }

    /// The first of them, for tasks that take a token.
    pub fn token(&self) -> CancellationToken {
        self.stopping.token.child_token()
    }

    /// Stops: gives exchanges `grace` to finish, then ends the rest. Returns whether all of them finished by themselves.
    pub async fn stop(&self, grace: Duration) -> bool {
        let finished = self.finish(grace).await;
        self.close().await;
        finished
    }

    /// Takes no new work and gives what has begun `grace` to finish. Returns whether it did.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.stopping.give();
        self.tasks.close();
        timeout(grace, self.tasks.wait()).await.is_ok()
    }

    /// Ends whatever still runs.
    pub async fn close(&self) {
        self.closing.give();
        self.background.close();
        // What is left only has to notice; it does no further I/O that could hang.
        let _ = timeout(LAST_STEPS, async { tokio::join!(self.tasks.wait(), self.background.wait()) }).await;
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
