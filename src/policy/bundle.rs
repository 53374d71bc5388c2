//! Gathers the policy and data of one generation: what the configuration names, and the library that ships.
//!
//! Reading is all or nothing, and every problem is reported with its place. Nothing here is parsed as Rego beyond the
//! name of a package: whether the texts are safe to parse is for [`lint`](super::lint) to say, in a child process.

mod data;
mod shipped;
mod tree;

use std::{fmt, path::PathBuf, sync::Arc};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config;
pub use shipped::package;

/// The texts of one generation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sources {
    /// Names and texts of Rego modules, sorted by name. Tests are not among them.
    pub modules: Vec<(String, String)>,
    /// The base document `data`.
    pub data: Value,
    /// Names these texts: equal texts have equal revisions.
    pub revision: Arc<str>,
}

/// What was found at paths that also hold tests.
#[derive(Debug)]
pub struct Suite {
    /// Everything but the tests.
    pub sources: Sources,
    /// Names and texts of the tests.
    pub tests: Vec<(String, String)>,
}

/// Why a policy can't be used: every problem, each with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    problems: Vec<String>,
}

impl Sources {
    /// Reads what the configuration names.
    pub fn read(policy: &config::Policy) -> Result<Self, LoadError> {
        Suite::read(&policy.paths, policy.data.as_ref()).map(|suite| suite.sources)
    }

    fn new(modules: Vec<(String, String)>, data: Value) -> Self {
        let mut modules = shipped::beside(modules);
        modules.sort();
        let revision = revision(&modules, &data);
        Self { modules, data, revision }
    }
}

impl Suite {
    /// Reads policy, data and tests below these paths, and merges further data with it.
    pub fn read(paths: &[PathBuf], further: Option<&Value>) -> Result<Self, LoadError> {
        let mut tree = tree::read(paths)?;
        if let Some(further) = further {
            tree.data.merge(&[], further.clone(), "policy.data");
        }
        let tree::Tree { modules, tests, data } = tree;
        Ok(Self { sources: Sources::new(modules, data.finish()?), tests })
    }
}

impl LoadError {
    /// One problem.
    pub fn one(problem: impl Into<String>) -> Self {
        Self { problems: vec![problem.into()] }
    }

    /// An error where there are problems.
    pub fn unless_empty(problems: Vec<String>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }

