//! Decides what becomes of the secrets that were taken from a head, once the destination is known.
//!
//! What is given back goes onto the request and nowhere else: policy, records and spans never see it.

use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::{header_kind, header_place, is_mcp, mcp_kind, note, parameter_kind};
use crate::{
    config::Protocol,
    secret::{Action, Found, Mode, Treatment, body, mask::REDACTED, placeholder},
};

/// What was taken from a head.
#[derive(Default)]
pub struct Taken {
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The whole query as it came.
    pub(super) query: Option<Zeroizing<String>>,
}

/// What goes onto the request again.
#[derive(Default)]
pub struct Settled {
    /// Fields, as they came or with `REDACTED` in them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The query, where it is not what is left of it.
    pub query: Option<String>,
}

impl Taken {
    /// Keeps the fields of this name.
    pub(super) fn keep(&mut self, headers: &HeaderMap, name: &HeaderName) {
        self.headers.extend(headers.get_all(name).iter().map(|value| (name.clone(), value.clone())));
    }

    /// Does what the destination wants with each kind, and notes what was done. The head is what was left of it; the fields
    /// of the Model Context Protocol are still in it.
    ///
    /// # Errors
    /// The kind of a secret that refuses the call.
    pub fn settle(
        mut self,
        head: &mut HeaderMap,
        protocol: Protocol,
        treatment: &Treatment,
        found: &mut Vec<Found>,
    ) -> Result<Settled, &'static str> {
        self.take_mcp(head, protocol, treatment, found);
        if treatment.mode.is_none() && treatment.kinds.is_empty() {
            return Ok(Settled::default());
        }
        let mut refused = None;
        for each in found.iter_mut() {
            // It is replaced by what it stands for, and worth nothing.
            let mode = if each.kind == placeholder::KIND { Mode::Strip } else { treatment.in_head(each.kind) };
            each.action = action(mode, &each.place);
            if each.action == Action::Refuse {
                refused = refused.or(Some(each.kind));
            }
        }
        if let Some(kind) = refused {
            return Err(kind);
        }
        Ok(Settled {
            headers: self.headers.into_iter().filter_map(|field| header(treatment, field)).collect(),
            query: self.query.and_then(|query| parameters(treatment, &query)),
        })
    }

    /// Takes the fields of the Model Context Protocol that carry secrets. To a destination that does not speak it they are
    /// fields like all others. To one that does, what may pass stays where it is, because the message is held against it.
    fn take_mcp(&mut self, head: &mut HeaderMap, protocol: Protocol, treatment: &Treatment, found: &mut Vec<Found>) {
        let mut taken: Vec<HeaderName> = Vec::new();
        for (name, value) in head.iter().filter(|(name, _)| is_mcp(name.as_str())) {
            let kind = match protocol {
                Protocol::Mcp => mcp_kind(name.as_str(), value.as_bytes()),
                Protocol::Http | Protocol::Opaque => header_kind(name.as_str(), value.as_bytes()),
            };
            let Some(kind) = kind else { continue };
            note(found, kind, header_place(name), Action::Strip);
            let stays = protocol == Protocol::Mcp && treatment.in_head(kind) == Mode::Observe;
            if !stays && taken.last() != Some(name) {
                taken.push(name.clone());
            }
        }
        for name in taken {
            self.keep(head, &name);
            head.remove(name);
        }
    }
}

/// What is done at this place: user information always goes, and a path can't be changed without asking for something else.
fn action(mode: Mode, place: &str) -> Action {
    match (place, mode) {
        (_, Mode::Refuse) => Action::Refuse,
        ("path", _) => Action::Note,
        ("userinfo", _) => Action::Strip,
        (place, _) if place.strip_prefix("header:").is_some_and(is_hop) => Action::Strip,
        (_, mode) => mode.action(),
    }
}

fn header(treatment: &Treatment, (name, value): (HeaderName, HeaderValue)) -> Option<(HeaderName, HeaderValue)> {
    if is_hop(name.as_str()) {
        return None;
    }
    let Some(kind) = header_kind(name.as_str(), value.as_bytes()) else { return Some((name, value)) };
    let mut value = match treatment.in_head(kind) {
        Mode::Observe => value,
        Mode::Redact => HeaderValue::from_bytes(&redacted(value.as_bytes())).ok()?,
        Mode::Strip | Mode::Refuse => return None,
    };
    value.set_sensitive(true);
    Some((name, value))
}

