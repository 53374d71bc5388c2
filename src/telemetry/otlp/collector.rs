//! Sends one batch of spans to a collector, again if the collector asks for it.

use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use bytes::{Buf, Bytes, buf::Chain};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{CONTENT_TYPE, RETRY_AFTER, TE, USER_AGENT},
    uri::{PathAndQuery, Scheme},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::{sleep, timeout};

use crate::{
    config::{Otlp, OtlpProtocol},
    telemetry::protobuf::{self, Read, Value, Writer},
};

/// A collector and how it is spoken to.
pub(super) struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Body>>,
    protocol: OtlpProtocol,
    uri: Uri,
    headers: HeaderMap,
    // What stands before the spans of every batch: the fields of `ResourceSpans` and `ScopeSpans`.
    resource: Vec<u8>,
    scope: Vec<u8>,
}

/// What stands before the spans, and the spans.
type Body = Chain<Bytes, Bytes>;

/// What became of one try.
enum Answer {
    /// It was taken, but for so many spans.
    Taken(u64),
    /// It may be taken later: after so long, where the collector says.
    Later(Option<Duration>, anyhow::Error),
    /// It will never be taken.
    Never(anyhow::Error),
}

impl Collector {
    pub(super) fn new(settings: &Otlp, tls: &rustls::ClientConfig) -> anyhow::Result<Self> {
        let uri = uri(settings).with_context(|| format!("telemetry.otlp.endpoint {:?}", settings.endpoint))?;
        let mut scope = Writer::default();
        scope.message(1, |to| {
            to.text(1, "tollgate");
            to.text(2, env!("CARGO_PKG_VERSION"));
        });
        Ok(Self {
            client: client(tls, settings.protocol),
            protocol: settings.protocol,
            uri,
            headers: headers(settings)?,
            resource: resource(settings),
            scope: scope.into_bytes(),
        })
    }

    /// Sends the `spans` of one `ScopeSpans`, trying a few times. Gives how many of them the collector rejected.
    pub(super) async fn send(&self, spans: Vec<u8>) -> anyhow::Result<u64> {
        let (head, spans) = (Bytes::from(self.head(spans.len())), Bytes::from(spans));
        let tries = async {
            let (mut left, mut pause) = (TRIES, FIRST_PAUSE);
            loop {
                left -= 1;
                match self.once(head.clone().chain(spans.clone())).await {
                    Answer::Taken(rejected) => return Ok(rejected),
                    Answer::Never(why) => return Err(why),
                    Answer::Later(_, why) if left == 0 => return Err(why),
                    Answer::Later(after, _) => sleep(after.unwrap_or(pause).min(LONGEST_PAUSE)).await,
                }
                pause *= 2;
            }
        };
        timeout(DELIVERY, tries).await.with_context(|| format!("no answer within {DELIVERY:?}"))?
    }

    /// All of an `ExportTraceServiceRequest` that stands before the spans, with the prefix of gRPC's where it is due.
    fn head(&self, spans: usize) -> Vec<u8> {
        let scope_spans = self.scope.len() + spans;
        let mut before_scope = Writer::default();
        before_scope.message_of(2, scope_spans);
        let before_scope = before_scope.into_bytes();
        let mut head = Writer::default();
        head.message_of(1, self.resource.len() + before_scope.len() + scope_spans);
        let message = [head.into_bytes(), self.resource.clone(), before_scope, self.scope.clone()].concat();
        match self.protocol {
            OtlpProtocol::Http => message,
            OtlpProtocol::Grpc => {
                let length = u32::try_from(message.len() + spans).expect("a batch is far shorter than 4 GiB");
                [&[UNCOMPRESSED][..], &length.to_be_bytes(), &message].concat()
            }
        }
    }

    async fn once(&self, body: Body) -> Answer {
        let mut request = Request::post(self.uri.clone()).body(Full::new(body)).expect("the parts are valid");
        request.headers_mut().clone_from(&self.headers);
        match self.client.request(request).await {
            Ok(response) => match self.protocol {
                OtlpProtocol::Http => over_http(response).await,
                OtlpProtocol::Grpc => over_grpc(response).await,
            },
            Err(error) => Answer::Later(None, error.into()),
        }
    }
}

async fn over_http(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    // Read to its end, so that the connection can be used again.
    let body = Limited::new(body, LONGEST_ANSWER).collect().await;
    if parts.status.is_success() {
        Answer::Taken(body.map_or(0, |body| rejected(&body.to_bytes())))
    } else {
        by_status(parts.status, &parts.headers)
    }
}

