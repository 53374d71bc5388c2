//! Finds private keys in PEM (RFC 7468), also where their lines are broken by escapes.

use std::ops::Range;

use memchr::memmem;

use super::{Find, is_base64, judge};
use crate::secret::rules::{PEM, PEM_BEGINS, Rules};

/// Whether a private key begins somewhere.
pub(super) fn is_there(rules: &Rules, text: &[u8]) -> bool {
    rules.pem().find(text).is_some_and(|at| memmem::find(&text[at..], b"PRIVATE").is_some())
}

/// The bodies of private keys, without the lines that frame them.
pub(super) fn private_keys(rules: &Rules, text: &[u8], on: &mut impl FnMut(Find) -> bool) {
    let Some(kind) = rules.named(PEM) else { return };
    let mut from = 0;
    while let Some(at) = rules.pem().find(&text[from..]) {
        from += at + PEM_BEGINS.len();
        let Some(start) = after_label(text, from) else { continue };
        let block = block(&text[start..text.len().min(start + LONGEST)]);
        let body = body(block);
        from = start + block.len();
        let is_key = body.len() >= SHORTEST && judge::entropy(&block[body.clone()]) >= 3.5;
        if is_key && !on(Find { kind, range: start + body.start..start + body.end, instead: None }) {
            return;
        }
    }
}

/// Where the label of a private key ends.
fn after_label(text: &[u8], label: usize) -> Option<usize> {
    let frame = &text[label..text.len().min(label + LONGEST_LABEL)];
    let dashes = memmem::find(frame, DASHES)?;
    memmem::find(&frame[..dashes], b"PRIVATE KEY").map(|_| label + dashes + DASHES.len())
}

/// What stands up to the end of the key, or up to what can't be a part of it.
fn block(rest: &[u8]) -> &[u8] {
    let inside =
        |byte: u8| is_key_byte(byte) || matches!(byte, b'\r' | b'\n' | b' ' | b'\t' | b':' | b',' | b'-' | b'\\');
    // First, so that frames without a key between them cost no more than their own length.
    let rest = &rest[..memmem::find(rest, DASHES).unwrap_or(rest.len())];
    &rest[..rest.iter().position(|byte| !inside(*byte)).unwrap_or(rest.len())]
}

/// The block without the line breaks around it, which may be escaped.
fn body(block: &[u8]) -> Range<usize> {
    let mut start = block.iter().position(|byte| is_key_byte(*byte)).unwrap_or(block.len());
    if block[..start].ends_with(b"\\") && block[start..].starts_with(b"n") {
        start += 1;
    }
    let mut body = &block[..block.iter().rposition(|byte| is_key_byte(*byte)).map_or(0, |last| last + 1)];
    while let Some(rest) = body.strip_suffix(b"\\n") {
        body = rest.trim_ascii_end();
        while let Some(rest) = body.strip_suffix(b"\\") {
            body = rest;
        }
    }
    start..body.len().max(start)
}

/// What a line of a key is made of.
pub(super) fn is_key_byte(byte: u8) -> bool {
    is_base64(byte) && !matches!(byte, b'-' | b'_') || byte == b'='
}

const DASHES: &[u8] = b"-----";

/// How long the label of a block may be.
const LONGEST_LABEL: usize = 64;

/// More of a key is not read.
const LONGEST: usize = 16 << 10;

/// What a key has at least; `...` between its lines is none.
const SHORTEST: usize = 40;
