//! Header fields at the door: which are refused, which end here, and which policy may see.
//!
//! Secrets are not this module's concern: `secret::strip` notes and removes them, and must run before
//! [`strip_hop_by_hop`] and [`strip_identity`], which remove without noting.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Version,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TE, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
};

use super::path::METHOD_OVERRIDE;
use crate::refusal::Refusal;

/// Refuses a head whose fields frame the body in two ways or call it two things, override the method, or reach an origin
/// under another name.
///
/// Bytes that no field may hold (line breaks, NUL) can't be in a [`HeaderMap`]; its types forbid them.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    for name in headers.keys() {
        let name = name.as_str();
        if is_method_override(name) {
            return Err(METHOD_OVERRIDE);
        }
        // CGI and its heirs read `content_length` as `Content-Length`.
        if name.contains('_') && is_guarded(&name.replace('_', "-")) {
            return Err(Refusal::MalformedRequest("a header name has an underscore where a hyphen belongs"));
        }
    }
    if headers.get_all(CONTENT_TYPE).iter().nth(1).is_some() {
        return Err(Refusal::MalformedRequest("the request has two Content-Type fields"));
    }
    check_framing(headers)
}

/// Removes from a request what concerns this connection only, what says, unverified, who the agent is or whom it acts for,
/// everything in our own namespace, and what an origin may read as another host or path than the one that was decided.
///
/// Trace context stays: it is joined elsewhere and never trusted as an identity. See [`strip_hop_by_hop`].
pub fn strip_request(headers: &mut HeaderMap) -> Result<(), Refusal> {
    strip_connection(headers, |name| is_identity(name) || is_rewrite(name))
}

/// Removes what concerns this connection only (RFC 9110 section 7.6.1), from a request or a response.
///
/// First the fields that `Connection` names, then the known ones; `Expect` too, because this side has answered it. Kept
/// are `TE: trailers`, which gRPC needs, and `Trailer`, without which trailers are not sent on HTTP/1.1. A `Connection`
/// that names a field which must arrive, or which is ours, is refused.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) -> Result<(), Refusal> {
    strip_connection(headers, |_| false)
}

/// The names are looked at once for all reasons: most requests have nothing to remove.
fn strip_connection(headers: &mut HeaderMap, also: impl Fn(&str) -> bool) -> Result<(), Refusal> {
    for name in named_by_connection(headers)? {
        headers.remove(name);
    }
    let trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    remove_where(headers, |name| is_hop_by_hop(name) || also(name));
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

/// Removes fields that an origin may take for the one of this name: CGI and its heirs read `x_key` as `X-Key`.
pub fn strip_twins(headers: &mut HeaderMap, name: &HeaderName) {
    let name = name.as_str();
    let alike = |(a, b): (u8, u8)| a == b || !(a.is_ascii_alphanumeric() || b.is_ascii_alphanumeric());
    remove_where(headers, |other| {
        other != name && other.len() == name.len() && other.bytes().zip(name.bytes()).all(alike)
    });
}

/// Keeps of a request's trailers what gRPC and the integrity of the body need. Policy has decided when they come, so all
/// that could be read as something else ends here.
pub fn strip_request_trailers(trailers: &mut HeaderMap) {
    remove_where(trailers, |name| !is_request_trailer(name));
}

/// Removes from a response's trailers what may stand in a head alone (RFC 9110 section 6.5.1).
pub fn strip_response_trailers(trailers: &mut HeaderMap) {
    remove_where(trailers, is_of_the_head);
}

/// Whether policy may see the field of this name, in lower case: not when it can carry a secret.
pub fn may_be_seen(name: &str) -> bool {
    !name.split(['-', '_']).any(|word| {
        SECRET_WORDS.contains(&word)
            || SECRET_ENDINGS.iter().any(|ending| word.ends_with(ending))
            || word.starts_with("auth")
    })
}

/// Whether this request asks to become a WebSocket (RFC 6455, over HTTP/1.1).
pub fn is_websocket(parts: &Parts) -> bool {
    parts.version == Version::HTTP_11 && parts.method == Method::GET && upgrades_to_websocket(&parts.headers)
}

/// Whether the content type is gRPC's. gRPC-Web is not: it is plain HTTP with another framing.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    content_type.split_at_checked(GRPC.len()).is_some_and(|(start, rest)| {
        start.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';'))
    })
}

fn check_framing(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(Refusal::MalformedRequest("the request has two Content-Length fields"));
    }
    if length.is_some_and(|value| !is_length(value)) {
        return Err(Refusal::MalformedRequest("the Content-Length is not a number"));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    if length.is_some() {
        return Err(Refusal::MalformedRequest("the request has both a Content-Length and a Transfer-Encoding"));
    }
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Refusal::MalformedRequest("no transfer coding but chunked is accepted"));
    }
    Ok(())
}

fn is_length(value: &HeaderValue) -> bool {
    let plain = value.as_bytes().iter().all(u8::is_ascii_digit);
    plain && value.to_str().is_ok_and(|digits| digits.parse::<u64>().is_ok())
}

