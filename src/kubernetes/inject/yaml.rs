//! YAML as Kubernetes reads and writes it.
//!
//! Kubernetes' own reader follows YAML 1.1, where `yes` is true and `0644` is octal, so what is read here is read
//! alike, and what is written is quoted so that readers of either version see the same.

use serde_json::Value;
use serde_saphyr::{MessageFormatter, UserMessageFormatter};

/// Splits a text into its documents, each with the `---` that it begins with. Joined, they are the text again.
///
/// A line that begins with `---` begins a document wherever it stands: YAML has no other meaning for it.
pub fn split(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut begin, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        if is_marker(line) && at > begin {
            documents.push(&text[begin..at]);
            begin = at;
        }
        at += line.len();
    }
    if begin < text.len() {
        documents.push(&text[begin..]);
    }
    documents
}

/// Whether a document holds nothing: comments, blank lines, markers and directives.
pub fn is_empty(document: &str) -> bool {
    document.lines().all(|line| {
        let line = if is_marker(line) { &line[3..] } else { line };
        let line = line.trim_start();
        line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "..."
    })
}

/// Reads one document, JSON or YAML.
///
/// # Errors
/// Why it can't be read.
pub fn read(document: &str) -> Result<Value, String> {
    if is_json(document) {
        return serde_json::from_str(document).map_err(|error| format!("not valid JSON: {error}"));
    }
    serde_saphyr::from_str_with_options(document, reading()).map_err(|error| {
        let line = error.location().map(|location| format!(" in its line {}", location.line())).unwrap_or_default();
        format!("not valid YAML{line}: {}", UserMessageFormatter.format_message(error.without_snippet()))
    })
}

/// Writes one document in the notation of `like`, with the `---` that it began with.
pub fn write(value: &Value, like: &str) -> String {
    if is_json(like) {
        let text = serde_json::to_string_pretty(value).expect("a JSON value always serializes");
        return format!("{text}\n");
    }
    let marker = if like.lines().next().is_some_and(is_marker) { "---\n" } else { "" };
    let text = serde_saphyr::to_string_with_options(value, writing()).expect("a JSON value has a form in YAML");
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{marker}{text}{end}")
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

fn is_json(document: &str) -> bool {
    document.trim_start().starts_with('{')
}

fn reading() -> serde_saphyr::Options {
    serde_saphyr::options! {
        legacy_octal_numbers: true,
        strict_booleans: false,
        with_snippet: false,
    }
}

fn writing() -> serde_saphyr::SerializerOptions {
    serde_saphyr::ser_options! {
        // Texts of several lines stay readable; long ones stay on their line.
        prefer_block_scalars: true,
        folded_wrap_chars: 1 << 20,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_split_where_yaml_splits_them() {
        let text = "a: |\n  ---\n  x\n---\nb: 1\n--- # two\nc: 1\n----\n---\n";
        assert_eq!(split(text), ["a: |\n  ---\n  x\n", "---\nb: 1\n", "--- # two\nc: 1\n----\n", "---\n"]);
        assert_eq!(split(""), [""; 0]);
        assert_eq!(split("---\na: 1"), ["---\na: 1"]);
        for (document, empty) in
            [("---\n# x\n\n", true), ("--- {}\n", false), ("", true), ("%YAML 1.2\n", true), ("a:", false)]
        {
            assert_eq!(is_empty(document), empty, "{document:?}");
        }
    }

    #[test]
    fn it_is_read_as_kubernetes_reads_it() {
        let text = "mode: 0644\non: yes\nname: \"yes\"\nport: 8080\nversion: \"1.10\"\nempty:\nx: &x {a: [1]}\ny: *x\nz: {<<: *x, b: 2}\n";
        assert_eq!(
            read(text).unwrap(),
            json!({"mode": 420, "on": true, "name": "yes", "port": 8080, "version": "1.10", "empty": null,
                   "x": {"a": [1]}, "y": {"a": [1]}, "z": {"a": [1], "b": 2}})
        );
        assert_eq!(read(" {\"a\": 1}").unwrap(), json!({"a": 1}));
    }

    #[test]
    fn what_is_no_document_is_said_with_its_line() {
        for (text, expected) in
            [("a: [1\n", "not valid YAML"), ("a: 1\na: 2\n", "line 2"), ("{\"a\": }", "not valid JSON")]
        {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_is_written_is_read_alike() {
        let texts = [
            "yes",
            "no",
            "on",
            "y",
            "null",
            "~",
            "0644",
            "1e3",
            "1_000",
            "0x1F",
            "12:30",
            "2026-01-01",
            "",
            " x ",
            "a: b",
            "- x",
            "#x",
            "x #y",
            "multi\nline\n",
            "no end\nof line",
            "  indented\nfirst",
            "tab\tbed",
            "quote\"'",
            "@x",
            "&x",
            "*x",
            "%x",
            "{x",
            "[x",
            "=",
            "<<",
            "\u{7f}",
            "trailing\n\n",
            "a very long text ".repeat(40).as_str(),
        ]
        .map(str::to_owned)
        .to_vec();
        let value = json!({"texts": texts, "numbers": [0, -1, 1.5, 9_007_199_254_740_993_u64], "nothing": null,
                           "empty": [{}, []], "yes": true, "1": "key"});
        let text = write(&value, "---\n");
        assert!(text.starts_with("---\n"), "{text}");
        assert_eq!(read(&text).unwrap(), value, "{text}");
        assert_eq!(read(&write(&value, "{}")).unwrap(), value);
    }
}
