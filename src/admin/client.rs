//! A client of the admin API, for the command line.

use std::{io, path::Path, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::problem::Problem;

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody serves there.
    #[error("{path}: {error}")]
    Unavailable {
        /// The socket.
        path: String,
        /// Why not.
        error: String,
    },
    /// The socket is not for this user.
    #[error("{0}: not permitted")]
    NotPermitted(String),
    /// It was not done.
    #[error("{}", .0.detail)]
    Refused(Problem),
}

/// Asks the sidecar that serves this socket.
///
/// # Errors
/// Why there is no document.
pub async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<T, Failure> {
    let body = body.map(|body| serde_json::to_vec(body).expect("texts, numbers and lists of them always serialise"));
    let (status, answer) = match timeout(LONGEST, exchange(socket, method, path, body.unwrap_or_default())).await {
        Ok(answered) => answered.map_err(|error| failed(socket, &error))?,
        Err(_) => return Err(unavailable(socket, "no answer in time")),
    };
    if status.is_success() {
        return serde_json::from_slice(&answer)
            .map_err(|_| unavailable(socket, "the answer is not one of this version"));
    }
    match serde_json::from_slice::<Problem>(&answer) {
        Ok(problem) if status == StatusCode::FORBIDDEN => Err(Failure::NotPermitted(problem.detail)),
        Ok(problem) => Err(Failure::Refused(problem)),
        Err(_) => Err(unavailable(socket, "the answer is not one of this version")),
    }
}

async fn exchange(socket: &Path, method: &str, path: &str, body: Vec<u8>) -> io::Result<(StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    // The connection ends when nobody can send on it any longer.
    let answering = async move {
        let (parts, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
        let body = Limited::new(body, MOST).collect().await.map_err(io::Error::other)?;
        Ok((parts.status, body.to_bytes()))
    };
    let (answer, _) = tokio::join!(answering, async {
        let _ = connection.await;
    });
    answer
}

fn failed(socket: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::NotPermitted(socket.display().to_string()),
        _ => unavailable(socket, &error.to_string()),
    }
}

fn unavailable(socket: &Path, error: &str) -> Failure {
    Failure::Unavailable { path: socket.display().to_string(), error: error.to_owned() }
}

const LONGEST: Duration = Duration::from_secs(10);
/// The list of all tasks that can be known takes less.
const MOST: usize = 64 << 20;
