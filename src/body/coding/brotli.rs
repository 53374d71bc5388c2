//! Brotli.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::{Buf, Bytes};

use super::{Broken, CHUNK};

/// Undoes it. Windows are of 16 MiB at the most, as the standard has them.
pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    input: Bytes,
    written: usize,
    ended: bool,
    /// Whether there may be more without more input.
    more: bool,
}

impl Brotli {
    pub(super) fn new() -> Self {
        let alloc = StandardAlloc::default;
        let state = BrotliState::new_strict(alloc(), alloc(), alloc());
        Self { state, input: Bytes::new(), written: 0, ended: false, more: false }
    }

    pub(super) fn push(&mut self, chunk: Bytes) {
        self.input = chunk;
        self.more = !self.ended;
    }

    pub(super) fn plain(&mut self) -> Result<Option<Bytes>, Broken> {
        if !self.more {
            return Ok(None);
        }
        let mut plain = vec![0; CHUNK];
        let (mut unread, mut read) = (self.input.len(), 0);
        let (mut room, mut made) = (plain.len(), 0);
        let result = BrotliDecompressStream(
            &mut unread,
            &mut read,
            &self.input,
            &mut room,
            &mut made,
            &mut plain,
            &mut self.written,
            &mut self.state,
        );
        self.input.advance(read);
        match result {
            BrotliResult::ResultSuccess => {
                self.ended = true;
                self.more = false;
            }
            BrotliResult::NeedsMoreInput => self.more = false,
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::ResultFailure => return Err(Broken),
        }
        plain.truncate(made);
        Ok(Some(plain.into()).filter(|plain: &Bytes| !plain.is_empty()))
    }

    pub(super) fn is_whole(&self) -> bool {
        self.ended
    }
}
