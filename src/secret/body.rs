//! Looks for secrets in a body that is held, and writes `REDACTED` in their place.
//!
//! All other bytes stay as they are, so that JSON stays the JSON that it was: no secret reaches over the end of a string,
//! and what is written in its place needs no escapes.

mod place;

use http::{HeaderMap, header};
use zeroize::Zeroizing;

use super::{
    Found,
    detect::{self, Find, Notation},
    mask::REDACTED,
    strip::note,
    treatment::{Mode, Treatment},
};

/// What a body is written in, as its type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// JSON, also a line for each document.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// Parts of a form, and text of any other kind.
    Text,
}

/// What was found in a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Inspected {
    /// The body passes as it is: nothing was found, or only what is observed.
    Same,
    /// This passes in its place.
    Redacted(Vec<u8>),
    /// A secret of this kind must not be sent there.
    Refused(&'static str),
}

impl Content {
    /// What this body is written in; `None` if it is not text that can be looked into. What says nothing is looked into, and
    /// so is what says it in a way that others may read as something else.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Some(Self::Text) };
        let Ok(value) = value.to_str() else { return Some(Self::Text) };
        let (media, parameters) = value.split_once(';').unwrap_or((value, ""));
        let media = media.trim_matches(' ').to_ascii_lowercase();
        let Some((kind, subtype)) = media.split_once('/').filter(|(kind, subtype)| is_token(kind) && is_token(subtype))
        else {
            return Some(Self::Text);
        };
        let names = |word: &str| subtype.split(['+', '.', '-']).any(|part| part == word);
        if subtype == "x-www-form-urlencoded" {
            Some(Self::Form)
        } else if ["json", "ndjson", "jsonl", "json5"].iter().any(|word| names(word)) {
            Some(Self::Json)
        } else if kind == "multipart" || kind == "text" || TEXTS.iter().any(|word| names(word)) {
            Some(Self::Text)
        } else {
            // Some read a list there, and take its last type.
            parameters.contains(',').then_some(Self::Text)
        }
    }

    fn notation(self) -> Notation {
        match self {
            Self::Form => Notation::Form,
            Self::Json | Self::Text => Notation::Text,
        }
    }
}

/// Looks into a body, notes what it holds, and does what was chosen for each kind. `otherwise` is done where nothing was.
pub fn inspect(
    body: &[u8],
    content: Content,
    treatment: &Treatment,
    otherwise: Mode,
    found: &mut Vec<Found>,
) -> Inspected {
    let finds = detect::finds(body, content.notation());
    if finds.is_empty() {
        return Inspected::Same;
    }
    let places = place::places(body, content, &finds);
    let mut refused = None;
    let mut redacted = Vec::with_capacity(finds.len());
    for (find, place) in finds.iter().zip(places) {
        let mode = treatment.in_body(find.kind(), otherwise);
        note(found, find.kind(), place, mode.action());
        match mode {
            Mode::Refuse => refused = refused.or(Some(find.kind())),
            Mode::Strip | Mode::Redact => redacted.push(find),
            Mode::Observe => {}
        }
    }
    match refused {
        Some(kind) => Inspected::Refused(kind),
        None if redacted.is_empty() => Inspected::Same,
        None => Inspected::Redacted(without(body, &redacted)),
    }
}

/// A token of RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let mark = |byte| b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || mark(byte))
}

/// Removes what vouches for a body that is not the same any more; its length is what it is now.
pub fn adjust(headers: &mut HeaderMap, length: usize) {
    for name in ["content-md5", "digest", "content-digest", "repr-digest", "x-amz-content-sha256"] {
        headers.remove(name);
    }
    if headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}

fn without(body: &[u8], finds: &[&Find]) -> Vec<u8> {
    let mut written = Vec::with_capacity(body.len());
    let mut from = 0;
    for find in finds {
        written.extend_from_slice(&body[from..find.range.start]);
        written.extend_from_slice(find.instead.as_deref().unwrap_or(REDACTED).as_bytes());
        from = find.range.end;
    }
    written.extend_from_slice(&body[from..]);
    written
}

/// A text without its secrets, in plain text or encoded, as far as there are any.
pub(super) fn redacted(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let finds = detect::finds(text, Notation::Text);
    (!finds.is_empty()).then(|| Zeroizing::new(without(text, &finds.iter().collect::<Vec<_>>())))
}

