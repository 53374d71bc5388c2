//! Signs JSON Web Tokens with keys of our own (RFC 7515, compact form), and reads what foreign ones say.
//!
//! Knows ES256 and RS256. Verifies nothing: what a foreign token says narrows what is accepted, and never widens it.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    rand::{SecureRandom, SystemRandom},
    rsa,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde::Serialize;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::Failure;

/// A private key that signs. Invisible to `Debug`.
pub(super) enum SigningKey {
    Es256(EcdsaKeyPair),
    Rs256(rsa::KeyPair),
}

/// What stands in a token's header beside the algorithm.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a> {
    pub(super) typ: &'a str,
    /// The name that whoever verifies knows the key by.
    pub(super) key_id: Option<&'a str>,
    /// Whether the public key itself goes along.
    pub(super) with_key: bool,
}

impl SigningKey {
    /// A new P-256 key, which never leaves memory.
    pub(super) fn generate() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self::Es256(key.expect("the system's random source never fails once the process has started"))
    }

    /// A P-256 or RSA key (of 2048 bits or more) in PEM: PKCS#8, PKCS#1 or SEC 1.
    pub(super) fn from_pem(text: &str) -> Result<Self, Failure> {
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes());
        let der = Zeroizing::new(der.map_err(|_| Failure::misconfigured("no private key in PEM"))?);
        let ec = |der: &[u8]| EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der);
        let key = match &*der {
            PrivateKeyDer::Pkcs8(key) => {
                let rsa = rsa::KeyPair::from_pkcs8(key.secret_pkcs8_der()).map(Self::Rs256);
                rsa.or_else(|_| ec(key.secret_pkcs8_der()).map(Self::Es256))
            }
            PrivateKeyDer::Pkcs1(key) => rsa::KeyPair::from_der(key.secret_pkcs1_der()).map(Self::Rs256),
            PrivateKeyDer::Sec1(key) => ec(key.secret_sec1_der()).map(Self::Es256),
            _ => return Err(Failure::misconfigured("a private key of no known kind")),
        };
        key.map_err(|_| Failure::misconfigured("the private key is neither P-256 nor RSA of 2048 bits or more"))
    }

    /// `header.claims.signature`, each in base64url.
    pub(super) fn sign(&self, header: Header<'_>, claims: &Value) -> Zeroizing<String> {
        #[derive(Serialize)]
        struct Written<'a> {
            typ: &'a str,
            alg: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            kid: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            jwk: Option<Value>,
        }
        let jwk = if header.with_key { self.public_jwk() } else { None };
        let header = Written { typ: header.typ, alg: self.algorithm(), kid: header.key_id, jwk };
        let header = serde_json::to_vec(&header).expect("texts can be written as JSON");
        let claims = Zeroizing::new(claims.to_string());
        // Room for the longest signature: growing would leave copies behind.
        let room = 4 * (header.len() + claims.len()).div_ceil(3) + 4 * LONGEST_SIGNATURE.div_ceil(3) + 4;
        let mut token = Zeroizing::new(String::with_capacity(room));
        URL_SAFE_NO_PAD.encode_string(&header, &mut token);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.as_bytes(), &mut token);
        let signature = self.signature(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(&signature, &mut token);
        token
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Rs256(_) => "RS256",
        }
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Es256(key) => key.sign(&random, message).expect("a P-256 key signs").as_ref().to_vec(),
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("an RSA key that was read signs");
                signature
            }
        }
    }

    /// The public half (RFC 7517); written for the keys that are made here only.
    fn public_jwk(&self) -> Option<Value> {
        let Self::Es256(key) = self else { return None };
        // Uncompressed: a 4, then both coordinates.
        let (x, y) = key.public_key().as_ref().get(1..)?.split_at_checked(32)?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        Some(json!({"crv": "P-256", "kty": "EC", "x": x, "y": y}))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm())
    }
}

/// What a token of somebody else's says of itself. Nothing here is verified.
pub(super) struct Unverified {
    pub(super) header: Map<String, Value>,
    pub(super) claims: Map<String, Value>,
}

impl Unverified {
    /// `None` for what is no token in compact form, such as an opaque one.
    pub(super) fn read(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        let object = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).map(Zeroizing::new).ok()?).ok();
        match parts.next() {
            None => Some(Self { header: object(header)?, claims: object(claims)? }),
            Some(_) => None,
        }
    }

    /// Whom it is for; `None` where it doesn't say, or not in words.
    pub(super) fn audiences(&self) -> Option<Vec<&str>> {
        match self.claims.get("aud")? {
            Value::String(one) => Some(vec![one]),
            Value::Array(several) => several.iter().map(Value::as_str).collect(),
            _ => None,
        }
    }

    /// When it ends.
    pub(super) fn expires_at(&self) -> Option<SystemTime> {
        let seconds = self.claims.get("exp")?.as_f64().filter(|seconds| *seconds >= 0.0)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    }
}

