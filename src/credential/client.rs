//! Speaks to the issuers of credentials: one small request, one small answer.
//!
//! The roots that verify origins verify issuers. Redirects are never followed, cleartext goes to loopback addresses
//! only, and both time and size of an answer are bounded. The answers for one credential are bounded together, too.

use std::{error::Error as _, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use percent_encoding::utf8_percent_encode;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::{Failure, UNRESERVED, circuit::Circuits, reply};
use crate::refusal::CredentialRefusal;

/// A client for issuers. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    mint: Option<ForMint>,
}

/// What holds for the requests of one mint together.
#[derive(Debug, Clone)]
struct ForMint {
    circuits: Arc<Circuits>,
    deadline: Instant,
}

impl Client {
    /// A client that verifies issuers as this configuration verifies origins.
    pub fn new(tls: &Arc<rustls::ClientConfig>) -> Self {
        let mut tls = rustls::ClientConfig::clone(tls);
        // The connector sets the protocols that it speaks.
        tls.alpn_protocols.clear();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().enable_http2().build();
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector);
        Self { http, mint: None }
    }

    /// The same for one mint: servers that keep failing are not asked, and none is waited for after this moment.
    pub(super) fn for_mint(&self, circuits: &Arc<Circuits>, deadline: Instant) -> Self {
        let mint = ForMint { circuits: Arc::clone(circuits), deadline };
        Self { http: self.http.clone(), mint: Some(mint) }
    }

    /// Posts a form and reads the whole answer, whatever its status.
    pub(super) async fn post(&self, endpoint: &str, mut headers: HeaderMap, form: Form) -> Result<Answer, Failure> {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        self.call(Method::POST, endpoint, headers, form.0).await
    }

    /// Sends one request and reads the whole answer, whatever its status. `Accept` is JSON unless the headers say
    /// otherwise.
    pub(super) async fn call(
        &self,
        method: Method,
        endpoint: &str,
        headers: HeaderMap,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, Failure> {
        let uri = checked(endpoint)?;
        let server = uri.authority().cloned();
        let mut request = Request::new(Full::new(Bytes::from_owner(body)));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let headers = request.headers_mut();
        headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
        let spared = self.mint.as_ref().zip(server.as_ref());
        let time = spared.map_or(Ok(WHOLE_CALL), |(mint, server)| mint.pass(server.as_str()))?;
        let outcome = self.within(time, request).await;
        if let Some((mint, server)) = spared {
            mint.note(server.as_str(), time, &outcome);
        }
        outcome
    }

    async fn within(&self, time: Duration, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let late = || Failure::new(CredentialRefusal::Timeout, format!("no whole answer within {time:?}"));
        timeout(time, self.exchange(request)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let (parts, mut incoming) =
            self.http.request(request).await.map_err(|error| connection_failure(&error))?.into_parts();
        // Room for the largest answer at once: growing would leave copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(LARGEST_ANSWER));
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|_| Failure::malformed("the answer broke off"))?;
            let Some(data) = frame.data_ref() else { continue };
            if body.len() + data.len() > LARGEST_ANSWER {
                return Err(Failure::malformed("the answer is larger than 64 KiB"));
            }
            body.extend_from_slice(data);
        }
        Ok(Answer { status: parts.status, retry_after: retry_after(&parts.headers), headers: parts.headers, body })
    }
}

impl ForMint {
    /// Leave to ask a server now, for so long.
    fn pass(&self, server: &str) -> Result<Duration, Failure> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::new(
                CredentialRefusal::Timeout,
                "the answers for one credential took too long together",
            ));
        }
        self.circuits.pass(server)?;
        Ok(left.min(WHOLE_CALL))
    }

    /// What came of asking it for so long.
    fn note(&self, server: &str, time: Duration, outcome: &Result<Answer, Failure>) {
        let unwell = match outcome {
            Ok(answer) => reply::is_unwell(answer),
            Err(failure) => match failure.refusal {
                // One that was given less time than others is not to blame.
                CredentialRefusal::Timeout if time < WHOLE_CALL => return,
                refusal => matches!(refusal, CredentialRefusal::Unavailable | CredentialRefusal::Timeout),
            },
        };
        self.circuits.note(server, unwell);
    }
}

/// A form to post, in memory that is wiped.
pub(super) struct Form(Zeroizing<Vec<u8>>);

impl Form {
    /// A form of these fields, in this order.
    pub(super) fn new(fields: &[(&str, &str)]) -> Self {
        let room = fields.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
        let mut form = Zeroizing::new(Vec::with_capacity(room));
        for (index, (name, value)) in fields.iter().enumerate() {
            if index > 0 {
                form.push(b'&');
            }
            for (text, end) in [(name, Some(b'=')), (value, None)] {
                form.extend(utf8_percent_encode(text, UNRESERVED).flat_map(str::bytes));
                form.extend(end);
            }
        }
        Self(form)
    }

    /// The form as a body.
    pub(super) fn into_body(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// What an issuer answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// The endpoint, if a secret may be sent there.
pub(super) fn checked(endpoint: &str) -> Result<Uri, Failure> {
    let refused = |why| Failure::new(CredentialRefusal::Unavailable, why);
    let uri: Uri = endpoint.parse().map_err(|_| refused("the endpoint is not a URL"))?;
    let host = uri.host().ok_or_else(|| refused("the endpoint is not an absolute URL"))?;
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => Ok(uri),
        Some(scheme)
            if *scheme == Scheme::HTTP && address.is_ok_and(|address| address.to_canonical().is_loopback()) =>
        {
            Ok(uri)
        }
        _ => Err(refused("the endpoint is neither https nor http to a loopback address such as 127.0.0.1")),
    }
}

/// The causes one after another, as the outermost says no more than "client error".
fn connection_failure(error: &legacy::Error) -> Failure {
    let mut detail = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        detail.push_str(": ");
        detail.push_str(&inner.to_string());
        cause = inner.source();
    }
    Failure::new(CredentialRefusal::Unavailable, detail)
}

