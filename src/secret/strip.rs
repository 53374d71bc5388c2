//! Removes what carries a secret from a request's head, before policy sees it.
//!
//! Headers and query parameters go by their name or by the format of their value; user information goes always. The
//! fields of the Model Context Protocol are looked at when the destination is known: for one that speaks it, what they say
//! is a tool's name, a session or an argument. A request that brings nothing is only read: nothing is copied, but for what
//! is percent-encoded, which has to be decoded to be looked at.

mod settle;

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderName, Uri,
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use percent_encoding::{percent_decode, percent_decode_str};
use zeroize::Zeroizing;

use super::{Action, Found, detect, rules::GENERIC, segment_kinds};
pub use settle::{Settled, Taken};

/// Removes every secret from the head and notes the kind and place of each. A secret in the path is only noted. What was
/// taken can be settled once the destination is known.
pub fn strip(parts: &mut Parts, found: &mut Vec<Found>) -> Taken {
    let mut taken = Taken::default();
    strip_headers(&mut parts.headers, found, &mut taken);
    strip_userinfo(&mut parts.uri, found);
    strip_query(&mut parts.uri, found, &mut taken);
    for kind in segment_kinds(parts.uri.path()) {
        note(found, kind, Cow::Borrowed("path"), Action::Note);
    }
    taken
}

fn strip_headers(headers: &mut HeaderMap, found: &mut Vec<Found>, taken: &mut Taken) {
    let mut removed: Vec<HeaderName> = Vec::new();
    for (name, value) in headers.iter().filter(|(name, _)| !is_mcp(name.as_str())) {
        if let Some(kind) = header_kind(name.as_str(), value.as_bytes()) {
            note(found, kind, header_place(name), Action::Strip);
            if removed.last() != Some(name) {
                removed.push(name.clone());
            }
        }
    }
    for name in removed {
        taken.keep(headers, &name);
        headers.remove(name);
    }
}

/// Removes every field of a request's trailers that carries a secret, whatever the destination's configuration says: the
/// call was decided without them, and nobody can be asked any more. Returns the kind and place of each.
pub fn strip_trailers(trailers: &mut HeaderMap) -> Vec<Found> {
    let mut found = Vec::new();
    let mut removed: Vec<HeaderName> = Vec::new();
    for (name, value) in trailers.iter() {
        if let Some(kind) = header_kind(name.as_str(), value.as_bytes()) {
            note(&mut found, kind, place("trailer", name.as_str().as_bytes()), Action::Strip);
            removed.push(name.clone());
        }
    }
    for name in removed {
        trailers.remove(name);
    }
    found
}

/// Whether the Model Context Protocol has a field of this name.
fn is_mcp(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("mcp-") else { return false };
    matches!(rest, "protocol-version" | "session-id" | "method" | "name") || rest.starts_with("param-")
}

/// What a field of the Model Context Protocol carries towards a server that speaks it: only what has a mark of its own, as
/// it is or as the protocol encodes it. A JSON web token is one of the ways to name a session.
fn mcp_kind(name: &str, value: &[u8]) -> Option<&'static str> {
    let encoded = value.strip_prefix(b"=?base64?").and_then(|rest| rest.strip_suffix(b"?="));
    let decoded = encoded.and_then(|encoded| STANDARD.decode(encoded).ok()).map(Zeroizing::new);
    let kind = detect::find(decoded.as_deref().map_or(value, |decoded| decoded))?;
    (name != "mcp-session-id" || kind != "jwt").then_some(kind)
}

/// What this field carries; `None` when it may stay.
fn header_kind(name: &str, value: &[u8]) -> Option<&'static str> {
    if name.ends_with("authorization") {
        return Some(authorization_kind(value));
    }
    let known = detect::search_field(name, value);
    match name {
        "cookie" | "cookie2" => Some(known.unwrap_or("cookie")),
        "csrf-token" | "x-csrf-token" | "xsrf-token" | "x-xsrf-token" => known,
        _ if is_carrier(name) => Some(known.filter(|known| *known != GENERIC).unwrap_or("api_key")),
        _ => known,
    }
}

