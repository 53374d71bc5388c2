//! Handles: what the orchestrator gives an agent so that its calls belong to a task.
//!
//! A handle is a bearer of 256 random bits. It is shown once, to who opened the task; kept is only its keyed digest, so
//! that nothing in memory, in a record or in a log can be presented in its place.

use aws_lc_rs::{hmac, rand::SystemRandom};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName};
use zeroize::Zeroizing;

/// The field in which a handle is presented.
pub const TASK: HeaderName = HeaderName::from_static("tollgate-task");

/// What a request, or the CONNECT around it, says of its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented {
    /// Nothing.
    Nothing,
    /// One handle, which may be anybody's.
    Handle(Digest),
    /// More than one.
    Several,
}

/// The keyed digest of a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// Makes handles and recognises them.
pub(super) struct Handles(hmac::Key);

impl Presented {
    /// This, or what was said before, where this says nothing.
    pub fn or(self, before: Self) -> Self {
        match self {
            Self::Nothing => before,
            Self::Handle(_) | Self::Several => self,
        }
    }
}

impl Handles {
    pub(super) fn new() -> Self {
        Self(hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect(RANDOM))
    }

    /// A new handle, and what is kept of it.
    pub(super) fn make(&self) -> (Zeroizing<String>, Digest) {
        let mut bytes = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *bytes).expect(RANDOM);
        let mut text = Zeroizing::new(String::with_capacity(64));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(*bytes, &mut text);
        let digest = self.digest(text.as_bytes());
        (text, digest)
    }

    /// Takes what is presented away from a request's fields.
    pub(super) fn take(&self, headers: &mut HeaderMap) -> Presented {
        let mut values = headers.get_all(TASK).iter();
        let presented = match (values.next(), values.next()) {
            (None, _) => return Presented::Nothing,
            (Some(value), None) => Presented::Handle(self.digest(value.as_bytes())),
            (Some(_), Some(_)) => Presented::Several,
        };
        headers.remove(TASK);
        presented
    }

    fn digest(&self, handle: &[u8]) -> Digest {
        let tag = hmac::sign(&self.0, handle);
        Digest(tag.as_ref().try_into().expect("HMAC-SHA-256 gives 32 bytes"))
    }
}

impl std::fmt::Debug for Handles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handles").finish_non_exhaustive()
    }
}

/// Lets people and scanners tell what a stray handle is.
const PREFIX: &str = "tollgate_task_";

const RANDOM: &str = "the system's random source never fails once the process has started";

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (TASK, HeaderValue::from_str(value).unwrap())).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        )
    }

    #[test]
    fn a_handle_is_recognised_by_who_made_it_and_taken_away() {
        let handles = Handles::new();
        let (text, digest) = handles.make();
        assert_eq!(text.len(), PREFIX.len() + 43);
        let mut fields = headers(&[&text]);
        assert_eq!(handles.take(&mut fields), Presented::Handle(digest));
        assert!(fields.is_empty());
        assert_ne!(Handles::new().take(&mut headers(&[&text])), Presented::Handle(digest));
        assert_ne!(handles.make().1, digest);
    }

    #[test]
    fn two_are_one_too_many_and_both_are_taken_away() {
        let handles = Handles::new();
        let mut fields = headers(&["a", "a"]);
        assert_eq!(handles.take(&mut fields), Presented::Several);
        assert!(fields.is_empty());
        assert_eq!(handles.take(&mut headers(&[])), Presented::Nothing);
    }

    #[test]
    fn what_the_request_says_comes_before_what_its_tunnel_said() {
        let (one, other) = (Presented::Handle(Digest([1; 32])), Presented::Handle(Digest([2; 32])));
        for (request, tunnel, expected) in [
            (one, other, one),
            (Presented::Nothing, other, other),
            (Presented::Several, other, Presented::Several),
            (Presented::Nothing, Presented::Nothing, Presented::Nothing),
        ] {
            assert_eq!(request.or(tunnel), expected);
        }
    }
}
