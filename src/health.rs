//! Tells the kubelet and Prometheus how this program is: `/livez`, `/readyz`, `/startupz`, `/metrics`.
//!
//! The sidecar, the admission webhook and the CNI plugin's installer serve it alike. Read only, GET and HEAD, and nothing
//! here touches the path of a call. It is alive and started as long as it answers, because who serves this does so once it
//! has started. Ready it is until it stops, and while nothing that it needs is missing.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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

use crate::telemetry::Metrics;

/// Whether this program does what it is for. Ready from the beginning. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Lacks>);

/// What keeps it from being ready.
#[derive(Debug, Default)]
struct Lacks {
    stopping: AtomicBool,
    something: AtomicBool,
}

impl Readiness {
    /// From now on not ready: it stops.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Ready or not, until this is said anew. Whoever stops is not ready in any case.
    pub fn set(&self, ready: bool) {
        self.0.something.store(!ready, Ordering::Relaxed);
    }

    /// Whether it does what it is for.
    pub fn is_ready(&self) -> bool {
        self.lacking().is_none()
    }

    fn lacking(&self) -> Option<&'static str> {
        if self.0.stopping.load(Ordering::Relaxed) {
            Some("stopping\n")
        } else if self.0.something.load(Ordering::Relaxed) {
            Some("not ready\n")
        } else {
            None
        }
    }
}

/// Serves until it is dropped. Keep it up while calls are finished, so that the kubelet sees why the pod is not ready.
pub async fn serve(listener: TcpListener, readiness: Readiness, metrics: Arc<Metrics>) {
    serve_text(listener, readiness, move || metrics.encode()).await;
}

/// As [`serve`], with the metrics as text.
pub async fn serve_text<M>(listener: TcpListener, readiness: Readiness, metrics: M)
where
    M: Fn() -> String + Clone + Send + Sync + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let slot = Arc::clone(&slots).acquire_owned();
        let accepted = async { (slot.await, listener.accept().await) };
        tokio::select! {
            Some(_) = connections.join_next() => {}
            (slot, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let (readiness, metrics) = (readiness.clone(), metrics.clone());
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

async fn connection(stream: TcpStream, readiness: Readiness, metrics: impl Fn() -> String) {
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

fn answer(method: &Method, path: &str, readiness: &Readiness, metrics: impl Fn() -> String) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/readyz" if let Some(why) = readiness.lacking() => text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, why),
        "/livez" | "/readyz" | "/startupz" => text(StatusCode::OK, PLAIN, "ok\n"),
        "/metrics" => text(StatusCode::OK, OPEN_METRICS, metrics()),
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
        answer(&method, path, readiness, || Metrics::new().encode()).status().as_u16()
    }

    #[test]
    fn a_sidecar_that_stops_is_alive_and_not_ready() {
        let readiness = Readiness::default();
        let ask = |path| ask(Method::GET, path, &readiness);
        assert_eq!((ask("/livez"), ask("/startupz"), ask("/readyz")), (200, 200, 200));
        readiness.stop();
        assert_eq!((ask("/livez"), ask("/startupz"), ask("/readyz")), (200, 200, 503));
    }

    #[test]
    fn what_lacks_something_is_ready_once_it_has_it_but_not_once_it_stops() {
        let readiness = Readiness::default();
        let ready = || ask(Method::GET, "/readyz", &readiness);
        readiness.set(false);
        assert_eq!((ready(), ask(Method::GET, "/livez", &readiness)), (503, 200));
        readiness.set(true);
        assert_eq!(ready(), 200);
        readiness.stop();
        readiness.set(true);
        assert_eq!(ready(), 503);
    }

    #[test]
    fn only_reading_is_possible_and_only_what_is_listed() {
        let readiness = Readiness::default();
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
    async fn it_is_served_until_it_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let served = tokio::spawn(serve(listener, Readiness::default(), Arc::default()));
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("it answers");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("# EOF\n"), "{text}");
        served.abort();
        assert!(served.await.is_err_and(|error| error.is_cancelled()));
        assert!(TcpStream::connect(address).await.is_err());
    }
}
