use std::{
    convert::Infallible,
    sync::atomic::AtomicUsize,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, request::Parts};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::Span,
};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    audit::{Recorder, testing},
    config::{Mode, OtlpProtocol, Telemetry},
    telemetry::{Metrics, Spans, TraceContext},
};

const BOTH: [OtlpProtocol; 2] = [OtlpProtocol::Http, OtlpProtocol::Grpc];
const ENOUGH: Duration = Duration::from_secs(9);

type Reply = Response<BoxBody<Bytes, Infallible>>;
type Requests = mpsc::UnboundedReceiver<(Parts, Bytes)>;

/// Answers the request of this number, from 0.
type Answers = fn(OtlpProtocol, usize) -> Reply;

fn reply(status: u16, body: Vec<u8>) -> Reply {
    Response::builder().status(status).body(Full::new(Bytes::from(body)).boxed()).expect("a valid answer")
}

fn grpc(status: &'static str, message: &[u8]) -> Reply {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let length = u32::try_from(message.len()).expect("a short message");
    let body = [&[0][..], &length.to_be_bytes(), message].concat();
    Response::new(Full::new(Bytes::from(body)).with_trailers(async { Some(Ok(trailers)) }).boxed())
}

fn taken(protocol: OtlpProtocol, _: usize) -> Reply {
    match protocol {
        OtlpProtocol::Http => reply(200, Vec::new()),
        OtlpProtocol::Grpc => grpc("0", &[]),
    }
}

/// Taken, but for one span.
fn partial(protocol: OtlpProtocol, _: usize) -> Reply {
    let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "too old".into() };
    let message = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    match protocol {
        OtlpProtocol::Http => reply(200, message),
        OtlpProtocol::Grpc => grpc("0", &message),
    }
}

/// A refusal that has no message: its status is among the headers.
fn refused(_: OtlpProtocol, _: usize) -> Reply {
    let mut answer = reply(200, Vec::new());
    answer.headers_mut().insert("grpc-status", HeaderValue::from_static("16"));
    answer
}

async fn collector(protocol: OtlpProtocol, answers: Answers) -> (String, Requests) {
    let (address, requests) = serve(protocol, answers, None).await;
    (format!("http://{address}"), requests)
}

async fn serve(protocol: OtlpProtocol, answers: Answers, tls: Option<TlsAcceptor>) -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address").to_string();
    let (seen, requests) = mpsc::unbounded_channel();
    let count = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, count, tls) = (seen.clone(), Arc::clone(&count), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => connection(stream, protocol, answers, seen, count).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            connection(stream, protocol, answers, seen, count).await;
                        }
                    }
                }
            });
        }
    });
    (address, requests)
}

async fn connection<S>(
    stream: S,
    protocol: OtlpProtocol,
    answers: Answers,
    seen: mpsc::UnboundedSender<(Parts, Bytes)>,
    count: Arc<AtomicUsize>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (seen, count) = (seen.clone(), Arc::clone(&count));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("a whole body").to_bytes();
            seen.send((parts, body)).expect("the test still listens");
            Ok::<_, Infallible>(answers(protocol, count.fetch_add(1, Ordering::Relaxed)))
        }
    });
    let io = TokioIo::new(stream);
    // How the client leaves is not what is tested.
    let _ = match protocol {
        OtlpProtocol::Http => http1::Builder::new().serve_connection(io, service).await,
        OtlpProtocol::Grpc => http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await,
    };
}

fn tls(root: Option<CertificateDer<'static>>) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(root);
    builder.expect("the provider has them").with_root_certificates(roots).with_no_client_auth()
}

fn settings(endpoint: String, protocol: OtlpProtocol) -> Otlp {
    let headers = vec![("x-tenant".to_owned(), "one".to_owned())];
    Otlp { endpoint, protocol, headers, resource: vec![("service.name".to_owned(), "named".to_owned())] }
}

fn recorder(otlp: Otlp, tls: rustls::ClientConfig) -> (Recorder, Spans) {
    let spans = Spans::new(&Telemetry { otlp: Some(otlp) }, Arc::new(tls)).expect("valid settings");
    let (agent, metrics) = (Arc::new(testing::agent()), Arc::new(Metrics::new()));
    (Recorder::new(agent, Mode::Enforce, None, spans.clone(), metrics), spans)
}

async fn shut_down(spans: Spans, limit: Duration) {
    tokio::task::spawn_blocking(move || spans.shutdown(limit)).await.expect("shutdown does not panic");
}

