//! Takes an injected secret out of what comes back, however the origin wrote it.
//!
//! [`Needles`] are a credential's values, compiled once when it is minted: as they are, and as they stand inside base64 at
//! each alignment, in the standard and the URL-safe alphabet. Each is found with any of its characters percent-encoded
//! (once or twice), escaped as JSON or HTML have it, or plain. [`Scrubber`] finds them in a stream, over any border between
//! chunks. Base64 may be broken into lines. One that is cut short, by the end of a text or by other characters, is found
//! too, where enough is there to tell.
//!
//! An agent can choose what an origin says, and so try guesses. It learns nothing from them: a guess that is right for fewer
//! characters than tell a needle is treated like any other text, also in when and in which pieces it passes, and one that
//! tells it is overwritten to the end of its word, however far it was right.
//!
//! What is found is overwritten, so that a text keeps its length: `Content-Length`, ranges, and the lengths inside binary
//! messages stay right, and JSON stays JSON.

mod escape;
mod needle;
mod search;
mod stream;

use std::{fmt, ops::Range};

use needle::{Attempt, Needle};
use search::Search;
pub use stream::Scrubber;

/// The values of one credential, ready to be looked for. Copies of them live in memory that is wiped; only the first few
/// characters of each also stand in tables that are not.
pub struct Needles {
    needles: Vec<Needle>,
    search: Search,
    /// How much of a stream is kept back while more of it comes: a text that does not tell a needle yet is shorter.
    reach: usize,
    /// How many characters the longest has.
    longest: usize,
}

/// What stands in a text.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    start: usize,
    /// What of it is overwritten; `None` where too little has come to tell it from other text.
    end: Option<End>,
    /// Whether more of it may follow behind the text.
    is_open: bool,
}

/// Where what is overwritten ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Here(usize),
    /// Not before the end of the text.
    Beyond,
    /// Not before the end of the text, and there where the word ends.
    WithWord,
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
        let reach = needles.iter().map(Needle::telling).max()?.saturating_mul(LONGEST_ESCAPE).min(LONGEST_REACH);
        let longest = needles.iter().map(Needle::len).max()?;
        let search = Search::new(needles.iter().flat_map(Needle::beginnings), needles.iter().flat_map(Needle::anchors));
        Some(Self { needles, search, reach, longest })
    }

    /// The text with every needle overwritten, and how many there were. `None` when it has none, as nearly every text.
    pub fn redacted(&self, text: &[u8]) -> Option<(Vec<u8>, u64)> {
        self.search.find(text, 0)?;
        let mut covered = Covered::default();
        self.look(text, true, |found| covered.take(&found, text.len()));
        covered.settle();
        let mut redacted = text.to_vec();
        covered.overwrite(&mut redacted, 0, text.len());
        (covered.count > 0).then_some((redacted, covered.count))
    }

    /// Whether a needle stands in this text.
    pub fn is_in(&self, text: &[u8]) -> bool {
        self.redacted(text).is_some()
    }

    /// Whether a needle stands in this name of a field, where letters have lost their case (RFC 9110 section 5.1).
    pub fn is_in_name(&self, name: &[u8]) -> bool {
        self.is_in(name) || self.needles.iter().any(|needle| needle.is_in_lowercase(name))
    }

    /// Shows every needle in this text and what may be the beginning of one, also inside each other. Nothing follows where
    /// this is the `last` of a text.
    fn look(&self, text: &[u8], last: bool, mut on: impl FnMut(Found)) {
        let (mut at, mut from) = (0, 0);
        let mut word = 0..0;
        while let Some(candidate) = self.search.find(text, at) {
            let (start, told) = self.around(text, from, candidate);
            on(self.found(text, start, told, last, &mut word));
            from = start + 1;
            // What begins before a candidate says nothing of what begins there.
            at = from.max(candidate);
        }
        while let Some((start, told)) = self.broken(text, from, text.len()).filter(|_| !last) {
            on(self.found(text, start, told, last, &mut word));
            from = start + 1;
        }
    }

    fn found(&self, text: &[u8], start: usize, told: Told, last: bool, word: &mut Range<usize>) -> Found {
        let whole = told.whole.map(|length| start + length);
        let is_open = !last && (told.is_open || told.telling);
        let end = if is_open && (told.telling || whole.is_some()) {
            // Where it ends shows when more has come.
            Some(End::Beyond)
        } else if told.differs || told.telling {
            match self.extent(text, start, word) {
                End::Here(end) => Some(End::Here(whole.map_or(end, |whole| whole.max(end)))),
                beyond => Some(beyond),
            }
        } else {
            whole.map(End::Here)
        };
        Found { start, end, is_open }
    }

    /// What is overwritten of a text that begins with enough of a needle to tell it: as much as the longest could take,
    /// and the word that this ends in. It says nothing of how far the text is right.
    ///
    /// The last `word` that was read to its end is not read again: many needles may stand in one.
    fn extent(&self, text: &[u8], start: usize, word: &mut Range<usize>) -> End {
        let (mut characters, mut breaks) = (0, 0);
        let mut at = start;
        while let Some(byte) = text.get(at) {
            if ends_text(*byte) {
                break;
            }
            if ends_word(*byte) {
                breaks += 1;
                if characters >= self.longest || breaks > needle::BREAKS {
                    break;
                }
            } else if characters >= self.longest {
                if !word.contains(&at) {
                    let length = text[at..].iter().position(|byte| ends_word(*byte));
                    *word = at..length.map_or(text.len(), |length| at + length);
                }
                at = word.end;
                continue;
            } else {
                breaks = 0;
                characters += 1;
            }
            at += 1;
        }
        match text.get(at) {
            // A backslash that belongs to a quotation mark stays with it.
            Some(byte) if ends_text(*byte) => End::Here(at - backslashes(&text[start..at]) % 2),
            Some(_) => End::Here(at),
            None if characters >= self.longest => End::WithWord,
            None => End::Beyond,
        }
    }

    /// What begins at this candidate, or shortly before it where a line break is among the first characters.
    fn around(&self, text: &[u8], from: usize, candidate: usize) -> (usize, Told) {
        let broken = self.broken(text, from, candidate);
        broken.unwrap_or_else(|| (candidate, Told::of(self.needles.iter(), &text[candidate..])))
    }

    /// The first needle that begins shortly before this place, if there is a line break between.
    fn broken(&self, text: &[u8], from: usize, to: usize) -> Option<(usize, Told)> {
        let earliest = from.max(to.saturating_sub(WINDOW));
        let window = text.get(earliest..to)?;
        if !window.iter().any(|byte| matches!(byte, b'\n' | b'\r') || escape::begins(*byte)) {
            return None;
        }
        let mut all = (earliest..to).map(|start| {
            let needles = self.needles.iter().filter(|needle| needle.may_begin_broken(text[start]));
            (start, Told::of(needles, &text[start..]))
        });
        all.find(|(_, told)| *told != Told::default())
    }
}

