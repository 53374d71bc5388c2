//! Headers that repeat what a message's body says must say the same.
//!
//! From revision 2026-07-28 on they are required. In older revisions they are not, but where they are present they must
//! agree all the same: something behind us may believe them.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::HeaderMap;

use crate::refusal::Refusal;

/// Checks the mirrored headers, and gives the revision that the message is written in.
pub(super) fn check(
    headers: &HeaderMap,
    method: &str,
    name: Option<&str>,
    stated: Option<&str>,
    is_request: bool,
) -> Result<String, Refusal> {
    let header = single(headers, "mcp-protocol-version")?;
    if let (Some(header), Some(stated)) = (header, stated)
        && header != stated
    {
        return Err(mismatch("the MCP-Protocol-Version header differs from the message"));
    }
    let revision = header.or(stated).unwrap_or(UNSTATED);
    if !is_revision(revision) {
        return Err(Refusal::MalformedMessage { code: -32022, detail: "the MCP protocol version is not a date" });
    }
    // Dates in this form are ordered as texts.
    let required = revision >= MIRRORED_SINCE;
    if required && header.is_none() {
        return Err(mismatch("the MCP-Protocol-Version header is missing"));
    }
    if required && is_request && stated.is_none() {
        return Err(Refusal::MalformedMessage {
            code: -32602,
            detail: "the message's _meta states no protocol version",
        });
    }
    check_method(single(headers, "mcp-method")?, method, required)?;
    check_name(single(headers, "mcp-name")?, name, required)?;
    Ok(revision.to_owned())
}

fn check_method(header: Option<&str>, method: &str, required: bool) -> Result<(), Refusal> {
    match header {
        Some(header) if header != method => Err(mismatch("the Mcp-Method header differs from the message's method")),
        None if required => Err(mismatch("the Mcp-Method header is missing")),
        _ => Ok(()),
    }
}

fn check_name(header: Option<&str>, name: Option<&str>, required: bool) -> Result<(), Refusal> {
    match (header, name) {
        (Some(header), Some(name)) if says(header, name)? => Ok(()),
        (Some(_), Some(_)) => Err(mismatch("the Mcp-Name header differs from the message")),
        (Some(_), None) => Err(mismatch("the Mcp-Name header names what the message does not")),
        (None, Some(_)) if required => Err(mismatch("the Mcp-Name header is missing")),
        (None, _) => Ok(()),
    }
}

/// Whether a header's value says this text: as it is, or as `=?base64?…?=` of its UTF-8.
fn says(header: &str, text: &str) -> Result<bool, Refusal> {
    let Some(encoded) = header.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Ok(header == text);
    };
    let decoded = BASE64_STANDARD.decode(encoded).map_err(|_| mismatch("the Mcp-Name header is not valid base64"))?;
    Ok(decoded == text.as_bytes())
}

/// The one value of a header; two values are two stories.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(mismatch("an MCP header is there twice"));
    }
    value.to_str().map(Some).map_err(|_| mismatch("an MCP header is not plain ASCII"))
}

fn is_revision(text: &str) -> bool {
    text.len() == 10
        && text
            .bytes()
            .enumerate()
            .all(|(at, byte)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() })
}

fn mismatch(detail: &'static str) -> Refusal {
    Refusal::MalformedMessage { code: -32020, detail }
}

/// What a message without any version is written in.
const UNSTATED: &str = "2025-03-26";
/// The revision that made the mirrored headers a must.
const MIRRORED_SINCE: &str = "2026-07-28";
