//! Takes an injected secret out of what comes back, however the origin wrote it.
//!
//! [`Needles`] are a credential's values, compiled once when it is minted: as they are, and as they stand inside base64 at
//! each alignment, in the standard and the URL-safe alphabet. Each is found with any of its characters percent-encoded
//! (once or twice), escaped as JSON or HTML have it, or plain. [`Scrubber`] finds them in a stream, over any border between
//! chunks, and holds back only what may be the beginning of one: everything else passes at once and uncopied. Base64 may be
//! broken into lines. One that is cut short by the end of a text is found too, where enough is left to tell.
//!
//! What is found is overwritten, so that a text keeps its length: `Content-Length`, ranges, and the lengths inside binary
//! messages stay right, and JSON stays JSON.

mod escape;
mod needle;
mod search;

use std::{fmt, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};

use needle::{Attempt, Needle};
use search::Search;

/// The values of one credential, ready to be looked for. Copies of them live in memory that is wiped; only the first few
/// characters of each also stand in tables that are not.
pub struct Needles {
    needles: Vec<Needle>,
    search: Search,
}

/// Takes the needles out of one stream.
pub struct Scrubber {
    needles: Arc<Needles>,
    held: Bytes,
    found: u64,
}

impl Needles {
    /// Needles for these secrets. One shorter than [`SHORTEST`] bytes is left out, because it would be found where it isn't
    /// meant; `None` when that leaves nothing to look for.
    pub fn new(secrets: &[&str]) -> Option<Self> {
        let mut needles: Vec<Needle> = Vec::new();
        for secret in secrets.iter().filter(|secret| secret.len() >= SHORTEST) {
            for needle in Needle::all(secret) {
                if !needles.contains(&needle) {
                    needles.push(needle);
                }
            }
        }
        if needles.is_empty() {
            return None;
        }
        let search = Search::new(needles.iter().flat_map(Needle::beginnings), needles.iter().flat_map(Needle::anchors));
        Some(Self { needles, search })
    }

    /// The text with every needle overwritten, and how many there were. `None` when it has none, as nearly every text.
    pub fn redacted(&self, text: &[u8]) -> Option<(Vec<u8>, u64)> {
        let first = self.first(text, 0, true)?;
        let mut redacted = text.to_vec();
        let (found, _) = self.overwrite(&mut redacted, first, true);
        Some((redacted, found))
    }

    /// Whether a needle stands in this text.
    pub fn is_in(&self, text: &[u8]) -> bool {
        self.first(text, 0, true).is_some()
    }

    /// Overwrites what was found and all that follows. Returns how many there were, and where what must be held begins.
    fn overwrite(&self, text: &mut [u8], first: Found, last: bool) -> (u64, usize) {
        let mut next = Some(first);
        let mut count = 0;
        let mut passed = 0;
        while let Some(found) = next {
            match found {
                Found::Needle(range) => {
                    let start = range.start - escaping(&text[passed..range.start]);
                    let place = &mut text[start..range.end];
                    place.fill(b'*');
                    place[..REDACTED.len()].copy_from_slice(REDACTED);
                    count += 1;
                    passed = range.end;
                    next = self.first(text, passed, last);
                }
                Found::Beginning(start) => return (count, start),
            }
        }
        (count, text.len())
    }

    /// The first needle from here on, or what may be the beginning of one.
    fn first(&self, text: &[u8], from: usize, last: bool) -> Option<Found> {
        let mut at = from;
        while let Some(candidate) = self.search.find(text, at) {
            let (start, attempt) = self.around(text, from, candidate, last);
            match attempt {
                Attempt::Whole(length) => return Some(self.merged(text, start..start + length, last)),
                Attempt::Partial(_) => return Some(Found::beginning(text, from, start)),
                Attempt::No => at = candidate + 1,
            }
        }
        if last {
            return None;
        }
        let tail = self.search.tail(&text[from..]).map_or(text.len(), |start| from + start);
        let start = self.broken(text, from, text.len(), last).map_or(tail, |(start, _)| start.min(tail));
        let beginning = Found::beginning(text, from, start);
        (!matches!(beginning, Found::Beginning(start) if start == text.len())).then_some(beginning)
    }

    /// Another needle may begin inside this one and end behind it.
    fn merged(&self, text: &[u8], mut range: Range<usize>, last: bool) -> Found {
        let mut at = range.start + 1;
        while let Some(start) = self.search.find(text, at).filter(|start| *start < range.end) {
            let (begun, attempt) = self.around(text, range.start + 1, start, last);
            match attempt {
                Attempt::Whole(length) => range.end = range.end.max(begun + length),
                Attempt::Partial(_) => return Found::beginning(text, 0, range.start),
                Attempt::No => {}
            }
            at = start + 1;
        }
        Found::Needle(range)
    }

