//! Where issuers say that they are asked (RFC 8414).
//!
//! A document is read once for all who ask, and again after a while. It must be the issuer's own, and may send secrets
//! only where the configuration could have: over TLS, or to loopback if the issuer itself is there. While it can't be
//! read again, what it said is used for some time more.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::server::Found;
use crate::{
    credential::{
        Failure,
        client::{Answer, Client, checked},
        reply,
    },
    refusal::CredentialRefusal,
};

/// What the issuers said that were asked.
#[derive(Default)]
pub(in crate::credential) struct Issuers(Mutex<HashMap<String, Known>>);

/// One issuer's; whoever holds the lock is the one who reads.
type Known = Arc<tokio::sync::Mutex<Option<Read>>>;

struct Read {
    found: Found,
    at: Instant,
    /// When it is read again.
    again: Instant,
}

impl Issuers {
    /// Where this issuer says that it is asked.
    pub(super) async fn find(&self, client: &Client, issuer: &str) -> Result<Found, Failure> {
        let known = self.known(issuer);
        let mut known = known.lock().await;
        let now = Instant::now();
        if let Some(read) = known.as_ref().filter(|read| now < read.again) {
            return Ok(read.found.clone());
        }
        match fetch(client, issuer).await {
            Ok(found) => {
                *known = Some(Read { found: found.clone(), at: now, again: now + FRESH });
                Ok(found)
            }
            Err(failure) => match known.as_mut() {
                Some(read) if is_passing(&failure) && now < read.at + STALE => {
                    read.again = now + AGAIN;
                    Ok(read.found.clone())
                }
                _ => {
                    *known = None;
                    Err(failure.about("the issuer's metadata"))
                }
            },
        }
    }

    /// Reads an issuer's document again next time.
    pub(super) fn forget(&self, issuer: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(issuer);
    }

    fn known(&self, issuer: &str) -> Known {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(issuer) {
            Some(known) => Arc::clone(known),
            None => Arc::clone(all.entry(issuer.to_owned()).or_default()),
        }
    }
}

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuers").finish_non_exhaustive()
    }
}

/// The part of a document that is used.
#[derive(Deserialize)]
struct Document {
    issuer: String,
    token_endpoint: String,
    revocation_endpoint: Option<String>,
}

/// Asks at the place of RFC 8414, then at that of `OpenID` Connect, which many issuers know alone.
async fn fetch(client: &Client, issuer: &str) -> Result<Found, Failure> {
    let (standard, openid) = places(issuer)?;
    let mut answer = get(client, &standard).await?;
    if answer.status.is_client_error() && answer.status != StatusCode::TOO_MANY_REQUESTS {
        answer = get(client, &openid).await?;
    }
    read(&answer, issuer)
}

async fn get(client: &Client, url: &str) -> Result<Answer, Failure> {
    client.call(Method::GET, url, HeaderMap::new(), Zeroizing::default()).await
}

/// The issuer's path goes behind the well-known one (RFC 8414 section 3.1), and before that of `OpenID` Connect.
fn places(issuer: &str) -> Result<(String, String), Failure> {
    let bare = issuer.strip_suffix('/').unwrap_or(issuer);
    let start = bare.find("://").map(|at| at + 3);
    let start = start.ok_or_else(|| Failure::new(CredentialRefusal::Unavailable, "the issuer is not a URL"))?;
    let end = bare[start..].find('/').map_or(bare.len(), |at| start + at);
    let (origin, path) = bare.split_at(end);
    Ok((
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
        format!("{bare}/.well-known/openid-configuration"),
    ))
}

fn read(answer: &Answer, issuer: &str) -> Result<Found, Failure> {
    let document: Document = reply::object(answer, StatusCode::OK)?;
    if document.issuer != issuer {
        return Err(Failure::malformed("the document is another issuer's"));
    }
    let cleartext = issuer.starts_with("http:");
    let endpoint = |url: &str| match checked(url) {
        Ok(uri) if cleartext || uri.scheme_str() == Some("https") => Ok(Arc::from(url)),
        Ok(_) | Err(_) => Err(Failure::malformed("an endpoint is not https")),
    };
    Ok(Found {
        token: endpoint(&document.token_endpoint)?,
        revocation: document.revocation_endpoint.as_deref().map(endpoint).transpose()?,
    })
}

/// Whether asking again later may help.
fn is_passing(failure: &Failure) -> bool {
    matches!(failure.refusal, CredentialRefusal::Unavailable | CredentialRefusal::Timeout)
}

/// How long a document is used before it is read again.
const FRESH: Duration = Duration::from_secs(10 * 60);

