//! What a Model Context Protocol message asks for.
//!
//! One JSON-RPC request or notification in one JSON body, of any revision over streamable HTTP. Its body is what counts; the
//! headers that mirror it must agree, so that nobody on the way can be told another story. Batches, responses and messages
//! of an unknown shape are refused.

mod mirror;
mod urls;

use std::fmt;

use http::{
    HeaderMap, Method,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use serde_json::{Map, Value};

use super::{Effect, json::parse_strict};
use crate::refusal::Refusal;

pub use urls::embedded_urls;

/// One message to an MCP server, or a request without one.
#[derive(Clone, PartialEq)]
pub struct McpCall {
    /// The protocol revision that the message is written in; `None` for a request without a message.
    pub revision: Option<String>,
    /// The JSON-RPC method; empty for a request without a message.
    pub method: String,
    /// The request's id, a string or an integer; `None` for a notification.
    pub id: Option<Value>,
    /// The tool that `tools/call` names.
    pub tool: Option<String>,
    /// What the method acts on: the name of a tool or prompt, the URI of a resource, the id of a task.
    pub name: Option<String>,
    /// The arguments of a tool or prompt: an object, where there are any.
    pub arguments: Option<Value>,
    effect: Effect,
}

impl McpCall {
    /// Reads one message from a whole body, and checks it against the headers that mirror it.
    pub fn parse(body: &[u8], headers: &HeaderMap, max_depth: usize) -> Result<Self, Refusal> {
        check_content(headers)?;
        let Envelope { method, id, mut params } = Envelope::read(parse_strict(body, max_depth)?)?;
        check_disguise(&params)?;
        let name = match name_field(&method) {
            Some(field) => Some(take_string(&mut params, field)?.ok_or(INVALID_NAME)?),
            None => None,
        };
        let takes_arguments = matches!(method.as_str(), "tools/call" | "prompts/get");
        let arguments = if takes_arguments { params.remove("arguments") } else { None };
        if arguments.as_ref().is_some_and(|arguments| !arguments.is_object()) {
            return Err(invalid_params("the arguments are not an object"));
        }
        let revision = mirror::check(headers, &method, name.as_deref(), stated_revision(&params)?, id.is_some())?;
        Ok(Self {
            revision: Some(revision),
            tool: if method == "tools/call" { name.clone() } else { None },
            effect: effect_of(&method),
            method,
            id,
            name,
            arguments,
        })
    }

    /// A request that carries no message: GET opens a stream of the server's messages, DELETE ends a session; both in the
    /// revisions before 2026-07-28 only.
    pub fn without_body(method: &Method) -> Result<Self, Refusal> {
        let effect = match *method {
            Method::GET => Effect::Read,
            Method::DELETE => Effect::Write,
            _ => return Err(Refusal::UnsupportedProtocol("an MCP server is asked by POST, GET or DELETE only")),
        };
        Ok(Self { revision: None, method: String::new(), id: None, tool: None, name: None, arguments: None, effect })
    }

    /// What the message does, as far as the protocol says. A tool may do anything that its server can: MCP's own default is
    /// destructive, and what a server says of its tools is a claim.
    pub fn effect(&self) -> Effect {
        self.effect
    }
}

impl fmt::Debug for McpCall {
    /// Without the id and the arguments, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { revision, method, tool, effect, .. } = self;
        let mut debug = f.debug_struct("McpCall");
        debug.field("revision", revision).field("method", method).field("tool", tool).field("effect", effect);
        debug.finish_non_exhaustive()
    }
}

/// The parts of a JSON-RPC request or notification; an absent `params` is an empty one.
struct Envelope {
    method: String,
    id: Option<Value>,
    params: Map<String, Value>,
}

impl Envelope {
    fn read(message: Value) -> Result<Self, Refusal> {
        let mut members = match message {
            Value::Object(members) => members,
            Value::Array(_) => return Err(invalid_request("JSON-RPC batches are not accepted")),
            _ => return Err(invalid_request("the body is not a JSON-RPC message")),
        };
        if members.contains_key("result") || members.contains_key("error") {
            return Err(invalid_request("a JSON-RPC response is not accepted from the agent"));
        }
        if members.remove("jsonrpc").is_none_or(|version| version != "2.0") {
            return Err(invalid_request("the message is not of JSON-RPC 2.0"));
        }
        let method = take_string(&mut members, "method")?.filter(|method| !method.is_empty());
        let method = method.ok_or(invalid_request("the message has no method"))?;
        let id = members.remove("id");
        check_id(id.as_ref(), &method)?;
        let params = match members.remove("params") {
            None => Map::new(),
            Some(Value::Object(params)) => params,
            Some(_) => return Err(invalid_params("the params are not an object")),
        };
        // An unknown member may be `Method`, which some parsers take for `method`.
        if members.is_empty() {
            Ok(Self { method, id, params })
        } else {
            Err(invalid_request("the message has an unknown member"))
        }
    }
}

