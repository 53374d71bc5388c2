//! Bytes that pass unopened: only where the configuration says so and policy permitted it, never with a credential.
//!
//! A tunnel outlives the decision that began it, but not what was decided about. It ends with its task. Whenever the
//! configuration changes, its destination is looked up anew: if bytes would now go another way it ends, else policy is
//! asked again, and a no ends it. So it is with WebSocket sessions, which are tunnels inside an exchange. What their origins
//! say is looked through where the call carried a credential.

mod counted;
mod frames;

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
    config::{self, Upstream},
    connection,
    exchange::{custody::Custody, question::Question},
    origin::Route,
    policy::Permit,
    refusal::Refusal,
    sidecar::{Generation, Sidecar},
    task::Presented,
};
use counted::Counted;
use frames::Watched;

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
    /// The configuration under which it was permitted last.
    pub generation: Arc<Generation>,
    /// Looks after the credential that the call before an upgrade carried.
    pub custody: Option<Custody>,
}

/// Asks policy about a tunnel to this host.
///
/// # Errors
/// The refusal, with the record.
pub fn admit(
    sidecar: &Sidecar,
    host: &str,
    port: u16,
    presented: Presented,
    mut record: Record,
) -> Result<Admitted, Box<Refused>> {
    let generation = sidecar.generation();
    match ask(sidecar, &generation, (host, port), presented, &mut record) {
        Ok((permit, question)) => {
            let session = Session { question, record, generation, custody: None };
            Ok(Admitted { permit, session })
        }
        Err(refusal) => Err(Box::new(Refused { refusal, record })),
    }
}

fn ask(
    sidecar: &Sidecar,
    generation: &Generation,
    (host, port): (&str, u16),
    presented: Presented,
    record: &mut Record,
) -> Result<(Permit, Question), Refusal> {
    record.facts.call.protocol = Some(Protocol::Tunnel);
    record.facts.call.effect = Some(Effect::Admin);
    record.facts.call.host = host.into();
    record.facts.call.port = port;
    let upstream = connection::find(generation, host, port)?;
    record.facts.upstream = Some(Arc::clone(&upstream));
    record.facts.identity = sidecar.proof()?.serial;
    let task = sidecar.tasks().of(presented)?;
    record.facts.task = Some(Arc::clone(&task));
    task.enter(&upstream.name)?;
    let call = Call {
        protocol: Protocol::Tunnel,
        // What passes is not seen, so it counts as anything.
        effect: Effect::Admin,
        http: HttpCall {
            method: Method::CONNECT,
            scheme: Scheme::Https,
            host: host.into(),
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
    let decision = generation.policy.decide(&question.input(), generation.mode);
    record.decided(&decision, generation.mode, begun);
    question.note(&decision);
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
            upstream: &session.question.upstream,
            generation: session.generation.number,
            scheme: Scheme::Https,
            host: &call.host,
            port: call.port,
            partition: 0,
            alone: false,
            certificate: None,
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

    async fn splice<A, O>(mut self, sidecar: &Arc<Sidecar>, agent: A, origin: O)
    where
        A: AsyncRead + AsyncWrite + Unpin,
        O: AsyncRead + AsyncWrite + Unpin,
    {
        let signals = sidecar.drain().signals();
        let (mut agent, mut origin) = (Counted::new(agent), Watched::new(Counted::new(origin), self.custody.take()));
        let ended = {
            let copy = copy_bidirectional_with_sizes(&mut agent, &mut origin, COPY_BUFFER, COPY_BUFFER);
            tokio::select! {
                copied = copy => Ended::of(copied),
                refusal = self.withdrawn(sidecar) => Ended::Withdrawn(refusal),
                () = signals.closing() => Ended::Withdrawn(Refusal::Stopping),
            }
        };
        self.record.facts.sent = None;
        self.record.facts.request_bytes = origin.stream().written();
        self.record.facts.response_bytes = agent.written();
        origin.tell(&mut self.record.facts.answer);
        match ended {
            Ended::Orderly => {}
            Ended::Broken => self.record.facts.origin_error = Some("tunnel_broken"),
            Ended::Withdrawn(refusal) => self.record.facts.refusal = Some(refusal),
        }
        self.record.finish();
    }

    /// Resolves when this tunnel has to end: with its task, or when a change no longer permits it.
    async fn withdrawn(&mut self, sidecar: &Sidecar) -> Refusal {
        let mut changes = sidecar.changes();
        let mut task_changes = self.question.task.life.listen();
        loop {
            // Asked before waiting, so that a change since the decision is not missed.
            if let Some(refusal) = self.question.task.refusal(&self.question.upstream.name) {
                return refusal;
            }
            let (current, task) = (sidecar.generation(), sidecar.tasks().newest(&self.question.task));
            let changed = current.number != self.generation.number || task.epoch != self.question.task.epoch;
            self.question.task = task;
            if changed && let Err(refusal) = self.ask_again(current) {
                return refusal;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Refusal::Stopping },
                () = task_changes.rung() => {}
            }
        }
    }

    fn ask_again(&mut self, current: Arc<Generation>) -> Result<(), Refusal> {
        let call = &self.question.call.http;
        let upstream = connection::find(&current, &call.host, call.port)?;
        if !leads_the_same_way(&self.question.upstream, &upstream) {
            return Err(Refusal::DestinationChanged);
        }
        self.question.upstream = upstream;
        let decision = current.policy.decide(&self.question.input(), current.mode);
        self.generation = current;
        decision.outcome.map(drop).map_err(Refusal::Denied)
    }
}

/// Whether a connection opened to the one destination could have been opened to the other.
fn leads_the_same_way(before: &Upstream, now: &Upstream) -> bool {
    before.tls == now.tls
        && before.protocol == now.protocol
        && before.addresses == now.addresses
        && before.reach_public == now.reach_public
        && before.reach_private == now.reach_private
        && before.credential == now.credential
}

enum Ended {
    Orderly,
    Broken,
    Withdrawn(Refusal),
}

impl Ended {
    fn of(copied: io::Result<(u64, u64)>) -> Self {
        match copied {
            Ok(_) => Self::Orderly,
            Err(_) => Self::Broken,
        }
    }
}

const COPY_BUFFER: usize = 16 * 1024;
