//! Delivers spans to an OTLP endpoint, over HTTP (protobuf) or gRPC.
//!
//! Spans wait in a bounded queue that a thread of its own empties. When the endpoint is slow or down the queue fills and
//! further spans are dropped and counted; nothing waits for it but shutdown, and that for a limited time. The endpoint's
//! certificate is verified with the roots that origins are verified with.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter as _, SpanProcessor},
};
use prometheus_client::metrics::counter::Counter;
use tokio::{runtime::Handle, time::timeout};

use crate::config::{Otlp, OtlpProtocol};

/// An open way to an OTLP endpoint.
pub struct Export {
    processor: BatchSpanProcessor,
    queue: Arc<Queue>,
}

/// How full the processor's queue is: it drops in silence, so that we count.
struct Queue {
    waiting: AtomicUsize,
    dropped: Counter,
}

impl Export {
    /// Opens the way; the endpoint is first contacted when there is something to deliver. Must be called within the runtime
    /// that is to carry the traffic.
    ///
    /// # Errors
    ///
    /// When the endpoint or a header is not valid.
    pub fn new(settings: &Otlp, tls: &rustls::ClientConfig, dropped: Counter) -> anyhow::Result<Self> {
        let mut exporter = match settings.protocol {
            OtlpProtocol::Http => over_http(settings, tls)?,
            OtlpProtocol::Grpc => over_grpc(settings, tls)?,
        };
        exporter.set_resource(&resource(settings));
        let queue = Arc::new(Queue { waiting: AtomicUsize::new(0), dropped });
        let delivery = Delivery { exporter: Arc::new(exporter), runtime: Handle::current(), queue: Arc::clone(&queue) };
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        Ok(Self { processor: BatchSpanProcessor::new(delivery, config), queue })
    }

    /// Takes a finished span, or drops it when too many wait.
    pub(super) fn end(&self, span: SpanData) {
        if self.queue.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
            self.queue.dropped.inc();
            return;
        }
        self.processor.on_end(span);
    }

    /// Delivers what waits, for this long at most. Blocks.
    pub(super) fn shutdown(&self, limit: Duration) {
        if let Err(error) = self.processor.shutdown_with_timeout(limit) {
            tracing::warn!(%error, "the last spans were not delivered");
        }
    }
}

/// Runs each delivery on the runtime, because the processor's own thread has none, and bounds its time.
struct Delivery {
    exporter: Arc<SpanExporter>,
    runtime: Handle,
    queue: Arc<Queue>,
}

impl opentelemetry_sdk::trace::SpanExporter for Delivery {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exporter = Arc::clone(&self.exporter);
        let delivered = self.runtime.spawn(async move { timeout(DELIVERY, exporter.export(batch)).await }).await;
        self.queue.waiting.fetch_sub(spans, Ordering::Relaxed);
        let outcome = match delivered {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(OTelSdkError::Timeout(DELIVERY)),
            Err(stopped) => Err(OTelSdkError::InternalFailure(stopped.to_string())),
        };
        if let Err(error) = &outcome {
            self.queue.dropped.inc_by(spans as u64);
            tracing::debug!(%error, spans, "spans were not delivered");
        }
        outcome
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Delivery")
    }
}

fn over_http(settings: &Otlp, tls: &rustls::ClientConfig) -> anyhow::Result<SpanExporter> {
    let client = HttpSender(Client::builder(TokioExecutor::new()).build(connector(tls, Some(CONNECT))));
    // Checked here, because the exporter leaves out headers that are not valid.
    headers(settings)?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", settings.endpoint.trim_end_matches('/')))
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(DELIVERY)
        .with_headers(settings.headers.iter().cloned().collect::<HashMap<_, _>>())
        .with_http_client(client)
        .build();
    exporter.with_context(|| format!("telemetry.otlp.endpoint {:?}", settings.endpoint))
}

fn over_grpc(settings: &Otlp, tls: &rustls::ClientConfig) -> anyhow::Result<SpanExporter> {
    let endpoint = tonic::transport::Endpoint::from_shared(settings.endpoint.clone())
        .with_context(|| format!("telemetry.otlp.endpoint {:?}", settings.endpoint))?
        .connect_timeout(CONNECT)
        .timeout(DELIVERY);
    // The connector opens TLS itself, so that the channel needs no TLS of its own.
    let channel = endpoint.connect_with_connector_lazy(connector(tls, None));
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_channel(channel)
        .with_metadata(tonic::metadata::MetadataMap::from_headers(headers(settings)?))
        .with_timeout(DELIVERY)
        .build();
    exporter.with_context(|| format!("telemetry.otlp.endpoint {:?}", settings.endpoint))
}

fn connector(tls: &rustls::ClientConfig, connect: Option<Duration>) -> HttpsConnector<HttpConnector> {
    let mut tls = tls.clone();
    // The builder sets the protocols that fit what the client speaks.
    tls.alpn_protocols.clear();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(connect);
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    match connect {
        Some(_) => builder.enable_all_versions().wrap_connector(tcp),
        None => builder.enable_http2().wrap_connector(tcp),
    }
}

fn headers(settings: &Otlp) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &settings.headers {
        let parsed = HeaderName::try_from(name.as_str()).with_context(|| format!("OTLP header {name:?}"))?;
        // The value may be a secret: it is not shown.
        let value = HeaderValue::from_str(value).with_context(|| format!("the value of OTLP header {name:?}"))?;
        headers.append(parsed, value);
    }
    Ok(headers)
}

