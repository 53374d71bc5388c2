//! Client certificates that a server issues with its PKI engine, for as long as the credential is of use.
//!
//! The key is made by the server and held by the TLS library from then on. Where the role keeps leases
//! (`generate_lease`), revoking the token that asked for the certificate revokes it too; otherwise it ends by itself.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{
    super::{Failure, client::Answer, mint::Secret, reply},
    api,
};
use crate::{refusal::CredentialRefusal, tls::certificate::ClientCertificate};

/// A certificate to have issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// Where it is issued, e.g. `pki/issue/agents`.
    pub path: String,
    /// Whom it names.
    pub common_name: String,
    /// Whether it also names the agent's identity, as a URI.
    pub identity: bool,
}

/// What the PKI engine is asked for.
#[derive(Serialize)]
pub(super) struct Request<'a> {
    common_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri_sans: Option<&'a str>,
    ttl: String,
    format: &'static str,
    private_key_format: &'static str,
}

#[derive(Deserialize)]
struct Issued {
    certificate: String,
    #[serde(default)]
    ca_chain: Vec<String>,
    #[serde(deserialize_with = "reply::wiped")]
    private_key: Zeroizing<String>,
}

impl Certified {
    pub(super) fn request<'a>(&'a self, agent: Option<&'a str>, life: Duration) -> Result<Request<'a>, Failure> {
        let uri_sans = match (self.identity, agent) {
            (false, _) => None,
            (true, Some(agent)) => Some(agent),
            (true, None) => {
                return Err(Failure::new(CredentialRefusal::Unavailable, "the agent's identity is not proven yet"));
            }
        };
        let (ttl, common_name) = (format!("{}s", life.as_secs()), self.common_name.as_str());
        Ok(Request { common_name, uri_sans, ttl, format: "pem", private_key_format: "pkcs8" })
    }

    /// The certificate, and how long it lives. One that lives longer than allowed is refused.
    pub(super) fn read(&self, answer: &Answer, longest: Duration) -> Result<(Secret, Duration), Failure> {
        let about = |failure: Failure| failure.about(&self.path);
        let data = api::read(answer, &self.path)?.data.map_or("", RawValue::get);
        let issued: Issued = serde_json::from_str(data)
            .map_err(|_| about(Failure::malformed("there is no certificate with its key in the answer")))?;
        let chain = [issued.certificate].into_iter().chain(issued.ca_chain).collect::<Vec<_>>().join("\n");
        let certificate = ClientCertificate::from_pem(chain.as_bytes(), issued.private_key.as_bytes())
            .map_err(|unusable| about(Failure::malformed(unusable.to_string())))?;
        let life = reply::life_until(certificate.expires_at(), longest).map_err(about)?;
        Ok((Secret::Certificate(Arc::new(certificate)), life))
    }
}
