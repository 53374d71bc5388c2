//! From one document to another as a JSON Patch (RFC 6902).
//!
//! Applied to the first document the patch gives exactly the second. It is short where the change is: objects are
//! compared field by field, lists entry by entry with what was put before, in between or behind.

use serde_json::{Value, json};

/// The operations that turn `from` into `to`; none where they are equal.
pub fn diff(from: &Value, to: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    compare(&mut String::new(), from, to, &mut operations);
    operations
}

fn compare(path: &mut String, from: &Value, to: &Value, operations: &mut Vec<Value>) {
    match (from, to) {
        (Value::Object(before), Value::Object(after)) => {
            for key in before.keys().filter(|key| !after.contains_key(*key)) {
                at(path, &escaped(key), |path| operations.push(json!({"op": "remove", "path": path})));
            }
            for (key, value) in after {
                at(path, &escaped(key), |path| match before.get(key) {
                    Some(old) => compare(path, old, value, operations),
                    None => operations.push(json!({"op": "add", "path": path, "value": value})),
                });
            }
        }
        (Value::Array(before), Value::Array(after)) => compare_lists(path, before, after, operations),
        _ if from == to => {}
        _ => operations.push(json!({"op": "replace", "path": path, "value": to})),
    }
}

fn compare_lists(path: &mut String, before: &[Value], after: &[Value], operations: &mut Vec<Value>) {
    if before.len() == after.len() {
        for (index, (old, new)) in before.iter().zip(after).enumerate() {
            at(path, &index.to_string(), |path| compare(path, old, new, operations));
        }
        return;
    }
    let same_front = before.iter().zip(after).take_while(|(old, new)| old == new).count();
    let shorter = before.len().min(after.len());
    let same_back = before
        .iter()
        .rev()
        .zip(after.iter().rev())
        .take(shorter - same_front)
        .take_while(|(old, new)| old == new)
        .count();
    if same_front + same_back == before.len() {
        for (index, value) in after.iter().enumerate().take(after.len() - same_back).skip(same_front) {
            at(path, &index.to_string(), |path| operations.push(json!({"op": "add", "path": path, "value": value})));
        }
    } else {
        operations.push(json!({"op": "replace", "path": path, "value": after}));
    }
}

/// One step down the path and back.
fn at(path: &mut String, step: &str, then: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push('/');
    path.push_str(step);
    then(path);
    path.truncate(length);
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn applied(from: &Value, to: &Value) -> Value {
        let patch: json_patch::Patch = serde_json::from_value(Value::Array(diff(from, to))).unwrap();
        let mut result = from.clone();
        json_patch::patch(&mut result, &patch).unwrap();
        result
    }

    #[test]
    fn a_change_is_as_long_as_it_is() {
        for (from, to, expected) in [
            (json!({"a": 1}), json!({"a": 1}), json!([])),
            (json!({"a/b~": 1}), json!({}), json!([{"op": "remove", "path": "/a~1b~0"}])),
            (json!([1, 2]), json!([0, 1, 2]), json!([{"op": "add", "path": "/0", "value": 0}])),
            (
                json!({"l": [{"n": 1}, {"n": 2}]}),
                json!({"l": [{"n": 1}, {"n": 3}]}),
                json!([{"op": "replace", "path": "/l/1/n", "value": 3}]),
            ),
            (json!([1]), json!([2, 3]), json!([{"op": "replace", "path": "", "value": [2, 3]}])),
        ] {
            assert_eq!(Value::Array(diff(&from, &to)), expected, "{from} {to}");
            assert_eq!(applied(&from, &to), to);
        }
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..4_i64).prop_map(Value::from)];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[ab/~]{0,2}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_gives_exactly_the_other_document(from in document(), to in document()) {
            prop_assert_eq!(applied(&from, &to), to);
        }
    }
}
