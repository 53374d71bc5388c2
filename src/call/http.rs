//! Brings an HTTP request into its one canonical form, or refuses it.
//!
//! This is the one place between the HTTP library and everything else that interprets a request's head: exactly one host
//! and port, one spelling of the path, a known method, one framing. What has two readings is refused with its reason, so
//! that policy, record and origin can't disagree about what was asked for.

mod headers;
mod host;
mod path;

use std::{fmt, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Version,
    header::HOST,
    request::Parts,
    uri::{PathAndQuery, Uri},
};

use super::Effect;
use crate::refusal::Refusal;

pub use headers::{
    is_grpc, is_websocket, may_be_seen, strip_hop_by_hop, strip_request, strip_request_trailers,
    strip_response_trailers, strip_twins,
};
pub use host::{CanonicalHost, authority, canonical_host};

/// Whether a leg is plain or TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// As it stands in URLs and policy input.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL of this scheme means when it names none.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// The value of `Host` or `:authority` that names this canonical host and port: without the scheme's default port.
    pub fn authority(self, host: &str, port: u16) -> String {
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        if port == self.default_port() { format!("{open}{host}{close}") } else { format!("{open}{host}{close}:{port}") }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One request's head in canonical form.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpCall {
    /// One of the known methods.
    pub method: Method,
    /// Of the leg to the agent, and so of the one to the origin.
    pub scheme: Scheme,
    /// Canonical; an IPv6 address stands without brackets.
    pub host: Arc<str>,
    /// Never 0.
    pub port: u16,
    /// Percent-encoded in one way; what is forwarded.
    pub path: String,
    /// The path's segments, decoded. A trailing slash is an empty last one; `/` has none.
    pub segments: Vec<String>,
    /// The query's pairs, decoded, in order.
    pub query: Vec<(String, String)>,
    /// The query as it came; what is forwarded.
    pub raw_query: Option<String>,
}

/// How a request reached us: what its connection already says about it.
#[derive(Debug, Clone, Copy)]
pub struct Leg<'a> {
    /// Whether TLS was opened on this connection.
    pub scheme: Scheme,
    /// The canonical host and the port that CONNECT, the original destination or SNI settled, if any did.
    pub expected: Option<(&'a Arc<str>, u16)>,
    /// Whether the request was sent to the explicit proxy, so that its target must be a whole `http` URL.
    pub proxy: bool,
}

/// Brings a request's head into canonical form.
pub fn canonical(parts: &Parts, leg: &Leg<'_>) -> Result<HttpCall, Refusal> {
    if !matches!(parts.version, Version::HTTP_10 | Version::HTTP_11 | Version::HTTP_2) {
        return Err(Refusal::MalformedRequest("only HTTP/1 and HTTP/2 are accepted"));
    }
    if !is_known_method(&parts.method) {
        return Err(Refusal::MalformedRequest(
            "the method is not one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, QUERY",
        ));
    }
    headers::check(&parts.headers)?;
    check_scheme(&parts.uri, leg)?;
    let (host, port) = one_authority(parts, leg)?;
    let path::Path { text, segments } = path::Path::parse(parts.uri.path())?;
    let raw_query = parts.uri.query();
    Ok(HttpCall {
        method: parts.method.clone(),
        scheme: leg.scheme,
        host,
        port,
        path: text,
        segments,
        query: raw_query.map(path::query).transpose()?.unwrap_or_default(),
        raw_query: raw_query.map(str::to_owned),
    })
}

