//! Delivers spans to an OTLP endpoint, over HTTP (protobuf) or gRPC.
//!
//! Spans wait as they are to be sent, in a buffer that is bounded in spans and bytes; one task empties it. When the endpoint
//! is slow or down the buffer fills, and further spans are dropped and counted; nothing waits for it but shutdown, and that
//! for a limited time. The endpoint's certificate is verified with the roots that origins are verified with.

mod collector;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use tokio::{
    runtime::Handle,
    select,
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::collector::Collector;
use super::protobuf::Writer;
use crate::config::Otlp;

/// An open way to an OTLP endpoint. What waits when it is dropped is still delivered, if the runtime goes on.
pub struct Export {
    queue: Arc<Queue>,
    runtime: Handle,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Export {
    /// Opens the way; the endpoint is first contacted when there is something to deliver. Must be called within the runtime
    /// that is to carry the traffic.
    ///
    /// # Errors
    ///
    /// When the endpoint or a header is not valid.
    pub fn new(settings: &Otlp, tls: &rustls::ClientConfig, dropped: Counter) -> anyhow::Result<Self> {
        let collector = Collector::new(settings, tls)?;
        let (queue, stop) = (Arc::new(Queue::new(dropped)), CancellationToken::new());
        let task = tokio::spawn(deliver(Arc::clone(&queue), collector, stop.clone()));
        Ok(Self { queue, runtime: Handle::current(), stop, task: Mutex::new(Some(task)) })
    }

    /// Takes the spans of a call, or drops them when too many wait.
    pub(super) fn add(&self, spans: usize, write: impl FnOnce(&mut Writer)) {
        self.queue.add(spans, write);
    }

    /// Delivers what waits, for this long at most. Blocks.
    pub(super) fn shutdown(&self, limit: Duration) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        let delivered = self.runtime.block_on(async {
            let ended = timeout(limit, &mut task).await.is_ok();
            if !ended {
                task.abort();
                // Its last batch is counted when it is gone.
                let _ = task.await;
            }
            ended
        });
        self.queue.close();
        if !delivered {
            tracing::warn!("the last spans were not delivered");
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Spans that wait.
struct Queue {
    waiting: Mutex<Waiting>,
    // Set while there is no room, so that nothing is written in vain.
    full: AtomicBool,
    // Told of the first span that waits and of the one that makes a batch.
    stirred: Notify,
    dropped: Counter,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    spans: usize,
    closed: bool,
}

impl Queue {
    fn new(dropped: Counter) -> Self {
        Self { waiting: Mutex::default(), full: AtomicBool::new(false), stirred: Notify::new(), dropped }
    }

    fn add(&self, spans: usize, write: impl FnOnce(&mut Writer)) {
        if self.full.load(Ordering::Relaxed) {
            self.dropped.inc_by(spans as u64);
            return;
        }
        // Written before the lock is taken, so that calls do not wait for each other's spans.
        let mut writer = Writer::with_capacity(USUAL_SPAN * spans);
        write(&mut writer);
        let bytes = writer.into_bytes();
        let mut waiting = self.lock();
        let (before, after) = (waiting.spans, waiting.spans + spans);
        if waiting.closed || after > QUEUE || waiting.bytes.len() + bytes.len() > QUEUE_BYTES {
            self.full.store(true, Ordering::Relaxed);
            drop(waiting);
            // Where nothing waits, nobody would find out that there is room again.
            self.stirred.notify_one();
            self.dropped.inc_by(spans as u64);
            return;
        }
        waiting.bytes.extend_from_slice(&bytes);
        waiting.spans = after;
        drop(waiting);
        if before == 0 || (before < BATCH && after >= BATCH) {
            self.stirred.notify_one();
        }
    }

    fn has_batch(&self) -> bool {
        self.lock().spans >= BATCH
    }

    /// Takes what waits. As much room as it took is made for what comes.
    fn take(&self) -> Batch {
        let used = self.lock().bytes.len();
        let room = Vec::with_capacity(used);
        let mut waiting = self.lock();
        let bytes = std::mem::replace(&mut waiting.bytes, room);
        let spans = std::mem::take(&mut waiting.spans);
        self.full.store(waiting.closed, Ordering::Relaxed);
        Batch { bytes, spans, dropped: self.dropped.clone() }
    }

    /// Takes no more. What waits is dropped.
    fn close(&self) {
        self.lock().closed = true;
        drop(self.take());
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spans on their way: the `spans` of one `ScopeSpans`. Those that are not delivered are counted, whatever becomes of them.
struct Batch {
    bytes: Vec<u8>,
    spans: usize,
    dropped: Counter,
}

impl Batch {
    async fn deliver(mut self, to: &Collector) {
        let bytes = std::mem::take(&mut self.bytes);
        match to.send(bytes).await {
            Ok(rejected) => self.spans = self.spans.min(usize::try_from(rejected).unwrap_or(usize::MAX)),
            Err(error) => {
                tracing::debug!(error = %format_args!("{error:#}"), spans = self.spans, "spans were not delivered");
            }
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.dropped.inc_by(self.spans as u64);
    }
}

/// Delivers a batch when it is whole or its first span has waited long enough, one after another.
async fn deliver(queue: Arc<Queue>, collector: Collector, stop: CancellationToken) {
    while !stop.is_cancelled() {
        select! {
            () = queue.stirred.notified() => {}
            () = stop.cancelled() => {}
        }
        if !queue.has_batch() {
            select! {
                () = sleep(DELAY) => {}
                () = queue.stirred.notified() => {}
                () = stop.cancelled() => {}
            }
        }
        let batch = queue.take();
        if batch.spans > 0 {
            batch.deliver(&collector).await;
        }
    }
    // Calls may have ended while the last batch was on its way.
    let batch = queue.take();
    if batch.spans > 0 {
        batch.deliver(&collector).await;
    }
}

const QUEUE: usize = 2048;
/// Leaves room below the 4 MiB that gRPC servers take unless told otherwise.
const QUEUE_BYTES: usize = 3 << 20;
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(1);
const USUAL_SPAN: usize = 1536;

#[cfg(test)]
mod tests;
