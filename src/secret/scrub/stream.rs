//! Takes needles out of a stream.
//!
//! What passes, and when, says nothing of the needles: the end of what has come is kept back, up to the last end of a word or
//! line, until more comes or the stream pauses.

use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{Covered, End, Needles, backslashes, ends_word};

/// Takes the needles out of one stream.
pub struct Scrubber {
    needles: Arc<Needles>,
    /// The end of what has come, as it came.
    kept: Bytes,
    /// How much of that has passed already: a needle may have begun in it.
    passed: usize,
    /// Up to where needles in it were counted.
    counted: usize,
    /// From where on the rest of a word is overwritten, where it goes on.
    word: Option<usize>,
    found: u64,
}

/// How much of a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// More is coming.
    Now,
    /// Nothing comes for a while.
    Pause,
    /// Nothing comes any more.
    End,
}

impl Scrubber {
    /// Looks for these from the beginning of a stream on.
    pub fn new(needles: Arc<Needles>) -> Self {
        Self { needles, kept: Bytes::new(), passed: 0, counted: 0, word: None, found: 0 }
    }

    /// Takes the next chunk and returns what may pass, in its order: nothing when all of it is kept back.
    pub fn push(&mut self, chunk: Bytes) -> [Bytes; 2] {
        self.take(chunk, Until::Now)
    }

    /// Takes the last chunk and returns all that is left.
    pub fn push_last(&mut self, chunk: Bytes) -> [Bytes; 2] {
        let passing = self.take(chunk, Until::End);
        self.reset();
        passing
    }

    /// The stream pauses: what was kept back passes.
    pub fn pause(&mut self) -> Bytes {
        let text = std::mem::take(&mut self.kept);
        self.look(text, Until::Pause)
    }

    /// The stream has ended: what was kept back was the beginning of nothing, or a needle that was cut short. Another may
    /// follow.
    pub fn finish(&mut self) -> Bytes {
        let text = std::mem::take(&mut self.kept);
        let passing = self.look(text, Until::End);
        self.reset();
        passing
    }

    /// Whether something is kept back.
    pub fn holds(&self) -> bool {
        self.kept.len() > self.passed
    }

    /// How many needles were found so far.
    pub fn found(&self) -> u64 {
        self.found
    }

    fn reset(&mut self) {
        (self.kept, self.passed, self.counted, self.word) = (Bytes::new(), 0, 0, None);
    }

    /// Of a long chunk only its beginning is copied to what was kept before it.
    fn take(&mut self, chunk: Bytes, until: Until) -> [Bytes; 2] {
        let overlap = 3 * self.needles.reach;
        // Judged by what has not passed: whether anything else is kept is a secret.
        if !self.holds() || chunk.len() < 2 * overlap {
            let text = self.joined(&chunk);
            return [self.look(text, until), Bytes::new()];
        }
        let first = self.look(self.joined(&chunk.slice(..overlap)), Until::Now);
        let kept = self.kept.len();
        let rest = if kept <= overlap { chunk.slice(overlap - kept..) } else { self.joined(&chunk.slice(overlap..)) };
        [first, self.look(rest, until)]
    }

    fn joined(&self, chunk: &Bytes) -> Bytes {
        if self.kept.is_empty() {
            return chunk.clone();
        }
        let mut text = BytesMut::with_capacity(self.kept.len() + chunk.len());
        text.extend_from_slice(&self.kept);
        text.extend_from_slice(chunk);
        text.freeze()
    }

    /// Takes all that is at hand, what was kept first, and returns what passes of it.
    fn look(&mut self, text: Bytes, until: Until) -> Bytes {
        let border = match until {
            Until::Now => border(&text, self.passed, self.needles.reach),
            Until::Pause => text.len() - unfinished(&text[self.passed..]),
            Until::End => text.len(),
        };
        if border <= self.passed && until != Until::End {
            self.kept = text;
            return Bytes::new();
        }
        let mut covered = Covered { counted: self.counted, ..Covered::default() };
        let in_word = self.word.take().is_some_and(|from| end_word(&text, from, &mut covered));
        // What of the word has not passed is told again with what follows it.
        self.word = in_word.then_some(border);
        let mut keep = border;
        self.needles.look(&text, until == Until::End, |found| {
            covered.take(&found, text.len());
            let goes_on = match found.end {
                Some(End::Here(end)) => end > border,
                Some(End::Beyond) => true,
                Some(End::WithWord) => {
                    self.word = Some(border);
                    false
                }
                None => false,
            };
            if goes_on || found.is_open {
                keep = keep.min(found.start);
            }
        });
        if until != Until::End {
            keep = keep.min(self.needles.search.tail(&text).unwrap_or(border));
        }
        self.found += covered.count;
        covered.settle();
        self.part(text, &covered, keep, border)
    }

    /// Parts the text into what passes, overwritten where it is covered, and what is kept.
    fn part(&mut self, text: Bytes, covered: &Covered, keep: usize, border: usize) -> Bytes {
        let passed = std::mem::replace(&mut self.passed, border - keep);
        self.counted = covered.counted.saturating_sub(keep);
        self.word = self.word.map(|from| from - keep);
        self.kept = text.slice(keep..);
        if covered.ranges.is_empty() {
            return text.slice(passed..border);
        }
        let mut written = BytesMut::from(&text[..border]);
        covered.overwrite(&mut written, passed, border);
        written.freeze().slice(passed..)
    }
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrubber").field("found", &self.found).finish_non_exhaustive()
    }
}

/// Covers the rest of a word. Whether it goes on behind the text.
fn end_word(text: &[u8], from: usize, covered: &mut Covered) -> bool {
    let end = text[from..].iter().position(|byte| ends_word(*byte)).map(|length| from + length);
    let last = end.unwrap_or(text.len());
    // A backslash that belongs to a quotation mark behind it stays with that.
    covered.ranges.push(from..last - backslashes(&text[from..last]) % 2);
    end.is_none()
}

/// Up to where a text may pass while more of it comes: behind the last end of a word near its end, else all but that end.
/// Judged by what a word is, never by what is looked for.
fn border(text: &[u8], passed: usize, reach: usize) -> usize {
    let near = passed.max(text.len().saturating_sub(reach));
    let end = text[near..].iter().rposition(|byte| ends_word(*byte)).map(|last| near + last + 1);
    match end {
        Some(end) => end,
        // In one go for many bytes, so that a stream of single ones is not looked at for each.
        None if text.len() - passed > 2 * reach => near - unfinished(&text[passed..near]),
        None => passed,
    }
}

/// How many of the last bytes are an escape of JSON that is not over, in the middle of which nothing may be written.
fn unfinished(text: &[u8]) -> usize {
    let near = text.len().saturating_sub(UNIT);
    let Some(last) = text[near..].iter().rposition(|byte| *byte == b'\\') else { return 0 };
    let last = near + last;
    let run = backslashes(&text[..=last]);
    let is_over = match &text[last + 1..] {
        [] => run.is_multiple_of(2),
        [b'u', digits @ ..] => digits.len() >= 4 || run.is_multiple_of(2),
        _ => true,
    };
    if is_over { 0 } else { text.len() - last + (run - 1).min(RUN) / 2 * 2 }
}

/// `\u0000`
const UNIT: usize = 6;

/// The longest run of backslashes that is looked at.
const RUN: usize = 64;