    /// What begins at this candidate, or shortly before it where a line break is among the first characters.
    fn around(&self, text: &[u8], from: usize, candidate: usize, last: bool) -> (usize, Attempt) {
        let broken = self.broken(text, from, candidate, last);
        broken.unwrap_or_else(|| (candidate, self.attempt(&text[candidate..], last)))
    }

    /// The first needle that begins shortly before this place, if there is a line break between.
    fn broken(&self, text: &[u8], from: usize, to: usize, last: bool) -> Option<(usize, Attempt)> {
        let earliest = from.max(to.saturating_sub(WINDOW));
        let window = &text[earliest..to];
        if !window.iter().any(|byte| matches!(byte, b'\n' | b'\r') || escape::begins(*byte)) {
            return None;
        }
        let mut attempts = (earliest..to).map(|start| {
            let needles = self.needles.iter().filter(|needle| needle.may_begin_broken(text[start]));
            (start, longest(needles, &text[start..], last))
        });
        attempts.find(|(_, attempt)| *attempt != Attempt::No)
    }

    /// The longest needle that the text begins with. Where more of the text may yet tell, that is waited for.
    fn attempt(&self, text: &[u8], last: bool) -> Attempt {
        longest(self.needles.iter(), text, last)
    }
}

impl fmt::Debug for Needles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[needles]")
    }
}

impl Scrubber {
    /// Looks for these from the beginning of a stream on.
    pub fn new(needles: Arc<Needles>) -> Self {
        Self { needles, held: Bytes::new(), found: 0 }
    }

    /// Takes the next chunk and returns what may pass, which is nothing when all of it must be held back.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        if self.held.is_empty() {
            return self.pass(chunk, false);
        }
        let mut text = BytesMut::with_capacity(self.held.len() + chunk.len());
        text.extend_from_slice(&self.held);
        text.extend_from_slice(&chunk);
        self.pass(text.freeze(), false)
    }

    /// The stream has ended: what was held back was the beginning of nothing, or a needle that was cut short.
    pub fn finish(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        self.pass(held, true)
    }

    /// Whether something is held back.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// How many needles were found so far.
    pub fn found(&self) -> u64 {
        self.found
    }

    fn pass(&mut self, mut text: Bytes, last: bool) -> Bytes {
        let passing = match self.needles.first(&text, 0, last) {
            None => text.len(),
            Some(Found::Beginning(start)) => start,
            Some(found) => {
                let mut redacted = BytesMut::from(&text[..]);
                let (count, passing) = self.needles.overwrite(&mut redacted, found, last);
                self.found += count;
                text = redacted.freeze();
                passing
            }
        };
        self.held = text.split_off(passing);
        text
    }
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrubber").field("found", &self.found).finish_non_exhaustive()
    }
}

/// Where something stands in a text.
enum Found {
    Needle(Range<usize>),
    /// From here to the end may be the beginning of a needle.
    Beginning(usize),
}

impl Found {
    /// With the backslashes before it, whose number decides what the text behind them means.
    fn beginning(text: &[u8], from: usize, start: usize) -> Self {
        let run = backslashes(&text[from..start]);
        Self::Beginning(start - if run <= RUN { run } else { RUN - run % 2 })
    }
}

fn longest<'a>(needles: impl Iterator<Item = &'a Needle>, text: &[u8], last: bool) -> Attempt {
    let mut longest = Attempt::No;
    for needle in needles {
        match needle.attempt(text) {
            Attempt::Partial(0) if last => {}
            Attempt::Partial(cut_short) if last => longest = longest.max(Attempt::Whole(cut_short)),
            Attempt::Partial(cut_short) => return Attempt::Partial(cut_short),
            whole => longest = longest.max(whole),
        }
    }
    longest
}

/// Whether the text ends with a backslash that belongs to what follows: 1 or 0 bytes. Left alone before what is
/// overwritten, it would make something else of it.
fn escaping(text: &[u8]) -> usize {
    backslashes(text) % 2
}

fn backslashes(text: &[u8]) -> usize {
    text.iter().rev().take_while(|byte| **byte == b'\\').count()
}

/// The fewest bytes of a secret that is looked for.
pub const SHORTEST: usize = 8;

/// How far before an anchor, or before the end of a text, a needle may begin that a line break divides.
const WINDOW: usize = 32;

/// Stands at the beginning of what is overwritten; no needle is shorter.
const REDACTED: &[u8; 8] = b"REDACTED";

/// The longest run of backslashes that is held back; of a longer one an even number has passed.
const RUN: usize = 64;

#[cfg(test)]
mod tests;
