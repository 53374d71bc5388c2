//! Matches calls against the allow-list in `data.tollgate.allow`, and tells policy which entries permit a call.
//!
//! What is matched here becomes the fact `input.matches`; whether it is enough is for policy to say. Entries are
//! grouped by destination when the list is compiled, so a lookup costs the same however many others there are.
//!
//! An entry without `methods`, `paths` or `effects` permits all of them. Tools are never permitted by silence: a
//! `tools/call` needs an entry that names the tool, and an entry that names tools permits nothing else but the messages
//! that a session needs. Bytes in a tunnel show none of this, so only an entry that asks for nothing matches them. A
//! WebSocket begins as a GET but may do anything afterwards: an entry that bounds effects or methods permits it only when
//! it lists the effect `admin`.

mod entry;
mod pattern;

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

use self::{entry::Entry, pattern::Patterns};
use super::bundle::LoadError;
use crate::call::{Call, Effect, Protocol, mcp};

/// A compiled allow-list.
#[derive(Debug, Default)]
pub struct AllowList {
    destinations: HashMap<String, Destination>,
}

/// The entries of one destination, in the order in which they were written.
#[derive(Debug)]
struct Destination {
    entries: Vec<Entry>,
    paths: Patterns,
    tools: Patterns,
}

/// What the list looks at in a call.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    effect: &'a str,
    message: Message<'a>,
}

/// What is said inside HTTP.
#[derive(Debug, Clone, Copy)]
enum Message<'a> {
    /// Nothing that is looked into.
    Plain,
    /// Bytes that can't be looked into.
    Tunnel,
    /// Bytes that can't be looked into either, after a request that was.
    WebSocket,
    /// What an MCP session needs to exist: it touches nothing behind the server.
    Session,
    /// An MCP call of this tool.
    Tool(&'a str),
    /// Any other MCP message.
    Other,
}

impl AllowList {
    /// Compiles `data.tollgate.allow`. Every problem is reported with its place in the data. Unknown settings beside
    /// the list are refused: a misspelt restriction must not be ignored.
    pub fn compile(data: &Value) -> Result<Self, LoadError> {
        let mut problems = Vec::new();
        let entries = entry::read_all(data, &mut problems);
        let mut grouped: HashMap<String, Vec<Entry>> = HashMap::new();
        for (destination, entry) in entries {
            grouped.entry(destination).or_default().push(entry);
        }
        let mut destinations = HashMap::with_capacity(grouped.len());
        for (name, entries) in grouped {
            match Destination::compile(entries) {
                Ok(destination) => drop(destinations.insert(name, destination)),
                Err(error) => problems.push(format!("data.tollgate.allow: destination {name}: {error}")),
            }
        }
        LoadError::unless_empty(problems)?;
        Ok(Self { destinations })
    }

    /// The ids of the entries that permit this call at the destination of this name, in the order of the list.
    pub fn matches(&self, call: &Call, destination: &str) -> Vec<Arc<str>> {
        self.find(&Asked::in_call(call), destination)
    }

    /// As [`Self::matches`], for an input document as policy sees it. Empty when the document lacks what is looked at.
    pub fn matches_document(&self, input: &Value) -> Vec<Arc<str>> {
        let destination = input.pointer("/destination/name").and_then(Value::as_str);
        match (Asked::in_document(input), destination) {
            (Some(asked), Some(destination)) => self.find(&asked, destination),
            _ => Vec::new(),
        }
    }

    fn find(&self, asked: &Asked<'_>, destination: &str) -> Vec<Arc<str>> {
        self.destinations.get(destination).map(|found| found.find(asked)).unwrap_or_default()
    }
}

impl Destination {
    fn compile(entries: Vec<Entry>) -> Result<Self, globset::Error> {
        let paths = Patterns::compile(entries.iter().map(|entry| entry.paths.as_deref()), pattern::path)?;
        let tools = Patterns::compile(entries.iter().map(|entry| entry.tools.as_deref()), pattern::tool)?;
        Ok(Self { entries, paths, tools })
    }

