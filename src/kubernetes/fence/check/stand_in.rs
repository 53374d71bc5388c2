//! Listens where the sidecar will listen.
//!
//! In the older form of a sidecar the check runs before it. Then what the kernel redirects must still land somewhere that
//! can say so. Nothing is passed on, and every name but the proof's does not exist.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::Fence;
use crate::listener::dns;

/// What listens in the sidecar's place, until it is dropped.
#[derive(Debug)]
pub struct StandIn {
    stop: Arc<AtomicBool>,
    serving: Vec<JoinHandle<()>>,
}

impl StandIn {
    /// Takes the sidecar's place; `None` where something has it.
    pub fn raise(fence: &Fence) -> Option<Self> {
        let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        let mut http = vec![TcpListener::bind((v4, fence.transparent)).ok()?];
        let mut names = vec![TcpListener::bind((v4, fence.dns)).ok()?];
        let mut datagrams = vec![UdpSocket::bind((v4, fence.dns)).ok()?];
        // Where there is no IPv6 there is nothing to land.
        http.extend(TcpListener::bind((v6, fence.transparent)));
        names.extend(TcpListener::bind((v6, fence.dns)));
        datagrams.extend(UdpSocket::bind((v6, fence.dns)));
        let stop = Arc::new(AtomicBool::new(false));
        let http = http.into_iter().filter_map(|listener| accept(listener, &stop, answer_http));
        let names = names.into_iter().filter_map(|listener| accept(listener, &stop, answer_name));
        let datagrams = datagrams.into_iter().filter_map(|socket| receive(socket, &stop));
        Some(Self { serving: http.chain(names).chain(datagrams).collect(), stop })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.serving.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: TcpListener, stop: &Arc<AtomicBool>, answer: fn(TcpStream)) -> Option<JoinHandle<()>> {
    listener.set_nonblocking(true).ok()?;
    let stop = Arc::clone(stop);
    Some(thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => answer(stream),
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }))
}

fn receive(socket: UdpSocket, stop: &Arc<AtomicBool>) -> Option<JoinHandle<()>> {
    socket.set_read_timeout(Some(PAUSE)).ok()?;
    let stop = Arc::clone(stop);
    Some(thread::spawn(move || {
        let mut buffer = [0; 1500];
        while !stop.load(Ordering::Relaxed) {
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
            if let Some(answer) = dns::answer_for_nobody(&buffer[..length]) {
                let _ = socket.send_to(&answer, peer);
            }
        }
    }))
}

/// Says what the sidecar's refusals say; an error means that the other side went away.
fn answer_http(mut stream: TcpStream) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.read(&mut [0; 1024]);
    let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ntollgate-decision: fence-check\r\ncontent-length: 0\r\n\r\n");
}

fn answer_name(mut stream: TcpStream) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut length = [0; 2];
    if stream.read_exact(&mut length).is_err() {
        return;
    }
    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
    if stream.read_exact(&mut query).is_err() {
        return;
    }
    let Some(answer) = dns::answer_for_nobody(&query) else { return };
    let Ok(length) = u16::try_from(answer.len()) else { return };
    let _ = stream.write_all(&[&length.to_be_bytes()[..], &answer].concat());
}

const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(1);
