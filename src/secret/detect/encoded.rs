//! Looks into Base64, one level deep.
//!
//! Any stretch of its characters may be some: what is short is decoded only where it begins like encoded text, and what is
//! long always, so that a token within an encoded archive is found too.

use std::ops::Range;

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

use super::{Care, Find, pem::private_keys, scan, without_overlaps};
use crate::secret::{
    detect::{is_base64, named::url_passwords, span},
    mask::REDACTED,
    rules::Rules,
};

/// Looks into one run after the other.
#[derive(Default)]
pub(super) struct Base64 {
    decoded: Zeroizing<Vec<u8>>,
    /// What stands before has been looked into, in lines that were joined.
    done: usize,
}

impl Base64 {
    /// Finds what holds a secret once it is decoded. `on` says whether to go on.
    pub(super) fn look(
        &mut self,
        rules: &Rules,
        text: &[u8],
        run: Range<usize>,
        on: &mut impl FnMut(Find) -> bool,
    ) -> bool {
        let mut at = run.start.max(self.done);
        while at + SHORTEST <= run.end {
            let length = span(&text[at..run.end], is_base64);
            if length >= SHORTEST
                && let Some(find) = self.stretch(rules, text, at..at + length)
                && !on(find)
            {
                return false;
            }
            at += length + 1;
        }
        true
    }

    fn stretch(&mut self, rules: &Rules, text: &[u8], line: Range<usize>) -> Option<Find> {
        let lines = line.start..with_lines(text, line.start, line.end);
        let mut find = inside(rules, text, line.clone(), &mut self.decoded);
        if find.is_none() && lines != line {
            find = inside(rules, text, lines.clone(), &mut self.decoded);
            self.done = lines.end;
        }
        find
    }
}

/// The secret in this stretch, at any of the places where encoded text may begin in it.
fn inside(rules: &Rules, text: &[u8], stretch: Range<usize>, decoded: &mut Zeroizing<Vec<u8>>) -> Option<Find> {
    let whole = &text[stretch.clone()];
    let mut tried = [false; 4];
    let mut start = 0;
    while whole.len() - start >= SHORTEST && start < LONG {
        let may_be_text = start == 0 && whole.len() >= LONG || begins_like_text(&whole[start..]);
        if may_be_text && !tried[start % 4] {
            tried[start % 4] = true;
            decode(&whole[start..], decoded);
            if let Some(find) = look(rules, text, stretch.start + start..stretch.end, decoded) {
                return Some(find);
            }
        }
        let Some(sign) = whole[start..].iter().take(LONG).position(|byte| !byte.is_ascii_alphanumeric()) else { break };
        start += sign + 1;
    }
    None
}

fn look(rules: &Rules, text: &[u8], range: Range<usize>, decoded: &[u8]) -> Option<Find> {
    let mut found = Vec::new();
    let mut keep = |find| {
        found.push(find);
        true
    };
    scan(rules, decoded, Care::Sure, &mut keep);
    private_keys(rules, decoded, &mut keep);
    url_passwords(rules, decoded, &mut keep);
    let found = without_overlaps(found);
    let kind = found.iter().map(|find| find.kind).min()?;
    let padding = text[range.end..].iter().take(2).take_while(|byte| **byte == b'=').count();
    let encoded = &text[range.clone()];
    let instead = again(decoded, &found, encoded, padding > 0);
    Some(Find { kind, range: range.start..range.end + padding, instead: Some(instead) })
}

/// The text in Base64 as it was, without its secrets.
fn again(decoded: &[u8], found: &[Find], encoded: &[u8], padded: bool) -> String {
    let mut plain = Zeroizing::new(Vec::with_capacity(decoded.len()));
    let mut from = 0;
    for find in found {
        plain.extend_from_slice(&decoded[from..find.range.start]);
        plain.extend_from_slice(REDACTED.as_bytes());
        from = find.range.end;
    }
    plain.extend_from_slice(&decoded[from..]);
    let url_safe = encoded.iter().any(|byte| matches!(byte, b'-' | b'_'));
    match (url_safe, padded) {
        (true, true) => BASE64_URL_SAFE.encode(&*plain),
        (true, false) => BASE64_URL_SAFE_NO_PAD.encode(&*plain),
        (false, true) => BASE64_STANDARD.encode(&*plain),
        (false, false) => BASE64_STANDARD_NO_PAD.encode(&*plain),
    }
}

/// Where the stretch ends if it goes on in the following lines, as encoders break it.
fn with_lines(text: &[u8], start: usize, end: usize) -> usize {
    let (mut start, mut end) = (start, end);
    while (SHORTEST_LINE..=LONGEST_LINE).contains(&(end - start)) {
        let gap = match &text[end..] {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            _ => break,
        };
        let next = end + gap;
        let length = span(&text[next..], is_base64);
        if length == 0 {
            break;
        }
        (start, end) = (next, next + length);
    }
    end
}

/// Whether the first characters decode to ASCII, judged by the first bit of every third byte.
fn begins_like_text(encoded: &[u8]) -> bool {
    encoded.iter().step_by(4).take(6).all(|byte| matches!(byte, b'A'..=b'Z' | b'a'..=b'f'))
}