/// The query with what stays in it; `None` if that is nothing but what was left.
fn parameters(treatment: &Treatment, query: &str) -> Option<String> {
    let mut written = String::with_capacity(query.len());
    let mut gave_back = false;
    for pair in query.split('&') {
        let name = pair.split('=').next().unwrap_or_default();
        let (kept, value) = match parameter_kind(pair).map(|kind| treatment.in_head(kind)) {
            None => (pair, ""),
            Some(Mode::Observe) => (pair, ""),
            // What has no name, or a secret for one, has nothing that can stay.
            Some(Mode::Redact) if name.len() < pair.len() && parameter_kind(name).is_none() => (name, REDACTED),
            Some(Mode::Redact | Mode::Strip | Mode::Refuse) => continue,
        };
        gave_back |= parameter_kind(pair).is_some();
        if !written.is_empty() {
            written.push('&');
        }
        written.push_str(kept);
        if !value.is_empty() {
            written.push('=');
            written.push_str(value);
        }
    }
    gave_back.then_some(written)
}

/// A value without its secrets; nothing is left of one that is a secret by its name alone.
fn redacted(value: &[u8]) -> Zeroizing<Vec<u8>> {
    body::redacted(value).unwrap_or_else(|| Zeroizing::new(REDACTED.as_bytes().to_vec()))
}

