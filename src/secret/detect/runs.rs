//! Finds the stretches of a text that are long enough to hold a secret.

use std::ops::Range;

use crate::secret::rules::pattern::SHORTEST;

/// Every longest run of at least [`SHORTEST`] characters that tokens are made of. `on` says whether to go on.
///
/// One look at every twentieth byte is enough where there is none: whatever run does not reach over it is too short.
#[inline]
pub(super) fn runs(text: &[u8], mut on: impl FnMut(Range<usize>) -> bool) {
    // No run that is still to be found begins before `at`.
    let mut at = 0;
    while let Some(window) = text.get(at..at + SHORTEST) {
        match window.iter().rposition(|byte| !RUN[usize::from(*byte)]) {
            Some(last) => at += last + 1,
            None => {
                let end = at + SHORTEST + span(&text[at + SHORTEST..], is_run);
                if !on(at..end) {
                    return;
                }
                at = end + 1;
            }
        }
    }
}

/// How many bytes at the beginning are of this kind. Sixteen are looked at without a branch between them: in random text
/// a branch for each byte is guessed wrong again and again.
#[inline]
pub(super) fn span(text: &[u8], holds: impl Fn(u8) -> bool) -> usize {
    let (chunks, _) = text.as_chunks::<16>();
    let ends = |chunk: &[u8; 16]| chunk.iter().fold(0, |any, byte| any | u8::from(!holds(*byte))) != 0;
    let whole = 16 * chunks.iter().position(ends).unwrap_or(chunks.len());
    whole + text[whole..].iter().take_while(|byte| holds(**byte)).count()
}

/// Where words begin in a run: letters and digits behind something else, and the run itself.
pub(super) struct Words<'a> {
    text: &'a [u8],
    end: usize,
    /// Where the block begins that is being looked at.
    block: usize,
    /// A bit for each beginning in it that was not told yet.
    begins: u64,
    /// Whether a word goes on from the block before.
    goes_on: bool,
}

impl<'a> Words<'a> {
    #[inline]
    pub(super) fn new(text: &'a [u8], run: &Range<usize>) -> Self {
        let mut words = Self { text, end: run.end, block: run.start, begins: 0, goes_on: false };
        words.look();
        words.begins |= u64::from(!run.is_empty());
        words
    }

    #[inline]
    fn look(&mut self) {
        let rest = &self.text[self.block..];
        let mut words = match rest.first_chunk() {
            Some(block) => bits(block),
            None => bits_of_last(rest),
        };
        if let left @ 0..64 = self.end - self.block {
            words &= (1 << left) - 1;
        }
        self.begins = words & !(words << 1 | u64::from(self.goes_on));
        self.goes_on = words >> 63 == 1;
    }
}

impl Iterator for Words<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.begins == 0 {
            self.block += 64;
            if self.block >= self.end {
                return None;
            }
            self.look();
        }
        let at = self.block + self.begins.trailing_zeros() as usize;
        self.begins &= self.begins - 1;
        Some(at)
    }
}

/// Of fewer than a block holds.
#[cold]
fn bits_of_last(rest: &[u8]) -> u64 {
    let mut block = [0; 64];
    block[..rest.len()].copy_from_slice(rest);
    bits(&block)
}

/// A bit for each letter and digit.
#[inline(always)]
fn bits(block: &[u8; 64]) -> u64 {
    let mut flags = [0; 64];
    for (flag, byte) in flags.iter_mut().zip(block) {
        *flag = u8::from(is_word(*byte));
    }
    let (eights, _) = flags.as_chunks::<8>();
    let mut bits = 0;
    for (index, eight) in eights.iter().enumerate() {
        // Brings the lowest bit of byte k to bit 56 + k.
        bits |= (u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * index);
    }
    bits
}

/// Whether a run is made of it. A colon and a slash stand within some secrets.
#[inline]
fn is_run(byte: u8) -> bool {
    // From `-` to `:` there are the full stop, the slash and the digits, too.
    is_letter(byte)
        | (byte.wrapping_sub(b'-') <= b':' - b'-')
        | (byte == b'_')
        | (byte == b'+')
        | (byte == b'~')
        | (byte == b'$')
}

/// Whether Base64 is written with it, in either of its alphabets and without padding.
#[inline]
pub(super) fn is_base64(byte: u8) -> bool {
    is_word(byte) | (byte == b'+') | (byte == b'/') | (byte == b'-') | (byte == b'_')
}

/// Whether it is a letter or a digit, told without a branch.
#[inline]
pub(super) fn is_word(byte: u8) -> bool {
    is_letter(byte) | (byte.wrapping_sub(b'0') < 10)
}

#[inline]
fn is_letter(byte: u8) -> bool {
    (byte | 0x20).wrapping_sub(b'a') < 26
}

/// [`is_run`] for one byte here and there.
static RUN: [bool; 256] = with_words(b"-_.+/:~$");

/// Letters, digits and these.
const fn with_words(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        // The cast is lossless: the loop ends at 255.
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &[u8]) -> Vec<Range<usize>> {
        let mut all = Vec::new();
        runs(text, |run| {
            all.push(run);
            true
        });
        all
    }

    #[test]
    fn both_ways_to_tell_a_byte_agree() {
        for byte in 0..=u8::MAX {
            assert_eq!(is_run(byte), RUN[usize::from(byte)], "{byte}");
            assert_eq!(is_word(byte), byte.is_ascii_alphanumeric(), "{byte}");
        }
        assert_eq!((0..=u8::MAX).filter(|byte| is_base64(*byte)).count(), 66);
    }

    proptest! {
        #[test]
        fn a_span_ends_where_its_kind_does(text in "[ab]{0,40}[ab ]{0,5}") {
            let expected = text.bytes().position(|byte| byte == b' ').unwrap_or(text.len());
            prop_assert_eq!(span(text.as_bytes(), is_word), expected);
        }

        #[test]
        fn every_word_begins_once(text in "([ab]{1,70}|[-/]{1,70}){0,6}") {
            let bytes = text.as_bytes();
            let begins = |at: &usize| {
                *at == 0 || bytes[*at].is_ascii_alphanumeric() && !bytes[at - 1].is_ascii_alphanumeric()
            };
            let expected: Vec<usize> = (0..bytes.len()).filter(begins).collect();
            prop_assert_eq!(Words::new(bytes, &(0..bytes.len())).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn every_long_run_is_found_and_no_other(text in "[ab ]{0,30}([a-z]{15,25}[ ,\"]{1,3}){0,6}[ab ]{0,30}") {
            let mut expected = Vec::new();
            let mut start = 0;
            for run in text.as_bytes().split(|byte| !RUN[usize::from(*byte)]) {
                if run.len() >= SHORTEST {
                    expected.push(start..start + run.len());
                }
                start += run.len() + 1;
            }
            prop_assert_eq!(all(text.as_bytes()), expected);
        }
    }
}
