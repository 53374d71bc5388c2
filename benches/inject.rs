//! What one admission review costs: the answer alone, and over TLS on a connection that stays open.
//!
//! `cargo bench --bench inject`. Everything runs on one thread, client and server together, so one core is the most that
//! is used. The target is 200 reviews a second with 99 of 100 under 10 ms; where it is missed, the exit code is 1.

use std::{
    hint::black_box,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tollgate::kubernetes::inject::{Config, review, serve::Webhook};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REVIEWS: usize = 5_000;
const RATE: f64 = 200.0;
const SLOWEST: Duration = Duration::from_millis(10);
const CONTAINERS: [usize; 2] = [1, 10];
const NAME: &str = "tollgate-injector.tollgate.svc";

fn main() -> ExitCode {
    let mut met = true;
    println!("one review, {REVIEWS} of each kind, one thread");
    for containers in CONTAINERS {
        let body = review_of(containers);
        let config = config(Path::new("/"));
        let mut times = measure(|| {
            black_box(review::answer(black_box(&body), &config).expect("it is a review"));
        });
        met &= report(&format!("answer alone, {containers} containers, {} bytes", body.len()), &mut times);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for containers in CONTAINERS {
            let mut times = over_tls(Bytes::from(review_of(containers))).await;
            met &= report(&format!("over TLS, {containers} containers"), &mut times);
        }
    });
    if met {
        return ExitCode::SUCCESS;
    }
    eprintln!("missed: {RATE} reviews/s with 99 of 100 under {} ms", SLOWEST.as_millis());
    ExitCode::FAILURE
}

fn measure(mut once: impl FnMut()) -> Vec<Duration> {
    (0..REVIEWS / 10).for_each(|_| once());
    let timed = |_| {
        let begun = Instant::now();
        once();
        begun.elapsed()
    };
    (0..REVIEWS).map(timed).collect()
}

async fn over_tls(body: Bytes) -> Vec<Duration> {
    let dir = tempfile::tempdir().expect("a directory");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![NAME.to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    std::fs::write(dir.path().join("tls.crt"), certificate.pem()).expect("written");
    std::fs::write(dir.path().join("tls.key"), key.serialize_pem()).expect("written");
    let webhook = Webhook::bind(config(dir.path())).await.expect("it binds");
    let address = webhook.address().expect("bound");
    let serving = tokio::spawn(webhook.serve(std::future::pending()));

    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a root");
    let mut sender = connect(address, roots).await;
    let mut times = Vec::with_capacity(REVIEWS);
    for round in 0..REVIEWS + REVIEWS / 10 {
        let begun = Instant::now();
        ask(&mut sender, body.clone()).await;
        if round >= REVIEWS / 10 {
            times.push(begun.elapsed());
        }
    }
    serving.abort();
    times
}

async fn connect(address: SocketAddr, roots: RootCertStore) -> SendRequest<Full<Bytes>> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    let name = ServerName::try_from(NAME).expect("a name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake");
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut SendRequest<Full<Bytes>>, body: Bytes) {
    let request = Request::post("/mutate")
        .header(header::HOST, NAME)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .expect("a request");
    sender.ready().await.expect("it is open");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    black_box(response.into_body().collect().await.expect("a body").to_bytes());
}

/// Prints what was measured. Returns whether it is as good as it must be.
fn report(what: &str, times: &mut [Duration]) -> bool {
    times.sort_unstable();
    let total: Duration = times.iter().sum();
    let at = |part: usize| times[times.len() * part / 1000];
    let ms = |part: usize| at(part).as_secs_f64() * 1e3;
    let rate = times.len() as f64 / total.as_secs_f64();
    println!("{what:<44} {rate:>8.0} reviews/s   median {:>6.3} ms   p99 {:>6.3} ms", ms(500), ms(990));
    rate >= RATE && at(990) < SLOWEST
}

fn config(dir: &Path) -> Config {
    let text = "{image: 'registry.example/tollgate:1', serve: {listen: '127.0.0.1:0', health: '127.0.0.1:0', \
                certificate: tls.crt, key: tls.key}}";
    Config::parse(text, dir, "inject.yaml", &|_| None).expect("it can be used")
}

/// A review as the API server sends it, with managed fields and defaults.
fn review_of(containers: usize) -> Vec<u8> {
    let container = |index: usize| {
        json!({"name": format!("agent-{index}"), "image": "registry.example/agent:1", "imagePullPolicy": "IfNotPresent",
               "env": (0..20).map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "x".repeat(20)})).collect::<Vec<_>>(),
               "resources": {"requests": {"cpu": "100m"}}, "terminationMessagePath": "/dev/termination-log",
               "volumeMounts": [{"name": "kube-api-access-x7k2p", "readOnly": true,
                                 "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]})
    };
    let token = json!({"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}});
    let pod: Value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "agent-7d9c-", "labels": {"app": "agent", "pod-template-hash": "7d9c"},
                     "managedFields": [{"manager": "kube-controller-manager", "operation": "Update"}]},
        "spec": {"containers": (0..containers).map(container).collect::<Vec<_>>(), "restartPolicy": "Always",
                 "volumes": [{"name": "kube-api-access-x7k2p", "projected": {"sources": [token]}}]},
    });
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
           "request": {"uid": "705ab4f5", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE",
                       "namespace": "agents", "object": pod, "userInfo": {"username": "system:serviceaccount:x"}}})
    .to_string()
    .into_bytes()
}
