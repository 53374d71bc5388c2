//! The ephemeral secret that a permitted call carries.
//!
//! Minted after the decision, for one task and one destination. Values live in memory that is wiped, and leave this
//! module only through [`Credential::apply`]. The copies that the HTTP stack makes while it writes a request are not
//! wiped: nobody can reach into them.

pub mod client;
pub mod file;
pub mod oauth;
pub mod store;

#[cfg(test)]
mod endpoint;
mod entries;
mod entry;
mod revocation;

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{hmac, rand::SystemRandom};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Uri, header::AUTHORIZATION, request::Parts, uri::PathAndQuery};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use zeroize::Zeroizing;

use crate::refusal::CredentialRefusal;
pub use revocation::Revocations;
pub use store::{Event, Store};

/// A configured credential: where it comes from and how it goes onto a request. Holds no secret itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Where it comes from.
    pub source: Source,
    /// How it goes onto a request.
    pub placement: Placement,
    /// The longest life that is accepted.
    pub max_ttl: Duration,
}

impl Declaration {
    /// `file` or `oauth_client_credentials`: as it stands in policy input, spans and metrics.
    pub fn kind(&self) -> &'static str {
        match &self.source {
            Source::File { .. } => "file",
            Source::OauthClientCredentials { .. } => "oauth_client_credentials",
        }
    }

    /// Whether its issuer can end a credential before it expires.
    pub fn revocable(&self) -> bool {
        match &self.source {
            Source::File { .. } => false,
            Source::OauthClientCredentials { revocation_endpoint, .. } => revocation_endpoint.is_some(),
        }
    }

    /// All that a policy may choose from.
    fn scopes(&self) -> &[String] {
        match &self.source {
            Source::File { .. } => &[],
            Source::OauthClientCredentials { scopes, .. } => scopes,
        }
    }
}

/// Where a credential comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The exception register: a long-lived secret in a file, re-read on change.
    File {
        /// The file; trailing line breaks are not part of the secret.
        file: PathBuf,
        /// Who answers for it.
        owner: String,
        /// When the exception ends.
        expires: Option<SystemTime>,
    },
    /// OAuth 2.0 client credentials (RFC 6749 section 4.4).
    OauthClientCredentials {
        /// Where tokens are asked for.
        token_endpoint: String,
        /// Where they are revoked (RFC 7009), where the issuer can.
        revocation_endpoint: Option<String>,
        /// The client's identifier.
        client_id: String,
        /// Where the client's secret stands.
        client_secret: SecretPlace,
        /// The scopes that are asked for.
        scopes: Vec<String>,
        /// The audience that is asked for.
        audience: Option<String>,
    },
}

/// Where a secret of our own stands: never in the configuration itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    /// In a file, read at each use.
    File(PathBuf),
    /// In an environment variable, read when the configuration was.
    Value(SecretValue),
}

/// A secret held in memory: wiped on drop, invisible to `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(pub Zeroizing<String>);

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// How a credential goes onto a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// `Authorization: Bearer …` (RFC 6750 section 2.1).
    Bearer,
    /// `Authorization: Basic …` (RFC 7617) with this user.
    Basic(String),
    /// A header of its own.
    Header(HeaderName),
    /// A query parameter.
    Query(String),
}

/// An ephemeral secret, ready to go onto requests of one task to one destination.
pub struct Credential {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// `file` or `oauth_client_credentials`.
    pub kind: &'static str,
    /// A keyed digest of the value, for telling credentials apart in records: 16 hex digits.
    pub fingerprint: Arc<str>,
    /// When it is no longer served, where it ends.
    pub expires_at: Option<SystemTime>,
    /// Distinguishes connections that carried it from all others.
    pub partition: u64,
    placed: Placed,
}

impl Credential {
    /// Brings a value into the form that goes onto the wire. A value that can't stand there is refused.
    fn new(
        declaration: &Declaration,
        value: &str,
        expires_at: Option<SystemTime>,
        seal: Seal,
    ) -> Result<Self, Failure> {
        Ok(Self {
            name: Arc::clone(&declaration.name),
            kind: declaration.kind(),
            fingerprint: seal.fingerprint,
            expires_at,
            partition: seal.partition,
            placed: Placed::new(&declaration.placement, value)?,
        })
    }

    /// Puts the credential onto a request, in place of whatever stood there. Fails when the target has no room for it.
    pub fn apply(&self, parts: &mut Parts) -> Result<(), CredentialRefusal> {
        match &self.placed {
            Placed::Header(name, value) => {
                let placed = parts.headers.try_insert(name.clone(), value.clone());
                placed.map(drop).map_err(|_| CredentialRefusal::Malformed)
            }
            Placed::Query(name, pair) => {
                parts.uri = with_parameter(&parts.uri, name, pair).ok_or(CredentialRefusal::Malformed)?;
                Ok(())
            }
        }
    }

