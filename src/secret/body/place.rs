//! Says where in a body a secret stands, without saying it.
//!
//! Names are the agent's to choose: they are cut, brought into a small alphabet, and left out when they are secrets.

use std::{borrow::Cow, ops::Range};

use percent_encoding::percent_decode;

use super::Content;
use crate::secret::{
    detect::{self, Find, Notation},
    mask::REDACTED,
};

/// Where each of these stands, in their order: `body:/a/0/name`, or `body` where that can't be told.
pub(super) fn places(body: &[u8], content: Content, finds: &[Find]) -> Vec<Cow<'static, str>> {
    let told = &finds[..finds.len().min(MOST_TOLD)];
    let mut places = match content {
        Content::Json => Walk::new(body, told).places(),
        Content::Form => told.iter().map(|find| field(body, find)).collect(),
        Content::Text => Vec::new(),
    };
    places.resize(finds.len(), Cow::Borrowed(WHOLE));
    places
}

/// The name of the field that holds it.
fn field(body: &[u8], find: &Find) -> Cow<'static, str> {
    let before = &body[..find.range.start];
    let pair = before.iter().rposition(|byte| *byte == b'&').map_or(before, |at| &before[at + 1..]);
    let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { return Cow::Borrowed(WHOLE) };
    let name: Cow<'_, [u8]> = percent_decode(&pair[..equals]).into();
    let mut place = format!("{WHOLE}:/");
    push_name(&mut place, &name);
    Cow::Owned(place)
}

/// Adds a name as it may be shown.
fn push_name(place: &mut String, name: &[u8]) {
    if detect::find(name).is_some() || !detect::finds(name, Notation::Text).is_empty() {
        place.push_str(REDACTED);
        return;
    }
    for byte in name.iter().take(LONGEST_NAME) {
        place.push(match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(*byte),
            _ => '?',
        });
    }
}

/// Goes through JSON from string to string and keeps where it is. It need not be well-formed: then the places are less
/// exact, and nothing else depends on them.
struct Walk<'a> {
    body: &'a [u8],
    finds: &'a [Find],
    levels: Vec<Level>,
}

enum Level {
    List(usize),
    Members(Option<Range<usize>>),
}

impl<'a> Walk<'a> {
    fn new(body: &'a [u8], finds: &'a [Find]) -> Self {
        Self { body, finds, levels: Vec::new() }
    }

    fn places(mut self) -> Vec<Cow<'static, str>> {
        let mut places = Vec::with_capacity(self.finds.len());
        let mut at = 0;
        while at < self.body.len() && places.len() < self.finds.len() {
            match self.body[at] {
                b'"' => {
                    let string = at + 1..string_end(self.body, at + 1);
                    let is_name = self.is_name(string.end);
                    while let Some(find) = self.finds.get(places.len()).filter(|find| find.range.start < string.end) {
                        let is_inside = find.range.start >= string.start;
                        places.push(if is_name || !is_inside { Cow::Borrowed(WHOLE) } else { self.pointer() });
                    }
                    at = string.end;
                    if is_name && let Some(Level::Members(name)) = self.levels.last_mut() {
                        *name = Some(string);
                    }
                }
                b'[' => self.levels.push(Level::List(0)),
                b'{' => self.levels.push(Level::Members(None)),
                b']' | b'}' => drop(self.levels.pop()),
                b',' => match self.levels.last_mut() {
                    Some(Level::List(index)) => *index += 1,
                    Some(Level::Members(name)) => *name = None,
                    None => {}
                },
                _ => {}
            }
            at += 1;
        }
        places
    }

    /// Whether the string that ends here names a member.
    fn is_name(&self, end: usize) -> bool {
        let follows = self.body.get(end + 1..).and_then(|rest| rest.iter().find(|byte| !byte.is_ascii_whitespace()));
        matches!(self.levels.last(), Some(Level::Members(None))) && follows == Some(&b':')
    }

    fn pointer(&self) -> Cow<'static, str> {
        if self.levels.len() > MOST_LEVELS || self.levels.is_empty() {
            return Cow::Borrowed(WHOLE);
        }
        let mut place = format!("{WHOLE}:");
        for level in &self.levels {
            place.push('/');
            match level {
                Level::List(index) => place.push_str(&index.to_string()),
                Level::Members(Some(name)) => push_name(&mut place, &unescaped(self.body, name)),
                Level::Members(None) => {}
            }
        }
        Cow::Owned(place)
    }
}

/// A name without its escapes, so that none hides a secret.
fn unescaped<'a>(body: &'a [u8], name: &Range<usize>) -> Cow<'a, [u8]> {
    let quoted = name.start - 1..(name.end + 1).min(body.len());
    match serde_json::from_slice::<String>(&body[quoted]) {
        Ok(text) => Cow::Owned(text.into_bytes()),
        Err(_) => Cow::Borrowed(b"?"),
    }
}

fn string_end(body: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(found) = body.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        if body[at + found] == b'"' {
            return at + found;
        }
        at += found + 2;
    }
    body.len()
}

/// The place of what can't be told more exactly.
const WHOLE: &str = "body";

/// Of how many the place is told; more are not noted.
const MOST_TOLD: usize = 64;

/// How much of a name is shown.
const LONGEST_NAME: usize = 32;

/// How deep a place is told.
const MOST_LEVELS: usize = 8;
