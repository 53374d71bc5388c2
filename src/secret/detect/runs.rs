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
                let rest = &text[at + SHORTEST..];
                let more = rest.iter().position(|byte| !RUN[usize::from(*byte)]).unwrap_or(rest.len());
                let end = at + SHORTEST + more;
                if !on(at..end) {
                    return;
                }
                at = end + 1;
            }
        }
    }
}

/// Whether Base64 is written with it, in either of its alphabets and without padding.
#[inline]
pub(super) fn is_base64(byte: u8) -> bool {
    BASE64[usize::from(byte)]
}

/// What a run is made of. A colon and a slash stand within some secrets.
static RUN: [bool; 256] = with_words(b"-_.+/:~$");

static BASE64: [bool; 256] = with_words(b"+/-_");

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

    proptest! {
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
