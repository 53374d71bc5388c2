//! Speaks with the kernel's packet filter over netlink, so that no program and no library of nftables is needed.
//!
//! Nothing here knows rules: messages of nested attributes go out as one transaction, or as a question with many answers.

use std::{io, mem, os::fd::OwnedFd, time::Duration};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with, sockopt,
};

/// A list of attributes: each a kind and bytes, which may be a list again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// Appends bytes.
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + HEADER).expect("no attribute of a rule is longer than a rule");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(padded(self.0.len()), 0);
        self
    }

    /// Appends a text.
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Appends a number.
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Appends a list.
    pub fn nested(self, kind: u16, value: Self) -> Self {
        self.bytes(kind | NESTED, &value.0)
    }

    /// The bytes on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The attributes in these bytes, with their kinds. What is cut short ends the list.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = (number16(bytes, 0)?, number16(bytes, 2)?);
        let value = bytes.get(HEADER..usize::from(length))?;
        bytes = bytes.get(padded(usize::from(length))..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of this kind in these bytes.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found & KIND == kind).then_some(value))
}

/// Whether `theirs` says all that `ours` says. The kernel has an order of its own and adds what it counts, but it can't add
/// to a list without this being false: of each kind that ours has, theirs has as many.
pub fn says_all(theirs: &[u8], ours: &Attributes) -> bool {
    attributes(&ours.0).enumerate().all(|(index, (kind, value))| {
        let of_kind = |(other, _): &(u16, &[u8])| other & KIND == kind & KIND;
        let before = attributes(&ours.0).take(index).filter(of_kind).count();
        let same = |bytes: &[u8]| match kind & NESTED {
            0 => bytes == value,
            _ => says_all(bytes, &Attributes(value.to_vec())),
        };
        attributes(theirs).filter(of_kind).count() == attributes(&ours.0).filter(of_kind).count()
            && attributes(theirs).filter(of_kind).nth(before).is_some_and(|(_, bytes)| same(bytes))
    })
}

/// One message to the packet filter.
#[derive(Debug, Clone)]
pub struct Request {
    kind: u8,
    flags: u16,
    attributes: Attributes,
}

impl Request {
    /// A message of this kind, with flags beside those that every message has.
    pub fn new(kind: u8, flags: u16, attributes: Attributes) -> Self {
        Self { kind, flags, attributes }
    }
}

/// A connection with the packet filter of the network namespace that this thread is in.
#[derive(Debug)]
pub struct PacketFilter(OwnedFd);

impl PacketFilter {
    /// Connects. No right is needed for this yet.
    pub fn connect() -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Does all that is asked at once, or nothing of it.
    pub fn transact(&self, requests: &[Request]) -> io::Result<()> {
        let mut text = Vec::new();
        append(&mut text, BATCH_BEGIN, REQUEST, 0, UNSPECIFIED, SUBSYSTEM, &[]);
        for (index, request) in requests.iter().enumerate() {
            let sequence = u32::try_from(index + 1).expect("a table has fewer rules");
            append(
                &mut text,
                of(request.kind),
                REQUEST | ACK | request.flags,
                sequence,
                INET,
                0,
                &request.attributes.0,
            );
        }
        append(&mut text, BATCH_END, REQUEST, 0, UNSPECIFIED, SUBSYSTEM, &[]);
        send(&self.0, &text, SendFlags::empty())?;
        let mut done = 0;
        while done < requests.len() {
            for message in self.receive()? {
                // The kernel answers each message of a transaction; the first that it does not like undoes all.
                if message.kind == ERROR {
                    message.result()?;
                    done += 1;
                }
            }
        }
        Ok(())
    }

    /// All that there is of one kind, as the attributes of each.
    pub fn list(&self, request: &Request) -> io::Result<Vec<Vec<u8>>> {
        let mut text = Vec::new();
        append(&mut text, of(request.kind), REQUEST | DUMP | request.flags, 1, INET, 0, &request.attributes.0);
        send(&self.0, &text, SendFlags::empty())?;
        let mut found = Vec::new();
        loop {
            for message in self.receive()? {
                match message.kind {
                    DONE => return Ok(found),
                    ERROR => message.result()?,
                    _ => found.push(message.payload.get(GENERIC..).unwrap_or_default().to_vec()),
                }
            }
        }
    }

