//! One HTTP/1.1 connection to an origin, driven by the call that uses it.
//!
//! Whoever waits for an answer moves the bytes: the call's own task polls the connection, so that a call costs no hop to
//! another task and back. A connection gets a task of its own where that is not enough: when it is upgraded, and when an
//! answer begins before its request has passed whole, because then both must move without waiting for each other. One that
//! is given up gets one as well, to take its leave of the origin in order.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response, Version, header::HOST};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
    time::{Instant, Sleep, sleep, timeout},
};

use crate::{body::RequestBody, refusal::Refusal, shutdown::Drain};

/// An open connection: one request at a time.
pub struct Http1 {
    // Dropped before the driver, which learns from it that no further request comes.
    sender: http1::SendRequest<RequestBody>,
    driver: Driver,
    // One timer for all calls: putting it off takes no lock, beginning a new one would.
    patience: Pin<Box<Sleep>>,
    peer: SocketAddr,
    host: HeaderValue,
}

/// Why a request that was sent got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// It took longer than the limit.
    Late,
    /// The connection did not take it: nothing of it was sent, and it was given back.
    Returned,
    /// The connection failed. The origin may have seen it.
    Failed,
}

type Answered = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

/// What moves the bytes; absent once the connection has ended or runs in a task of its own.
struct Driver {
    connection: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    drain: Drain,
}

impl Http1 {
    /// Speaks HTTP/1.1 on a stream whose other end is verified. Requests on it carry `host`.
    ///
    /// # Errors
    /// [`Refusal::OriginProtocol`] when the connection is gone already.
    pub async fn open<S>(stream: S, peer: SocketAddr, host: HeaderValue, drain: &Drain) -> Result<Self, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let opened = http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (sender, connection) = opened.map_err(|_| Refusal::OriginProtocol)?;
        let connection = Box::pin(async move {
            // Errors reach the call that waits for its answer.
            let _ = connection.with_upgrades().await;
        });
        let driver = Driver { connection: Some(connection), drain: drain.clone() };
        Ok(Self { sender, driver, patience: Box::pin(sleep(Duration::ZERO)), peer, host })
    }

    /// The checked address that was dialled.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Waits until a request can be sent. `false` when the connection is gone.
    pub async fn ready(&mut self) -> bool {
        let ready = poll_fn(|cx| {
            self.driver.drive(cx);
            self.sender.poll_ready(cx)
        });
        ready.await.is_ok()
    }

    /// Takes a request in origin form, sends it and waits for the head of its answer, for `limit` at most.
    ///
    /// # Errors
    /// [`Unanswered`]; nothing further can be sent then.
    pub async fn ask(
        &mut self,
        request: &mut Option<Request<RequestBody>>,
        limit: Duration,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut answer = pin!(self.begin(request, limit));
        let (driver, patience) = (&mut self.driver, &mut self.patience);
        let answered = poll_fn(|cx| {
            driver.drive(cx);
            match answer.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => patience.as_mut().poll(cx).map(|()| None),
            }
        });
        match answered.await {
            Some(Ok(response)) => Ok(response),
            Some(Err(mut error)) => {
                *request = error.take_message();
                Err(if request.is_some() { Unanswered::Returned } else { Unanswered::Failed })
            }
            None => Err(Unanswered::Late),
        }
    }

    fn begin(
        &mut self,
        request: &mut Option<Request<RequestBody>>,
        limit: Duration,
    ) -> impl Future<Output = Answered> + use<> {
        let mut taken = request.take().expect("a request is sent once");
        *taken.version_mut() = Version::HTTP_11;
        taken.headers_mut().insert(HOST, self.host.clone());
        self.patience.as_mut().reset(Instant::now() + limit);
        self.sender.try_send_request(taken)
    }

    /// Moves what can be moved now, and has the task woken when there is more.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        self.driver.drive(cx);
    }

    /// Lets the connection run in a task of its own from now on.
    pub fn detach(&mut self) {
        self.driver.detach();
    }

    /// Whether the connection has ended, as far as is known: one that nobody drives only notices when it is asked.
    pub fn has_ended(&mut self) -> bool {
        self.driver.drive(&mut Context::from_waker(std::task::Waker::noop()));
        self.sender.is_closed()
    }
}

impl Driver {
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && connection.as_mut().poll(cx).is_ready()
        {
            self.connection = None;
        }
    }

    fn detach(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.drain.spawn_background(connection);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Without a runtime there is nobody left to take leave for.
        if Handle::try_current().is_ok()
            && let Some(connection) = self.connection.take()
        {
            // An origin that neither reads nor ends would keep it otherwise.
            self.drain.spawn_background(async move { drop(timeout(LEAVE, connection).await) });
        }
    }
}

/// How long a connection that is given up has for its last bytes.
const LEAVE: Duration = Duration::from_secs(5);
