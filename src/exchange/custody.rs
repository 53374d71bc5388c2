//! What stays with us of the answer to a call that carried a credential.
//!
//! A destination that we authenticate to answers us, not the agent: its cookies and challenges are not passed on. The
//! credential itself is taken out of every field and of the body, however it is written there, and given up when it was
//! found: others may have seen it. What can't be looked through is refused.

use std::{borrow::Cow, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{self, Entry},
    response::Parts,
};
use hyper::{body::Incoming, ext::ReasonPhrase};
use tracing::warn;

use crate::{
    audit::AnswerFacts,
    body::{ResponseBody, coding::Coding},
    credential::Credential,
    refusal::Refusal,
    secret::scrub::Scrubber,
    sidecar::Sidecar,
};

/// Looks after the credential of one call until its answer has passed.
pub struct Custody {
    sidecar: Arc<Sidecar>,
    credential: Arc<Credential>,
}

impl Custody {
    /// For a call that carries this credential.
    pub fn new(sidecar: &Arc<Sidecar>, credential: Arc<Credential>) -> Self {
        Self { sidecar: Arc::clone(sidecar), credential }
    }

    /// Keeps what is ours of an answer's head. Returns the coding that its body has to be freed from.
    ///
    /// # Errors
    /// [`Refusal::OriginCoding`] when the body can't be looked through.
    pub fn keep(&self, parts: &mut Parts, facts: &mut AnswerFacts) -> Result<Option<Coding>, Refusal> {
        self.credential.note_nonce(&parts.headers);
        withhold(&mut parts.headers, facts);
        if self.credential.needles().is_none() {
            return Ok(None);
        }
        // A text that no client reads, and that can't be looked through like the others.
        parts.extensions.remove::<ReasonPhrase>();
        let coding = coding(parts)?;
        if coding.is_some() {
            describe_decoded(&mut parts.headers);
        }
        self.scrub("header", &mut parts.headers, facts);
        Ok(coding)
    }

    /// Keeps what is ours of what comes behind a body.
    pub fn keep_trailers(&self, trailers: &mut HeaderMap, facts: &mut AnswerFacts) {
        withhold(trailers, facts);
        self.scrub("trailer", trailers, facts);
    }

    /// What looks for it in what comes after an upgrade.
    pub fn scrubber(&self) -> Option<Scrubber> {
        self.credential.needles().map(|needles| Scrubber::new(Arc::clone(needles)))
    }

    /// The body of an answer whose head was kept.
    pub fn body(&self, body: Incoming, coding: Option<Coding>) -> ResponseBody {
        match self.credential.needles() {
            Some(needles) if !hyper::body::Body::is_end_stream(&body) => ResponseBody::scrubbed(body, coding, needles),
            _ => ResponseBody::streamed(body),
        }
    }

    /// Takes the credential out of every field. One whose name holds it goes whole.
    fn scrub(&self, kind: &'static str, fields: &mut HeaderMap, facts: &mut AnswerFacts) {
        let Some(needles) = self.credential.needles() else { return };
        let mut named = Vec::new();
        for (name, value) in fields.iter_mut() {
            if needles.is_in_name(name.as_str().as_bytes()) {
                named.push(name.clone());
            } else if let Some((redacted, count)) = needles.redacted(value.as_bytes()) {
                *value = HeaderValue::from_bytes(&redacted).expect("only visible characters took others' places");
                self.found(facts, place(kind, name), count);
            }
        }
        for name in named {
            if let Entry::Occupied(field) = fields.entry(name) {
                field.remove_entry_mult();
            }
            self.found(facts, Cow::Borrowed(kind), 1);
        }
    }

    /// The credential stood in the answer. It is given up, once for each call.
    pub fn found(&self, facts: &mut AnswerFacts, place: Cow<'static, str>, count: u64) {
        if facts.scrubbed.is_empty() {
            warn!(credential = &*self.credential.name, place = &*place, "an injected secret came back; it is rotated");
            self.sidecar.credentials().rotate(&self.credential);
        }
        facts.add(place, count);
    }
}

fn withhold(fields: &mut HeaderMap, facts: &mut AnswerFacts) {
    for name in OURS {
        if fields.remove(name).is_some() && !facts.withheld.contains(&name) {
            facts.withheld.push(name);
        }
    }
}

/// The coding that the body has to be freed from.
fn coding(parts: &Parts) -> Result<Option<Coding>, Refusal> {
    let headers = &parts.headers;
    let mut framing = headers.get_all(header::TRANSFER_ENCODING).iter();
    if framing.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Refusal::OriginCoding("the destination's answer has a transfer coding that can't be undone"));
    }
    for name in ["grpc-encoding", "connect-content-encoding"] {
        if headers.get_all(name).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Refusal::OriginCoding("the destination compresses messages that did not ask for it"));
        }
    }
    let unknown = "the destination's answer has a content coding that can't be undone";
    let coding = Coding::of(headers).map_err(|_| Refusal::OriginCoding(unknown))?;
    if coding.is_some() && parts.status == StatusCode::PARTIAL_CONTENT {
        return Err(Refusal::OriginCoding("a part of a compressed answer can't be decoded"));
    }
    Ok(coding)
}

/// The fields that say something of the compressed text, which does not pass.
fn describe_decoded(headers: &mut HeaderMap) {
    for name in [header::CONTENT_ENCODING, header::CONTENT_LENGTH, header::ACCEPT_RANGES] {
        headers.remove(name);
    }
    for name in ["content-md5", "digest", "content-digest", "repr-digest"] {
        headers.remove(name);
    }
    // The same meaning, but not the same bytes (RFC 9110 section 8.8.1).
    if let Some(tag) = headers.get_mut(header::ETAG)
        && !tag.as_bytes().starts_with(b"W/")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        *tag = weak;
    }
}

/// The origin chooses names, so what is shown of them is short.
fn place(kind: &'static str, name: &HeaderName) -> Cow<'static, str> {
    let name = name.as_str();
    Cow::Owned(format!("{kind}:{}", &name[..name.floor_char_boundary(LONGEST_SHOWN)]))
}

/// What of an answer is for whoever authenticates: state and challenges.
const OURS: [&str; 6] =
    ["set-cookie", "set-cookie2", "www-authenticate", "proxy-authenticate", "authentication-info", "dpop-nonce"];

const LONGEST_SHOWN: usize = 48;
