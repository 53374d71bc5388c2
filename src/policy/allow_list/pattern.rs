//! Patterns of paths and tools: `*` stands for any text, in a path within one segment; `**` for any number of segments.
//!
//! There is no other special character, so that a path can be copied into the list as it is.

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

/// The patterns of one kind of all entries of a destination, matched in one pass.
#[derive(Debug)]
pub(super) struct Patterns {
    set: GlobSet,
    owner: Vec<usize>,
}

impl Patterns {
    /// Compiles the patterns of entries given in their order; entries without patterns are passed over.
    pub(super) fn compile<'a>(
        entries: impl Iterator<Item = Option<&'a [String]>>,
        glob: fn(&str) -> Result<Glob, globset::Error>,
    ) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        let mut owner = Vec::new();
        for (index, patterns) in entries.enumerate() {
            for pattern in patterns.unwrap_or_default() {
                set.add(glob(pattern)?);
                owner.push(index);
            }
        }
        Ok(Self { set: set.build()?, owner })
    }

    /// The indices of the entries with a pattern that matches.
    pub(super) fn owners(&self, text: &str) -> Vec<usize> {
        if self.owner.is_empty() {
            return Vec::new();
        }
        let mut found = self.set.matches(text);
        for index in &mut found {
            *index = self.owner[*index];
        }
        found
    }
}

/// The glob for a pattern of canonical paths.
pub(super) fn path(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(&plain_but_stars(pattern)).literal_separator(true).backslash_escape(false).build()
}

/// The glob for a pattern of tools. A tool's name has no segments.
pub(super) fn tool(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(&plain_but_stars(pattern)).literal_separator(false).backslash_escape(false).build()
}

/// Whether this can stand in `paths`.
pub(super) fn check_path(pattern: &str) -> Result<(), &'static str> {
    if !pattern.starts_with('/') {
        return Err("a path begins with /");
    }
    if pattern.len() > MAX_PATTERN {
        return Err("longer than 1024 bytes");
    }
    if pattern.contains(['?', '#']) {
        return Err("a path is written without its query");
    }
    if !pattern.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("paths are compared percent-encoded; hint: write a space as %20");
    }
    if pattern.split('/').any(|segment| segment.contains("**") && segment != "**") {
        return Err("** stands for whole segments; hint: /v1/** or /v1/*");
    }
    Ok(())
}

/// Whether this can stand in `tools`.
pub(super) fn check_tool(pattern: &str) -> Result<(), &'static str> {
    match pattern.len() {
        0 => Err("empty"),
        1..=MAX_PATTERN if pattern.contains("**") => Err("a tool's name has no segments; hint: write *"),
        1..=MAX_PATTERN => Ok(()),
        _ => Err("longer than 1024 bytes"),
    }
}

fn plain_but_stars(pattern: &str) -> String {
    pattern.split('*').map(globset::escape).collect::<Vec<_>>().join("*")
}

const MAX_PATTERN: usize = 1024;
