//! Content codings: which of them a request may ask for, and the plain text of an answer that has one.
//!
//! Answers are decoded as they come. However small the compressed text, no more than a chunk of the plain one is made
//! before it is asked for, and what a decoder keeps is bounded by its window.

mod brotli;
mod inflate;
mod zstd;

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use self::{brotli::Brotli, inflate::Inflate, zstd::Zstd};

/// A content coding that can be undone here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950; the bare stream of RFC 1951 as well, which some origins take it for.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878, with windows of 8 MiB at the most (RFC 9659).
    Zstd,
}

/// What an answer carries that can't be undone here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown;

/// The compressed text is not what its coding allows, or ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the compressed answer is broken")]
pub struct Broken;

/// Undoes a coding, chunk by chunk.
pub struct Decoder {
    way: Way,
    begun: bool,
}

enum Way {
    Inflate(Box<Inflate>),
    Brotli(Box<Brotli>),
    Zstd(Box<Zstd>),
}

impl Coding {
    /// The coding of an answer with these headers; `None` when it has none.
    ///
    /// # Errors
    /// [`Unknown`] when it has another one, or several.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Unknown> {
        let mut coding = None;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let named = value.to_str().map_err(|_| Unknown)?.split(',').map(str::trim).filter(|name| !name.is_empty());
            for name in named.filter(|name| !name.eq_ignore_ascii_case("identity")) {
                if coding.replace(Self::named(name).ok_or(Unknown)?).is_some() {
                    return Err(Unknown);
                }
            }
        }
        Ok(coding)
    }

    fn named(name: &str) -> Option<Self> {
        let names = [
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("deflate", Self::Deflate),
            ("br", Self::Brotli),
            ("zstd", Self::Zstd),
        ];
        names.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, coding)| coding)
    }
}

/// Has a request ask only for what can be undone here as it comes. A decoder of zstd keeps what it has until its window is
/// full, which would hold streams up, so it is not asked for. A part of a compressed text has no plain text of its own, so a
/// request for a range asks for none. Compression inside the messages of gRPC and Connect can't be seen from here.
pub fn narrow(headers: &mut HeaderMap) {
    for name in ["grpc-accept-encoding", "connect-accept-encoding"] {
        headers.remove(name);
    }
    if headers.contains_key(header::RANGE) {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        return;
    }
    let mut kept = String::new();
    let (mut asked, mut left_out) = (false, false);
    for value in headers.get_all(header::ACCEPT_ENCODING) {
        asked = true;
        for wish in value.to_str().unwrap_or("?").split(',').map(str::trim).filter(|wish| !wish.is_empty()) {
            if is_wanted(wish) {
                kept.push_str(if kept.is_empty() { "" } else { ", " });
                kept.push_str(wish);
            } else {
                left_out = true;
            }
        }
    }
    if asked && (left_out || kept.is_empty()) {
        let kept = if kept.is_empty() { "identity" } else { &kept };
        let narrowed = HeaderValue::from_str(kept).expect("parts of a value are a value");
        headers.insert(header::ACCEPT_ENCODING, narrowed);
    }
}

fn is_wanted(wish: &str) -> bool {
    let name = wish.split(';').next().unwrap_or_default().trim();
    name.eq_ignore_ascii_case("identity") || Coding::named(name).is_some_and(|coding| coding != Coding::Zstd)
}

impl Decoder {
    /// At the beginning of an answer.
    pub fn new(coding: Coding) -> Self {
        let way = match coding {
            Coding::Gzip => Way::Inflate(Box::new(Inflate::gzip())),
            Coding::Deflate => Way::Inflate(Box::new(Inflate::zlib_or_bare())),
            Coding::Brotli => Way::Brotli(Box::new(Brotli::new())),
            Coding::Zstd => Way::Zstd(Box::new(Zstd::new())),
        };
        Self { way, begun: false }
    }

    /// Takes the next compressed chunk. To be called when [`Self::plain`] has nothing left of the last one.
    pub fn push(&mut self, chunk: Bytes) {
        self.begun |= !chunk.is_empty();
        match &mut self.way {
            Way::Inflate(inflate) => inflate.push(chunk),
            Way::Brotli(brotli) => brotli.push(chunk),
            Way::Zstd(zstd) => zstd.push(&chunk),
        }
    }

    /// The next plain chunk; `None` when there is none without more of the compressed text.
    ///
    /// # Errors
    /// [`Broken`]; nothing further can be had then.
    pub fn plain(&mut self) -> Result<Option<Bytes>, Broken> {
        match &mut self.way {
            Way::Inflate(inflate) => inflate.plain(),
            Way::Brotli(brotli) => brotli.plain(),
            Way::Zstd(zstd) => zstd.plain(),
        }
    }

    /// Nothing more comes. An answer without any body has no end of its coding either.
    ///
    /// # Errors
    /// [`Broken`] when the compressed text should have gone on.
    pub fn finish(&self) -> Result<(), Broken> {
        let whole = match &self.way {
            Way::Inflate(inflate) => inflate.is_whole(),
            Way::Brotli(brotli) => brotli.is_whole(),
            Way::Zstd(zstd) => zstd.is_whole(),
        };
        if whole || !self.begun { Ok(()) } else { Err(Broken) }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoder")
    }
}

/// How much plain text is made at a time.
const CHUNK: usize = 32 * 1024;

#[cfg(test)]
mod tests;