/// What comes back into a head after it was brought into its canonical form: held against the same rules as if it had
/// never left. Fields that a request loses here are lost.
///
/// # Errors
/// As [`canonical`].
pub fn readmit(
    fields: Vec<(HeaderName, HeaderValue)>,
    query: Option<&str>,
) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    if let Some(query) = query {
        path::query(query)?;
    }
    if fields.is_empty() {
        return Ok(fields);
    }
    let mut admitted = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        admitted.append(name, value);
    }
    headers::check(&admitted)?;
    headers::strip_request(&mut admitted)?;
    Ok(admitted.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

impl HttpCall {
    /// What the method does (RFC 9110 section 9.2; QUERY is safe by its own specification).
    pub fn effect(&self) -> Effect {
        match self.method {
            Method::GET | Method::HEAD | Method::OPTIONS | Method::QUERY => Effect::Read,
            Method::POST | Method::PUT | Method::PATCH => Effect::Write,
            Method::DELETE => Effect::Destructive,
            _ => Effect::Admin,
        }
    }

    /// The target that is forwarded: the canonical path and the query as it came.
    pub fn origin_form(&self) -> Result<PathAndQuery, Refusal> {
        let length = self.path.len() + self.raw_query.as_ref().map_or(0, |query| query.len() + 1);
        let mut target = String::with_capacity(length);
        target.push_str(&self.path);
        if let Some(query) = &self.raw_query {
            target.push('?');
            target.push_str(query);
        }
        // Escaping may have made it longer than a target can be.
        PathAndQuery::try_from(target).map_err(|_| Refusal::MalformedRequest("the target is too long or not valid"))
    }

    /// Whether a segment holds a slash that separates nothing here but may at an origin. Where a credential is put onto the
    /// call, that is one reading too many.
    pub fn has_encoded_slash(&self) -> bool {
        self.segments.iter().any(|segment| path::holds_slash(segment))
    }
}

impl fmt::Debug for HttpCall {
    /// Without the query, whose values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, scheme, host, port, path, .. } = self;
        f.debug_struct("HttpCall")
            .field("method", method)
            .field("target", &format_args!("{scheme}://{host}:{port}{path}"))
            .finish_non_exhaustive()
    }
}

/// Methods are case-sensitive, so `get` is unknown. TRACE would reflect an injected secret.
fn is_known_method(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS
            | Method::QUERY
    )
}

fn check_scheme(uri: &Uri, leg: &Leg<'_>) -> Result<(), Refusal> {
    match uri.scheme_str() {
        Some(scheme) if scheme.eq_ignore_ascii_case(leg.scheme.as_str()) => Ok(()),
        Some(scheme) if leg.proxy && scheme.eq_ignore_ascii_case("https") => {
            Err(Refusal::UnsupportedProtocol("an https URL can't be requested from the proxy directly; use CONNECT"))
        }
        Some(_) if leg.proxy => {
            Err(Refusal::UnsupportedProtocol("the proxy serves http URLs, and https through CONNECT"))
        }
        Some(_) => Err(Refusal::MalformedRequest("the request's scheme is not that of its connection")),
        None if leg.proxy => Err(Refusal::MalformedRequest("a request to the proxy must name its whole URL")),
        None if uri.authority().is_some() => Err(Refusal::MalformedRequest("the request's target is not a path")),
        None => Ok(()),
    }
}

/// The target's authority and `Host` may both be there, but they must say the same, and what the connection was opened
/// for.
fn one_authority(parts: &Parts, leg: &Leg<'_>) -> Result<(Arc<str>, u16), Refusal> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let header = hosts.next().map(host_text).transpose()?;
    if hosts.next().is_some() {
        return Err(Refusal::MalformedRequest("the request has two Host fields"));
    }
    let default_port = leg.scheme.default_port();
    let target = parts.uri.authority().map(http::uri::Authority::as_str);
    let named = target.or(header).ok_or(Refusal::MalformedRequest("the request names no host"))?;
    let also = header.filter(|header| *header != named);
    if let Some((host, port)) = leg.expected
        && also.is_none()
        && host::spells(named, host, port, default_port)
    {
        return Ok((Arc::clone(host), port));
    }
    let (host, port) = authority(named, Some(default_port))?;
    if let Some(text) = also
        && authority(text, Some(default_port))? != (host.clone(), port)
    {
        return Err(Refusal::NameMismatch("the request's target and its Host field name different hosts"));
    }
    match leg.expected {
        None => Ok((host.into_string().into(), port)),
        Some((expected, at)) if **expected == *host.as_str() && at == port => Ok((Arc::clone(expected), port)),
        Some(_) => {
            Err(Refusal::NameMismatch("the request names another host or port than its connection was opened for"))
        }
    }
}

