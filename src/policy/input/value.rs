//! The part of the document that a policy reads, as a value of the engine.
//!
//! A [`Template`] belongs to one worker. What stays the same between calls (agent, task, destination, credential) is
//! built once and shared afterwards; only the call's own part is built anew. What is the same is told by the canonical
//! encoding, so a part is only ever reused for exactly equal facts.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use http::HeaderMap;
use regorus::Value;
use serde_json::Value as Json;

use super::{
    Document,
    field::{Field, Leaf},
};
use crate::{
    call::http::may_be_seen,
    policy::reads::{Read, Step},
    secret::{self, mask},
};

/// Builds the documents of one worker.
#[derive(Debug)]
pub struct Template {
    reads: Vec<Read>,
    parts: Vec<Part>,
    scratch: Vec<u8>,
}

/// One top-level part of the document.
#[derive(Debug)]
struct Part {
    node: Node,
    reads: Range<usize>,
    /// The last ones built, newest first, with the facts that they were built from. `None` where each call has its own.
    built: Option<VecDeque<(Vec<u8>, Value)>>,
}

#[derive(Debug)]
struct Node {
    name: Value,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Branch(Vec<Node>),
    Field(&'static Field, Vec<Vec<Step>>),
}

impl Template {
    /// A template for these reads, which stand in the order of the schema.
    pub fn new(reads: &[Read]) -> Self {
        let parts = runs(reads, |read| read.field().part())
            .map(|(name, range)| Part {
                node: Node::new(name, &reads[range.clone()], 1),
                reads: range,
                built: (!CHANGING.contains(&name)).then(VecDeque::new),
            })
            .collect();
        Self { reads: reads.to_vec(), parts, scratch: Vec::with_capacity(256) }
    }

    /// The document, as far as it is read.
    pub fn fill(&mut self, document: Document<'_>) -> Value {
        let Self { reads, parts, scratch } = self;
        let mut object = BTreeMap::new();
        for part in parts {
            let value = part.fill(document, reads, scratch);
            if value != Value::Undefined {
                object.insert(part.node.name.clone(), value);
            }
        }
        Value::from(object)
    }
}

impl Part {
    fn fill(&mut self, document: Document<'_>, reads: &[Read], scratch: &mut Vec<u8>) -> Value {
        let Some(built) = &mut self.built else { return self.node.fill(document) };
        scratch.clear();
        for read in &reads[self.reads.clone()] {
            document.encode(read, scratch);
        }
        if let Some((_, value)) = built.iter().find(|(facts, _)| facts == scratch) {
            return value.clone();
        }
        let value = self.node.fill(document);
        built.truncate(REMEMBERED - 1);
        built.push_front((scratch.clone(), value.clone()));
        value
    }
}

impl Node {
    /// The node of this name over reads that agree in their first `depth` names.
    fn new(name: &str, reads: &[Read], depth: usize) -> Self {
        let is_field = reads[0].field().path.split('.').count() == depth;
        let content = if is_field {
            Content::Field(reads[0].field(), reads.iter().map(|read| read.steps.clone()).collect())
        } else {
            let name_at = |read: &Read| read.field().path.split('.').nth(depth).unwrap_or_default();
            let child = |(name, range): (&str, Range<usize>)| Self::new(name, &reads[range], depth + 1);
            Content::Branch(runs(reads, name_at).map(child).collect())
        };
        Self { name: Value::from(name), content }
    }

