//! Tries what a socket can send.

use std::{
    fs, io,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send,
        socket_with, sockopt,
    },
};
use socket2::{Domain, Socket, Type};

use super::{Fence, Finding, Probe, Way};

/// What is tried at the same time.
pub fn probes(fence: &Fence) -> Vec<Probe> {
    let mut probes: Vec<Probe> = Vec::new();
    for address in TCP {
        probes.push(Box::new(move || Finding::of(Way::Tcp, address.to_string(), tcp(address))));
    }
    for address in UDP {
        probes.push(Box::new(move || Finding::of(Way::Udp, address.to_string(), udp(address))));
    }
    for device in devices() {
        // A socket may choose its interface, which changes how what was redirected is routed.
        let address = SocketAddr::from(([127, 0, 0, 1], fence.dns));
        let tried = format!("{address} by {device}");
        probes.push(Box::new(move || Finding::of(Way::Udp, tried, by_device(&device, address))));
    }
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    for (from, to) in [IpAddr::V4(NOBODY4), IpAddr::V6(NOBODY6)].into_iter().zip(loopback) {
        let tried = format!("{to} from {from}");
        probes.push(Box::new(move || Finding::of(Way::Source, tried, from_another(from, to))));
    }
    for (family, name) in [(AddressFamily::INET, "IPv4"), (AddressFamily::INET6, "IPv6")] {
        probes.push(Box::new(move || Finding::of(Way::Icmp, format!("{name} echo request"), echo(family))));
        probes.push(Box::new(move || Finding::of(Way::Raw, format!("{name} raw socket"), raw(family))));
    }
    probes.push(Box::new(|| Finding::of(Way::Raw, "packet socket", packet())));
    probes
}

/// What the sidecar makes of connections to its own ports, which were redirected from nowhere.
pub fn relays(fence: &Fence) -> Vec<Finding> {
    let [first, ..] = TCP;
    let transparent = SocketAddr::from(([127, 0, 0, 1], fence.transparent));
    let proxy = SocketAddr::from(([127, 0, 0, 1], fence.proxy));
    let get = format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", first.ip());
    let tunnel = |to: SocketAddr| format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n");
    let tries = [
        ("transparent listener, directly", transparent, get),
        ("proxy, to an odd port", proxy, tunnel(first)),
        ("proxy, to the sidecar itself", proxy, tunnel(transparent)),
    ];
    tries.map(|(tried, address, request)| Finding::of(Way::Relay, tried, relay(address, &request))).to_vec()
}

fn relay(address: SocketAddr, request: &str) -> Result<String, String> {
    match ask(address, request) {
        Err(error) => Ok(format!("not served: {error}")),
        Ok(answer) if answer.is_empty() => Ok("closed without an answer".to_owned()),
        Ok(answer) if answer.starts_with("HTTP/1.1 2") => Err("it passed the call on".to_owned()),
        Ok(answer) if is_the_sidecars(&answer) => Ok("refused by the sidecar".to_owned()),
        Ok(_) => Err("something else answered".to_owned()),
    }
}

fn tcp(address: SocketAddr) -> Result<String, String> {
    if !has_route(address) {
        return Ok(NO_ROUTE.to_owned());
    }
    let host = match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    };
    let request = format!("GET / HTTP/1.1\r\nhost: {host}:{}\r\nconnection: close\r\n\r\n", address.port());
    match ask(address, &request) {
        Ok(answer) if is_the_sidecars(&answer) => Ok("captured by the sidecar".to_owned()),
        Ok(_) => Err("connected to something that is not the sidecar".to_owned()),
        Err(error) => Err(format!("not captured: {error}")),
    }
}

/// Connects, says this, and reads the head of the answer.
fn ask(address: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // Who refuses may not read it.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    while answer.len() < LONGEST_HEAD && !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Whether an answer is the sidecar's own: each of them names the decision.
fn is_the_sidecars(answer: &str) -> bool {
    answer.lines().skip(1).any(|line| line.to_ascii_lowercase().starts_with("tollgate-decision:"))
}

fn udp(address: SocketAddr) -> Result<String, String> {
    if !has_route(address) {
        return Ok(NO_ROUTE.to_owned());
    }
    let sent = UdpSocket::bind(any(address)).and_then(|socket| socket.send_to(b"tollgate", address));
    refused(sent.map(|_| ()))
}

fn by_device(device: &str, address: SocketAddr) -> Result<String, String> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).map_err(|error| error.to_string())?;
    match socket.bind_device(Some(device.as_bytes())) {
        Err(_) => Ok("a socket can't choose its interface".to_owned()),
        Ok(()) => refused(socket.send_to(b"tollgate", &address.into()).map(|_| ())),
    }
}

/// What is called by loopback in the name of an address outside answers there, past the rules for who calls.
fn from_another(from: IpAddr, to: IpAddr) -> Result<String, String> {
    let from = SocketAddr::new(from, 0);
    let bound = Socket::new(Domain::for_address(from), Type::DGRAM, None).and_then(|socket| {
        if from.is_ipv4() { socket.set_freebind_v4(true) } else { socket.set_freebind_v6(true) }?;
        socket.bind(&from.into())?;
        Ok(socket)
    });
    match bound.and_then(|socket| socket.send_to(b"tollgate", &SocketAddr::new(to, DISCARD).into())) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(REFUSED.to_owned()),
        Err(error) => Ok(format!("not possible: {error}")),
        Ok(_) => Err("it was sent: what it calls answers past the fence".to_owned()),
    }
}