/// Fields that are between the agent and this sidecar, or frame the message.
fn is_hop(name: &str) -> bool {
    matches!(
        name,
        "proxy-authorization"
            | "connection"
            | "keep-alive"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "host"
            | "content-length"
            | "expect"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use base64::{Engine, engine::general_purpose::STANDARD};
    use http::Request;

    use super::super::strip;
    use super::*;

    fn pat() -> String {
        format!("ghp_{}", "aB3dE6gH9kL2".repeat(3))
    }

    fn settle(treatment: &Treatment) -> Result<(Vec<String>, Option<String>, Vec<String>), &'static str> {
        let pat = pat();
        let request = Request::builder()
            .uri(format!("http://me:canary@h.test/p?a=1&token={pat}&q=2"))
            .header("authorization", format!("Bearer {pat}"))
            .header("x-note", format!("see {pat} there"))
            .header("x-api-key", "canary")
            .header("proxy-authorization", format!("Bearer {pat}"));
        let (mut parts, ()) = request.body(()).expect("a request").into_parts();
        let mut found = Vec::new();
        let taken = strip(&mut parts, &mut found);
        let settled = taken.settle(&mut parts.headers, Protocol::Http, treatment, &mut found)?;
        let headers = settled
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        let found = found.iter().map(|each| format!("{} {}", each.place, each.action.as_str())).collect();
        Ok((headers, settled.query, found))
    }

    fn chosen(mode: Option<Mode>, kinds: &[(&'static str, Mode)]) -> Treatment {
        Treatment { mode, kinds: BTreeMap::from_iter(kinds.iter().copied()), bodies: false }
    }

    #[test]
    fn nothing_is_given_back_where_nothing_was_chosen() {
        let (headers, query, found) = settle(&Treatment::default()).expect("nothing is refused");
        assert!(headers.is_empty() && query.is_none());
        assert!(found.iter().all(|each| each.ends_with(" stripped")), "{found:?}");
    }

    #[test]
    fn what_is_observed_is_given_back_as_it_came() {
        let (headers, query, found) = settle(&chosen(Some(Mode::Observe), &[])).expect("nothing is refused");
        let pat = pat();
        let fields = [
            format!("authorization: Bearer {pat}"),
            format!("x-note: see {pat} there"),
            "x-api-key: canary".to_owned(),
        ];
        assert_eq!(headers, fields);
        assert_eq!(query.as_deref(), Some(format!("a=1&token={pat}&q=2").as_str()));
        assert!(found.contains(&"header:x-note noted".to_owned()), "{found:?}");
        assert!(found.contains(&"header:proxy-authorization stripped".to_owned()), "{found:?}");
        assert!(found.contains(&"userinfo stripped".to_owned()), "{found:?}");
    }

    #[test]
    fn what_is_redacted_keeps_its_place() {
        let (headers, query, _) = settle(&chosen(None, &[("github_pat", Mode::Redact)])).expect("nothing is refused");
        assert_eq!(headers, ["authorization: Bearer REDACTED", "x-note: see REDACTED there"]);
        assert_eq!(query.as_deref(), Some("a=1&token=REDACTED&q=2"));
    }

    #[test]
    fn a_kind_can_refuse_the_call() {
        assert_eq!(settle(&chosen(None, &[("github_pat", Mode::Refuse)])).err(), Some("github_pat"));
        assert!(settle(&chosen(None, &[("slack", Mode::Refuse)])).is_ok());
    }

    /// What is left in the head, what is given back, and what was found, of these fields.
    fn mcp(
        protocol: Protocol,
        treatment: &Treatment,
        fields: &[(&str, &str)],
    ) -> (Vec<String>, Vec<String>, Vec<String>) {
        let mut request = Request::builder().uri("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).expect("a request").into_parts();
        let mut found = Vec::new();
        let taken = strip(&mut parts, &mut found);
        let settled = taken.settle(&mut parts.headers, protocol, treatment, &mut found).expect("nothing is refused");
        let shown = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().expect("text"));
        let left = parts.headers.iter().map(shown).collect();
        let returned = settled.headers.iter().map(|(name, value)| shown((name, value))).collect();
        let found = found.iter().map(|each| format!("{} {} {}", each.kind, each.place, each.action.as_str())).collect();
        (left, returned, found)
    }

    #[test]
    fn fields_of_mcp_are_those_of_a_server_that_speaks_it() {
        const JWT: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJzZXNzaW9uIn0.aB3dE6gH9kL2aB3dE6gH9kL2";
        let (pat, usual) = (pat(), Treatment::default());
        let hidden = format!("=?base64?{}?=", STANDARD.encode(format!("tool {pat}")));
        for (name, value, http, mcp) in [
            ("mcp-session-id", "0190b6f6-9d7c-7c3e-8b1a-2f6d5c4b3a21", None, None),
            ("mcp-session-id", JWT, Some("jwt"), None),
            ("mcp-session-id", &pat, Some("github_pat"), Some("github_pat")),
            ("mcp-protocol-version", "2026-07-28", None, None),
            ("mcp-method", "tools/call", None, None),
            ("mcp-name", "postgres://me:aB3dE6gH9kL2@db/x", Some("url_password"), None),
            ("mcp-name", &hidden, Some("github_pat"), Some("github_pat")),
            ("mcp-param-key", "blue", None, None),
            ("mcp-param-key", &pat, Some("github_pat"), Some("github_pat")),
            ("mcp-param-key", JWT, Some("jwt"), Some("jwt")),
        ] {
            for (protocol, kind) in [(Protocol::Http, http), (Protocol::Mcp, mcp)] {
                let (left, returned, found) = self::mcp(protocol, &usual, &[(name, value)]);
                let expected: Vec<_> = kind.iter().map(|kind| format!("{kind} header:{name} stripped")).collect();
                assert_eq!(found, expected, "{protocol:?} {name}: {value}");
                assert_eq!(left.is_empty(), kind.is_some(), "{protocol:?} {name}: {value}");
                assert!(returned.is_empty());
            }
        }
    }

    #[test]
    fn a_field_of_mcp_that_is_observed_stays_where_its_message_is_held_against_it() {
        let fields = [("mcp-name", &*pat()), ("mcp-param-a", "b")];
        let name = format!("mcp-name: {}", pat());
        let (left, returned, found) = mcp(Protocol::Mcp, &chosen(Some(Mode::Observe), &[]), &fields);
        assert_eq!((left, returned.is_empty()), (vec![name.clone(), "mcp-param-a: b".into()], true));
        assert_eq!(found, ["github_pat header:mcp-name noted"]);
        // Elsewhere policy sees what is left, and that is no secret.
        let (left, returned, _) = mcp(Protocol::Http, &chosen(Some(Mode::Observe), &[]), &fields);
        assert_eq!((left, returned), (vec!["mcp-param-a: b".to_owned()], vec![name]));
        let (left, returned, _) = mcp(Protocol::Mcp, &chosen(Some(Mode::Redact), &[]), &fields);
        assert_eq!((left, returned), (vec!["mcp-param-a: b".to_owned()], vec!["mcp-name: REDACTED".to_owned()]));
    }
}