    fn fill(&self, document: Document<'_>) -> Value {
        match &self.content {
            Content::Field(field, wanted) => field_value((field.leaf)(document), wanted),
            Content::Branch(children) => {
                let mut object = BTreeMap::new();
                for child in children {
                    let value = child.fill(document);
                    if value != Value::Undefined {
                        object.insert(child.name.clone(), value);
                    }
                }
                if object.is_empty() { Value::Undefined } else { Value::from(object) }
            }
        }
    }
}

/// The runs of reads that agree in a name, with the name.
fn runs<'a>(
    reads: &'a [Read],
    name: impl Fn(&'a Read) -> &'static str + 'a,
) -> impl Iterator<Item = (&'static str, Range<usize>)> + 'a {
    let mut start = 0;
    std::iter::from_fn(move || {
        let first = name(reads.get(start)?);
        let length = reads[start..].iter().take_while(|read| name(read) == first).count();
        let range = start..start + length;
        start = range.end;
        Some((first, range))
    })
}

/// A field's content, at least at the wanted places; no place at all means the whole.
fn field_value(leaf: Leaf<'_>, wanted: &[Vec<Step>]) -> Value {
    let is_wanted = |name: &str| {
        wanted.iter().any(|steps| match steps.first() {
            None | Some(Step::Index(_)) => true,
            Some(Step::Key(key)) => key == name,
        })
    };
    match leaf {
        Leaf::Undefined => Value::Undefined,
        Leaf::Null => Value::Null,
        Leaf::Bool(value) => Value::Bool(value),
        Leaf::U64(value) => Value::from(value),
        Leaf::Str(value) => Value::from(value),
        Leaf::Time(value) => {
            jiff::Timestamp::try_from(value).map_or(Value::Undefined, |time| Value::from(time.to_string()))
        }
        Leaf::Ip(value) => Value::from(value.to_string()),
        Leaf::Said(value) => Value::from(&*mask::text(value)),
        Leaf::Path(value) => Value::from(&*secret::redact_path(value)),
        Leaf::Segments(items) => list(items.iter().map(|item| mask::segment(item))),
        Leaf::SaidAll(items) => list(items.iter().map(|item| mask::text(item))),
        Leaf::Names(items) => list(items.iter().map(|item| &**item)),
        Leaf::Texts(entries) => {
            let wanted = entries.iter().filter(|(name, _)| is_wanted(name));
            Value::from(
                wanted
                    .map(|(name, text)| (Value::from(name.as_str()), Value::from(text.as_str())))
                    .collect::<BTreeMap<_, _>>(),
            )
        }
        Leaf::Query(pairs) => {
            let wanted = pairs.iter().filter(|(name, _)| is_wanted(name));
            lists(wanted.map(|(name, value)| (name.as_str(), Value::from(value.as_str()))))
        }
        Leaf::Headers(headers) => header_value(headers, is_wanted),
        Leaf::Secrets(found) => {
            let secret = |kind: &str, place: &str| {
                Value::from(BTreeMap::from([
                    (Value::from("kind"), Value::from(kind)),
                    (Value::from("where"), Value::from(place)),
                ]))
            };
            Value::from(found.iter().map(|found| secret(found.kind, &found.place)).collect::<Vec<_>>())
        }
        Leaf::Json(json) => {
            let wanted: Vec<&[Step]> = wanted.iter().map(Vec::as_slice).collect();
            project(json, &wanted)
        }
    }
}

fn list<T: AsRef<str>>(items: impl Iterator<Item = T>) -> Value {
    Value::from(items.map(|item| Value::from(item.as_ref())).collect::<Vec<_>>())
}

fn header_value(headers: &HeaderMap, is_wanted: impl Fn(&str) -> bool) -> Value {
    let wanted = headers.iter().filter(|(name, _)| may_be_seen(name.as_str()) && is_wanted(name.as_str()));
    lists(wanted.map(|(name, value)| (name.as_str(), Value::from(&*mask::header(value.as_bytes())))))
}

fn lists<'a>(pairs: impl Iterator<Item = (&'a str, Value)>) -> Value {
    let mut lists: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (name, value) in pairs {
        lists.entry(name).or_default().push(value);
    }
    Value::from(
        lists.into_iter().map(|(name, values)| (Value::from(name), Value::from(values))).collect::<BTreeMap<_, _>>(),
    )
}

/// JSON, at least at the wanted places, which stand in sorted order. Arrays are never cut.
fn project(json: &Json, wanted: &[&[Step]]) -> Value {
    let (Json::Object(map), true) = (json, wanted.iter().all(|steps| matches!(steps.first(), Some(Step::Key(_)))))
    else {
        return from_json(&mask::json(json));
    };
    let mut object = BTreeMap::new();
    for same_key in wanted.chunk_by(|a, b| a[0] == b[0]) {
        let Step::Key(key) = &same_key[0][0] else { continue };
        if let Some(child) = map.get(key) {
            let below: Vec<&[Step]> = same_key.iter().map(|steps| &steps[1..]).collect();
            object.insert(Value::from(key.as_str()), project(child, &below));
        }
    }
    Value::from(object)
}

/// JSON as a value of the engine. Not by way of serde, where an object of a certain name becomes a number.
pub fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(value), _, _) => Value::from(value),
            (None, Some(value), _) => Value::from(value),
            (None, None, Some(value)) => Value::from(value),
            (None, None, None) => Value::Null,
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<_>>()),
        Json::Object(map) => {
            let entries = map.iter().map(|(name, value)| (Value::from(name.as_str()), from_json(value)));
            Value::from(entries.collect::<BTreeMap<_, _>>())
        }
    }
}

