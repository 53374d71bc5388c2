//! Host names and authorities in their one canonical form.
//!
//! Whatever spelling the agent chose, two names that lead to the same place compare equal here as plain strings:
//! lower-case A-labels (UTS #46) without a trailing dot, addresses in their standard text without brackets, and an IPv4
//! address that is mapped into IPv6 as the IPv4 address. What has more than one reading is refused, not guessed. A name
//! in a mixed script becomes its `xn--` form, so it never equals the name that it imitates.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46, verify_dns_length};

use crate::refusal::Refusal;

/// A host name or address in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CanonicalHost {
    text: String,
    ip: Option<IpAddr>,
}

impl CanonicalHost {
    /// The canonical text; an IPv6 address stands without brackets.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The canonical text, owned.
    pub fn into_string(self) -> String {
        self.text
    }

    /// The address, where this is one and not a name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }
}

impl From<IpAddr> for CanonicalHost {
    fn from(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        Self { text: ip.to_string(), ip: Some(ip) }
    }
}

impl fmt::Display for CanonicalHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Brings a host, as it stands in an authority, a SNI or a configuration, into its canonical form.
///
/// One trailing dot is dropped. An IPv6 address may stand in brackets or without. A name whose last label is a number
/// is an address to some clients (`0x7f.1`, `2130706433`), so it is accepted only as plain dotted decimal.
pub fn canonical_host(text: &str) -> Result<CanonicalHost, Refusal> {
    if text.contains('@') {
        return Err(USER_INFORMATION);
    }
    if let Some(rest) = text.strip_prefix('[') {
        return ipv6(rest.strip_suffix(']').ok_or(INVALID_HOST)?);
    }
    if text.contains(':') {
        return ipv6(text);
    }
    let name = ascii_name(text.strip_suffix('.').unwrap_or(text))?;
    if ends_in_number(&name) {
        return name.parse::<Ipv4Addr>().map(|ip| IpAddr::V4(ip).into()).map_err(|_| AMBIGUOUS_ADDRESS);
    }
    Ok(CanonicalHost { text: name, ip: None })
}

/// Splits and canonicalises `host[:port]`: a CONNECT target (no default port), a `Host` header or an `:authority`.
pub fn authority(text: &str, default_port: Option<u16>) -> Result<(CanonicalHost, u16), Refusal> {
    if text.contains('@') {
        return Err(USER_INFORMATION);
    }
    let (host, port) = split_port(text)?;
    let port = match port {
        Some(digits) => parse_port(digits)?,
        None => default_port.ok_or(Refusal::MalformedRequest("the target names no port"))?,
    };
    Ok((canonical_host(host)?, port))
}

/// Whether this text spells a canonical host and a port in the usual way, letter by letter. Nearly all requests do, and
/// then nothing has to be brought into canonical form.
pub(super) fn spells(text: &str, host: &str, port: u16, default_port: u16) -> bool {
    match text.strip_prefix(host).filter(|_| !host.contains(':')) {
        Some("") => port == default_port,
        Some(rest) => rest.strip_prefix(':').is_some_and(|digits| parse_port(digits).is_ok_and(|found| found == port)),
        None => false,
    }
}

fn ipv6(text: &str) -> Result<CanonicalHost, Refusal> {
    if text.contains('%') {
        return Err(Refusal::MalformedRequest("an IPv6 zone is not accepted in a host"));
    }
    text.parse::<Ipv6Addr>().map(|ip| IpAddr::V6(ip).into()).map_err(|_| INVALID_HOST)
}

/// Most names are plain ASCII and need no Unicode tables; a name that claims to be an A-label is verified by them.
fn ascii_name(text: &str) -> Result<String, Refusal> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    let name = if plain && !text.split('.').any(claims_a_label) {
        text.to_ascii_lowercase()
    } else {
        let converted = Uts46::new().to_ascii(text.as_bytes(), NOT_IN_NAMES, Hyphens::Allow, DnsLength::Ignore);
        converted.map_err(|_| INVALID_HOST)?.into_owned()
    };
    if verify_dns_length(&name, false) { Ok(name) } else { Err(INVALID_HOST) }
}

fn claims_a_label(label: &str) -> bool {
    label.as_bytes().first_chunk::<4>().is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"xn--"))
}

/// The WHATWG "ends in a number" check: such a host is an IPv4 address in some form.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    last.bytes().all(|byte| byte.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn split_port(text: &str) -> Result<(&str, Option<&str>), Refusal> {
    if !text.starts_with('[') {
        return Ok(text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))));
    }
    let end = text.find(']').ok_or(INVALID_HOST)?;
    let (host, rest) = text.split_at(end + 1);
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(INVALID_HOST),
    }
}

fn parse_port(digits: &str) -> Result<u16, Refusal> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain).ok_or(Refusal::MalformedRequest("the port is not a number from 1 to 65535"))
}

/// All of ASCII but letters, digits, hyphen, dot and underscore, which real host names use.
const NOT_IN_NAMES: AsciiDenyList = AsciiDenyList::new(true, "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~");