    /// The header that it goes onto a request in, if it goes in one.
    pub fn header(&self) -> Option<&HeaderName> {
        match &self.placed {
            Placed::Header(name, _) => Some(name),
            Placed::Query(..) => None,
        }
    }

    /// How long it is still served; `None` when it does not end.
    pub fn remaining(&self) -> Option<Duration> {
        self.expires_at.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// Whether both put the same bytes in the same place.
    fn same_value(&self, other: &Self) -> bool {
        self.placed == other.placed
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind, fingerprint, .. } = self;
        let mut shown = f.debug_struct("Credential");
        shown.field("name", name).field("kind", kind).field("fingerprint", fingerprint).finish_non_exhaustive()
    }
}

/// The value, in the form that goes onto the wire; marked sensitive, so that `Debug` and HPACK indexing leave it out.
/// Its bytes are owned by wiped memory, which a header value shares instead of copying.
#[derive(PartialEq, Eq)]
enum Placed {
    Header(HeaderName, HeaderValue),
    /// The parameter's name, and the encoded pair.
    Query(String, Zeroizing<String>),
}

impl Placed {
    fn new(placement: &Placement, value: &str) -> Result<Self, Failure> {
        if value.is_empty() || value.chars().any(char::is_control) {
            return Err(Failure::malformed("the credential is empty or holds control characters"));
        }
        match placement {
            Placement::Bearer if value.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Self::Header(AUTHORIZATION, sensitive(&["Bearer ", value])?))
            }
            Placement::Bearer => Err(Failure::malformed("the credential holds characters that a bearer token can't")),
            Placement::Basic(user) => {
                Ok(Self::Header(AUTHORIZATION, sensitive(&["Basic ", &basic_pair(user, value)])?))
            }
            Placement::Header(name) => Ok(Self::Header(name.clone(), sensitive(&[value])?)),
            Placement::Query(name) => {
                // Three bytes for each: growing would leave copies behind.
                let mut pair = Zeroizing::new(String::with_capacity(3 * (name.len() + value.len()) + 1));
                pair.extend(utf8_percent_encode(name, UNRESERVED));
                pair.push('=');
                pair.extend(utf8_percent_encode(value, UNRESERVED));
                Ok(Self::Query(name.clone(), pair))
            }
        }
    }
}

/// `user:secret` in base64, as `Basic` wants it (RFC 7617).
fn basic_pair(user: &str, secret: &str) -> Zeroizing<String> {
    let mut pair = Zeroizing::new(String::with_capacity(user.len() + 1 + secret.len()));
    pair.push_str(user);
    pair.push(':');
    pair.push_str(secret);
    let mut encoded = Zeroizing::new(String::with_capacity(pair.len().div_ceil(3) * 4));
    STANDARD.encode_string(pair.as_bytes(), &mut encoded);
    encoded
}

