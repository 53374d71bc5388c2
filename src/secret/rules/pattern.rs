//! How a secret is written: a small part of regular expressions that is matched from left to right, once.
//!
//! A class takes as many characters as it can, of which there is always a limit, and gives none back, so that matching
//! costs one look at each character whatever the text is.

/// Characters and classes with counts, one after the other.
#[derive(Debug)]
pub struct Pattern {
    parts: Box<[Part]>,
    /// How many characters at the beginning are fixed.
    fixed: usize,
    /// What stands at which place in every such text: its first fixed character, where classes of one length are before it,
    /// else what it begins with.
    mark: (usize, Set),
    least: usize,
    most: usize,
}

/// A set of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Set([u64; 4]);

#[derive(Debug)]
enum Part {
    Fixed(Box<[u8]>),
    Class { set: Set, least: usize, most: usize },
}

impl Pattern {
    /// Reads the notation.
    ///
    /// # Errors
    /// What of it can't be read, or can't be matched in one go.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let (set, after) = set(rest)?;
            let (least, most, after) = count(after)?;
            rest = after;
            match (parts.last_mut(), set.only()) {
                (Some(Part::Fixed(fixed)), Some(byte)) if (least, most) == (1, 1) => {
                    let mut longer = std::mem::take(fixed).into_vec();
                    longer.push(byte);
                    *fixed = longer.into();
                }
                (_, Some(byte)) if (least, most) == (1, 1) => parts.push(Part::Fixed([byte].into())),
                _ => parts.push(Part::Class { set, least, most }),
            }
        }
        let greedy = parts.windows(2).any(|pair| match pair {
            [Part::Class { set, least, most }, next] => least != most && next.first().overlaps(set),
            _ => false,
        });
        if greedy {
            return Err("a class with a varying count is followed by one of its own characters");
        }
        let least = parts.iter().map(Part::least).sum();
        if least < SHORTEST {
            return Err("shorter than the shortest secret");
        }
        let fixed = match parts.first() {
            Some(Part::Fixed(fixed)) => fixed.len(),
            _ => 0,
        };
        let most = parts.iter().map(Part::most).sum();
        Ok(Self { fixed, mark: mark(&parts), least, most, parts: parts.into() })
    }

    /// Whether the text that begins here may be one, after one look.
    #[inline]
    pub fn may_begin(&self, text: &[u8], start: usize) -> bool {
        let (offset, set) = &self.mark;
        text.get(start + offset).is_some_and(|byte| set.holds(*byte))
    }

    /// Where the text that begins here ends, if it is one.
    pub fn end(&self, text: &[u8], start: usize) -> Option<usize> {
        let mut at = start;
        let mut last = Set::default();
        for part in &self.parts {
            match part {
                Part::Fixed(fixed) => {
                    if !text[at..].starts_with(fixed) {
                        return None;
                    }
                    at += fixed.len();
                    last = Set::default();
                }
                Part::Class { set, least, most } => {
                    let rest = &text[at..];
                    let rest = &rest[..rest.len().min(*most)];
                    let length = rest.iter().position(|byte| !set.holds(*byte)).unwrap_or(rest.len());
                    if length < *least {
                        return None;
                    }
                    at += length;
                    last = *set;
                }
            }
        }
        if text.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || last.holds(*byte)) {
            return None;
        }
        // A full stop ends a sentence more often than a token.
        let full_stops = text[start..at].iter().rev().take_while(|byte| **byte == b'.').count();
        Some(if full_stops > 0 && at - full_stops - start >= self.least { at - full_stops } else { at })
    }

    /// Whether a text of this length can fit.
    #[inline]
    pub fn fits(&self, length: usize) -> bool {
        (self.least..=self.most).contains(&length)
    }

    /// How many characters at the beginning are the same in all.
    pub fn fixed(&self) -> usize {
        self.fixed
    }

    /// The first two characters, where they are the same in all.
    pub fn begins_with(&self) -> Option<[u8; 2]> {
        match self.parts.first() {
            Some(Part::Fixed(fixed)) => Some([*fixed.first()?, *fixed.get(1)?]),
            Some(Part::Class { .. }) | None => None,
        }
    }

    /// The length of the longest text.
    pub fn most(&self) -> usize {
        self.most
    }

    /// The length of the shortest text.
    #[inline]
    pub fn least(&self) -> usize {
        self.least
    }
}

impl Part {
    fn least(&self) -> usize {
        match self {
            Self::Fixed(fixed) => fixed.len(),
            Self::Class { least, .. } => *least,
        }
    }

    fn most(&self) -> usize {
        match self {
            Self::Fixed(fixed) => fixed.len(),
            Self::Class { most, .. } => *most,
        }
    }

    fn first(&self) -> Set {
        match self {
            Self::Fixed(fixed) => Set::of(fixed[0]),
            Self::Class { set, .. } => *set,
        }
    }
}

impl Set {
    /// Whether this byte is in it.
    #[inline]
    pub fn holds(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
    }

    fn add_all(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine |= theirs;
        }
    }

    fn of(byte: u8) -> Self {
        let mut set = Self::default();
        set.add(byte);
        set
    }

    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).any(|(mine, theirs)| mine & theirs != 0)
    }

    /// The byte of a set of one.
    fn only(&self) -> Option<u8> {
        let mut all = (0..=u8::MAX).filter(|byte| self.holds(*byte));
        all.next().filter(|_| all.next().is_none())
    }
}

