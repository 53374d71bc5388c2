//! Destinations: where calls may go.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{Check, at};
use crate::{
    config::{
        HostPattern, Protocol, TlsMode, Upstream, Upstreams,
        document::Place,
        settings::{self, Destination, Reach},
        values,
    },
    credential::Declaration,
    origin::address::{Class, check_floor},
    secret::{Treatment, rules::Rules},
};

/// All destinations, no two of which claim the same host and port.
pub(super) fn upstreams(
    check: &mut Check<'_>,
    settings: &BTreeMap<String, Destination>,
    credentials: &BTreeMap<String, Arc<Declaration>>,
) -> Upstreams {
    let mut claims = HashMap::new();
    let mut all = Vec::with_capacity(settings.len());
    for (key, destination) in settings {
        let place = at(&["destinations"]).key(key);
        if let Err(message) = name(key) {
            check.document.report(&place, message);
        }
        let hosts = hosts(check, &place, destination);
        for (index, host) in &hosts {
            for port in &destination.ports {
                if let Some(other) = claims.insert((host.clone(), *port), key.clone()) {
                    let message = format!("destination {other} claims this host at port {port} already");
                    check.document.report(&place.key("hosts").index(*index), message);
                }
            }
        }
        let hosts = hosts.into_iter().map(|(_, host)| host).collect();
        all.push(Arc::new(upstream(check, &place, key, hosts, destination, credentials)));
    }
    Upstreams::new(all)
}

fn upstream(
    check: &mut Check<'_>,
    place: &Place,
    name: &str,
    hosts: Vec<HostPattern>,
    destination: &Destination,
    credentials: &BTreeMap<String, Arc<Declaration>>,
) -> Upstream {
    if destination.ports.is_empty() {
        check.document.report(&place.key("ports"), "is empty; name at least one port");
    }
    for (index, _) in destination.ports.iter().enumerate().filter(|(_, port)| **port == 0) {
        check.document.report(&place.key("ports").index(index), "port 0 can't be reached");
    }
    if destination.reach.is_empty() && destination.addresses.is_empty() {
        check.document.report(&place.key("reach"), "is empty, and no addresses are given, so nothing can be reached");
    }
    for (index, ip) in destination.addresses.iter().enumerate() {
        if let Some(message) = never_dialled(*ip) {
            check.document.report(&place.key("addresses").index(index), message);
        }
    }
    Upstream {
        name: name.into(),
        hosts,
        ports: destination.ports.clone(),
        reach_public: destination.reach.contains(&Reach::Public),
        reach_private: destination.reach.contains(&Reach::Private),
        addresses: destination.addresses.iter().map(IpAddr::to_canonical).collect(),
        protocol: protocol(check, place, destination),
        tls: destination.tls,
        zone: destination.zone.as_str().into(),
        environment: destination.environment.as_str().into(),
        classification: destination.classification,
        secrets: secrets(check, place, destination),
        credential: credential(check, place, destination, credentials),
        placeholder: placeholder(check, place, destination),
    }
}

fn hosts(check: &mut Check<'_>, place: &Place, destination: &Destination) -> Vec<(usize, HostPattern)> {
    let place = place.key("hosts");
    if destination.hosts.is_empty() {
        check.document.report(&place, "is empty; name at least one host");
    }
    let mut hosts = Vec::with_capacity(destination.hosts.len());
    for (index, text) in destination.hosts.iter().enumerate() {
        let host = values::host_pattern(text).and_then(|host| reachable(&host, destination).map(|()| host));
        match host {
            Ok(host) => hosts.push((index, host)),
            Err(message) => check.document.report(&place.index(index), message),
        }
    }
    hosts
}

/// What can never be dialled is refused here already, where its line is known.
fn reachable(host: &HostPattern, destination: &Destination) -> Result<(), &'static str> {
    let HostPattern::Exact(name) = host else { return Ok(()) };
    let Ok(ip) = name.parse::<IpAddr>() else {
        return check_floor(name).map_err(|_| "a metadata service is never dialled");
    };
    if let Some(message) = never_dialled(ip) {
        return Err(message);
    }
    if Class::of(ip) == Class::Loopback && destination.addresses.is_empty() {
        return Err("loopback is reached only through addresses");
    }
    Ok(())
}

