//! Finds where a needle may begin, at the speed of memory.
//!
//! A few first bytes of each way to write a needle are searched for with vector instructions; what they find is looked at
//! closely by others. Nothing but these few bytes of a secret is kept here.

use aho_corasick::{AhoCorasick, Input, Span, packed};

/// Finds beginnings.
pub(super) struct Search {
    beginnings: Vec<Vec<u8>>,
    longest: usize,
    machine: Machine,
}

enum Machine {
    Vector(packed::Searcher),
    /// Where the processor has no vectors, or beginnings are too many.
    Automaton(AhoCorasick),
}

impl Search {
    /// Looks for these, and for the anchors, which lie behind a beginning that a line break divides.
    pub(super) fn new(beginnings: impl Iterator<Item = Vec<u8>>, anchors: impl Iterator<Item = Vec<u8>>) -> Self {
        let mut beginnings: Vec<Vec<u8>> = beginnings.collect();
        let mut all: Vec<Vec<u8>> = anchors.chain(beginnings.iter().cloned()).collect();
        for patterns in [&mut beginnings, &mut all] {
            patterns.sort_unstable();
            patterns.dedup();
        }
        // The limit that is lifted is a guess at what is slow; four bytes of a secret are too rare to be that.
        let vector = packed::Config::new().heuristic_pattern_limits(false).builder().extend(&all).build();
        let machine = vector.map_or_else(|| Machine::automaton(&all), Machine::Vector);
        let longest = beginnings.iter().map(Vec::len).max().unwrap_or_default();
        Self { beginnings, longest, machine }
    }

    /// Where the first one or the first anchor begins, from `from` on.
    pub(super) fn find(&self, text: &[u8], from: usize) -> Option<usize> {
        let span = Span { start: from, end: text.len() };
        match &self.machine {
            Machine::Vector(vector) => vector.find_in(text, span).map(|found| found.start()),
            Machine::Automaton(automaton) => automaton.find(Input::new(text).span(span)).map(|found| found.start()),
        }
    }

    /// Where the text's last bytes begin that may become one with what follows.
    pub(super) fn tail(&self, text: &[u8]) -> Option<usize> {
        let earliest = text.len().saturating_sub(self.longest.saturating_sub(1));
        (earliest..text.len()).find(|start| {
            let tail = &text[*start..];
            self.beginnings.iter().any(|beginning| beginning.len() > tail.len() && beginning.starts_with(tail))
        })
    }
}

impl Machine {
    fn automaton(beginnings: &[Vec<u8>]) -> Self {
        let built = AhoCorasick::builder().match_kind(aho_corasick::MatchKind::LeftmostFirst).build(beginnings);
        Self::Automaton(built.expect("a few hundred short patterns are within every limit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(beginnings: &[&[u8]]) -> [Search; 2] {
        let new = || Search::new(beginnings.iter().map(|beginning| beginning.to_vec()), std::iter::empty());
        [new(), Search { machine: Machine::automaton(&new().beginnings), ..new() }]
    }

    #[test]
    fn the_first_beginning_is_found_wherever_it_stands() {
        for search in both(&[b"ghp_", b"%67%", b"\\u0067"]) {
            for (text, from, found) in [
                (&b""[..], 0, None),
                (b"ghp_", 0, Some(0)),
                (b"ghp_", 1, None),
                (b"a ghp_ %67% ghp_", 0, Some(2)),
                (b"a ghp_ %67% ghp_", 3, Some(7)),
                (b"a ghp_ %67% ghp_", 8, Some(12)),
                (b"{\"k\":\"\\u0067\"}", 0, Some(6)),
                (b"the quick brown fox jumps over the lazy dog, the quick brown fox jumps over it again", 0, None),
            ] {
                assert_eq!(search.find(text, from), found, "{}", text.escape_ascii());
            }
        }
    }

    #[test]
    fn only_a_tail_that_may_become_one_is_told() {
        let [search, _] = both(&[b"ghp_", b"%67%", b"\\u0067"]);
        for (text, tail) in [
            (&b""[..], None),
            (b"data: 1\n\n", None),
            (b"g", Some(0)),
            (b"...ghp", Some(3)),
            (b"...gh%", Some(5)),
            (b"...\\u006", Some(3)),
            (b"...ghx", None),
            (b"...ghp_", None),
        ] {
            assert_eq!(search.tail(text), tail, "{}", text.escape_ascii());
        }
    }
}
