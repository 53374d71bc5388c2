//! Decides what becomes of the secrets that were taken from a head, once the destination is known.
//!
//! What is given back goes onto the request and nowhere else: policy, records and spans never see it.

use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::{header_kind, parameter_kind};
use crate::secret::{Action, Found, Mode, Treatment, body, mask::REDACTED, placeholder};

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

    /// Does what the destination wants with each kind, and notes what was done.
    ///
    /// # Errors
    /// The kind of a secret that refuses the call.
    pub fn settle(self, treatment: &Treatment, found: &mut [Found]) -> Result<Settled, &'static str> {
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
        let settled = taken.settle(treatment, &mut found)?;
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
}
