//! One authorization server: what it is asked, and what its answers mean.

use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, header};
use serde::Deserialize;

use super::{
    Fields,
    authentication::Client,
    dpop::{self, Key},
};
use crate::{
    credential::{Failure, client::Answer, mint::Tools, reply},
    refusal::CredentialRefusal,
};

/// An authorization server, and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where it is asked.
    pub endpoints: Endpoints,
    /// Who we are there.
    pub client: Client,
}

/// Where an authorization server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoints {
    /// Where the configuration says.
    Written {
        /// Where tokens are asked for.
        token: Arc<str>,
        /// Where they are revoked (RFC 7009), where the issuer can.
        revocation: Option<Arc<str>>,
        /// The issuer's identifier, where it was told.
        issuer: Option<String>,
    },
    /// Where the issuer itself says (RFC 8414).
    Discovered {
        /// The issuer's identifier.
        issuer: String,
        /// Whether it can revoke. What is minted could not be ended otherwise, and that must be known beforehand.
        revocable: bool,
    },
}

/// Where to ask, as it was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) token: Arc<str>,
    pub(super) revocation: Option<Arc<str>>,
}

impl Server {
    pub(super) fn revocable(&self) -> bool {
        match &self.endpoints {
            Endpoints::Written { revocation, .. } => revocation.is_some(),
            Endpoints::Discovered { revocable, .. } => *revocable,
        }
    }

    /// What it is told apart by from others.
    pub(super) fn name(&self) -> &str {
        match &self.endpoints {
            Endpoints::Written { token, .. } => token,
            Endpoints::Discovered { issuer, .. } => issuer,
        }
    }

    /// Whether this is the same issuer, to which we are the same client.
    pub(in crate::credential) fn is_asked_alike(&self, other: &Self) -> bool {
        self.name() == other.name() && self.client.id == other.client.id
    }

    /// Whom a token is for that it is to see itself.
    pub fn audience(&self) -> &str {
        match &self.endpoints {
            Endpoints::Written { token, issuer: None, .. } => token,
            Endpoints::Written { issuer: Some(issuer), .. } | Endpoints::Discovered { issuer, .. } => issuer,
        }
    }

    /// Asks for a token: once, and once more if the issuer wants its nonce in the proof of possession.
    pub(super) async fn ask(&self, tools: &Tools, fields: &Fields, key: Option<&Key>) -> Result<Answer, Failure> {
        let Found { token: endpoint, .. } = self.find(tools).await?;
        let proof =
            |nonce: Option<&str>| key.map(|key| key.proof(&Method::POST, without_query(&endpoint), nonce, None));
        let mut answer = self.post(tools, &endpoint, fields, proof(None)).await?;
        if key.is_some()
            && answer.status != StatusCode::OK
            && error_code(&answer.body) == Some(USE_NONCE)
            && let Some(nonce) = dpop::nonce(&answer.headers)
        {
            answer = self.post(tools, &endpoint, fields, proof(Some(nonce))).await?;
        }
        match answer.status {
            StatusCode::OK => Ok(answer),
            _ => Err(self.refused(tools, &answer)),
        }
    }

    /// Ends a token (RFC 7009): one attempt. One that has ended, or that the issuer doesn't know, is no failure.
    pub(super) async fn revoke(&self, tools: &Tools, token: &str) -> Result<(), Failure> {
        let Some(endpoint) = self.find(tools).await?.revocation else {
            return Err(Failure::malformed("the issuer can't revoke"));
        };
        let mut fields = Fields(Vec::with_capacity(2));
        fields.add("token", token);
        fields.add("token_type_hint", "access_token");
        let answer = self.post(tools, &endpoint, &fields, None).await?;
        match answer.status {
            StatusCode::OK => Ok(()),
            _ => Err(self.refused(tools, &answer)),
        }
    }

    async fn find(&self, tools: &Tools) -> Result<Found, Failure> {
        match &self.endpoints {
            Endpoints::Written { token, revocation, .. } => {
                Ok(Found { token: Arc::clone(token), revocation: revocation.clone() })
            }
            Endpoints::Discovered { issuer, revocable } => {
                let found = tools.issuers.find(&tools.client, issuer).await?;
                if *revocable && found.revocation.is_none() {
                    let detail = "the issuer names no endpoint for revocation; hint: `revocable: false` does without";
                    return Err(Failure::new(CredentialRefusal::Rejected, detail));
                }
                Ok(found)
            }
        }
    }

    /// Posts a form in our name. Each request has a proof of its own of who asks.
    async fn post(
        &self,
        tools: &Tools,
        endpoint: &str,
        fields: &Fields,
        proof: Option<http::HeaderValue>,
    ) -> Result<Answer, Failure> {
        let audience = self.client.audience.as_deref().unwrap_or_else(|| self.audience());
        let (authorization, asks) = self.client.prove(tools, audience).await?;
        let mut headers = HeaderMap::new();
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization);
        }
        if let Some(proof) = proof {
            headers.insert(dpop::HEADER, proof);
        }
        tools.client.post(endpoint, headers, fields.form(&asks)).await
    }

    /// What an answer other than 200 means.
    fn refused(&self, tools: &Tools, answer: &Answer) -> Failure {
        let status = answer.status.as_u16();
        // An endpoint that has moved answers like this.
        if let (Endpoints::Discovered { issuer, .. }, 300..=399 | 404 | 405 | 410) = (&self.endpoints, status) {
            tools.issuers.forget(issuer);
        }
        reply::refused(answer, error_code(&answer.body))
    }
}

/// The error's name, if it is a known one: whatever else stands there is the issuer's to choose, and not for a log.
fn error_code(body: &[u8]) -> Option<&'static str> {
    #[derive(Deserialize)]
    struct ErrorAnswer<'a> {
        error: &'a str,
    }
    let ErrorAnswer { error } = serde_json::from_slice(body).ok()?;
    ERRORS.iter().find(|known| **known == error).copied()
}

/// What a proof of possession names (RFC 9449 section 4.2).
fn without_query(endpoint: &str) -> &str {
    endpoint.split(['?', '#']).next().unwrap_or(endpoint)
}

const USE_NONCE: &str = "use_dpop_nonce";

/// RFC 6749 section 5.2, RFC 7009 section 2.2.1, RFC 8707 section 2, RFC 9396 section 5, RFC 9449 sections 5 and 8.
const ERRORS: [&str; 11] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "unsupported_token_type",
    "invalid_target",
    "invalid_authorization_details",
    "invalid_dpop_proof",
    USE_NONCE,
];