/// `Retry-After` in seconds; its other form, a date, is not worth a second clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// From the first byte of the name's resolution to the last byte of the answer.
pub(super) const WHOLE_CALL: Duration = Duration::from_secs(5);

/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(20);

/// A token is a few kilobytes at most.
const LARGEST_ANSWER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::{
        super::{
            circuit::PATIENCE,
            endpoint::{Endpoint, Reply, client},
        },
        *,
    };

    async fn post(endpoint: &str) -> Result<Answer, Failure> {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Basic canary"))]);
        client().post(endpoint, headers, Form::new(&[("a b", "c&d=é"), ("e", "")])).await
    }

    #[tokio::test]
    async fn a_form_is_posted_and_the_answer_read() {
        let endpoint = Endpoint::start(|_| Reply::status(503).header("retry-after", "7").body("busy")).await;
        let answer = post(&endpoint.url()).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.retry_after), (503, Some(Duration::from_secs(7))));
        assert_eq!(answer.body.as_slice(), b"busy");
        let seen = endpoint.seen();
        assert_eq!(seen[0].body, "a%20b=c%26d%3D%C3%A9&e=");
        assert_eq!(seen[0].authorization, "Basic canary");
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_followed() {
        let endpoint = Endpoint::start(|_| Reply::status(307).header("location", "/elsewhere")).await;
        assert_eq!(post(&endpoint.url()).await.unwrap().status, 307);
        assert_eq!(endpoint.seen().len(), 1);
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_refused() {
        let endpoint = Endpoint::start(|_| Reply::status(200).body(&"x".repeat(LARGEST_ANSWER + 1))).await;
        assert_eq!(
            post(&endpoint.url()).await.err().map(|failure| failure.refusal),
            Some(CredentialRefusal::Malformed)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_does_not_answer_is_left_after_a_while() {
        let endpoint = Endpoint::start(|_| Reply::Never).await;
        assert_eq!(post(&endpoint.url()).await.err().map(|failure| failure.refusal), Some(CredentialRefusal::Timeout));
    }

    #[tokio::test(start_paused = true)]
    async fn the_answers_for_one_credential_are_waited_for_no_longer_than_all_of_them_may_take() {
        const WHOLE: Duration = Duration::from_secs(9);
        let endpoint = Endpoint::start(|_| Reply::Never).await;
        let begun = Instant::now();
        let client = client().for_mint(&Arc::default(), begun + WHOLE);
        for (asked, after) in [(1, 5), (2, 9), (2, 9)] {
            let outcome = client.post(&endpoint.url(), HeaderMap::new(), Form::new(&[])).await;
            assert_eq!(outcome.err().map(|failure| failure.refusal), Some(CredentialRefusal::Timeout));
            assert_eq!((endpoint.seen().len(), begun.elapsed().as_secs()), (asked, after));
        }
    }

    #[tokio::test]
    async fn a_server_that_keeps_failing_is_left_alone_and_another_one_is_not() {
        let down = Endpoint::start(|_| Reply::status(503)).await;
        let well = Endpoint::start(|_| Reply::status(400)).await;
        let client = client().for_mint(&Arc::default(), Instant::now() + WHOLE_CALL);
        let post = async |endpoint: &Endpoint| {
            let outcome = client.post(&endpoint.url(), HeaderMap::new(), Form::new(&[])).await;
            outcome.map(|answer| answer.status.as_u16()).map_err(|failure| failure.refusal)
        };
        for _ in 0..PATIENCE {
            assert_eq!((post(&down).await, post(&well).await), (Ok(503), Ok(400)));
        }
        assert_eq!((post(&down).await, post(&well).await), (Err(CredentialRefusal::CircuitOpen), Ok(400)));
        assert_eq!(down.seen().len(), usize::try_from(PATIENCE).unwrap());
    }

    #[tokio::test]
    async fn a_closed_port_is_unavailable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        drop(listener);
        let failure = post(&url).await.err().unwrap();
        assert_eq!(failure.refusal, CredentialRefusal::Unavailable);
        assert!(failure.detail.contains("refused"), "{}", failure.detail);
    }

    #[tokio::test]
    async fn an_issuer_that_does_not_verify_gets_nothing() {
        let endpoint = Endpoint::start(|_| Reply::status(200)).await;
        let failure = post(&endpoint.url().replace("http:", "https:")).await.err().unwrap();
        assert_eq!(failure.refusal, CredentialRefusal::Unavailable);
        assert!(endpoint.seen().is_empty());
    }

    #[test]
    fn cleartext_goes_to_loopback_only() {
        for allowed in
            ["https://issuer.test/token", "http://127.0.0.1:1/", "http://[::1]:1/", "http://[::ffff:127.0.0.1]:1/"]
        {
            assert!(checked(allowed).is_ok(), "{allowed}");
        }
        let forbidden =
            ["http://issuer.test/", "http://10.0.0.1/", "http://127.0.0.1.test/", "ftp://127.0.0.1/", "/token", ""];
        for endpoint in forbidden {
            assert!(checked(endpoint).is_err(), "{endpoint}");
        }
    }
}
