//! Keeps connections to origins open between calls.
//!
//! A connection is taken up again only for the same destination of the same configuration, scheme, host, port and
//! credential. Nothing authenticated is shared between tasks, and nothing that was set up under other rules is kept.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderValue, uri::Authority};
use hyper::client::conn::{http1, http2};

use crate::{body::RequestBody, call::http::Scheme};

/// What a connection was set up for. Connections with equal keys are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The configuration under which it was opened.
    pub generation: u64,
    /// `http` or `https`; verification is always on with the latter.
    pub scheme: Scheme,
    /// The port.
    pub port: u16,
    /// The credential that it carries, or 0.
    pub partition: u64,
    /// Whether HTTP/1.1 was asked for, because the call upgrades.
    pub http1_only: bool,
}

/// An open connection and what every request on it needs.
#[derive(Clone)]
pub struct Open<S> {
    /// Sends requests.
    pub sender: S,
    /// The checked address that was dialled.
    pub peer: SocketAddr,
    /// The `Host` field, for HTTP/1.1.
    pub host: HeaderValue,
    /// The authority, for HTTP/2.
    pub authority: Authority,
}

/// Sends requests over HTTP/1.1, one at a time.
pub type Http1 = Open<http1::SendRequest<RequestBody>>;
/// Sends requests over HTTP/2, many at a time.
pub type Http2 = Open<http2::SendRequest<RequestBody>>;

/// A connection that was taken out of the pool.
pub enum Pooled {
    /// Nobody else uses it.
    Http1(Http1),
    /// Shared with other calls of the same key.
    Http2(Http2),
}

/// Connections that wait for their next call.
#[derive(Clone, Default)]
pub struct Pool(Arc<Mutex<HashMap<Box<str>, Vec<Slot>>>>);

struct Slot {
    key: Key,
    idle: Vec<(Http1, Instant)>,
    shared: Option<(Http2, Instant)>,
}

impl Pool {
    /// Takes a connection for this host and key, if one is open.
    pub fn take(&self, host: &str, key: &Key) -> Option<Pooled> {
        let mut hosts = self.lock();
        let slot = hosts.get_mut(host)?.iter_mut().find(|slot| slot.key == *key)?;
        if let Some((open, used)) = &mut slot.shared {
            if open.sender.is_closed() {
                slot.shared = None;
            } else {
                *used = Instant::now();
                return Some(Pooled::Http2(open.clone()));
            }
        }
        // The one used last is the least likely to have been closed by the origin.
        while let Some((open, since)) = slot.idle.pop() {
            if !open.sender.is_closed() && since.elapsed() < IDLE_LIMIT {
                return Some(Pooled::Http1(open));
            }
        }
        None
    }

    /// Keeps an HTTP/1.1 connection for the next call.
    pub fn keep(&self, host: &str, key: &Key, open: Http1) {
        if open.sender.is_closed() {
            return;
        }
        let mut hosts = self.lock();
        let slot = slot(&mut hosts, host, key);
        if slot.idle.len() < IDLE_PER_KEY {
            slot.idle.push((open, Instant::now()));
        }
    }

    /// Shares an HTTP/2 connection with the calls to come.
    pub fn share(&self, host: &str, key: &Key, open: Http2) {
        let mut hosts = self.lock();
        slot(&mut hosts, host, key).shared = Some((open, Instant::now()));
    }

    /// Closes what has waited too long, and what was opened under an older configuration.
    pub fn sweep(&self, generation: u64) {
        self.lock().retain(|_, slots| {
            slots.retain_mut(|slot| {
                slot.idle.retain(|(open, since)| !open.sender.is_closed() && since.elapsed() < IDLE_LIMIT);
                let stale = |(open, used): &(Http2, Instant)| open.sender.is_closed() || used.elapsed() >= IDLE_LIMIT;
                if slot.shared.as_ref().is_some_and(stale) {
                    slot.shared = None;
                }
                slot.key.generation == generation && (!slot.idle.is_empty() || slot.shared.is_some())
            });
            !slots.is_empty()
        });
    }

    /// Closes all that waits.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Vec<Slot>>> {
        // Nothing panics while it holds the lock, and a half-changed pool would only lose connections.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slot<'a>(hosts: &'a mut HashMap<Box<str>, Vec<Slot>>, host: &str, key: &Key) -> &'a mut Slot {
    if !hosts.contains_key(host) {
        hosts.insert(host.into(), Vec::new());
    }
    let slots = hosts.get_mut(host).expect("it was inserted if it was missing");
    let at = slots.iter().position(|slot| slot.key == *key).unwrap_or_else(|| {
        slots.push(Slot { key: key.clone(), idle: Vec::new(), shared: None });
        slots.len() - 1
    });
    &mut slots[at]
}

/// Below the usual keep-alive time of servers and load balancers.
const IDLE_LIMIT: Duration = Duration::from_secs(55);
const IDLE_PER_KEY: usize = 64;
