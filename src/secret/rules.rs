//! The kinds of secrets, read once from `policy/secrets.yaml`, which is part of the program.
//!
//! Nothing here looks into a text. What does gets the patterns by the byte that they begin with, so that most bytes are
//! passed over after one look.

pub mod pattern;

use std::{fmt, sync::LazyLock};

use memchr::memmem::Finder;
use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};

use pattern::Pattern;

/// All kinds, ready to be looked for.
#[derive(Debug)]
pub struct Rules {
    kinds: Vec<Kind>,
    /// Those that begin with fixed characters, by the first of them.
    fixed: [Vec<Marked>; 256],
    /// The first two characters of those.
    begins: Pairs,
    /// Those that begin with a class.
    classed: Vec<Marked>,
    /// Those that need a name.
    named: Vec<Marked>,
    /// The last two characters of those names.
    ends: Pairs,
    /// Those that need a neighbour and may have any name.
    near: Vec<Marked>,
    /// How long the longest text of the two before is.
    longest_unmarked: usize,
    placeholders: Vec<String>,
    weak_passwords: Vec<String>,
    pem: Finder<'static>,
}

/// One kind of secret.
#[derive(Debug)]
pub struct Kind {
    /// Its name in records, spans, metrics and policy.
    pub name: &'static str,
    /// What it is.
    pub about: String,
    /// What the assigned name must end with; empty where any will do.
    pub names: Vec<String>,
    /// What must stand before; empty where nothing has to.
    pub near: Vec<String>,
    /// What the assigned name must not hold.
    pub unless: Vec<String>,
    /// Bits for each character.
    pub entropy: f32,
    /// What else must be so.
    pub check: Option<Check>,
    /// What no secret holds.
    pub allow: Vec<String>,
}

/// What a pattern can't say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The first part is the header of a JSON web token.
    Jwt,
    /// Digits and letters change as they do in random text.
    Random,
}

/// A pattern and the kind that it tells.
#[derive(Debug)]
pub struct Marked {
    /// The index of its kind; earlier kinds come first.
    pub kind: usize,
    /// How it is written.
    pub pattern: Pattern,
}

impl Rules {
    /// Those of the program, read when they are first needed.
    pub fn shipped() -> &'static Self {
        static SHIPPED: LazyLock<Rules> = LazyLock::new(|| {
            Rules::parse(include_str!("../../policy/secrets.yaml")).expect("the file that ships is read by a test")
        });
        &SHIPPED
    }

    /// Reads a rule file.
    fn parse(text: &str) -> Result<Self, String> {
        let written: Written = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let mut rules = Self {
            kinds: Vec::with_capacity(written.kinds.0.len() + BUILT_IN.len()),
            fixed: std::array::from_fn(|_| Vec::new()),
            begins: Pairs::default(),
            classed: Vec::new(),
            named: Vec::new(),
            ends: Pairs::default(),
            near: Vec::new(),
            longest_unmarked: 0,
            placeholders: written.placeholders,
            weak_passwords: written.weak_passwords,
            pem: Finder::new(PEM_BEGINS),
        };
        for (name, kind) in written.kinds.0 {
            rules.add(name, kind)?;
        }
        for (name, about) in BUILT_IN {
            rules.kinds.push(Kind::built_in(name, about));
        }
        Ok(rules)
    }

    fn add(&mut self, name: String, written: WrittenKind) -> Result<(), String> {
        let kind = self.kinds.len();
        for text in &written.patterns {
            let pattern = Pattern::parse(text).map_err(|problem| format!("{name}: {text}: {problem}"))?;
            let list = match (written.names.is_empty(), written.near.is_empty(), pattern.begins_with()) {
                (true, true, Some([first, second])) => {
                    self.begins.add(first, second);
                    &mut self.fixed[usize::from(first)]
                }
                (true, true, None) => &mut self.classed,
                (true, false, _) => &mut self.near,
                (false, _, _) => &mut self.named,
            };
            if !(written.names.is_empty() && written.near.is_empty()) {
                self.longest_unmarked = self.longest_unmarked.max(pattern.most());
            }
            list.push(Marked { kind, pattern });
        }
        for name in &written.names {
            if let [.., before, last] = name.as_bytes() {
                self.ends.add(*before, *last);
            }
        }
        self.kinds.push(Kind {
            // Kept for as long as the program runs, as the rules are.
            name: String::leak(name),
            about: written.about,
            names: written.names,
            near: written.near,
            unless: written.unless,
            entropy: written.entropy,
            check: written.check,
            allow: written.allow,
        });
        Ok(())
    }

    /// The patterns of fixed beginnings that a text with these first two bytes can fit.
    #[inline]
    pub fn beginning(&self, first: u8, second: u8) -> &[Marked] {
        if self.begins.hold(first, second) { &self.fixed[usize::from(first)] } else { &[] }
    }

    /// The patterns that begin with a class, and have a mark further on.
    pub fn classed(&self) -> &[Marked] {
        &self.classed
    }

    /// The patterns without a mark, for a value whose name ends with these two: all that need no name, and the others where
    /// a name can end so.
    #[inline]
    pub fn unmarked(&self, end: Option<[u8; 2]>) -> impl Iterator<Item = &Marked> {
        let can = end.is_some_and(|[before, last]| self.ends.hold(before, last));
        self.near.iter().chain(if can { self.named.iter() } else { [].iter() })
    }

    /// The length of the longest text that a pattern without a mark fits.
    pub fn longest_unmarked(&self) -> usize {
        self.longest_unmarked
    }

    /// The kind of this index.
    pub fn kind(&self, index: usize) -> &Kind {
        &self.kinds[index]
    }

    /// All kinds, in order.
    pub fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.iter()
    }

    /// The index of the kind of this name.
    pub fn named(&self, name: &str) -> Option<usize> {
        self.kinds.iter().position(|kind| kind.name == name)
    }

    /// Finds the beginnings of what is in PEM.
    pub fn pem(&self) -> &Finder<'static> {
        &self.pem
    }

    /// What documentation shows in the place of secrets.
    pub fn placeholders(&self) -> &[String] {
        &self.placeholders
    }

    /// Whether nobody takes this password for a secret.
    pub fn is_weak(&self, password: &[u8]) -> bool {
        self.weak_passwords.iter().any(|weak| weak.as_bytes().eq_ignore_ascii_case(password))
    }
}

