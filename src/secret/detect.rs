//! Tells secrets by their format: the patterns of `policy/secrets.yaml`, private keys, and passwords in URLs.
//!
//! [`find`] and [`places`] look for what has the shape of a secret with a mark of its own, and allocate nothing when
//! there is none. [`search`] also looks into what is encoded and at what a value is called. [`finds`] is for bodies: there a
//! placeholder of some documentation is no secret, and a UUID, a digest or an image never is.
//!
//! Every secret has twenty characters of one alphabet in a row, so most of a text is passed over in steps of twenty.

mod decode;
mod encoded;
mod judge;
mod named;
mod pem;
mod runs;

use std::ops::Range;

use memchr::{memchr, memchr3};

use super::rules::{Marked, PEM, Rules, pattern::SHORTEST};
pub use decode::Notation;
use runs::{Words, is_base64, runs, span};

/// A secret and where it stands.
#[derive(Clone, PartialEq, Eq)]
pub struct Find {
    /// Its kind's index in the rules; earlier kinds are the more specific ones.
    kind: usize,
    /// Where it stands in the text.
    pub range: Range<usize>,
    /// What to write there instead, where it is more than the usual word: Base64 is written again without the secret in it.
    pub instead: Option<String>,
}

/// How much a find must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// The shape of a kind with a mark of its own.
    Shape,
    /// A secret, and not what only looks like one.
    Sure,
}

impl Find {
    /// The kind of the secret.
    pub fn kind(&self) -> &'static str {
        Rules::shipped().kind(self.kind).name
    }
}

impl std::fmt::Debug for Find {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {:?}", self.kind(), self.range)
    }
}

/// Reads the rules, so that the first call need not.
pub fn prepare() {
    Rules::shipped();
}

/// The kind of the first secret of a known format in this text, alone or among other words.
pub fn find(text: &[u8]) -> Option<&'static str> {
    if text.len() < SHORTEST {
        return None;
    }
    let rules = Rules::shipped();
    let mut kind = None;
    scan(rules, text, Care::Shape, &mut |find: Find| {
        kind = Some(find.kind);
        false
    });
    match kind {
        Some(kind) => Some(rules.kind(kind).name),
        None => pem::is_there(rules, text).then_some(PEM),
    }
}

/// Where the secrets of a known format stand in this text, in order. Of a private key: its lines.
pub fn places(text: &[u8]) -> Vec<Range<usize>> {
    let rules = Rules::shipped();
    let mut places = Vec::new();
    scan(rules, text, Care::Shape, &mut |find: Find| {
        places.push(find.range);
        true
    });
    if pem::is_there(rules, text) {
        let mut start = 0;
        for line in text.split(|byte| !pem::is_key_byte(*byte)) {
            if line.len() >= SHORTEST {
                places.push(start..start + line.len());
            }
            start += line.len() + 1;
        }
    }
    merged(places)
}

/// The kind of the first secret in this value of a head, in plain text or encoded once.
pub fn search(text: &[u8]) -> Option<&'static str> {
    if text.len() < SHORTEST {
        return None;
    }
    find(text).or_else(|| {
        let may_hold = has_run(text) || memchr3(b'\\', b'%', b'@', text).is_some();
        may_hold.then(|| finds(text, Notation::Text)).and_then(|found| found.first().map(Find::kind))
    })
}

/// The kind of the first secret in this value of a field, by its format or because of the field's name.
pub fn search_field(name: &str, value: &[u8]) -> Option<&'static str> {
    if value.len() < SHORTEST {
        return None;
    }
    let rules = Rules::shipped();
    search(value).or_else(|| named::field(rules, name, value).map(|kind| rules.kind(kind).name))
}

fn has_run(text: &[u8]) -> bool {
    let mut has_run = false;
    runs(text, |_| {
        has_run = true;
        false
    });
    has_run
}

/// All secrets in this text, also where it is escaped or encoded, in order and without overlaps.
pub fn finds(text: &[u8], notation: Notation) -> Vec<Find> {
    let mut found = Vec::new();
    if text.len() < SHORTEST {
        return found;
    }
    let rules = Rules::shipped();
    decode::layers(text, notation, &mut |layer, back| {
        let mut here = Vec::new();
        whole(rules, layer, &mut |find| {
            here.push(find);
            true
        });
        if !here.is_empty() {
            back(&mut here);
            found.append(&mut here);
        }
    });
    without_overlaps(found)
}

