//! Puts data documents together, each at its path below `data`, as OPA does.

use std::{borrow::Cow, path::Path};

use serde_json::{Map, Value};

use super::LoadError;

/// Data under construction.
#[derive(Debug)]
pub(super) struct Data {
    root: Value,
    problems: Vec<String>,
}

impl Data {
    pub(super) fn new() -> Self {
        Self { root: Value::Object(Map::new()), problems: Vec::new() }
    }

    /// Adds a document at this path. What is there already may grow but not change.
    pub(super) fn merge(&mut self, path: &[String], document: Value, file: &str) {
        let document = path.iter().rev().fold(document, |inner, name| {
            let mut outer = Map::new();
            outer.insert(name.clone(), inner);
            Value::Object(outer)
        });
        if document.is_object() {
            merge_into(&mut self.root, document, "data", file, &mut self.problems);
        } else {
            self.problem(format!("{file}: data is not an object"));
        }
    }

    /// Parses a file and adds what it says.
    pub(super) fn add_file(&mut self, path: &[String], file: &Path, text: &str) {
        let name = file.display().to_string();
        let parsed =
            if file.extension().is_some_and(|extension| extension == "json") { json(text) } else { yaml(text) };
        match parsed {
            Ok(document) => self.merge(path, document, &name),
            Err(why) => self.problem(format!("{name}{why}")),
        }
    }

    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The whole document, or every problem.
    pub(super) fn finish(self) -> Result<Value, LoadError> {
        LoadError::unless_empty(self.problems)?;
        Ok(self.root)
    }
}

fn merge_into(into: &mut Value, from: Value, path: &str, file: &str, problems: &mut Vec<String>) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                match into.get_mut(&name) {
                    Some(known) => merge_into(known, value, &format!("{path}.{name}"), file, problems),
                    None => drop(into.insert(name, value)),
                }
            }
        }
        _ => problems.push(format!("{file}: {path} is given twice")),
    }
}

/// JSON, with a key given twice being an error. `Err` begins with the place.
fn json(text: &str) -> Result<Value, String> {
    let text = without_mark(text);
    let value = serde_json::from_str::<Value>(&text).map_err(|error| {
        let text = error.to_string();
        let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
        format!(":{}:{}: {message}", error.line(), error.column())
    })?;
    crate::call::json::parse_strict(text.as_bytes(), MAX_DEPTH)
        .map_err(|fault| format!(": {}", fault.description()))?;
    Ok(value)
}

/// YAML that means the same as some JSON.
fn yaml(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str::<Value>(&without_mark(text)).map_err(|error| {
        let text = error.without_snippet().to_string();
        let message = text.lines().next().unwrap_or_default();
        match error.location() {
            Some(place) => format!(":{}:{}: {message}", place.line(), place.column()),
            None => format!(": {message}"),
        }
    })
}

/// Editors put a byte order mark there that means nothing.
fn without_mark(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// As deep as regorus takes data.
const MAX_DEPTH: usize = 100;
