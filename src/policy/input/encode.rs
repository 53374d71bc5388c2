//! The canonical encoding of what a policy reads: the key under which its answer is kept.
//!
//! Each value carries a tag for its type, and whatever has a length carries it in front, so that no two different
//! values have the same bytes and no value's bytes begin another's. Names stand in sorted order. Undefined is a value
//! of its own here.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use http::HeaderMap;
use serde_json::Value as Json;

use super::{Document, field::Leaf};
use crate::{
    call::http::may_be_seen,
    policy::reads::{Read, Step},
    secret::{self, mask},
};

impl Document<'_> {
    /// Everything that an evaluation under these reads can depend on, and the task, whose end bounds every answer.
    pub fn key(self, reads: &[Read]) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        text(&self.input.task.id, &mut out);
        number(self.input.task.epoch, &mut out);
        for read in reads {
            self.encode(read, &mut out);
        }
        out
    }

    /// What one read sees.
    pub fn encode(self, read: &Read, out: &mut Vec<u8>) {
        let leaf = (read.field().leaf)(self);
        match read.steps.as_slice() {
            [] => whole(leaf, out),
            steps => inside(leaf, steps, out),
        }
    }
}

fn whole(leaf: Leaf<'_>, out: &mut Vec<u8>) {
    match leaf {
        Leaf::Undefined => out.push(UNDEFINED),
        Leaf::Null => out.push(NULL),
        Leaf::Bool(value) => out.push(if value { TRUE } else { FALSE }),
        Leaf::U64(value) => number(value, out),
        Leaf::Str(value) => text(value, out),
        Leaf::Time(value) => time(value, out),
        Leaf::Ip(value) => address(value, out),
        Leaf::Said(value) => text(&mask::text(value), out),
        Leaf::Path(value) => text(&secret::redact_path(value), out),
        Leaf::Segments(items) => list(items.iter().map(|item| mask::segment(item)), out),
        Leaf::SaidAll(items) => list(items.iter().map(|item| mask::text(item)), out),
        Leaf::Names(items) => list(items.iter().map(|item| &**item), out),
        Leaf::Texts(entries) => {
            open(OBJECT, entries.len(), out);
            for (name, value) in entries {
                text(name, out);
                text(value, out);
            }
        }
        Leaf::Query(pairs) => query(pairs, out),
        Leaf::Headers(headers) => all_headers(headers, out),
        Leaf::Secrets(found) => {
            open(ARRAY, found.len(), out);
            for secret in found {
                text(secret.kind, out);
                text(&secret.place, out);
            }
        }
        Leaf::Json(value) => json(&mask::json(value), out),
    }
}

fn inside(leaf: Leaf<'_>, steps: &[Step], out: &mut Vec<u8>) {
    match (leaf, steps) {
        (Leaf::Json(value), steps) => match walk(value, steps) {
            Some(value) => json(&mask::json(value), out),
            None => out.push(UNDEFINED),
        },
        (Leaf::Segments(items), [Step::Index(index)]) => {
            maybe_text(items.get(*index).map(|item| mask::segment(item)).as_deref(), out);
        }
        (Leaf::SaidAll(items), [Step::Index(index)]) => {
            maybe_text(items.get(*index).map(|item| mask::text(item)).as_deref(), out);
        }
        (Leaf::Names(items), [Step::Index(index)]) => maybe_text(items.get(*index).map(Arc::as_ref), out),
        (Leaf::Texts(entries), [Step::Key(name)]) => maybe_text(entries.get(name).map(String::as_str), out),
        (Leaf::Query(pairs), [Step::Key(name)]) => {
            let values = pairs.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
            some_list(values, out);
        }
        (Leaf::Headers(headers), [Step::Key(name)]) => {
            let seen = may_be_seen(name).then(|| headers.get_all(name));
            some_list(seen.iter().flatten().map(|value| mask::header(value.as_bytes())), out);
        }
        // Whatever can't be narrowed stands whole: a longer key is never a wrong one.
        (leaf, _) => whole(leaf, out),
    }
}

/// The place that steps lead to, if there is one.
fn walk<'a>(json: &'a Json, steps: &[Step]) -> Option<&'a Json> {
    steps.iter().try_fold(json, |json, step| match step {
        Step::Key(key) => json.as_object()?.get(key),
        Step::Index(index) => json.as_array()?.get(*index),
    })
}

fn json(value: &Json, out: &mut Vec<u8>) {
    match value {
        Json::Null => out.push(NULL),
        Json::Bool(value) => out.push(if *value { TRUE } else { FALSE }),
        Json::Number(value) => match value.as_u64() {
            Some(value) => number(value, out),
            None => {
                out.push(NUMBER_TEXT);
                bytes(value.to_string().as_bytes(), out);
            }
        },
        Json::String(value) => text(value, out),
        Json::Array(items) => {
            open(ARRAY, items.len(), out);
            items.iter().for_each(|item| json(item, out));
        }
        Json::Object(map) => {
            open(OBJECT, map.len(), out);
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(name, _)| *name);
            for (name, value) in entries {
                text(name, out);
                json(value, out);
            }
        }
    }
}

/// In the order of the names, and for one name in the order of the request: as the document shows it.
fn query(pairs: &[(String, String)], out: &mut Vec<u8>) {
    open(OBJECT, pairs.len(), out);
    let mut pairs: Vec<_> = pairs.iter().collect();
    pairs.sort_by_key(|(name, _)| name);
    for (name, value) in pairs {
        text(name, out);
        text(value, out);
    }
}

