//! One secret in one alphabet, and whether a text begins with it.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{
    SHORTEST,
    escape::{self, Reading},
};

/// A secret as it is, or what of it is certain inside base64. Any of its characters may be escaped in what is looked at.
#[derive(PartialEq, Eq)]
pub(super) struct Needle {
    bytes: Zeroizing<Vec<u8>>,
    alphabet: Alphabet,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Alphabet {
    Text,
    /// The standard alphabet; its last two characters are others in the URL-safe one.
    Base64,
}

/// How a text and a needle compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The text does not begin with it, or with too little of it to tell.
    No,
    /// The text ends before it can be told.
    Quiet,
    /// The text ends after enough of it to tell.
    Telling,
    /// The text begins with enough of it to tell, then goes on with something else.
    Differs,
    /// The text begins with it, and so many bytes belong to it.
    Whole(usize),
}

impl Needle {
    /// The secret as it is, and inside base64 after 0, 1 and 2 other bytes of a group of three.
    pub(super) fn all(secret: &str) -> [Self; 4] {
        let text = Self { bytes: Zeroizing::new(secret.as_bytes().to_vec()), alphabet: Alphabet::Text };
        let [first, second, third] = [0, 1, 2].map(|before| Self::in_base64(secret, before));
        [text, first, second, third]
    }

    /// The characters that hold nothing but the secret's bits: what stands before and behind it has a part in the others.
    fn in_base64(secret: &str, before: usize) -> Self {
        let mut whole = Zeroizing::new(Vec::with_capacity(before + secret.len()));
        whole.resize(before, 0);
        whole.extend_from_slice(secret.as_bytes());
        let mut encoded = Zeroizing::new(String::with_capacity(whole.len().div_ceil(3) * 4));
        STANDARD.encode_string(&*whole, &mut encoded);
        let certain = (before * 8).div_ceil(6)..whole.len() * 8 / 6;
        let bytes = Zeroizing::new(encoded.as_bytes()[certain].to_vec());
        Self { bytes, alphabet: Alphabet::Base64 }
    }

    /// Compares from the text's beginning on. Where a byte can be read in two ways, both are followed.
    pub(super) fn attempt(&self, text: &[u8]) -> Attempt {
        let (mut open, mut seen) = (Vec::new(), Vec::new());
        let mut cut: Option<usize> = None;
        let mut farthest = 0;
        let mut place = Place::default();
        loop {
            if place.matched == self.bytes.len() {
                return Attempt::Whole(place.read);
            }
            let steps = self.steps(text, place);
            if steps.cut {
                cut = cut.max(Some(place.matched));
            }
            farthest = farthest.max(place.matched);
            let mut ways = steps.ways.into_iter().flatten();
            let first = ways.next();
            // Most places have one way on, for which nothing is kept.
            for way in ways {
                if !seen.contains(&way) {
                    seen.push(way);
                    open.push(way);
                }
            }
            match first.or_else(|| open.pop()) {
                Some(next) => place = next,
                None => return self.told(cut, farthest),
            }
        }
    }

    /// What is said of a text that is no whole needle: how much of it matched where the text ended, and at the most.
    fn told(&self, cut: Option<usize>, farthest: usize) -> Attempt {
        match cut {
            Some(cut) if cut >= self.telling() => Attempt::Telling,
            _ if farthest >= self.telling() => Attempt::Differs,
            Some(_) => Attempt::Quiet,
            None => Attempt::No,
        }
    }

    /// How many characters it has.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many of its characters tell it: a third, and of a short one up to a half. So many can't be guessed, and so few
    /// are of no use where they pass.
    pub(super) fn telling(&self) -> usize {
        let length = self.bytes.len();
        length.div_ceil(3).max(HALF.min(length / 2)).max(SHORTEST)
    }

    /// Whether it, or enough of it to tell, stands in a text whose letters have lost their case.
    pub(super) fn is_in_lowercase(&self, text: &[u8]) -> bool {
        let telling = &self.bytes[..self.telling().min(self.bytes.len())];
        text.windows(telling.len()).any(|window| {
            let pairs = telling.iter().zip(window);
            pairs.clone().all(|(wanted, byte)| wanted.eq_ignore_ascii_case(&standard(*byte)))
                || self.alphabet == Alphabet::Text && telling.eq_ignore_ascii_case(window)
        })
    }

    /// Whether a text may begin with it whose first characters a line break divides, judged by this byte.
    pub(super) fn may_begin_broken(&self, byte: u8) -> bool {
        let escaped = escape::begins(byte) && !self.bytes[0].is_ascii_alphanumeric();
        self.alphabet == Alphabet::Base64 && (escaped || self.is_next(0, &[byte]))
    }