fn protocol(check: &mut Check<'_>, place: &Place, destination: &Destination) -> Protocol {
    let protocol = match destination.protocol {
        settings::Protocol::Http => return Protocol::Http,
        settings::Protocol::Mcp => Protocol::Mcp,
        settings::Protocol::Opaque => Protocol::Opaque,
        later @ (settings::Protocol::A2a
        | settings::Protocol::Grpc
        | settings::Protocol::Graphql
        | settings::Protocol::Openai
        | settings::Protocol::Anthropic) => {
            check.unavailable(&place.key("protocol"), later.as_str());
            return Protocol::Http;
        }
    };
    match (protocol, destination.tls) {
        (Protocol::Opaque, TlsMode::Intercept) => {
            check.document.report(&place.key("protocol"), "opaque needs tls: passthrough");
        }
        (Protocol::Mcp, TlsMode::Passthrough) => {
            check.document.report(&place.key("protocol"), "mcp needs tls: intercept");
        }
        (Protocol::Opaque, TlsMode::Passthrough) | (Protocol::Mcp, TlsMode::Intercept) | (Protocol::Http, _) => {}
    }
    protocol
}

fn placeholder(check: &mut Check<'_>, place: &Place, destination: &Destination) -> Option<Arc<str>> {
    let written = destination.placeholder.as_deref()?;
    let place = place.key("placeholder");
    // A short one would be found where nobody put it.
    if written.len() < 16 || !written.bytes().all(|byte| byte.is_ascii_graphic()) {
        check.document.report(&place, "expected at least 16 printable characters without blanks");
    }
    if destination.credential.is_none() {
        check.document.report(&place, "stands for the destination's credential, and there is none");
    }
    Some(written.into())
}

fn secrets(check: &mut Check<'_>, place: &Place, destination: &Destination) -> Treatment {
    let written = &destination.secrets;
    let place = place.key("secrets");
    if written.bodies && (destination.tls == TlsMode::Passthrough || destination.protocol == settings::Protocol::Opaque)
    {
        check
            .document
            .report(&place.key("bodies"), "bodies that are passed through are not seen; needs tls: intercept");
    }
    let mut kinds = BTreeMap::new();
    for (kind, mode) in &written.kinds {
        match Rules::shipped().kinds().find(|known| known.name == kind) {
            Some(known) => drop(kinds.insert(known.name, *mode)),
            None => check.document.report(&place.key("kinds").key(kind), "is no kind of policy/secrets.yaml"),
        }
    }
    Treatment { mode: written.mode, kinds, bodies: written.bodies }
}

fn credential(
    check: &mut Check<'_>,
    place: &Place,
    destination: &Destination,
    credentials: &BTreeMap<String, Arc<Declaration>>,
) -> Option<Arc<Declaration>> {
    let name = destination.credential.as_deref()?;
    if destination.tls == TlsMode::Passthrough {
        check.document.report(&place.key("tls"), "a destination with a credential needs tls: intercept");
    }
    let declared = credentials.get(name);
    // One that was written and can't be used has its own problem.
    if declared.is_none() && !check.document.wrote(&at(&["credentials"]).key(name)) {
        check.document.report(&place.key("credential"), format!("there is no credential {name:?} under credentials"));
    }
    declared.map(Arc::clone)
}

/// Whether a name can stand in policy, metrics and records as it is.
pub(super) fn name(name: &str) -> Result<(), &'static str> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if name.is_empty() || name.len() > 63 || !plain {
        return Err("a name has 1 to 63 letters, digits, `-`, `_` and `.`");
    }
    Ok(())
}

/// Why an address is never dialled, whatever is configured.
fn never_dialled(ip: IpAddr) -> Option<&'static str> {
    match Class::of(ip) {
        Class::LinkLocal => Some("a link-local address is never dialled"),
        Class::Metadata => Some("a metadata address is never dialled"),
        Class::Reserved => Some("a reserved address is never dialled"),
        Class::Public | Class::Private | Class::Loopback => None,
    }
}