/// Records one call and shuts down; gives its decision's name and how many spans were dropped.
async fn one_call(otlp: Otlp, tls: rustls::ClientConfig) -> (String, u64) {
    let (recorder, spans) = recorder(otlp, tls);
    let mut record = recorder.begin(TraceContext::root());
    *record.facts = testing::facts();
    let id = record.decision_id().to_string();
    record.finish();
    shut_down(spans.clone(), ENOUGH).await;
    (id, spans.dropped().get())
}

fn decode(protocol: OtlpProtocol, body: &[u8]) -> ExportTraceServiceRequest {
    let message = match protocol {
        OtlpProtocol::Http => body,
        OtlpProtocol::Grpc => {
            let (prefix, message) = body.split_at(5);
            let length = u32::try_from(message.len()).expect("a short message");
            assert_eq!(prefix, [&[0][..], &length.to_be_bytes()].concat());
            message
        }
    };
    ExportTraceServiceRequest::decode(message).expect("the official schema reads it")
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value.into())) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_arrive_over_both_protocols() {
    for (protocol, path, kind) in [
        (OtlpProtocol::Http, "/v1/traces", "application/x-protobuf"),
        (OtlpProtocol::Grpc, "/opentelemetry.proto.collector.trace.v1.TraceService/Export", "application/grpc"),
    ] {
        let (endpoint, mut requests) = collector(protocol, taken).await;
        let (id, dropped) = one_call(settings(endpoint, protocol), tls(None)).await;
        assert_eq!(dropped, 0, "{protocol:?}");
        let (parts, body) = requests.recv().await.expect("one delivery");
        assert_eq!((parts.method.as_str(), parts.uri.path()), ("POST", path));
        assert_eq!(parts.headers["x-tenant"], "one");
        assert_eq!(parts.headers["content-type"], kind);
        assert_eq!(parts.headers.get("te").is_some(), protocol == OtlpProtocol::Grpc);

        let [resource_spans] = &decode(protocol, &body).resource_spans[..] else {
            panic!("{protocol:?}: one resource")
        };
        let version = env!("CARGO_PKG_VERSION");
        let attributes = vec![text("service.version", version), text("service.name", "named")];
        assert_eq!(resource_spans.resource, Some(Resource { attributes, ..Resource::default() }));
        let [scope_spans] = &resource_spans.scope_spans[..] else { panic!("{protocol:?}: one scope") };
        let (name, version) = ("tollgate".into(), version.into());
        assert_eq!(scope_spans.scope, Some(InstrumentationScope { name, version, ..InstrumentationScope::default() }));
        let [span] = &scope_spans.spans[..] else { panic!("{protocol:?}: one span") };
        assert!(span.attributes.contains(&text("tollgate.decision.id", &id)), "{protocol:?}");
        let now = SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{protocol:?}");
        assert!(now - u128::from(span.start_time_unix_nano) < 60_000_000_000, "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_delivered_whole_while_calls_go_on() {
    for protocol in BOTH {
        let (endpoint, mut requests) = collector(protocol, taken).await;
        let (recorder, spans) = recorder(settings(endpoint, protocol), tls(None));
        for _ in 0..2 * BATCH {
            recorder.begin(TraceContext::root()).finish();
        }
        let mut seen: Vec<Span> = Vec::new();
        while seen.len() < 2 * BATCH {
            let (_, body) = requests.recv().await.expect("a delivery before shutdown");
            let request = decode(protocol, &body);
            seen.extend(request.resource_spans.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans));
        }
        let ids: std::collections::HashSet<_> = seen.iter().map(|span| span.span_id.clone()).collect();
        assert_eq!((ids.len(), seen.len(), spans.dropped().get()), (2 * BATCH, 2 * BATCH, 0), "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_busy_is_tried_again() {
    let busy: Answers = |protocol, number| match (protocol, number) {
        (OtlpProtocol::Http, 0) => {
            let mut busy = reply(503, b"busy".to_vec());
            busy.headers_mut().insert("retry-after", HeaderValue::from_static("0"));
            busy
        }
        (OtlpProtocol::Grpc, 0) => grpc("14", &[]),
        (_, number) => taken(protocol, number),
    };
    for protocol in BOTH {
        let (endpoint, mut requests) = collector(protocol, busy).await;
        let (_, dropped) = one_call(settings(endpoint, protocol), tls(None)).await;
        let (first, second) = (requests.recv().await.expect("one"), requests.recv().await.expect("another"));
        assert_eq!((first.1, dropped), (second.1, 0), "{protocol:?}");
        assert!(requests.try_recv().is_err(), "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_refuses_is_counted_and_not_sent_again() {
    let cases: [(OtlpProtocol, Answers); 7] = [
        (OtlpProtocol::Http, |_, _| reply(400, b"no".to_vec())),
        (OtlpProtocol::Http, |_, _| reply(307, Vec::new())),
        (OtlpProtocol::Http, partial),
        (OtlpProtocol::Grpc, |_, _| grpc("3", &[])),
        (OtlpProtocol::Grpc, |_, _| reply(404, Vec::new())),
        (OtlpProtocol::Grpc, partial),
        (OtlpProtocol::Grpc, refused),
    ];
    for (number, (protocol, answers)) in cases.into_iter().enumerate() {
        let (endpoint, mut requests) = collector(protocol, answers).await;
        let (_, dropped) = one_call(settings(endpoint, protocol), tls(None)).await;
        assert_eq!(dropped, 1, "{number}");
        assert!(requests.try_recv().is_ok() && requests.try_recv().is_err(), "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_costs_spans_and_never_a_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = format!("http://{}", listener.local_addr().expect("a bound address"));
    for protocol in BOTH {
        let (recorder, spans) = recorder(settings(silent.clone(), protocol), tls(None));
        let started = Instant::now();
        for _ in 0..3 * QUEUE {
            recorder.begin(TraceContext::root()).finish();
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{protocol:?}");
        assert!(spans.dropped().get() >= QUEUE as u64, "{protocol:?}");
        shut_down(spans.clone(), Duration::from_millis(50)).await;
        recorder.begin(TraceContext::root()).finish();
        assert_eq!(spans.dropped().get(), 3 * QUEUE as u64 + 1, "{protocol:?}: each is counted once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_endpoint_that_verifies_gets_spans() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
    for protocol in BOTH {
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address").signed_by(&key, &issuer);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.expect("a certificate").into()], key)
            .expect("the key is the certificate's");
        server.alpn_protocols = match protocol {
            OtlpProtocol::Http => vec![b"http/1.1".to_vec()],
            OtlpProtocol::Grpc => vec![b"h2".to_vec()],
        };
        let (address, mut requests) = serve(protocol, taken, Some(TlsAcceptor::from(Arc::new(server)))).await;
        let endpoint = format!("https://{address}");
        let trusting = tls(Some(issuer.der().clone()));
        let (id, dropped) = one_call(settings(endpoint.clone(), protocol), trusting).await;
        let (_, body) = requests.recv().await.expect("one delivery");
        assert!(body.windows(id.len()).any(|window| window == id.as_bytes()), "{protocol:?}");
        assert_eq!(dropped, 0, "{protocol:?}");
        let (_, dropped) = one_call(settings(endpoint, protocol), tls(None)).await;
        assert_eq!(dropped, 1, "{protocol:?}");
        assert!(requests.try_recv().is_err(), "{protocol:?}");
    }
}

#[tokio::test]
async fn wrong_settings_are_refused() {
    for protocol in BOTH {
        for endpoint in ["http://[", "127.0.0.1:4317", "localhost", "/v1", "ftp://127.0.0.1:1", "http://", ""] {
            let wrong = settings(endpoint.into(), protocol);
            assert!(Export::new(&wrong, &tls(None), Counter::default()).is_err(), "{protocol:?}: {endpoint}");
        }
        let mut wrong = settings("http://127.0.0.1:1".into(), protocol);
        wrong.headers = vec![("x-key".into(), "canary\n".into())];
        let error = Export::new(&wrong, &tls(None), Counter::default()).err().expect("not a valid header");
        assert!(!format!("{error:?}").contains("canary"));
    }
}

fn put(queue: &Queue, spans: usize, bytes: usize) {
    queue.add(spans, |to| to.bytes(1, &vec![0; bytes]));
}

#[test]
fn what_waits_is_bounded_in_spans_and_in_bytes() {
    for (spans, bytes) in [(64, 100), (1, QUEUE_BYTES / 7)] {
        let queue = Queue::new(Counter::default());
        for _ in 0..100 {
            put(&queue, spans, bytes);
        }
        let batch = queue.take();
        assert!(batch.spans <= QUEUE && batch.bytes.len() <= QUEUE_BYTES);
        assert!(batch.spans + spans > QUEUE || batch.bytes.len() + bytes + 8 > QUEUE_BYTES);
        assert_eq!(queue.dropped.get() as usize + batch.spans, 100 * spans);
        put(&queue, spans, bytes);
        assert_eq!(queue.take().spans, spans, "there is room again");
    }
}

#[test]
fn spans_that_are_lost_on_the_way_or_come_too_late_are_counted() {
    let queue = Queue::new(Counter::default());
    put(&queue, 3, 10);
    drop(queue.take());
    assert_eq!(queue.dropped.get(), 3);
    put(&queue, 2, 10);
    queue.close();
    put(&queue, 1, 10);
    put(&queue, 1, 10);
    assert_eq!((queue.dropped.get(), queue.take().spans), (7, 0));
}
