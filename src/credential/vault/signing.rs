//! Tokens that a server signs with a key of its transit engine: the key never leaves the server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use zeroize::Zeroizing;

use super::{
    super::{
        Failure,
        client::Answer,
        mint::{Asking, Secret},
    },
    api,
};
use crate::refusal::CredentialRefusal;

/// A token to have signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Where it is signed, e.g. `transit/sign/agents`.
    pub path: String,
    /// The algorithm, which the key's type must suit.
    pub algorithm: Algorithm,
    /// The name that whoever verifies it knows the key by.
    pub key_id: Option<String>,
    /// Who issues it.
    pub issuer: String,
    /// Whom it is for.
    pub audience: String,
}

/// An algorithm that signs (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    Rs256,
    /// Ed25519.
    EdDsa,
}

/// A token without its signature.
pub(super) struct Unsigned {
    text: String,
    pub(super) life: Duration,
}

/// What the transit engine is asked for.
#[derive(Serialize)]
pub(super) struct Request {
    input: String,
    marshaling_algorithm: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash_algorithm: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature_algorithm: Option<&'static str>,
}

impl Signed {
    /// The token for one task and one destination, for as long as it is of use.
    pub(super) fn unsigned(&self, asking: &Asking<'_>) -> Result<Unsigned, Failure> {
        let Some(agent) = asking.tools.identity.id() else {
            return Err(Failure::new(CredentialRefusal::Unavailable, "the agent's identity is not proven yet"));
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let life = asking.useful.as_secs().max(1);
        let mut header = json!({"alg": self.algorithm.name(), "typ": "JWT"});
        if let Some(key) = &self.key_id {
            header["kid"] = key.as_str().into();
        }
        let mut claims = json!({
            "iss": self.issuer,
            "sub": agent,
            "aud": self.audience,
            "iat": now,
            "exp": now + life,
            "jti": uuid::Uuid::new_v4().to_string(),
            "destination": &*asking.upstream.name,
        });
        if !asking.task.id.is_empty() {
            claims["task"] = (*asking.task.id).into();
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        Ok(Unsigned { text: format!("{}.{}", part(&header), part(&claims)), life: Duration::from_secs(life) })
    }

    pub(super) fn request(&self, unsigned: &Unsigned) -> Request {
        let (hash_algorithm, signature_algorithm) = match self.algorithm {
            Algorithm::Es256 => (Some("sha2-256"), None),
            Algorithm::Rs256 => (Some("sha2-256"), Some("pkcs1v15")),
            Algorithm::EdDsa => (None, None),
        };
        let input = STANDARD.encode(&unsigned.text);
        Request { input, marshaling_algorithm: "jws", hash_algorithm, signature_algorithm }
    }
}

impl Unsigned {
    /// The whole token, with the signature from an answer.
    pub(super) fn complete(&self, answer: &Answer, step: &str) -> Result<Secret, Failure> {
        #[derive(Deserialize)]
        struct Signature<'a> {
            signature: &'a str,
        }
        let data = api::read(answer, step)?.data.map_or("", RawValue::get);
        let signature = serde_json::from_str::<Signature<'_>>(data).ok().and_then(|said| {
            let (version, signature) = said.signature.strip_prefix("vault:v")?.split_once(':')?;
            let is_base64 = signature.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            (version.parse::<u32>().is_ok() && is_base64 && !signature.is_empty()).then_some(signature)
        });
        let signature =
            signature.ok_or_else(|| Failure::malformed("there is no signature in the answer").about(step))?;
        let mut token = Zeroizing::new(String::with_capacity(self.text.len() + 1 + signature.len()));
        token.push_str(&self.text);
        token.push('.');
        token.push_str(signature);
        Ok(Secret::Value(token))
    }
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::EdDsa => "EdDSA",
        }
    }
}
