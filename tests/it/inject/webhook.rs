//! The webhook over TLS: what it answers, what it refuses to answer, and how it lives and ends.

use std::{fs, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tollgate::kubernetes::inject::{Config, serve::Webhook};

use super::{Manifest, injected, reviews};

/// The cluster's authority for webhooks.
struct Authority(Issuer<'static, KeyPair>, rcgen::Certificate);

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        Self(Issuer::new(params, key), certificate)
    }

    /// Puts a new certificate and its key into `dir`, each at one stroke.
    fn issue(&self, dir: &Path) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![NAME.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        for (name, text) in [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())] {
            let next = dir.join("next");
            fs::write(&next, text).expect("written");
            fs::rename(next, dir.join(name)).expect("renamed");
        }
    }
}

/// A running webhook.
struct Running {
    address: SocketAddr,
    health: SocketAddr,
    authority: Authority,
    dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

impl Running {
    async fn start(settings: &str) -> Self {
        let (authority, dir) = (Authority::new(), tempfile::tempdir().expect("a directory"));
        authority.issue(dir.path());
        let mut config = Config::parse(settings, dir.path(), "inject.yaml", &|_| None).expect("it can be used");
        let serve = &mut config.settings.serve;
        serve.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        serve.health = SocketAddr::from(([127, 0, 0, 1], 0));
        serve.linger.0 = Duration::ZERO;
        (serve.certificate, serve.key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let webhook = Webhook::bind(config).await.expect("it binds");
        let (address, health) = (webhook.address().expect("bound"), webhook.health_address().expect("bound"));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(webhook.serve(async move {
            let _ = stopped.await;
        }));
        Self { address, health, authority, dir, stop: Some(stop), serving }
    }

    async fn plain() -> Self {
        Self::start("image: registry.example/tollgate:0.1.0").await
    }

    async fn connect(&self, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        self.try_connect(alpn).await.expect("a handshake")
    }

    async fn try_connect(&self, alpn: &[&[u8]]) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.1.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let stream = TcpStream::connect(self.address).await.expect("it listens");
        let name = ServerName::try_from(NAME).expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> (StatusCode, Bytes) {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(self.connect(&[b"http/1.1"]).await)).await.expect("HTTP/1.1");
        let driving = tokio::spawn(connection);
        let response = sender.send_request(request).await.expect("an answer");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        driving.abort();
        (status, body)
    }

    async fn review(&self, review: &Value) -> Value {
        let (status, body) = self.send(post(review.to_string())).await;
        assert_eq!(status, StatusCode::OK, "{body:?}");
        serde_json::from_slice(&body).expect("JSON")
    }

    async fn metrics(&self) -> String {
        let stream = TcpStream::connect(self.health).await.expect("it listens");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        let driving = tokio::spawn(connection);
        let request = Request::get("/metrics").header("host", "x").body(Full::<Bytes>::default()).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        driving.abort();
        String::from_utf8(body.to_vec()).expect("UTF-8")
    }

    async fn stop(mut self) {
        self.stop.take().expect("it runs").send(()).expect("it listens to it");
        timeout(SOON, self.serving).await.expect("it ends").expect("without a panic");
    }
}

fn post(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post("/mutate?timeout=10s")
        .header(header::HOST, NAME)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body.into()))
        .expect("a request")
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "image": "a:1"}]}})
}

#[tokio::test]
async fn a_review_gives_the_pod_that_the_command_line_gives() {
    for manifest in Manifest::all("corpus") {
        let running = Running::start(&manifest.settings).await;
        let config = manifest.config();
        let (_, output, _) = manifest.run_on(&manifest.text);
        let written = Manifest::pods(&output);
        for (pod, expected) in Manifest::pods(&manifest.text).iter().zip(written) {
            let namespace = pod["metadata"]["namespace"].as_str().unwrap_or("agents");
            let answer = running.review(&reviews::review(pod, namespace)).await;
            assert_eq!(reviews::patched(pod, &answer), expected, "{}", manifest.name);
            let pure = injected(pod, namespace, &config).map_or(pod.clone(), |injected| injected.pod);
            assert_eq!(expected, pure, "{}", manifest.name);
        }
        running.stop().await;
    }
}

#[tokio::test]
async fn a_dry_run_gets_the_same_answer() {
    let running = Running::plain().await;
    let mut review = reviews::review(&pod(), "agents");
    let real = running.review(&review).await;
    review["request"]["dryRun"] = json!(true);
    assert_eq!(running.review(&review).await, real);
    assert!(real["response"]["patch"].is_string());
}

#[tokio::test]
async fn http_2_is_spoken_too() {
    let running = Running::plain().await;
    let stream = running.connect(&[b"h2"]).await;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let driving = tokio::spawn(connection);
    let request = Request::post(format!("https://{NAME}/mutate"))
        .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
        .body(Full::new(Bytes::from(reviews::review(&pod(), "agents").to_string())))
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let answer = serde_json::from_slice(&response.into_body().collect().await.expect("a body").to_bytes());
    reviews::patched(&pod(), &answer.expect("JSON"));
    driving.abort();
}

