//! Takes escapes away, layer by layer, and tells where in the text a place in a layer was.
//!
//! At most two levels of backslashes (JSON within JSON) and one of percent signs: what is escaped more often is not looked
//! into. A text without escapes is not copied.

use std::ops::Range;

use memchr::{memchr, memchr2};
use zeroize::Zeroizing;

use super::Find;

/// How a text is written, which says in which order its escapes are taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notation {
    /// JSON, source code or words.
    Text,
    /// `application/x-www-form-urlencoded`.
    Form,
}

/// One kind of escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escapes {
    Backslash,
    Percent,
    /// And `+` for a space.
    Form,
}

/// Brings finds in a layer back to where they stand in the text.
pub(super) type Back<'a> = &'a dyn Fn(&mut [Find]);

/// Shows the text itself, then each layer below its escapes, with what brings finds back.
pub(super) fn layers(text: &[u8], notation: Notation, on: &mut dyn FnMut(&[u8], Back<'_>)) {
    on(text, &|_| ());
    let order = match notation {
        Notation::Text => [Escapes::Backslash, Escapes::Backslash, Escapes::Percent],
        Notation::Form => [Escapes::Form, Escapes::Backslash, Escapes::Backslash],
    };
    let mut taken: Vec<(Escapes, Zeroizing<Vec<u8>>)> = Vec::new();
    for escapes in order {
        let layer = taken.last().map_or(text, |(_, layer)| layer);
        let Some(decoded) = decode(escapes, layer) else { continue };
        taken.push((escapes, decoded));
        let back = |found: &mut [Find]| {
            for (index, (escapes, _)) in taken.iter().enumerate().rev() {
                let outer = index.checked_sub(1).map_or(text, |outer| &taken[outer].1);
                bring_back(*escapes, outer, found);
            }
        };
        on(taken.last().map_or(text, |(_, layer)| layer), &back);
    }
}

/// The text without these escapes; `None` if it has none.
fn decode(escapes: Escapes, text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut at = next(escapes, text, 0)?;
    while unit(escapes, &text[at..]).is_none() {
        at = next(escapes, text, at + 1)?;
    }
    let mut decoded = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut from = 0;
    let mut at = Some(at);
    while let Some(special) = at {
        match unit(escapes, &text[special..]) {
            Some((length, bytes)) => {
                decoded.extend_from_slice(&text[from..special]);
                decoded.extend_from_slice(bytes.as_bytes());
                from = special + length;
                at = next(escapes, text, from);
            }
            None => at = next(escapes, text, special + 1),
        }
    }
    decoded.extend_from_slice(&text[from..]);
    Some(decoded)
}

/// Brings ranges of the decoded text to where they are in `text`, in one pass however many they are.
fn bring_back(escapes: Escapes, text: &[u8], found: &mut [Find]) {
    let mut wanted: Vec<usize> = found.iter().flat_map(|find| [find.range.start, find.range.end]).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut places = Vec::with_capacity(wanted.len());
    let (mut decoded, mut from) = (0, 0);
    let mut upcoming = wanted.iter().copied().peekable();
    let mut search = 0;
    while upcoming.peek().is_some() {
        let special = next(escapes, text, search);
        let taken = special.and_then(|at| unit(escapes, &text[at..]).map(|(length, bytes)| (at, length, bytes)));
        let Some((at, length, bytes)) = taken else {
            if let Some(at) = special {
                search = at + 1;
                continue;
            }
            places.extend(upcoming.by_ref().map(|place| (place, (from + place - decoded).min(text.len()))));
            break;
        };
        let plain = decoded + (at - from);
        while let Some(place) = upcoming.next_if(|place| *place <= plain) {
            places.push((place, from + place - decoded));
        }
        decoded = plain + bytes.as_bytes().len();
        from = at + length;
        search = from;
        while let Some(place) = upcoming.next_if(|place| *place < decoded) {
            places.push((place, at));
        }
    }
    let back = |place: usize| places.binary_search_by_key(&place, |(decoded, _)| *decoded).map_or(0, |at| places[at].1);
    for find in found {
        find.range = Range { start: back(find.range.start), end: back(find.range.end) };
    }
}

/// Where the next escape may be.
fn next(escapes: Escapes, text: &[u8], from: usize) -> Option<usize> {
    let rest = text.get(from..)?;
    let at = match escapes {
        Escapes::Backslash => memchr(b'\\', rest),
        Escapes::Percent => memchr(b'%', rest),
        Escapes::Form => memchr2(b'%', b'+', rest),
    };
    at.map(|at| from + at)
}

/// What one escape stands for.
#[derive(Debug, Clone, Copy)]
struct Unit {
    bytes: [u8; 4],
    length: usize,
}

impl Unit {
    fn of(byte: u8) -> Self {
        Self { bytes: [byte, 0, 0, 0], length: 1 }
    }

    fn character(character: char) -> Self {
        let mut bytes = [0; 4];
        let length = character.encode_utf8(&mut bytes).len();
        Self { bytes, length }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The escape that the text begins with: how long it is, and what it stands for.
fn unit(escapes: Escapes, text: &[u8]) -> Option<(usize, Unit)> {
    match (escapes, text) {
        (Escapes::Backslash, [b'\\', kind, rest @ ..]) => backslash(*kind, rest),
        (Escapes::Form, [b'+', ..]) => Some((1, Unit::of(b' '))),
        (Escapes::Percent | Escapes::Form, [b'%', high, low, ..]) => Some((3, Unit::of(hex(&[*high, *low])? as u8))),
        _ => None,
    }
}

fn backslash(kind: u8, rest: &[u8]) -> Option<(usize, Unit)> {
    let byte = match kind {
        b'"' | b'\\' | b'/' | b'\'' | b'`' => kind,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'f' => 12,
        b'x' => return Some((4, Unit::of(hex(rest.get(..2)?)? as u8))),
        b'u' => return unicode(rest),
        _ => return None,
    };
    Some((2, Unit::of(byte)))
}

fn unicode(rest: &[u8]) -> Option<(usize, Unit)> {
    let first = hex(rest.get(..4)?)?;
    if let Some(character) = char::from_u32(first) {
        return Some((6, Unit::character(character)));
    }
    let second = rest.get(4..).and_then(|rest| rest.strip_prefix(b"\\u")).and_then(|rest| hex(rest.get(..4)?));
    let pair = second
        .filter(|second| (0xD800..0xDC00).contains(&first) && (0xDC00..0xE000).contains(second))
        .and_then(|second| char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)));
    Some(match pair {
        Some(character) => (12, Unit::character(character)),
        None => (6, Unit::character(char::REPLACEMENT_CHARACTER)),
    })
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| Some(number << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(escapes: Escapes, text: &str) -> Option<String> {
        decode(escapes, text.as_bytes()).map(|decoded| String::from_utf8_lossy(&decoded).into_owned())
    }

    #[test]
    fn escapes_are_taken_away() {
        for (escapes, text, expected) in [
            (Escapes::Backslash, r"a\u0067hp\n\u00e9\ud83d\ude00", Some("aghp\né😀")),
            (Escapes::Backslash, r"\x67\q \", Some("g\\q \\")),
            (Escapes::Backslash, r"\ud800x", Some("\u{fffd}x")),
            (Escapes::Backslash, r"\u00", None),
            (Escapes::Backslash, "plain", None),
            (Escapes::Percent, "%67hp%5F+%zz%", Some("ghp_+%zz%")),
            (Escapes::Percent, "100%", None),
            (Escapes::Form, "a+b%2B", Some("a b+")),
        ] {
            assert_eq!(decoded(escapes, text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn places_are_brought_back_through_all_layers() {
        let text = br#"{"a":"\u0020\\u0067hp %5F end"}"#;
        let mut seen = Vec::new();
        layers(text, Notation::Text, &mut |layer, back| {
            let layer = String::from_utf8_lossy(layer).into_owned();
            if let Some(start) = layer.find("ghp _") {
                let mut found = [Find { kind: 0, range: start..start + 5, instead: None }];
                back(&mut found);
                seen.push(String::from_utf8_lossy(&text[found[0].range.clone()]).into_owned());
            }
        });
        assert_eq!(seen, [r"\\u0067hp %5F"]);
    }

    #[test]
    fn a_text_without_escapes_is_its_only_layer() {
        let mut count = 0;
        layers(b"nothing to decode: 100% plain", Notation::Text, &mut |_, _| count += 1);
        assert_eq!(count, 1);
    }
}
