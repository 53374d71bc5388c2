//! URLs inside of arguments: where a remote tool may be sent on the agent's behalf.

use serde_json::Value;

/// The different `http` and `https` URLs in the strings and keys of a value, in order, 64 at most: policy that must know them
/// all refuses a call with 64. Found as browsers would read them: any case, and a backslash for a slash.
pub fn embedded_urls(value: &Value) -> Vec<String> {
    let mut urls = Vec::new();
    collect(value, &mut urls);
    urls
}

fn collect(value: &Value, urls: &mut Vec<String>) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => collect_from_text(text, urls),
        Value::Array(values) => values.iter().for_each(|value| collect(value, urls)),
        Value::Object(members) => {
            for (key, value) in members {
                collect_from_text(key, urls);
                collect(value, urls);
            }
        }
    }
}

fn collect_from_text(text: &str, urls: &mut Vec<String>) {
    let mut rest = text;
    while urls.len() < MAX_URLS
        && let Some(start) = start_of_url(rest)
    {
        let (url, after) = split_url(&rest[start..]);
        if !urls.iter().any(|known| known == url) {
            urls.push(url.to_owned());
        }
        rest = after;
    }
}

/// Where `http:` or `https:` and a slash of either kind begin.
fn start_of_url(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len()).find(|&at| {
        let Some((scheme, rest)) = bytes[at..].split_at_checked(4) else { return false };
        let rest = if rest.first().is_some_and(|byte| byte.eq_ignore_ascii_case(&b's')) { &rest[1..] } else { rest };
        scheme.eq_ignore_ascii_case(b"http") && matches!(rest, [b':', b'/' | b'\\', ..])
    })
}

/// A URL ends before white space, quotes and angle brackets; a sentence's punctuation after it is not part of it.
fn split_url(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_whitespace() || matches!(c, '"' | '<' | '>' | '`')).unwrap_or(text.len());
    let (url, after) = text.split_at(end);
    (url.trim_end_matches(['.', ',', ';', ':', '!', '?', ')', ']', '}', '\'']), after)
}

const MAX_URLS: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn urls_are_found_in_strings_and_keys() {
        let arguments = json!({
            "url": "https://a.test/x?y=1#z",
            "text": "see (HTTP://B.test/a), <https://c.test>, and \"http://169.254.169.254/latest\". https://a.test/x?y=1#z",
            "nested": [{"http://key.test/": 1}, ["http:\\\\d.test", "https:/e.test", 5, null]],
            "none": ["ftp://f.test", "http:", "https", "xhttp", "mailto:a@b"],
        });
        let mut found = embedded_urls(&arguments);
        found.sort_unstable();
        let expected = [
            "HTTP://B.test/a",
            "http://169.254.169.254/latest",
            "http://key.test/",
            "http:\\\\d.test",
            "https://a.test/x?y=1#z",
            "https://c.test",
            "https:/e.test",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn no_more_than_64_are_kept() {
        let many: Vec<_> = (0..100).map(|n| format!("http://{n}.test")).collect();
        assert_eq!(embedded_urls(&json!(many)).len(), 64);
        assert_eq!(embedded_urls(&json!(many.join(" "))).len(), 64);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\PC|http|s|:|/|\\\\|é){0,30}") {
            let _ = embedded_urls(&Value::String(text));
        }
    }
}