/// Whether a header of this name carries a secret whatever its value looks like.
fn is_carrier(name: &str) -> bool {
    const ENDINGS: [&str; 6] = ["-token", "-secret", "api-key", "apikey", "-password", "-access-key"];
    ENDINGS.iter().any(|ending| name.ends_with(ending))
        || matches!(
            name,
            "token"
                | "apitoken"
                | "x-auth-key"
                | "x-auth-user-key"
                | "x-auth"
                | "x-functions-key"
                | "x-master-key"
                | "x-consumer-key"
                | "x-application-key"
                | "x-parse-master-key"
                | "x-honeycomb-team"
                | "x-insert-key"
                | "x-query-key"
                | "x-jfrog-art-api"
                | "x-rapidapi-key"
                | "x-typesense-key"
                | "dd-application-key"
                | "ocp-apim-subscription-key"
                | "aeg-sas-key"
                | "x-ms-authorization-auxiliary"
                | "x-goog-iap-jwt-assertion"
        )
}

/// The kind of an `Authorization`-like value: by the format of what follows the scheme, else by the scheme.
fn authorization_kind(value: &[u8]) -> &'static str {
    let (scheme, rest) = match value.iter().position(|byte| *byte == b' ') {
        Some(space) => (&value[..space], value[space..].trim_ascii()),
        None => (value, &[][..]),
    };
    if scheme.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"AWS4-")) {
        return "aws_sigv4";
    }
    if scheme.eq_ignore_ascii_case(b"basic") {
        return basic_kind(rest);
    }
    let scheme_kind = if scheme.eq_ignore_ascii_case(b"bearer") { "bearer" } else { "unknown" };
    detect::search(value).unwrap_or(scheme_kind)
}

/// Git and many tools send a token as the password, or as the user, of `Basic`.
fn basic_kind(encoded: &[u8]) -> &'static str {
    let decoded = STANDARD.decode(encoded).map(Zeroizing::new);
    decoded.ok().and_then(|pair| detect::find(&pair)).unwrap_or("basic")
}

fn strip_userinfo(uri: &mut Uri, found: &mut Vec<Found>) {
    let Some((userinfo, host)) = uri.authority().and_then(|authority| authority.as_str().rsplit_once('@')) else {
        return;
    };
    let decoded: Cow<'_, [u8]> = percent_decode_str(userinfo).into();
    note(found, detect::search(&decoded).unwrap_or("basic"), Cow::Borrowed("userinfo"), Action::Strip);
    let host = Authority::try_from(host).ok();
    let mut parts = std::mem::take(uri).into_parts();
    if host.is_none() {
        // Nothing is left to name a host: the target falls back to its path, and the `Host` field decides.
        parts.scheme = None;
    }
    parts.authority = host;
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

fn strip_query(uri: &mut Uri, found: &mut Vec<Found>, taken: &mut Taken) {
    let Some(query) = uri.query() else { return };
    if !query.split('&').any(|pair| parameter_kind(pair).is_some()) {
        return;
    }
    taken.query = Some(Zeroizing::new(query.to_owned()));
    let mut kept = String::with_capacity(uri.path().len() + 1 + query.len());
    kept.push_str(uri.path());
    let mut separator = '?';
    for pair in query.split('&') {
        match parameter_kind(pair) {
            Some(kind) => note(found, kind, parameter_place(pair), Action::Strip),
            None => {
                kept.push(separator);
                kept.push_str(pair);
                separator = '&';
            }
        }
    }
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(kept).expect("a part of a valid query is valid"));
    *uri = Uri::from_parts(parts).expect("the scheme and authority were valid with this path");
}

/// What this parameter carries; `None` when it may stay. The origin decodes once, so names and values are decoded once.
fn parameter_kind(pair: &str) -> Option<&'static str> {
    let known = || {
        let decoded: Cow<'_, [u8]> = percent_decode_str(pair).into();
        detect::search(&decoded)
    };
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    match named_kind(name).filter(|_| !value.is_empty()) {
        Some("aws_sigv4") => Some("aws_sigv4"),
        // What is told by the name alone, the list of names tells better.
        Some(kind) => Some(known().filter(|known| *known != GENERIC).unwrap_or(kind)),
        None => known(),
    }
}

