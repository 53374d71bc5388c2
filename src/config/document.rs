//! The configuration file as a tree in which every value knows its line.
//!
//! YAML is read once into a [`Document`]. [`Document::settle`] turns a part of it into a type and does not stop at the
//! first thing that doesn't fit: it notes the problem, cuts the offending value out and goes on, so that everything that
//! is wrong is reported at once. A problem that only follows from one that was noted already is not reported.

mod place;
mod reword;
mod shape;
mod tree;

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

pub use place::{Place, Step};
use tree::{Node, Tree};

use super::problem::{Problem, Problems};

/// A configuration file, with the problems that were found in it so far.
#[derive(Debug)]
pub struct Document {
    file: String,
    root: Node,
    problems: Problems,
    /// The places whose values did not fit.
    unfit: Vec<Place>,
}

impl Document {
    /// Reads YAML, finds keys that are written twice and expands `${NAME}`. Fails only where the text is no YAML.
    pub fn read(text: &str, file: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        if text.len() > LONGEST_FILE {
            return Err(Problems::one(file, None, "larger than 1 MiB"));
        }
        let root = tree::parse(text).map_err(|(line, message)| Problems::one(file, line, message))?;
        let mut document = Self { file: file.to_owned(), root, problems: Problems::default(), unfit: Vec::new() };
        let mut found = Vec::new();
        document.root.prepare(&Place::root(), env, &mut found);
        for (place, line, message) in found {
            document.note(place, line, message);
        }
        Ok(document)
    }

    /// Turns the part at `place` into a `T`, without the values that don't fit. `None`: it isn't there, or no `T` is left.
    pub fn settle<T: DeserializeOwned>(&mut self, place: &Place) -> Option<T> {
        loop {
            let error = match serde_path_to_error::deserialize(self.node(place)?) {
                Ok(settled) => return Some(settled),
                Err(error) => error,
            };
            let mut wrong = place.clone();
            for segment in error.path() {
                match segment {
                    Segment::Seq { index } => wrong = wrong.index(*index),
                    Segment::Map { key } | Segment::Enum { variant: key } => wrong = wrong.key(key),
                    Segment::Unknown => break,
                }
            }
            let message = reword::reword(&error.into_inner().to_string());
            let (wrong, line) = self.deepest(&wrong);
            let node = self.root.at_mut(&wrong).filter(|node| !node.cut)?;
            if node.infer() {
                continue;
            }
            node.cut = true;
            // An enum whose only key was cut does not fit either; that is no further problem.
            if !self.unfit.iter().any(|known| known.starts_with(&wrong)) {
                self.note(wrong.clone(), line, message);
            }
            if self.problems.is_full() || place.starts_with(&wrong) {
                return None;
            }
        }
    }

    /// Notes that what stands at `place` fits its type but can't be used. The place may also be one that is missing.
    pub fn report(&mut self, place: &Place, message: impl Into<String>) {
        let located = self.original(place);
        if self.unfit.iter().any(|known| known.starts_with(&located) || located.starts_with(known)) {
            return;
        }
        let (deepest, line) = self.deepest(place);
        let message = self.conceal(&deepest, message.into());
        self.push(Some(line), &located, message);
    }

    /// Notes that an environment variable can't be used.
    pub fn report_variable(&mut self, name: &str, message: impl Into<String>) {
        let problem =
            Problem { file: "environment".to_owned(), line: None, path: name.to_owned(), message: message.into() };
        self.problems.push(problem);
    }

    /// The keys of the mapping at `place`; none where there is no mapping.
    pub fn keys(&self, place: &Place) -> Vec<String> {
        match self.node(place).map(|node| &node.tree) {
            Some(Tree::Map(entries)) => {
                entries.iter().filter(|entry| !entry.node.cut).map(|entry| entry.key.clone()).collect()
            }
            Some(Tree::Scalar(_) | Tree::List(_)) | None => Vec::new(),
        }
    }

    /// The text at `place`, where there is one.
    pub fn text(&self, place: &Place) -> Option<String> {
        match &self.node(place)?.tree {
            Tree::Scalar(value) => value.as_str().map(str::to_owned),
            Tree::List(_) | Tree::Map(_) => None,
        }
    }

    /// Whether something was written at `place`, whether it fits or not.
    pub fn wrote(&self, place: &Place) -> bool {
        self.root.find(place).is_some()
    }

