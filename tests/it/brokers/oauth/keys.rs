//! Keys that tests sign with, and what verifies proofs of possession.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    digest as hash,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A P-256 key.
pub struct Key(EcdsaKeyPair);

impl Key {
    pub fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key can be made"))
    }

    pub fn pem(&self) -> String {
        let der = self.0.to_pkcs8v1().expect("it can be written");
        pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref()))
    }

    /// The public half.
    pub fn jwk(&self) -> Value {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
    }

    /// A token with these claims, good for a while.
    pub fn sign(&self, claims: &Value) -> String {
        let mut claims = claims.clone();
        let end = SystemTime::now() + Duration::from_secs(600);
        claims["exp"] = json!(end.duration_since(UNIX_EPOCH).expect("it is later").as_secs());
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ES256"})), part(&claims));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).expect("it signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

/// What a proof says that verifies by the key in it.
pub struct Proof {
    pub claims: Value,
    /// RFC 7638.
    pub thumbprint: String,
}

/// Verifies a proof of possession.
pub fn verified(proof: &str) -> Proof {
    let (signed, signature) = proof.rsplit_once('.').expect("three parts");
    let (header, claims) = signed.split_once('.').expect("three parts");
    let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).expect("base64url");
    let read = |part: &str| -> Value { serde_json::from_slice(&bytes(part)).expect("JSON") };
    let header = read(header);
    assert_eq!((&header["typ"], &header["alg"]), (&json!("dpop+jwt"), &json!("ES256")));
    let coordinate = |name: &str| header["jwk"][name].as_str().expect("text");
    let public = [&[4], &*bytes(coordinate("x")), &*bytes(coordinate("y"))].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public);
    key.verify(signed.as_bytes(), &bytes(signature)).expect("the signature verifies");
    let (x, y) = (coordinate("x"), coordinate("y"));
    let thumbprint = digest(&format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#));
    Proof { claims: read(claims), thumbprint }
}

/// SHA-256, as tokens carry it.
pub fn digest(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(hash::digest(&hash::SHA256, text.as_bytes()))
}