#[tokio::test]
async fn a_pod_that_can_not_be_made_safe_may_not_be_made() {
    let running = Running::plain().await;
    let mut unsafe_pod = pod();
    unsafe_pod["spec"]["hostNetwork"] = json!(true);
    let answer = running.review(&reviews::review(&unsafe_pod, "agents")).await;
    let response = &answer["response"];
    assert_eq!((response["allowed"].as_bool(), response["status"]["code"].as_u64()), (Some(false), Some(403)));
    let message = response["status"]["message"].as_str().expect("a message");
    assert!(message.contains("spec.hostNetwork: "), "{message}");
    assert!(response.get("patch").is_none());
    assert!(running.metrics().await.contains("tollgate_inject_reviews_total{decision=\"refuse\"} 1\n"));
}

#[tokio::test]
async fn what_is_no_review_gets_an_error_and_the_webhook_lives_on() {
    let running = Running::start("{image: 'a:1', serve: {max_body: 64KiB}}").await;
    let with = |pointer: &str, value: Value| {
        let mut review = reviews::review(&pod(), "agents");
        *review.pointer_mut(pointer).expect("it is there") = value;
        post(review.to_string())
    };
    let mut text = post("{}");
    text.headers_mut().insert(header::CONTENT_TYPE, "text/plain".parse().expect("a type"));
    let at = |method: Method, path: &str| {
        let request = Request::builder().method(method).uri(path).header(header::HOST, NAME);
        request.body(Full::<Bytes>::default()).expect("a request")
    };
    let mut large = reviews::review(&pod(), "agents");
    large["request"]["object"]["metadata"]["annotations"] = json!({"large": "x".repeat(70_000)});
    for (request, expected) in [
        (post(""), 400),
        (post("not JSON"), 400),
        (post("[".repeat(60_000)), 400),
        (post(b"\xff\xfe".to_vec()), 400),
        (post("{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\"}"), 400),
        (with("/apiVersion", json!("admission.k8s.io/v1beta1")), 400),
        (with("/kind", json!("Pod")), 400),
        (with("/request/uid", json!("")), 400),
        (with("/request/kind", json!("Pod")), 400),
        (post(large.to_string()), 413),
        (text, 415),
        (at(Method::GET, "/mutate"), 405),
        (at(Method::POST, "/"), 404),
        (at(Method::POST, "/mutate"), 415),
    ] {
        let what = format!("{request:?}").chars().take(300).collect::<String>();
        let (status, body) = running.send(request).await;
        assert_eq!(status.as_u16(), expected, "{what}: {body:?}");
    }
    // These are reviews, of something that can't be injected.
    for (pointer, value, allowed) in [
        ("/request/kind", json!({"group": "apps", "version": "v1", "kind": "Deployment"}), false),
        ("/request/object", Value::Null, false),
        ("/request/object", json!({"spec": {"containers": [7]}}), false),
        ("/request/operation", json!("UPDATE"), true),
        ("/request/namespace", json!("kube-system"), true),
    ] {
        let (status, body) = running.send(with(pointer, value.clone())).await;
        let answer: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((status.as_u16(), answer["response"]["allowed"].as_bool()), (200, Some(allowed)), "{value}");
    }
    running.review(&reviews::review(&pod(), "agents")).await;
    running.stop().await;
}

#[tokio::test]
async fn a_replaced_certificate_is_used_without_a_restart() {
    let running = Running::plain().await;
    let shown = async || {
        let stream = running.connect(&[]).await;
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone()
    };
    let first = shown().await;
    running.authority.issue(running.dir.path());
    let replaced = async {
        while shown().await == first {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, replaced).await.expect("it is noticed");

    // One that can't be used leaves the last one in place.
    let second = shown().await;
    fs::write(running.dir.path().join("tls.key"), "nothing").expect("written");
    let noticed = async {
        while !running.metrics().await.contains("tollgate_inject_certificate_reload_failures_total 1\n") {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, noticed).await.expect("it is counted");
    assert_eq!(shown().await, second);
    running.stop().await;
}

#[tokio::test]
async fn a_review_that_has_begun_is_answered_before_the_end() {
    let mut running = Running::plain().await;
    let mut stream = running.connect(&[b"http/1.1"]).await;
    let body = reviews::review(&pod(), "agents").to_string();
    let head = format!(
        "POST /mutate HTTP/1.1\r\nhost: {NAME}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    // The body is asked for, so the review has begun.
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).await.expect("it answers");
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    running.stop.take().expect("it runs").send(()).expect("it listens to it");
    stream.write_all(body.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"allowed\":true"), "{answer}");
    timeout(SOON, running.serving).await.expect("it ends").expect("without a panic");
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn no_address_takes_all_connections() {
    let running = Running::plain().await;
    let mut held = Vec::new();
    let refused = loop {
        match running.try_connect(&[b"h2"]).await {
            Ok(stream) => held.push(stream),
            Err(error) => break error,
        }
        assert!(held.len() <= 16, "they have no end");
    };
    assert_eq!(held.len(), 16, "{refused}");
    held.pop();
    let answered = async {
        while running.try_connect(&[b"h2"]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, answered).await.expect("there is room again");
    drop(held);
    running.stop().await;
}

const NAME: &str = "tollgate-injector.tollgate.svc";
const SOON: Duration = Duration::from_secs(20);
