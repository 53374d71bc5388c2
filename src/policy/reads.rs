//! What a policy can read, found from the policy itself.
//!
//! A [`ReadSet`] covers every part of `input` that any evaluation of the policy can depend on. It may cover more: where
//! a reference is dynamic it widens to the nearest static prefix, and rules that are never reached count too. So two
//! calls that agree on the read set get the same answer, which is what makes keeping answers right. A policy that asks
//! a clock, a random source or the network is named as such, because then no set of reads would do.

mod walk;

use std::collections::BTreeSet;

use regorus::unstable::{Module, Ref};

use super::input::field::{FIELDS, Field, Shape};

/// The parts of `input` that a policy can read.
#[derive(Debug, Clone)]
pub struct ReadSet {
    reads: Vec<Read>,
    unknown: BTreeSet<(String, String)>,
    uncacheable: BTreeSet<String>,
}

/// One part of `input`: a field of the schema, or a place inside a field whose inside is free.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Read {
    /// The field's place in [`FIELDS`].
    pub index: usize,
    /// The way further down; empty means all of it.
    pub steps: Vec<Step>,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into an object.
    Key(String),
    /// Into an array.
    Index(usize),
}

impl Read {
    /// The field that is read.
    pub fn field(&self) -> &'static Field {
        &FIELDS[self.index]
    }
}

impl ReadSet {
    /// The read set of these modules together.
    pub fn of_modules(modules: &[Ref<Module>]) -> Self {
        let found = walk::walk(modules);
        let mut reads = Vec::new();
        let mut unknown = BTreeSet::new();
        for reference in found.references {
            match resolve(&reference.steps) {
                Some(resolved) => reads.extend(resolved),
                None => drop(unknown.insert((written(&reference.steps), reference.place))),
            }
        }
        Self { reads: covering(reads), unknown, uncacheable: found.nondeterministic }
    }

    /// All of `input`.
    pub fn everything() -> Self {
        let reads = (0..FIELDS.len()).map(|index| Read { index, steps: Vec::new() }).collect();
        Self { reads, unknown: BTreeSet::new(), uncacheable: BTreeSet::new() }
    }

    /// The reads, in the order of the schema; none of them covers another.
    pub fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// Whether anything of this top-level part of `input` is read.
    pub fn reads_part(&self, part: &str) -> bool {
        self.reads.iter().any(|read| read.field().part() == part)
    }

    /// References to paths that schema 1 does not have, so that reading them is always undefined: the path as written,
    /// e.g. `input.taks.purpose`, and where it stands. Only what is written as one reference is found: what is misspelt
    /// below a variable (`t := input.task; t.purpos`) is not.
    pub fn unknown_paths(&self) -> &BTreeSet<(String, String)> {
        &self.unknown
    }

    /// The functions because of which answers of this policy can't be kept: clocks, random sources, the network, and
    /// whatever is not known to depend on its arguments alone.
    pub fn uncacheable(&self) -> &BTreeSet<String> {
        &self.uncacheable
    }

    /// The reads as people write them: `input.call.method`.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        self.reads.iter().map(|read| {
            let mut path = format!("input.{}", read.field().path);
            write_steps(&mut path, &read.steps);
            path
        })
    }
}

/// The fields that a path means: the one that it names or goes into, or all that lie below it. `None`: it means nothing.
fn resolve(steps: &[Step]) -> Option<Vec<Read>> {
    let mut reads = Vec::new();
    for (index, field) in FIELDS.iter().enumerate() {
        let mut names = field.path.split('.');
        let mut rest = steps.iter();
        let below = loop {
            match (names.next(), rest.next()) {
                (None, None) | (Some(_), None) => break Some(Vec::new()),
                (Some(name), Some(Step::Key(key))) if name == key => {}
                (Some(_), Some(_)) => break None,
                (None, Some(step)) => break Some(std::iter::once(step).chain(rest).cloned().collect()),
            }
        };
        if let Some(below) = below {
            reads.push(Read { index, steps: inside(field.shape, below)? });
        }
    }
    (!reads.is_empty()).then_some(reads)
}

/// The steps inside a field that narrow what is read; `None` where the field has no such inside.
fn inside(shape: Shape, mut steps: Vec<Step>) -> Option<Vec<Step>> {
    let Some(first) = steps.first() else { return Some(steps) };
    match (shape, first) {
        (Shape::Json, _) => Some(steps),
        (Shape::List, Step::Index(_)) | (Shape::Lists, Step::Key(_)) => {
            steps.truncate(1);
            Some(steps)
        }
        // Header names are lower-case in `input`, so any other spelling is always undefined.
        (Shape::Headers, Step::Key(name)) if !name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            steps.truncate(1);
            Some(steps)
        }
        (Shape::Texts, Step::Key(_)) if steps.len() == 1 => Some(steps),
        (Shape::Scalar | Shape::List | Shape::Texts | Shape::Lists | Shape::Headers, _) => None,
    }
}