    fn steps(&self, text: &[u8], place: Place) -> Steps {
        let mut steps = Steps::default();
        let Some(byte) = text.get(place.read) else {
            steps.cut = true;
            return steps;
        };
        steps.ways[0] = self.step(place, &[*byte], 1);
        if escape::begins(*byte) {
            let rest = &text[place.read..];
            let mut readings = escape::readings(rest);
            if let Some(read) = escape::line_break(rest) {
                // The letter of this escape is no character of its own, so it is read in no other way.
                readings = [Reading::Char(b'\n'.into(), read), Reading::Not];
            }
            for (way, reading) in steps.ways[1..].iter_mut().zip(readings) {
                match reading {
                    Reading::Char(c, read) => *way = self.step(place, c.bytes(), read),
                    Reading::Cut => steps.cut = true,
                    Reading::Not => {}
                }
            }
        }
        steps
    }

    /// Where a character of so many bytes leads. Encoders break base64 into lines, which some then indent.
    fn step(&self, place: Place, c: &[u8], read: usize) -> Option<Place> {
        let breaks = || matches!(c, b"\n" | b"\r" | b" " | b"\t") && (1..self.bytes.len()).contains(&place.matched);
        if self.is_next(place.matched, c) {
            Some(place.on(read, c.len()))
        } else if self.alphabet == Alphabet::Base64 && place.breaks < BREAKS && breaks() {
            Some(Place { read: place.read + read, breaks: place.breaks + 1, ..place })
        } else {
            None
        }
    }

    fn is_next(&self, matched: usize, read: &[u8]) -> bool {
        let Some(wanted) = self.bytes.get(matched..matched + read.len()) else { return false };
        match self.alphabet {
            Alphabet::Text => wanted == read,
            Alphabet::Base64 => wanted.iter().zip(read).all(|(wanted, read)| *wanted == standard(*read)),
        }
    }

    /// The first bytes of every way to write it that an encoder may choose. Encoders that escape letters and digits escape
    /// all of them, so one that begins with such a letter goes on with another escape.
    pub(super) fn beginnings(&self) -> Vec<Vec<u8>> {
        let text = std::str::from_utf8(&self.bytes).expect("a secret and base64 are text");
        let chars: Vec<char> = text.chars().take(BEGINNING).collect();
        let mut all = Vec::new();
        self.spell(&chars, Vec::new(), &mut all);
        if let (Alphabet::Text, Some(first)) = (self.alphabet, chars.first()) {
            for mut spelled in escaped(*first) {
                // A percent sign and two digits alone are too common.
                if spelled.len() < BEGINNING {
                    spelled.push(b'%');
                }
                spelled.truncate(ESCAPED);
                all.push(spelled);
            }
        }
        all
    }

    /// The first characters of a line that begins inside what [`Self::beginnings`] look for.
    pub(super) fn anchors(&self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        if self.alphabet == Alphabet::Base64 {
            let chars: Vec<char> =
                self.bytes.iter().map(|byte| char::from(*byte)).skip(BEGINNING - 1).take(BEGINNING).collect();
            self.spell(&chars, Vec::new(), &mut all);
        }
        all
    }

    fn spell(&self, chars: &[char], spelled: Vec<u8>, all: &mut Vec<Vec<u8>>) {
        let Some((first, rest)) = chars.split_first().filter(|_| spelled.len() < BEGINNING) else {
            let kept = if spelled.first().is_some_and(|byte| escape::begins(*byte)) { ESCAPED } else { BEGINNING };
            all.push(spelled[..spelled.len().min(kept)].to_vec());
            return;
        };
        for way in self.spellings(*first) {
            self.spell(rest, [&spelled[..], &way].concat(), all);
        }
    }

    fn spellings(&self, c: char) -> Vec<Vec<u8>> {
        let mut all = vec![utf8(c)];
        if !c.is_ascii_alphanumeric() {
            all.extend(escaped(c));
        }
        match (self.alphabet, c) {
            (Alphabet::Base64, '+') => all.push(b"-".to_vec()),
            (Alphabet::Base64, '/') => all.push(b"_".to_vec()),
            (Alphabet::Text, ' ') => all.push(b"+".to_vec()),
            _ => {}
        }
        all
    }
}

/// How far a comparison has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// In the text.
    read: usize,
    /// In the needle.
    matched: usize,
    /// Line breaks, and what indents lines, since the last character that matched.
    breaks: usize,
}

impl Place {
    fn on(self, read: usize, matched: usize) -> Self {
        Self { read: self.read + read, matched: self.matched + matched, breaks: 0 }
    }
}

#[derive(Default)]
struct Steps {
    ways: [Option<Place>; 3],
    /// Whether the text ends in what may be another.
    cut: bool,
}