/// Either alphabet; line breaks are passed over.
fn decode(encoded: &[u8], decoded: &mut Zeroizing<Vec<u8>>) {
    decoded.clear();
    decoded.reserve(encoded.len() / 4 * 3 + 3);
    let has_lines = encoded.len() > SHORTEST_LINE && encoded.contains(&b'\n');
    if has_lines {
        let joined: Zeroizing<Vec<u8>> =
            Zeroizing::new(encoded.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect());
        decode_joined(&joined, decoded);
    } else {
        decode_joined(encoded, decoded);
    }
}

fn decode_joined(encoded: &[u8], decoded: &mut Vec<u8>) {
    let value = |byte: u8| u32::from(VALUES[usize::from(byte)]);
    let (fours, rest) = encoded.as_chunks::<4>();
    decoded.resize(fours.len() * 3, 0);
    for ([a, b, c, d], three) in fours.iter().zip(decoded.as_chunks_mut::<3>().0) {
        let bits = value(*a) << 18 | value(*b) << 12 | value(*c) << 6 | value(*d);
        let [_, high, middle, low] = bits.to_be_bytes();
        *three = [high, middle, low];
    }
    let bits = rest.iter().fold(0, |bits, byte| bits << 6 | value(*byte));
    match rest.len() {
        2 => decoded.push((bits >> 4) as u8),
        3 => decoded.extend_from_slice(&[(bits >> 10) as u8, (bits >> 2) as u8]),
        _ => {}
    }
}

/// What each character stands for, in both alphabets.
static VALUES: [u8; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 26 {
        table[b'A' as usize + at] = at as u8;
        table[b'a' as usize + at] = 26 + at as u8;
        at += 1;
    }
    let mut at = 0;
    while at < 10 {
        table[b'0' as usize + at] = 52 + at as u8;
        at += 1;
    }
    table[b'+' as usize] = 62;
    table[b'-' as usize] = 62;
    table[b'/' as usize] = 63;
    table[b'_' as usize] = 63;
    table
};

/// What the shortest secret takes.
const SHORTEST: usize = 27;

/// What is at least so long is decoded whatever it begins with; of what is longer, only the places up to here count as
/// beginnings besides the first.
const LONG: usize = 96;

/// How long the lines are that encoders break Base64 into.
const SHORTEST_LINE: usize = 60;
const LONGEST_LINE: usize = 76;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::detect::runs;

    fn found(text: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut base64 = Base64::default();
        let mut keep = |find: Find| {
            let kind = find.kind().to_owned();
            found.push((kind, text.replacen(&text[find.range], &find.instead.unwrap_or_default(), 1)));
            true
        };
        runs(text.as_bytes(), |run| base64.look(Rules::shipped(), text.as_bytes(), run, &mut keep));
        found
    }

    fn pat() -> String {
        format!("ghp_{}", "aB3dE6gH9".repeat(4))
    }

    #[test]
    fn a_secret_in_base64_is_replaced_within_it() {
        for beside in ["", "user:", "x y z "] {
            let (with, without) = (format!("{beside}{}", pat()), format!("{beside}{REDACTED}"));
            for prefix in ["", "Basic ", "v1/", "data:text/plain;base64,", "a/b/c+d/"] {
                let (said, shown) = (BASE64_STANDARD.encode(&with), BASE64_STANDARD.encode(&without));
                let found = found(&format!("{prefix}{said}"));
                assert_eq!(found.len(), 1, "{prefix}{with}");
                assert_eq!(found[0].0, "github_pat");
                assert_eq!(found[0].1.trim_end_matches('='), format!("{prefix}{shown}").trim_end_matches('='));
            }
        }
    }

    #[test]
    fn both_alphabets_are_read() {
        let said = format!("ÿÿÿ?>?>? {} ÿÿ?>", pat());
        assert_eq!(found(&BASE64_STANDARD.encode(&said)).len(), 1);
        assert_eq!(found(&BASE64_URL_SAFE_NO_PAD.encode(&said)).len(), 1);
    }

    #[test]
    fn broken_lines_are_joined() {
        let encoded = BASE64_STANDARD.encode(format!("{} {}", "some words before it ".repeat(3), pat()));
        for (width, end) in [(76, "\n"), (64, "\r\n")] {
            let lines: Vec<&str> =
                encoded.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
            assert_eq!(found(&lines.join(end)).len(), 1, "{width}");
        }
    }

    #[test]
    fn binary_that_holds_a_token_is_looked_into() {
        let mut binary = vec![0x1f, 0x8b, 0x08, 0xff, 0x00, 0x81];
        binary.extend((0..90_u8).map(|n| n.wrapping_mul(37) | 0x80));
        binary.extend(pat().bytes());
        binary.push(0xff);
        assert_eq!(found(&BASE64_STANDARD.encode(binary)).len(), 1);
    }

    #[test]
    fn names_and_digests_are_not_decoded_into_secrets() {
        for plain in [
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==",
            "/usr/local/lib/python3/site-packages/package",
        ] {
            assert!(found(plain).is_empty(), "{plain}");
        }
    }
}