fn echo(family: AddressFamily) -> Result<String, String> {
    match internet_socket(family, SocketType::DGRAM) {
        Err(error) => Ok(format!("no socket for it: {error}")),
        Ok(socket) => match send_echo(&socket, family) {
            // Over IPv6 the kernel takes what it refuses, and says so afterwards to who waits for the answer.
            Err(_) if refused_afterwards(&socket) => Ok(REFUSED.to_owned()),
            seen => seen,
        },
    }
}

fn refused_afterwards(socket: &OwnedFd) -> bool {
    let waited = sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(AFTERWARDS));
    let answer = waited.and_then(|()| recv(socket, &mut [0; 64], RecvFlags::empty()));
    matches!(answer, Err(Errno::CONNREFUSED | Errno::ACCESS | Errno::PERM))
}

/// A raw socket is a hole even where the table stops what it sends: it sees what others receive, and what it sends can
/// look like an answer.
fn raw(family: AddressFamily) -> Result<String, String> {
    match internet_socket(family, SocketType::RAW) {
        Err(error) => Ok(format!("no socket for it: {error}")),
        Ok(socket) => match send_echo(&socket, family) {
            Ok(_) => Err("one can be opened, though the table stops what it sends".to_owned()),
            Err(seen) => Err(format!("one can be opened, and {seen}")),
        },
    }
}

fn packet() -> Result<String, String> {
    match socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None) {
        Err(error) => Ok(format!("no socket for it: {}", io::Error::from(error))),
        Ok(_) => Err("one can be opened: what it sends passes by every table".to_owned()),
    }
}

fn internet_socket(family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
    let protocol: Protocol = if family == AddressFamily::INET { ipproto::ICMP } else { ipproto::ICMPV6 };
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))?)
}

fn send_echo(socket: &OwnedFd, family: AddressFamily) -> Result<String, String> {
    let (to, kind): (SocketAddr, u8) = match family {
        AddressFamily::INET => (SocketAddr::from((NOBODY4, 0)), 8),
        _ => (SocketAddr::from((NOBODY6, 0)), 128),
    };
    if !has_route(SocketAddr::new(to.ip(), 9)) {
        return Ok(NO_ROUTE.to_owned());
    }
    // Only who is connected hears of errors.
    let sent = connect(socket, &to).and_then(|()| send(socket, &[kind, 0, 0, 0, 0, 1, 0, 1], SendFlags::empty()));
    refused(sent.map(|_| ()).map_err(Into::into))
}

/// Only this kernel's own no holds.
fn refused(sent: io::Result<()>) -> Result<String, String> {
    match sent {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(REFUSED.to_owned()),
        Err(error) => Err(format!("not refused, it only failed: {error}")),
        Ok(()) => Err("it was sent".to_owned()),
    }
}

/// Asked without sending anything. Where there is no route, no rule is needed.
fn has_route(address: SocketAddr) -> bool {
    UdpSocket::bind(any(address)).and_then(|socket| socket.connect(address)).is_ok()
}

fn any(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// The interfaces that lead out.
fn devices() -> Vec<String> {
    let table = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    names.filter(|name| *name != "lo").map(str::to_owned).collect()
}

const NO_ROUTE: &str = "there is no route";
const REFUSED: &str = "refused by the kernel";

const NOBODY4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NOBODY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

const fn v4(ip: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3])), port)
}

const fn v6(ip: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(ip), port)
}

/// What agents call, what leaves unseen elsewhere (SSH, mail, databases, the API server), a port of nobody's, and the
/// clouds' metadata.
const TCP: [SocketAddr; 16] = [
    v4([192, 0, 2, 1], 22),
    v4([192, 0, 2, 1], 25),
    v4([192, 0, 2, 1], 80),
    v4([192, 0, 2, 1], 443),
    v4([192, 0, 2, 1], 853),
    v4([192, 0, 2, 1], 5432),
    v4([192, 0, 2, 1], 6379),
    v4([192, 0, 2, 1], 6443),
    v4([198, 51, 100, 1], 8443),
    v4([203, 0, 113, 1], 49_161),
    v4([169, 254, 169, 254], 80),
    v6(NOBODY6, 22),
    v6(NOBODY6, 80),
    v6(NOBODY6, 443),
    v6(NOBODY6, 49_161),
    v6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 80),
];

/// QUIC, time, other DNS, tunnels.
const UDP: [SocketAddr; 9] = [
    v4([192, 0, 2, 1], 443),
    v4([192, 0, 2, 1], 123),
    v4([192, 0, 2, 1], 853),
    v4([192, 0, 2, 1], 5353),
    v4([198, 51, 100, 1], 4789),
    v4([203, 0, 113, 1], 51_820),
    v6(NOBODY6, 443),
    v6(NOBODY6, 853),
    v6(NOBODY6, 51_820),
];

/// Nobody serves it.
const DISCARD: u16 = 9;

/// What holds is answered within a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);

const AFTERWARDS: Duration = Duration::from_millis(300);

const LONGEST_HEAD: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sidecars_answers_are_its_own() {
        assert!(is_the_sidecars("HTTP/1.1 403 Forbidden\r\nTollgate-Decision: 0\r\n\r\n"));
        assert!(!is_the_sidecars("HTTP/1.1 200 OK\r\nserver: nginx\r\n\r\ntollgate"));
        assert!(!is_the_sidecars(""));
    }

    #[test]
    fn only_the_kernels_no_counts_as_refused() {
        assert!(refused(Err(io::ErrorKind::PermissionDenied.into())).is_ok());
        assert!(refused(Err(io::ErrorKind::NetworkUnreachable.into())).is_err());
        assert!(refused(Ok(())).is_err());
    }
}
