//! Where a call stands in a trace: W3C Trace Context, level 1.
//!
//! What the agent says is a claim: it is taken up where it is exactly what the standard says and dropped otherwise, as
//! if it had not been sent. It joins traces and decides nothing.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Identifies a trace. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

/// Identifies a span within a trace. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

/// The trace that a call belongs to, with the identifier of our own span in it.
#[derive(Debug, Clone)]
pub struct TraceContext {
    trace_id: TraceId,
    span_id: SpanId,
    parent: Option<SpanId>,
    sampled: bool,
}

impl TraceContext {
    /// A new trace that begins here.
    pub fn root() -> Self {
        let trace_id = TraceId(u128::from(fastrand::u64(1..)) << 64 | u128::from(fastrand::u64(..)));
        Self { trace_id, span_id: SpanId::random(), parent: None, sampled: true }
    }

    /// The trace that the agent's headers name, with a span of ours below theirs; a new one where they name none.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let Some((trace_id, parent, sampled)) = single(headers, &TRACEPARENT).and_then(|v| parse(v.as_bytes())) else {
            return Self::root();
        };
        Self { trace_id, span_id: SpanId::random(), parent: Some(parent), sampled }
    }

    /// The trace.
    pub fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// Our own span: the parent of whatever the origin does.
    pub fn span_id(&self) -> SpanId {
        self.span_id
    }

    /// The agent's span, where it named one.
    pub fn parent(&self) -> Option<SpanId> {
        self.parent
    }

    /// Whether spans of this trace are exported.
    pub fn sampled(&self) -> bool {
        self.sampled
    }

    /// The header that makes the origin's spans children of ours.
    pub fn traceparent(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex(&self.trace_id.0.to_be_bytes(), &mut text[3..35]);
        hex(&self.span_id.0.to_be_bytes(), &mut text[36..52]);
        text[54] = b'0' + u8::from(self.sampled);
        HeaderValue::from_bytes(&text).expect("hex digits and dashes are valid in a header")
    }

    /// Puts this context onto a request in place of whatever it carried. The vendors' part is passed along as it stands
    /// there now, because secrets were taken from the fields since they came.
    pub fn apply(&self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, self.traceparent());
        match self.parent.and_then(|_| state(headers)) {
            Some(state) => headers.insert(TRACESTATE, state),
            None => headers.remove(TRACESTATE),
        };
    }
}

impl SpanId {
    /// A new one.
    pub fn random() -> Self {
        Self(fastrand::u64(1..))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 32];
        hex(&self.0.to_be_bytes(), &mut text);
        f.write_str(std::str::from_utf8(&text).expect("hex digits are ASCII"))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 16];
        hex(&self.0.to_be_bytes(), &mut text);
        f.write_str(std::str::from_utf8(&text).expect("hex digits are ASCII"))
    }
}

/// Writes bytes as lower-case hex digits. `to` is twice as long as `from`.
pub(crate) fn hex(from: &[u8], to: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in from.iter().zip(to.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// The value of a header that may stand there only once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Version, trace, parent and flags; a version to come may have more behind them.
fn parse(text: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let (head, rest) = text.split_at_checked(55)?;
    if head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
        return None;
    }
    let version = number(&head[..2])?;
    if version == 0xff || (version == 0 && !rest.is_empty()) || rest.first().is_some_and(|b| *b != b'-') {
        return None;
    }
    let trace_id = number(&head[3..35]).filter(|id| *id != 0)?;
    let parent = number(&head[36..52]).filter(|id| *id != 0)?;
    let flags = number(&head[53..])?;
    Some((TraceId(trace_id), SpanId(parent as u64), flags & 1 == 1))
}

/// Lower-case hex digits only; the standard allows no others.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |sum: u128, digit| match digit {
        b'0'..=b'9' => Some(sum << 4 | u128::from(digit - b'0')),
        b'a'..=b'f' => Some(sum << 4 | u128::from(digit - b'a' + 10)),
        _ => None,
    })
}