const INVALID_HOST: Refusal = Refusal::MalformedRequest("the host is not a valid name or address");
const USER_INFORMATION: Refusal = Refusal::MalformedRequest("user information before a host is not accepted");
const AMBIGUOUS_ADDRESS: Refusal =
    Refusal::MalformedRequest("an IPv4 address is accepted in plain dotted decimal form only");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> Option<String> {
        canonical_host(text).ok().map(CanonicalHost::into_string)
    }

    #[test]
    fn only_the_usual_spelling_is_taken_for_what_is_expected() {
        for (text, spelt) in [
            ("a.test", true),
            ("a.test:443", true),
            ("a.test:0443", false),
            ("a.test:+443", false),
            ("a.test:444", false),
            ("a.test:", false),
            ("a.test.", false),
            ("a.test.evil.test", false),
            ("A.test", false),
            ("", false),
        ] {
            assert_eq!(spells(text, "a.test", 443, 443), spelt, "{text}");
        }
        assert!(!spells("a.test", "a.test", 8443, 443));
        assert!(!spells("::1", "::1", 443, 443));
    }

    #[test]
    fn every_spelling_of_a_host_becomes_one() {
        let table = [
            ("api.github.com", "api.github.com"),
            ("API.GitHub.com", "api.github.com"),
            ("api.github.com.", "api.github.com"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("r3---sn-4g5e6nze.googlevideo.com", "r3---sn-4g5e6nze.googlevideo.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("api。github。com", "api.github.com"),
            ("ａｐｉ.github.com", "api.github.com"),
            ("аpi.github.com", "xn--pi-6kc.github.com"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1.", "192.0.2.1"),
            ("１９２.0.2.1", "192.0.2.1"),
            ("[2001:DB8::1]", "2001:db8::1"),
            ("2001:db8:0:0:0:0:0:1", "2001:db8::1"),
            ("[::ffff:169.254.169.254]", "169.254.169.254"),
            ("[::ffff:a9fe:a9fe]", "169.254.169.254"),
            ("localhost", "localhost"),
            ("1e100.net", "1e100.net"),
            ("0xff.example", "0xff.example"),
        ];
        for (given, expected) in table {
            assert_eq!(host(given).as_deref(), Some(expected), "{given}");
        }
    }

    #[test]
    fn a_host_with_more_than_one_reading_is_refused() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = format!("{}example", "a23456789.".repeat(25));
        let table = [
            "",
            ".",
            "..",
            ".example.com",
            "a..b",
            "example.com..",
            "0x7f.1",
            "0x7f000001",
            "0x",
            "2130706433",
            "127.1",
            "010.0.0.1",
            "127.0.0.01",
            "127.0.0.256",
            "1.2.3.4.5",
            "1.2.3",
            "a.b.1",
            "a.0x1f",
            "0177.0.0.1",
            "user@example.com",
            "a@b",
            "exa mple.com",
            "example.com/",
            "example.com\\evil",
            "exa%6dple.com",
            "a,b",
            "example.com?",
            "example.com#",
            "ex\u{0}ample",
            "ex\tample",
            "a\nb",
            "[::1",
            "::1]",
            "[::1]x",
            "[fe80::1%eth0]",
            "fe80::1%25eth0",
            "[127.0.0.1]",
            "[]",
            "[[::1]]",
            "1:2",
            "xn--\u{0}",
            "xn--a",
            "xn--.example",
            "a*b.example",
            "*.example.com",
            "２１３０７０６４３３",
            &long_label,
            &long_name,
        ];
        for given in table {
            assert_eq!(host(given), None, "{given}");
        }
    }

    #[test]
    fn an_authority_is_split_without_guessing() {
        let table: [(&str, Option<u16>, Option<(&str, u16)>); 22] = [
            ("api.github.com:443", None, Some(("api.github.com", 443))),
            ("API.github.com.:8443", None, Some(("api.github.com", 8443))),
            ("api.github.com", Some(80), Some(("api.github.com", 80))),
            ("[::1]:80", None, Some(("::1", 80))),
            ("[::1]", Some(443), Some(("::1", 443))),
            ("[::ffff:10.0.0.1]:80", None, Some(("10.0.0.1", 80))),
            ("api.github.com", None, None),
            ("api.github.com:", Some(80), None),
            ("api.github.com:0", None, None),
            ("api.github.com:080", None, None),
            ("api.github.com:65536", None, None),
            ("api.github.com:+80", None, None),
            ("api.github.com:80:80", None, None),
            ("api.github.com: 80", None, None),
            ("user@evil.test:80", Some(80), None),
            ("user:pw@evil.test", Some(80), None),
            (":80", None, None),
            ("", Some(80), None),
            ("::1", Some(80), None),
            ("::1:80", Some(80), None),
            ("[::1]80", Some(80), None),
            ("a.test, b.test", Some(80), None),
        ];
        for (given, default, expected) in table {
            let found = authority(given, default).ok().map(|(host, port)| (host.into_string(), port));
            assert_eq!(found, expected.map(|(host, port)| (host.to_owned(), port)), "{given}");
        }
    }

    #[test]
    fn an_address_is_known_as_one() {
        assert_eq!(canonical_host("[::ffff:127.0.0.1]").unwrap().ip(), Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(canonical_host("example.com").unwrap().ip(), None);
    }

    proptest! {
        #[test]
        fn canonicalising_twice_changes_nothing(text in "\\PC{0,40}") {
            if let Ok(once) = canonical_host(&text) {
                prop_assert_eq!(canonical_host(once.as_str()).unwrap(), once);
            }
        }

        #[test]
        fn likely_names_canonicalise_once_and_for_all(text in "([a-zA-Z0-9_üß。.-]|xn--){1,30}") {
            if let Ok(once) = canonical_host(&text) {
                prop_assert_eq!(canonical_host(once.as_str()).unwrap(), once);
            }
        }

        #[test]
        fn no_authority_panics(text in any::<String>()) {
            let _ = authority(&text, Some(80));
        }
    }
}
