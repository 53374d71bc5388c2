//! Shows policy what the agent says, without the secrets of a known format in it.
//!
//! Only a secret's own characters become `REDACTED`: if it took the whole text with it, an agent could put a secret beside
//! what a rule looks for, and the rule would no longer see it.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value};

use super::detect;

/// A text without its secrets; borrowed where it has none.
pub fn text(text: &str) -> Cow<'_, str> {
    if detect::find(text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let mut masked = String::with_capacity(text.len());
    let mut end = 0;
    for place in detect::places(text.as_bytes()) {
        masked.push_str(&text[end..place.start]);
        masked.push_str(REDACTED);
        end = place.end;
    }
    masked.push_str(&text[end..]);
    Cow::Owned(masked)
}

/// A decoded segment of a path without its secrets.
pub fn segment(segment: &str) -> Cow<'_, str> {
    if detect::is_telegram_segment(segment.as_bytes()) { Cow::Borrowed(REDACTED) } else { text(segment) }
}

/// A percent-encoded segment of a path without its secrets.
pub fn encoded_segment(encoded: &str) -> Cow<'_, str> {
    let decoded = percent_decode_str(encoded).decode_utf8_lossy();
    match segment(&decoded) {
        masked if masked == decoded => Cow::Borrowed(encoded),
        masked => Cow::Owned(utf8_percent_encode(&masked, ESCAPED).to_string()),
    }
}

/// A header's value without its secrets. Bytes that are no UTF-8 are replaced, so that such a value is seen and not passed
/// over. What MCP's headers carry in Base64 is looked into.
pub fn header(value: &[u8]) -> Cow<'_, str> {
    let encoded = value.strip_prefix(b"=?base64?").and_then(|rest| rest.strip_suffix(b"?="));
    let decoded = encoded.and_then(|encoded| BASE64_STANDARD.decode(encoded).ok());
    if decoded.is_some_and(|decoded| detect::find(&decoded).is_some()) {
        return Cow::Borrowed(REDACTED);
    }
    match String::from_utf8_lossy(value) {
        Cow::Borrowed(value) => text(value),
        Cow::Owned(value) => Cow::Owned(text(&value).into_owned()),
    }
}

/// JSON without the secrets in its strings and names; borrowed where it has none.
pub fn json(json: &Value) -> Cow<'_, Value> {
    if holds_secret(json) { Cow::Owned(masked(json)) } else { Cow::Borrowed(json) }
}

fn holds_secret(json: &Value) -> bool {
    let is_secret = |text: &String| detect::find(text.as_bytes()).is_some();
    match json {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => is_secret(text),
        Value::Array(items) => items.iter().any(holds_secret),
        Value::Object(members) => members.iter().any(|(name, value)| is_secret(name) || holds_secret(value)),
    }
}

fn masked(json: &Value) -> Value {
    match json {
        Value::Null | Value::Bool(_) | Value::Number(_) => json.clone(),
        Value::String(string) => Value::String(text(string).into_owned()),
        Value::Array(items) => items.iter().map(masked).collect(),
        Value::Object(members) => Value::Object(masked_members(members)),
    }
}

/// Names that look the same once they are masked are numbered, so that no member hides another.
fn masked_members(members: &Map<String, Value>) -> Map<String, Value> {
    let mut shown = Map::new();
    let mut number = 1;
    for (name, value) in members {
        let plain = text(name);
        let mut name = plain.clone().into_owned();
        while shown.contains_key(&name) {
            number += 1;
            name = format!("{plain} {number}");
        }
        shown.insert(name, masked(value));
    }
    shown
}

/// What stands in a secret's place.
pub const REDACTED: &str = "REDACTED";

/// What a segment has only escaped (RFC 3986, section 3.3).
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pat(fill: &str) -> String {
        format!("ghp_{}", fill.repeat(36))
    }

    #[test]
    fn a_secret_goes_and_what_stands_beside_it_stays() {
        let (one, other) = (pat("a"), pat("b"));
        for (said, shown) in [
            (String::new(), ""),
            ("plain words".into(), "plain words"),
            (one.clone(), "REDACTED"),
            (format!("DROP TABLE users -- {one}"), "DROP TABLE users -- REDACTED"),
            (format!("http://169.254.169.254/?a={one}&b={other}#ä"), "http://169.254.169.254/?a=REDACTED&b=REDACTED#ä"),
        ] {
            assert_eq!(text(&said), shown);
            assert_eq!(header(said.as_bytes()), shown);
        }
        assert!(matches!(text("plain words"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_private_key_goes_line_by_line() {
        let (line, last) = ("aB3+/".repeat(12), format!("{}==", "aB3".repeat(7)));
        let said = format!("rm -rf / -----BEGIN PRIVATE KEY-----\n{line}\n{last}\n-----END PRIVATE KEY-----\nthen go");
        let shown = "rm -rf / -----BEGIN PRIVATE KEY-----\nREDACTED\nREDACTED\n-----END PRIVATE KEY-----\nthen go";
        assert_eq!(text(&said), shown);
    }

    #[test]
    fn segments_are_shown_as_they_are_written_elsewhere() {
        let pat = pat("a");
        let bot = format!("bot123456789:{}", "aB3-_".repeat(7));
        for (encoded, shown) in [
            ("a%20b".to_owned(), "a%20b"),
            (pat.clone(), "REDACTED"),
            (format!("admin;%20{pat}"), "admin;%20REDACTED"),
            (pat.replace('_', "%5F"), "REDACTED"),
            (bot.clone(), "REDACTED"),
            (bot.replace(':', "%3A"), "REDACTED"),
        ] {
            assert_eq!(encoded_segment(&encoded), shown, "{encoded}");
        }
        assert_eq!(segment(&bot), "REDACTED");
        assert_eq!(segment(&format!("admin; {pat}")), "admin; REDACTED");
    }

    #[test]
    fn a_header_is_looked_into_where_mcp_encodes_it() {
        let hidden = |said: &str| format!("=?base64?{}?=", BASE64_STANDARD.encode(said));
        assert_eq!(header(hidden(&pat("a")).as_bytes()), "REDACTED");
        assert_eq!(header(hidden("plain").as_bytes()), hidden("plain"));
        assert_eq!(header(b"=?base64?!?="), "=?base64?!?=");
        assert_eq!(header(&[b"\xff ", pat("a").as_bytes()].concat()), "\u{fffd} REDACTED");
    }

    #[test]
    fn json_is_copied_only_where_it_holds_a_secret() {
        let plain = json!({"a": [1, null, true, "b"], "c": {"d": "e"}});
        assert!(matches!(json(&plain), Cow::Borrowed(same) if *same == plain));
        let (one, other) = (pat("a"), pat("b"));
        let said = json!({"a": [format!("x {one}"), 1], &one: {&other: 2}, "c": "d"});
        assert_eq!(*json(&said), json!({"a": ["x REDACTED", 1], "REDACTED": {"REDACTED": 2}, "c": "d"}));
    }

    #[test]
    fn no_member_hides_another_behind_its_masked_name() {
        let said = json!({"REDACTED": 1, "REDACTED 2": 2, pat("a"): 3, pat("b"): 4});
        let shown = json(&said).into_owned();
        let mut values: Vec<_> = shown.as_object().unwrap().values().map(|value| value.as_u64().unwrap()).collect();
        values.sort_unstable();
        assert_eq!(values, [1, 2, 3, 4], "{shown}");
        assert!(shown.as_object().unwrap().keys().all(|name| name.starts_with("REDACTED")), "{shown}");
    }
}
