//! Paths and queries in their one canonical form.
//!
//! What policy sees is what is forwarded: a path has exactly one spelling here, and a path that two programs could read
//! in two ways is refused. Escaped characters that need no escape are unescaped, hexadecimal digits are upper-case, and
//! raw characters outside of RFC 3986 are escaped. A query is forwarded byte for byte, because its meaning is the origin's
//! own, and is decoded for policy.

use std::borrow::Cow;

use crate::refusal::Refusal;

/// A path, as it is forwarded and as policy sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// Percent-encoded; begins with a slash.
    pub(super) text: String,
    /// Decoded. A trailing slash is an empty last segment, so that no two paths have the same segments; `/` has none.
    pub(super) segments: Vec<String>,
}

impl Path {
    pub(super) fn parse(raw: &str) -> Result<Self, Refusal> {
        let rest = raw.strip_prefix('/').ok_or(Refusal::MalformedRequest("the request's target is not a path"))?;
        if raw.len() > MAX_PATH {
            return Err(Refusal::MalformedRequest("the path is longer than 8 KiB"));
        }
        if rest.is_empty() {
            return Ok(Self { text: "/".to_owned(), segments: Vec::new() });
        }
        let mut path = Self { text: String::with_capacity(raw.len()), segments: Vec::with_capacity(8) };
        let mut parts = rest.split('/').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() && parts.peek().is_some() {
                return Err(Refusal::MalformedRequest("the path has an empty segment"));
            }
            path.text.push('/');
            path.segments.push(append_segment(&mut path.text, part)?);
        }
        Ok(path)
    }
}

/// Whether a decoded segment holds a slash that separates nothing here but may do so at an origin: `%2F`, or a character
/// that Unicode or a code page folds into a slash.
pub(super) fn holds_slash(segment: &str) -> bool {
    segment.contains('/') || (!segment.is_ascii() && segment.chars().any(|c| folded(c) == '/'))
}

/// The pairs of a query, decoded as a form does: in order, `+` as a space. Empty pieces are none.
pub(super) fn query(raw: &str) -> Result<Vec<(String, String)>, Refusal> {
    let mut pairs = Vec::new();
    for piece in raw.split('&').filter(|piece| !piece.is_empty()) {
        if pairs.len() == MAX_PAIRS {
            return Err(Refusal::MalformedRequest("the query has more than 256 parameters"));
        }
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        let (name, value) = (form_decoded(name)?, form_decoded(value)?);
        if overrides_method(&name, &value) {
            return Err(METHOD_OVERRIDE);
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// Appends one segment in canonical form and gives it decoded.
fn append_segment(text: &mut String, raw: &str) -> Result<String, Refusal> {
    let decoded = if raw.bytes().all(is_pchar) {
        text.push_str(raw);
        raw.to_owned()
    } else {
        let mut decoded = Vec::with_capacity(raw.len());
        let mut bytes = raw.bytes();
        while let Some(byte) = bytes.next() {
            let escaped = byte == b'%';
            let byte = if escaped { hex_pair(&mut bytes)? } else { byte };
            let kept = if escaped { is_unreserved(byte) } else { is_pchar(byte) };
            if kept {
                text.push(char::from(byte));
            } else {
                push_escaped(text, byte);
            }
            decoded.push(byte);
        }
        String::from_utf8(decoded).map_err(|_| Refusal::MalformedRequest("the path is not UTF-8"))?
    };
    check_segment(&decoded)?;
    Ok(decoded)
}

/// Refuses what another program may read differently, also after folding characters that look like the ones that matter.
fn check_segment(decoded: &str) -> Result<(), Refusal> {
    let seen: Cow<'_, str> =
        if decoded.is_ascii() { decoded.into() } else { decoded.chars().map(folded).collect::<String>().into() };
    if seen.chars().any(char::is_control) {
        return Err(Refusal::MalformedRequest("the path holds a control character"));
    }
    if seen.contains('\\') {
        return Err(Refusal::MalformedRequest("the path holds a backslash"));
    }
    if seen.as_bytes().windows(3).any(|w| w[0] == b'%' && w[1].is_ascii_hexdigit() && w[2].is_ascii_hexdigit()) {
        return Err(Refusal::MalformedRequest("the path is encoded twice"));
    }
    if seen.split('/').any(is_dots) {
        return Err(Refusal::MalformedRequest("the path has a dot segment, or one that an origin may drop"));
    }
    Ok(())
}

/// Whether nothing is left of a piece once parameters, and dots and spaces at its ends, are dropped, as some origins do.
fn is_dots(piece: &str) -> bool {
    let name = piece.split(';').next().unwrap_or(piece);
    !piece.is_empty() && name.trim_matches(['.', ' ']).is_empty()
}

/// What a character becomes at an origin that normalises Unicode (NFKC) or maps to a code page by best fit, as far as it
/// could become a character that separates, climbs or escapes.
fn folded(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        '\u{2024}'..='\u{2026}' | '\u{fe52}' => '.',
        '\u{2044}' | '\u{2215}' => '/',
        '\u{2216}' | '\u{fe68}' => '\\',
        '\u{fe6a}' => '%',
        '\u{a0}' | '\u{3000}' => ' ',
        other => other,
    }
}

fn form_decoded(raw: &str) -> Result<String, Refusal> {
    if raw.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(Refusal::MalformedRequest("the query holds a control character"));
    }
    if !raw.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Ok(raw.to_owned());
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_pair(&mut bytes)?,
            b'+' => b' ',
            other => other,
        });
    }
    if decoded.contains(&0) {
        return Err(Refusal::MalformedRequest("the query holds a NUL character"));
    }
    String::from_utf8(decoded).map_err(|_| Refusal::MalformedRequest("the query is not UTF-8"))
}

