//! The shape that a refusal takes on the wire: one that the client at hand understands and that can't make it hang.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

use super::Refusal;
use crate::{
    audit::{DECISION, Record},
    body::ResponseBody,
    config::Profile,
    policy::DenialKind,
};

/// What the client at hand understands.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Problem details (RFC 9457).
    Problem,
    /// A gRPC status in a response of headers only.
    Grpc,
    /// A JSON-RPC error with the request's id. Its code is the HTTP status, which is outside the range that JSON-RPC and
    /// MCP reserve; what is wrong with the message itself has a code of theirs.
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
            (Shape::JsonRpc { id }, Self::MalformedMessage { code, .. }) => {
                json_rpc(StatusCode::BAD_REQUEST, id, *code, &detail, problem)
            }
            (Shape::Problem, Self::MalformedMessage { code, .. }) => {
                json_rpc(StatusCode::BAD_REQUEST, &serde_json::Value::Null, *code, &detail, problem)
            }
            // Clients of MCP end the whole session on another HTTP status than 200.
            (Shape::JsonRpc { id }, _) => {
                json_rpc(StatusCode::OK, id, i32::from(self.status().as_u16()), &detail, problem)
            }
            (Shape::Problem, _) => json(self.status(), "application/problem+json", &problem),
        };
        if let Some(after) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        response.headers_mut().insert(DECISION, record.decision_id().header());
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
            Self::MalformedRequest(_) | Self::MalformedMessage { .. } => "Malformed request",
            Self::HeaderTooLarge => "Header section too large",
            Self::BodyTooLarge => "Body too large",
            Self::BodyIncomplete => "Body incomplete",
            Self::NameMismatch(_) => "Names do not agree",
            Self::UnknownDestination => "Unknown destination",
            Self::AddressForbidden(_) | Self::OwnAddress => "Forbidden address",
            Self::UnknownProtocol | Self::UnsupportedProtocol(_) => "Protocol not served",
            Self::AgentTls => "TLS with the agent failed",
            Self::SecretRefused(_) => "Secret refused",
            Self::PlaceholderMisplaced => "Placeholder misplaced",
            Self::TaskExpired | Self::TaskEnded => "Task ended",
            Self::TaskKilled | Self::AgentKilled | Self::DestinationKilled => "Switched off",
            Self::TaskUnknown => "Unknown task",
            Self::DestinationChanged => "Destination changed",
            Self::IdentityUnavailable => "Identity not proven",
            Self::Credential(_) | Self::CredentialCleartext => "No credential",
            Self::OriginUnresolved | Self::OriginUnreachable => "Destination not reachable",
            Self::OriginCertificate(_) => "Destination not verified",
            Self::OriginTimeout => "Destination did not answer",
            Self::OriginProtocol => "Destination broke off",
            Self::OriginCoding(_) => "Destination's answer not readable",
            Self::InspectionFull | Self::TooManyConnections => "Too much at a time",
            Self::AuditUnavailable => "No record can be kept",
            Self::Stopping => "Stopping",
            Self::Panicked => "Fault in the sidecar",
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
            Self::Denied(denial) => match denial.kind {
                DenialKind::ApprovalRequired => FAILED_PRECONDITION,
                DenialKind::Rule | DenialKind::Undecided(_) => PERMISSION_DENIED,
            },
            Self::MalformedRequest(_)
            | Self::MalformedMessage { .. }
            | Self::HeaderTooLarge
            | Self::BodyTooLarge
            | Self::BodyIncomplete => INVALID_ARGUMENT,
            Self::NameMismatch(_)
            | Self::UnknownDestination
            | Self::AddressForbidden(_)
            | Self::OwnAddress
            | Self::UnknownProtocol
            | Self::UnsupportedProtocol(_)
            | Self::AgentTls
            | Self::SecretRefused(_)
            | Self::PlaceholderMisplaced
            | Self::TaskExpired
            | Self::TaskEnded
            | Self::TaskKilled
            | Self::TaskUnknown
            | Self::AgentKilled
            | Self::DestinationKilled
            | Self::DestinationChanged
            | Self::CredentialCleartext => PERMISSION_DENIED,
            Self::Credential(_)
            | Self::IdentityUnavailable
            | Self::InspectionFull
            | Self::OriginUnresolved
            | Self::OriginUnreachable
            | Self::OriginCertificate(_)
            | Self::OriginCoding(_)
            | Self::OriginTimeout
            | Self::OriginProtocol
            | Self::AuditUnavailable
            | Self::TooManyConnections
            | Self::Stopping => UNAVAILABLE,
            Self::Panicked => INTERNAL,
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

const INVALID_ARGUMENT: u16 = 3;
const PERMISSION_DENIED: u16 = 7;
const FAILED_PRECONDITION: u16 = 9;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;

/// What must be escaped in `grpc-message`.
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');