    fn find(&self, asked: &Asked<'_>) -> Vec<Arc<str>> {
        let paths = self.paths.owners(asked.path);
        let tools = match asked.message {
            Message::Tool(name) => self.tools.owners(name),
            Message::Plain | Message::Tunnel | Message::WebSocket | Message::Session | Message::Other => Vec::new(),
        };
        let permits = |(index, entry): &(usize, &Entry)| {
            let path = entry.paths.is_none() || paths.contains(index);
            let effect = entry.permits_effect(asked.effect);
            let message = match asked.message {
                Message::Plain | Message::Other => effect && entry.tools.is_none(),
                Message::Tunnel => entry.asks_for_nothing(),
                Message::WebSocket => entry.permits_anything_done() && entry.tools.is_none(),
                Message::Session => true,
                Message::Tool(_) => effect && tools.contains(index),
            };
            path && message && entry.permits_method(asked.method)
        };
        self.entries.iter().enumerate().filter(permits).map(|(_, entry)| Arc::clone(&entry.id)).collect()
    }
}

impl<'a> Asked<'a> {
    fn in_call(call: &'a Call) -> Self {
        let method = call.http.method.as_str();
        let said = call.mcp.as_ref().map(|mcp| (mcp.method.as_str(), mcp.tool.as_deref()));
        let message = match call.protocol {
            Protocol::Http | Protocol::Grpc => Message::Plain,
            Protocol::WebSocket => Message::WebSocket,
            Protocol::Tunnel => Message::Tunnel,
            Protocol::Mcp => Message::in_mcp(method, said),
        };
        Self { method, path: &call.http.path, effect: call.effect.as_str(), message }
    }

    fn in_document(input: &'a Value) -> Option<Self> {
        let call = input.get("call")?;
        let text = |pointer: &str| call.pointer(pointer).and_then(Value::as_str);
        let method = text("/method").unwrap_or_default();
        let message = match text("/protocol")? {
            "tunnel" => Message::Tunnel,
            "websocket" => Message::WebSocket,
            "mcp" => Message::in_mcp(method, text("/mcp/method").map(|said| (said, text("/mcp/tool")))),
            _ => Message::Plain,
        };
        Some(Self {
            method,
            path: text("/path").unwrap_or_default(),
            effect: text("/effect").unwrap_or("admin"),
            message,
        })
    }
}

impl<'a> Message<'a> {
    fn in_mcp(http_method: &str, said: Option<(&'a str, Option<&'a str>)>) -> Self {
        match said.filter(|(method, _)| !method.is_empty()) {
            // A stream is opened with GET and a session ended with DELETE, both without a message.
            None if matches!(http_method, "GET" | "DELETE") => Self::Session,
            None => Self::Other,
            Some(("tools/call", Some(tool))) => Self::Tool(tool),
            Some((method, _)) if SESSION_METHODS.contains(&method) || is_harmless_notification(method) => Self::Session,
            Some(_) => Self::Other,
        }
    }
}

/// Whether it only tells the server how the client is doing. An extension's notification may do anything.
fn is_harmless_notification(method: &str) -> bool {
    method.starts_with("notifications/") && mcp::effect_of(method) == Effect::Read
}

