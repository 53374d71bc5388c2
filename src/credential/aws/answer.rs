//! Reads what STS answers: a small XML document, of which the texts of a few elements are wanted.
//!
//! Strict: elements, attributes and the five named entities are known. A document type, a comment, a processing
//! instruction, a section of raw text or a wanted element that comes twice makes the whole answer unreadable.

use zeroize::Zeroizing;

use super::super::Failure;

/// The texts of the elements at these paths, e.g. `Answer/Result/Key`.
pub(super) fn texts<const N: usize>(body: &[u8], paths: [&str; N]) -> Result<[Option<Zeroizing<String>>; N], Failure> {
    let text = std::str::from_utf8(body).map_err(|_| unreadable())?;
    let mut rest = text.trim_ascii();
    if let Some(declared) = rest.strip_prefix("<?xml ") {
        rest = declared.split_once("?>").ok_or_else(unreadable)?.1;
    }
    let mut found = [const { None }; N];
    let mut path = String::new();
    let mut ended = false;
    while !rest.trim_ascii_start().is_empty() {
        let (before, tag) = rest.split_once('<').ok_or_else(unreadable)?;
        let outside = path.is_empty();
        if outside && (ended || !before.trim_ascii().is_empty()) {
            return Err(unreadable());
        }
        let (tag, after) = tag.split_at(tag_end(tag)?);
        rest = &after[1..];
        if let Some(name) = tag.strip_prefix('/') {
            leave(&mut path, name.trim_ascii_end())?;
            ended = path.is_empty();
        } else {
            let (tag, closed) = match tag.strip_suffix('/') {
                Some(tag) => (tag, true),
                None => (tag, false),
            };
            let name = tag.split_ascii_whitespace().next().unwrap_or_default();
            enter(&mut path, name)?;
            if let Some(index) = paths.iter().position(|wanted| *wanted == path) {
                let text = if closed { "" } else { rest.split_once('<').ok_or_else(unreadable)?.0 };
                if found[index].replace(unescaped(text)?).is_some() {
                    return Err(unreadable());
                }
            }
            if closed {
                leave(&mut path, name)?;
                ended = path.is_empty();
            }
        }
    }
    if ended { Ok(found) } else { Err(unreadable()) }
}

/// Where a tag ends. Its attributes are quoted, and may hold what ends tags.
fn tag_end(tag: &str) -> Result<usize, Failure> {
    let mut quote = None;
    for (index, byte) in tag.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Ok(index),
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'<') => return Err(unreadable()),
            (Some(opened), _) if opened == byte => quote = None,
            _ => {}
        }
    }
    Err(unreadable())
}

fn enter(path: &mut String, name: &str) -> Result<(), Failure> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'));
    if name.is_empty() || !plain || path.len() + name.len() >= DEEPEST {
        return Err(unreadable());
    }
    if !path.is_empty() {
        path.push('/');
    }
    path.push_str(name);
    Ok(())
}

fn leave(path: &mut String, name: &str) -> Result<(), Failure> {
    let outer = path.rfind('/');
    if name.is_empty() || path[outer.map_or(0, |at| at + 1)..] != *name {
        return Err(unreadable());
    }
    path.truncate(outer.unwrap_or_default());
    Ok(())
}

fn unescaped(text: &str) -> Result<Zeroizing<String>, Failure> {
    // It gets shorter: growing would leave copies behind.
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    let mut pieces = text.split('&');
    plain.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (entity, rest) = piece.split_once(';').ok_or_else(unreadable)?;
        plain.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => return Err(unreadable()),
        });
        plain.push_str(rest);
    }
    let trimmed = plain.trim_ascii();
    if trimmed.len() == plain.len() { Ok(plain) } else { Ok(Zeroizing::new(trimmed.to_owned())) }
}

fn unreadable() -> Failure {
    Failure::malformed("the answer is not the document that STS answers with")
}

/// How long a path may get.
const DEEPEST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<[Option<String>; 2]> {
        let texts = texts(text.as_bytes(), ["A/B/C", "A/D"]).ok()?;
        Some(texts.map(|text| text.map(|text| text.to_string())))
    }

    #[test]
    fn the_texts_of_wanted_elements_are_found_where_they_stand() {
        let some = |text: &str| Some(text.to_owned());
        let table = [
            ("<A><B><C>1</C></B><D>2</D></A>", [some("1"), some("2")]),
            (
                "<?xml version=\"1.0\"?>\n<A xmlns=\"https://x/>\">\n <B a='1'>\n  <C> 1&amp;2&lt; </C>\n </B>\n</A>\n",
                [some("1&2<"), None],
            ),
            ("<A><C>0</C><B><X><C>0</C></X></B></A>", [None, None]),
            ("<A><B><C/></B><D ></D ></A>", [some(""), some("")]),
            ("<A/>", [None, None]),
        ];
        for (text, found) in table {
            assert_eq!(read(text), Some(found), "{text}");
        }
    }

    #[test]
    fn what_is_not_such_a_document_is_not_read() {
        let deep = "<A>".repeat(200);
        let table = [
            "",
            "text",
            "{\"A\":1}",
            "<A>",
            "<A></B>",
            "</A>",
            "<A></A></A>",
            "<A></A><A></A>",
            "<A></A>text",
            "text<A></A>",
            "<A><B><C>1</C><C>2</C></B></A>",
            "<A><D>1</D><D/></A>",
            "<!DOCTYPE A [<!ENTITY e \"1\">]><A><D>&e;</D></A>",
            "<A><D>&e;</D></A>",
            "<A><D>&#65;</D></A>",
            "<A><D>1 & 2</D></A>",
            "<A><!-- x --><D>1</D></A>",
            "<A><D><![CDATA[1]]></D></A>",
            "<A><?x y?><D>1</D></A>",
            "<A a=\"></A>",
            "<A <B></A>",
            "< A></ A>",
            &deep,
        ];
        for text in table {
            assert_eq!(read(text), None, "{text}");
        }
        assert!(texts(b"<A>\xff</A>", ["A"]).is_err());
    }
}