    /// Takes the value at `place` out of what is settled from now on, without a problem.
    pub fn hide(&mut self, place: &Place) {
        if let Some(node) = self.root.at_mut(&self.original(place)) {
            node.cut = true;
        }
    }

    /// Everything that was found, in the order of the file.
    pub fn into_problems(self) -> Problems {
        self.problems.sorted()
    }

    fn node(&self, place: &Place) -> Option<&Node> {
        self.root.find(place).map(|(node, _)| node).filter(|node| !node.cut)
    }

    /// `place` with its indices as in the file: what was cut counts again.
    fn original(&self, place: &Place) -> Place {
        let (deepest, _) = self.deepest(place);
        let rest = place.steps().iter().skip(deepest.steps().len()).cloned();
        deepest.join(rest)
    }

    /// As much of `place` as is there, with its indices as in the file, and its line.
    fn deepest(&self, place: &Place) -> (Place, u64) {
        let mut node = &self.root;
        let mut deepest = Place::root();
        for step in place.steps() {
            let Some((child, step)) = node.child(step) else { break };
            deepest = deepest.join([step]);
            node = child;
        }
        (deepest, node.line)
    }

    /// What came from the environment is shown as it was written, because it may be a secret.
    fn conceal(&self, place: &Place, message: String) -> String {
        match self.root.at(place).and_then(|node| node.expanded.as_ref()) {
            Some(expanded) if expanded.value.len() > 3 => message.replace(&expanded.value, &expanded.written),
            Some(_) | None => message,
        }
    }

    fn note(&mut self, place: Place, line: u64, message: String) {
        let message = self.conceal(&place, message);
        self.push(Some(line), &place, message);
        self.unfit.push(place);
    }

    fn push(&mut self, line: Option<u64>, place: &Place, message: String) {
        self.problems.push(Problem { file: self.file.clone(), line, path: place.to_string(), message });
    }
}

