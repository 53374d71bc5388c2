//! What `--allow` says: a destination and the permission to call it, in one word.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use serde_json::{Value, json};

use crate::config::{
    HostPattern,
    settings::{Destination, Reach},
    values::host_pattern,
};

/// One `HOST[:PORT][=ADDRESS]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    host: String,
    port: Option<u16>,
    address: Option<IpAddr>,
}

impl Allow {
    /// The name of the destination: the host, and the port where one was given, as far as a name can hold them. Of a long
    /// one the end stays, which says more.
    fn name(&self) -> String {
        let text = match self.port {
            Some(port) => format!("{}_{port}", self.host),
            None => self.host.clone(),
        };
        let name = text.replace(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.'), "_");
        name[name.len().saturating_sub(LONGEST_NAME)..].to_owned()
    }

    /// The destination. Without a port it is that of https and that of http. An address, also one that is the host
    /// itself, is a pin: whoever names it means it, so that it may be private or loopback.
    fn destination(&self) -> Destination {
        let pin = self.address.or_else(|| self.host.parse().ok());
        let reach = if pin.is_some() { vec![Reach::Public, Reach::Private] } else { vec![Reach::Public] };
        Destination {
            hosts: vec![self.host.clone()],
            ports: self.port.map_or_else(|| vec![443, 80], |port| vec![port]),
            addresses: pin.into_iter().collect(),
            reach,
            ..Destination::default()
        }
    }
}

impl FromStr for Allow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Err("it is a host, not a URL, as in `api.example.com` or `api.example.com:8443`".to_owned());
        }
        let (place, address) = match text.split_once('=') {
            Some((place, address)) => (place, Some(ip(address).ok_or("an IP address stands after `=`")?)),
            None => (text, None),
        };
        let (host, port) = split(place)?;
        let host = match host_pattern(host)? {
            HostPattern::Exact(name) => name,
            HostPattern::Suffix(suffix) => format!("*{suffix}"),
        };
        Ok(Self { host, port, address })
    }
}

/// The destinations by name, as they would stand in a configuration file.
pub fn destinations(all: &[Allow]) -> Result<BTreeMap<String, Destination>, String> {
    let mut destinations = BTreeMap::new();
    for allow in all {
        if destinations.insert(allow.name(), allow.destination()).is_some() {
            return Err(format!("`--allow` is given twice for {}", allow.name()));
        }
    }
    Ok(destinations)
}

/// The data by which the shipped policy permits every call to these destinations.
pub fn policy_data(all: &[Allow]) -> Value {
    let entries: Vec<Value> =
        all.iter().map(|allow| json!({"id": format!("allow {}", allow.name()), "destination": allow.name()})).collect();
    json!({"tollgate": {"allow": entries}})
}

/// Host and port. An IPv6 address with a port stands in brackets.
fn split(place: &str) -> Result<(&str, Option<u16>), String> {
    if place.parse::<Ipv6Addr>().is_ok() {
        return Ok((place, None));
    }
    if let Some((host, rest)) = place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return match rest.strip_prefix(':') {
            Some(text) => Ok((host, Some(port(text)?))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("`:` and a port, or nothing, stands after `]`".to_owned()),
        };
    }
    match place.rsplit_once(':') {
        Some((host, text)) => Ok((host, Some(port(text)?))),
        None => Ok((place, None)),
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("`{text}` is no port; one is a number from 1 to 65535")),
        Ok(port) => Ok(port),
    }
}

fn ip(text: &str) -> Option<IpAddr> {
    text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text).parse().ok()
}

const LONGEST_NAME: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(host: &str, port: Option<u16>, address: Option<&str>) -> Allow {
        Allow { host: host.into(), port, address: address.map(|ip| ip.parse().expect("address")) }
    }

    #[test]
    fn what_is_written_is_what_is_allowed() {
        for (text, expected) in [
            ("api.example.com", allow("api.example.com", None, None)),
            ("API.Example.COM.", allow("api.example.com", None, None)),
            ("api.example.com:8443", allow("api.example.com", Some(8443), None)),
            ("api.example.com=127.0.0.1", allow("api.example.com", None, Some("127.0.0.1"))),
            ("api.example.com:8443=127.0.0.1", allow("api.example.com", Some(8443), Some("127.0.0.1"))),
            ("api.example.com:8443=[::1]", allow("api.example.com", Some(8443), Some("::1"))),
            ("api.example.com=::1", allow("api.example.com", None, Some("::1"))),
            ("*.example.com:443", allow("*.example.com", Some(443), None)),
            ("192.0.2.7:80", allow("192.0.2.7", Some(80), None)),
            ("2001:db8::7", allow("2001:db8::7", None, None)),
            ("[2001:db8::7]:80", allow("2001:db8::7", Some(80), None)),
        ] {
            assert_eq!(text.parse::<Allow>().as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        for text in [
            "",
            "https://api.example.com",
            "api.example.com/path",
            "api.example.com:",
            "api.example.com:0",
            "api.example.com:70000",
            "api.example.com:https",
            "api.example.com=",
            "api.example.com=localhost",
            "api.example.com:443=127.0.0.1:443",
            "*",
            "a.*.example.com",
            "*.com",
            "user@example.com",
            "[::1",
            "[::1]443",
            ":443",
        ] {
            assert!(text.parse::<Allow>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_destination_has_the_ports_and_the_pin_that_were_given() {
        let plain = allow("api.example.com", None, None).destination();
        assert_eq!((plain.ports, plain.addresses, plain.reach), (vec![443, 80], vec![], vec![Reach::Public]));

        let pinned = allow("api.example.com", Some(8443), Some("127.0.0.1")).destination();
        assert_eq!(pinned.ports, [8443]);
        assert_eq!(pinned.addresses, ["127.0.0.1".parse::<IpAddr>().expect("address")]);

        let literal = allow("10.0.0.7", None, None).destination();
        assert_eq!(literal.addresses, ["10.0.0.7".parse::<IpAddr>().expect("address")]);
        assert_eq!(literal.reach, [Reach::Public, Reach::Private]);
    }

    #[test]
    fn a_name_holds_only_what_a_name_may() {
        let long = format!("{}.example.com", ["a"; 40].join("."));
        for (host, port, name) in [
            ("api.example.com", None, "api.example.com"),
            ("api.example.com", Some(8443), "api.example.com_8443"),
            ("*.example.com", None, "_.example.com"),
            ("::1", Some(80), "__1_80"),
            (long.as_str(), None, &long[long.len() - 63..]),
        ] {
            assert_eq!(allow(host, port, None).name(), name);
        }
    }

    #[test]
    fn the_policy_data_names_the_destinations() {
        let all = [allow("api.example.com", None, None), allow("api.example.com", Some(8443), None)];
        let destinations = destinations(&all).expect("two names");
        let data = policy_data(&all);
        let named: Vec<_> = data["tollgate"]["allow"].as_array().expect("a list").iter().collect();
        assert_eq!(named.len(), 2);
        for entry in named {
            assert!(destinations.contains_key(entry["destination"].as_str().expect("a name")), "{entry}");
        }
        assert!(super::destinations(&[all[0].clone(), all[0].clone()]).is_err());
    }
}
