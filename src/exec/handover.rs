//! Carries messages and descriptors between `tollgate exec` and the process that becomes the command.
//!
//! The channel is a pair of nameless sockets, one of which is that process's standard input until the command's own
//! takes its place. Nothing else can connect to it, and it closes by itself when the command begins.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The first message, to the inside: how the fence is to be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Loopback addresses that are destinations, and so are captured like addresses elsewhere.
    pub loopback: Vec<SocketAddr>,
}

/// The answer to the plan, from the inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Built {
    /// The fence stands. The descriptors of [`Sockets`] come along, in the order that these kinds stand in.
    Standing(Vec<Kind>),
    /// It can't be had, and why.
    Impossible(String),
}

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The explicit proxy's listener.
    Proxy,
    /// A listener for redirected connections.
    Transparent,
    /// A socket of the stub resolver.
    Dns,
}

/// The last message to the inside: become the command. Its standard input comes along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Go {
    /// Variables to set.
    pub set: Vec<(String, String)>,
    /// Variables to remove.
    pub remove: Vec<String>,
}

/// Sent by the inside only if it could not become the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotStarted {
    /// Whether there is no such program.
    pub not_found: bool,
    /// Why.
    pub why: String,
}

/// The sidecar's sockets for one command.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Explicit proxy.
    pub proxy: Vec<TcpListener>,
    /// Redirected connections.
    pub transparent: Vec<TcpListener>,
    /// Stub resolver.
    pub dns: Vec<UdpSocket>,
}

impl Sockets {
    /// What each descriptor is, and the descriptors.
    fn list(&self) -> (Vec<Kind>, Vec<BorrowedFd<'_>>) {
        let proxy = self.proxy.iter().map(|socket| (Kind::Proxy, socket.as_fd()));
        let transparent = self.transparent.iter().map(|socket| (Kind::Transparent, socket.as_fd()));
        let dns = self.dns.iter().map(|socket| (Kind::Dns, socket.as_fd()));
        proxy.chain(transparent).chain(dns).unzip()
    }

    /// The sockets behind these descriptors.
    fn from_list(kinds: &[Kind], descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        if kinds.len() != descriptors.len() {
            return Err(io::Error::other("descriptors are missing"));
        }
        let mut sockets = Self::default();
        for (kind, descriptor) in kinds.iter().zip(descriptors) {
            match kind {
                Kind::Proxy => sockets.proxy.push(descriptor.into()),
                Kind::Transparent => sockets.transparent.push(descriptor.into()),
                Kind::Dns => sockets.dns.push(descriptor.into()),
            }
        }
        Ok(sockets)
    }
}

/// One end of the channel.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Two connected ends. Waiting for the other end is bounded by [`PATIENCE`].
    pub fn pair() -> io::Result<(Self, Self)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok((Self(ours), Self(theirs)))
    }

    /// The end that was given as standard input.
    pub fn from_stdin() -> io::Result<Self> {
        let descriptor = io::stdin().as_fd().try_clone_to_owned()?;
        if sockopt::socket_type(&descriptor)? != SocketType::SEQPACKET {
            return Err(io::Error::other("standard input is not the channel"));
        }
        Ok(Self(descriptor))
    }

    /// The bare descriptor, to be given as standard input.
    pub fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    /// Sends a message.
    pub fn send(&self, message: &impl Serialize) -> io::Result<()> {
        self.send_with(message, &[])
    }

    /// Sends the sockets.
    pub fn send_sockets(&self, sockets: &Sockets) -> io::Result<()> {
        let (kinds, descriptors) = sockets.list();
        self.send_with(&Built::Standing(kinds), &descriptors)
    }

    /// Receives the answer to the plan: the sockets, or why there are none.
    pub fn receive_sockets(&self) -> io::Result<Result<Sockets, String>> {
        match self.receive_with()? {
            Some((Built::Standing(kinds), descriptors)) => Sockets::from_list(&kinds, descriptors).map(Ok),
            Some((Built::Impossible(why), _)) => Ok(Err(why)),
            None => Ok(Err("the process that was to build it ended without a word".to_owned())),
        }
    }

    /// Sends a message with descriptors.
    pub fn send_with(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        let sent = sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
        if sent == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Receives a message; `None` when the other end is closed.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        Ok(self.receive_with()?.map(|(message, _)| message))
    }

    /// Receives a message with descriptors; `None` when the other end is closed.
    pub fn receive_with<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut text = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::other("a message was cut short"));
        }
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&text[..received.bytes])?, descriptors)))
    }
}

const MAX_MESSAGE: usize = 64 * 1024;

const MAX_DESCRIPTORS: usize = 8;

/// Building the fence takes some ten milliseconds. A machine that needs this long has other problems.
const PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_arrive_as_what_they_were_sent() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let sockets = Sockets {
            proxy: vec![TcpListener::bind("127.0.0.1:0").expect("a free port")],
            transparent: vec![TcpListener::bind("127.0.0.1:0").expect("a free port")],
            dns: vec![UdpSocket::bind("127.0.0.1:0").expect("a free port")],
        };
        theirs.send_sockets(&sockets).expect("sent");
        let received = ours.receive_sockets().expect("received").expect("standing");
        assert_eq!(received.proxy[0].local_addr().expect("bound"), sockets.proxy[0].local_addr().expect("bound"));
        assert_eq!(
            received.transparent[0].local_addr().expect("bound"),
            sockets.transparent[0].local_addr().expect("bound")
        );
        assert_eq!(received.dns[0].local_addr().expect("bound"), sockets.dns[0].local_addr().expect("bound"));
    }

    #[test]
    fn a_reason_arrives_as_a_reason() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        theirs.send(&Built::Impossible("no nft".to_owned())).expect("sent");
        assert_eq!(ours.receive_sockets().expect("received").expect_err("impossible"), "no nft");
    }

    #[test]
    fn a_closed_end_is_told_from_a_message() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        drop(theirs);
        assert_eq!(ours.receive::<Go>().expect("received"), None);
        assert!(ours.receive_sockets().expect("received").is_err());
    }

    #[test]
    fn a_count_that_does_not_fit_the_descriptors_is_refused() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        theirs.send(&Built::Standing(vec![Kind::Proxy])).expect("sent");
        assert!(ours.receive_sockets().is_err());
    }
}
