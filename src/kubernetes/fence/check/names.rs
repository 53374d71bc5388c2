//! Tries to ask others for names.
//!
//! The stub resolver proves that it was asked by a record that no other resolver has.

use std::{
    fs, io,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};

use super::{Finding, Probe, Way};
use crate::listener::dns::{PROOF, PROOF_NAME};

/// What is tried at the same time.
pub fn probes() -> Vec<Probe> {
    let mut probes: Vec<Probe> = Vec::new();
    let nobody = ["192.0.2.53:53", "[2001:db8::53]:53"].map(|text| text.parse().expect("it is an address"));
    for address in nobody.into_iter().chain(resolvers()) {
        probes.push(Box::new(move || Finding::of(Way::Dns, format!("{address} over UDP"), proof(address, over_udp))));
        probes.push(Box::new(move || Finding::of(Way::Dns, format!("{address} over TCP"), proof(address, over_tcp))));
    }
    probes.push(Box::new(|| Finding::of(Way::Dns, format!("a question for {NOT_A_DESTINATION}"), unknown())));
    probes
}

/// Those that programs here ask.
fn resolvers() -> Vec<SocketAddr> {
    let file = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = file.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = servers.filter_map(|rest| rest.split('%').next()?.trim().parse::<IpAddr>().ok());
    // What answers on loopback is fenced in as well.
    addresses.filter(|ip| !ip.is_loopback()).map(|ip| SocketAddr::new(ip, 53)).collect()
}

type Transport = fn(SocketAddr, &[u8]) -> io::Result<Vec<u8>>;

fn proof(address: SocketAddr, transport: Transport) -> Result<String, String> {
    match exchange(address, transport, PROOF_NAME, RecordType::TXT) {
        Err(error) if no_route(&error) => Ok("there is no route".to_owned()),
        Err(error) => Err(format!("not captured: {error}")),
        Ok(answer) if proves(&answer) => Ok("captured by the stub resolver".to_owned()),
        Ok(_) => Err("another resolver answered".to_owned()),
    }
}

/// A name that nobody may call does not exist, whoever is asked.
fn unknown() -> Result<String, String> {
    let address = "192.0.2.53:53".parse().expect("it is an address");
    match exchange(address, over_udp, NOT_A_DESTINATION, RecordType::A) {
        Err(error) if no_route(&error) => Ok("there is no route".to_owned()),
        Err(error) => Err(format!("not captured: {error}")),
        Ok(answer) if answer.metadata.response_code == ResponseCode::NXDomain => Ok("it does not exist".to_owned()),
        Ok(answer) => Err(format!("the answer is {}", answer.metadata.response_code)),
    }
}

fn proves(answer: &Message) -> bool {
    answer.answers.iter().any(|record| match &record.data {
        RData::TXT(text) => text.txt_data.iter().any(|part| **part == *PROOF.as_bytes()),
        _ => false,
    })
}

fn exchange(address: SocketAddr, transport: Transport, name: &str, kind: RecordType) -> io::Result<Message> {
    let mut query = Message::new(ID, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).map_err(io::Error::other)?, kind));
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let answer = Message::from_vec(&transport(address, &bytes)?).map_err(io::Error::other)?;
    if answer.metadata.id == ID { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn over_udp(address: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; 1500];
    // Datagrams get lost, also on the way to a stub.
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..TRIES {
        socket.send(query)?;
        match socket.recv(&mut buffer) {
            Ok(length) => return Ok(buffer[..length].to_vec()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn over_tcp(address: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE * 2)?;
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn no_route(error: &io::Error) -> bool {
    // Said by this kernel without sending anything: a router's word would come as an error of receiving.
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable)
}

const ID: u16 = 0x7467;

/// Reserved by RFC 2606; no destination is called so.
const NOT_A_DESTINATION: &str = "fence-check.example.";

const TRIES: usize = 2;
const PATIENCE: Duration = Duration::from_secs(1);