/// What a parameter of this name carries. Case and the usual separators make no difference.
fn named_kind(name: &str) -> Option<&'static str> {
    let mut compact = [0; LONGEST_NAME];
    let mut length = 0;
    for byte in percent_decode(name.as_bytes()).filter(|byte| !matches!(byte, b'-' | b'_' | b'.' | b'+' | b' ' | b'$'))
    {
        *compact.get_mut(length)? = byte.to_ascii_lowercase();
        length += 1;
    }
    match &compact[..length] {
        b"accesstoken" | b"token" | b"authtoken" | b"oauthtoken" | b"bearertoken" | b"bearer" | b"refreshtoken"
        | b"idtoken" | b"sessiontoken" | b"privatetoken" | b"jobtoken" | b"usertoken" | b"apitoken"
        | b"xaccesstoken" | b"xauthtoken" | b"jwt" | b"auth" | b"authorization" => Some("bearer"),
        b"apikey" | b"xapikey" | b"accesskey" | b"accountkey" | b"secretkey" | b"privatekey" | b"subscriptionkey"
        | b"hapikey" | b"appkey" | b"applicationkey" | b"masterkey" => Some("api_key"),
        b"xamzsignature" | b"xamzcredential" | b"xamzsecuritytoken" | b"awsaccesskeyid" => Some("aws_sigv4"),
        b"sig"
        | b"signature"
        | b"xgoogsignature"
        | b"xgoogcredential"
        | b"sharedaccesssignature"
        | b"clientsecret"
        | b"clientassertion"
        | b"appsecret"
        | b"apisecret"
        | b"secret"
        | b"password"
        | b"passwd"
        | b"pwd"
        | b"passphrase"
        | b"credential"
        | b"credentials"
        | b"jsessionid"
        | b"phpsessid" => Some("unknown"),
        _ => None,
    }
}

/// Notes what was found, once for each place.
pub(super) fn note(found: &mut Vec<Found>, kind: &'static str, place: Cow<'static, str>, action: Action) {
    let noted = Found { kind, place, action };
    if found.len() < MOST_NOTED && !found.contains(&noted) {
        found.push(noted);
    }
}

/// Where a field stands, as it may be shown.
pub(super) fn header_place(name: &HeaderName) -> Cow<'static, str> {
    match name.as_str() {
        "authorization" => Cow::Borrowed("header:authorization"),
        "proxy-authorization" => Cow::Borrowed("header:proxy-authorization"),
        "cookie" => Cow::Borrowed("header:cookie"),
        "x-api-key" => Cow::Borrowed("header:x-api-key"),
        other => place("header", other.as_bytes()),
    }
}

fn parameter_place(pair: &str) -> Cow<'static, str> {
    let name = pair.split('=').next().unwrap_or_default();
    let decoded: Cow<'_, [u8]> = percent_decode_str(name).into();
    place("query", &decoded)
}

/// Names are the agent's to choose: they are cut, brought into a small alphabet, and left out when they are secrets.
pub(super) fn place(kind: &str, name: &[u8]) -> Cow<'static, str> {
    if detect::find(name).is_some() {
        return Cow::Owned(kind.to_owned());
    }
    let shown = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(*byte),
        _ => '?',
    };
    let mut text = format!("{kind}:");
    text.extend(name.iter().take(LONGEST_SHOWN).map(shown));
    Cow::Owned(text)
}

/// No listed parameter name is longer without its separators.
const LONGEST_NAME: usize = 24;

/// How much of a name is shown.
const LONGEST_SHOWN: usize = 48;

