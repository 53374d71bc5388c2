//! Tells known secret formats by their shape: a prefix, a length and an alphabet.
//!
//! Looking for one allocates nothing and never fails. A format is listed only when its prefix makes a false find unlikely: a
//! UUID, a commit's digest or a word is never taken for a secret, and a secret without a mark of its own is not found
//! here.

use std::ops::{Range, RangeInclusive};

/// The kind of the first secret of a known format in this text, alone or among other words.
pub fn find(text: &[u8]) -> Option<&'static str> {
    if text.len() < SHORTEST {
        return None;
    }
    text.split(|byte| !WORD[usize::from(*byte)]).find_map(|word| match word.first() {
        Some(b'-') if word.starts_with(b"-----BEGIN") => contains(text, b"PRIVATE").then_some("pem"),
        Some(_) if word.len() < SHORTEST => None,
        Some(_) => begins(word).then(|| word_kind(word)).flatten().or_else(|| part_kind(word)),
        None => None,
    })
}

/// Where the secrets of a known format stand in this text, in order. Of a private key: its lines.
pub fn places(text: &[u8]) -> Vec<Range<usize>> {
    let has_key = contains(text, b"-----BEGIN") && contains(text, b"PRIVATE");
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    let is_key_line = |word: &[u8]| has_key && word.len() >= SHORTEST && word.iter().all(is_base64);
    let mut places = Vec::new();
    let mut start = 0;
    for word in text.split(|byte| !(WORD[usize::from(*byte)] || has_key && is_base64(byte))) {
        if is_key_line(word) || find(word).is_some() {
            places.push(start..start + word.len());
        }
        start += word.len() + 1;
    }
    places
}

/// Whether this path segment is `bot<digits>:<token>`, as Telegram's API wants it.
pub fn is_telegram_segment(segment: &[u8]) -> bool {
    let Some(rest) = segment.strip_prefix(b"bot") else { return false };
    let Some(colon) = rest.iter().position(|byte| *byte == b':') else { return false };
    let (digits, token) = (&rest[..colon], &rest[colon + 1..]);
    (6..=12).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_digit)
        && (30..=64).contains(&token.len())
        && token.iter().all(|byte| Alphabet::Url.holds(*byte))
}

fn begins(word: &[u8]) -> bool {
    word.first().is_some_and(|first| STARTS[usize::from(*first)])
}

/// The kind of a secret that stands between full stops, as in a host name.
fn part_kind(word: &[u8]) -> Option<&'static str> {
    let mut parts = word.split(|byte| *byte == b'.').filter(|part| part.len() >= SHORTEST && part.len() < word.len());
    parts.find_map(|part| begins(part).then(|| word_kind(part)).flatten())
}

fn word_kind(word: &[u8]) -> Option<&'static str> {
    // A full stop ends a sentence more often than a token.
    let word = word.strip_suffix(b".").unwrap_or(word);
    if word.starts_with(b"eyJ") {
        return is_jwt(word).then_some("jwt");
    }
    SHAPES.iter().find(|shape| shape.fits(word)).map(|shape| shape.kind)
}

