//! The explicit proxy: requests in absolute form, and CONNECT (RFC 9110 section 9.3.6).

use std::{net::SocketAddr, sync::Arc};

use ::http::{HeaderMap, Request, Response, header::HOST, request::Parts};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Destination;
use crate::{
    audit::Record,
    body::ResponseBody,
    call::http::{self, CanonicalHost, Scheme},
    config::TlsMode,
    connection::{self, Connection, Slot},
    exchange,
    refusal::{Refusal, answer::Shape},
    secret,
    sidecar::Sidecar,
    task::Presented,
    telemetry::trace::TraceContext,
    tunnel::{self, Admitted},
};

/// Serves one connection to the explicit proxy.
pub async fn serve(sidecar: Arc<Sidecar>, stream: TcpStream, peer: SocketAddr, slot: Slot) {
    let _ = stream.set_nodelay(true);
    let destination = Destination::Proxy;
    let presented = Presented::Nothing;
    let connection = Arc::new(Connection { peer, destination, scheme: Scheme::Http, host: None, presented, slot });
    connection::serve_http1(sidecar, connection, stream).await;
}

/// Answers CONNECT: refuses at once what the name alone refuses, else opens what comes through the tunnel.
///
/// A tunnel that will be opened is no call yet and has no record: the calls that come through it have their own.
pub fn connect(
    sidecar: &Arc<Sidecar>,
    outer: &Arc<Connection>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (mut parts, _) = request.into_parts();
    let presented = sidecar.tasks().take(&mut parts.headers);
    let admitted = match permitted_target(sidecar, outer, presented, &parts) {
        Ok((host, port, TlsMode::Intercept)) => Ok((Destination::Named { host, port }, None)),
        Ok((host, port, TlsMode::Passthrough)) => {
            tunnel::admit(sidecar, &host, port, presented, record(sidecar, parts))
                .map(|admitted| (Destination::Named { host, port }, Some(Box::new(admitted))))
        }
        Err(refusal) => Err(Box::new(tunnel::Refused { refusal, record: record(sidecar, parts) })),
    };
    match admitted {
        Ok((destination, admitted)) => {
            let target = Target { destination, presented, admitted };
            sidecar.drain().spawn(enter(Arc::clone(sidecar), Arc::clone(outer), upgrade, target));
            Response::new(ResponseBody::held(""))
        }
        Err(refused) => exchange::refuse(sidecar, refused.record, refused.refusal, &Shape::Problem),
    }
}

/// Where CONNECT leads, if a configured destination covers it, and whether its TLS is opened.
fn permitted_target(
    sidecar: &Sidecar,
    outer: &Connection,
    presented: Presented,
    parts: &Parts,
) -> Result<(Arc<str>, u16, TlsMode), Refusal> {
    if outer.destination != Destination::Proxy {
        return Err(Refusal::UnsupportedProtocol("CONNECT is served by the explicit proxy only"));
    }
    let (host, port) = target(parts)?;
    let upstream = connection::find(&sidecar.generation(), host.as_str(), port)?;
    if presented != Presented::Nothing {
        // What can't be a task's is refused here already, and not only with the first request.
        sidecar.tasks().of(presented)?.enter(&upstream.name)?;
    }
    Ok((host.as_str().into(), port, upstream.tls))
}

/// The record of a CONNECT that is refused, or that is the call itself because its tunnel stays closed.
fn record(sidecar: &Sidecar, mut parts: Parts) -> Record {
    let mut record = sidecar.recorder().begin(TraceContext::from_headers(&parts.headers));
    if let Ok((host, port)) = target(&parts) {
        record.facts.call.host = host.into_string().into();
        record.facts.call.port = port;
    }
    secret::strip::strip(&mut parts, &mut record.facts.secrets);
    record.facts.call.method = Some(parts.method);
    record
}

/// The tunnel's target, which `Host`, if it is there, must repeat.
fn target(parts: &Parts) -> Result<(CanonicalHost, u16), Refusal> {
    let authority =
        parts.uri.authority().ok_or(Refusal::MalformedRequest("CONNECT needs a target of host and port"))?;
    let target = http::authority(authority.as_str(), None)?;
    match host_field(&parts.headers)? {
        Some(text) => {
            let named = http::authority(text, Some(target.1))?;
            if named.0.as_str() == target.0.as_str() && named.1 == target.1 {
                Ok(target)
            } else {
                Err(Refusal::NameMismatch("the Host field differs from the target of CONNECT"))
            }
        }
        None => Ok(target),
    }
}

fn host_field(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(HOST).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| Refusal::MalformedRequest("the Host field is not valid"))
        }
        (Some(_), Some(_)) => Err(Refusal::MalformedRequest("there is more than one Host field")),
    }
}

/// What CONNECT was permitted to lead to.
struct Target {
    destination: Destination,
    presented: Presented,
    admitted: Option<Box<Admitted>>,
}

async fn enter(sidecar: Arc<Sidecar>, outer: Arc<Connection>, upgrade: OnUpgrade, target: Target) {
    let Target { destination, presented, admitted } = target;
    let Ok(upgraded) = upgrade.await else { return };
    // The explicit proxy is always served on a bare TCP stream.
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
    if parts.read_buf.is_empty() {
        let (stream, slot) = (parts.io.into_inner(), outer.slot.clone());
        connection::open(sidecar, stream, outer.peer, destination, presented, admitted, slot).await;
    } else {
        let mut record = sidecar.recorder().begin(TraceContext::root());
        record.heads_for(&destination);
        record.facts.refusal = Some(Refusal::MalformedRequest("data was sent before the answer to CONNECT"));
        record.finish();
    }
}

/// Records a connection that is one too many; returns the answer to write on it, which needs no request to be read.
pub fn turned_away(sidecar: &Sidecar) -> String {
    let refusal = Refusal::TooManyConnections;
    let record = sidecar.recorder().begin(TraceContext::root());
    let body = refusal.problem(&record, sidecar.profile());
    let response = exchange::refuse(sidecar, record, refusal, &Shape::Problem);
    let mut text = format!("HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: {}\r\n", response.status(), body.len());
    for (name, value) in response.headers() {
        let value = value.to_str().expect("refusals have fields of visible ASCII");
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(&body);
    text
}
