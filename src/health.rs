//! Tells the kubelet and Prometheus how the sidecar is: `/livez`, `/readyz`, `/startupz`, `/metrics`.
//!
//! Read only, GET and HEAD, and nothing here touches the path of a call. Ready means that every task of the start is done
//! and that the sidecar is not stopping.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// What stands between the sidecar and being ready. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    pending: BTreeSet<&'static str>,
    started: bool,
    stopping: bool,
}

/// A task that readiness waits for; done when dropped.
#[derive(Debug)]
#[must_use = "the task is done as soon as this is dropped"]
pub struct Pending {
    readiness: Readiness,
    name: &'static str,
}

impl Readiness {
    /// Nothing is waited for. Register every task before the first is dropped.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for this task until the guard is dropped.
    pub fn task(&self, name: &'static str) -> Pending {
        self.lock().pending.insert(name);
        Pending { readiness: self.clone(), name }
    }

    /// From now on not ready: the sidecar stops.
    pub fn stop(&self) {
        self.lock().stopping = true;
    }

    /// Whether calls are served.
    pub fn is_ready(&self) -> bool {
        let state = self.lock();
        state.pending.is_empty() && !state.stopping
    }

    /// Why it is not ready, one reason a line; empty when it is.
    fn reasons(&self) -> Vec<&'static str> {
        let state = self.lock();
        state.pending.iter().copied().chain(state.stopping.then_some("stopping")).collect()
    }

    fn started(&self) -> bool {
        let mut state = self.lock();
        state.started |= state.pending.is_empty();
        state.started
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut state = self.readiness.lock();
        state.pending.remove(self.name);
        state.started |= state.pending.is_empty();
        tracing::debug!(task = self.name, "done");
    }
}

/// Serves until `shutdown`. Keep it up while calls are finished, so that the kubelet sees why the pod is not ready.
pub async fn serve(listener: TcpListener, readiness: Readiness, metrics: Arc<Metrics>, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let slot = Arc::clone(&slots).acquire_owned();
        let accepted = async { (slot.await, listener.accept().await) };
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (slot, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let (readiness, metrics) = (readiness.clone(), Arc::clone(&metrics));
                    connections.spawn(async move {
                        connection(stream, readiness, metrics).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "health connection not accepted");
                    // Out of file descriptors, most likely: do not spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, readiness: Readiness, metrics: Arc<Metrics>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &readiness, &metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever asks may go away at any time; an answer that takes this long is not read by anyone.
    let _ = tokio::time::timeout(LONGEST, served).await;
}

fn answer(method: &Method, path: &str, readiness: &Readiness, metrics: &Metrics) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/livez" => text(StatusCode::OK, PLAIN, "ok\n"),
        "/startupz" if readiness.started() => text(StatusCode::OK, PLAIN, "ok\n"),
        "/readyz" if readiness.is_ready() => text(StatusCode::OK, PLAIN, "ok\n"),
        "/startupz" | "/readyz" => {
            let reasons = readiness.reasons().join("\n") + "\n";
            text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, reasons)
        }
        "/metrics" => text(StatusCode::OK, OPEN_METRICS, metrics.encode()),
        _ => text(StatusCode::NOT_FOUND, PLAIN, "/livez /readyz /startupz /metrics\n"),
    }
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_BYTES: usize = 16 << 10;
const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn ask(method: Method, path: &str, readiness: &Readiness) -> u16 {
        answer(&method, path, readiness, &Metrics::new()).status().as_u16()
    }

    #[test]
    fn ready_only_when_every_task_is_done_and_never_while_stopping() {
        let readiness = Readiness::new();
        let (policy, listener) = (readiness.task("policy"), readiness.task("listener"));
        assert_eq!(readiness.reasons(), ["listener", "policy"]);
        drop(policy);
        assert_eq!((ask(Method::GET, "/readyz", &readiness), ask(Method::GET, "/startupz", &readiness)), (503, 503));
        drop(listener);
        assert_eq!((ask(Method::GET, "/readyz", &readiness), ask(Method::GET, "/startupz", &readiness)), (200, 200));
        let reload = readiness.task("policy");
        assert_eq!((ask(Method::GET, "/readyz", &readiness), ask(Method::GET, "/startupz", &readiness)), (503, 200));
        drop(reload);
        readiness.stop();
        assert_eq!((ask(Method::GET, "/readyz", &readiness), ask(Method::GET, "/livez", &readiness)), (503, 200));
    }

    #[test]
    fn only_reading_is_possible_and_only_what_is_listed() {
        let readiness = Readiness::new();
        for (method, path, status) in [
            (Method::GET, "/metrics", 200),
            (Method::HEAD, "/livez", 200),
            (Method::POST, "/livez", 405),
            (Method::DELETE, "/metrics", 405),
            (Method::GET, "/", 404),
            (Method::GET, "/livez/", 404),
            (Method::GET, "/v1/status", 404),
        ] {
            assert_eq!(ask(method.clone(), path, &readiness), status, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn it_is_served_until_shutdown() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(serve(listener, Readiness::new(), Arc::default(), shutdown.clone()));
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("it answers");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("# EOF\n"), "{text}");
        shutdown.cancel();
        served.await.expect("it ends");
    }
}