    fn receive(&self) -> io::Result<Vec<Message>> {
        let mut buffer = vec![0; LARGEST];
        let (_, length) = recv(&self.0, &mut buffer[..], RecvFlags::TRUNC)?;
        let mut rest = buffer.get(..length).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut messages = Vec::new();
        while let (Some(length), Some(kind)) = (number32(rest, 0), number16(rest, 4)) {
            let length = length as usize;
            let payload = rest.get(MESSAGE..length).ok_or(io::ErrorKind::InvalidData)?.to_vec();
            messages.push(Message { kind, payload });
            rest = rest.get(padded(length)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

struct Message {
    kind: u16,
    payload: Vec<u8>,
}

impl Message {
    /// What an answer of kind [`ERROR`] says; zero is no error.
    fn result(&self) -> io::Result<()> {
        match number32(&self.payload, 0).map(u32::cast_signed) {
            Some(0) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Appends one message.
fn append(to: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, attributes: &[u8]) {
    let length = u32::try_from(MESSAGE + GENERIC + attributes.len()).expect("no message is longer than a table");
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(flags.to_ne_bytes());
    to.extend(sequence.to_ne_bytes());
    to.extend(0_u32.to_ne_bytes());
    to.extend([family, 0]);
    to.extend(resource.to_be_bytes());
    to.extend(attributes);
}

fn of(kind: u8) -> u16 {
    (SUBSYSTEM << 8) | u16::from(kind)
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + mem::size_of::<u16>())?.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + mem::size_of::<u32>())?.try_into().ok()?))
}

/// Sizes of the headers of an attribute, of a message, and of what the packet filter adds to it.
const HEADER: usize = 4;
const MESSAGE: usize = 16;
const GENERIC: usize = 4;

const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const SUBSYSTEM: u16 = 10;
const UNSPECIFIED: u8 = 0;
const INET: u8 = 1;

/// The kernel fills at most this much at a time.
const LARGEST: usize = 64 * 1024;

/// The kernel answers before sending returns.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn list(members: &[&[u8]]) -> Attributes {
        members
            .iter()
            .fold(Attributes::default(), |list, member| list.nested(1, Attributes::default().bytes(2, member)))
    }

    #[test]
    fn attributes_come_back_as_they_went() {
        let sent = Attributes::default().text(1, "lo").number(2, 7).bytes(3, &[1, 2, 3, 4, 5]);
        let all: Vec<_> = attributes(sent.as_bytes()).collect();
        assert_eq!(all, [(1, &b"lo\0"[..]), (2, &[0, 0, 0, 7]), (3, &[1, 2, 3, 4, 5])]);
        let nested = Attributes::default().nested(4, sent);
        assert_eq!(attribute(nested.as_bytes(), 4).and_then(|list| attribute(list, 1)), Some(&b"lo\0"[..]));
        assert_eq!(attribute(nested.as_bytes(), 1), None);
        assert_eq!(attributes(&[9, 0, 1, 0, 0]).count(), 0, "longer than there is");
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0, "shorter than a header");
    }

    #[test]
    fn what_the_kernel_adds_does_not_matter_and_what_differs_does() {
        let ours = list(&[b"a", b"b"]);
        assert!(says_all(list(&[b"a", b"b"]).as_bytes(), &ours));
        for other in [list(&[b"a"]), list(&[b"b", b"a"]), list(&[b"a", b"b", b"c"]), list(&[b"a", b"x"])] {
            assert!(!says_all(other.as_bytes(), &ours), "{other:?}");
        }
        let more = Attributes::default().number(1, 7).number(6, 0);
        assert!(says_all(more.as_bytes(), &Attributes::default().number(1, 7)));
    }
}
