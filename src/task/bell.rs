//! Tells everybody who waits for a task that something has changed.
//!
//! Calls of one task meet here, so that waiting must not make one of them wait for another: there are several lists, and
//! whoever waits stands in one of them. A ring is never missed by who began to listen before it.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// Can be rung, and listened to.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicU64,
    parts: [Mutex<Part>; PARTS],
}

#[derive(Debug, Default)]
struct Part {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// Hears each ring once.
#[derive(Debug)]
pub struct Listener {
    bell: Arc<Bell>,
    heard: u64,
    place: Option<Place>,
}

/// Where a listener stands while it waits.
#[derive(Debug)]
struct Place {
    part: usize,
    index: usize,
    waker: Waker,
}

impl Bell {
    /// Wakes everybody who listens.
    pub fn ring(&self) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        for part in 0..PARTS {
            let wakers: Vec<Waker> = self.part(part).wakers.iter().flatten().cloned().collect();
            // Not under the lock, which whoever is woken may need.
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Listens from now on.
    pub fn listen(self: &Arc<Self>) -> Listener {
        Listener { bell: Arc::clone(self), heard: self.rung.load(Ordering::SeqCst), place: None }
    }

    /// Whether anybody waits.
    pub fn is_waited_on(&self) -> bool {
        (0..PARTS).any(|part| {
            let part = self.part(part);
            part.wakers.len() > part.free.len()
        })
    }

    fn part(&self, part: usize) -> MutexGuard<'_, Part> {
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Ready once for each time that the bell was rung since it was heard last, or for several of them at once.
    pub fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.hears() {
            return Poll::Ready(());
        }
        if self.wait(cx.waker()) && self.hears() {
            // It was rung between the first look and the place in the list.
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Resolves as [`Self::poll_rung`] does.
    pub async fn rung(&mut self) {
        poll_fn(|cx| self.poll_rung(cx)).await;
    }

    fn hears(&mut self) -> bool {
        let rung = self.bell.rung.load(Ordering::SeqCst);
        std::mem::replace(&mut self.heard, rung) != rung
    }

    /// Has this waker woken. Says whether that is new.
    fn wait(&mut self, waker: &Waker) -> bool {
        match &mut self.place {
            Some(place) if place.waker.will_wake(waker) => return false,
            Some(place) => {
                place.waker = waker.clone();
                self.bell.part(place.part).wakers[place.index] = Some(waker.clone());
            }
            None => {
                let number = fastrand::usize(..PARTS);
                let mut part = self.bell.part(number);
                let index = part.free.pop().unwrap_or(part.wakers.len());
                match part.wakers.get_mut(index) {
                    Some(place) => *place = Some(waker.clone()),
                    None => part.wakers.push(Some(waker.clone())),
                }
                self.place = Some(Place { part: number, index, waker: waker.clone() });
            }
        }
        true
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(Place { part, index, .. }) = self.place.take() {
            let mut part = self.bell.part(part);
            part.wakers[index] = None;
            part.free.push(index);
        }
    }
}

const PARTS: usize = 8;

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn each_listener_hears_a_ring_once() {
        let bell = Arc::new(Bell::default());
        let (mut one, mut other) = (bell.listen(), bell.listen());
        assert!(one.rung().now_or_never().is_none());
        bell.ring();
        bell.ring();
        assert!(one.rung().now_or_never().is_some() && other.rung().now_or_never().is_some());
        assert!(one.rung().now_or_never().is_none() && bell.listen().rung().now_or_never().is_none());
    }

    #[tokio::test]
    async fn all_who_wait_are_woken() {
        let bell = Arc::new(Bell::default());
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let mut listener = bell.listen();
                tokio::spawn(async move { listener.rung().await })
            })
            .collect();
        tokio::task::yield_now().await;
        bell.ring();
        for one in waiting {
            one.await.expect("no panic");
        }
        assert!(!bell.is_waited_on(), "their places are free again");
    }

    #[tokio::test]
    async fn a_place_is_given_back_and_taken_again() {
        let bell = Arc::new(Bell::default());
        for _ in 0..1000 {
            let mut listener = bell.listen();
            assert!(listener.rung().now_or_never().is_none());
            assert!(bell.is_waited_on());
        }
        let places: usize = (0..PARTS).map(|part| bell.part(part).wakers.len()).sum();
        assert!(places <= PARTS && !bell.is_waited_on(), "{places}");
    }

    #[tokio::test]
    async fn a_listener_that_moved_is_woken_where_it_is() {
        let bell = Arc::new(Bell::default());
        let mut listener = bell.listen();
        assert!(listener.rung().now_or_never().is_none());
        let mut rung = pin!(listener.rung());
        let waiting = poll_fn(|cx| Poll::Ready(rung.as_mut().poll(cx).is_pending())).await;
        assert!(waiting);
        bell.ring();
        rung.await;
    }
}