impl fmt::Debug for Needles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[needles]")
    }
}

/// What all needles together say of the beginning of a text.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Told {
    /// The length of the longest that is there whole.
    whole: Option<usize>,
    /// Whether there is enough of another to tell it, and then something else.
    differs: bool,
    /// Whether the text ends after enough of another.
    telling: bool,
    /// Whether the text ends before another can be told.
    is_open: bool,
}

impl Told {
    fn of<'a>(needles: impl Iterator<Item = &'a Needle>, text: &[u8]) -> Self {
        let mut told = Self::default();
        for needle in needles {
            match needle.attempt(text) {
                Attempt::No => {}
                Attempt::Quiet => told.is_open = true,
                Attempt::Telling => told.telling = true,
                Attempt::Differs => told.differs = true,
                Attempt::Whole(length) => told.whole = told.whole.max(Some(length)),
            }
        }
        told
    }
}

/// The parts of a text that are overwritten.
#[derive(Debug, Default)]
struct Covered {
    /// Once they are settled: in order, and apart from each other.
    ranges: Vec<Range<usize>>,
    /// How many needles there were; what begins inside another is none of its own.
    count: u64,
    /// Up to where they were counted before.
    counted: usize,
}

impl Covered {
    fn take(&mut self, found: &Found, length: usize) {
        let Some(end) = found.end else { return };
        let end = match end {
            End::Here(end) => end,
            End::Beyond | End::WithWord => length,
        };
        let new = found.start >= self.counted;
        self.count += u64::from(new);
        self.counted = self.counted.max(end);
        self.ranges.push(found.start..end);
    }

    fn settle(&mut self) {
        self.ranges.retain(|range| !range.is_empty());
        self.ranges.sort_unstable_by_key(|range| range.start);
        self.ranges.dedup_by(|next, before| {
            let touches = next.start <= before.end;
            if touches {
                before.end = before.end.max(next.end);
            }
            touches
        });
    }

    /// Overwrites what is covered between the two places, but for the ends of lines.
    fn overwrite(&self, text: &mut [u8], from: usize, to: usize) {
        for range in self.ranges.iter().filter(|range| range.start < to) {
            // Left alone before what is overwritten, a backslash would make something else of it.
            let escaping = backslashes(&text[from.min(range.start)..range.start]) % 2;
            let begin = range.start - escaping;
            let Some(place) = text.get_mut(from.max(begin)..range.end.min(to)) else { continue };
            place.iter_mut().filter(|byte| !matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b'*');
            match place.first_chunk_mut() {
                Some(beginning) if *beginning == [b'*'; 8] && begin >= from => *beginning = *REDACTED,
                _ => {}
            }
        }
    }
}

/// What no word has in it, however it is escaped.
fn ends_word(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f || ends_text(byte)
}

/// What ends a text inside another: quotation marks and brackets of markup.
fn ends_text(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b'`' | b'<' | b'>')
}

fn backslashes(text: &[u8]) -> usize {
    text.iter().rev().take_while(|byte| **byte == b'\\').count()
}

/// The fewest bytes of a secret that is looked for.
pub const SHORTEST: usize = 8;

/// How far before an anchor, or before the end of a text, a needle may begin that a line break divides.
const WINDOW: usize = 32;

/// Stands at the beginning of what is overwritten, where there is room for it.
const REDACTED: &[u8; 8] = b"REDACTED";

/// What a character takes in the longest escape that is read.
const LONGEST_ESCAPE: usize = 8;

/// No more of a stream is kept back, whatever is looked for.
const LONGEST_REACH: usize = 4096;

#[cfg(test)]
mod tests;