fn host_text(value: &HeaderValue) -> Result<&str, Refusal> {
    std::str::from_utf8(value.as_bytes()).map_err(|_| Refusal::MalformedRequest("the Host field is not a host name"))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use http::Request;
    use proptest::prelude::*;

    use super::*;

    static GITHUB: LazyLock<Arc<str>> = LazyLock::new(|| "api.github.com".into());
    const PLAIN: Leg<'_> = Leg { scheme: Scheme::Http, expected: None, proxy: false };
    const PROXY: Leg<'_> = Leg { scheme: Scheme::Http, expected: None, proxy: true };

    fn tls() -> Leg<'static> {
        Leg { scheme: Scheme::Https, expected: Some((&GITHUB, 443)), proxy: false }
    }

    fn parts(method: &str, target: &str, hosts: &[&str]) -> Parts {
        let request = Request::builder().method(method).uri(target);
        hosts.iter().fold(request, |request, host| request.header(HOST, *host)).body(()).unwrap().into_parts().0
    }

    fn outcome(leg: &Leg<'_>, method: &str, target: &str, hosts: &[&str]) -> String {
        match canonical(&parts(method, target, hosts), leg) {
            Ok(call) => {
                let authority = call.scheme.authority(&call.host, call.port);
                format!("{}://{authority}{}", call.scheme, call.origin_form().unwrap())
            }
            Err(refusal) => refusal.label().to_owned(),
        }
    }

    #[test]
    fn a_plain_request_is_brought_into_canonical_form() {
        let call = canonical(&parts("GET", "/Repos/%6f?q=a+b&q=c", &["API.github.com.:443"]), &tls()).unwrap();
        assert_eq!((&*call.host, call.port, call.path.as_str()), ("api.github.com", 443, "/Repos/o"));
        assert_eq!(call.segments, ["Repos", "o"]);
        assert_eq!(call.query, [("q".to_owned(), "a b".to_owned()), ("q".to_owned(), "c".to_owned())]);
        assert_eq!(call.origin_form().unwrap(), "/Repos/o?q=a+b&q=c");
        assert!(!call.has_encoded_slash());
    }

    #[test]
    fn every_request_has_exactly_one_authority() {
        let table: [(&Leg<'_>, &str, &[&str], &str); 33] = [
            (&tls(), "/", &["api.github.com"], "https://api.github.com/"),
            (&tls(), "/", &["api.github.com:443"], "https://api.github.com/"),
            (&tls(), "https://api.github.com/x", &["api.github.com"], "https://api.github.com/x"),
            (&tls(), "https://API.github.com:443/x", &["api.github.com."], "https://api.github.com/x"),
            (&tls(), "HTTPS://api.github.com/x", &[], "https://api.github.com/x"),
            (&tls(), "/", &["evil.test"], "name_mismatch"),
            (&tls(), "/", &["api.github.com:8443"], "name_mismatch"),
            (&tls(), "https://evil.test/", &["api.github.com"], "name_mismatch"),
            (&tls(), "https://api.github.com/", &["evil.test"], "name_mismatch"),
            (&tls(), "https://evil.test/", &["evil.test"], "name_mismatch"),
            (&tls(), "https://api.github.com/", &["api.github.com:444"], "name_mismatch"),
            (&tls(), "http://api.github.com/", &["api.github.com"], "malformed_request"),
            (&tls(), "/", &["api.github.com", "api.github.com"], "malformed_request"),
            (&tls(), "/", &["api.github.com", "evil.test"], "malformed_request"),
            (&tls(), "/", &[], "malformed_request"),
            (&tls(), "/", &[""], "malformed_request"),
            (&tls(), "/", &["user@api.github.com"], "malformed_request"),
            (&tls(), "https://user@api.github.com/", &["api.github.com"], "malformed_request"),
            (&tls(), "https://api.github.com/", &["user@api.github.com"], "malformed_request"),
            (&tls(), "api.github.com:443", &["api.github.com"], "malformed_request"),
            (&tls(), "*", &["api.github.com"], "malformed_request"),
            (&PLAIN, "/", &["b.test:8080"], "http://b.test:8080/"),
            (&PLAIN, "/", &["[::1]"], "http://[::1]/"),
            (&PLAIN, "/", &["[::1]:81"], "http://[::1]:81/"),
            (&PLAIN, "/", &["0x7f.1"], "malformed_request"),
            (&PLAIN, "/", &["2130706433"], "malformed_request"),
            (&PROXY, "http://b.test/x?y", &["b.test"], "http://b.test/x?y"),
            (&PROXY, "http://b.test", &["b.test"], "http://b.test/"),
            (&PROXY, "http://b.test:80/", &["B.test"], "http://b.test/"),
            (&PROXY, "/x", &["b.test"], "malformed_request"),
            (&PROXY, "https://b.test/", &["b.test"], "unsupported_protocol"),
            (&PROXY, "ftp://b.test/", &["b.test"], "unsupported_protocol"),
            (&PROXY, "http://b.test/", &["c.test"], "name_mismatch"),
        ];
        for (leg, target, hosts, expected) in table {
            assert_eq!(outcome(leg, "GET", target, hosts), expected, "{leg:?} {target} {hosts:?}");
        }
    }

    #[test]
    fn an_unknown_method_is_refused() {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"] {
            assert_eq!(outcome(&tls(), method, "/", &["api.github.com"]), "https://api.github.com/", "{method}");
        }
        for method in ["TRACE", "CONNECT", "get", "Post", "PROPFIND", "GETX", "TRACK", "DEBUG", "LINK"] {
            assert_eq!(outcome(&tls(), method, "/", &["api.github.com"]), "malformed_request", "{method}");
        }
        assert_eq!(outcome(&tls(), "OPTIONS", "*", &["api.github.com"]), "malformed_request");
    }

    #[test]
    fn an_effect_follows_from_the_method() {
        for (method, effect) in [
            ("GET", Effect::Read),
            ("QUERY", Effect::Read),
            ("POST", Effect::Write),
            ("PATCH", Effect::Write),
            ("DELETE", Effect::Destructive),
        ] {
            let call = canonical(&parts(method, "/", &["api.github.com"]), &tls()).unwrap();
            assert_eq!(call.effect(), effect, "{method}");
        }
    }

    #[test]
    fn an_http2_authority_must_equal_the_host_field() {
        let mut head = parts("GET", "https://api.github.com/", &["evil.test"]);
        head.version = Version::HTTP_2;
        assert!(matches!(canonical(&head, &tls()), Err(Refusal::NameMismatch(_))));
        head.headers.clear();
        assert!(canonical(&head, &tls()).is_ok());
        head.version = Version::HTTP_3;
        assert!(matches!(canonical(&head, &tls()), Err(Refusal::MalformedRequest(_))));
    }

    #[test]
    fn attacks_on_the_head_are_refused() {
        let table =
            [("x-http-method-override", "DELETE"), ("content_length", "0"), ("transfer-encoding", "gzip, chunked")];
        for (name, value) in table {
            let mut head = parts("GET", "/", &["api.github.com"]);
            head.headers.insert(name, HeaderValue::from_static(value));
            assert!(matches!(canonical(&head, &tls()), Err(Refusal::MalformedRequest(_))), "{name}");
        }
        for target in ["/a/../b", "//evil.test/", "/%2e%2e/b", "/a\\b", "/?_method=DELETE", "/?a=%zz"] {
            assert_eq!(outcome(&tls(), "GET", target, &["api.github.com"]), "malformed_request", "{target}");
        }
    }

    #[test]
    fn a_debug_text_holds_no_query() {
        let call = canonical(&parts("GET", "/a?token=canary", &["api.github.com"]), &tls()).unwrap();
        assert!(!format!("{call:?}").contains("canary"));
    }

    proptest! {
        #[test]
        fn what_is_forwarded_canonicalises_to_itself(raw in "/[a-zA-Z0-9/.;%é~-]{0,20}(\\?[a-z=&+%0-9;]{0,20})?") {
            let Ok(request) = Request::builder().uri(&raw).header(HOST, "api.github.com").body(()) else { return Ok(()) };
            let (mut head, ()) = request.into_parts();
            if let Ok(call) = canonical(&head, &tls()) {
                head.uri = call.origin_form().unwrap().into();
                prop_assert_eq!(canonical(&head, &tls()).unwrap(), call);
            }
        }
    }
}
