//! Bytes that pass unopened: only where the configuration says so and policy permitted it, never with a credential.
//!
//! A tunnel outlives the decision that began it. Whenever policy changes it is asked again, and closed on a no; so are
//! WebSocket sessions, which are tunnels inside an exchange.

use std::{io, sync::Arc, time::Instant};

use http::{HeaderMap, Method};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    net::TcpStream,
};

use crate::{
    audit::Record,
    call::{BodyFacts, Call, Effect, HttpCall, Protocol, http::Scheme},
    config, connection,
    exchange::{self, question::Question},
    origin::Route,
    policy::Permit,
    refusal::Refusal,
    sidecar::{Generation, Sidecar},
};

/// A tunnel that policy permitted and that has not begun.
pub struct Admitted {
    permit: Permit,
    session: Session,
}

/// A tunnel that was not permitted, with its record still open.
pub struct Refused {
    /// Why not.
    pub refusal: Refusal,
    /// The record that has to say so.
    pub record: Record,
}

/// What has to be asked again while bytes pass.
pub struct Session {
    /// What policy was asked.
    pub question: Question,
    /// Finished when the tunnel ends.
    pub record: Record,
    /// The configuration under which it was permitted.
    pub generation: Arc<Generation>,
}

/// Asks policy about a tunnel to this host.
///
/// # Errors
/// The refusal, with the record.
pub fn admit(sidecar: &Sidecar, host: &str, port: u16, mut record: Record) -> Result<Admitted, Box<Refused>> {
    let generation = sidecar.generation();
    match ask(sidecar, &generation, host, port, &mut record) {
        Ok((permit, question)) => Ok(Admitted { permit, session: Session { question, record, generation } }),
        Err(refusal) => Err(Box::new(Refused { refusal, record })),
    }
}

fn ask(
    sidecar: &Sidecar,
    generation: &Generation,
    host: &str,
    port: u16,
    record: &mut Record,
) -> Result<(Permit, Question), Refusal> {
    record.facts.call.protocol = Some(Protocol::Tunnel);
    record.facts.call.effect = Some(Effect::Admin);
    record.facts.call.host = host.to_owned().into();
    record.facts.call.port = port;
    let upstream = connection::find(generation, host, port)?;
    record.facts.upstream = Some(Arc::clone(&upstream));
    let task = sidecar.task()?;
    record.facts.task = Some(Arc::clone(&task));
    let call = Call {
        protocol: Protocol::Tunnel,
        // What passes is not seen, so it counts as anything.
        effect: Effect::Admin,
        http: HttpCall {
            method: Method::CONNECT,
            scheme: Scheme::Https,
            host: host.to_owned(),
            port,
            path: String::new(),
            segments: Vec::new(),
            query: Vec::new(),
            raw_query: None,
        },
        headers: HeaderMap::new(),
        body: BodyFacts::default(),
        mcp: None,
        embedded_urls: Vec::new(),
    };
    let agent = Arc::clone(sidecar.agent());
    let secrets = record.facts.secrets.clone();
    let question = Question { call, upstream, task, agent, secrets, tls: "passthrough" };
    let begun = Instant::now();
    let decision = generation.policy.decide(&question.input(), sidecar.mode());
    exchange::note_decision(record, &decision, sidecar.mode(), begun);
    decision.outcome.map(|permit| (permit, question)).map_err(Refusal::Denied)
}

impl Admitted {
    /// Whether the bytes are of no protocol that could be looked at.
    pub fn is_opaque(&self) -> bool {
        self.session.question.upstream.protocol == config::Protocol::Opaque
    }

    /// Ends it before it began.
    pub fn refuse(self, refusal: Refusal) {
        Refused { refusal, record: self.session.record }.finish();
    }

    /// Connects to the origin and passes bytes until one side ends or policy takes its permission back.
    pub async fn run(self, sidecar: &Arc<Sidecar>, agent: TcpStream) {
        let Self { permit, mut session } = self;
        let call = &session.question.call.http;
        let route = Route {
            upstream: Arc::clone(&session.question.upstream),
            generation: session.generation.number,
            scheme: Scheme::Https,
            host: call.host.as_str().into(),
            port: call.port,
            partition: 0,
            http1_only: false,
        };
        let dialled = match session.record.commit().await {
            Ok(()) => sidecar.origins().tunnel(&permit, &route).await,
            Err(refusal) => Err(refusal),
        };
        match dialled {
            Ok((origin, peer)) => {
                session.record.facts.ip = Some(peer);
                session.splice(sidecar, agent, origin).await;
            }
            Err(refusal) => Refused { refusal, record: session.record }.finish(),
        }
    }
}

impl Refused {
    /// Finishes the record.
    pub fn finish(self) {
        let Self { refusal, mut record } = self;
        record.facts.refusal = Some(refusal);
        record.finish();
    }
}

impl Session {
    /// Passes the bytes of a WebSocket once both sides have upgraded.
    pub async fn upgraded(self, sidecar: Arc<Sidecar>, agent: OnUpgrade, origin: OnUpgrade) {
        match tokio::try_join!(agent, origin) {
            Ok((agent, origin)) => self.splice(&sidecar, TokioIo::new(agent), TokioIo::new(origin)).await,
            // Dropping the record says that the call was abandoned.
            Err(_) => drop(self),
        }
    }

    async fn splice<A, O>(mut self, sidecar: &Arc<Sidecar>, mut agent: A, mut origin: O)
    where
        A: AsyncRead + AsyncWrite + Unpin,
        O: AsyncRead + AsyncWrite + Unpin,
    {
        let signals = sidecar.drain().signals();
        let ended = {
            let copy = copy_bidirectional_with_sizes(&mut agent, &mut origin, COPY_BUFFER, COPY_BUFFER);
            tokio::select! {
                copied = copy => Ended::of(copied),
                refusal = self.withdrawn(sidecar) => Ended::Withdrawn(refusal),
                () = signals.closing() => Ended::Withdrawn(Refusal::Stopping),
            }
        };
        match ended {
            Ended::Orderly { from_agent, from_origin } => {
                self.record.facts.sent = None;
                self.record.facts.request_bytes = from_agent;
                self.record.facts.response_bytes = from_origin;
            }
            Ended::Broken => self.record.facts.origin_error = Some("tunnel_broken"),
            Ended::Withdrawn(refusal) => self.record.facts.refusal = Some(refusal),
        }
        self.record.finish();
    }

    /// Resolves when policy, asked again after a change, no longer permits this tunnel.
    async fn withdrawn(&self, sidecar: &Sidecar) -> Refusal {
        let mut changes = sidecar.changes();
        let mut seen = self.generation.number;
        loop {
            // Asked before waiting, so that a change since the decision is not missed.
            let current = sidecar.generation();
            if current.number != seen {
                seen = current.number;
                if connection::find(&current, &self.question.call.http.host, self.question.call.http.port).is_err() {
                    return Refusal::UnknownDestination;
                }
                if let Err(denial) = current.policy.decide(&self.question.input(), sidecar.mode()).outcome {
                    return Refusal::Denied(denial);
                }
            }
            if changes.changed().await.is_err() {
                return Refusal::Stopping;
            }
        }
    }
}

enum Ended {
    Orderly { from_agent: u64, from_origin: u64 },
    Broken,
    Withdrawn(Refusal),
}

impl Ended {
    fn of(copied: io::Result<(u64, u64)>) -> Self {
        match copied {
            Ok((from_agent, from_origin)) => Self::Orderly { from_agent, from_origin },
            Err(_) => Self::Broken,
        }
    }
}

const COPY_BUFFER: usize = 16 * 1024;