/// Two JSON objects in base64url and a signature, which may be empty (JWS), or five parts (JWE).
fn is_jwt(word: &[u8]) -> bool {
    let mut parts = word.split(|byte| *byte == b'.');
    let header = parts.next().unwrap_or_default();
    let second = parts.next().unwrap_or_default();
    let others = parts.count();
    header.len() >= 10 && ((second.starts_with(b"eyJ") && others <= 1) || others == 3)
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

/// One format: what it begins with, how long the rest is, and what the rest is made of.
struct Shape {
    kind: &'static str,
    prefix: &'static [u8],
    rest: RangeInclusive<usize>,
    alphabet: Alphabet,
}

impl Shape {
    fn fits(&self, word: &[u8]) -> bool {
        word.strip_prefix(self.prefix)
            .is_some_and(|rest| self.rest.contains(&rest.len()) && rest.iter().all(|byte| self.alphabet.holds(*byte)))
    }
}

#[derive(Clone, Copy)]
enum Alphabet {
    /// Letters and digits.
    Alnum,
    /// Upper-case letters and digits.
    Upper,
    /// Lower-case hexadecimal digits.
    Hex,
    /// Letters, digits, `-` and `_`.
    Url,
    /// Letters, digits, `-`, `_` and `.`.
    Dotted,
}

impl Alphabet {
    fn holds(self, byte: u8) -> bool {
        match self {
            Self::Alnum => byte.is_ascii_alphanumeric(),
            Self::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Self::Hex => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            Self::Url => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
            Self::Dotted => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'),
        }
    }
}

const fn shape(kind: &'static str, prefix: &'static str, min: usize, max: usize, alphabet: Alphabet) -> Shape {
    Shape { kind, prefix: prefix.as_bytes(), rest: min..=max, alphabet }
}

/// The shortest secret that is told by its shape: an AWS access key's identifier.
const SHORTEST: usize = 20;

/// Longer than any header field is.
const ANY: usize = usize::MAX;

/// The first that fits names the kind: longer prefixes stand before shorter ones.
static SHAPES: &[Shape] = {
    use Alphabet::{Alnum, Dotted, Hex, Upper, Url};
    &[
        shape("github_pat", "ghp_", 36, 255, Alnum),
        shape("github_pat", "github_pat_", 60, 255, Url),
        shape("github_token", "gho_", 36, 255, Alnum),
        shape("github_token", "ghu_", 36, 255, Alnum),
        shape("github_token", "ghs_", 36, ANY, Dotted),
        shape("github_token", "ghr_", 36, 255, Alnum),
        shape("gitlab", "glpat-", 20, 300, Dotted),
        shape("gitlab", "glptt-", 20, 300, Dotted),
        shape("gitlab", "gldt-", 20, 300, Dotted),
        shape("gitlab", "glrt-", 20, 300, Dotted),
        shape("gitlab", "glcbt-", 20, 300, Dotted),
        shape("gitlab", "glagent-", 20, 300, Dotted),
        shape("gitlab", "gloas-", 20, 300, Dotted),
        shape("gitlab", "glsoat-", 20, 300, Dotted),
        shape("aws_access_key", "AKIA", 16, 16, Upper),
        shape("aws_access_key", "ASIA", 16, 16, Upper),
        shape("aws_access_key", "ABIA", 16, 16, Upper),
        shape("aws_access_key", "ACCA", 16, 16, Upper),
        shape("anthropic", "sk-ant-", 20, 300, Url),
        shape("openrouter", "sk-or-v1-", 40, 128, Hex),
        shape("openai", "sk-proj-", 20, 300, Url),
        shape("openai", "sk-svcacct-", 20, 300, Url),
        shape("openai", "sk-admin-", 20, 300, Url),
        shape("openai", "sk-", 48, 48, Alnum),
        shape("api_key", "sk-", 32, 128, Alnum),
        shape("slack", "xoxb-", 15, 300, Url),
        shape("slack", "xoxp-", 15, 300, Url),
        shape("slack", "xoxa-", 15, 300, Url),
        shape("slack", "xoxr-", 15, 300, Url),
        shape("slack", "xoxs-", 15, 300, Url),
        shape("slack", "xoxc-", 15, 300, Url),
        shape("slack", "xoxe-", 15, 300, Url),
        shape("slack", "xoxe.xox", 15, 300, Url),
        shape("slack", "xapp-", 15, 300, Url),
        shape("stripe", "sk_live_", 16, 255, Alnum),
        shape("stripe", "sk_test_", 16, 255, Alnum),
        shape("stripe", "rk_live_", 16, 255, Alnum),
        shape("stripe", "rk_test_", 16, 255, Alnum),
        shape("stripe", "whsec_", 24, 255, Alnum),
        shape("google_api_key", "AIza", 35, 35, Url),
        shape("google_oauth", "ya29.", 20, ANY, Dotted),
        shape("google_oauth", "GOCSPX-", 24, 40, Url),
        shape("npm", "npm_", 36, 36, Alnum),
        shape("pypi", "pypi-AgE", 50, ANY, Url),
        shape("vault", "hvs.", 20, 300, Url),
        shape("vault", "hvb.", 20, 300, Url),
        shape("vault", "hvr.", 20, 300, Url),
        shape("huggingface", "hf_", 30, 40, Alnum),
        shape("groq", "gsk_", 40, 64, Alnum),
        shape("xai", "xai-", 60, 100, Alnum),
        shape("perplexity", "pplx-", 40, 64, Alnum),
        shape("replicate", "r8_", 37, 37, Alnum),
        shape("sendgrid", "SG.", 60, 72, Dotted),
        shape("digitalocean", "dop_v1_", 64, 64, Hex),
        shape("digitalocean", "doo_v1_", 64, 64, Hex),
        shape("databricks", "dapi", 32, 34, Hex),
        shape("shopify", "shpat_", 32, 64, Alnum),
        shape("shopify", "shpca_", 32, 64, Alnum),
        shape("shopify", "shppa_", 32, 64, Alnum),
        shape("shopify", "shpss_", 32, 64, Alnum),
        shape("linear", "lin_api_", 32, 64, Alnum),
        shape("notion", "ntn_", 40, 64, Alnum),
        shape("notion", "secret_", 43, 43, Alnum),
        shape("postman", "PMAK-", 48, 64, Url),
        shape("figma", "figd_", 36, 64, Url),
        shape("new_relic", "NRAK-", 27, 27, Upper),
        shape("grafana", "glsa_", 32, 64, Url),
        shape("atlassian", "ATATT3", 100, ANY, Url),
        shape("docker", "dckr_pat_", 20, 64, Url),
        shape("docker", "dckr_oat_", 20, 64, Url),
        shape("pulumi", "pul-", 40, 40, Hex),
        shape("supabase", "sbp_", 40, 40, Hex),
        shape("square", "sq0csp-", 40, 50, Url),
        shape("age", "AGE-SECRET-KEY-1", 50, 64, Upper),
    ]
};

/// What a word is made of: everything that a token of a listed format is made of.
static WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        // The cast is lossless: the loop ends at 255.
        let each = byte as u8;
        table[byte] = each.is_ascii_alphanumeric() || matches!(each, b'-' | b'_' | b'.');
        byte += 1;
    }
    table
};

