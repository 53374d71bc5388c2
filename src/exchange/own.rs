//! What an agent may ask its sidecar itself: `http://tollgate.internal/`, through the explicit proxy only.
//!
//! It sees the task that its calls belong to, and can end it. It can't open a task or make one last longer, and it learns
//! nothing of any other. Asking leaves a record like a call.

use std::{sync::Arc, time::Instant};

use ::http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{question, refuse, shown};
use crate::{
    admin::{api, problem::Problem},
    audit::{DECISION, Record},
    body::{RequestBody, ResponseBody},
    call::{Protocol, http as canonical},
    connection::Connection,
    listener::Destination,
    refusal::{Refusal, answer::Shape},
    secret,
    sidecar::Sidecar,
    task::{End, Presented, Source},
    telemetry::trace::TraceContext,
};

/// Whether this asks the sidecar itself.
pub fn is_for_us<B>(connection: &Connection, request: &Request<B>) -> bool {
    connection.destination == Destination::Proxy
        && request.uri().host().is_some_and(|host| host.eq_ignore_ascii_case(HOST))
}

/// Answers what the agent asks.
pub async fn serve(
    sidecar: &Arc<Sidecar>,
    connection: &Connection,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let begun = Instant::now();
    let mut record = sidecar.recorder().begin(TraceContext::from_headers(request.headers()));
    let answer = read(sidecar, connection, request, &mut record).map(|asked| asked.answer(sidecar));
    record.facts.overhead = begun.elapsed();
    match answer {
        Ok(Ok(answer)) => finish(record, answer.map(ResponseBody::held)),
        Ok(Err(refusal)) | Err(refusal) => refuse(sidecar, record, refusal, &Shape::Problem),
    }
}

/// One question.
struct Asked {
    presented: Presented,
    method: Method,
    path: String,
}

fn read(
    sidecar: &Sidecar,
    connection: &Connection,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<Asked, Refusal> {
    let (mut parts, body) = request.into_parts();
    let presented = sidecar.tasks().take(&mut parts.headers);
    // Nothing here takes a body, and the next request on the connection comes behind it.
    sidecar.drain().spawn_background(RequestBody::streamed(body).discard());
    secret::strip::strip(&mut parts, &mut record.facts.secrets);
    let call = &mut record.facts.call;
    (call.protocol, call.method, call.agent_version) =
        (Some(Protocol::Http), Some(shown(&parts.method)), Some(parts.version));
    let http = canonical::canonical(&parts, &question::leg(connection))?;
    (call.host, call.port, call.scheme) = (http.host, http.port, Some(http.scheme.as_str()));
    call.path = secret::redact_path(&http.path).into_owned().into();
    if (http.scheme, http.port) != (canonical::Scheme::Http, 80) {
        return Err(Refusal::UnsupportedProtocol("the sidecar itself is asked over http at port 80"));
    }
    Ok(Asked { presented, method: http.method, path: http.path })
}

impl Asked {
    fn answer(&self, sidecar: &Sidecar) -> Result<Response<String>, Refusal> {
        let ends = match (self.path.as_str(), &self.method) {
            ("/v1/task", &Method::GET) => false,
            ("/v1/task/end", &Method::POST) => true,
            ("/v1/task", _) => return Ok(Problem::method_not_allowed("GET").respond()),
            ("/v1/task/end", _) => return Ok(Problem::method_not_allowed("POST").respond()),
            _ => return Ok(Problem::new(StatusCode::NOT_FOUND, "there are /v1/task and /v1/task/end").respond()),
        };
        let tasks = sidecar.tasks();
        let task = tasks.of(self.presented)?;
        let shown = match task.source {
            Source::None => None,
            Source::Header | Source::Static if ends => tasks.end(&task.id, End::Ended).ok(),
            Source::Header | Source::Static => tasks.show(&task.id),
        };
        Ok(match shown {
            Some(shown) => api::json(StatusCode::OK, &api::Task::from(&shown)),
            None => Problem::new(StatusCode::NOT_FOUND, "these calls belong to no task").respond(),
        })
    }
}

fn finish(mut record: Record, mut answer: Response<ResponseBody>) -> Response<ResponseBody> {
    answer.headers_mut().insert(DECISION, record.decision_id().header());
    record.facts.status = Some(answer.status().as_u16());
    record.finish();
    answer
}

/// The sidecar's own name.
const HOST: &str = "tollgate.internal";
