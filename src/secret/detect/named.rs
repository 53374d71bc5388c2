//! Tells secrets without a mark of their own by what they are called, and passwords by where they stand in a URL.

use memchr::memchr_iter;

use super::{Find, judge};
use crate::secret::rules::{Kind, Marked, Rules, URL_PASSWORD};

/// The secret without a mark that is the whole value which begins here, and where it ends.
pub(super) fn value(rules: &Rules, text: &[u8], at: usize) -> Option<(usize, usize)> {
    let before = &text[at.saturating_sub(NEAR)..at];
    value_of(rules, text, at, &Context { name: name(before), before })
}

/// The kind of the secret without a mark that this value of a field is, by the field's name.
pub(super) fn field(rules: &Rules, name: &str, value: &[u8]) -> Option<usize> {
    let context = Context { name: name.as_bytes(), before: name.as_bytes() };
    value_of(rules, value, 0, &context).filter(|(_, end)| *end == value.len()).map(|(kind, _)| kind)
}

fn value_of(rules: &Rules, text: &[u8], at: usize, context: &Context<'_>) -> Option<(usize, usize)> {
    let mut candidates = rules.unmarked(context.end()).peekable();
    candidates.peek()?;
    // What is longer fits none of them.
    let rest = &text[at..text.len().min(at + rules.longest_unmarked() + 1)];
    let length = rest.iter().position(|byte| !is_value(*byte)).unwrap_or(rest.len());
    let padding = rest[length..].iter().take(2).take_while(|byte| **byte == b'=').count();
    let end = at + length + padding;
    let is_whole = |marked: &&Marked| marked.pattern.fits(end - at) && marked.pattern.end(text, at) == Some(end);
    let is_secret = |marked: &&Marked| {
        let kind = rules.kind(marked.kind);
        context.suits(kind) && judge::is_secret(rules, kind, &text[at..end], 0)
    };
    candidates.filter(is_whole).find(is_secret).map(|marked| (marked.kind, end))
}

/// Passwords of `scheme://user:password@host`.
pub(super) fn url_passwords(rules: &Rules, text: &[u8], on: &mut impl FnMut(Find) -> bool) {
    let Some(kind) = rules.named(URL_PASSWORD) else { return };
    for at in memchr_iter(b'@', text) {
        let from = at.saturating_sub(LONGEST_USERINFO);
        let ends =
            |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'`' | b'<' | b'>' | b'@' | b'/');
        let Some(start) = text[from..at].iter().rposition(ends).map(|last| from + last + 1) else { continue };
        if !text[..start].ends_with(b"://") || !text.get(at + 1).is_some_and(u8::is_ascii_alphanumeric) {
            continue;
        }
        let Some(colon) = text[start..at].iter().position(|byte| *byte == b':') else { continue };
        let range = start + colon + 1..at;
        if is_password(rules, &text[range.clone()]) && !on(Find { kind, range, instead: None }) {
            return;
        }
    }
}

fn is_password(rules: &Rules, password: &[u8]) -> bool {
    let is_reference = |byte: &u8| matches!(byte, b'$' | b'{' | b'}' | b'[' | b']' | b'*' | b'(' | b')');
    password.len() >= 8
        && !password.iter().any(is_reference)
        && judge::entropy(password) >= if password.iter().all(u8::is_ascii_alphabetic) { 3.3 } else { 2.5 }
        && !rules.is_weak(password)
        && !judge::is_placeholder(rules, password)
}

/// What stands before a value.
struct Context<'a> {
    /// What the value is assigned to.
    name: &'a [u8],
    before: &'a [u8],
}

impl Context<'_> {
    /// The last two characters of the name, as names are compared.
    fn end(&self) -> Option<[u8; 2]> {
        let mut end = self.name.iter().rev().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase);
        let last = end.next()?;
        Some([end.next()?, last])
    }

    fn suits(&self, kind: &Kind) -> bool {
        let near = || kind.near.iter().any(|word| holds(self.before, word.as_bytes()));
        let name = normal(self.name);
        let named = || kind.names.iter().any(|end| name.ends_with(end.as_bytes()));
        let excluded = || kind.unless.iter().any(|word| holds(&name, word.as_bytes()));
        (kind.names.is_empty() || named()) && (kind.near.is_empty() || near()) && !excluded()
    }
}

/// The name that the value behind this text is assigned to: `"name": "`, `name=`, `name = '`, `<name>`, `--name `, and
/// the name of a part of a form.
fn name(before: &[u8]) -> &[u8] {
    let mut end = before.len();
    if let Some(head) = before.strip_suffix(b"\r\n\r\n") {
        end = head.len();
    }
    let is_between = |byte: u8| {
        matches!(
            byte,
            b'"' | b'\'' | b'`' | b':' | b'=' | b'>' | b'(' | b'[' | b']' | b',' | b' ' | b'\t' | b'\\' | b'|'
        )
    };
    let between = before[..end].iter().rev().take(MOST_BETWEEN).take_while(|byte| is_between(**byte)).count();
    if between == 0 {
        return &[];
    }
    end -= between;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$');
    let length = before[..end].iter().rev().take_while(|byte| is_name(**byte)).count();
    &before[end - length..end]
}

/// A name without case and separators.
fn normal(name: &[u8]) -> Vec<u8> {
    name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect()
}

fn holds(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

fn is_value(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'+' | b'/')
}

/// How far before a value its neighbours are looked for.
const NEAR: usize = 96;

/// How many quotes, spaces and signs may stand between a name and its value.
const MOST_BETWEEN: usize = 8;

const LONGEST_USERINFO: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_told_by_the_name_before_it() {
        for (before, expected) in [
            (r#"{"api_key": ""#, "api_key"),
            ("export API_KEY=", "API_KEY"),
            ("apiKey = '", "apiKey"),
            ("x.setToken(\"", "x.setToken"),
            ("os.environ[\"API_KEY\"] = \"", "API_KEY"),
            ("<token>", "token"),
            ("curl --token ", "--token"),
            ("Authorization: Bearer ", "Bearer"),
            ("form-data; name=\"api_key\"\r\n\r\n", "api_key"),
            ("?a=1&api_key=", "api_key"),
            ("plain", ""),
            ("", ""),
        ] {
            assert_eq!(name(before.as_bytes()), expected.as_bytes(), "{before}");
        }
    }

    #[test]
    fn passwords_in_urls_are_told_from_placeholders() {
        let rules = Rules::shipped();
        let found = |text: &str| {
            let mut found = Vec::new();
            url_passwords(rules, text.as_bytes(), &mut |find| {
                found.push(text[find.range].to_owned());
                true
            });
            found
        };
        assert_eq!(found("postgres://app:kT8x1Lq9Zp@db:5432/x"), ["kT8x1Lq9Zp"]);
        for plain in [
            "postgres://postgres:postgres@localhost/x",
            "postgres://app:${PASSWORD}@db/x",
            "mail me@example.com",
            "https://example.com/@user",
            "redis://:password@h",
            "x:y@z",
        ] {
            assert!(found(plain).is_empty(), "{plain}");
        }
    }
}
