//! Finds rules and functions that depend on themselves. OPA refuses them too; here a function that calls itself would
//! end the process, for want of stack.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{Names, Path};

/// What depends on what: the paths that a rule refers to.
pub(super) type References = BTreeMap<Path, BTreeSet<Path>>;

/// Reports each circle once, at its first rule.
pub(super) fn find(names: &Names, references: &References) -> Vec<String> {
    let mut search = Search { names, references, done: BTreeSet::new(), problems: Vec::new() };
    for rule in references.keys() {
        search.from(rule);
    }
    search.problems
}

struct Search<'a> {
    names: &'a Names,
    references: &'a References,
    done: BTreeSet<&'a Path>,
    problems: Vec<String>,
}

impl<'a> Search<'a> {
    /// Goes depth first with a stack of its own: chains of rules may be longer than the thread's stack.
    fn from(&mut self, start: &'a Path) {
        if self.done.contains(start) {
            return;
        }
        let mut trail = vec![(start, self.needs(start))];
        while let Some((rule, needs)) = trail.last_mut() {
            match needs.pop() {
                Some(next) => {
                    if let Some(begin) = trail.iter().position(|(rule, _)| *rule == next) {
                        let circle: Vec<_> = trail[begin..].iter().map(|(rule, _)| rule.join(".")).collect();
                        self.report(next, &circle);
                    } else if !self.done.contains(next) {
                        let needs = self.needs(next);
                        trail.push((next, needs));
                    }
                }
                None => {
                    self.done.insert(rule);
                    trail.pop();
                }
            }
        }
    }

    fn needs(&self, rule: &Path) -> Vec<&'a Path> {
        let names = self.names;
        let references = self.references.get(rule).into_iter().flatten();
        references.flat_map(|path| names.read_by(path)).collect()
    }

    fn report(&mut self, rule: &Path, circle: &[String]) {
        let place = self.names.rules.get(rule).map(String::as_str).unwrap_or_default();
        let circle = circle.join(" -> ");
        self.problems.push(format!("{place}: {} depends on itself: {circle} -> {}", rule.join("."), rule.join(".")));
    }
}
