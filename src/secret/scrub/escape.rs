//! Reads one escaped character: percent-encoding (RFC 3986), once or twice; JSON (RFC 8259) and what languages print like
//! it, also inside another JSON string; HTML's character references; `+` for a space (forms).

/// What a text begins with, read in one way.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Not that.
    Not,
    /// It may be that, but the text ends before it does.
    Cut,
    /// A character, and how many bytes it takes here.
    Char(Spelled, usize),
}

/// A character in UTF-8, or a part of one where each byte is escaped alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spelled {
    bytes: [u8; 4],
    length: usize,
}

impl Spelled {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl From<char> for Spelled {
    fn from(c: char) -> Self {
        let mut bytes = [0; 4];
        let length = c.encode_utf8(&mut bytes).len();
        Self { bytes, length }
    }
}

impl From<u8> for Spelled {
    fn from(byte: u8) -> Self {
        Self { bytes: [byte, 0, 0, 0], length: 1 }
    }
}

/// Whether this byte begins an escape.
pub(super) fn begins(byte: u8) -> bool {
    matches!(byte, b'%' | b'\\' | b'&' | b'+')
}

/// The ways to read the escape that the text begins with.
pub(super) fn readings(text: &[u8]) -> [Reading; 2] {
    match text.first() {
        Some(b'%') => [percent(&text[1..], 1), percent_twice(text)],
        Some(b'\\') => [backslash(text), doubled(text)],
        Some(b'&') => [reference(text), Reading::Not],
        Some(b'+') => [Reading::Char(b' '.into(), 1), Reading::Not],
        _ => [Reading::Not, Reading::Not],
    }
}

/// How long the escaped line break is that the text begins with: a letter after backslashes.
pub(super) fn line_break(text: &[u8]) -> Option<usize> {
    let run = text.iter().take(DEEPEST + 1).take_while(|byte| **byte == b'\\').count();
    let letter = matches!(text.get(run), Some(b'n' | b'r' | b't'));
    (letter && (1..=DEEPEST).contains(&run)).then_some(run + 1)
}

/// Two hexadecimal digits, after `before` bytes that were read.
fn percent(text: &[u8], before: usize) -> Reading {
    match hex::<2>(text) {
        Digits::Value(value) => Reading::Char(low_byte(value).into(), before + 2),
        Digits::Cut => Reading::Cut,
        Digits::Not => Reading::Not,
    }
}

fn percent_twice(text: &[u8]) -> Reading {
    match text.strip_prefix(b"%25") {
        Some(rest) => percent(rest, 3),
        None if b"%25".starts_with(text) => Reading::Cut,
        None => Reading::Not,
    }
}

/// Each level of strings inside strings doubles the backslashes.
fn backslash(text: &[u8]) -> Reading {
    let run = text.iter().take(DEEPEST + 1).take_while(|byte| **byte == b'\\').count();
    if run > DEEPEST {
        return Reading::Not;
    }
    match text.get(run) {
        None => Reading::Cut,
        Some(b'u') => utf16(text, run),
        Some(b'x') => percent(&text[run + 1..], run + 1),
        Some(c) if c.is_ascii_punctuation() => Reading::Char((*c).into(), run + 1),
        Some(_) => Reading::Not,
    }
}

fn doubled(text: &[u8]) -> Reading {
    match text.get(1) {
        None => Reading::Cut,
        Some(b'\\') => Reading::Char(b'\\'.into(), 2),
        Some(_) => Reading::Not,
    }
}

/// `uXXXX` after a run of backslashes; two of them where one is not enough for the character.
fn utf16(text: &[u8], run: usize) -> Reading {
    let unit = run + 5;
    let high = match hex::<4>(&text[run + 1..]) {
        Digits::Value(high) => high,
        Digits::Cut => return Reading::Cut,
        Digits::Not => return Reading::Not,
    };
    if let Some(c) = char::from_u32(high) {
        return Reading::Char(c.into(), unit);
    }
    let rest = &text[unit..];
    let (lead, next) = rest.split_at(rest.len().min(run + 1));
    let expected = &text[..=run];
    if lead != expected {
        return if expected.starts_with(lead) { Reading::Cut } else { Reading::Not };
    }
    match hex::<4>(next) {
        Digits::Value(low) => match (high, low) {
            (0xd800..0xdc00, 0xdc00..0xe000) => {
                let value = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                char::from_u32(value).map_or(Reading::Not, |c| Reading::Char(c.into(), 2 * unit))
            }
            _ => Reading::Not,
        },
        Digits::Cut => Reading::Cut,
        Digits::Not => Reading::Not,
    }
}

fn reference(text: &[u8]) -> Reading {
    let window = &text[1..text.len().min(LONGEST_REFERENCE)];
    let Some(end) = window.iter().position(|byte| *byte == b';') else {
        let open = window.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'#');
        return if open && text.len() < LONGEST_REFERENCE { Reading::Cut } else { Reading::Not };
    };
    let c = match &window[..end] {
        b"amp" => Some('&'),
        b"lt" => Some('<'),
        b"gt" => Some('>'),
        b"quot" => Some('"'),
        b"apos" => Some('\''),
        [b'#', b'x' | b'X', digits @ ..] => number(digits, 16),
        [b'#', digits @ ..] => number(digits, 10),
        _ => None,
    };
    c.map_or(Reading::Not, |c| Reading::Char(c.into(), end + 2))
}

