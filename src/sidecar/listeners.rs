//! The sockets of a sidecar. All are bound before any is served.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

use super::Sidecar;
use crate::{
    admin::{self, socket::Socket},
    config::{Listen, Upstreams},
    connection::{self, Slot},
    health,
    listener::{Destination, dns, proxy, transparent},
    refusal::Refusal,
    task::Presented,
    telemetry::trace::TraceContext,
};

/// The sockets of a sidecar.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Explicit proxy.
    pub proxy: Vec<TcpListener>,
    /// Redirected connections.
    pub transparent: Vec<TcpListener>,
    /// Stub resolver.
    pub dns: Vec<UdpSocket>,
    /// Stub resolver over TCP.
    pub dns_tcp: Vec<TcpListener>,
    /// Health and metrics.
    pub health: Option<TcpListener>,
    /// The admin API.
    pub admin: Option<Socket>,
}

impl Listeners {
    /// Binds what the configuration names.
    ///
    /// # Errors
    /// The first address that can't be bound, with the setting that names it.
    pub async fn bind(listen: &Listen) -> anyhow::Result<Self> {
        let mut bound = Self::default();
        if let Some(address) = listen.proxy {
            bound.proxy.push(tcp(address).await.with_context(|| format!("listen.proxy: {address}"))?);
        }
        if let Some(address) = listen.transparent {
            for address in redirected(address) {
                bound.transparent.push(tcp(address).await.with_context(|| format!("listen.transparent: {address}"))?);
            }
        }
        if let Some(address) = listen.dns {
            bound.bind_dns(address).await.with_context(|| format!("listen.dns: {address}"))?;
        }
        if let Some(address) = listen.health {
            bound.health = Some(tcp(address).await.with_context(|| format!("listen.health: {address}"))?);
        }
        if let Some(path) = &listen.admin {
            let socket = Socket::bind(path, listen.admin_user);
            bound.admin = Some(socket.with_context(|| format!("listen.admin: {}", path.display()))?);
        }
        Ok(bound)
    }

    async fn bind_dns(&mut self, address: SocketAddr) -> io::Result<()> {
        for address in redirected(address) {
            let socket = UdpSocket::bind(address).await?;
            // The same port as over UDP, also where the kernel chose it.
            self.dns_tcp.push(tcp(socket.local_addr()?).await?);
            self.dns.push(socket);
        }
        Ok(())
    }

    /// The addresses of all of them.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let tcp = self.proxy.iter().chain(&self.transparent).chain(&self.dns_tcp).chain(&self.health);
        tcp.filter_map(|listener| listener.local_addr().ok())
            .chain(self.dns.iter().filter_map(|socket| socket.local_addr().ok()))
            .collect()
    }

    /// Serves all of them until the sidecar's drain stops; health until it closes.
    pub(super) fn serve(self, sidecar: &Arc<Sidecar>) {
        for listener in self.proxy {
            sidecar.drain.spawn(accept(Arc::clone(sidecar), listener, Way::Proxy));
        }
        for listener in self.transparent {
            sidecar.drain.spawn(accept(Arc::clone(sidecar), listener, Way::Transparent));
        }
        for socket in self.dns {
            let current = Arc::clone(sidecar);
            let upstreams = move || -> Arc<Upstreams> { Arc::clone(&current.generation().upstreams) };
            sidecar.drain.spawn(dns::serve(socket, Arc::clone(&sidecar.names), upstreams, sidecar.drain.token()));
        }
        for listener in self.dns_tcp {
            let current = Arc::clone(sidecar);
            let upstreams = move || -> Arc<Upstreams> { Arc::clone(&current.generation().upstreams) };
            sidecar.drain.spawn(dns::serve_tcp(listener, Arc::clone(&sidecar.names), upstreams, sidecar.drain.token()));
        }
        if let Some(listener) = self.health {
            let metrics = Arc::clone(sidecar.recorder.metrics());
            // Shutdown does not wait for it but ends it last, so that it is seen why the sidecar is not ready meanwhile.
            sidecar.drain.spawn_background(health::serve(listener, sidecar.readiness.clone(), metrics));
        }
        if let Some(socket) = self.admin {
            sidecar.drain.spawn_background(admin::serve(socket, Arc::clone(sidecar)));
        }
    }
}

#[derive(Clone, Copy)]
enum Way {
    Proxy,
    Transparent,
}

async fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Where what is redirected to an address arrives: a redirect leads to the loopback address of each family, so that the
/// IPv4 one alone would leave IPv6 refused. Where the kernel has no IPv6, there is nothing to redirect.
fn redirected(address: SocketAddr) -> Vec<SocketAddr> {
    let twin = SocketAddr::from((Ipv6Addr::LOCALHOST, address.port()));
    let arrives = address.ip() == Ipv4Addr::LOCALHOST || address.ip() == Ipv4Addr::UNSPECIFIED;
    // Port 0 would become two different ones.
    let wanted = arrives && address.port() != 0 && std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    [Some(address), wanted.then_some(twin)].into_iter().flatten().collect()
}

async fn accept(sidecar: Arc<Sidecar>, listener: TcpListener, way: Way) {
    let signals = sidecar.drain.signals();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = signals.stopping() => return,
        };
        match accepted {
            Ok((stream, peer)) => admit(&sidecar, stream, peer, way),
            // Out of descriptors, most likely: connections must end before another can be taken.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn admit(sidecar: &Arc<Sidecar>, stream: TcpStream, peer: SocketAddr, way: Way) {
    let Ok(permit) = Arc::clone(&sidecar.connections).try_acquire_owned() else {
        return turn_away(sidecar, stream, way);
    };
    let gauge = sidecar.recorder.metrics().connection();
    let slot = Slot::new(permit);
    let serving = Arc::clone(sidecar);
    match way {
        Way::Proxy => sidecar.drain.spawn(async move {
            let _open = gauge;
            proxy::serve(serving, stream, peer, slot).await;
        }),
        Way::Transparent => match transparent::original_destination(&stream, &sidecar.own) {
            Ok(addr) => {
                let name = sidecar.names.name_of(addr.ip());
                sidecar.drain.spawn(async move {
                    let _open = gauge;
                    let destination = Destination::Dialled { addr, name };
                    connection::open(serving, stream, peer, destination, Presented::Nothing, None, slot).await;
                });
            }
            Err(refusal) => {
                record(sidecar, refusal);
                connection::reset(stream);
            }
        },
    }
}

/// Refuses a connection that is one too many. It is not read from, so that it costs next to nothing.
fn turn_away(sidecar: &Arc<Sidecar>, mut stream: TcpStream, way: Way) {
    match way {
        Way::Transparent => {
            record(sidecar, Refusal::TooManyConnections);
            connection::reset(stream);
        }
        Way::Proxy => {
            let answer = proxy::turned_away(sidecar);
            sidecar.drain.spawn_background(async move {
                let _ = timeout(TURN_AWAY, async {
                    stream.write_all(answer.as_bytes()).await?;
                    stream.shutdown().await?;
                    // Closing with unread bytes would reset the connection and lose the answer.
                    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
                })
                .await;
            });
        }
    }
}

fn record(sidecar: &Sidecar, refusal: Refusal) {
    let mut record = sidecar.recorder.begin(TraceContext::root());
    record.facts.refusal = Some(refusal);
    record.finish();
}

const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
const TURN_AWAY: Duration = Duration::from_millis(500);