/// The vendors' part, passed along whole or not at all.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(&TRACESTATE).iter();
    let first = values.next()?;
    let mut joined = None;
    for value in values {
        let all: &mut Vec<u8> = joined.get_or_insert_with(|| first.as_bytes().to_vec());
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
        if all.len() > STATE_LIMIT {
            return None;
        }
    }
    let state = match joined {
        None => first.clone(),
        Some(all) => HeaderValue::from_maybe_shared(bytes::Bytes::from(all)).ok()?,
    };
    let text = state.as_bytes();
    let printable = text.iter().all(|b| matches!(b, b' '..=b'~' | b'\t'));
    let members = text.split(|b| *b == b',').count();
    (!text.is_empty() && text.len() <= STATE_LIMIT && printable && members <= STATE_MEMBERS).then_some(state)
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const STATE_LIMIT: usize = 512;
const STATE_MEMBERS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    fn headers(parents: &[&str], states: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, HeaderValue::from_str(parent).expect("valid in a header"));
        }
        for state in states {
            headers.append(TRACESTATE, HeaderValue::from_str(state).expect("valid in a header"));
        }
        headers
    }

    #[test]
    fn a_valid_parent_is_joined() {
        for (text, sampled) in [
            (format!("00-{TRACE}-{PARENT}-01"), true),
            (format!("00-{TRACE}-{PARENT}-00"), false),
            (format!("00-{TRACE}-{PARENT}-03"), true),
            (format!("01-{TRACE}-{PARENT}-01"), true),
            (format!("cc-{TRACE}-{PARENT}-01-what-is-to-come"), true),
        ] {
            let context = TraceContext::from_headers(&headers(&[&text], &[]));
            assert_eq!(context.trace_id().to_string(), TRACE, "{text}");
            assert_eq!(context.parent().map(|p| p.to_string()).as_deref(), Some(PARENT), "{text}");
            assert_eq!(context.sampled(), sampled, "{text}");
            assert_ne!(context.span_id().to_string(), PARENT);
            let sent = context.traceparent();
            let flag = if sampled { "01" } else { "00" };
            assert_eq!(sent.to_str().ok(), Some(format!("00-{TRACE}-{}-{flag}", context.span_id()).as_str()));
        }
    }

    #[test]
    fn an_invalid_parent_begins_a_new_trace_and_drops_the_state() {
        let zero = "0".repeat(32);
        for parents in [
            vec![],
            vec![String::new()],
            vec![format!("00-{TRACE}-{PARENT}")],
            vec![format!("00-{TRACE}-{PARENT}-1")],
            vec![format!("00-{TRACE}-{PARENT}-01-")],
            vec![format!("00-{TRACE}-{PARENT}-01x")],
            vec![format!("01-{TRACE}-{PARENT}-01x")],
            vec![format!("ff-{TRACE}-{PARENT}-01")],
            vec![format!("00-{}-{PARENT}-01", TRACE.to_uppercase())],
            vec![format!("00-{zero}-{PARENT}-01")],
            vec![format!("00-{TRACE}-{}-01", &zero[..16])],
            vec![format!("00-{TRACE}-{PARENT}-0g")],
            vec![format!("00_{TRACE}-{PARENT}-01")],
            vec![format!(" 0-{TRACE}-{PARENT}-01")],
            vec![format!("00-{TRACE}-{PARENT}-01"), format!("00-{TRACE}-{PARENT}-01")],
        ] {
            let texts: Vec<&str> = parents.iter().map(String::as_str).collect();
            let context = TraceContext::from_headers(&headers(&texts, &["a=b"]));
            assert_ne!(context.trace_id().to_string(), TRACE, "{texts:?}");
            assert!(context.parent().is_none() && context.sampled(), "{texts:?}");
            let mut sent = headers(&texts, &["a=b"]);
            context.apply(&mut sent);
            assert!(!sent.contains_key(TRACESTATE), "{texts:?}");
            assert_eq!(sent.get_all(TRACEPARENT).iter().count(), 1);
        }
    }

    #[test]
    fn state_is_passed_along_up_to_its_bounds() {
        let parent = format!("00-{TRACE}-{PARENT}-01");
        let long = format!("a={}", "b".repeat(STATE_LIMIT));
        let many = vec!["a=b"; STATE_MEMBERS + 1].join(",");
        for (states, passed) in [
            (vec!["a=b"], Some("a=b")),
            (vec!["a=b", "c=d"], Some("a=b,c=d")),
            (vec![], None),
            (vec![""], None),
            (vec![long.as_str()], None),
            (vec![many.as_str()], None),
            (vec!["a=b", long.as_str()], None),
        ] {
            let mut sent = headers(&[&parent], &states);
            TraceContext::from_headers(&sent).apply(&mut sent);
            assert_eq!(sent.get(TRACESTATE).and_then(|v| v.to_str().ok()), passed, "{states:?}");
            assert!(sent.get_all(TRACESTATE).iter().count() <= 1);
            sent.remove(TRACESTATE);
            TraceContext::from_headers(&headers(&[&parent], &states)).apply(&mut sent);
            assert!(!sent.contains_key(TRACESTATE), "what was taken away does not come back");
        }
    }

    #[test]
    fn identifiers_are_never_zero_nor_repeated() {
        let (one, other) = (TraceContext::root(), TraceContext::root());
        assert!(one.trace_id() != other.trace_id() && one.span_id() != other.span_id());
        assert!(one.trace_id().0 != 0 && one.span_id().0 != 0);
    }
}
