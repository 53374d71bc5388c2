//! What is being asked for: one request, parsed once at the door.
//!
//! [`http`] brings a request into its one canonical form; where a destination declares a protocol, that protocol's
//! module adds what the body says. Everything behind this module works on the canonical form only.

pub mod http;
pub mod json;
pub mod mcp;

use std::fmt;

use ::http::HeaderMap;

pub use self::http::HttpCall;
pub use mcp::McpCall;

/// One request, parsed.
#[derive(Debug)]
pub struct Call {
    /// What is spoken.
    pub protocol: Protocol,
    /// What it does there, as far as the protocol says.
    pub effect: Effect,
    /// The HTTP part in canonical form.
    pub http: HttpCall,
    /// The headers that policy may see: none that can carry a secret.
    pub headers: HeaderMap,
    /// What is known of the body.
    pub body: BodyFacts,
    /// What the MCP message says, where the destination speaks MCP.
    pub mcp: Option<McpCall>,
    /// URLs found in arguments.
    pub embedded_urls: Vec<String>,
}

/// What is spoken, as it stands in `input.call.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain HTTP.
    Http,
    /// The Model Context Protocol.
    Mcp,
    /// gRPC.
    Grpc,
    /// An HTTP upgrade to WebSocket.
    WebSocket,
    /// Bytes in a tunnel.
    Tunnel,
}

impl Protocol {
    /// As it stands in policy input, metrics and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Mcp => "mcp",
            Self::Grpc => "grpc",
            Self::WebSocket => "websocket",
            Self::Tunnel => "tunnel",
        }
    }
}

/// What a call does at its destination, from least to most.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Safe methods (RFC 9110 section 9.2.1).
    Read,
    /// Creates or changes.
    Write,
    /// Removes, or may remove.
    Destructive,
    /// Anything whose effect is not known.
    Admin,
}

impl Effect {
    /// As it stands in policy input and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Destructive => "destructive",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known of a request's body.
#[derive(Debug, Default)]
pub struct BodyFacts {
    /// Whether it was held and parsed.
    pub inspected: bool,
    /// Its length in bytes, where known.
    pub size: Option<u64>,
    /// Its JSON, where it was inspected and is JSON.
    pub json: Option<serde_json::Value>,
}
