//! Looks at a text before it is parsed: the parser takes twice as long for each level of brackets in brackets.

use regorus::{
    Source,
    unstable::{Lexer, TokenKind},
};

use super::{in_one_line, problem};

/// Reports brackets that are nested too deeply, and texts that are too large to read.
pub(super) fn scan(name: &str, text: &str) -> Result<(), String> {
    // The limits on bytes, lines and columns are regorus's own.
    let source = Source::from_contents(name.to_owned(), text.to_owned()).map_err(|error| in_one_line(name, &error))?;
    let mut lexer = Lexer::new(&source);
    let mut depth = 0_usize;
    loop {
        let token = lexer.next_token().map_err(|error| in_one_line(name, &error))?;
        match (&token.0, token.1.text()) {
            (TokenKind::Eof, _) => return Ok(()),
            (TokenKind::Symbol, "{" | "[" | "(") => {
                depth += 1;
                if depth > MAX_DEPTH {
                    let hint = "hint: give parts a rule of their own, or put large structures into data";
                    return Err(problem(&token.1, &format!("brackets are nested more than {MAX_DEPTH} deep; {hint}")));
                }
            }
            (TokenKind::Symbol, "}" | "]" | ")") => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
}

const MAX_DEPTH: usize = 8;