/// A header value whose bytes are wiped with its last clone.
fn sensitive(pieces: &[&str]) -> Result<HeaderValue, Failure> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum()));
    for piece in pieces {
        bytes.extend_from_slice(piece.as_bytes());
    }
    if !bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(Failure::malformed("the credential holds characters that a header can't"));
    }
    let value = HeaderValue::from_maybe_shared(Bytes::from_owner(bytes));
    let mut value = value.map_err(|_| Failure::malformed("the credential can't stand in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The target with this pair as the only parameter of that name.
fn with_parameter(uri: &Uri, name: &str, pair: &str) -> Option<Uri> {
    let query = uri.query().unwrap_or_default();
    let mut target = String::with_capacity(uri.path().len() + query.len() + pair.len() + 2);
    target.push_str(uri.path());
    target.push('?');
    for kept in query.split('&').filter(|kept| !kept.is_empty() && !is_named(kept, name)) {
        target.push_str(kept);
        target.push('&');
    }
    target.push_str(pair);
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

fn is_named(pair: &str, name: &str) -> bool {
    let raw = pair.split('=').next().unwrap_or_default();
    percent_decode_str(raw).eq(name.bytes())
}

/// What tells one minted credential from another without its value.
struct Seal {
    fingerprint: Arc<str>,
    partition: u64,
}

/// The key of the fingerprints: random, known to this process only, so that a fingerprint can't be searched for.
struct Fingerprints(hmac::Key);

impl Fingerprints {
    fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Self(key.expect("the system's random source never fails once the process has started"))
    }

    fn of(&self, value: &str) -> Arc<str> {
        let tag = hmac::sign(&self.0, value.as_bytes());
        let digits = tag.as_ref().iter().take(8).map(|byte| format!("{byte:02x}"));
        digits.collect::<String>().into()
    }
}

/// Why a credential could not be had: what the agent is told, and what a person reads in the log. Holds no secret.
#[derive(Debug, Clone)]
struct Failure {
    refusal: CredentialRefusal,
    detail: String,
    /// How long the issuer wants to be left alone.
    retry_after: Option<Duration>,
}

impl Failure {
    fn new(refusal: CredentialRefusal, detail: impl Into<String>) -> Self {
        Self { refusal, detail: detail.into(), retry_after: None }
    }

    fn malformed(detail: &str) -> Self {
        Self::new(CredentialRefusal::Malformed, detail)
    }
}

/// What stands unencoded in a form or a query (RFC 3986 section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "canary-5ecret";

    fn credential(placement: Placement, value: &str) -> Result<Credential, Failure> {
        let declaration = Declaration {
            name: "legacy".into(),
            source: Source::File { file: "/nowhere".into(), owner: "team-x".into(), expires: None },
            placement,
            max_ttl: Duration::from_secs(60),
        };
        let seal = Seal { fingerprint: Fingerprints::new().of(value), partition: 7 };
        Credential::new(&declaration, value, None, seal)
    }

    fn applied(placement: Placement, value: &str, uri: &str) -> Parts {
        let request = http::Request::builder().uri(uri).header("authorization", "old").header("x-key", "old");
        let (mut parts, ()) = request.header("x-key", "older").body(()).unwrap().into_parts();
        credential(placement, value).unwrap().apply(&mut parts).unwrap();
        parts
    }

    #[test]
    fn each_placement_replaces_what_stood_there() {
        let parts = applied(Placement::Bearer, CANARY, "/");
        assert_eq!(parts.headers["authorization"], "Bearer canary-5ecret");
        assert!(parts.headers["authorization"].is_sensitive());
        let parts = applied(Placement::Basic("Aladdin".into()), "open sesame", "/");
        assert_eq!(parts.headers["authorization"], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let parts = applied(Placement::Header(HeaderName::from_static("x-key")), "Key a b", "/");
        assert_eq!(parts.headers.get_all("x-key").iter().collect::<Vec<_>>(), ["Key a b"]);
    }

    #[test]
    fn a_query_parameter_is_encoded_and_stands_once() {
        let table = [
            ("/p", "/p?k%20y=a%26b"),
            ("/p?", "/p?k%20y=a%26b"),
            ("/p?a=1&k%20y=old&%6b%20y=old&b", "/p?a=1&b&k%20y=a%26b"),
            ("https://h.test", "https://h.test/?k%20y=a%26b"),
        ];
        for (before, after) in table {
            assert_eq!(applied(Placement::Query("k y".into()), "a&b", before).uri.to_string(), after);
        }
    }

    #[test]
    fn a_target_without_room_is_refused() {
        let uri = format!("/{}", "p".repeat(65_000));
        let (mut parts, ()) = http::Request::builder().uri(uri).body(()).unwrap().into_parts();
        let long = credential(Placement::Query("k".into()), &"v".repeat(2_000)).unwrap();
        assert_eq!(long.apply(&mut parts), Err(CredentialRefusal::Malformed));
    }

    #[test]
    fn a_value_that_cannot_stand_in_its_place_is_refused() {
        let header = || Placement::Header(HeaderName::from_static("x-key"));
        let table = [
            (Placement::Bearer, ""),
            (Placement::Bearer, "two words"),
            (Placement::Bearer, "line\nbreak"),
            (Placement::Bearer, "ümlaut"),
            (header(), ""),
            (header(), "line\r\nx-other: 1"),
            (header(), "ümlaut"),
            (Placement::Basic("user".into()), "nul\0"),
            (Placement::Query("k".into()), "tab\t"),
        ];
        for (placement, value) in table {
            let failure = credential(placement.clone(), value).expect_err(value);
            assert_eq!(failure.refusal, CredentialRefusal::Malformed, "{placement:?} {value:?}");
        }
    }

    #[test]
    fn debug_shows_no_value_in_any_form() {
        let encoded = basic_pair("user", CANARY);
        for placement in [Placement::Bearer, Placement::Basic("user".into()), Placement::Query("k".into())] {
            let credential = credential(placement, CANARY).unwrap();
            let (mut parts, ()) = http::Request::builder().uri("/").body(()).unwrap().into_parts();
            let shown = format!("{credential:?} {credential:#?}");
            assert!(shown.contains("legacy") && shown.contains(&*credential.fingerprint));
            assert!(!shown.contains("canary") && !shown.contains(encoded.as_str()), "{shown}");
            credential.apply(&mut parts).unwrap();
            assert!(!format!("{:?}", parts.headers).contains("canary"));
        }
        assert!(!format!("{:?}", SecretPlace::Value(SecretValue(Zeroizing::new(CANARY.into())))).contains("canary"));
    }

    #[test]
    fn a_fingerprint_is_sixteen_digits_equal_for_equal_values_and_different_in_another_process() {
        let (here, there) = (Fingerprints::new(), Fingerprints::new());
        assert_eq!(here.of(CANARY), here.of(CANARY));
        assert_ne!(here.of(CANARY), here.of("other"));
        assert_ne!(here.of(CANARY), there.of(CANARY));
        assert!(here.of(CANARY).len() == 16 && here.of(CANARY).bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
