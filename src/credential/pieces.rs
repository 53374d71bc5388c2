//! What of a structured value is worth something alone: the key of `Token token=KEY`, the password of `Basic BASE64`.
//!
//! An origin that was given the whole may answer with a part of it. Which part is the secret is not known here, so all
//! that could be one are looked for.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

use crate::secret::detect;

/// The parts of a value that may be a secret of their own: what stands behind each `=`, and each pair in base64 with its
/// password.
pub(super) fn pieces(value: &str) -> Vec<Zeroizing<String>> {
    let assigned = || value.match_indices('=').map(|(at, _)| assigned(&value[at + 1..]));
    let mut pieces: Vec<_> = assigned().filter(|part| !part.is_empty()).map(owned).collect();
    for word in value.split(is_separator).chain(assigned()) {
        pieces.extend(pair(word).iter().flat_map(|pair| secrets(pair)));
    }
    pieces
}

/// What is assigned where this text begins: a quoted text, or all up to the next separator. Padding is no part of it,
/// because it may be left out.
fn assigned(text: &str) -> &str {
    let mut chars = text.chars();
    let part = match chars.next() {
        Some(quote @ ('"' | '\'')) => chars.as_str().split(quote).next(),
        _ => text.split(is_separator).next(),
    };
    part.unwrap_or_default().trim_end_matches('=')
}

/// `user:password`, if that is what this word says in base64.
fn pair(word: &str) -> Option<Zeroizing<String>> {
    let word = word.trim_end_matches('=');
    let decoded = STANDARD_NO_PAD.decode(word).or_else(|_| URL_SAFE_NO_PAD.decode(word)).map(Zeroizing::new).ok()?;
    let pair = std::str::from_utf8(&decoded).ok()?;
    (pair.contains(':') && !pair.chars().any(char::is_control)).then(|| owned(pair))
}

/// The whole pair, its password, and its user where that is the secret: some services take a key for a user's name.
fn secrets(pair: &str) -> Vec<Zeroizing<String>> {
    let (user, password) = pair.split_once(':').unwrap_or((pair, ""));
    let mut secrets = vec![owned(pair), owned(password)];
    if password.is_empty() || detect::find(user.as_bytes()).is_some() {
        secrets.push(owned(user));
    }
    secrets
}

fn is_separator(c: char) -> bool {
    matches!(c, ' ' | ',' | ';' | '"' | '\'')
}

fn owned(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn of(value: &str) -> Vec<String> {
        pieces(value).iter().map(|piece| piece.to_string()).collect()
    }

    #[test]
    fn what_is_assigned_stands_alone() {
        for (value, expected) in [
            ("Token token=y_NbAk", vec!["y_NbAk"]),
            ("Token token=\"y_NbAk\", email='a b'", vec!["y_NbAk", "a b"]),
            ("theme=dark; session=abc=def", vec!["dark", "abc=def", "def"]),
            ("key=YWJj==", vec!["YWJj"]),
            ("key=\"never closed", vec!["never closed"]),
            ("ghp_abc", vec![]),
            ("Bearer YWJjZA==", vec![]),
            ("=", vec![]),
            ("é=ü", vec!["ü"]),
        ] {
            assert_eq!(of(value), expected, "{value}");
        }
    }

    #[test]
    fn a_pair_in_base64_is_its_password_too() {
        let pair = "robot:s3cr/t?>~value";
        let parts = [pair, "s3cr/t?>~value"];
        let standard = STANDARD.encode(pair);
        assert_eq!(of(&format!("Basic {standard}")), parts);
        assert_eq!(of(&standard), parts);
        assert_eq!(of(&format!("Basic {}", URL_SAFE_NO_PAD.encode(pair))), parts);
        let inside = standard.trim_end_matches('=');
        assert_eq!(of(&format!("auth=\"{standard}\"")), [&[inside][..], &parts, &parts].concat());
    }

    #[test]
    fn a_key_that_is_the_user_of_a_pair_stands_alone() {
        let key = format!("ghp_{}", "aB3dE6gH9kL2".repeat(3));
        for (pair, expected) in [
            (format!("{key}:x-oauth-basic"), vec![format!("{key}:x-oauth-basic"), "x-oauth-basic".into(), key.clone()]),
            ("some-key:".into(), vec!["some-key:".into(), String::new(), "some-key".into()]),
            ("robot:pass:word".into(), vec!["robot:pass:word".into(), "pass:word".into()]),
        ] {
            assert_eq!(of(&format!("Basic {}", STANDARD.encode(&pair))), expected);
        }
    }

    #[test]
    fn what_is_no_pair_is_left_whole() {
        for value in ["Bearer abcdefgh", &STANDARD.encode("no colon here"), &STANDARD.encode("line\n:break"), "a:b"] {
            assert!(of(value).is_empty(), "{value}");
        }
    }
}