/// The fields that `Connection` names beyond those that are dropped anyway. Mostly none, so mostly no allocation.
fn named_by_connection(headers: &HeaderMap) -> Result<Vec<HeaderName>, Refusal> {
    let mut named = Vec::new();
    for value in headers.get_all(CONNECTION) {
        let value = value.to_str().map_err(|_| INVALID_CONNECTION)?;
        for token in value.split(',').map(str::trim).filter(|token| !token.is_empty()) {
            if token.eq_ignore_ascii_case("close") || is_kept_or_dropped(token) {
                continue;
            }
            let name = HeaderName::from_bytes(token.as_bytes()).map_err(|_| INVALID_CONNECTION)?;
            if is_end_to_end(name.as_str()) || is_guarded(name.as_str()) {
                return Err(Refusal::MalformedRequest("the Connection field names a field that must arrive"));
            }
            named.push(name);
        }
    }
    Ok(named)
}

fn is_kept_or_dropped(token: &str) -> bool {
    token.eq_ignore_ascii_case("trailer") || HOP_BY_HOP.iter().any(|name| token.eq_ignore_ascii_case(name))
}

fn upgrades_to_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let websocket = upgrades.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let connection = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    websocket && upgrades.next().is_none() && connection
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',').map(str::trim))
}

fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    // Mostly none, and then nothing is allocated.
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Fields that this module or the ones behind it read, so that no second spelling of them may pass.
fn is_guarded(name: &str) -> bool {
    is_method_override(name)
        || is_identity(name)
        || is_rewrite(name)
        || name.starts_with("mcp-")
        || matches!(
            name,
            "content-length"
                | "transfer-encoding"
                | "content-type"
                | "content-encoding"
                | "proxy-authorization"
                | "x-api-key"
        )
}

/// Fields of which `Connection` must not rob the origin.
fn is_end_to_end(name: &str) -> bool {
    name.starts_with("sec-")
        || name.starts_with("grpc-")
        || name.starts_with("content-")
        || matches!(
            name,
            "host"
                | "authorization"
                | "cookie"
                | "set-cookie"
                | "cache-control"
                | "traceparent"
                | "tracestate"
                | "accept"
                | "origin"
        )
}

fn is_request_trailer(name: &str) -> bool {
    name.starts_with("grpc-")
        || name.starts_with("x-amz-checksum-")
        || matches!(name, "digest" | "content-digest" | "repr-digest" | "content-md5" | "x-checksum")
}

/// Fields that say how a message is framed, routed or cached, that log in, or that are ours.
fn is_of_the_head(name: &str) -> bool {
    is_hop_by_hop(name)
        || name.starts_with("tollgate-")
        || matches!(
            name,
            "trailer"
                | "host"
                | "content-length"
                | "content-type"
                | "content-encoding"
                | "content-range"
                | "cache-control"
                | "location"
                | "set-cookie"
                | "set-cookie2"
                | "www-authenticate"
                | "authentication-info"
                | "alt-svc"
        )
}

fn is_method_override(name: &str) -> bool {
    matches!(name, "x-http-method-override" | "x-method-override" | "x-http-method")
}

fn is_rewrite(name: &str) -> bool {
    matches!(
        name,
        "x-original-url"
            | "x-original-uri"
            | "x-original-host"
            | "x-rewrite-url"
            | "x-override-url"
            | "x-forwarded-host"
            | "x-forwarded-server"
            | "x-host"
            | "x-http-host-override"
    )
}

/// What ends with its connection. The list is short, and a comparison of two lengths tells most names apart.
fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.contains(&name)
}

fn is_identity(name: &str) -> bool {
    IDENTITY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || matches!(
            name,
            "forwarded"
                | "via"
                | "baggage"
                | "txn-token"
                | "workload-identity-token"
                | "workload-proof-token"
                | "x-real-ip"
                | "x-client-ip"
                | "x-cluster-client-ip"
                | "x-original-forwarded-for"
                | "true-client-ip"
                | "cf-connecting-ip"
                | "remote-user"
                | "x-remote-user"
                | "x-spiffe-id"
                | "x-goog-iap-jwt-assertion"
        )
}

const IDENTITY_PREFIXES: [&str; 8] = [
    "tollgate-",
    "x-tollgate-",
    "x-forwarded-",
    "x-envoy-",
    "x-amzn-oidc-",
    "x-goog-authenticated-user-",
    "x-ms-client-principal",
    "x-auth-request-",
];

const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "expect",
];

const SECRET_WORDS: [&str; 9] = ["session", "sid", "jwt", "sig", "pin", "otp", "dpop", "bearer", "csrf"];
const SECRET_ENDINGS: [&str; 12] = [
    "key",
    "keys",
    "token",
    "tokens",
    "secret",
    "password",
    "passwd",
    "cookie",
    "cookie2",
    "signature",
    "credential",
    "assertion",
];

const GRPC: &[u8] = b"application/grpc";
const INVALID_CONNECTION: Refusal = Refusal::MalformedRequest("the Connection field is not a list of field names");

#[cfg(test)]
mod tests;