/// A name that no other token has: 128 random bits.
pub(super) fn unique() -> String {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("the system's random source never fails once the process has started");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since 1970, as tokens count time.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// That of an RSA key of 8192 bits.
const LONGEST_SIGNATURE: usize = 1024;

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::AsDer,
        signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm},
    };

    use super::*;

    const HEADER: Header<'_> = Header { typ: "JWT", key_id: Some("k1"), with_key: false };

    fn pem(label: &str, der: &[u8]) -> String {
        pem::encode(&pem::Pem::new(label, der))
    }

    fn verifies(token: &str, algorithm: &'static dyn VerificationAlgorithm, public: &[u8]) -> bool {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        UnparsedPublicKey::new(algorithm, public).verify(signed.as_bytes(), &signature).is_ok()
    }

    #[test]
    fn each_kind_of_key_is_read_and_signs() {
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let public = ec.public_key().as_ref();
        let pkcs8 = ec.to_pkcs8v1().unwrap();
        let sec1: aws_lc_rs::encoding::EcPrivateKeyRfc5915Der<'_> = ec.private_key().as_der().unwrap();
        for text in [pem("PRIVATE KEY", pkcs8.as_ref()), pem("EC PRIVATE KEY", sec1.as_ref())] {
            let token = SigningKey::from_pem(&text).unwrap().sign(HEADER, &json!({"a": 1}));
            assert!(verifies(&token, &ECDSA_P256_SHA256_FIXED, public), "{text}");
        }
        let rsa = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let public = rsa.public_key().as_ref();
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = rsa.as_der().unwrap();
        // The version, the algorithm's 13 bytes of content, and an octet string with a long length stand before it.
        let pkcs1 = &pkcs8.as_ref()[26..];
        for text in [pem("PRIVATE KEY", pkcs8.as_ref()), pem("RSA PRIVATE KEY", pkcs1)] {
            let token = SigningKey::from_pem(&text).unwrap().sign(HEADER, &json!({"a": 1}));
            assert!(verifies(&token, &RSA_PKCS1_2048_8192_SHA256, public), "{text}");
        }
    }

    #[test]
    fn a_token_says_what_it_was_given() {
        let key = SigningKey::generate();
        let token = key.sign(Header { with_key: true, ..HEADER }, &json!({"iss": "a", "aud": ["b", "c"], "exp": 60}));
        let read = Unverified::read(&token).unwrap();
        assert_eq!(
            (&read.header["alg"], &read.header["kid"], &read.header["typ"]),
            (&json!("ES256"), &json!("k1"), &json!("JWT"))
        );
        assert_eq!(read.header["jwk"]["crv"], "P-256");
        assert_eq!(read.header["jwk"]["x"].as_str().unwrap().len(), 43);
        assert_eq!(read.claims["iss"], "a");
        assert_eq!(read.audiences(), Some(vec!["b", "c"]));
        assert_eq!(read.expires_at(), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60)));
        assert_eq!(format!("{key:?}"), "ES256");
    }

    #[test]
    fn what_is_no_key_is_refused_without_a_word_of_it() {
        let other = EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let p384 = pem("PRIVATE KEY", other.to_pkcs8v1().unwrap().as_ref());
        for text in ["", "canary", &pem("CERTIFICATE", b"canary"), &pem("PRIVATE KEY", b"canary"), &p384] {
            let failure = SigningKey::from_pem(text).unwrap_err();
            assert!(!failure.detail.contains("canary"), "{failure:?}");
        }
    }

    #[test]
    fn what_is_no_token_is_not_read() {
        let claims = URL_SAFE_NO_PAD.encode("{}");
        let array = URL_SAFE_NO_PAD.encode("[]");
        let table = [
            "",
            "opaque",
            "a.b.c",
            &format!("{claims}.{claims}"),
            &format!("{array}.{claims}.x"),
            &format!("{claims}.{claims}.x.y"),
        ];
        for token in table {
            assert!(Unverified::read(token).is_none(), "{token}");
        }
        let empty = Unverified::read(&format!("{claims}.{claims}.")).unwrap();
        assert_eq!((empty.audiences(), empty.expires_at()), (None, None));
    }

    #[test]
    fn names_differ() {
        assert_ne!(unique(), unique());
        assert_eq!(unique().len(), 22);
    }
}
