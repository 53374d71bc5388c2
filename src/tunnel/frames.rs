//! The frames of a WebSocket whose call carried a credential: what an origin says of the secret in one is overwritten.
//!
//! Servers do not mask, and nothing is compressed, because no extension was asked for (RFC 6455 section 5): a frame that
//! is either all the same breaks the socket off. What is held back passes with the end of its frame.

use std::{
    borrow::Cow,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{audit::AnswerFacts, exchange::custody::Custody, secret::scrub::Scrubber};

/// The origin's side of a tunnel. Where there is a credential to look for, its frames are read.
pub struct Watched<S> {
    stream: S,
    reader: Option<Box<Reader>>,
    /// Where there is nothing to look for: a credential that ends with its call stays until the stream has ended.
    _unread: Option<Custody>,
}

struct Reader {
    custody: Custody,
    facts: AnswerFacts,
    frames: Frames,
    told: u64,
    read: Box<[u8]>,
    passing: BytesMut,
}

struct Frames {
    scrubber: Scrubber,
    /// What was read of a frame's head.
    head: Vec<u8>,
    /// What is to come of its payload.
    left: u64,
}

impl<S> Watched<S> {
    /// Reads frames where this custody looks for something, else passes bytes as they are.
    pub fn new(stream: S, custody: Option<Custody>) -> Self {
        let Some(scrubber) = custody.as_ref().and_then(Custody::scrubber) else {
            return Self { stream, reader: None, _unread: custody };
        };
        let reader = custody.map(|custody| {
            let frames = Frames { scrubber, head: Vec::new(), left: 0 };
            let (read, passing) = (vec![0; READ].into_boxed_slice(), BytesMut::new());
            Box::new(Reader { custody, facts: AnswerFacts::default(), frames, told: 0, read, passing })
        });
        Self { stream, reader, _unread: None }
    }

    /// What is behind it.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Notes what was found.
    pub fn tell(self, facts: &mut AnswerFacts) {
        for scrubbed in self.reader.into_iter().flat_map(|reader| reader.facts.scrubbed) {
            facts.add(scrubbed.place, scrubbed.count);
        }
    }
}

impl Reader {
    fn take(&mut self, read: usize) -> io::Result<()> {
        self.frames.pass(&self.read[..read], &mut self.passing)?;
        let found = self.frames.scrubber.found() - self.told;
        if found > 0 {
            self.told += found;
            self.custody.found(&mut self.facts, Cow::Borrowed("frame"), found);
        }
        Ok(())
    }
}

impl Frames {
    /// Appends what may pass. Nothing read means that the stream has ended.
    fn pass(&mut self, mut read: &[u8], passing: &mut BytesMut) -> io::Result<()> {
        if read.is_empty() {
            passing.extend_from_slice(&self.scrubber.finish());
            passing.extend_from_slice(&std::mem::take(&mut self.head));
        }
        while !read.is_empty() {
            if self.left == 0 {
                self.head.push(read.get_u8());
                if let Some(length) = length(&self.head)? {
                    passing.extend_from_slice(&self.head);
                    self.head.clear();
                    self.left = length;
                }
                continue;
            }
            let here = usize::try_from(self.left).map_or(read.len(), |left| left.min(read.len()));
            for part in self.scrubber.push(Bytes::copy_from_slice(&read[..here])) {
                passing.extend_from_slice(&part);
            }
            self.left -= here as u64;
            read.advance(here);
            if self.left == 0 {
                passing.extend_from_slice(&self.scrubber.finish());
            }
        }
        Ok(())
    }
}

/// The length of the payload, once the head is whole.
fn length(head: &[u8]) -> io::Result<Option<u64>> {
    if head[0] & RESERVED != 0 || head.get(1).is_some_and(|second| second & MASKED != 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is masked or of an extension"));
    }
    Ok(match head {
        [_, 126, high, low] => Some(u64::from(u16::from_be_bytes([*high, *low]))),
        [_, 127, length @ ..] => length.try_into().ok().map(u64::from_be_bytes),
        [_, length] if *length < 126 => Some(u64::from(*length)),
        _ => None,
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, reader, .. } = &mut *self;
        let Some(reader) = reader else { return Pin::new(stream).poll_read(cx, buf) };
        while reader.passing.is_empty() {
            let mut read = ReadBuf::new(&mut reader.read);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
            let read = read.filled().len();
            reader.take(read)?;
            if read == 0 {
                break;
            }
        }
        let passing = reader.passing.len().min(buf.remaining());
        buf.put_slice(&reader.passing.split_to(passing));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

const READ: usize = 16 * 1024;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::secret::scrub::Needles;

    const SECRET: &str = "s3cr/t+CaNaRy~0123456789";

    fn frame(payload: &str) -> Vec<u8> {
        let length = payload.len();
        let head = match length {
            0..126 => vec![0x81, u8::try_from(length).unwrap()],
            126..0x1_0000 => [&[0x81, 126][..], &u16::try_from(length).unwrap().to_be_bytes()].concat(),
            _ => [&[0x81, 127][..], &(length as u64).to_be_bytes()].concat(),
        };
        [&head, payload.as_bytes()].concat()
    }

    fn frames() -> Frames {
        let needles = Needles::new(&[SECRET]).expect("it is long enough");
        Frames { scrubber: Scrubber::new(Arc::new(needles)), head: Vec::new(), left: 0 }
    }

    #[test]
    fn payloads_lose_the_secret_and_frames_stay_frames() {
        let long = "x".repeat(70_000);
        let said = |secret: &str| {
            let texts = [
                String::new(),
                secret.into(),
                format!("{long}{secret}"),
                format!("{long:.200}{secret}."),
                "s3c".into(),
            ];
            texts.iter().flat_map(|text| frame(text)).collect::<Vec<u8>>()
        };
        let redacted = format!("REDACTED{}", "*".repeat(SECRET.len() - 8));
        for size in [1, 2, 3, 7, 100, 16_384, 100_000] {
            let (mut frames, mut passed) = (frames(), BytesMut::new());
            for chunk in said(SECRET).chunks(size) {
                frames.pass(chunk, &mut passed).expect("they are frames");
            }
            assert!(passed == said(&redacted), "by {size}, and nothing is held back behind a frame");
            assert_eq!(frames.scrubber.found(), 3);
        }
    }

    #[test]
    fn what_could_hide_it_breaks_the_socket_off() {
        for head in [[0xc1, 1], [0x91, 1], [0x81, 0x81]] {
            assert!(frames().pass(&head, &mut BytesMut::new()).is_err(), "{head:x?}");
        }
    }
}
