//! What injection changes in a manifest, in few words: what stands in a pod that is kept whole is named and not repeated.

use serde_json::{Value, json};
use tollgate::kubernetes::inject::{patch, yaml};

/// Entries of lists that need only be named, each with the manifest that it stands in.
pub struct Brief(Vec<(String, Value)>);

/// What has names of its own.
#[derive(PartialEq, Eq)]
enum Kind {
    Container,
    Mount,
    Variable,
    Other,
}

impl Brief {
    /// Those of these pods.
    pub fn of(pods: impl Iterator<Item = (String, Value)>) -> Self {
        let mut known = Vec::new();
        pods.for_each(|(manifest, pod)| collect(&pod["spec"], &manifest, &mut known));
        Self(known)
    }

    /// What became of each document, by the operations of the JSON Patch.
    pub fn changes(&self, before: &str, after: &str) -> String {
        let mut text = String::new();
        let (before, after) = (yaml::split(before), yaml::split(after));
        assert_eq!(before.len(), after.len());
        for (number, (before, after)) in (1..).zip(before.into_iter().zip(after)) {
            if before == after {
                text += &format!("document {number} passes as it was written\n");
                continue;
            }
            text += &format!("document {number}\n");
            let read = |document| yaml::read(document).expect("a document");
            self.operations(&mut text, "  ", &patch::diff(&read(before), &read(after)));
        }
        text
    }

    fn operations(&self, text: &mut String, indent: &str, operations: &[Value]) {
        let deeper = format!("{indent}  ");
        for operation in operations {
            let part = |key: &str| operation[key].as_str().unwrap_or_default();
            *text += &format!("{indent}{} {}", part("op"), part("path"));
            match operation.get("value") {
                None => text.push('\n'),
                Some(Value::Array(items)) if items.iter().any(Value::is_object) => {
                    text.push('\n');
                    self.items(text, &deeper, items);
                }
                Some(value) => self.item(text, " ", &deeper, value),
            }
        }
    }

    /// Each on its line, but for neighbours that are known.
    fn items(&self, text: &mut String, indent: &str, items: &[Value]) {
        for group in items.chunk_by(|one, next| self.label(one).is_some() && self.label(next).is_some()) {
            let labels: Vec<String> = group.iter().filter_map(|one| self.label(one)).collect();
            if labels.is_empty() {
                self.item(text, indent, &format!("{indent}  "), &group[0]);
            } else {
                *text += &format!("{indent}= {}\n", labels.join(", "));
            }
        }
    }

    /// A container of ours that is almost known is told by what differs.
    fn item(&self, text: &mut String, indent: &str, below: &str, value: &Value) {
        let is_ours = |one: &Value| kind(one) == Kind::Container && name(one).starts_with("tollgate");
        let alike = self.0.iter().filter(|(_, known)| is_ours(value) && is_ours(known) && name(known) == name(value));
        let differences = alike.map(|(manifest, known)| (manifest, patch::diff(known, value)));
        match differences.min_by_key(|(_, operations)| json!(operations).to_string().len()) {
            Some((manifest, least)) if !least.is_empty() => {
                *text += &format!("{indent}= {} of {manifest}, but\n", name(value));
                self.operations(text, below, &least);
            }
            Some(_) | None => match self.label(value) {
                Some(label) => *text += &format!("{indent}= {label}\n"),
                None => *text += &format!("{indent}{}\n", self.short(value)),
            },
        }
    }

    fn short(&self, value: &Value) -> Value {
        if let Some(label) = self.label(value) {
            return json!(format!("= {label}"));
        }
        match value {
            Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), self.short(value))).collect(),
            Value::Array(items) => items.iter().map(|item| self.short(item)).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        }
    }

    /// How an entry that is known is called. `None`: it isn't, or its name means different things in different places.
    fn label(&self, value: &Value) -> Option<String> {
        let (manifest, _) = self.0.iter().find(|(_, known)| known == value)?;
        let namesakes = self.0.iter().filter(|(_, known)| name(known) == name(value) && kind(known) == kind(value));
        match (kind(value), namesakes.count()) {
            (_, 1) => Some(name(value).to_owned()),
            (Kind::Container, _) => Some(format!("{} of {manifest}", name(value))),
            (Kind::Mount | Kind::Variable | Kind::Other, _) => None,
        }
    }
}

/// Every entry with a name, at every depth.
fn collect(value: &Value, manifest: &str, known: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => fields.values().for_each(|value| collect(value, manifest, known)),
        Value::Array(items) => {
            for item in items {
                if item["name"].is_string() && !known.iter().any(|(_, earlier)| earlier == item) {
                    known.push((manifest.to_owned(), item.clone()));
                }
                collect(item, manifest, known);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

fn kind(value: &Value) -> Kind {
    let has = |key: &str| value.get(key).is_some();
    if has("image") {
        Kind::Container
    } else if has("mountPath") {
        Kind::Mount
    } else if has("value") || has("valueFrom") {
        Kind::Variable
    } else {
        Kind::Other
    }
}