fn all_headers(headers: &HeaderMap, out: &mut Vec<u8>) {
    let mut fields: Vec<_> = headers.iter().filter(|(name, _)| may_be_seen(name.as_str())).collect();
    open(OBJECT, fields.len(), out);
    fields.sort_by_key(|(name, _)| name.as_str());
    for (name, value) in fields {
        text(name.as_str(), out);
        text(&mask::header(value.as_bytes()), out);
    }
}

fn list<T: AsRef<str>>(items: impl ExactSizeIterator<Item = T>, out: &mut Vec<u8>) {
    open(ARRAY, items.len(), out);
    items.for_each(|item| text(item.as_ref(), out));
}

/// A list that is absent when it has no items.
fn some_list<T: AsRef<str>>(items: impl Iterator<Item = T>, out: &mut Vec<u8>) {
    let start = out.len();
    let mut count = 0;
    open(ARRAY, count, out);
    for item in items {
        count += 1;
        text(item.as_ref(), out);
    }
    if count == 0 {
        out.truncate(start);
        out.push(UNDEFINED);
    } else {
        out[start + 1..start + 9].copy_from_slice(&(count as u64).to_le_bytes());
    }
}

fn maybe_text(value: Option<&str>, out: &mut Vec<u8>) {
    match value {
        Some(value) => text(value, out),
        None => out.push(UNDEFINED),
    }
}

fn text(value: &str, out: &mut Vec<u8>) {
    out.push(TEXT);
    bytes(value.as_bytes(), out);
}

fn number(value: u64, out: &mut Vec<u8>) {
    out.push(NUMBER);
    out.extend_from_slice(&value.to_le_bytes());
}

fn time(value: SystemTime, out: &mut Vec<u8>) {
    let (tag, distance) = match value.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => (TIME, since),
        Err(before) => (TIME_BEFORE_EPOCH, before.duration()),
    };
    out.push(tag);
    out.extend_from_slice(&distance.as_nanos().to_le_bytes());
}

fn address(value: IpAddr, out: &mut Vec<u8>) {
    match value {
        IpAddr::V4(value) => {
            out.push(IPV4);
            out.extend_from_slice(&value.octets());
        }
        IpAddr::V6(value) => {
            out.push(IPV6);
            out.extend_from_slice(&value.octets());
        }
    }
}

fn open(tag: u8, count: usize, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&(count as u64).to_le_bytes());
}

fn bytes(value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value);
}

const UNDEFINED: u8 = 0;
const NULL: u8 = 1;
const FALSE: u8 = 2;
const TRUE: u8 = 3;
const NUMBER: u8 = 4;
const NUMBER_TEXT: u8 = 5;
const TEXT: u8 = 6;
const ARRAY: u8 = 7;
const OBJECT: u8 = 8;
const TIME: u8 = 9;
const TIME_BEFORE_EPOCH: u8 = 10;
const IPV4: u8 = 11;
const IPV6: u8 = 12;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::{super::tests::Scene, *};
    use crate::policy::reads::ReadSet;

    fn encoded(value: &Json) -> Vec<u8> {
        let mut out = Vec::new();
        json(value, &mut out);
        out
    }

    #[test]
    fn different_values_have_different_bytes() {
        let values = [
            json!(null),
            json!(false),
            json!(true),
            json!(0),
            json!(1),
            json!(-1),
            json!(1.5),
            json!(""),
            json!("0"),
            json!("null"),
            json!([]),
            json!({}),
            json!([[]]),
            json!([null]),
            json!([""]),
            json!(["a", "b"]),
            json!(["ab"]),
            json!(["a", ["b"]]),
            json!({"a": "b"}),
            json!({"a": ["b"]}),
            json!({"ab": ""}),
            json!({"": "ab"}),
            json!({"$serde_json::private::Number": "1"}),
        ];
        let all: HashSet<Vec<u8>> = values.iter().map(encoded).collect();
        assert_eq!(all.len(), values.len());
        for a in &all {
            assert!(all.iter().all(|b| a == b || !b.starts_with(a)), "one encoding begins another");
        }
    }

    #[test]
    fn the_order_of_names_does_not_matter() {
        let one: Json = serde_json::from_str(r#"{"a": 1, "b": {"c": 2, "d": 3}}"#).unwrap();
        let other: Json = serde_json::from_str(r#"{"b": {"d": 3, "c": 2}, "a": 1}"#).unwrap();
        assert_eq!(encoded(&one), encoded(&other));

        let reads = ReadSet::everything();
        let mut scene = Scene::http();
        let before = scene.key(&reads);
        scene.call.http.query.swap(0, 1);
        assert_eq!(scene.key(&reads), before, "parameters of different names in another order");
        scene.call.http.query.swap(1, 2);
        assert_ne!(scene.key(&reads), before, "parameters of one name in another order");
    }

    #[test]
    fn the_task_and_its_epoch_are_part_of_every_key() {
        let reads = ReadSet::of_modules(&[]);
        let mut scene = Scene::http();
        let before = scene.key(&reads);
        scene.task.epoch += 1;
        assert_ne!(scene.key(&reads), before);
        scene.task.epoch -= 1;
        scene.task.id = "task-2".into();
        assert_ne!(scene.key(&reads), before);
    }

    #[test]
    fn an_absent_parameter_differs_from_an_empty_one() {
        let read = |name: &str| {
            let index = crate::policy::input::field::FIELDS.iter().position(|field| field.path == "call.query");
            Read { index: index.unwrap(), steps: vec![Step::Key(name.to_owned())] }
        };
        let mut scene = Scene::http();
        let absent = [read("missing")];
        let before = Document { input: &scene.input(), matches: &[] }.key(&absent);
        scene.call.http.query.push(("missing".into(), String::new()));
        assert_ne!(Document { input: &scene.input(), matches: &[] }.key(&absent), before);
    }
}