/// A notification has no id and everything else has one, or a tool could be called by what looks like a notification.
fn check_id(id: Option<&Value>, method: &str) -> Result<(), Refusal> {
    match (id, method.starts_with("notifications/")) {
        (None, true) => Ok(()),
        (Some(_), true) => Err(invalid_request("a notification has no id")),
        (None, false) => Err(invalid_request("the request has no id")),
        (Some(Value::String(_)), false) => Ok(()),
        (Some(Value::Number(number)), false) if !number.is_f64() => Ok(()),
        (Some(_), false) => Err(invalid_request("the id is neither a string nor an integer")),
    }
}

/// Refuses parameters whose name differs by case alone from one that is read here: some parsers ignore case.
fn check_disguise(params: &Map<String, Value>) -> Result<(), Refusal> {
    let disguised = |key: &String| {
        let plain: String = key.chars().map(without_case).collect();
        READ_PARAMS.iter().any(|known| key != known && plain.eq_ignore_ascii_case(known))
    };
    if params.keys().any(disguised) {
        return Err(invalid_params("a parameter differs from a known one by case alone"));
    }
    Ok(())
}

/// The two characters outside of ASCII that Unicode folds into ASCII letters.
fn without_case(c: char) -> char {
    match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other,
    }
}

/// The revision that the message itself states.
fn stated_revision(params: &Map<String, Value>) -> Result<Option<&str>, Refusal> {
    let Some(meta) = params.get("_meta") else { return Ok(None) };
    let meta = meta.as_object().ok_or(invalid_params("the _meta is not an object"))?;
    let stated = meta.get("io.modelcontextprotocol/protocolVersion");
    stated.map(|revision| revision.as_str().ok_or(invalid_params("the protocol version is not a string"))).transpose()
}

fn take_string(members: &mut Map<String, Value>, key: &str) -> Result<Option<String>, Refusal> {
    match members.remove(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(invalid_request("a member that must be a string is none")),
    }
}

/// The parameter by which a method names what it acts on.
fn name_field(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Some("uri"),
        "tasks/get" | "tasks/update" | "tasks/cancel" | "tasks/result" => Some("taskId"),
        _ => None,
    }
}

/// What a method does, as far as the protocol says; anything else may do anything.
pub(crate) fn effect_of(method: &str) -> Effect {
    match method {
        "tools/call" | "tasks/cancel" => Effect::Destructive,
        "tasks/update" | "logging/setLevel" => Effect::Write,
        "initialize"
        | "ping"
        | "server/discover"
        | "tools/list"
        | "resources/list"
        | "resources/templates/list"
        | "resources/read"
        | "resources/subscribe"
        | "resources/unsubscribe"
        | "prompts/list"
        | "prompts/get"
        | "completion/complete"
        | "subscriptions/listen"
        | "tasks/get"
        | "tasks/list"
        | "tasks/result" => Effect::Read,
        "notifications/initialized"
        | "notifications/cancelled"
        | "notifications/progress"
        | "notifications/message"
        | "notifications/roots/list_changed"
        | "notifications/elicitation/complete"
        | "notifications/tasks/status" => Effect::Read,
        _ => Effect::Admin,
    }
}

/// A body is inspected only as plain JSON in UTF-8: another type or coding would be read by the origin, but not here.
fn check_content(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let is_json = types.next().and_then(|value| value.to_str().ok()).is_some_and(is_json);
    if !is_json || types.next().is_some() {
        return Err(invalid_request("the content type of an MCP message is application/json"));
    }
    if headers.get_all(CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(invalid_request("a compressed body can't be inspected; send it as it is"));
    }
    Ok(())
}

fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let is_utf8 = |parameter: &str| {
        let Some((name, value)) = parameter.split_once('=') else { return parameter.is_empty() };
        name.eq_ignore_ascii_case("charset") && value.trim_matches('"').eq_ignore_ascii_case("utf-8")
    };
    parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) && parts.all(is_utf8)
}

fn invalid_request(detail: &'static str) -> Refusal {
    Refusal::MalformedMessage { code: -32600, detail }
}

fn invalid_params(detail: &'static str) -> Refusal {
    Refusal::MalformedMessage { code: -32602, detail }
}

/// Parameters that are read here.
const READ_PARAMS: [&str; 5] = ["name", "arguments", "uri", "taskId", "_meta"];

const INVALID_NAME: Refusal =
    Refusal::MalformedMessage { code: -32602, detail: "the method needs a name, uri or taskId" };

#[cfg(test)]
mod tests;