/// What a client asks before it can call a tool.
const SESSION_METHODS: [&str; 4] = ["initialize", "ping", "server/discover", "tools/list"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(entries: Value) -> AllowList {
        AllowList::compile(&json!({"tollgate": {"allow": entries}})).unwrap()
    }

    fn http(method: &str, path: &str, effect: &str) -> Value {
        json!({"call": {"protocol": "http", "method": method, "path": path, "effect": effect},
               "destination": {"name": "github"}})
    }

    fn mcp(method: &str, tool: Option<&str>) -> Value {
        json!({"call": {"protocol": "mcp", "method": "POST", "path": "/mcp", "effect": "write",
                        "mcp": {"method": method, "tool": tool}},
               "destination": {"name": "github"}})
    }

    fn found(list: &AllowList, input: &Value) -> String {
        list.matches_document(input).join(" ")
    }

    #[test]
    fn http_calls_match_by_method_path_and_effect() {
        let list = list(json!([
            {"id": "all", "destination": "github"},
            {"id": "get", "destination": "github", "methods": ["GET", "HEAD"]},
            {"id": "issues", "destination": "github", "paths": ["/repos/*/*/issues"]},
            {"id": "below", "destination": "github", "paths": ["/v1/**", "/v2/**/tail"]},
            {"id": "reads", "destination": "github", "effects": ["read"]},
            {"id": "tool", "destination": "github", "tools": ["*"]},
            {"id": "elsewhere", "destination": "gitlab"},
        ]));
        for (input, expected) in [
            (http("GET", "/", "read"), "all get reads"),
            (http("POST", "/", "write"), "all"),
            (http("GET", "/repos/o/r/issues", "read"), "all get issues reads"),
            (http("POST", "/repos/o/r/issues", "write"), "all issues"),
            (http("POST", "/repos/o/issues", "write"), "all"),
            (http("POST", "/repos/o/r/x/issues", "write"), "all"),
            (http("POST", "/repos/o/r/issues/1", "write"), "all"),
            (http("POST", "/v1", "write"), "all"),
            (http("POST", "/v1/", "write"), "all below"),
            (http("POST", "/v1/a/b", "write"), "all below"),
            (http("POST", "/v2/a/b/tail", "write"), "all below"),
            (http("POST", "/v2/tail", "write"), "all below"),
            (http("get", "/", "write"), "all"),
        ] {
            assert_eq!(found(&list, &input), expected, "{input}");
        }
    }

    #[test]
    fn a_tool_must_be_named() {
        let list = list(json!([
            {"id": "silent", "destination": "github"},
            {"id": "one", "destination": "github", "tools": ["create_issue"]},
            {"id": "some", "destination": "github", "tools": ["list_*"]},
            {"id": "every", "destination": "github", "tools": ["*"]},
            {"id": "reads", "destination": "github", "tools": ["*"], "effects": ["read"]},
        ]));
        for (input, expected) in [
            (mcp("tools/call", Some("create_issue")), "one every"),
            (mcp("tools/call", Some("create_issues")), "every"),
            (mcp("tools/call", Some("list_issues")), "some every"),
            (mcp("tools/call", Some("a/b.c")), "every"),
            (mcp("tools/call", None), "silent"),
            (mcp("resources/read", None), "silent"),
            (mcp("initialize", None), "silent one some every reads"),
            (mcp("tools/list", None), "silent one some every reads"),
            (mcp("notifications/initialized", None), "silent one some every reads"),
            (mcp("notifications/x-vendor/delete_everything", None), "silent"),
            (mcp("notifications/", None), "silent"),
        ] {
            assert_eq!(found(&list, &input), expected, "{input}");
        }
    }

    #[test]
    fn a_tunnel_matches_only_what_asks_for_nothing() {
        let list = list(json!([
            {"id": "all", "destination": "github"},
            {"id": "method", "destination": "github", "methods": ["CONNECT"]},
            {"id": "path", "destination": "github", "paths": ["/**"]},
            {"id": "effect", "destination": "github", "effects": ["admin"]},
        ]));
        let input = json!({"call": {"protocol": "tunnel", "method": "CONNECT", "effect": "admin"},
                           "destination": {"name": "github"}});
        assert_eq!(found(&list, &input), "all");
    }

    #[test]
    fn a_websocket_is_not_permitted_by_what_permits_reading() {
        let list = list(json!([
            {"id": "all", "destination": "github"},
            {"id": "get", "destination": "github", "methods": ["GET"]},
            {"id": "reads", "destination": "github", "effects": ["read"]},
            {"id": "path", "destination": "github", "paths": ["/socket"]},
            {"id": "admin", "destination": "github", "effects": ["admin"]},
            {"id": "both", "destination": "github", "methods": ["GET"], "effects": ["admin"]},
            {"id": "post", "destination": "github", "methods": ["POST"], "effects": ["admin"]},
            {"id": "elsewhere", "destination": "github", "paths": ["/other"], "effects": ["admin"]},
            {"id": "tool", "destination": "github", "tools": ["*"]},
        ]));
        let input = json!({"call": {"protocol": "websocket", "method": "GET", "path": "/socket", "effect": "admin"},
                           "destination": {"name": "github"}});
        assert_eq!(found(&list, &input), "all path admin both");
    }

    #[test]
    fn other_characters_than_the_star_are_plain() {
        let list = list(json!([{"id": "odd", "destination": "github", "paths": ["/a[b]{c}", "/x%20*"]}]));
        for (path, expected) in [("/a[b]{c}", "odd"), ("/ab", ""), ("/x%20y", "odd"), ("/x%20y/z", "")] {
            assert_eq!(found(&list, &http("GET", path, "read")), expected, "{path}");
        }
    }

    #[test]
    fn a_document_without_a_destination_or_a_call_matches_nothing() {
        let list = list(json!([{"id": "all", "destination": "github"}]));
        for input in [json!({}), json!({"destination": {"name": "github"}}), json!({"call": {"protocol": "http"}})] {
            assert_eq!(found(&list, &input), "", "{input}");
        }
    }

    #[test]
    fn no_list_permits_nothing() {
        for data in [json!({}), json!({"tollgate": {}}), json!({"tollgate": {"allow": []}})] {
            let list = AllowList::compile(&data).unwrap();
            assert_eq!(found(&list, &http("GET", "/", "read")), "", "{data}");
        }
    }
}
