//! The shape that a refusal takes on the wire: one that the client at hand understands and that can't make it hang.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

use super::Refusal;
use crate::{
    audit::Record,
    body::ResponseBody,
    config::Profile,
    exchange::{DECISION, decision_header},
    policy::DenialKind,
};

/// What the client at hand understands.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Problem details (RFC 9457).
    Problem,
    /// A gRPC status in a response of headers only.
    Grpc,
    /// A JSON-RPC error with the request's id.
    JsonRpc {
        /// A string or an integer.
        id: serde_json::Value,
    },
}

/// Problem details (RFC 9457 section 3) with members of our own.
#[derive(Debug, Serialize)]
struct Problem {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: Arc<str>,
    decision_id: String,
    reason: Arc<str>,
    class: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Arc<str>>,
    retryable: bool,
    next_steps: &'static [&'static str],
    trace_id: String,
}

#[derive(Serialize)]
struct JsonRpcAnswer<'a> {
    jsonrpc: &'static str,
    id: &'a serde_json::Value,
    error: JsonRpcError<'a>,
}

#[derive(Serialize)]
struct JsonRpcError<'a> {
    code: i32,
    message: &'a str,
    data: Problem,
}

impl Refusal {
    /// The answer for the agent.
    pub fn answer(&self, record: &Record, profile: Profile, shape: &Shape) -> Response<ResponseBody> {
        let problem = self.details(record, profile);
        let detail = Arc::clone(&problem.detail);
        let mut response = match (shape, self) {
            (Shape::Grpc, _) => self.grpc(&detail),
            (Shape::JsonRpc { id }, Self::Denied(_)) => json_rpc(StatusCode::OK, id, DENIED, &detail, problem),
            (_, Self::MalformedMessage { code, .. }) => {
                let id = match shape {
                    Shape::JsonRpc { id } => id,
                    Shape::Problem | Shape::Grpc => &serde_json::Value::Null,
                };
                json_rpc(StatusCode::BAD_REQUEST, id, *code, &detail, problem)
            }
            (Shape::JsonRpc { .. } | Shape::Problem, _) => json(self.status(), "application/problem+json", &problem),
        };
        if let Some(after) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        response.headers_mut().insert(DECISION, decision_header(record));
        response
    }

    /// The problem details alone, as JSON.
    pub fn problem(&self, record: &Record, profile: Profile) -> String {
        serde_json::to_string(&self.details(record, profile)).expect(SERIALISES)
    }

    fn details(&self, record: &Record, profile: Profile) -> Problem {
        Problem {
            r#type: format!("https://tollgate.dev/problems/{}", self.label()),
            title: self.title(),
            status: self.status().as_u16(),
            detail: self.detail(),
            decision_id: record.decision_id().to_string(),
            reason: self.reason(),
            class: self.class().as_str(),
            // The names of rules tell an attacker what to try next.
            rule: (profile != Profile::Locked).then(|| self.rule()),
            retryable: self.retry_after().is_some(),
            next_steps: self.next_steps(),
            trace_id: record.trace().trace_id().to_string(),
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::Denied(denial) => match denial.kind {
                DenialKind::Rule => "Denied by policy",
                DenialKind::ApprovalRequired => "Approval required",
                DenialKind::Undecided(_) => "Not decided by policy",
            },
            _ => self.status().canonical_reason().unwrap_or("Refused"),
        }
    }

    /// A response of headers only, as the gRPC protocol over HTTP/2 has it.
    fn grpc(&self, detail: &str) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::held(""));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(self.grpc_status()));
        let message = utf8_percent_encode(detail, GRPC_MESSAGE).to_string();
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert("grpc-message", message);
        }
        response
    }

    fn grpc_status(&self) -> u16 {
        match self {
            Self::Denied(denial) if denial.kind == DenialKind::ApprovalRequired => FAILED_PRECONDITION,
            refusal => match refusal.status().as_u16() {
                400 | 413 | 431 => INVALID_ARGUMENT,
                500 => INTERNAL,
                502..=504 => UNAVAILABLE,
                _ => PERMISSION_DENIED,
            },
        }
    }
}

fn json_rpc(
    status: StatusCode,
    id: &serde_json::Value,
    code: i32,
    message: &str,
    data: Problem,
) -> Response<ResponseBody> {
    let answer = JsonRpcAnswer { jsonrpc: "2.0", id, error: JsonRpcError { code, message, data } };
    json(status, "application/json", &answer)
}

fn json(status: StatusCode, content_type: &'static str, document: &impl Serialize) -> Response<ResponseBody> {
    let body = serde_json::to_vec(document).expect(SERIALISES);
    let mut response = Response::new(ResponseBody::held(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

const SERIALISES: &str = "strings, numbers and lists of them always serialise";

/// The application's own code for a denial: outside the range that JSON-RPC and MCP reserve.
const DENIED: i32 = 403;

const INVALID_ARGUMENT: u16 = 3;
const PERMISSION_DENIED: u16 = 7;
const FAILED_PRECONDITION: u16 = 9;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;

/// What must be escaped in `grpc-message`.
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');