/// Who speaks: what was configured, and what this program knows of itself.
fn resource(settings: &Otlp) -> Resource {
    let own = [("service.name", "tollgate"), ("service.version", env!("CARGO_PKG_VERSION"))];
    let configured = |name: &str| settings.resource.iter().any(|(key, _)| key == name);
    let own = own.into_iter().filter(|(name, _)| !configured(name)).map(|(name, value)| KeyValue::new(name, value));
    let configured = settings.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty().with_attributes(own.chain(configured)).build()
}

/// The exporter's HTTP client.
struct HttpSender(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl HttpClient for HttpSender {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let (parts, body) = self.0.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(parts, body))
        })
    }
}

impl fmt::Debug for HttpSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpSender")
    }
}

const QUEUE: usize = 2048;
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_secs(3);
const DELIVERY: Duration = Duration::from_secs(10);
const LONGEST_ANSWER: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Instant};

    use hyper::{
        body::Incoming,
        server::conn::{http1, http2},
        service::service_fn,
    };
    use hyper_util::rt::TokioIo;
    use tokio::{net::TcpListener, sync::mpsc};

    use super::*;
    use crate::{
        audit::{Recorder, testing},
        config::{Mode, Telemetry},
        telemetry::{Metrics, Spans, TraceContext},
    };

    fn tls() -> rustls::ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let roots = rustls::RootCertStore::empty();
        builder.expect("the provider has them").with_root_certificates(roots).with_no_client_auth()
    }

    fn settings(endpoint: String, protocol: OtlpProtocol) -> Otlp {
        let headers = vec![("x-tenant".to_owned(), "one".to_owned())];
        Otlp { endpoint, protocol, headers, resource: vec![("service.name".to_owned(), "named".to_owned())] }
    }

    fn recorder(otlp: Otlp) -> (Recorder, Spans) {
        let spans = Spans::new(&Telemetry { otlp: Some(otlp) }, Arc::new(tls())).expect("valid settings");
        let (agent, metrics) = (Arc::new(testing::agent()), Arc::new(Metrics::new()));
        (Recorder::new(agent, Mode::Enforce, None, spans.clone(), metrics), spans)
    }

    async fn collector(protocol: OtlpProtocol) -> (String, mpsc::UnboundedReceiver<(http::request::Parts, Bytes)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("a bound address"));
        let (seen, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = seen.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let seen = seen.clone();
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.expect("a whole body").to_bytes();
                        seen.send((parts, body)).expect("the test still listens");
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                    }
                });
                let io = TokioIo::new(stream);
                tokio::spawn(async move {
                    match protocol {
                        OtlpProtocol::Http => http1::Builder::new().serve_connection(io, service).await,
                        OtlpProtocol::Grpc => {
                            http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                        }
                    }
                });
            }
        });
        (endpoint, requests)
    }

    async fn shut_down(spans: Spans, limit: Duration) {
        tokio::task::spawn_blocking(move || spans.shutdown(limit)).await.expect("shutdown does not panic");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn spans_arrive_over_both_protocols() {
        for (protocol, path, kind) in [
            (OtlpProtocol::Http, "/v1/traces", "application/x-protobuf"),
            (OtlpProtocol::Grpc, "/opentelemetry.proto.collector.trace.v1.TraceService/Export", "application/grpc"),
        ] {
            let (endpoint, mut requests) = collector(protocol).await;
            let (recorder, spans) = recorder(settings(endpoint, protocol));
            let mut record = recorder.begin(TraceContext::root());
            *record.facts = testing::facts();
            let id = record.decision_id().to_string();
            record.finish();
            shut_down(spans, Duration::from_secs(5)).await;
            let (parts, body) = requests.recv().await.expect("one delivery");
            assert_eq!((parts.method.as_str(), parts.uri.path()), ("POST", path));
            assert_eq!(parts.headers["x-tenant"], "one");
            assert_eq!(parts.headers["content-type"], kind);
            for text in [id.as_str(), "tollgate.decision.id", "named", "service.version"] {
                assert!(body.windows(text.len()).any(|window| window == text.as_bytes()), "{protocol:?}: {text}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dead_endpoint_costs_spans_and_never_a_call() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let silent = format!("http://{}", listener.local_addr().expect("a bound address"));
        for protocol in [OtlpProtocol::Http, OtlpProtocol::Grpc] {
            let (recorder, spans) = recorder(settings(silent.clone(), protocol));
            let started = Instant::now();
            for _ in 0..3 * QUEUE {
                recorder.begin(TraceContext::root()).finish();
            }
            assert!(started.elapsed() < Duration::from_secs(5), "{protocol:?}");
            assert!(spans.dropped().get() >= QUEUE as u64, "{protocol:?}");
            shut_down(spans, Duration::from_millis(50)).await;
        }
    }

    #[tokio::test]
    async fn wrong_settings_are_refused() {
        for protocol in [OtlpProtocol::Http, OtlpProtocol::Grpc] {
            let mut wrong = settings("http://[".into(), protocol);
            assert!(Export::new(&wrong, &tls(), Counter::default()).is_err(), "{protocol:?}");
            wrong.endpoint = "http://127.0.0.1:1".into();
            wrong.headers = vec![("x-key".into(), "canary\n".into())];
            let error = Export::new(&wrong, &tls(), Counter::default()).err().expect("not a valid header");
            assert!(!format!("{error:?}").contains("canary"));
        }
    }
}