/// Some frameworks take the method from a parameter, and some separate parameters by semicolons as well.
fn overrides_method(name: &str, value: &str) -> bool {
    let in_value = value.split(';').skip(1).map(|piece| piece.split('=').next().unwrap_or(piece));
    name.split(';').chain(in_value).any(is_override_name)
}

/// PHP drops leading spaces of a parameter's name and reads a dot as an underscore.
fn is_override_name(name: &str) -> bool {
    let name = name.trim_start();
    let after_mark = name.strip_prefix(['_', '.']);
    after_mark.is_some_and(|rest| rest.eq_ignore_ascii_case("method"))
        || ["x-http-method-override", "x-method-override", "x-http-method"].iter().any(|n| name.eq_ignore_ascii_case(n))
}

fn hex_pair(bytes: &mut impl Iterator<Item = u8>) -> Result<u8, Refusal> {
    let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
    match (digit(), digit()) {
        (Some(high), Some(low)) => Ok(u8::try_from(high * 16 + low).expect("two hexadecimal digits are one byte")),
        _ => Err(Refusal::MalformedRequest("the target has an invalid percent sequence")),
    }
}

fn push_escaped(text: &mut String, byte: u8) {
    text.push('%');
    text.push(char::from(UPPER_HEX[usize::from(byte >> 4)]));
    text.push(char::from(UPPER_HEX[usize::from(byte & 15)]));
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

pub(super) const METHOD_OVERRIDE: Refusal = Refusal::MalformedRequest("overriding the method is not accepted");

const UPPER_HEX: &[u8; 16] = b"0123456789ABCDEF";
const MAX_PATH: usize = 8 * 1024;
const MAX_PAIRS: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(raw: &str) -> Option<String> {
        Path::parse(raw).ok().map(|path| path.text)
    }

    #[test]
    fn every_spelling_of_a_path_becomes_one() {
        let table = [
            ("/", "/", &[][..]),
            ("/repos/o/r/issues", "/repos/o/r/issues", &["repos", "o", "r", "issues"]),
            ("/a/", "/a/", &["a", ""]),
            ("/%61%2D%7e", "/a-~", &["a-~"]),
            ("/a%20b", "/a%20b", &["a b"]),
            ("/caf%c3%a9", "/caf%C3%A9", &["café"]),
            ("/café", "/caf%C3%A9", &["café"]),
            ("/\"{}|^<>`", "/%22%7B%7D%7C%5E%3C%3E%60", &["\"{}|^<>`"]),
            ("/a%2fb", "/a%2Fb", &["a/b"]),
            ("/a;v=1/b", "/a;v=1/b", &["a;v=1", "b"]),
            ("/a%3bv", "/a%3Bv", &["a;v"]),
            ("/100%25", "/100%25", &["100%"]),
            ("/100%25%20off", "/100%25%20off", &["100% off"]),
            ("/a:b@c,d!$&'()*+=", "/a:b@c,d!$&'()*+=", &["a:b@c,d!$&'()*+="]),
            ("/main...feature", "/main...feature", &["main...feature"]),
            ("/.well-known/x", "/.well-known/x", &[".well-known", "x"]),
            ("/..a/a../.b.", "/..a/a../.b.", &["..a", "a..", ".b."]),
            ("/a?", "/a%3F", &["a?"]),
            ("/[1]", "/%5B1%5D", &["[1]"]),
        ];
        for (raw, text, segments) in table {
            let path = Path::parse(raw).unwrap_or_else(|_| panic!("{raw} is refused"));
            assert_eq!((path.text.as_str(), path.segments.as_slice()), (text, to_owned(segments).as_slice()), "{raw}");
        }
    }

    fn to_owned(segments: &[&str]) -> Vec<String> {
        segments.iter().map(|&segment| segment.to_owned()).collect()
    }

    #[test]
    fn a_path_with_more_than_one_reading_is_refused() {
        let long = format!("/{}", "a".repeat(8192));
        let table = [
            "",
            "*",
            "a",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/%2e%2e/b",
            "/%2E/b",
            "/.%2e",
            "/a/..;/b",
            "/a/..;x=1",
            "/a/..%3Bx/b",
            "/;/a",
            "/;x",
            "/a%2f..%2fb",
            "/..%2fb",
            "/...",
            "/.. ",
            "/..%20",
            "/%20",
            "/a\\b",
            "/a%5cb",
            "/a%5Cb",
            "/%00",
            "/a%00.html",
            "/a%0ab",
            "/a%0d%0ab",
            "/a%7f",
            "/a%c2%85",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%u002f",
            "/%252e%252e",
            "/a%252fb",
            "/a%25%32%66b",
            "/%25%35%63",
            "/%c0%ae%c0%ae",
            "/%c0%af",
            "/%ff",
            "/%ed%a0%80",
            "/．．/a",
            "/%ef%bc%8e%ef%bc%8e/a",
            "/a＼b",
            "/a∖b",
            "/a％2fb",
            "/a%25２f",
            "/‥/a",
            "/…",
            "/a／../b",
            "/..\u{a0}",
            &long,
        ];
        for raw in table {
            assert_eq!(canonical(raw), None, "{raw}");
        }
    }

    #[test]
    fn a_slash_inside_a_segment_is_known() {
        for (raw, expected) in [("/a%2Fb", true), ("/a／b", true), ("/a∕b", true), ("/a/b", false), ("/café", false)]
        {
            let path = Path::parse(raw).unwrap();
            assert_eq!(path.segments.iter().any(|segment| holds_slash(segment)), expected, "{raw}");
        }
    }

    #[test]
    fn a_query_is_decoded_in_order() {
        let pairs = query("q=a+b&q=%63&&flag&e=&x=1=2&n=%0A&u=caf%C3%A9").unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [("q", "a b"), ("q", "c"), ("flag", ""), ("e", ""), ("x", "1=2"), ("n", "\n"), ("u", "café")];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn a_query_that_cannot_be_decoded_is_refused() {
        let many = "a&".repeat(257);
        let table = [
            "a=%",
            "a=%2",
            "a=%zz",
            "a=%00",
            "a=%ff",
            "a=\u{1}",
            "a\tb",
            "_method=DELETE",
            "a=1&_METHOD=x",
            "%5fmethod=x",
            "+_method=x",
            ".method=x",
            "a=1;_method=DELETE",
            "a;_method=DELETE",
            "X-HTTP-Method-Override=PUT",
            &many,
        ];
        for raw in table {
            assert!(query(raw).is_err(), "{raw}");
        }
        for raw in ["", "a", "method=x", "a_method=x", "a=_method", "x=1;2"] {
            assert!(query(raw).is_ok(), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn canonicalising_a_canonical_path_changes_nothing(raw in "(/([a-zA-Z0-9.;:%é \"-]|%[0-9a-fA-F]{2}){0,6}){1,5}") {
            if let Ok(path) = Path::parse(&raw) {
                prop_assert_eq!(Path::parse(&path.text).unwrap(), path);
            }
        }

        #[test]
        fn a_canonical_path_is_plain_ascii_and_climbs_nowhere(raw in "/\\PC{0,30}") {
            if let Ok(path) = Path::parse(&raw) {
                prop_assert!(path.text.bytes().all(|byte| is_pchar(byte) || matches!(byte, b'/' | b'%')));
                prop_assert!(!path.segments.iter().any(|segment| matches!(segment.as_str(), "." | "..")));
            }
        }

        #[test]
        fn no_target_panics(raw in any::<String>()) {
            let _ = Path::parse(&raw);
            let _ = query(&raw);
        }
    }
}