/// Drops every read that another one covers.
fn covering(mut reads: Vec<Read>) -> Vec<Read> {
    reads.sort();
    let mut kept: Vec<Read> = Vec::with_capacity(reads.len());
    for read in reads {
        // In sorted order a prefix stands directly before everything that it covers.
        let covered = kept.last().is_some_and(|last| last.index == read.index && read.steps.starts_with(&last.steps));
        if !covered {
            kept.push(read);
        }
    }
    kept
}

fn written(steps: &[Step]) -> String {
    let mut path = "input".to_owned();
    write_steps(&mut path, steps);
    path
}

fn write_steps(path: &mut String, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Key(key) if key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => {
                path.push('.');
                path.push_str(key);
            }
            Step::Key(key) => path.push_str(&format!("[{key:?}]")),
            Step::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_set(body: &str) -> ReadSet {
        let mut engine = regorus::Engine::new();
        let text = format!("package t\n{body}\n");
        engine.add_policy("t.rego".into(), text.clone()).unwrap_or_else(|error| panic!("{text}: {error}"));
        ReadSet::of_modules(engine.get_modules())
    }

    fn paths(body: &str) -> Vec<String> {
        read_set(body).paths().collect()
    }

    #[test]
    fn every_way_to_write_a_read_is_found() {
        for (body, expected) in [
            ("a := 1", &[][..]),
            ("a if input.call.method == \"GET\"", &["input.call.method"]),
            ("a if input[\"call\"][`method`] == \"GET\"", &["input.call.method"]),
            ("a if not input.call.method", &["input.call.method"]),
            ("a := x if x := input.task.purpose", &["input.task.purpose"]),
            ("a := {\"k\": input.task.purpose}", &["input.task.purpose"]),
            ("a[input.task.purpose] := 1", &["input.task.purpose"]),
            ("a contains input.task.purpose", &["input.task.purpose"]),
            ("default a := 1\na := 2 if data.x[input.task.purpose]", &["input.task.purpose"]),
            ("a := [p | p := input.task.purpose]", &["input.task.purpose"]),
            ("a := {p: 1 | p := input.task.purpose}", &["input.task.purpose"]),
            ("a if every s in input.call.segments { s != \"\" }", &["input.call.segments"]),
            ("a if some s in input.call.segments", &["input.call.segments"]),
            ("a if \"x\" in input.call.segments", &["input.call.segments"]),
            (
                "f(x) := x.id\na := f(input.agent) ",
                &[
                    "input.agent.assurance",
                    "input.agent.id",
                    "input.agent.labels",
                    "input.agent.name",
                    "input.agent.namespace",
                    "input.agent.pod",
                ],
            ),
            ("f(x) := 1 if x == input.call.host\na := f(1)", &["input.call.host"]),
            ("a := 1 if { input.call.host } else := input.call.port", &["input.call.host", "input.call.port"]),
            ("a if startswith(input.call.path, \"/x\")", &["input.call.path"]),
            ("a if input.call.port + 1 == 2", &["input.call.port"]),
            (
                "a := object.get(input.task, \"epoch\", 0)",
                &[
                    "input.task.epoch",
                    "input.task.expires_at",
                    "input.task.history.calls",
                    "input.task.history.denied",
                    "input.task.history.hosts",
                    "input.task.history.sensitive_actions",
                    "input.task.id",
                    "input.task.ceiling",
                    "input.task.max_effect",
                    "input.task.purpose",
                    "input.task.source",
                    "input.task.taint",
                ],
            ),
        ] {
            let found: BTreeSet<String> = paths(body).into_iter().collect();
            assert_eq!(found, expected.iter().map(|path| (*path).to_owned()).collect(), "{body}");
        }
    }

    #[test]
    fn places_inside_free_fields_stay_narrow() {
        for (body, expected) in [
            ("a := input.call.query.q[0]", "input.call.query.q"),
            ("a := input.call.headers[\"content-type\"][0]", "input.call.headers[\"content-type\"]"),
            ("a := input.agent.labels[\"app.kubernetes.io/name\"]", "input.agent.labels[\"app.kubernetes.io/name\"]"),
            ("a := input.call.segments[1]", "input.call.segments[1]"),
            ("a := input.call.body.json.a.b[2].c", "input.call.body.json.a.b[2].c"),
            ("a := input.call.mcp.arguments.repo", "input.call.mcp.arguments.repo"),
        ] {
            assert_eq!(paths(body), [expected], "{body}");
        }
    }

    #[test]
    fn a_dynamic_step_widens_to_the_static_prefix() {
        for (body, expected) in [
            ("a if { some i; input.call.segments[i] == \"x\" }", &["input.call.segments"][..]),
            ("a if input.call.headers[input.call.host]", &["input.call.headers", "input.call.host"]),
            ("a if input.call.body.json.rows[_].id == 1", &["input.call.body.json.rows"]),
        ] {
            let found: BTreeSet<String> = paths(body).into_iter().collect();
            assert_eq!(found, expected.iter().map(|path| (*path).to_owned()).collect(), "{body}");
        }
    }

    #[test]
    fn input_passed_whole_or_indexed_by_a_variable_means_all_of_it() {
        for body in ["a := input", "a if walk(input, [_, \"x\"])", "f(x) := x\na := f(input)", "a if input[_] == 1"] {
            assert_eq!(read_set(body).reads(), ReadSet::everything().reads(), "{body}");
        }
    }

    #[test]
    fn a_prefix_covers_what_lies_below_it() {
        assert_eq!(paths("a := input.call.body.json.x\nb := input.call.body.json"), ["input.call.body.json"]);
        assert_eq!(
            paths("a := input.call.query.q\nb := input.call.query\nc := input.call.query.r"),
            ["input.call.query"]
        );
    }

    #[test]
    fn imports_are_followed() {
        assert_eq!(paths("import input.call\na := call.method"), ["input.call.method"]);
        assert_eq!(paths("import input.call as c\na := c.query.q"), ["input.call.query.q"]);
        assert_eq!(paths("import input as i\na := i.call.method"), ["input.call.method"]);
        assert_eq!(paths("import data.call\na := call.method"), [""; 0]);
    }

    #[test]
    fn what_with_replaces_is_not_read_but_what_it_puts_there_is() {
        assert_eq!(paths("b := 1\na if b with input as {\"x\": input.call.host}"), ["input.call.host"]);
        assert_eq!(paths("b := 1\na if b with input.call.host as \"x\""), [""; 0]);
        assert_eq!(paths("b := 1\na if b with data.x as input.call.port"), ["input.call.port"]);
    }

    #[test]
    fn a_path_that_the_schema_does_not_have_is_named_with_its_place() {
        for (body, path) in [
            ("a := input.taks.purpose", "input.taks.purpose"),
            ("a := input.task.purpos", "input.task.purpos"),
            ("a := input.task.purpose.x", "input.task.purpose.x"),
            ("a := input.task.purpose[0]", "input.task.purpose[0]"),
            ("a := input.call.headers[\"X-Api\"]", "input.call.headers[\"X-Api\"]"),
            ("a := input.call.query[0]", "input.call.query[0]"),
            ("a := input.call.segments.first", "input.call.segments.first"),
            ("a := input.secrets.kind", "input.secrets.kind"),
            ("a := input[0]", "input[0]"),
        ] {
            let reads = read_set(body);
            let found: Vec<_> = reads.unknown_paths().iter().collect();
            assert!(
                matches!(found[..], [(found, place)] if found == path && place.starts_with("t.rego:2:")),
                "{body}: {found:?}"
            );
        }
        assert!(read_set("a := input.task.taint").unknown_paths().is_empty());
    }

    #[test]
    fn what_is_not_a_function_of_its_arguments_makes_answers_uncacheable() {
        for (body, name) in [
            ("a := time.now_ns()", "time.now_ns"),
            ("a if { x := time.now_ns(); x > 1 }", "time.now_ns"),
            ("a := rand.intn(\"x\", 2)", "rand.intn"),
            ("a := uuid.rfc4122(\"x\")", "uuid.rfc4122"),
            ("a := opa.runtime()", "opa.runtime"),
            ("a := http.send({})", "http.send"),
            ("a := acme.lookup(1)", "acme.lookup"),
            ("f(x) := 1\na if f(1) with f as time.now_ns", "time.now_ns"),
        ] {
            let names: Vec<String> = read_set(body).uncacheable().iter().cloned().collect();
            assert_eq!(names, [name], "{body}");
        }
    }

    #[test]
    fn functions_of_their_arguments_leave_answers_cacheable() {
        for body in [
            "a := count([1])",
            "a := time.parse_duration_ns(\"1s\")",
            "f(x) := x\na := f(1)",
            "f(x) := x\na := data.t.f(1)",
            "import data.other.lib\na := lib.f(1)",
            "a if print(\"x\")",
            "a := regex.match(\"a\", \"b\")",
        ] {
            assert!(read_set(body).uncacheable().is_empty(), "{body}");
        }
    }
}
