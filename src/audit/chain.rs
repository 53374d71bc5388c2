//! Chains lines, so that a changed, missing or inserted one is found.
//!
//! Each line is `{"seq":N,"prev":"P",…,"hash":"H"}`, without blanks around these members. `N` rises by one from line to
//! line. `H` is the SHA-256 of all bytes of the line before `,"hash":`, in lower-case hex; it covers `prev`, which is `H`
//! of the line before. A first line's `prev` is 64 zeros; after the file was rotated away it is the last `hash` of the file
//! before it, so that files can be verified one after the other.
//!
//! The chain proves that nothing between its ends was changed. Only a copy of a later `hash`, kept elsewhere, proves that
//! nothing was cut off its end.

use std::io::{BufRead, Read};

use aws_lc_rs::digest;

use crate::telemetry::trace;

/// Where a chain stands: what the next line continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The sequence number of the last line; 0 before the first.
    pub seq: u64,
    /// The hash of the last line in hex.
    pub hash: Hash,
}

/// A SHA-256 in lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 64]);

/// What was found in an intact chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How many lines there are.
    pub lines: u64,
    /// What the first line continues.
    pub from: Position,
    /// The last line.
    pub to: Position,
}

/// A chain that does not hold.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct Broken {
    /// The first line that is wrong, counted from 1.
    pub line: u64,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It ends without a line break: the writer was interrupted, or the file was cut.
    #[error("cut off before its end")]
    Torn,
    /// It does not have the form of a line of this log.
    #[error("not a line of an audit log")]
    Form,
    /// Its bytes are not those that were written.
    #[error("changed after it was written: its hash differs")]
    Changed,
    /// It does not continue the line before: lines are missing, inserted or in another order.
    #[error("does not continue the line before")]
    Order,
    /// It can't be read.
    #[error("unreadable: {0}")]
    Unreadable(#[from] std::io::Error),
}

impl Position {
    /// Before the first line.
    pub const START: Self = Self { seq: 0, hash: Hash([b'0'; 64]) };

    /// Appends one line with these members and moves on to it.
    pub(super) fn seal(&mut self, members: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        self.seq += 1;
        std::io::Write::write_fmt(out, format_args!("{{\"seq\":{},\"prev\":\"", self.seq))
            .expect("writing to memory does not fail");
        out.extend_from_slice(&self.hash.0);
        out.extend_from_slice(b"\",");
        out.extend_from_slice(members);
        self.hash = Hash::of(&out[start..]);
        out.extend_from_slice(HASH);
        out.extend_from_slice(&self.hash.0);
        out.extend_from_slice(b"\"}\n");
    }
}