/// A value of the engine as JSON: sets as arrays, names that are no strings as their JSON, undefined as null.
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::Null | Value::Undefined => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(value), _, _) => value.into(),
            (None, Some(value), _) => value.into(),
            (None, None, value) => value.and_then(serde_json::Number::from_f64).map_or(Json::Null, Json::Number),
        },
        Value::String(text) => Json::String(text.as_ref().to_owned()),
        Value::Array(items) => items.iter().map(to_json).collect(),
        Value::Set(items) => items.iter().map(to_json).collect(),
        Value::Object(object) => Json::Object(
            object
                .iter_sorted()
                .map(|(name, value)| match name {
                    Value::String(name) => (name.as_ref().to_owned(), to_json(value)),
                    other => (to_json(other).to_string(), to_json(value)),
                })
                .collect(),
        ),
    }
}

/// The parts that nearly every call has its own of.
const CHANGING: &[&str] = &["call", "secrets", "matches"];

/// How many different contents of a part each worker remembers: an agent alternates between a few destinations.
const REMEMBERED: usize = 16;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::tests::Scene, *};
    use crate::policy::reads::ReadSet;

    fn read_set(rules: &str) -> ReadSet {
        let mut engine = regorus::Engine::new();
        engine.add_policy("t.rego".into(), format!("package t\n{rules}\n")).unwrap();
        ReadSet::of_modules(engine.get_modules())
    }

    fn filled(scene: &Scene, rules: &str) -> Json {
        let reads = read_set(rules);
        let mut template = Template::new(reads.reads());
        let input = scene.input();
        to_json(&template.fill(Document { input: &input, matches: &scene.matches }))
    }

    #[test]
    fn only_what_is_read_is_built() {
        let scene = Scene::http();
        for (rules, expected) in [
            ("a := 1", json!({})),
            ("a := input.call.method", json!({"call": {"method": "POST"}})),
            ("a := input.call.query.q", json!({"call": {"query": {"q": ["x", "y"]}}})),
            ("a := input.call.query.none", json!({"call": {"query": {}}})),
            ("a := input.call.headers.accept", json!({"call": {"headers": {"accept": ["text/html", "*/*"]}}})),
            ("a := input.call.segments[2]", json!({"call": {"segments": ["repos", "o", "r", "issues"]}})),
            ("a := input.agent.labels.app", json!({"agent": {"labels": {"app": "triage"}}})),
            ("a := input.call.body.json.labels[1]", json!({"call": {"body": {"json": {"labels": ["a", "b"]}}}})),
            ("a := input.call.body.json.title.x", json!({"call": {"body": {"json": {"title": "t"}}}})),
            (
                "a := [input.call.body.json.deep.x, input.call.body.json.n]",
                json!({"call": {"body": {"json": {"deep": {"x": null}, "n": 1.5}}}}),
            ),
            ("a := input.task.history.calls", json!({})),
            ("a := input.matches", json!({"matches": ["issues"]})),
        ] {
            assert_eq!(filled(&scene, rules), expected, "{rules}");
        }
    }

    #[test]
    fn a_remembered_part_is_given_for_equal_facts_only() {
        let reads = read_set("a := [input.task.purpose, input.destination.name, input.call.path]");
        let mut template = Template::new(reads.reads());
        let mut scene = Scene::http();
        for (purpose, destination, path) in [
            ("triage", "github", "/a"),
            ("triage", "github", "/b"),
            ("other", "github", "/b"),
            ("triage", "gitlab", "/b"),
            ("triage", "github", "/c"),
        ] {
            scene.task.purpose = purpose.into();
            scene.upstream.name = destination.into();
            scene.call.http.path = path.into();
            let value = to_json(&template.fill(Document { input: &scene.input(), matches: &[] }));
            let expected =
                json!({"task": {"purpose": purpose}, "destination": {"name": destination}, "call": {"path": path}});
            assert_eq!(value, expected);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let reads = read_set("a := input.destination.name");
        let mut template = Template::new(reads.reads());
        let mut scene = Scene::http();
        for name in 0..100 {
            scene.upstream.name = format!("d{name}").into();
            template.fill(Document { input: &scene.input(), matches: &[] });
        }
        assert_eq!(template.parts[0].built.as_ref().unwrap().len(), REMEMBERED);
    }

    #[test]
    fn an_object_of_a_certain_name_stays_an_object() {
        let odd = json!({"$serde_json::private::Number": "abc", "x": 1});
        assert_eq!(to_json(&from_json(&odd)), odd);
    }
}
