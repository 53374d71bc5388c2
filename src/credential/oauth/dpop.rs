//! Proof that we hold the key which a token is bound to (RFC 9449).
//!
//! Each token has a key of its own, which never leaves memory. Whoever finds the token can't use it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header::AUTHORIZATION, request::Parts};
use serde_json::{Map, Value};

use crate::{
    credential::{
        Failure, Onto,
        jose::{self, Header, SigningKey},
        sensitive,
    },
    refusal::CredentialRefusal,
};

/// A key that a token is bound to.
#[derive(Debug)]
pub(in crate::credential) struct Key(SigningKey);

impl Key {
    pub(in crate::credential) fn generate() -> Self {
        Self(SigningKey::generate())
    }

    /// The proof for one request: to this URL, which has no query, with the token of this hash.
    pub(super) fn proof(&self, method: &Method, url: &str, nonce: Option<&str>, token: Option<&str>) -> HeaderValue {
        let mut claims = Map::new();
        claims.insert("jti".to_owned(), jose::unique().into());
        claims.insert("htm".to_owned(), method.as_str().into());
        claims.insert("htu".to_owned(), url.into());
        claims.insert("iat".to_owned(), jose::now().into());
        if let Some(hash) = token {
            claims.insert("ath".to_owned(), hash.into());
        }
        if let Some(nonce) = nonce {
            claims.insert("nonce".to_owned(), nonce.into());
        }
        let proof = self.0.sign(Header { typ: "dpop+jwt", key_id: None, with_key: true }, &Value::Object(claims));
        sensitive(&[&proof]).expect("base64url and points stand in every header")
    }
}

/// A token that is bound to a key, ready to go onto requests.
pub(in crate::credential) struct Bound {
    pub(in crate::credential) authorization: HeaderValue,
    hash: String,
    key: Arc<Key>,
    /// What the origin last wanted to see in a proof.
    nonce: ArcSwapOption<String>,
}

impl Bound {
    pub(in crate::credential) fn new(token: &str, key: &Arc<Key>) -> Result<Self, Failure> {
        let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, token.as_bytes()));
        let authorization = sensitive(&["DPoP ", token])?;
        Ok(Self { authorization, hash, key: Arc::clone(key), nonce: ArcSwapOption::empty() })
    }

    /// Puts token and proof onto a request.
    pub(in crate::credential) fn apply(&self, parts: &mut Parts, onto: &Onto<'_>) -> Result<(), CredentialRefusal> {
        let nonce = self.nonce.load();
        let nonce = nonce.as_deref().map(String::as_str);
        let proof = self.key.proof(&parts.method, &url(parts, onto), nonce, Some(&self.hash));
        for (name, value) in [(AUTHORIZATION, self.authorization.clone()), (HEADER, proof)] {
            parts.headers.try_insert(name, value).map_err(|_| CredentialRefusal::Malformed)?;
        }
        Ok(())
    }

    /// Takes note of the nonce that the origin wants from now on; whether it is another one.
    pub(in crate::credential) fn note(&self, answer: &HeaderMap) -> bool {
        let Some(wanted) = nonce(answer) else { return false };
        if self.nonce.load().as_deref().is_some_and(|known| known == wanted) {
            return false;
        }
        self.nonce.store(Some(Arc::new(wanted.to_owned())));
        true
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.authorization == other.authorization && Arc::ptr_eq(&self.key, &other.key)
    }
}

impl Eq for Bound {}

/// The nonce that an answer asks for, if it is one.
pub(super) fn nonce(headers: &HeaderMap) -> Option<&str> {
    let nonce = headers.get(NONCE)?.to_str().ok()?;
    let fits = (1..=LONGEST_NONCE).contains(&nonce.len()) && nonce.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(nonce)
}

/// What a proof says that it is for: no query, and no port that goes without saying. Credentials go over TLS only.
fn url(parts: &Parts, onto: &Onto<'_>) -> String {
    let Onto { host, port, .. } = onto;
    let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
    match port {
        443 => format!("https://{open}{host}{close}{}", parts.uri.path()),
        _ => format!("https://{open}{host}{close}:{port}{}", parts.uri.path()),
    }
}

/// Where a proof stands.
pub(super) const HEADER: HeaderName = HeaderName::from_static("dpop");

const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Issuers and origins choose it, and it is sent back with every request.
const LONGEST_NONCE: usize = 512;

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::credential::jose::Unverified;

    const ONTO: Onto<'_> = Onto { host: "api.test", port: 443, body: None, signing: None };

    fn applied(bound: &Bound, uri: &str, onto: &Onto<'_>) -> (HeaderMap, Unverified) {
        let request = Request::put(uri).header("dpop", "old").header("dpop", "older").body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        bound.apply(&mut parts, onto).unwrap();
        assert_eq!(parts.headers.get_all("dpop").iter().count(), 1);
        let proof = Unverified::read(parts.headers["dpop"].to_str().unwrap()).unwrap();
        (parts.headers, proof)
    }

    #[test]
    fn a_proof_is_for_one_request_with_one_token() {
        let bound = Bound::new("canary", &Arc::new(Key::generate())).unwrap();
        let (headers, proof) = applied(&bound, "/a%20b?q=1", &ONTO);
        assert_eq!(headers["authorization"], "DPoP canary");
        assert!(headers["authorization"].is_sensitive() && headers["dpop"].is_sensitive());
        assert_eq!((&proof.header["typ"], &proof.header["alg"]), (&"dpop+jwt".into(), &"ES256".into()));
        assert_eq!(proof.header["jwk"].as_object().unwrap().len(), 4);
        assert_eq!(proof.claims["htm"], "PUT");
        assert_eq!(proof.claims["htu"], "https://api.test/a%20b");
        // SHA-256 of `canary`.
        assert_eq!(proof.claims["ath"], URL_SAFE_NO_PAD.encode(digest(&SHA256, b"canary")));
        assert!(proof.claims["iat"].as_u64().unwrap().abs_diff(jose::now()) < 5);
        assert!(!proof.claims.contains_key("nonce"));
        let (_, other) = applied(&bound, "/", &ONTO);
        assert_ne!(proof.claims["jti"], other.claims["jti"]);
        assert_eq!(proof.header["jwk"], other.header["jwk"]);
    }

    #[test]
    fn the_url_is_that_of_the_destination() {
        let bound = Bound::new("t", &Arc::new(Key::generate())).unwrap();
        for (host, port, uri, told) in [
            ("api.test", 8443, "/p", "https://api.test:8443/p"),
            ("::1", 443, "/", "https://[::1]/"),
            ("::1", 1, "/?q", "https://[::1]:1/"),
        ] {
            let (_, proof) = applied(&bound, uri, &Onto { host, port, body: None, signing: None });
            assert_eq!(proof.claims["htu"], told);
        }
    }

    #[test]
    fn the_nonce_that_was_wanted_last_is_used() {
        let bound = Bound::new("t", &Arc::new(Key::generate())).unwrap();
        let answer = |nonce: &str| HeaderMap::from_iter([(NONCE, HeaderValue::from_str(nonce).unwrap())]);
        assert!(!bound.note(&HeaderMap::new()));
        for unfit in ["", "a b", &"x".repeat(LONGEST_NONCE + 1)] {
            assert!(!bound.note(&answer(unfit)));
        }
        assert!(bound.note(&answer("one")) && !bound.note(&answer("one")) && bound.note(&answer("two")));
        assert_eq!(applied(&bound, "/", &ONTO).1.claims["nonce"], "two");
    }
}