/// The largest file that is read, in bytes.
pub const LONGEST_FILE: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        number: u16,
        list: Vec<u16>,
        parts: BTreeMap<String, Part>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Part {
        on: bool,
        names: Vec<String>,
        choice: Option<Choice>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Choice {
        Plain,
        Named(String),
    }

    fn settle(text: &str) -> (Option<Sample>, String) {
        let env = |name: &str| match name {
            "NUMBER" => Some("7".to_owned()),
            "TOKEN" => Some("s3cr3t-value".to_owned()),
            _ => None,
        };
        match Document::read(text, "f", &env) {
            Ok(mut document) => (document.settle(&Place::root()), document.into_problems().to_string()),
            Err(problems) => (None, problems.to_string()),
        }
    }

    #[test]
    fn everything_that_does_not_fit_is_reported_at_once() {
        let text = "\
number: 99999
nmuber: 1
list: [1, x, 3, y]
parts:
  a: {on: maybe, names: [n]}
  b:
    names: one
    choice: {nammed: x}
  c:
    on: true
    choice: other
";
        let (sample, problems) = settle(text);
        insta::assert_snapshot!(problems, @r#"
        f:1: number: expected a number from 0 to 65535, found integer `99999`
        f:2: nmuber: unknown key; did you mean `number`?
        f:3: list[1]: expected a number from 0 to 65535, found string "x"
        f:3: list[3]: expected a number from 0 to 65535, found string "y"
        f:5: parts.a.on: expected true or false, found string "maybe"
        f:7: parts.b.names: expected a list, found string "one"
        f:8: parts.b.choice: unknown value `nammed`, expected `plain` or `named`
        f:11: parts.c.choice: unknown value `other`, expected `plain` or `named`
        "#);
        let sample = sample.unwrap();
        assert_eq!(sample.list, [1, 3]);
        assert!(sample.parts["c"].on);
        assert_eq!(sample.parts["a"].names, ["n"]);
    }

    #[test]
    fn a_key_that_is_written_twice_is_refused() {
        let (sample, problems) = settle("number: 1\nlist: []\nnumber: 2\nparts: {a: {on: true, 'on': false}}\n");
        insta::assert_snapshot!(problems, @r"
        f:3: number: this key is written twice, first in line 1
        f:4: parts.a.on: this key is written twice, first in line 4
        ");
        assert_eq!(sample.unwrap().number, 1);
    }

    #[test]
    fn what_is_no_yaml_is_one_problem_with_its_line() {
        let texts = [
            "number: 1\nlist: [1, 2\n",
            "number: 1\n\tlist: 2\n",
            "number: *missing\n",
            "number: 1\n---\nnumber: 2\n",
            "number: !thing 1\n",
            "? [a, b]\n: 1\n",
        ];
        let found = texts.map(|text| {
            let (sample, problems) = settle(text);
            assert_eq!(sample, None, "{text}");
            problems
        });
        insta::assert_snapshot!(found.join("\n"), @r"
        f:2: not valid YAML: unclosed bracket '['
        f:1: not valid YAML: while scanning a plain scalar, found a tab
        f:1: not valid YAML: reference to unknown value
        f:3: not valid YAML: only single YAML document expected but multiple found
        f:1: not valid YAML: unsupported tag `!thing`
        f:1: not valid YAML: expected string scalar
        ");
    }

    #[test]
    fn a_document_of_another_shape_is_refused() {
        assert_eq!(settle("- 1\n"), (None, "f:1: expected a mapping of keys, found a list".to_owned()));
        assert_eq!(settle("text\n").0, None);
        let (_, problems) = settle("parts: {a: [true, []], b: {choice: {named: x, plain: y}}}\nlist: {a: 1}\n");
        insta::assert_snapshot!(problems, @r"
        f:1: parts.a: expected a mapping of keys, found a list
        f:1: parts.b.choice: expected a mapping of one key, found a mapping of keys
        f:2: list: expected a list, found a mapping of keys
        ");
    }

    #[test]
    fn an_empty_document_is_an_empty_mapping() {
        for text in ["", "\n", "# only a comment\n", "---\n", "{}\n"] {
            assert_eq!(settle(text), (Some(Sample::default()), String::new()), "{text:?}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        let mut laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..9 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(",");
            laughs.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        let deep = "[".repeat(10_000);
        let wide = format!("list: [{}]", "1,".repeat(200_000));
        let large = "#".repeat(LONGEST_FILE + 1);
        for text in [laughs, deep, wide, large] {
            let (sample, problems) = settle(&text);
            assert!(sample.is_none() && !problems.is_empty(), "{}", &text[..20]);
        }
    }

    #[test]
    fn an_alias_is_placed_where_it_is_used() {
        let (_, problems) = settle("parts:\n  a: &a\n    names: [n]\n    off: true\n  b: *a\n");
        insta::assert_snapshot!(problems, @r"
        f:4: parts.a.off: unknown key; known here: on, names, choice
        f:5: parts.b.off: unknown key; known here: on, names, choice
        ");
    }

    #[test]
    fn a_variable_fits_where_its_value_does() {
        let (sample, problems) =
            settle("number: ${NUMBER}\nlist: [\"${NUMBER}\"]\nparts: {a: {names: [\"${NUMBER}\"]}}\n");
        assert_eq!(problems, "");
        let sample = sample.unwrap();
        assert_eq!((sample.number, sample.list.as_slice()), (7, [7].as_slice()));
        assert_eq!(sample.parts["a"].names, ["7"]);
    }

    #[test]
    fn the_value_of_a_variable_is_never_repeated() {
        let (_, problems) = settle("number: ${TOKEN}\nparts: {a: {choice: \"${TOKEN}\", on: \"${UNSET}\"}}\n");
        assert!(!problems.contains("s3cr3t"), "{problems}");
        insta::assert_snapshot!(problems, @r#"
        f:1: number: expected a number from 0 to 65535, found string "${TOKEN}"
        f:2: parts.a.on: environment variable UNSET is not set
        f:2: parts.a.choice: unknown value `${TOKEN}`, expected `plain` or `named`
        "#);
    }

    #[test]
    fn a_report_knows_the_line_of_what_is_missing_and_of_what_was_shifted() {
        let mut document = Document::read("list:\n  - x\n  - 2\n  - 3\nparts:\n  a: {}\n", "f", &|_| None).unwrap();
        let sample: Sample = document.settle(&Place::root()).unwrap();
        assert_eq!(sample.list, [2, 3]);
        document.report(&Place::root().key("list").index(1), "is not liked");
        document.report(&Place::root().key("parts").key("a").key("on").key("deeper"), "is missing");
        document.report(&Place::root().key("list"), "follows from the first and is not reported");
        insta::assert_snapshot!(document.into_problems(), @r#"
        f:2: list[0]: expected a number from 0 to 65535, found string "x"
        f:4: list[2]: is not liked
        f:6: parts.a.on.deeper: is missing
        "#);
    }
}