/// The one place where a look tells most other text apart.
fn mark(parts: &[Part]) -> (usize, Set) {
    let mut offset = 0;
    for part in parts {
        match part {
            Part::Fixed(fixed) => return (offset, Set::of(fixed[0])),
            Part::Class { least, most, .. } if least == most => offset += most,
            Part::Class { .. } => break,
        }
    }
    (0, parts.first().map(Part::first).unwrap_or_default())
}

/// One character or class, and what follows it.
fn set(text: &[u8]) -> Result<(Set, &[u8]), &'static str> {
    match text {
        [b'\\', b'd', rest @ ..] => Ok((range(b'0', b'9'), rest)),
        [b'\\', b'w', rest @ ..] => Ok((word(), rest)),
        [b'\\', byte, rest @ ..] if byte.is_ascii_punctuation() => Ok((Set::of(*byte), rest)),
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|byte| *byte == b']').ok_or("a class without its end")?;
            Ok((class(&rest[..end])?, &rest[end + 1..]))
        }
        [b'.' | b'*' | b'+' | b'?' | b'(' | b')' | b'|' | b'^' | b'$' | b'{' | b'}' | b']' | b'\\', ..] => {
            Err("a character that means nothing here; write a backslash before it")
        }
        [byte, rest @ ..] => Ok((Set::of(*byte), rest)),
        [] => Err("nothing where a character was expected"),
    }
}

/// What stands between brackets.
fn class(mut text: &[u8]) -> Result<Set, &'static str> {
    if text.is_empty() || text.starts_with(b"^") {
        return Err("a class that is empty or of all others");
    }
    let mut set = Set::default();
    while !text.is_empty() {
        text = match text {
            [b'\\', b'd', rest @ ..] => {
                set.add_all(&range(b'0', b'9'));
                rest
            }
            [b'\\', b'w', rest @ ..] => {
                set.add_all(&word());
                rest
            }
            [from, b'-', to, rest @ ..] => {
                if from > to {
                    return Err("a range that ends before it begins");
                }
                set.add_all(&range(*from, *to));
                rest
            }
            [byte, rest @ ..] => {
                set.add(*byte);
                rest
            }
            [] => text,
        };
    }
    Ok(set)
}

/// A count and what follows it; 1 where there is none.
fn count(text: &[u8]) -> Result<(usize, usize, &[u8]), &'static str> {
    match text {
        [b'?', rest @ ..] => Ok((0, 1, rest)),
        [b'{', rest @ ..] => {
            let end = rest.iter().position(|byte| *byte == b'}').ok_or("a count without its end")?;
            let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<usize>().ok();
            let inner = &rest[..end];
            let (least, most) = match inner.iter().position(|byte| *byte == b',') {
                None => (number(inner), number(inner)),
                Some(comma) => (number(&inner[..comma]), number(&inner[comma + 1..])),
            };
            match (least, most) {
                (Some(least), Some(most)) if least <= most && (1..=MOST).contains(&most) => {
                    Ok((least, most, &rest[end + 1..]))
                }
                _ => Err("a count that can't be read"),
            }
        }
        rest => Ok((1, 1, rest)),
    }
}

fn range(from: u8, to: u8) -> Set {
    let mut set = Set::default();
    (from..=to).for_each(|byte| set.add(byte));
    set
}

fn word() -> Set {
    let mut set = Set::of(b'_');
    for (from, to) in [(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')] {
        set.add_all(&range(from, to));
    }
    set
}

/// No class takes more, so that a text that begins like a secret again and again is not read again and again to its end.
const MOST: usize = 16_000;

/// The shortest secret that is told by its format: an AWS access key's identifier.
pub const SHORTEST: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_all_that_it_can_and_must_end_where_its_word_does() {
        let pattern = Pattern::parse(r"ab_[a-z\d]{17,19}\.[A-Z-]{2}=?").expect("it can be read");
        let word = "a1".repeat(9);
        for (text, end) in [
            (format!("ab_{word}.AB"), Some(24)),
            (format!("ab_{word}.A-="), Some(25)),
            (format!("ab_{word}.AB rest"), Some(24)),
            (format!("ab_{word}.ABC"), None),
            (format!("ab_{word}.ABc"), None),
            (format!("ab_{word}"), None),
            (format!("ab_{word}aa.AB"), None),
            ("ab_".to_owned(), None),
        ] {
            assert_eq!(pattern.end(text.as_bytes(), 0), end, "{text}");
        }
        assert_eq!((pattern.fixed(), pattern.fits(23), pattern.fits(26), pattern.fits(27)), (3, true, true, false));
        assert_eq!(pattern.begins_with(), Some(*b"ab"));
        assert_eq!(Pattern::parse("[a-z]{20}").expect("it can be read").begins_with(), None);
    }

    #[test]
    fn a_full_stop_ends_the_sentence() {
        let pattern = Pattern::parse(r"abc-[a-z.]{20,90}").expect("it can be read");
        let word = "x".repeat(20);
        assert_eq!(pattern.end(format!("abc-{word}.").as_bytes(), 0), Some(24));
        assert_eq!(pattern.end(format!("abc-{}.", &word[1..]).as_bytes(), 0), Some(24));
    }

    #[test]
    fn what_cannot_be_matched_in_one_go_is_refused() {
        for text in [
            "",
            "short",
            "a+aaaaaaaaaaaaaaaaaaaaa",
            "[a-z]{20,30}a",
            "[a-z{20}",
            "[]{20}",
            "[^a]{20}",
            "[z-a]{20}",
            "a{2,1}",
            "a{x}",
            "(a){20}",
            "a{20",
            "a{20,}",
            "a*aaaaaaaaaaaaaaaaaaaaaaa",
            r"\q[a-z]{20}",
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
        assert!(Pattern::parse("[a-z]{20}a").is_ok());
    }
}
