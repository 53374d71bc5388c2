//! Tells a secret from what only has its shape: placeholders, words, counters.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use memchr::memmem;
use zeroize::Zeroizing;

use crate::secret::rules::{Check, Kind, Rules};

/// Whether this text in the shape of a kind is one. The first `fixed` characters are the same in all.
pub(super) fn is_secret(rules: &Rules, kind: &Kind, text: &[u8], fixed: usize) -> bool {
    let varying = &text[fixed..];
    // Of sixteen digits there are four bits at the most, and most values of 32 stay below the threshold of other text.
    let is_hex = varying.iter().all(u8::is_ascii_hexdigit);
    let least = if is_hex { kind.entropy.min(HEX_ENTROPY) } else { kind.entropy };
    entropy(varying) >= least
        && !kind.allow.iter().any(|allowed| memmem::find(text, allowed.as_bytes()).is_some())
        && match kind.check {
            Some(Check::Jwt) => return is_jwt(text),
            Some(Check::Random) => is_random(varying),
            None => true,
        }
        && !is_placeholder(rules, varying)
}

/// The bits that each byte carries, by how often it occurs here (Shannon).
pub(super) fn entropy(text: &[u8]) -> f32 {
    let mut counts = [0_u32; 256];
    for byte in text {
        counts[usize::from(*byte)] += 1;
    }
    let length = text.len() as f32;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| *count as f32 / length)
        .map(|share| -share * share.log2())
        .sum()
}

/// Whether this is random text and not made of words: digits change with letters often, or few letters stand in a row.
pub(super) fn is_random(text: &[u8]) -> bool {
    let has_letter = text.iter().any(u8::is_ascii_alphabetic);
    let has_digit = text.iter().any(u8::is_ascii_digit);
    if !has_letter || !has_digit || is_uuid(text) {
        return false;
    }
    let is_change = |pair: &&[u8]| {
        pair[0].is_ascii_digit() && pair[1].is_ascii_alphabetic()
            || pair[0].is_ascii_alphabetic() && pair[1].is_ascii_digit()
    };
    let changes = text.windows(2).filter(is_change).count();
    changes * 5 >= text.len() || in_words(text) * 3 < text.len() && !is_divided(text)
}

/// How many characters stand among four letters or more of one case in a row, as in words.
fn in_words(text: &[u8]) -> usize {
    let is_word = |word: &&[u8]| word.len() >= 4;
    let small = text.split(|byte| !byte.is_ascii_lowercase()).filter(is_word);
    let capital = text.split(|byte| !byte.is_ascii_uppercase()).filter(is_word);
    small.chain(capital).map(<[u8]>::len).sum()
}

/// Dates, versions and paths are full of signs: `2026-11-22-04-50`, `v1.2.3-alpha.4`.
fn is_divided(text: &[u8]) -> bool {
    text.iter().filter(|byte| matches!(byte, b'.' | b':' | b'-' | b'/')).count() * 6 >= text.len()
}

/// 8-4-4-4-12 hexadecimal digits.
fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// What documentation shows.
pub(super) fn is_placeholder(rules: &Rules, text: &[u8]) -> bool {
    let mut small = [0; LONGEST];
    let Some(small) = small.get_mut(..text.len()) else { return false };
    small.copy_from_slice(text);
    small.make_ascii_lowercase();
    rules.placeholders().iter().any(|word| memmem::find(small, word.as_bytes()).is_some())
}

/// Whether the first part is the header of a token: an object that names its algorithm. Cursors and sessions look alike.
fn is_jwt(text: &[u8]) -> bool {
    let header = text.split(|byte| *byte == b'.').next().unwrap_or_default();
    let Ok(decoded) = BASE64_URL_SAFE_NO_PAD.decode(header).map(Zeroizing::new) else { return false };
    memmem::find(&decoded, b"\"alg\"").is_some() || memmem::find(&decoded, b"\"enc\"").is_some()
}

/// What random hexadecimal digits have at least.
const HEX_ENTROPY: f32 = 2.8;

/// Longer values are no placeholders.
const LONGEST: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_tells_random_text_from_repeated() {
        assert!(entropy(b"aaaaaaaaaaaaaaaaaaaaaaaa") < 0.1);
        assert!((entropy(b"abababababab") - 1.0).abs() < 0.01);
        assert!(entropy(b"9fQ2xLk0ZsVb71TnWyRcEa") > 4.0);
        assert!(entropy(b"").abs() < 0.01);
    }

    #[test]
    fn random_text_changes_its_characters() {
        for random in
            ["9fQ2xLk0ZsVb71TnWyRcEa", "d3b07384d113edec49eaa6238ad5ff00", "kT8/x+1Lq9Zp0vB3nM5rY7wD2sF4gH6jK8aQ1eC0"]
        {
            assert!(is_random(random.as_bytes()), "{random}");
        }
        for other in [
            "getUserAccessTokenFromRequest2",
            "my-very-long-secret-name-v2",
            "0190b6f6-9d7c-7c3e-8b1a-2f6d5c4b3a21",
            "com.example.service.v1.Token",
            "12345678901234567890",
            "2026-11-22-04-50-52-123",
            "settings.TRACE_ITEM_API_KEY_2026",
            "projects/p1/secrets/db-password/versions/7",
            "2026-11-22T04.50.52.123Z",
        ] {
            assert!(!is_random(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn the_header_of_a_token_names_its_algorithm() {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        assert!(is_jwt(format!("{}.{}.x", part(r#"{"alg":"HS256"}"#), part("{}")).as_bytes()));
        assert!(!is_jwt(format!("{}.{}.x", part(r#"{"id":1234567}"#), part("{}")).as_bytes()));
        assert!(!is_jwt(b"eyJ.eyJ.x"));
    }

    #[test]
    fn what_documentation_shows_is_told_in_any_case() {
        let rules = Rules::shipped();
        assert!(is_placeholder(rules, b"IOSFODNN7EXAMPLE"));
        assert!(is_placeholder(rules, b"xxxxxxxxxxxxxxxxxxxx"));
        assert!(!is_placeholder(rules, b"9fQ2xLk0ZsVb71TnWyRcEa"));
    }
}
