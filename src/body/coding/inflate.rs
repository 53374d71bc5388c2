//! gzip, zlib, and the bare stream inside both.

use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress, Status};

use super::{Broken, CHUNK};

/// Undoes one of them.
pub(super) struct Inflate {
    format: Format,
    state: Decompress,
    input: Bytes,
    /// Whether the stream's end was seen.
    ended: bool,
    /// Whether there may be more without more input.
    more: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Gzip,
    /// Zlib, or bare; the first two bytes tell.
    Untold,
    Told,
}

impl Inflate {
    pub(super) fn gzip() -> Self {
        Self::new(Format::Gzip, Decompress::new_gzip(WINDOW_BITS))
    }

    pub(super) fn zlib_or_bare() -> Self {
        Self::new(Format::Untold, Decompress::new(true))
    }

    fn new(format: Format, state: Decompress) -> Self {
        Self { format, state, input: Bytes::new(), ended: false, more: false }
    }

    pub(super) fn push(&mut self, chunk: Bytes) {
        self.input = if self.input.is_empty() { chunk } else { [&self.input[..], &chunk].concat().into() };
        self.more = true;
    }

    pub(super) fn plain(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.format == Format::Untold && !self.tell() {
            return Ok(None);
        }
        while self.more && self.is_open() {
            let mut plain = Vec::with_capacity(CHUNK);
            let before = self.state.total_in();
            let status =
                self.state.decompress_vec(&self.input, &mut plain, FlushDecompress::None).map_err(|_| Broken)?;
            let read = usize::try_from(self.state.total_in() - before).map_err(|_| Broken)?;
            self.input.advance(read);
            self.ended = status == Status::StreamEnd;
            // A full chunk may have left something behind inside.
            self.more = !self.input.is_empty() || plain.len() == plain.capacity();
            if !plain.is_empty() {
                return Ok(Some(plain.into()));
            }
            if read == 0 && !self.ended {
                return if self.input.is_empty() { Ok(None) } else { Err(Broken) };
            }
        }
        Ok(None)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.ended
    }

    /// Whether there is a stream to go on with: another may follow the end of one (RFC 1952 section 2.2). What else stands
    /// there is nothing, as other decoders have it.
    fn is_open(&mut self) -> bool {
        if self.ended {
            if self.format == Format::Gzip && self.input.first() == Some(&GZIP_MAGIC) {
                self.state.reset(true);
                self.ended = false;
            } else {
                self.input.clear();
            }
        }
        !self.ended
    }

    fn tell(&mut self) -> bool {
        let [first, second, ..] = self.input[..] else { return false };
        let is_zlib = first & 0x0f == 8 && u16::from_be_bytes([first, second]) % 31 == 0;
        if !is_zlib {
            self.state = Decompress::new(false);
        }
        self.format = Format::Told;
        true
    }
}

const WINDOW_BITS: u8 = 15;
const GZIP_MAGIC: u8 = 0x1f;
