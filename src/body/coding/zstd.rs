//! Zstandard, block by block.
//!
//! The decoder gives out what has left its window: the rest of a frame comes with the frame's end.

use std::io::Read;

use bytes::{Buf, Bytes, BytesMut};
use ruzstd::decoding::FrameDecoder;

use super::{Broken, CHUNK};

/// Undoes it.
pub(super) struct Zstd {
    decoder: FrameDecoder,
    input: BytesMut,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// Before a frame.
    Between,
    /// Bytes of a frame that says nothing, to be passed over.
    Skipping(usize),
    /// Inside a frame, which may end with a checksum.
    Blocks { checksum: bool },
    /// The last block was read; the checksum was not.
    Checksum,
    /// All of a frame was read, but not all was given out.
    Draining,
}

impl Zstd {
    pub(super) fn new() -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(LARGEST_WINDOW);
        Self { decoder, input: BytesMut::new(), state: State::Between }
    }

    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.input.extend_from_slice(chunk);
    }

    pub(super) fn plain(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            let more = match self.state {
                State::Between => self.begin()?,
                State::Skipping(left) => self.skip(left),
                State::Blocks { checksum } => {
                    if let Some(plain) = self.drained()? {
                        return Ok(Some(plain));
                    }
                    self.block(checksum)?
                }
                State::Checksum => self.feed(CHECKSUM)?,
                State::Draining => match self.drained()? {
                    Some(plain) => return Ok(Some(plain)),
                    None => Some(State::Between),
                },
            };
            match more {
                Some(state) => self.state = state,
                None => return Ok(None),
            }
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        matches!(self.state, State::Between) && self.input.is_empty()
    }

    fn drained(&mut self) -> Result<Option<Bytes>, Broken> {
        let mut plain = vec![0; self.decoder.can_collect().min(CHUNK)];
        let made = self.decoder.read(&mut plain).map_err(|_| Broken)?;
        plain.truncate(made);
        Ok(Some(plain.into()).filter(|plain: &Bytes| !plain.is_empty()))
    }

    /// Reads a frame's header once it is there whole.
    fn begin(&mut self) -> Result<Option<State>, Broken> {
        let Some(magic) = self.input.first_chunk::<4>() else { return Ok(None) };
        if matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18]) {
            let Some(length) = self.input.get(4..8) else { return Ok(None) };
            let length = u32::from_le_bytes(length.try_into().expect("four bytes were asked for"));
            self.input.advance(8);
            return Ok(Some(State::Skipping(usize::try_from(length).map_err(|_| Broken)?)));
        }
        if magic != &MAGIC {
            return Err(Broken);
        }
        let Some(&descriptor) = self.input.get(4) else { return Ok(None) };
        let length = header_length(descriptor);
        if self.input.len() < length {
            return Ok(None);
        }
        self.decoder.reset(&self.input[..length]).map_err(|_| Broken)?;
        self.input.advance(length);
        Ok(Some(State::Blocks { checksum: descriptor & 0b100 != 0 }))
    }

    fn skip(&mut self, left: usize) -> Option<State> {
        let skipped = left.min(self.input.len());
        self.input.advance(skipped);
        if skipped == left {
            return Some(State::Between);
        }
        self.state = State::Skipping(left - skipped);
        None
    }

    /// One block at a time, because a few bytes can make a whole one.
    fn block(&mut self, checksum: bool) -> Result<Option<State>, Broken> {
        let Some(&[a, b, c]) = self.input.first_chunk::<3>() else { return Ok(None) };
        let header = u32::from_le_bytes([a, b, c, 0]);
        let (last, kind) = (header & 1 == 1, header >> 1 & 0b11);
        let length = match kind {
            0 | 2 => (header >> 3) as usize,
            // One byte, repeated.
            1 => 1,
            _ => return Err(Broken),
        };
        if length > LARGEST_BLOCK {
            return Err(Broken);
        }
        let fed = self.feed(3 + length)?;
        Ok(fed.map(|_| match (last, checksum) {
            (false, _) => State::Blocks { checksum },
            (true, true) => State::Checksum,
            (true, false) => State::Draining,
        }))
    }

    /// Gives the decoder exactly so many bytes, once they are there.
    fn feed(&mut self, length: usize) -> Result<Option<State>, Broken> {
        if self.input.len() < length {
            return Ok(None);
        }
        let (read, _) = self.decoder.decode_from_to(&self.input[..length], &mut []).map_err(|_| Broken)?;
        if read != length {
            return Err(Broken);
        }
        self.input.advance(length);
        Ok(Some(State::Draining))
    }
}

/// RFC 8878 section 3.1.1.1.
fn header_length(descriptor: u8) -> usize {
    let single_segment = descriptor >> 5 & 1 == 1;
    let window = usize::from(!single_segment);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 0b11)];
    let size = [usize::from(single_segment), 2, 4, 8][usize::from(descriptor >> 6)];
    MAGIC.len() + 1 + window + dictionary + size
}

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const CHECKSUM: usize = 4;
const LARGEST_BLOCK: usize = 128 * 1024;
const LARGEST_WINDOW: u64 = 8 << 20;
