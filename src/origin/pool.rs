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

use http::uri::Authority;
use hyper::client::conn::http2;

use super::http1::Http1;
use crate::{body::RequestBody, call::http::Scheme};

/// What a connection to one host was set up for. Connections to a host with equal keys are interchangeable: within one
/// configuration a host and port have one destination, and with it one set of addresses and one way of verifying.
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

/// A connection over HTTP/2, for many requests at a time.
#[derive(Clone)]
pub struct Http2 {
    /// Sends requests.
    pub sender: http2::SendRequest<RequestBody>,
    /// The checked address that was dialled.
    pub peer: SocketAddr,
    /// Names the origin in every request.
    pub authority: Authority,
}

/// A connection that was taken out of the pool.
pub enum Pooled {
    /// Nobody else uses it.
    Http1(Http1),
    /// Shared with other calls of the same key.
    Http2(Http2),
}

/// Connections that wait for their next call.
#[derive(Default)]
pub struct Pool(Mutex<HashMap<Box<str>, Vec<(Key, Arc<Shelf>)>>>);

/// The connections of one host and key.
#[derive(Default)]
pub struct Shelf(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    idle: Vec<(Http1, Instant)>,
    shared: Option<(Http2, Instant)>,
}

impl Pool {
    /// Where the connections for this host and key wait.
    pub fn shelf(&self, host: &str, key: &Key) -> Arc<Shelf> {
        let mut hosts = self.lock();
        if !hosts.contains_key(host) {
            hosts.insert(host.into(), Vec::new());
        }
        let shelves = hosts.get_mut(host).expect("it was inserted if it was missing");
        if let Some((_, shelf)) = shelves.iter().find(|(of, _)| of == key) {
            return Arc::clone(shelf);
        }
        let shelf = Arc::default();
        shelves.push((key.clone(), Arc::clone(&shelf)));
        shelf
    }

    /// Closes what has waited too long, and what was opened under an older configuration.
    pub fn sweep(&self, generation: u64) {
        self.lock().retain(|_, shelves| {
            shelves.retain(|(key, shelf)| {
                let empty = shelf.sweep();
                // A call that holds the shelf may be about to put a connection there.
                key.generation == generation && !(empty && Arc::strong_count(shelf) == 1)
            });
            !shelves.is_empty()
        });
    }

    /// Closes all that waits.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Vec<(Key, Arc<Shelf>)>>> {
        // Nothing panics while it holds the lock, and a half-changed pool would only lose connections.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    /// Takes a connection, if one waits. It may have ended meanwhile.
    pub fn take(&self) -> Option<Pooled> {
        let mut waiting = self.lock();
        if let Some((open, used)) = &mut waiting.shared {
            if open.sender.is_closed() {
                waiting.shared = None;
            } else {
                *used = Instant::now();
                return Some(Pooled::Http2(open.clone()));
            }
        }
        // The one used last is the least likely to have been closed by the origin.
        let (open, since) = waiting.idle.pop()?;
        if since.elapsed() < IDLE_LIMIT {
            return Some(Pooled::Http1(open));
        }
        // All others have waited even longer.
        waiting.idle.clear();
        None
    }

    /// Keeps an HTTP/1.1 connection for the next call.
    pub fn keep(&self, open: Http1) {
        let mut waiting = self.lock();
        if waiting.idle.len() < IDLE_PER_KEY {
            waiting.idle.push((open, Instant::now()));
        }
    }

    /// Shares an HTTP/2 connection with the calls to come.
    pub fn share(&self, open: Http2) {
        self.lock().shared = Some((open, Instant::now()));
    }

    /// Closes what has waited too long. Whether nothing is left.
    fn sweep(&self) -> bool {
        let mut waiting = self.lock();
        waiting.idle.retain_mut(|(open, since)| since.elapsed() < IDLE_LIMIT && !open.has_ended());
        let stale = |(open, used): &(Http2, Instant)| open.sender.is_closed() || used.elapsed() >= IDLE_LIMIT;
        if waiting.shared.as_ref().is_some_and(stale) {
            waiting.shared = None;
        }
        waiting.idle.is_empty() && waiting.shared.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Below the usual keep-alive time of servers and load balancers.
const IDLE_LIMIT: Duration = Duration::from_secs(55);
/// How many connections wait for one host and key.
pub const IDLE_PER_KEY: usize = 64;
