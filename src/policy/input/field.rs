//! Schema 1, as one table: each field's path, its shape, and where its content comes from.
//!
//! Fields of one part stand together; the encoding and the document both follow this order. A path that is not here
//! does not exist, and a policy that reads it is refused when it is loaded.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::SystemTime};

use http::HeaderMap;

use super::Document;
use crate::{
    call::{Effect, McpCall, Protocol},
    config::Classification,
    credential::Declaration,
    secret::Found,
    task::{self, Counts},
};

/// One field of the schema.
#[derive(Debug)]
pub struct Field {
    /// Its path below `input`.
    pub path: &'static str,
    /// What lies inside.
    pub shape: Shape,
    /// Its content for one call.
    pub leaf: for<'a> fn(Document<'a>) -> Leaf<'a>,
}

/// What lies inside a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nothing: one value.
    Scalar,
    /// An array.
    List,
    /// Texts by name.
    Texts,
    /// Lists of texts by name.
    Lists,
    /// Lists of texts by lower-case name.
    Headers,
    /// Anything.
    Json,
}

/// The content of a field, borrowed from where it is kept.
#[derive(Debug, Clone, Copy)]
pub enum Leaf<'a> {
    /// The field is absent.
    Undefined,
    /// JSON null.
    Null,
    /// A boolean.
    Bool(bool),
    /// A count.
    U64(u64),
    /// A text that is ours, or of a closed set.
    Str(&'a str),
    /// A text of the agent's; secrets in it are not shown.
    Said(&'a str),
    /// The path of the request; secrets in it are not shown.
    Path(&'a str),
    /// The decoded segments of the path; secrets in them are not shown.
    Segments(&'a [String]),
    /// Texts of the agent's; secrets in them are not shown.
    SaidAll(&'a [String]),
    /// A moment; RFC 3339 in the document.
    Time(SystemTime),
    /// An address.
    Ip(IpAddr),
    /// Shared texts.
    Names(&'a [Arc<str>]),
    /// Texts by name.
    Texts(&'a BTreeMap<String, String>),
    /// Pairs in the order of the request; lists by name in the document. Those with secrets were taken away.
    Query(&'a [(String, String)]),
    /// Header fields; secrets in their values are not shown.
    Headers(&'a HeaderMap),
    /// Secrets that were found: kind and place.
    Secrets(&'a [Found]),
    /// Parsed JSON of the agent's; secrets in it are not shown.
    Json(&'a serde_json::Value),
}

impl Field {
    /// The part of `input` that it belongs to.
    pub fn part(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(part, _)| part)
    }
}

impl<'a> Leaf<'a> {
    fn maybe_str(text: Option<&'a str>) -> Self {
        text.map_or(Self::Undefined, Self::Str)
    }

    fn maybe_said(text: Option<&'a str>) -> Self {
        text.map_or(Self::Undefined, Self::Said)
    }

    fn maybe_json(json: Option<&'a serde_json::Value>) -> Self {
        json.map_or(Self::Undefined, Self::Json)
    }
}

type Content = for<'a> fn(Document<'a>) -> Leaf<'a>;

const fn scalar(path: &'static str, leaf: Content) -> Field {
    Field { path, shape: Shape::Scalar, leaf }
}

const fn shaped(path: &'static str, shape: Shape, leaf: Content) -> Field {
    Field { path, shape, leaf }
}

/// A field of the schema that nothing fills yet: readable, and undefined.
const fn unfilled(path: &'static str, shape: Shape) -> Field {
    Field { path, shape, leaf: |_| Leaf::Undefined }
}

/// The whole schema.
pub const FIELDS: &[Field] = &[
    scalar("schema", |_| Leaf::U64(1)),
    scalar("agent.id", |d| Leaf::maybe_str(d.input.agent.id.known())),
    scalar("agent.name", |d| Leaf::Str(&d.input.agent.name)),
    scalar("agent.namespace", |d| Leaf::maybe_str(d.input.agent.namespace.as_deref())),
    scalar("agent.pod", |d| Leaf::maybe_str(d.input.agent.pod.as_deref())),
    shaped("agent.labels", Shape::Texts, |d| match &d.input.agent.labels {
        labels if labels.is_empty() => Leaf::Undefined,
        labels => Leaf::Texts(labels),
    }),
    scalar("agent.assurance", |d| Leaf::Str(d.input.assurance.as_str())),
    scalar("subject.kind", |d| Leaf::Str(d.input.task.subject.as_ref().map_or("none", |_| "user"))),
    scalar("subject.id_hash", |d| Leaf::maybe_str(d.input.task.subject.as_ref().map(|subject| &*subject.id_hash))),
    // Whoever opened the task named the person; no signature says so.
    scalar("subject.verified", |d| d.input.task.subject.as_ref().map_or(Leaf::Undefined, |_| Leaf::Bool(false))),
    scalar("task.id", |d| in_task(d, &d.input.task.id)),
    scalar("task.source", |d| Leaf::Str(d.input.task.source.as_str())),
    scalar("task.purpose", |d| in_task(d, &d.input.task.purpose)),
    scalar("task.max_effect", |d| Leaf::maybe_str(d.input.task.max_effect.map(Effect::as_str))),
    scalar("task.ceiling", |d| Leaf::maybe_str(d.input.task.ceiling.map(Classification::as_str))),
    scalar("task.expires_at", |d| d.input.task.expires_at.map_or(Leaf::Undefined, Leaf::Time)),
    scalar("task.epoch", |d| Leaf::U64(d.input.task.epoch)),
    scalar("task.history.calls", |d| counted(d, |history| history.calls)),
    scalar("task.history.hosts", |d| counted(d, |history| history.hosts)),
    unfilled("task.history.sensitive_actions", Shape::Scalar),
    scalar("task.history.denied", |d| counted(d, |history| history.denied)),
    unfilled("task.taint", Shape::Scalar),
    unfilled("delegation.depth", Shape::Scalar),
    unfilled("delegation.chain", Shape::List),
    scalar("call.protocol", |d| Leaf::Str(d.input.call.protocol.as_str())),
    scalar("call.effect", |d| Leaf::Str(d.input.call.effect.as_str())),
    scalar("call.method", |d| Leaf::Str(d.input.call.http.method.as_str())),
    scalar("call.scheme", |d| Leaf::Str(d.input.call.http.scheme.as_str())),
    scalar("call.host", |d| Leaf::Str(&d.input.call.http.host)),
    scalar("call.port", |d| Leaf::U64(u64::from(d.input.call.http.port))),
    scalar("call.path", |d| Leaf::Path(&d.input.call.http.path)),
    shaped("call.segments", Shape::List, |d| Leaf::Segments(&d.input.call.http.segments)),
    shaped("call.query", Shape::Lists, |d| Leaf::Query(&d.input.call.http.query)),
    shaped("call.headers", Shape::Headers, |d| Leaf::Headers(&d.input.call.headers)),
    scalar("call.body.inspected", |d| Leaf::Bool(d.input.call.body.inspected)),
    scalar("call.body.size", |d| d.input.call.body.size.map_or(Leaf::Undefined, Leaf::U64)),
    // A body that is larger than can be inspected is refused, so what policy sees is always whole.
    scalar("call.body.truncated", |_| Leaf::Bool(false)),
    shaped("call.body.json", Shape::Json, |d| Leaf::maybe_json(d.input.call.body.json.as_ref())),
    scalar("call.mcp.revision", |d| Leaf::maybe_str(mcp(d).and_then(|mcp| mcp.revision.as_deref()))),
    scalar("call.mcp.method", |d| {
        Leaf::maybe_said(mcp(d).map(|mcp| mcp.method.as_str()).filter(|method| !method.is_empty()))
    }),
    scalar("call.mcp.tool", |d| Leaf::maybe_said(mcp(d).and_then(|mcp| mcp.tool.as_deref()))),
    shaped("call.mcp.arguments", Shape::Json, |d| Leaf::maybe_json(mcp(d).and_then(|mcp| mcp.arguments.as_ref()))),
    unfilled("call.mcp.annotations", Shape::Json),
    unfilled("call.mcp.annotations_trusted", Shape::Scalar),
    unfilled("call.mcp.definition_digest", Shape::Scalar),
    unfilled("call.a2a", Shape::Json),
    scalar("call.grpc.service", |d| grpc(d, 0)),
    scalar("call.grpc.method", |d| grpc(d, 1)),
    unfilled("call.graphql.operation", Shape::Scalar),
    unfilled("call.graphql.fields", Shape::List),
    unfilled("call.model.name", Shape::Scalar),
    unfilled("call.model.tools", Shape::List),
    shaped("call.embedded_urls", Shape::List, |d| Leaf::SaidAll(&d.input.call.embedded_urls)),
    scalar("destination.name", |d| Leaf::Str(&d.input.upstream.name)),
    scalar("destination.zone", |d| Leaf::Str(&d.input.upstream.zone)),
    scalar("destination.environment", |d| Leaf::Str(&d.input.upstream.environment)),
    scalar("destination.classification", |d| Leaf::Str(d.input.upstream.classification.as_str())),
    scalar("destination.ip", |d| d.input.ip.map_or(Leaf::Undefined, Leaf::Ip)),
    scalar("destination.ip_class", |d| Leaf::maybe_str(d.input.ip_class)),
    scalar("destination.tls", |d| Leaf::Str(d.input.tls)),
    unfilled("destination.first_seen", Shape::Scalar),
    scalar("credential.name", |d| Leaf::maybe_str(d.input.credential.map(|credential| &*credential.name))),
    scalar("credential.kind", |d| Leaf::maybe_str(d.input.credential.map(Declaration::kind))),
    scalar("credential.revocable", |d| d.input.credential.map_or(Leaf::Undefined, |c| Leaf::Bool(c.revocable()))),
    shaped("secrets", Shape::List, |d| Leaf::Secrets(d.input.secrets)),
    scalar("approval.state", |_| Leaf::Str("none")),
    scalar("approval.id", |_| Leaf::Null),
    shaped("matches", Shape::List, |d| Leaf::Names(d.matches)),
];

/// A call that belongs to no task has no task's name or purpose.
fn in_task<'a>(document: Document<'a>, text: &'a str) -> Leaf<'a> {
    match document.input.task.source {
        task::Source::Header | task::Source::Static => Leaf::Str(text),
        task::Source::None => Leaf::Undefined,
    }
}

fn counted<'a>(document: Document<'a>, count: impl FnOnce(Counts) -> u64) -> Leaf<'a> {
    document.input.history.map_or(Leaf::Undefined, |history| Leaf::U64(count(history)))
}

fn mcp(document: Document<'_>) -> Option<&McpCall> {
    document.input.call.mcp.as_ref()
}

/// gRPC's path is `/service/method` by definition; any other path names neither.
fn grpc(document: Document<'_>, part: usize) -> Leaf<'_> {
    let call = document.input.call;
    match (call.protocol, call.http.segments.as_slice()) {
        (Protocol::Grpc, parts @ [_, _]) => Leaf::Said(&parts[part]),
        _ => Leaf::Undefined,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_path_stands_twice_or_inside_another() {
        for (index, field) in FIELDS.iter().enumerate() {
            for other in &FIELDS[index + 1..] {
                assert_ne!(field.path, other.path);
                assert!(!other.path.starts_with(&format!("{}.", field.path)), "{} in {}", other.path, field.path);
                assert!(!field.path.starts_with(&format!("{}.", other.path)), "{} in {}", field.path, other.path);
            }
        }
    }

    #[test]
    fn the_fields_of_one_parent_stand_together() {
        for depth in 1..3 {
            let mut closed = HashSet::new();
            let mut last = String::new();
            for field in FIELDS {
                let parent: Vec<&str> = field.path.split('.').take(depth).collect();
                let parent = parent.join(".");
                if parent != last {
                    assert!(closed.insert(parent.clone()), "{parent} stands in two places");
                    last = parent;
                }
            }
        }
    }
}