/// How long it is used while it can't be read again, and how often that is tried.
const STALE: Duration = Duration::from_secs(60 * 60);
const AGAIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering};

    use futures_util::future::join_all;
    use tokio::time::advance;

    use super::*;
    use crate::credential::endpoint::{Endpoint, Reply, Seen, client};

    fn document(seen: &Seen, path: &str) -> Reply {
        let base = format!("http://{}", seen.headers["host"].to_str().unwrap());
        Reply::json(&format!(
            r#"{{"issuer":"{base}{path}","token_endpoint":"{base}/token","revocation_endpoint":"{base}/revoke","x":1}}"#
        ))
    }

    #[tokio::test]
    async fn a_document_is_read_once_for_all() {
        let endpoint = Endpoint::start(|seen| document(seen, "")).await;
        let (issuers, client, issuer) = (Issuers::default(), client(), endpoint.base());
        let found = join_all((0..20).map(|_| issuers.find(&client, &issuer))).await;
        for found in found {
            let found = found.unwrap();
            assert_eq!(*found.token, endpoint.url());
            assert_eq!(found.revocation.as_deref(), Some(&*endpoint.revocation_url()));
        }
        let seen = endpoint.seen();
        assert_eq!((seen.len(), seen[0].path.as_str()), (1, "/.well-known/oauth-authorization-server"));
        issuers.forget(&issuer);
        issuers.find(&client, &issuer).await.unwrap();
        assert_eq!(endpoint.seen().len(), 2);
    }

    #[tokio::test]
    async fn an_issuer_with_a_path_is_asked_at_both_places() {
        let endpoint = Endpoint::start(|seen| match seen.path.starts_with("/.well-known/") {
            true => Reply::status(404),
            false => document(seen, "/tenant/"),
        })
        .await;
        let issuer = format!("{}/tenant/", endpoint.base());
        assert!(Issuers::default().find(&client(), &issuer).await.is_ok());
        let paths: Vec<_> = endpoint.seen().into_iter().map(|seen| seen.path).collect();
        assert_eq!(
            paths,
            ["/.well-known/oauth-authorization-server/tenant", "/tenant/.well-known/openid-configuration"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_is_read_again_after_a_while_and_outlives_a_failure_for_some_time() {
        static STATUS: AtomicU16 = AtomicU16::new(200);
        let endpoint = Endpoint::start(|seen| match STATUS.load(Ordering::Relaxed) {
            200 => document(seen, ""),
            status => Reply::status(status),
        })
        .await;
        let (issuers, client, issuer) = (Issuers::default(), client(), endpoint.base());
        issuers.find(&client, &issuer).await.unwrap();
        STATUS.store(503, Ordering::Relaxed);
        advance(FRESH).await;
        issuers.find(&client, &issuer).await.unwrap();
        issuers.find(&client, &issuer).await.unwrap();
        assert_eq!(endpoint.seen().len(), 2);
        advance(STALE).await;
        let failure = issuers.find(&client, &issuer).await.unwrap_err();
        assert_eq!(failure.refusal, CredentialRefusal::Unavailable);
        STATUS.store(200, Ordering::Relaxed);
        issuers.find(&client, &issuer).await.unwrap();
    }

    #[tokio::test]
    async fn a_document_that_is_not_the_issuers_own_is_refused() {
        let table = [
            r#"{"issuer":"https://other.test","token_endpoint":"https://other.test/token"}"#,
            r#"{"issuer":"BASE/","token_endpoint":"https://issuer.test/token"}"#,
            r#"{"issuer":"BASE","token_endpoint":"http://issuer.test/token"}"#,
            r#"{"issuer":"BASE","token_endpoint":"https://issuer.test/token","revocation_endpoint":"ftp://issuer.test"}"#,
            r#"{"issuer":"BASE"}"#,
            r#"["BASE","https://issuer.test/token",null]"#,
            "<html>",
        ];
        for text in table {
            let endpoint = Endpoint::start(move |seen| {
                let base = format!("http://{}", seen.headers["host"].to_str().unwrap());
                Reply::json(&text.replace("BASE", &base))
            })
            .await;
            let failure = Issuers::default().find(&client(), &endpoint.base()).await.unwrap_err();
            assert_eq!(failure.refusal, CredentialRefusal::Malformed, "{text}");
        }
    }

    #[test]
    fn an_issuer_elsewhere_does_not_send_secrets_to_loopback() {
        let text = r#"{"issuer":"https://i.test","token_endpoint":"http://127.0.0.1/token"}"#;
        let answer = Answer {
            status: StatusCode::OK,
            retry_after: None,
            headers: HeaderMap::new(),
            body: Zeroizing::new(text.into()),
        };
        assert!(read(&answer, "https://i.test").is_err());
    }
}