/// A set of pairs of bytes.
#[derive(Debug)]
struct Pairs(Box<[u64]>);

impl Default for Pairs {
    fn default() -> Self {
        Self(vec![0; 1 << 10].into())
    }
}

impl Pairs {
    fn add(&mut self, first: u8, second: u8) {
        let (word, bit) = Self::place(first, second);
        self.0[word] |= bit;
    }

    #[inline]
    fn hold(&self, first: u8, second: u8) -> bool {
        let (word, bit) = Self::place(first, second);
        self.0[word] & bit != 0
    }

    fn place(first: u8, second: u8) -> (usize, u64) {
        (usize::from(first) << 2 | usize::from(second >> 6), 1 << (second & 63))
    }
}

impl Kind {
    fn built_in(name: &'static str, about: &str) -> Self {
        Self {
            name,
            about: about.to_owned(),
            names: Vec::new(),
            near: Vec::new(),
            unless: Vec::new(),
            entropy: 0.0,
            check: None,
            allow: Vec::new(),
        }
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    placeholders: Vec<String>,
    weak_passwords: Vec<String>,
    kinds: InOrder,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKind {
    about: String,
    patterns: Vec<String>,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    near: Vec<String>,
    #[serde(default)]
    unless: Vec<String>,
    #[serde(default = "usual_entropy")]
    entropy: f32,
    check: Option<Check>,
    #[serde(default)]
    allow: Vec<String>,
}

/// The kinds as they stand in the file: the first that fits counts.
struct InOrder(Vec<(String, WrittenKind)>);

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Kinds;
        impl<'de> Visitor<'de> for Kinds {
            type Value = InOrder;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("kinds by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder, A::Error> {
                let mut kinds = Vec::new();
                while let Some(kind) = map.next_entry()? {
                    kinds.push(kind);
                }
                Ok(InOrder(kinds))
            }
        }
        deserializer.deserialize_map(Kinds)
    }
}

/// What repeats a few characters is no secret.
fn usual_entropy() -> f32 {
    1.5
}

/// What is told by more than a pattern, or by where it stands.
pub const PEM: &str = "pem";
/// What PEM begins with.
pub const PEM_BEGINS: &[u8] = b"-----BEGIN";
/// What is told by its name and by being random.
pub const GENERIC: &str = "generic_secret";
/// A password in a URL.
pub const URL_PASSWORD: &str = "url_password";

const BUILT_IN: [(&str, &str); 6] = [
    (PEM, "Private key in PEM"),
    (URL_PASSWORD, "Password in a URL, of a database for example"),
    ("basic", "User and password in a head"),
    ("cookie", "Cookie in a head"),
    ("aws_sigv4", "Signature of AWS in a head"),
    ("unknown", "What a head names as a secret and has no known format"),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_file_that_ships_is_read_and_names_each_kind_once() {
        let rules = Rules::shipped();
        let names: HashSet<&str> = rules.kinds().map(|kind| kind.name).collect();
        assert_eq!(names.len(), rules.kinds().count());
        assert!(names.len() >= 45, "{}", names.len());
        assert!(rules.kinds().all(|kind| !kind.about.is_empty()));
        assert_eq!(rules.named("github_pat"), Some(0));
        assert!([PEM, URL_PASSWORD, GENERIC].iter().all(|name| rules.named(name).is_some()));
    }

    #[test]
    fn words_are_written_as_they_are_compared() {
        for kind in Rules::shipped().kinds() {
            let plain = |word: &String| word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            assert!(kind.names.iter().all(plain), "{}", kind.name);
            assert!(kind.unless.iter().all(plain), "{}", kind.name);
            assert!(kind.near.iter().all(|word| !word.bytes().any(|b| b.is_ascii_uppercase())), "{}", kind.name);
        }
    }

    #[test]
    fn a_file_that_is_wrong_is_refused() {
        let head = "placeholders: []\nweak_passwords: []\nkinds:\n  a:\n    about: x\n";
        assert!(Rules::parse(&format!("{head}    patterns: ['abc_[a-z]{{20}}']\n")).is_ok());
        for rest in [
            "    patterns: ['abc_[a-z']\n",
            "    patterns: ['abc']\n",
            "    patterns: []\n    nmaes: []\n",
            "    check: no\n",
        ] {
            assert!(Rules::parse(&format!("{head}{rest}")).is_err(), "{rest}");
        }
    }
}