/// The bytes that a listed format begins with, so that most words are passed over after one look.
static STARTS: [bool; 256] = {
    let mut table = [false; 256];
    let mut index = 0;
    while index < SHAPES.len() {
        table[SHAPES[index].prefix[0] as usize] = true;
        index += 1;
    }
    table[b'e' as usize] = true;
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Made at run time, so that no scanner of repositories takes a test for a leak.
    fn made(prefix: &str, rest: &str, length: usize) -> String {
        let mut text = prefix.to_owned();
        text.extend(rest.chars().cycle().take(length));
        text
    }

    #[test]
    fn known_formats_are_told() {
        let table = [
            ("github_pat", made("ghp_", "aB3", 36)),
            ("github_pat", made("github_pat_", "aB3_", 82)),
            ("github_token", made("ghs_", "aB3", 36)),
            ("gitlab", made("glpat-", "aB3-_", 20)),
            ("aws_access_key", made("AKIA", "AB7", 16)),
            ("aws_access_key", made("ASIA", "AB7", 16)),
            ("anthropic", made("sk-ant-api03-", "aB3-_", 95)),
            ("openai", made("sk-proj-", "aB3-_", 100)),
            ("openai", made("sk-", "aB3", 48)),
            ("api_key", made("sk-", "0af", 32)),
            ("slack", made("xoxb-1234567890-", "aB3", 24)),
            ("stripe", made("sk_live_", "aB3", 24)),
            ("google_api_key", made("AIza", "aB3-_", 35)),
            ("google_oauth", made("ya29.", "aB3-_", 120)),
            ("npm", made("npm_", "aB3", 36)),
            ("pypi", made("pypi-AgEIcHlwaS5vcmc", "aB3-_", 100)),
            ("vault", made("hvs.", "aB3-_", 90)),
            ("huggingface", made("hf_", "aB", 34)),
            ("sendgrid", made("SG.aBcDeFgHiJkLmNoPqRsTuV.", "aB3", 43)),
            ("jwt", format!("{}.{}.{}", made("eyJ", "hbG", 20), made("eyJ", "zdW", 20), made("", "sIg-_", 43))),
            ("jwt", format!("{}.{}.", made("eyJ", "hbG", 20), made("eyJ", "zdW", 20))),
            ("jwt", format!("{}.a.b.c.d", made("eyJ", "hbG", 20))),
            ("pem", "-----BEGIN RSA PRIVATE KEY-----\nMIIE".to_owned()),
        ];
        for (kind, text) in &table {
            assert_eq!(find(text.as_bytes()), Some(*kind), "{text}");
            assert_eq!(find(format!("x={text}; y=1").as_bytes()), Some(*kind), "in other words: {text}");
        }
    }

    #[test]
    fn harmless_text_is_left_alone() {
        let table = [
            "",
            "application/json; charset=utf-8",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
            "0190b6f6-9d7c-7c3e-8b1a-2f6d5c4b3a21",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "eyJpZCI6MTIzNDU2Nzg5MCwib2Zmc2V0IjoxMH0",
            "sk-learn-is-a-library-for-machine-learning-in-python",
            "ghp_short",
            "AKIA-is-a-prefix-of-identifiers",
            "AKIAlowercaseletters",
            "-----BEGIN CERTIFICATE-----",
            "npm_config_registry_and_other_settings_here",
            "hf_transfer_is_an_environment_setting_of_a_hub",
            "W/\"67ab43d0c1f2e3a4b5c6d7e8f9\"",
            "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
        ];
        for text in table {
            assert_eq!(find(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn telegram_segments_are_told_from_robots() {
        assert!(is_telegram_segment(made("bot123456789:", "aB3-_", 35).as_bytes()));
        for other in ["bot", "bots", "bot123456789", "bot:token", "bot123456789:short", "robot123456789:x"] {
            assert!(!is_telegram_segment(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn every_shape_is_made_of_whole_words_and_not_shorter_than_the_shortest() {
        for shape in SHAPES {
            assert!(shape.prefix.iter().all(|byte| WORD[usize::from(*byte)]), "{}", shape.kind);
            assert!(shape.prefix.len() + shape.rest.start() >= SHORTEST, "{}", shape.kind);
        }
    }
}