/// The character of the standard alphabet for one of either.
fn standard(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

/// The escapes that are looked for at a needle's beginning.
fn escaped(c: char) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for percent in ["%", "%25"] {
        let once = |upper: bool| {
            let digits = utf8(c).into_iter().map(|byte| match upper {
                true => format!("{percent}{byte:02X}"),
                false => format!("{percent}{byte:02x}"),
            });
            digits.collect::<String>().into_bytes()
        };
        all.extend([once(true), once(false)]);
    }
    let mut units = [0; 2];
    let units = c.encode_utf16(&mut units);
    all.push(units.iter().map(|unit| format!("\\u{unit:04X}")).collect::<String>().into_bytes());
    all.push(units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>().into_bytes());
    let value = u32::from(c);
    all.extend([format!("&#{value};"), format!("&#x{value:X};"), format!("&#x{value:x};")].map(String::into_bytes));
    if c.is_ascii() {
        all.extend([format!("\\x{value:02X}"), format!("\\x{value:02x}")].map(String::into_bytes));
    }
    if c.is_ascii_punctuation() {
        all.extend([[b"\\", &utf8(c)[..]].concat(), [b"\\\\\\", &utf8(c)[..]].concat()]);
    }
    if !c.is_ascii_alphanumeric() {
        all.push(units.iter().map(|unit| format!("\\\\u{unit:04x}")).collect::<String>().into_bytes());
    }
    if !c.is_ascii_alphanumeric() {
        let named = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&apos;")];
        all.extend(named.iter().filter(|(named, _)| *named == c).map(|(_, name)| name.as_bytes().to_vec()));
    }
    all
}

fn utf8(c: char) -> Vec<u8> {
    c.encode_utf8(&mut [0; 4]).as_bytes().to_vec()
}

/// The most characters of a short needle that it takes to tell it.
const HALF: usize = 12;
/// The fewest bytes of a beginning.
const BEGINNING: usize = 4;
/// The most bytes of one that begins with an escape.
const ESCAPED: usize = 6;
/// The most line breaks and spaces between two characters of base64.
pub(super) const BREAKS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "ghp_Ab/9+z";

    fn text() -> Needle {
        let [text, ..] = Needle::all(SECRET);
        text
    }

    #[test]
    fn a_needle_is_seen_however_its_characters_are_written() {
        for written in [
            "ghp_Ab/9+z",
            "ghp_Ab%2F9%2Bz",
            "ghp_Ab%2f9%2bz",
            "ghp_Ab%252F9%252Bz",
            "%67%68%70%5F%41%62%2F%39%2B%7A",
            "ghp_Ab\\/9+z",
            "ghp_Ab\\u002f9\\u002Bz",
            "ghp_Ab&#x2F;9&#43;z",
            "\\u0067\\u0068\\u0070\\u005f\\u0041\\u0062\\u002f\\u0039\\u002b\\u007a",
        ] {
            assert_eq!(text().attempt(written.as_bytes()), Attempt::Whole(written.len()), "{written}");
            let behind = format!("{written}zzz");
            assert_eq!(text().attempt(behind.as_bytes()), Attempt::Whole(written.len()), "{written}");
            for length in 0..written.len() {
                let cut = text().attempt(&written.as_bytes()[..length]);
                assert!(matches!(cut, Attempt::Quiet | Attempt::Telling), "{written} at {length}");
            }
            let begun = text().beginnings();
            assert!(begun.iter().any(|begun| written.as_bytes().starts_with(begun)), "{written} begins as foreseen");
        }
        for other in ["ghp_Ab/y", "ghp-Ab", "x", "%68", "ghp_Ab%2E"] {
            assert_eq!(text().attempt(other.as_bytes()), Attempt::No, "{other}");
        }
        for other in ["ghp_Ab/9y", "ghp_Ab/9+y", "ghp_Ab%2F9+\\u007b"] {
            assert_eq!(text().attempt(other.as_bytes()), Attempt::Differs, "{other}");
        }
    }

    #[test]
    fn a_secret_is_seen_inside_base64_at_each_alignment() {
        let secret = "s3cr?t>~~?>value";
        let needles = Needle::all(secret);
        for before in ["", "a", "ab", "abc", "user:"] {
            for behind in ["", "x", "xy", "xyz"] {
                let encoded = STANDARD.encode(format!("{before}{secret}{behind}"));
                for written in [encoded.replace('+', "-").replace('/', "_"), encoded] {
                    let seen = |start: usize| {
                        needles
                            .iter()
                            .any(|needle| matches!(needle.attempt(&written.as_bytes()[start..]), Attempt::Whole(_)))
                    };
                    assert!((0..written.len()).any(seen), "{written}");
                }
            }
        }
    }

    #[test]
    fn many_ways_to_read_the_same_take_no_longer() {
        let [needle, ..] = Needle::all(&"\\".repeat(40));
        assert!(matches!(needle.attempt("\\".repeat(39).as_bytes()), Attempt::Telling));
        assert!(matches!(needle.attempt("\\".repeat(90).as_bytes()), Attempt::Whole(_)));
    }

    #[test]
    fn beginnings_are_few_and_never_short() {
        let needles = Needle::all("sk-ant-api03-0123456789");
        let begun: Vec<Vec<u8>> = needles.iter().flat_map(Needle::beginnings).collect();
        assert!(begun.len() < 80 && begun.iter().all(|begun| (4..=6).contains(&begun.len())), "{begun:?}");
    }
}
