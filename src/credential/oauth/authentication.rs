//! Who we are to an issuer, and what proves it.
//!
//! There is no client without a proof: whoever saw the token that is exchanged could exchange it too.

use http::HeaderValue;
use percent_encoding::utf8_percent_encode;
use zeroize::Zeroizing;

use super::Fields;
use crate::credential::{Failure, SecretPlace, UNRESERVED, assertion, basic_pair, mint::Tools, sensitive};

/// A client of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its identifier.
    pub id: String,
    /// What proves that we are it.
    pub authentication: Authentication,
    /// Whom a proof is for, where that is neither the issuer nor its token endpoint.
    pub audience: Option<String>,
}

/// What proves that we are a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// A secret, as `Basic` (`client_secret_basic`).
    Basic(SecretPlace),
    /// A secret in the form (`client_secret_post`).
    Post(SecretPlace),
    /// A token that we sign (`private_key_jwt`).
    PrivateKey {
        /// Where the key stands.
        key: SecretPlace,
        /// The name that the issuer knows it by.
        key_id: Option<String>,
    },
    /// The agent's identity as a SPIFFE JWT-SVID.
    Spiffe,
    /// The agent's identity as any JSON Web Token that the issuer was told to trust for this client.
    Identity,
}

impl Client {
    /// What goes along with one request: the header, where it is one, and more fields.
    pub(super) async fn prove(&self, tools: &Tools, audience: &str) -> Result<(Option<HeaderValue>, Fields), Failure> {
        let mut fields = Fields(Vec::with_capacity(3));
        match &self.authentication {
            Authentication::Basic(place) => return Ok((Some(self.basic(&secret(place).await?)?), fields)),
            Authentication::Post(place) => {
                fields.add("client_id", &self.id);
                fields.take("client_secret", secret(place).await?);
            }
            Authentication::PrivateKey { key, key_id } => {
                let names = (self.id.as_str(), self.id.as_str());
                let signed = assertion::signed(key, key_id.as_deref(), names, audience).await;
                self.assert(&mut fields, JWT_BEARER, signed.map_err(|failure| failure.about("client"))?);
            }
            Authentication::Spiffe => {
                self.assert(&mut fields, JWT_SPIFFE, assertion::identity(tools, audience).await?);
            }
            Authentication::Identity => {
                self.assert(&mut fields, JWT_BEARER, assertion::identity(tools, audience).await?);
            }
        }
        Ok((None, fields))
    }

    fn assert(&self, fields: &mut Fields, assertion_type: &str, assertion: Zeroizing<String>) {
        fields.add("client_id", &self.id);
        fields.add("client_assertion_type", assertion_type);
        fields.take("client_assertion", assertion);
    }

    /// `Basic`, with both parts encoded as in a form (RFC 6749 section 2.3.1).
    fn basic(&self, secret: &str) -> Result<HeaderValue, Failure> {
        let mut encoded = Zeroizing::new(String::with_capacity(3 * secret.len()));
        encoded.extend(utf8_percent_encode(secret, UNRESERVED));
        let user = utf8_percent_encode(&self.id, UNRESERVED).to_string();
        sensitive(&["Basic ", &basic_pair(&user, &encoded)])
    }
}

async fn secret(place: &SecretPlace) -> Result<Zeroizing<String>, Failure> {
    place.read().await.map_err(|failure| failure.about("client secret"))
}

/// RFC 7523 section 2.2.
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// OAuth SPIFFE Client Authentication.
const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";
