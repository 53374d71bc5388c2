//! What is wrong with a configuration: every problem with its place, in the order of the file.

use std::fmt;

use serde::Serialize;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file's name as it was given, or `environment`.
    pub file: String,
    /// The line, counted from 1, where there is one.
    pub line: Option<u64>,
    /// The place, e.g. `destinations.github.hosts[0]`; empty for the whole file.
    pub path: String,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
}

/// Everything that is wrong with a configuration. At most [`Problems::MOST`] are kept; the rest is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    omitted: usize,
}

impl Problems {
    /// How many problems are kept.
    pub const MOST: usize = 50;

    /// The one problem of a file that can't be read at all.
    pub fn one(file: &str, line: Option<u64>, message: impl Into<String>) -> Self {
        let mut problems = Self::default();
        problems.push(Problem { file: file.to_owned(), line, path: String::new(), message: message.into() });
        problems
    }

    /// Adds a problem. Control characters of what was written are made visible.
    pub fn push(&mut self, mut problem: Problem) {
        if self.list.len() == Self::MOST {
            self.omitted += 1;
            return;
        }
        if problem.message.contains(|c: char| c.is_control()) {
            let visible = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
            problem.message = problem.message.chars().map(visible).collect();
        }
        self.list.push(problem);
    }

    /// Brings them into the order of the file; what stands in no file comes last.
    pub fn sorted(mut self) -> Self {
        self.list.sort_by_key(|problem| problem.line.unwrap_or(u64::MAX));
        self
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether no further problem is kept.
    pub fn is_full(&self) -> bool {
        self.list.len() == Self::MOST
    }

    /// How many there are beyond those that are kept.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// Those that are kept.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        if self.omitted > 0 {
            write!(f, "\n{} further problems are not listed", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_bounded_and_in_the_order_of_the_file() {
        let mut problems = Problems::default();
        for line in (1..=60).rev() {
            problems.push(Problem { file: "f".into(), line: Some(line), path: "a".into(), message: "m\u{1b}".into() });
        }
        let text = problems.sorted().to_string();
        assert_eq!(text.lines().next(), Some("f:11: a: m\\u{1b}"));
        assert_eq!(text.lines().last(), Some("10 further problems are not listed"));
        assert_eq!(text.lines().count(), 51);
    }

    #[test]
    fn a_problem_without_a_place_names_the_file_alone() {
        assert_eq!(Problems::one("f", None, "can't be read").to_string(), "f: can't be read");
    }
}
