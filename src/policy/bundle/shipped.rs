//! The library that ships, and what of it stands beside policies of one's own.

use std::collections::HashSet;

use regorus::{
    Source,
    unstable::{Lexer, Token, TokenKind},
};

/// The given modules and those shipped ones whose package none of them declares: whoever declares `package tollgate`
/// replaces the shipped decision, and a copy of the library takes the place of the original.
pub(super) fn beside(mut modules: Vec<(String, String)>) -> Vec<(String, String)> {
    let declared: HashSet<_> = modules.iter().filter_map(|(_, text)| package(text)).collect();
    for (name, text) in SHIPPED {
        if !package(text).is_some_and(|package| declared.contains(&package)) {
            modules.push((name.to_owned(), text.to_owned()));
        }
    }
    modules
}

/// The package that a module declares, in parts. `None` when its first words are not a package declaration; such a
/// text does not parse later.
pub fn package(text: &str) -> Option<Vec<String>> {
    let source = Source::from_contents(String::new(), text.to_owned()).ok()?;
    let mut lexer = Lexer::new(&source);
    let mut next = || lexer.next_token().ok();
    if next()?.1.text() != "package" {
        return None;
    }
    let mut parts = vec![next()?.1.text().to_owned()];
    loop {
        let Token(_, span) = next()?;
        match span.text() {
            "." => parts.push(next()?.1.text().to_owned()),
            "[" => {
                let Token(kind, span) = next()?;
                if kind != TokenKind::String || next()?.1.text() != "]" {
                    return None;
                }
                parts.push(span.text().to_owned());
            }
            _ => return Some(parts),
        }
    }
}

const SHIPPED: [(&str, &str); 5] = [
    ("tollgate:decision.rego", include_str!("../../../policy/decision.rego")),
    ("tollgate:lib/answer.rego", include_str!("../../../policy/lib/answer.rego")),
    ("tollgate:lib/classification.rego", include_str!("../../../policy/lib/classification.rego")),
    ("tollgate:lib/effect.rego", include_str!("../../../policy/lib/effect.rego")),
    ("tollgate:standard.rego", include_str!("../../../policy/standard.rego")),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::input::field::FIELDS;

    #[test]
    fn packages_are_read_as_they_are_written() {
        for (text, expected) in [
            ("package a", Some(vec!["a"])),
            ("# package b\n\npackage  a.b # c\nx := 1", Some(vec!["a", "b"])),
            ("package a[\"b-c\"].d\n", Some(vec!["a", "b-c", "d"])),
            ("import a\npackage b", None),
            ("", None),
        ] {
            let expected = expected.map(|parts| parts.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(package(text), expected, "{text}");
        }
    }

    #[test]
    fn the_shipped_modules_declare_the_packages_of_their_files() {
        for (name, text) in SHIPPED {
            let package = package(text).expect(name);
            assert_eq!(package[0], "tollgate", "{name}");
        }
    }

    #[test]
    fn the_schema_of_the_input_has_exactly_the_fields_that_policy_sees() {
        let schema: serde_json::Value = serde_json::from_str(INPUT_SCHEMA).unwrap();
        let mut described = Vec::new();
        leaves(&schema, "", &mut described);
        let mut seen: Vec<_> = FIELDS.iter().map(|field| field.path.to_owned()).collect();
        described.sort();
        seen.sort();
        assert_eq!(described, seen);
    }

    /// The paths of what has no named properties of its own.
    fn leaves(schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        match schema.get("properties").and_then(serde_json::Value::as_object) {
            None => found.push(path.to_owned()),
            Some(properties) => properties.iter().for_each(|(name, inner)| {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(inner, &path, found);
            }),
        }
    }

    const INPUT_SCHEMA: &str = include_str!("../../../policy/schema/input.schema.json");
}