/// Looks for everything that one layer of a text can hold.
fn whole(rules: &Rules, text: &[u8], on: &mut impl FnMut(Find) -> bool) {
    let mut base64 = encoded::Base64::default();
    runs(text, |run| scan_run(rules, text, run.clone(), Care::Sure, on) && base64.look(rules, text, run, on));
    pem::private_keys(rules, text, on);
    named::url_passwords(rules, text, on);
}

/// Looks at every run of characters that a secret can stand in. `on` says whether to go on.
fn scan(rules: &Rules, text: &[u8], care: Care, on: &mut impl FnMut(Find) -> bool) {
    runs(text, |run| scan_run(rules, text, run, care, on));
}

fn scan_run(rules: &Rules, text: &[u8], run: Range<usize>, care: Care, on: &mut impl FnMut(Find) -> bool) -> bool {
    // Where a value may begin behind: resources have names with more colons.
    let colon = memchr(b':', &text[run.clone()]).map(|at| run.start + at);
    let mut passed = run.start;
    for at in Words::new(text, &run) {
        if at + SHORTEST > run.end {
            break;
        }
        if at < passed {
            continue;
        }
        let value = || {
            let is_value = care == Care::Sure && (at == run.start || at.checked_sub(1) == colon);
            is_value.then(|| named::value(rules, text, at)).flatten()
        };
        if let Some((kind, end)) = marked(rules, text, at, run.end - at, care).or_else(value) {
            if !on(Find { kind, range: at..end, instead: None }) {
                return false;
            }
            passed = end;
        }
    }
    true
}

/// The secret with a mark of its own that begins here, in what is left of a run.
#[inline]
fn marked(rules: &Rules, text: &[u8], at: usize, left: usize, care: Care) -> Option<(usize, usize)> {
    let is_secret = |Marked { kind, pattern }: &Marked| {
        let end = pattern.end(text, at)?;
        let is_sure = || judge::is_secret(rules, rules.kind(*kind), &text[at..end], pattern.fixed());
        (care == Care::Shape || is_sure()).then_some((*kind, end))
    };
    let fixed = rules.beginning(text[at], text[at + 1]).iter().find_map(is_secret);
    let classed = rules.classed().iter().filter(|marked| marked.pattern.may_begin(text, at));
    fixed.or_else(|| classed.filter(|marked| marked.pattern.least() <= left).find_map(is_secret))
}

/// Whether this path segment is `bot<digits>:<token>`, as Telegram's API wants it.
pub fn is_telegram_segment(segment: &[u8]) -> bool {
    let Some(rest) = segment.strip_prefix(b"bot") else { return false };
    let Some(colon) = rest.iter().position(|byte| *byte == b':') else { return false };
    let (digits, token) = (&rest[..colon], &rest[colon + 1..]);
    (6..=12).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_digit)
        && (30..=64).contains(&token.len())
        && token.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn merged(mut places: Vec<Range<usize>>) -> Vec<Range<usize>> {
    places.sort_unstable_by_key(|place| place.start);
    let mut apart: Vec<Range<usize>> = Vec::with_capacity(places.len());
    for place in places {
        match apart.last_mut() {
            Some(last) if place.start < last.end => last.end = last.end.max(place.end),
            _ => apart.push(place),
        }
    }
    apart
}

/// One find for each stretch of the text: the one of the more specific kind.
fn without_overlaps(mut found: Vec<Find>) -> Vec<Find> {
    found.sort_by_key(|find| (find.range.start, find.kind));
    let mut apart: Vec<Find> = Vec::with_capacity(found.len());
    for find in found {
        match apart.last_mut() {
            Some(last) if find.range.start < last.range.end => {
                if find.range != last.range {
                    last.instead = None;
                } else if last.instead.is_none() {
                    last.instead = find.instead;
                }
                last.range.end = last.range.end.max(find.range.end);
                last.kind = last.kind.min(find.kind);
            }
            _ => apart.push(find),
        }
    }
    apart
}

#[cfg(test)]
mod tests;