async fn over_grpc(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    if parts.status != StatusCode::OK {
        return by_status(parts.status, &parts.headers);
    }
    let body = match Limited::new(body, LONGEST_ANSWER).collect().await {
        Ok(body) => body,
        Err(error) => return Answer::Later(None, anyhow!("the answer broke off: {error}")),
    };
    // An answer without a message has its status among its headers.
    let status = body.trailers().and_then(|trailers| trailers.get(GRPC_STATUS)).or(parts.headers.get(GRPC_STATUS));
    let status = status.and_then(|status| status.to_str().ok()?.parse::<u32>().ok());
    match status {
        Some(0) => Answer::Taken(body.to_bytes().get(GRPC_PREFIX..).map_or(0, rejected)),
        Some(code) if GRPC_TRANSIENT.contains(&code) => Answer::Later(None, anyhow!("gRPC status {code}")),
        Some(code) => Answer::Never(anyhow!("gRPC status {code}")),
        None => Answer::Never(anyhow!("an answer without a gRPC status")),
    }
}

fn by_status(status: StatusCode, headers: &HeaderMap) -> Answer {
    let why = anyhow!("status {}", status.as_u16());
    if !matches!(status.as_u16(), 429 | 502 | 503 | 504) {
        return Answer::Never(why);
    }
    // In seconds; its other form, a date, is not worth a second clock.
    let seconds = headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
    Answer::Later(seconds.map(Duration::from_secs), why)
}

/// How many spans an `ExportTraceServiceResponse` says were rejected.
fn rejected(answer: &[u8]) -> u64 {
    let Some(Read::Bytes(partial)) = protobuf::field(answer, 1) else { return 0 };
    match protobuf::field(partial, 1) {
        Some(Read::Number(spans)) => spans,
        Some(Read::Bytes(_)) | None => 0,
    }
}

fn uri(settings: &Otlp) -> anyhow::Result<Uri> {
    let endpoint = settings.endpoint.trim_end_matches('/');
    let uri = match settings.protocol {
        OtlpProtocol::Http => format!("{endpoint}/v1/traces").parse::<Uri>()?,
        OtlpProtocol::Grpc => {
            let mut parts = endpoint.parse::<Uri>()?.into_parts();
            parts.path_and_query = Some(PathAndQuery::from_static(EXPORT));
            Uri::from_parts(parts)?
        }
    };
    let known = uri.scheme().is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    ensure!(known && uri.host().is_some_and(|host| !host.is_empty()), "hint: http://HOST:PORT or https://HOST:PORT");
    Ok(uri)
}

fn headers(settings: &Otlp) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &settings.headers {
        let parsed = HeaderName::try_from(name.as_str()).with_context(|| format!("OTLP header {name:?}"))?;
        // The value may be a secret: it is not shown.
        let mut value = HeaderValue::from_str(value).with_context(|| format!("the value of OTLP header {name:?}"))?;
        value.set_sensitive(true);
        headers.append(parsed, value);
    }
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
    let content_type = match settings.protocol {
        OtlpProtocol::Http => "application/x-protobuf",
        OtlpProtocol::Grpc => {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            "application/grpc"
        }
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(headers)
}

/// Who speaks: what was configured, and what this program knows of itself.
fn resource(settings: &Otlp) -> Vec<u8> {
    let own = [("service.name", "tollgate"), ("service.version", env!("CARGO_PKG_VERSION"))];
    let configured = |name: &str| settings.resource.iter().any(|(key, _)| key == name);
    let mut resource = Writer::default();
    resource.message(1, |to| {
        for (name, value) in own.into_iter().filter(|(name, _)| !configured(name)) {
            to.key_value(1, name, Value::Text(value));
        }
        for (name, value) in &settings.resource {
            to.key_value(1, name, Value::Text(value));
        }
    });
    resource.into_bytes()
}

fn client(tls: &rustls::ClientConfig, protocol: OtlpProtocol) -> Client<HttpsConnector<HttpConnector>, Full<Body>> {
    let mut tls = tls.clone();
    // The builder sets the protocols that fit what the client speaks.
    tls.alpn_protocols.clear();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT));
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let connector = match protocol {
        OtlpProtocol::Http => builder.enable_all_versions().wrap_connector(tcp),
        OtlpProtocol::Grpc => builder.enable_http2().wrap_connector(tcp),
    };
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        // A connection over which nothing comes back any more would be used for ever.
        .http2_keep_alive_interval(Some(PING))
        .http2_keep_alive_timeout(PONG)
        .http2_only(protocol == OtlpProtocol::Grpc)
        .build(connector)
}

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const UNCOMPRESSED: u8 = 0;
const GRPC_PREFIX: usize = 5;
/// What OTLP says may succeed later: cancelled, deadline exceeded, resource exhausted, aborted, out of range, unavailable
/// and data loss.
const GRPC_TRANSIENT: [u32; 7] = [1, 4, 8, 10, 11, 14, 15];

/// One batch, with all tries and the pauses between them.
const DELIVERY: Duration = Duration::from_secs(10);
const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
const CONNECT: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(60);
const PING: Duration = Duration::from_secs(4);
const PONG: Duration = Duration::from_secs(2);
const LONGEST_ANSWER: usize = 64 << 10;