    /// Each problem, in the order in which they were found.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for LoadError {}

/// The first 16 hexadecimal digits of the SHA-256 over names, texts and data in one canonical form.
fn revision(modules: &[(String, String)], data: &Value) -> Arc<str> {
    let mut context = digest::Context::new(&digest::SHA256);
    for (name, text) in modules {
        add_text(&mut context, name);
        add_text(&mut context, text);
    }
    add_value(&mut context, data);
    let digest = context.finish();
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

fn add_text(context: &mut digest::Context, text: &str) {
    context.update(&text.len().to_be_bytes());
    context.update(text.as_bytes());
}

/// Members are sorted by name: what `serde_json` keeps of their order depends on features that others turn on.
fn add_value(context: &mut digest::Context, value: &Value) {
    match value {
        Value::Array(items) => {
            context.update(b"[");
            context.update(&items.len().to_be_bytes());
            for item in items {
                add_value(context, item);
            }
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            context.update(b"{");
            context.update(&fields.len().to_be_bytes());
            for (name, value) in fields {
                add_text(context, name);
                add_value(context, value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            context.update(b"=");
            add_text(context, &value.to_string());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

    use serde_json::json;

    use super::*;

    pub(in crate::policy) fn policy(paths: &[&Path], data: Option<Value>) -> config::Policy {
        config::Policy {
            paths: paths.iter().map(|path| path.to_path_buf()).collect(),
            data,
            program: None,
            decision: "tollgate/decision".to_owned(),
            budget: Duration::from_millis(10),
            cache_entries: 0,
            cache_ttl: Duration::ZERO,
        }
    }

    fn names(sources: &Sources) -> Vec<&str> {
        sources.modules.iter().map(|(name, _)| name.rsplit('/').next().unwrap()).collect()
    }

    const OWN: &str = "package team\n\nx := 1\n";

    #[test]
    fn without_paths_the_shipped_policy_applies() {
        let sources = Sources::read(&policy(&[], None)).unwrap();
        let expected = ["tollgate:decision.rego", "answer.rego", "classification.rego", "effect.rego"];
        assert_eq!(names(&sources), [&expected[..], &["tollgate:standard.rego"]].concat());
        assert_eq!(sources.data, json!({}));
    }

    #[test]
    fn the_library_stays_beside_policies_of_ones_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("own.rego"), "# mine\npackage tollgate\n\ndecision := {}\n").unwrap();
        let sources = Sources::read(&policy(&[dir.path()], None)).unwrap();
        let mut found = names(&sources);
        found.sort_unstable();
        assert_eq!(found, ["answer.rego", "classification.rego", "effect.rego", "own.rego", "tollgate:standard.rego"]);
    }

    #[test]
    fn tests_and_other_files_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["own.rego", "own_test.rego", "notes.md", "other.json", ".hidden.rego"] {
            fs::write(dir.path().join(name), OWN).unwrap();
        }
        let sources = Sources::read(&policy(&[dir.path()], None)).unwrap();
        assert_eq!(sources.modules.iter().filter(|(_, text)| text == OWN).count(), 1);
    }

    #[test]
    fn a_mounted_config_map_is_read_once_through_its_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("..2026_11_21")).unwrap();
        fs::write(dir.path().join("..2026_11_21/own.rego"), OWN).unwrap();
        fs::write(dir.path().join("..2026_11_21/data.json"), r#"{"limit": 3}"#).unwrap();
        symlink("..2026_11_21", dir.path().join("..data")).unwrap();
        symlink("..data/own.rego", dir.path().join("own.rego")).unwrap();
        symlink("..data/data.json", dir.path().join("data.json")).unwrap();
        let sources = Sources::read(&policy(&[dir.path()], None)).unwrap();
        assert_eq!(sources.modules.iter().filter(|(_, text)| text == OWN).count(), 1);
        assert_eq!(sources.data, json!({"limit": 3}));
    }

    #[test]
    fn data_stands_below_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("team/hosts")).unwrap();
        fs::write(dir.path().join("data.json"), r#"{"team": {"name": "x"}}"#).unwrap();
        fs::write(dir.path().join("team/data.yaml"), "size: 2\n").unwrap();
        fs::write(dir.path().join("team/hosts/data.yml"), "- a\n- b\n").unwrap();
        let further = json!({"tollgate": {"allow": []}});
        let sources = Sources::read(&policy(&[dir.path()], Some(further))).unwrap();
        let expected = json!({"team": {"name": "x", "size": 2, "hosts": ["a", "b"]}, "tollgate": {"allow": []}});
        assert_eq!(sources.data, expected);
    }

    #[test]
    fn every_problem_is_reported_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("data.json"), "{\"a\": {\"b\": 1},\n \"a\": 2}").unwrap();
        fs::write(dir.path().join("a/data.yaml"), "b: [1,\n").unwrap();
        fs::write(dir.path().join("bytes.rego"), [0x70, 0xff]).unwrap();
        let error = Sources::read(&policy(&[dir.path(), Path::new("/nowhere/at/all")], None)).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.problems().len(), 4, "{text}");
        for expected in ["data.json", "a/data.yaml:", "bytes.rego: not UTF-8", "/nowhere/at/all: "] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }

    #[test]
    fn data_that_says_two_things_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("data.json"), r#"{"team": {"size": 1}}"#).unwrap();
        let further = json!({"team": {"size": 1}});
        let error = Sources::read(&policy(&[dir.path()], Some(further))).unwrap_err();
        assert_eq!(error.to_string(), "policy.data: data.team.size is given twice");
        let error = Sources::read(&policy(&[], Some(json!([])))).unwrap_err();
        assert_eq!(error.to_string(), "policy.data: data is not an object");
    }

    #[test]
    fn too_much_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..3 {
            fs::write(dir.path().join(format!("{index}.rego")), vec![b'#'; 6 << 20]).unwrap();
        }
        let error = Sources::read(&policy(&[dir.path()], None)).unwrap_err();
        assert!(error.to_string().contains("more than 16 MiB"), "{error}");
    }

    #[test]
    fn the_revision_names_the_texts() {
        let read = |data| Sources::read(&policy(&[], Some(data))).unwrap().revision;
        let revision = read(json!({"a": 1, "b": 2}));
        assert_eq!(revision.len(), 16);
        assert_eq!(revision, read(json!({"b": 2, "a": 1})));
        assert_ne!(revision, read(json!({"a": 1, "b": 3})));
        assert_ne!(revision, read(json!({"a": 1, "b": "2"})));
    }
}
