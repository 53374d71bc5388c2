//! Takes away what the agent brought.
//!
//! [`strip`] removes headers, query parameters and user information that carry secrets, and notes the kind and place of
//! each, never its value. What is noted here is all that policy, records and spans learn. What must travel on although it
//! holds a secret (a path, a tool's arguments) is shown to them without it: see [`mask`].

pub mod body;
pub mod detect;
pub mod mask;
pub mod placeholder;
pub mod rules;
pub mod scrub;
pub mod strip;
pub mod treatment;

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

pub use treatment::{Action, Mode, Treatment};

/// A secret that the agent sent: what kind, and where it stood. Never its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Found {
    /// E.g. `github_pat`, `bearer`, `basic`, `cookie`, `unknown`.
    pub kind: &'static str,
    /// E.g. `header:authorization`, `query:access_token`, `userinfo`, `path`, `body:/a/0`.
    pub place: Cow<'static, str>,
    /// What was done with it.
    pub action: Action,
}

/// The path as policy, records and spans may show it: a secret of a known format in it is `REDACTED`.
pub fn redact_path(path: &str) -> Cow<'_, str> {
    if segment_kinds(path).next().is_none() {
        return Cow::Borrowed(path);
    }
    let mut redacted = String::with_capacity(path.len());
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            redacted.push('/');
        }
        redacted.push_str(&mask::encoded_segment(segment));
    }
    Cow::Owned(redacted)
}

/// A text of the agent's as records and spans may show it: `REDACTED` where it is a secret of a known format.
pub fn redact(text: &str) -> &str {
    if detect::find(text.as_bytes()).is_some() { mask::REDACTED } else { text }
}

/// The kinds of the secrets that stand in this path, which can't be removed without making another call of it.
fn segment_kinds(path: &str) -> impl Iterator<Item = &'static str> + '_ {
    path.split('/').filter_map(segment_kind)
}

fn segment_kind(segment: &str) -> Option<&'static str> {
    let decoded: Cow<'_, [u8]> = percent_decode_str(segment).into();
    detect::find(&decoded).or_else(|| detect::is_telegram_segment(&decoded).then_some("telegram"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_secrets_is_shown_as_it_is() {
        for path in ["/", "*", "", "/repos/o/r/issues", "/commits/da39a3ee5e6b4b0d3255bfef95601890afd80709", "/a%20b"] {
            assert!(matches!(redact_path(path), Cow::Borrowed(same) if same == path), "{path}");
        }
    }

    #[test]
    fn secrets_in_a_path_are_never_shown() {
        let pat = format!("ghp_{}", "aB3".repeat(12));
        let bot = format!("bot123456789:{}", "aB3-_".repeat(7));
        let hidden = pat.replace('_', "%5F");
        for secret in [&pat, &bot, &hidden] {
            assert_eq!(redact_path(&format!("/v1/{secret}/send")), "/v1/REDACTED/send");
        }
        assert_eq!(redact_path(&format!("/x/token={pat}")), "/x/token=REDACTED");
    }
}