/// How many secrets of one request are noted. All are removed.
const MOST_NOTED: usize = 32;

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn stripped(uri: &str, headers: &[(&str, &str)]) -> (Parts, Vec<String>) {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let mut found = Vec::new();
        strip(&mut parts, &mut found);
        let found = found.into_iter().map(|each| format!("{} {}", each.kind, each.place)).collect();
        (parts, found)
    }

    fn pat() -> String {
        format!("ghp_{}", "aB3".repeat(12))
    }

    #[test]
    fn headers_that_carry_secrets_are_removed_and_noted_by_kind() {
        let pat = pat();
        let git = STANDARD.encode(format!("x-access-token:{pat}"));
        let basic = STANDARD.encode("user:canary-password");
        let sigv4 = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/eu/s3/aws4_request, Signature=00";
        let table = [
            ("authorization", "Bearer canary".to_owned(), "bearer"),
            ("authorization", format!("token {pat}"), "github_pat"),
            ("authorization", format!("Bearer {pat}"), "github_pat"),
            ("authorization", format!("Basic {git}"), "github_pat"),
            ("authorization", format!("basic {basic}"), "basic"),
            ("authorization", "Basic not!base64".to_owned(), "basic"),
            ("authorization", sigv4.to_owned(), "aws_sigv4"),
            ("authorization", "canary".to_owned(), "unknown"),
            ("authorization", String::new(), "unknown"),
            ("proxy-authorization", "Digest username=canary".to_owned(), "unknown"),
            ("x-serverless-authorization", "Bearer canary".to_owned(), "bearer"),
            ("cookie", "session=canary".to_owned(), "cookie"),
            ("x-api-key", "canary".to_owned(), "api_key"),
            ("api-key", "canary".to_owned(), "api_key"),
            ("x-goog-api-key", format!("AIza{}", "aB3-_".repeat(7)), "google_api_key"),
            ("private-token", "canary".to_owned(), "api_key"),
            ("x-vault-token", "canary".to_owned(), "api_key"),
            ("x-amz-security-token", "canary".to_owned(), "api_key"),
            ("dd-api-key", "canary".to_owned(), "api_key"),
            ("x-shopify-access-token", "canary".to_owned(), "api_key"),
            ("x-hasura-admin-secret", "canary".to_owned(), "api_key"),
            ("x-nuget-apikey", "canary".to_owned(), "api_key"),
            ("ocp-apim-subscription-key", "canary".to_owned(), "api_key"),
            ("x-anything", pat.clone(), "github_pat"),
            ("referer", format!("https://x.test/?t={pat}"), "github_pat"),
            ("sec-websocket-protocol", format!("bearer, {pat}"), "github_pat"),
            ("mcp-foo", pat.clone(), "github_pat"),
            ("tracestate", format!("a=1,b={pat}"), "github_pat"),
        ];
        for (name, value, kind) in &table {
            let (parts, found) = stripped("/", &[(name, value)]);
            assert!(parts.headers.is_empty(), "{name}: {value}");
            assert_eq!(found, [format!("{kind} header:{name}")], "{name}: {value}");
        }
    }

    #[test]
    fn headers_that_carry_none_stay() {
        let table = [
            ("host", "api.example.com"),
            ("user-agent", "python-requests/2.32"),
            ("accept", "*/*"),
            ("mcp-session-id", "0190b6f6-9d7c-7c3e-8b1a-2f6d5c4b3a21"),
            ("tracestate", "dd=s:2;o:rum;t.dm:-4;t.tid:66c8f3c400000000,rojo=00f067aa0ba902b7"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("x-csrf-token", "abc"),
            ("idempotency-key", "0190b6f6"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("x-request-id", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            ("if-none-match", "\"da39a3ee5e6b4b0d3255bfef95601890afd80709\""),
        ];
        for (name, value) in table {
            let (parts, found) = stripped("/", &[(name, value)]);
            assert_eq!(parts.headers.len(), 1, "{name}");
            assert!(found.is_empty(), "{name}: {found:?}");
        }
    }

    #[test]
    fn all_fields_of_a_name_go_and_are_noted_once() {
        let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("accept", "*/*"), ("x-api-key", "1"), ("x-api-key", "2")];
        let (parts, found) = stripped("/", &fields);
        assert_eq!(parts.headers.len(), 1);
        assert_eq!(found, ["cookie header:cookie", "api_key header:x-api-key"]);
    }

    #[test]
    fn trailers_that_carry_secrets_go_and_the_rest_stays() {
        let pat = pat();
        let mut trailers = HeaderMap::new();
        for (name, value) in [
            ("grpc-status", "0".to_owned()),
            ("grpc-message", format!("see {pat}")),
            ("grpc-status-details-bin", STANDARD.encode(format!("see {pat} there"))),
            ("digest", "sha-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=".to_owned()),
            ("x-amz-checksum-sha256", "X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=".to_owned()),
            ("content-md5", pat.clone()),
        ] {
            trailers.append(HeaderName::from_static(name), value.parse().expect("a value"));
        }
        let found: Vec<_> = strip_trailers(&mut trailers).into_iter().map(|found| found.place).collect();
        assert_eq!(found, ["trailer:grpc-message", "trailer:grpc-status-details-bin", "trailer:content-md5"]);
        let left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(strip_trailers(&mut trailers).is_empty());
    }

    #[test]
    fn query_parameters_go_by_name_or_by_format_and_the_rest_stays_as_it_was() {
        let pat = pat();
        let table = [
            ("/p?a=1&access_token=canary&b=%20x".to_owned(), "/p?a=1&b=%20x", "bearer query:access_token"),
            ("/p?api_key=canary".to_owned(), "/p", "api_key query:api_key"),
            ("/p?apiKey=canary&q=".to_owned(), "/p?q=", "api_key query:apiKey"),
            ("/p?API-KEY=canary".to_owned(), "/p", "api_key query:API-KEY"),
            ("/p?%74oken=canary".to_owned(), "/p", "bearer query:token"),
            ("/p?sig=canary".to_owned(), "/p", "unknown query:sig"),
            ("/p?client_secret=canary&x".to_owned(), "/p?x", "unknown query:client_secret"),
            ("/p?password=canary".to_owned(), "/p", "unknown query:password"),
            ("/p?X-Amz-Signature=canary&X-Amz-Date=1".to_owned(), "/p?X-Amz-Date=1", "aws_sigv4 query:X-Amz-Signature"),
            (format!("/p?q={pat}"), "/p", "github_pat query:q"),
            (format!("/p?q=a%20{pat}%20b"), "/p", "github_pat query:q"),
            (format!("/p?token={pat}"), "/p", "github_pat query:token"),
            (format!("/p?{pat}"), "/p", "github_pat query"),
            (format!("/p?key=AIza{}", "aB3-_".repeat(7)), "/p", "google_api_key query:key"),
            ("https://h.test?token=canary".to_owned(), "https://h.test/", "bearer query:token"),
        ];
        for (uri, left, noted) in &table {
            let (parts, found) = stripped(uri, &[]);
            assert_eq!(parts.uri.to_string(), *left, "{uri}");
            assert_eq!(found, [*noted], "{uri}");
        }
    }

    #[test]
    fn queries_that_carry_none_stay() {
        let table = [
            "/p?",
            "/p?a=1&&b",
            "/p?key=PROJ-12",
            "/p?page_token=abc",
            "/p?token=&code=1",
            "/p?q=%zz",
            "/p?x=a=b",
            "*",
        ];
        for uri in table {
            let (parts, found) = stripped(uri, &[]);
            assert_eq!(parts.uri.to_string(), uri);
            assert!(found.is_empty(), "{uri}: {found:?}");
        }
    }

    #[test]
    fn user_information_is_removed() {
        let (parts, found) = stripped("http://me:canary@h.test:81/p?a=1", &[]);
        assert_eq!(parts.uri.to_string(), "http://h.test:81/p?a=1");
        assert_eq!(found, ["basic userinfo"]);
        let (parts, found) = stripped(&format!("http://{}@h.test/", pat()), &[]);
        assert_eq!(parts.uri.to_string(), "http://h.test/");
        assert_eq!(found, ["github_pat userinfo"]);
        let (parts, found) = stripped("me:canary@h.test:443", &[]);
        assert_eq!(parts.uri.to_string(), "h.test:443");
        assert_eq!(found, ["basic userinfo"]);
    }

    #[test]
    fn a_secret_in_the_path_is_noted_and_left() {
        let uri = format!("/bot123456789:{}/getMe", "aB3-_".repeat(7));
        let (parts, found) = stripped(&uri, &[]);
        assert_eq!(parts.uri.to_string(), uri);
        assert_eq!(found, ["telegram path"]);
    }

    #[test]
    fn names_are_bounded_and_harmless_where_they_are_shown() {
        let pat = pat();
        let long = format!("/p?{}%0A%22x={pat}", "n".repeat(300));
        let (_, found) = stripped(&long, &[]);
        assert_eq!(found, [format!("github_pat query:{}", "n".repeat(LONGEST_SHOWN))]);
        let (_, found) = stripped(&format!("/p?a%0Ab={pat}"), &[]);
        assert_eq!(found, ["github_pat query:a?b"]);
    }

    #[test]
    fn only_so_many_are_noted_but_all_are_removed() {
        let pairs: Vec<String> = (0..200).map(|n| format!("n{n}={}", pat())).collect();
        let (parts, found) = stripped(&format!("/p?{}", pairs.join("&")), &[]);
        assert_eq!(parts.uri.to_string(), "/p");
        assert_eq!(found.len(), MOST_NOTED);
    }
}
