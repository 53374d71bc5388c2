//! The ephemeral secret that a permitted call carries.
//!
//! Minted after the decision, for one task and one destination. Values live in memory that is wiped, and leave this
//! module only through [`Credential::apply`]. The copies that the HTTP stack makes while it writes a request are not
//! wiped: nobody can reach into them.

pub mod assertion;
pub mod aws;
pub mod azure;
pub mod client;
pub mod exception;
pub mod file;
pub mod gcp;
pub mod github_app;
pub mod journal;
pub mod kubernetes;
pub mod mtls;
pub mod oauth;
pub mod placement;
pub mod registry_token;
pub mod source;
pub mod spiffe_jwt;
pub mod spiffe_x509;
pub mod store;
pub mod vault;

mod circuit;
#[cfg(test)]
mod endpoint;
mod entries;
mod entry;
mod jose;
mod mint;
mod pace;
mod pieces;
mod reply;
mod revocation;
#[cfg(test)]
mod testing;

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{hmac, rand::SystemRandom};
use http::{HeaderMap, HeaderName, header::AUTHORIZATION, request::Parts};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use tokio_util::sync::DropGuard;
use zeroize::Zeroizing;

use crate::{refusal::CredentialRefusal, secret::scrub::Needles, tls::certificate::ClientCertificate};
pub use journal::Journal;
use mint::Secret;
pub use placement::Placement;
use placement::{Placed, basic_pair, sensitive};
pub use revocation::Revocations;
pub use source::Source;
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
    /// Whether each call has one of its own, which ends with it.
    pub per_call: bool,
}

impl Declaration {
    /// The kind of its source: as it stands in policy input, spans and metrics.
    pub fn kind(&self) -> &'static str {
        self.source.kind()
    }

    /// Whether its issuer can end a credential before it expires.
    pub fn revocable(&self) -> bool {
        self.source.revocable()
    }

    /// What it signs requests for, where it signs.
    pub fn signs(&self) -> Option<&aws::Scope> {
        match &self.placement {
            Placement::SigV4(scope) => Some(scope),
            Placement::Bearer
            | Placement::Basic(_)
            | Placement::BasicPair
            | Placement::Header(_)
            | Placement::Query(_)
            | Placement::Certificate => None,
        }
    }
}

/// Where a secret of our own stands: never in the configuration itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    /// In a file, read at each use.
    File(PathBuf),
    /// In an environment variable, read when the configuration was.
    Value(SecretValue),
}

impl SecretPlace {
    /// The secret, as it stands there now.
    async fn read(&self) -> Result<Zeroizing<String>, Failure> {
        match self {
            Self::Value(value) => Ok(value.0.clone()),
            Self::File(path) => file::read(path).await,
        }
    }
}

/// A secret held in memory: wiped on drop, invisible to `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(pub Zeroizing<String>);

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// An ephemeral secret, ready to go onto requests of one task to one destination.
pub struct Credential {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The kind of its source.
    pub kind: &'static str,
    /// A keyed digest of the value, for telling credentials apart in records: 16 hex digits.
    pub fingerprint: Arc<str>,
    /// When it is no longer served, where it ends.
    pub expires_at: Option<SystemTime>,
    /// Distinguishes connections that carried it from all others.
    pub partition: u64,
    placed: Placed,
    needles: Option<Arc<Needles>>,
    /// Where it is for one call only: ends it when it is dropped, which is when the call is over.
    alone: Option<DropGuard>,
}

impl Credential {
    /// Brings a value into the form that goes onto the wire. A value that can't stand there is refused.
    fn new(
        declaration: &Declaration,
        secret: Secret,
        expires_at: Option<SystemTime>,
        seal: Seal,
    ) -> Result<Self, Failure> {
        let placed = Placed::new(&declaration.placement, &secret)?;
        Ok(Self {
            name: Arc::clone(&declaration.name),
            kind: declaration.kind(),
            fingerprint: seal.fingerprint,
            expires_at,
            partition: seal.partition,
            needles: secret.needles(&placed).map(Arc::new),
            alone: None,
            placed,
        })
    }