/// Subtypes, or parts of them, of what people write.
const TEXTS: [&str; 12] =
    ["xml", "yaml", "toml", "javascript", "ecmascript", "typescript", "graphql", "sql", "csv", "sh", "pem", "text"];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn pat() -> String {
        format!("ghp_{}", "aB3dE6gH9kL2".repeat(3))
    }

    fn look(body: &str, content: Content, treatment: &Treatment) -> (Inspected, Vec<String>) {
        let mut found = Vec::new();
        let inspected = inspect(body.as_bytes(), content, treatment, Mode::Redact, &mut found);
        let found = found.iter().map(|each| format!("{} {} {}", each.kind, each.place, each.action.as_str())).collect();
        (inspected, found)
    }

    fn redacted(body: &str, content: Content) -> (String, Vec<String>) {
        let (inspected, found) = look(body, content, &Treatment::default());
        match inspected {
            Inspected::Redacted(bytes) => (String::from_utf8(bytes).expect("it was text"), found),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_type_says_how_a_body_is_read() {
        let of = |media: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, media.parse().expect("a value"));
            Content::of(&headers)
        };
        for (media, content) in [
            ("application/json", Some(Content::Json)),
            ("Application/Problem+JSON; charset=utf-8", Some(Content::Json)),
            ("application/x-ndjson", Some(Content::Json)),
            ("application/x-www-form-urlencoded", Some(Content::Form)),
            ("multipart/form-data; boundary=x", Some(Content::Text)),
            ("text/plain", Some(Content::Text)),
            ("application/yaml", Some(Content::Text)),
            ("application/soap+xml", Some(Content::Text)),
            ("nonsense", Some(Content::Text)),
            ("application/\tjson", Some(Content::Text)),
            ("application/ json", Some(Content::Text)),
            ("image/png, application/json", Some(Content::Text)),
            ("image/png;q=1, application/json", Some(Content::Text)),
            ("image/png/json", Some(Content::Text)),
            ("image/", Some(Content::Text)),
            ("/png", Some(Content::Text)),
            (" image/png ; q=1", None),
            ("application/vnd.oci.image.layer.v1.tar", None),
            ("application/octet-stream", None),
            ("image/png", None),
            ("application/grpc", None),
        ] {
            assert_eq!(of(media), content, "{media}");
        }
        assert_eq!(Content::of(&HeaderMap::new()), Some(Content::Text));
    }

    #[test]
    fn json_stays_json_and_all_else_in_it_stays_as_it_was() {
        let pat = pat();
        let escaped: String = pat.bytes().map(|byte| format!("\\u{byte:04X}")).collect();
        let inner = json!({"token": pat}).to_string();
        let body = format!(
            "{{ \"a\" : [1.50, \"x {pat} y\", {{\"b\\u0020c\": \"{escaped}\"}}],\n\"in\":{},\"{pat}\":null}}",
            Value::from(inner)
        );
        let (written, found) = redacted(&body, Content::Json);
        let inner = json!({"token": "REDACTED"}).to_string();
        let expected = format!(
            "{{ \"a\" : [1.50, \"x REDACTED y\", {{\"b\\u0020c\": \"REDACTED\"}}],\n\"in\":{},\"REDACTED\":null}}",
            Value::from(inner)
        );
        assert_eq!(written, expected);
        serde_json::from_str::<Value>(&written).expect("it is JSON");
        let places =
            ["body:/a/1", "body:/a/2/b?c", "body:/in", "body"].map(|place| format!("github_pat {place} redacted"));
        assert_eq!(found, places);
    }

    #[test]
    fn forms_parts_and_text_are_looked_into() {
        let pat = pat();
        let hidden = pat.replace('_', "%5F");
        let multipart =
            |said: &str| format!("--b\r\nContent-Disposition: form-data; name=\"k\"\r\n\r\n{said}\r\n--b--\r\n");
        for (content, said, shown, place) in [
            (Content::Form, format!("a=1+2&k={hidden}&b=%20"), "a=1+2&k=REDACTED&b=%20".to_owned(), "body:/k"),
            (Content::Text, multipart(&pat), multipart("REDACTED"), "body"),
            (Content::Text, format!("TOKEN={pat}\nX=1\n"), "TOKEN=REDACTED\nX=1\n".to_owned(), "body"),
        ] {
            let (written, found) = redacted(&said, content);
            assert_eq!(written, shown);
            assert_eq!(found, [format!("github_pat {place} redacted")]);
        }
    }

    #[test]
    fn what_is_done_is_chosen_by_kind() {
        let (pat, key) = (pat(), format!("sk_live_{}", "aB3dE6gH9kL2".repeat(2)));
        let body = format!("{pat} {key}");
        let with = |kinds: &[(&'static str, Mode)]| Treatment {
            mode: None,
            kinds: BTreeMap::from_iter(kinds.iter().copied()),
            bodies: true,
        };
        let (inspected, found) = look(&body, Content::Text, &with(&[("stripe", Mode::Refuse)]));
        assert_eq!(inspected, Inspected::Refused("stripe"));
        assert_eq!(found, ["github_pat body redacted", "stripe body refused"]);
        let (inspected, _) = look(&body, Content::Text, &with(&[("stripe", Mode::Observe)]));
        assert_eq!(inspected, Inspected::Redacted(format!("REDACTED {key}").into_bytes()));
        let observed = with(&[("stripe", Mode::Observe), ("github_pat", Mode::Observe)]);
        assert_eq!(look(&body, Content::Text, &observed).0, Inspected::Same);
    }

    #[test]
    fn a_clean_body_is_the_same() {
        for body in ["", "{}", r#"{"id":"0190b6f6-9d7c-7c3e-8b1a-2f6d5c4b3a21","n":"caf\u00e9"}"#] {
            assert_eq!(look(body, Content::Json, &Treatment::default()), (Inspected::Same, Vec::new()));
        }
    }

    #[test]
    fn what_vouches_for_the_old_body_goes() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("content-length", "100"), ("content-md5", "x"), ("digest", "x"), ("etag", "x")] {
            headers.insert(name, value.parse().expect("a value"));
        }
        adjust(&mut headers, 7);
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["content-length"], "7");
    }
}
