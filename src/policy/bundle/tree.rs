//! Finds policy, data and tests below paths: directories with all that is in them, mounted ConfigMaps included.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{LoadError, data::Data};

/// What was found.
#[derive(Debug)]
pub(super) struct Tree {
    pub modules: Vec<(String, String)>,
    pub tests: Vec<(String, String)>,
    pub data: Data,
}

/// Reads everything below these paths. A mounted ConfigMap is swapped whole by a symbolic link; when that happens
/// meanwhile, reading begins anew, so that two generations never mix.
pub(super) fn read(paths: &[PathBuf]) -> Result<Tree, LoadError> {
    for _ in 0..ATTEMPTS {
        let before = generations(paths);
        let tree = read_once(paths);
        if generations(paths) == before {
            return Ok(tree);
        }
    }
    Err(LoadError::one("policy.paths: the files kept changing while they were read"))
}

/// Where the links lead that the kubelet swaps.
fn generations(paths: &[PathBuf]) -> Vec<Option<PathBuf>> {
    paths.iter().map(|path| fs::read_link(path.join("..data")).ok()).collect()
}

fn read_once(paths: &[PathBuf]) -> Tree {
    let tree = Tree { modules: Vec::new(), tests: Vec::new(), data: Data::new() };
    let mut reader = Reader { tree, seen: HashSet::new(), bytes: 0, full: false };
    for path in paths {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => reader.directory(path, &mut Vec::new()),
            Ok(_) if kind(path) == Kind::Other => {
                reader.problem(path, "neither policy nor data; hint: the name ends in .rego, .json, .yaml or .yml");
            }
            Ok(_) => reader.file(path, kind(path), &[]),
            Err(error) => reader.problem(path, &error.to_string()),
        }
    }
    reader.tree
}

struct Reader {
    tree: Tree,
    /// Files and directories that were read, by where they really are: a path given twice, or a link in a circle.
    seen: HashSet<PathBuf>,
    bytes: u64,
    full: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Module,
    Test,
    Data,
    Other,
}

impl Reader {
    fn directory(&mut self, directory: &Path, below: &mut Vec<String>) {
        if !self.is_new(directory) {
            return;
        }
        let mut entries = match list(directory) {
            Ok(entries) => entries,
            Err(error) => return self.problem(directory, &error.to_string()),
        };
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // What begins with a dot is hidden: also `..data` and the directories of a mounted ConfigMap, whose files
            // are read through the links beside them.
            if self.full || name.starts_with('.') {
                continue;
            }
            match fs::metadata(&path) {
                Ok(found) if found.is_dir() => {
                    below.push(name);
                    self.directory(&path, below);
                    below.pop();
                }
                Ok(_) => match kind(&path) {
                    Kind::Other => {}
                    Kind::Data if path.file_stem().is_none_or(|stem| stem != "data") => {}
                    kind => self.file(&path, kind, below),
                },
                Err(error) => self.problem(&path, &error.to_string()),
            }
        }
    }

    fn file(&mut self, path: &Path, kind: Kind, below: &[String]) {
        if self.full || !self.is_new(path) {
            return;
        }
        let bytes = match self.contents(path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return,
            Err(error) => return self.problem(path, &error.to_string()),
        };
        let Ok(text) = String::from_utf8(bytes) else { return self.problem(path, "not UTF-8") };
        let name = path.display().to_string();
        match kind {
            Kind::Module => self.tree.modules.push((name, text)),
            Kind::Test => self.tree.tests.push((name, text)),
            Kind::Data => self.tree.data.add_file(below, path, &text),
            Kind::Other => {}
        }
    }

    /// `None` once there is more than a generation may hold.
    fn contents(&mut self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let room = MAX_BYTES - self.bytes;
        io::Read::read_to_end(&mut io::Read::take(fs::File::open(path)?, room + 1), &mut bytes)?;
        self.bytes += bytes.len() as u64;
        if self.bytes > MAX_BYTES {
            self.full = true;
            self.tree.data.problem(format!("{}: policy and data are more than 16 MiB together", path.display()));
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    fn is_new(&mut self, path: &Path) -> bool {
        if self.seen.len() >= MAX_FILES {
            self.full = true;
            self.problem(path, "more than 10000 files and directories");
            return false;
        }
        let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        self.seen.insert(place)
    }

    fn problem(&mut self, path: &Path, why: &str) {
        self.tree.data.problem(format!("{}: {why}", path.display()));
    }
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

fn kind(path: &Path) -> Kind {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.rsplit_once('.') {
        Some((stem, "rego")) if stem.ends_with("_test") => Kind::Test,
        Some((_, "rego")) => Kind::Module,
        Some((_, "json" | "yaml" | "yml")) => Kind::Data,
        _ => Kind::Other,
    }
}

const ATTEMPTS: usize = 3;
const MAX_BYTES: u64 = 16 << 20;
const MAX_FILES: usize = 10_000;