    /// Puts the credential onto a request, in place of whatever stood there. Fails when the target has no room for it.
    pub fn apply(&self, parts: &mut Parts, onto: &Onto<'_>) -> Result<(), CredentialRefusal> {
        self.placed.apply(parts, onto)
    }

    /// The header that it goes onto a request in, if it goes in one.
    pub fn header(&self) -> Option<&HeaderName> {
        match &self.placed {
            Placed::Header(name, _) => Some(name),
            Placed::Bound(_) | Placed::Signed(_) => Some(&AUTHORIZATION),
            Placed::Query(..) | Placed::Certificate(_) => None,
        }
    }

    /// What must not come back to the agent; `None` where nothing of it goes to the origin, or it is too short to be told
    /// from other text.
    pub fn needles(&self) -> Option<&Arc<Needles>> {
        self.needles.as_ref()
    }

    /// The certificate that its connections show, if it is one.
    pub fn certificate(&self) -> Option<&Arc<ClientCertificate>> {
        match &self.placed {
            Placed::Certificate(certificate) => Some(certificate),
            Placed::Header(..) | Placed::Query(..) | Placed::Bound(_) | Placed::Signed(_) => None,
        }
    }

    /// Whether it is for one call only, and so are its connections.
    pub fn is_for_one_call(&self) -> bool {
        self.alone.is_some()
    }

