//! The HTTP API of OpenBao and Vault: how a call is made, how an answer is read, and what a refusal means.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use percent_encoding::{AsciiSet, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{
    super::{
        Failure, UNRESERVED,
        client::{Answer, Client},
        reply, sensitive,
    },
    Server,
};
use crate::refusal::CredentialRefusal;

/// One server, and what speaks to it.
#[derive(Clone, Copy)]
pub(super) struct Api<'a> {
    pub(super) client: &'a Client,
    pub(super) server: &'a Server,
}

impl Api<'_> {
    /// Makes one call and reads the whole answer, whatever its status.
    pub(super) async fn call<B: Serialize>(
        self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&B>,
    ) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST, HeaderValue::from_static("true"));
        if let Some(namespace) = &self.server.namespace {
            let namespace = HeaderValue::from_str(namespace);
            headers.insert(NAMESPACE, namespace.map_err(|_| Failure::malformed("the namespace can't be sent"))?);
        }
        if let Some(token) = token {
            headers.insert(TOKEN, sensitive(&[token])?);
        }
        // Room for the largest body at once: growing would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST_BODY));
        if let Some(body) = body {
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            serde_json::to_writer(&mut *bytes, body).expect("strings and numbers can be written as JSON");
        }
        self.client.call(method, &self.url(path), headers, bytes).await
    }

    fn url(self, path: &str) -> String {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let mut url = format!("{}/v1/", self.server.address.trim_end_matches('/'));
        url.extend(utf8_percent_encode(path, PATH));
        if let Some(query) = query {
            url.push('?');
            url.push_str(query);
        }
        url
    }
}

/// What every answer may say. What is not of interest is ignored, as the API asks.
#[derive(Deserialize)]
pub(super) struct Said<'a> {
    pub(super) auth: Option<Auth>,
    #[serde(default)]
    pub(super) lease_id: Option<String>,
    #[serde(default)]
    pub(super) lease_duration: u64,
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
}

/// A token that was given.
#[derive(Deserialize)]
pub(super) struct Auth {
    #[serde(deserialize_with = "reply::wiped")]
    pub(super) client_token: Zeroizing<String>,
    #[serde(default)]
    pub(super) accessor: String,
    #[serde(default)]
    pub(super) lease_duration: u64,
    #[serde(default)]
    pub(super) token_type: Option<String>,
    #[serde(default)]
    pub(super) token_policies: Option<Vec<String>>,
}

/// Reads a successful answer, or says what another one means.
pub(super) fn read<'a>(answer: &'a Answer, step: &str) -> Result<Said<'a>, Failure> {
    match answer.status {
        StatusCode::OK => reply::object(answer, StatusCode::OK).map_err(|failure| failure.about(step)),
        _ => Err(refused(answer, step)),
    }
}

/// What an answer other than 200 means. Quotes nothing of it but what is known.
pub(super) fn refused(answer: &Answer, step: &str) -> Failure {
    let failure = reply::refused(answer, explained(answer)).about(step);
    match answer.status.as_u16() {
        // A standby that leads elsewhere, one that has not caught up, and two that are no node to ask.
        307 | 308 | 412 | 472 | 473 => Failure { refusal: CredentialRefusal::Unavailable, ..failure },
        _ => failure,
    }
}

/// Whether one of the errors of an answer says this.
pub(super) fn says(answer: &Answer, text: &str) -> bool {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    let errors = serde_json::from_slice(&answer.body).map_or_else(|_| Vec::new(), |Errors { errors }| errors);
    errors.iter().any(|error| error.contains(text))
}

/// What stands there besides is the server's to choose, and not for a log.
fn explained(answer: &Answer) -> Option<&'static str> {
    KNOWN.iter().find(|(text, _)| says(answer, text)).map(|(_, why)| *why)
}

const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");

const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// A login with a large token is a few kilobytes.
const LARGEST_BODY: usize = 64 * 1024;

/// Errors that have a remedy, and what it is.
const KNOWN: [(&str, &str); 8] = [
    ("permission denied", "permission denied; hint: see the policy of the role that we log in with"),
    (
        "batch tokens cannot create more tokens",
        "our login is a batch token; hint: set `token_type=service` at its role",
    ),
    (
        "restricted use token cannot generate child tokens",
        "our login may be used a few times only; hint: set `token_num_uses=0` at its role",
    ),
    ("child policies must be subset of parent", "`policies` has one that our login does not have"),
    ("wrapping token is not valid or does not exist", "the wrapping token is unknown, was used or has expired"),
    ("Vault is sealed", "the server is sealed"),
    ("unknown role", "unknown role"),
    ("invalid role or secret ID", "invalid role or secret id"),
];
