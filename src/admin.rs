//! The admin API: how people and orchestrators on this machine open, see and end tasks and switch things off.
//!
//! It is served on a Unix socket alone, so that nothing on the network and no call through the proxy can reach it, and it
//! answers root and the sidecar's own user, and in a pod the orchestrator whom its author named, as the kernel says who
//! they are. Everybody else is refused whatever they ask. The agent runs as another user, and the socket's mode or its
//! volume keeps that user out already.

pub mod act;
pub mod api;
pub mod client;
pub mod openapi;
pub mod operation;
pub mod problem;
pub mod socket;

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::UnixStream,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use self::{problem::Problem, socket::Socket};
use crate::sidecar::Sidecar;

/// Serves until it is dropped.
pub async fn serve(socket: Socket, sidecar: Arc<Sidecar>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let slot = Arc::clone(&slots).acquire_owned();
        let accepted = async { (slot.await, socket.accept().await) };
        tokio::select! {
            Some(_) = connections.join_next() => {}
            (slot, accepted) = accepted => match accepted {
                Ok(stream) => {
                    let (sidecar, admitted) = (Arc::clone(&sidecar), socket.admits(&stream));
                    connections.spawn(async move {
                        connection(stream, admitted, sidecar).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "admin connection not accepted");
                    // Out of file descriptors, most likely: do not spin.
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn connection(stream: UnixStream, admitted: bool, sidecar: Arc<Sidecar>) {
    if !admitted {
        tracing::warn!("a stranger was refused at the admin socket");
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let sidecar = Arc::clone(&sidecar);
        async move {
            let answer = match admitted {
                true => answer(&sidecar, request).await.unwrap_or_else(|problem| problem.respond()),
                false => {
                    Problem::new(StatusCode::FORBIDDEN, "only root and the sidecar's own user are served").respond()
                }
            };
            Ok::<_, Infallible>(answer.map(|text| Full::new(Bytes::from(text))))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever asks may go away at any time.
    let _ = timeout(LONGEST, served).await;
}

async fn answer(sidecar: &Sidecar, request: Request<Incoming>) -> Result<Response<String>, Problem> {
    let (parts, body) = request.into_parts();
    let found = operation::find(parts.method.as_str(), parts.uri.path())?;
    let body = match timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "a body here has at most 64 KiB"));
        }
        Ok(Err(_)) | Err(_) => return Err(Problem::new(StatusCode::BAD_REQUEST, "the body did not arrive whole")),
    };
    act::act(sidecar, &found, &body)
}

const CONNECTIONS: usize = 32;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_BYTES: usize = 16 << 10;
const BODY_BYTES: usize = 64 << 10;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);