impl Hash {
    /// The hash of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, bytes);
        let mut text = [0; 64];
        trace::hex(digest.as_ref(), &mut text);
        Self(text)
    }

    /// As hex digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("only hex digits are ever stored")
    }

    /// The hash in the last of these whole lines.
    pub(super) fn at_end(lines: &[u8]) -> Option<Self> {
        let text = lines.strip_suffix(b"\"}\n")?;
        Self::parse(&text[text.len().checked_sub(64)?..])
    }

    fn parse(digits: &[u8]) -> Option<Self> {
        let valid = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        digits.try_into().ok().filter(|_| valid).map(Self)
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads a whole file and tells whether it is one intact chain.
///
/// # Errors
///
/// The first line that is wrong.
pub fn verify(mut reader: impl BufRead) -> Result<Verified, Broken> {
    let mut line = Vec::new();
    let mut verified: Option<Verified> = None;
    for number in 1.. {
        let broken = |fault| Broken { line: number, fault };
        line.clear();
        let read = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        if read.map_err(|error| broken(error.into()))? == 0 {
            break;
        }
        let (from, to) = check(&line).map_err(broken)?;
        match &mut verified {
            None => verified = Some(Verified { lines: 1, from, to }),
            Some(chain) if chain.to == from => {
                chain.lines += 1;
                chain.to = to;
            }
            Some(_) => return Err(broken(Fault::Order)),
        }
    }
    Ok(verified.unwrap_or(Verified { lines: 0, from: Position::START, to: Position::START }))
}

/// Checks one line with its line break: what it continues, and its own place.
pub(super) fn check(line: &[u8]) -> Result<(Position, Position), Fault> {
    let line = line.strip_suffix(b"\n").ok_or(Fault::Torn)?;
    let (signed, seq, prev, hash) = parts(line).ok_or(Fault::Form)?;
    if Hash::of(signed) != hash {
        return Err(Fault::Changed);
    }
    let before = seq.checked_sub(1).ok_or(Fault::Form)?;
    Ok((Position { seq: before, hash: prev }, Position { seq, hash }))
}

fn parts(line: &[u8]) -> Option<(&[u8], u64, Hash, Hash)> {
    let (signed, tail) = line.split_at_checked(line.len().checked_sub(HASH.len() + 64 + 2)?)?;
    let hash = Hash::parse(tail.strip_prefix(HASH)?.strip_suffix(b"\"}")?)?;
    let rest = signed.strip_prefix(b"{\"seq\":")?;
    let (digits, rest) = rest.split_at(rest.iter().position(|byte| *byte == b',')?);
    let seq: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let (prev, rest) = rest.strip_prefix(b",\"prev\":\"")?.split_at_checked(64)?;
    rest.starts_with(b"\",").then_some(())?;
    Some((signed, seq, Hash::parse(prev)?, hash))
}

const HASH: &[u8] = b",\"hash\":\"";

/// No record is longer; a longer line is no record.
pub(super) const LONGEST_LINE: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(from: Position, lines: usize) -> (Vec<u8>, Position) {
        let (mut out, mut position) = (Vec::new(), from);
        for n in 0..lines {
            position.seal(format!("\"n\":{n}").as_bytes(), &mut out);
        }
        (out, position)
    }

    #[test]
    fn an_intact_chain_verifies_and_says_where_it_ends() {
        let (bytes, end) = chain(Position::START, 3);
        let verified = verify(&*bytes).expect("intact");
        assert_eq!(verified, Verified { lines: 3, from: Position::START, to: end });
        assert_eq!(verify(&b""[..]).expect("nothing is wrong with nothing").lines, 0);
    }

    #[test]
    fn a_rotated_file_continues_the_one_before() {
        let (_, middle) = chain(Position::START, 2);
        let (bytes, end) = chain(middle.clone(), 2);
        assert_eq!(verify(&*bytes).expect("intact"), Verified { lines: 2, from: middle, to: end });
    }

    #[test]
    fn each_line_is_json_whose_hash_can_be_computed_with_any_tool() {
        let (bytes, _) = chain(Position::START, 1);
        let text = std::str::from_utf8(&bytes).expect("UTF-8");
        let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let signed = text.split(",\"hash\":").next().expect("the part before the hash");
        assert_eq!(value["hash"], Hash::of(signed.as_bytes()).as_str());
        assert_eq!(value["prev"], "0".repeat(64));
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let (bytes, _) = chain(Position::START, 3);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(verify(&*changed).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn missing_repeated_and_swapped_lines_are_found() {
        let (bytes, _) = chain(Position::START, 4);
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        for (order, wrong) in [(vec![0, 2, 3], 2), (vec![0, 1, 1, 2], 3), (vec![0, 2, 1, 3], 2), (vec![3, 0], 2)] {
            let text: Vec<u8> = order.iter().flat_map(|n: &usize| lines[*n].iter().copied()).collect();
            let broken = verify(&*text).expect_err("not intact");
            assert!(broken.line == wrong && matches!(broken.fault, Fault::Order), "{order:?}: {broken}");
        }
    }

    #[test]
    fn what_is_no_line_of_ours_is_said_to_be_none() {
        let (bytes, _) = chain(Position::START, 1);
        for (text, fault) in [
            (&bytes[..bytes.len() - 1], "cut off before its end"),
            (&b"{}\n"[..], "not a line of an audit log"),
            (&b"\n"[..], "not a line of an audit log"),
            (&b"what\n"[..], "not a line of an audit log"),
        ] {
            assert_eq!(verify(text).expect_err("not intact").fault.to_string(), fault);
        }
    }
}
