//! Reads the entries of the allow-list from data. What is not understood is a problem with its place, never ignored.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Map, Value};

use super::pattern;
use crate::call::Effect;

/// One entry. What is `None` is not asked for.
#[derive(Debug)]
pub(super) struct Entry {
    /// What policy and records call it.
    pub id: Arc<str>,
    /// HTTP methods.
    pub methods: Option<Vec<String>>,
    /// Patterns of canonical paths.
    pub paths: Option<Vec<String>>,
    /// Effects, as they stand in policy input.
    pub effects: Option<Vec<String>>,
    /// Patterns of MCP tools.
    pub tools: Option<Vec<String>>,
}

impl Entry {
    pub(super) fn permits_method(&self, method: &str) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.iter().any(|permitted| permitted == method))
    }

    pub(super) fn permits_effect(&self, effect: &str) -> bool {
        self.effects.as_ref().is_none_or(|effects| effects.iter().any(|permitted| permitted == effect))
    }

    /// Whether the entry permits what is done without being seen: it says so, or bounds nothing that is done.
    pub(super) fn permits_anything_done(&self) -> bool {
        match &self.effects {
            Some(_) => self.permits_effect(Effect::Admin.as_str()),
            None => self.methods.is_none(),
        }
    }

    pub(super) fn asks_for_nothing(&self) -> bool {
        self.methods.is_none() && self.paths.is_none() && self.effects.is_none() && self.tools.is_none()
    }
}

/// All entries with the names of their destinations. Settings of the shipped policy that stand beside the list are
/// checked too.
pub(super) fn read_all(data: &Value, problems: &mut Vec<String>) -> Vec<(String, Entry)> {
    let Some(settings) = data.get("tollgate") else { return Vec::new() };
    let Some(settings) = settings.as_object() else {
        problems.push("data.tollgate: expected an object".to_owned());
        return Vec::new();
    };
    for (name, value) in settings {
        match name.as_str() {
            "allow" => {}
            "require_task" if value.is_boolean() => {}
            "require_task" => problems.push("data.tollgate.require_task: expected true or false".to_owned()),
            _ => problems.push(format!(
                "data.tollgate.{name}: unknown setting; hint: there are allow and require_task, data of your own has its \
                 place outside of data.tollgate"
            )),
        }
    }
    match settings.get("allow") {
        None => Vec::new(),
        Some(Value::Array(entries)) => read_entries(entries, problems),
        Some(_) => {
            problems.push("data.tollgate.allow: expected a list of entries".to_owned());
            Vec::new()
        }
    }
}

fn read_entries(entries: &[Value], problems: &mut Vec<String>) -> Vec<(String, Entry)> {
    let mut ids = HashSet::new();
    let mut read = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let place = format!("data.tollgate.allow[{index}]");
        let Some(fields) = entry.as_object() else {
            problems.push(format!("{place}: expected an object"));
            continue;
        };
        let known = problems.len();
        let entry = read_entry(fields, &place, problems);
        if let Some((_, entry)) = &entry
            && !ids.insert(Arc::clone(&entry.id))
        {
            problems.push(format!("{place}.id: {:?} is taken by an entry before", entry.id));
        }
        if problems.len() == known {
            read.extend(entry);
        }
    }
    read
}

fn read_entry(fields: &Map<String, Value>, place: &str, problems: &mut Vec<String>) -> Option<(String, Entry)> {
    for name in fields.keys().filter(|name| !FIELDS.contains(&name.as_str())) {
        problems.push(format!("{place}.{name}: unknown field; hint: there are {}", FIELDS.join(", ")));
    }
    let id = text(fields, "id", place, problems);
    let destination = text(fields, "destination", place, problems);
    let methods = texts(fields, "methods", place, problems, check_method);
    let paths = texts(fields, "paths", place, problems, pattern::check_path);
    let effects = texts(fields, "effects", place, problems, check_effect);
    let tools = texts(fields, "tools", place, problems, pattern::check_tool);
    Some((destination?, Entry { id: id?.into(), methods, paths, effects, tools }))
}

fn text(fields: &Map<String, Value>, name: &str, place: &str, problems: &mut Vec<String>) -> Option<String> {
    match fields.get(name) {
        Some(Value::String(text)) if !text.is_empty() && text.len() <= MAX_NAME => return Some(text.clone()),
        Some(_) => problems.push(format!("{place}.{name}: expected a text of 1 to {MAX_NAME} bytes")),
        None => problems.push(format!("{place}.{name}: missing")),
    }
    None
}

