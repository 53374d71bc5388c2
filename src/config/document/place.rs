//! Where in a document a value stands.

use std::fmt;

/// The way from the root of a document to a value: `destinations.github.hosts[0]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place(Vec<Step>);

/// One step of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// To the value of a key.
    Key(String),
    /// To an element of a list.
    Index(usize),
}

impl Place {
    /// The whole document.
    pub fn root() -> Self {
        Self::default()
    }

    /// The value of `key` in the mapping at this place.
    pub fn key(&self, key: &str) -> Self {
        self.join([Step::Key(key.to_owned())])
    }

    /// The element `index` of the list at this place.
    pub fn index(&self, index: usize) -> Self {
        self.join([Step::Index(index)])
    }

    /// This place and further steps from it.
    pub fn join(&self, steps: impl IntoIterator<Item = Step>) -> Self {
        Self(self.0.iter().cloned().chain(steps).collect())
    }

    /// The steps from the root.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether this place is `other` or stands within it.
    pub fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if depth > 0 {
                        f.write_str(".")?;
                    }
                    if !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
                        f.write_str(key)?;
                    } else {
                        write!(f, "{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_a_path() {
        let hosts = Place::root().key("destinations").key("git-hub").key("hosts");
        assert_eq!(hosts.index(2).to_string(), "destinations.git-hub.hosts[2]");
        assert_eq!(Place::root().key("a.b").key("").key("c\n").to_string(), r#""a.b".""."c\n""#);
        assert_eq!(Place::root().to_string(), "");
    }
}