fn number(digits: &[u8], radix: u32) -> Option<char> {
    if digits.is_empty() {
        return None;
    }
    let value = digits
        .iter()
        .try_fold(0_u32, |value, digit| value.checked_mul(radix)?.checked_add(char::from(*digit).to_digit(radix)?));
    char::from_u32(value?)
}

enum Digits {
    Not,
    Cut,
    Value(u32),
}

/// `N` hexadecimal digits.
fn hex<const N: usize>(text: &[u8]) -> Digits {
    let mut value = 0;
    for digit in text.iter().take(N) {
        match char::from(*digit).to_digit(16) {
            Some(digit) => value = value * 16 + digit,
            None => return Digits::Not,
        }
    }
    if text.len() < N { Digits::Cut } else { Digits::Value(value) }
}

fn low_byte(value: u32) -> u8 {
    u8::try_from(value & 0xff).expect("eight bits are a byte")
}

/// The most backslashes before one character: a string in a string in a string.
const DEEPEST: usize = 4;
/// `&#x10ffff;`
const LONGEST_REFERENCE: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, usize)> {
        let chars = readings(text.as_bytes()).into_iter().filter_map(|reading| match reading {
            Reading::Char(c, read) => Some((c.bytes().escape_ascii().to_string(), read)),
            Reading::Not | Reading::Cut => None,
        });
        chars.collect()
    }

    #[test]
    fn every_way_to_escape_is_read() {
        for (text, character, length) in [
            ("%67hp", "g", 3),
            ("%2f", "/", 3),
            ("%2F", "/", 3),
            ("%c3%bc", "\\xc3", 3),
            ("\\u0067hp", "g", 6),
            ("\\u002Fx", "/", 6),
            ("\\u00fc", "\\xc3\\xbc", 6),
            ("\\ud83e\\udd80", "\\xf0\\x9f\\xa6\\x80", 12),
            ("\\\\ud83e\\\\udd80", "\\xf0\\x9f\\xa6\\x80", 14),
            ("\\\\u0067", "g", 7),
            ("\\\\\\/", "/", 4),
            ("\\/", "/", 2),
            ("\\\"", "\\\"", 2),
            ("\\x2f", "/", 4),
            ("\\\\n", "\\\\", 2),
            ("&amp;", "&", 5),
            ("&#x2F;", "/", 6),
            ("&#43;x", "+", 5),
            ("+", " ", 1),
        ] {
            assert!(read(text).contains(&(character.into(), length)), "{text}: {:?}", read(text));
        }
        assert!(read("%252F").contains(&("/".into(), 5)), "encoded twice");
    }

    #[test]
    fn what_is_no_escape_is_not_read() {
        for text in ["", "g", "%g7", "\\n", "\\ud83ex", "\\ud83e\\u0041", "\\\\\\\\\\/", "&nbsp;", "&;", "&#;", "& x"] {
            assert!(read(text).iter().all(|(character, _)| character == "\\\\"), "{text}: {:?}", read(text));
        }
    }

    #[test]
    fn every_beginning_of_an_escape_is_told_as_such() {
        for whole in ["%67", "%252f", "\\u0067", "\\\\ud83e\\\\udd80", "\\x2f", "\\/", "&quot;", "&#x2f;", "&#x10ffff;"]
        {
            for length in 1..whole.len() {
                let cut = readings(&whole.as_bytes()[..length]);
                assert!(cut.contains(&Reading::Cut), "{}", &whole[..length]);
            }
        }
    }
}