    /// Takes note of the nonce that the origin wants in proofs of possession (RFC 9449 section 9). Whether it is a new
    /// one: the same request is then worth another try.
    pub fn note_nonce(&self, answer: &HeaderMap) -> bool {
        match &self.placed {
            Placed::Bound(bound) => bound.note(answer),
            Placed::Header(..) | Placed::Query(..) | Placed::Signed(_) | Placed::Certificate(_) => false,
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

/// What a credential that signs has to know of the request beside its head.
#[derive(Debug, Clone, Copy)]
pub struct Onto<'a> {
    /// The destination's host, in canonical form.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The body, where it is at hand whole.
    pub body: Option<&'a [u8]>,
    /// What the request is signed for, where the credential is one that signs.
    pub signing: Option<&'a aws::Signing>,
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

    fn of(&self, secret: &Secret) -> Arc<str> {
        let mut signed = hmac::Context::with_key(&self.0);
        if let Secret::Certificate(certificate) = secret {
            signed.update(certificate.fingerprint());
        }
        for value in secret.values() {
            signed.update(value.as_bytes());
        }
        let tag = signed.sign();
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

    fn malformed(detail: impl Into<String>) -> Self {
        Self::new(CredentialRefusal::Malformed, detail)
    }

    /// What stands with us can't be used: no issuer is at fault.
    fn misconfigured(detail: impl Into<String>) -> Self {
        Self::new(CredentialRefusal::Misconfigured, detail)
    }

    /// The same, with what it is about.
    fn about(self, what: &str) -> Self {
        Self { detail: format!("{what}: {}", self.detail), ..self }
    }
}

/// What stands unencoded in a form or a query (RFC 3986 section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    const CANARY: &str = "canary-5ecret";
    const ONTO: Onto<'_> = Onto { host: "api.test", port: 443, body: None, signing: None };

    fn credential(placement: Placement, value: &str) -> Result<Credential, Failure> {
        credential_of(placement, testing::value(value))
    }

    fn credential_of(placement: Placement, secret: Secret) -> Result<Credential, Failure> {
        let declaration = Declaration {
            name: "legacy".into(),
            source: testing::register("/nowhere"),
            placement,
            max_ttl: Duration::from_secs(60),
            per_call: false,
        };
        let seal = Seal { fingerprint: Fingerprints::new().of(&secret), partition: 7 };
        Credential::new(&declaration, secret, None, seal)
    }

    fn applied(placement: Placement, value: &str, uri: &str) -> Parts {
        let request = http::Request::builder().uri(uri).header("authorization", "old").header("x-key", "old");
        let (mut parts, ()) = request.header("x-key", "older").body(()).unwrap().into_parts();
        credential(placement, value).unwrap().apply(&mut parts, &ONTO).unwrap();
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
    fn every_form_on_the_wire_is_found_encoded_once_more() {
        const VALUE: &str = "s3cr/t+CaNaRy~0123=&9_abcdef";
        let pair = || Secret::Pair { user: Zeroizing::new("v-agent".into()), password: Zeroizing::new(VALUE.into()) };
        let key = Arc::new(oauth::dpop::Key::generate());
        for (placement, secret) in [
            (Placement::Bearer, testing::value(VALUE)),
            (Placement::Basic("robot".into()), testing::value(VALUE)),
            (Placement::Basic("robots".into()), pair()),
            (Placement::BasicPair, pair()),
            (Placement::Header(HeaderName::from_static("x-key")), testing::value(VALUE)),
            (Placement::Header(AUTHORIZATION), testing::value(&format!("Basic {}", *basic_pair("u", VALUE)))),
            (Placement::Query("k y".into()), testing::value(VALUE)),
            (Placement::Bearer, Secret::Bound { token: Zeroizing::new(VALUE.into()), key }),
        ] {
            let credential = credential_of(placement.clone(), secret).unwrap();
            let (mut parts, ()) = http::Request::builder().uri("/p").body(()).unwrap().into_parts();
            credential.apply(&mut parts, &ONTO).unwrap();
            let needles = credential.needles().expect("it is long enough");
            let field = credential.header().map(|name| parts.headers[name].to_str().unwrap());
            let carrying = field.or(parts.uri.query()).expect("it is carried");
            let proper = carrying.len() - carrying.find(' ').or(carrying.find('=')).map_or(0, |at| at + 1);
            for before in ["", "a", "ab", "GET / HTTP/1.1\r\nauthorization: "] {
                let echoed = STANDARD.encode(format!("{before}{carrying}\r\n"));
                let (redacted, found) = needles.redacted(echoed.as_bytes()).expect("it is found");
                let changed = redacted.iter().zip(echoed.bytes()).filter(|(out, was)| **out != *was).count();
                assert_eq!((found, redacted.len()), (1, echoed.len()), "{placement:?}");
                assert!(changed + 12 >= proper * 4 / 3, "{placement:?}: {}", redacted.escape_ascii());
            }
        }
    }

    #[test]
    fn a_target_without_room_is_refused() {
        let uri = format!("/{}", "p".repeat(65_000));
        let (mut parts, ()) = http::Request::builder().uri(uri).body(()).unwrap().into_parts();
        let long = credential(Placement::Query("k".into()), &"v".repeat(2_000)).unwrap();
        assert_eq!(long.apply(&mut parts, &ONTO), Err(CredentialRefusal::Malformed));
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
            credential.apply(&mut parts, &ONTO).unwrap();
            assert!(!format!("{:?}", parts.headers).contains("canary"));
        }
        assert!(!format!("{:?}", SecretPlace::Value(SecretValue(Zeroizing::new(CANARY.into())))).contains("canary"));
    }

    #[test]
    fn a_fingerprint_is_sixteen_digits_equal_for_equal_values_and_different_in_another_process() {
        let (here, there) = (Fingerprints::new(), Fingerprints::new());
        assert_eq!(here.of(&testing::value(CANARY)), here.of(&testing::value(CANARY)));
        assert_ne!(here.of(&testing::value(CANARY)), here.of(&testing::value("other")));
        assert_ne!(here.of(&testing::value(CANARY)), there.of(&testing::value(CANARY)));
        let digits = here.of(&testing::value(CANARY));
        assert!(digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