fn texts(
    fields: &Map<String, Value>,
    name: &str,
    place: &str,
    problems: &mut Vec<String>,
    check: fn(&str) -> Result<(), &'static str>,
) -> Option<Vec<String>> {
    let Value::Array(items) = fields.get(name)? else {
        problems.push(format!("{place}.{name}: expected a list of texts"));
        return None;
    };
    if items.is_empty() {
        problems.push(format!("{place}.{name}: permits nothing; hint: leave it out to permit all"));
    }
    let mut read = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match item.as_str().map(|text| (text, check(text))) {
            Some((text, Ok(()))) => read.push(text.to_owned()),
            Some((text, Err(why))) => problems.push(format!("{place}.{name}[{index}]: {text:?}: {why}")),
            None => problems.push(format!("{place}.{name}[{index}]: expected a text")),
        }
    }
    Some(read)
}

fn check_method(method: &str) -> Result<(), &'static str> {
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
        return Err("not a method; hint: methods are written in capitals, like GET");
    }
    Ok(())
}

fn check_effect(effect: &str) -> Result<(), &'static str> {
    match effect {
        "read" | "write" | "destructive" | "admin" => Ok(()),
        _ => Err("not an effect; hint: there are read, write, destructive and admin"),
    }
}

const FIELDS: [&str; 6] = ["id", "destination", "methods", "paths", "effects", "tools"];
const MAX_NAME: usize = 512;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_understood_is_refused_with_its_place() {
        for (settings, expected) in [
            (json!([]), "data.tollgate: expected an object"),
            (json!({"alow": []}), "data.tollgate.alow: unknown setting"),
            (json!({"require_task": "true"}), "data.tollgate.require_task: expected true or false"),
            (json!({"allow": {}}), "data.tollgate.allow: expected a list"),
            (json!({"allow": ["github"]}), "data.tollgate.allow[0]: expected an object"),
            (json!({"allow": [{"destination": "d"}]}), "data.tollgate.allow[0].id: missing"),
            (json!({"allow": [{"id": "a"}]}), "data.tollgate.allow[0].destination: missing"),
            (json!({"allow": [{"id": "", "destination": "d"}]}), "data.tollgate.allow[0].id: expected a text"),
            (json!({"allow": [{"id": "a", "destination": 1}]}), "data.tollgate.allow[0].destination: expected a text"),
            (json!({"allow": [{"id": "a", "destination": "d", "method": ["GET"]}]}), "allow[0].method: unknown field"),
            (
                json!({"allow": [{"id": "a", "destination": "d", "methods": "GET"}]}),
                "allow[0].methods: expected a list",
            ),
            (json!({"allow": [{"id": "a", "destination": "d", "methods": []}]}), "allow[0].methods: permits nothing"),
            (
                json!({"allow": [{"id": "a", "destination": "d", "methods": [1]}]}),
                "allow[0].methods[0]: expected a text",
            ),
            (json!({"allow": [{"id": "a", "destination": "d", "methods": ["get"]}]}), "in capitals"),
            (json!({"allow": [{"id": "a", "destination": "d", "effects": ["delete"]}]}), "not an effect"),
            (json!({"allow": [{"id": "a", "destination": "d", "paths": ["v1"]}]}), "begins with /"),
            (json!({"allow": [{"id": "a", "destination": "d", "paths": ["/v1**"]}]}), "whole segments"),
            (json!({"allow": [{"id": "a", "destination": "d", "paths": ["/v1?x=1"]}]}), "without its query"),
            (json!({"allow": [{"id": "a", "destination": "d", "paths": ["/ä"]}]}), "percent-encoded"),
            (json!({"allow": [{"id": "a", "destination": "d", "tools": [""]}]}), "allow[0].tools[0]"),
            (
                json!({"allow": [{"id": "a", "destination": "d"}, {"id": "a", "destination": "e"}]}),
                "data.tollgate.allow[1].id: \"a\" is taken",
            ),
        ] {
            let mut problems = Vec::new();
            read_all(&json!({"tollgate": settings}), &mut problems);
            assert_eq!(problems.len(), 1, "{settings}: {problems:?}");
            assert!(problems[0].contains(expected), "{settings}: {problems:?}");
        }
    }

    #[test]
    fn every_problem_is_reported() {
        let mut problems = Vec::new();
        let allow = json!([{"id": 1, "paths": ["x", "y"]}, {"id": "b", "destination": "d", "tool": []}]);
        read_all(&json!({"tollgate": {"allow": allow, "extra": 1}}), &mut problems);
        assert_eq!(problems.len(), 6, "{problems:?}");
    }
}
