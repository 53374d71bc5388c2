//! How a credential goes onto a request, and the form that it has on the wire.

use std::{sync::Arc, time::SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Uri, header::AUTHORIZATION, request::Parts, uri::PathAndQuery};
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use zeroize::Zeroizing;

use super::{Failure, Onto, UNRESERVED, aws, mint::Secret, oauth::dpop::Bound};
use crate::{refusal::CredentialRefusal, tls::certificate::ClientCertificate};

/// How a credential goes onto a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// `Authorization: Bearer …` (RFC 6750 section 2.1).
    Bearer,
    /// `Authorization: Basic …` (RFC 7617) with this user.
    Basic(String),
    /// `Authorization: Basic …` with the user that the issuer made.
    BasicPair,
    /// A header of its own.
    Header(HeaderName),
    /// A query parameter.
    Query(String),
    /// Not on a request: a certificate is shown when a connection is made.
    Certificate,
    /// A signature over the request (AWS Signature Version 4), for this scope.
    SigV4(aws::Scope),
}

/// The value, in the form that goes onto the wire; marked sensitive, so that `Debug` and HPACK indexing leave it out.
/// Its bytes are owned by wiped memory, which a header value shares instead of copying.
#[derive(PartialEq, Eq)]
pub(super) enum Placed {
    Header(HeaderName, HeaderValue),
    /// The parameter's name, and the encoded pair.
    Query(String, Zeroizing<String>),
    /// A token, and the key that it is bound to.
    Bound(Box<Bound>),
    /// Keys that sign.
    Signed(Box<aws::Signer>),
    /// Shown when a connection is made.
    Certificate(Arc<ClientCertificate>),
}

impl Placed {
    /// Brings a secret into that form. One that can't stand there is refused.
    pub(super) fn new(placement: &Placement, secret: &Secret) -> Result<Self, Failure> {
        match (placement, secret) {
            (Placement::BasicPair, Secret::Pair { user, password }) => {
                legal(user)?;
                if user.contains(':') {
                    return Err(Failure::malformed("the user has a colon (RFC 7617)"));
                }
                legal(password)?;
                Ok(Self::Header(AUTHORIZATION, sensitive(&["Basic ", &basic_pair(user, password)])?))
            }
            (Placement::Certificate, Secret::Certificate(certificate)) => {
                if certificate.begins_at() > SystemTime::now() {
                    let detail = "the certificate is not valid yet";
                    return Err(Failure::new(CredentialRefusal::Unavailable, detail));
                }
                Ok(Self::Certificate(Arc::clone(certificate)))
            }
            (Placement::Certificate, _) | (_, Secret::Certificate(_)) => {
                Err(Failure::malformed("a certificate is shown when a connection is made, and nothing else is"))
            }
            (Placement::Bearer, Secret::Bound { token, key }) => Ok(Self::Bound(Box::new(Bound::new(token, key)?))),
            (_, Secret::Bound { .. }) => {
                Err(Failure::malformed("a token that is bound to a key stands in `Authorization`"))
            }
            (Placement::SigV4(_), Secret::Aws { access_key, secret_key, session_token }) => {
                Ok(Self::Signed(Box::new(aws::Signer::new(access_key, secret_key, session_token)?)))
            }
            (Placement::SigV4(_), _) | (_, Secret::Aws { .. }) => {
                Err(Failure::malformed("keys of AWS sign requests, and nothing else does"))
            }
            (Placement::BasicPair, _) => Err(Failure::malformed("the issuer made no user for `basic`")),
            (_, Secret::Pair { password, .. }) => Self::of_value(placement, password),
            (_, Secret::Value(value)) => Self::of_value(placement, value),
        }
    }

    /// Puts it onto a request, in place of whatever stood there. Fails when the target has no room for it.
    pub(super) fn apply(&self, parts: &mut Parts, onto: &Onto<'_>) -> Result<(), CredentialRefusal> {
        match self {
            Self::Header(name, value) => {
                let placed = parts.headers.try_insert(name.clone(), value.clone());
                placed.map(drop).map_err(|_| CredentialRefusal::Malformed)
            }
            Self::Bound(bound) => bound.apply(parts, onto),
            Self::Signed(signer) => signer.sign(parts, onto),
            // It went onto the connection.
            Self::Certificate(_) => Ok(()),
            Self::Query(name, pair) => {
                parts.uri = with_parameter(&parts.uri, name, pair).ok_or(CredentialRefusal::Malformed)?;
                Ok(())
            }
        }
    }

    /// The secret as the placement encodes it, without padding: what stands behind a scheme, or behind a parameter's name.
    pub(super) fn encoded(&self) -> Option<&str> {
        match self {
            Self::Header(_, value) => Some(value.to_str().ok()?.split_once(' ')?.1.trim_end_matches('=')),
            Self::Query(_, pair) => Some(pair.split_once('=')?.1),
            // A token stands there as it is.
            Self::Bound(_) | Self::Signed(_) | Self::Certificate(_) => None,
        }
    }

    fn of_value(placement: &Placement, value: &str) -> Result<Self, Failure> {
        legal(value)?;
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
            Placement::BasicPair | Placement::Certificate | Placement::SigV4(_) => {
                Err(Failure::malformed("the issuer made no user for `basic`"))
            }
        }
    }
}

fn legal(value: &str) -> Result<(), Failure> {
    if value.is_empty() || value.chars().any(char::is_control) {
        return Err(Failure::malformed("the credential is empty or holds control characters"));
    }
    Ok(())
}

/// `user:secret` in base64, as `Basic` wants it (RFC 7617).
pub(super) fn basic_pair(user: &str, secret: &str) -> Zeroizing<String> {
    let mut pair = Zeroizing::new(String::with_capacity(user.len() + 1 + secret.len()));
    pair.push_str(user);
    pair.push(':');
    pair.push_str(secret);
    let mut encoded = Zeroizing::new(String::with_capacity(pair.len().div_ceil(3) * 4));
    STANDARD.encode_string(pair.as_bytes(), &mut encoded);
    encoded
}

/// A header value whose bytes are wiped with its last clone.
pub(super) fn sensitive(pieces: &[&str]) -> Result<HeaderValue, Failure> {
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
