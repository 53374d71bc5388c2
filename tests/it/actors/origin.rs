//! What the world sees.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

pub type Body = UnsyncBoxBody<Bytes, Infallible>;
type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
type Service = Arc<dyn Fn(Request<Incoming>) -> Answering + Send + Sync>;

/// One request as the origin saw it. `body` is empty where the origin streamed it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub target: String,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Counts the origin's connections.
    pub connection: usize,
    /// The serial number of the certificate that the sidecar showed, in hexadecimal.
    pub shown: Option<Arc<str>>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("tests send text"))
    }
}

/// Which certificate the origin shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    Good,
    WrongName,
    Expired,
    UnknownIssuer,
}

/// A server of one name on loopback. Ends when it is dropped.
pub struct Origin {
    pub name: String,
    pub addr: SocketAddr,
    pub tls: bool,
    /// What verifies it, in PEM.
    pub root: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Each of its connections holds one.
    open: Arc<()>,
    _tasks: JoinSet<()>,
}

pub struct Setup {
    name: String,
    certificate: Option<Certificate>,
    alpn: &'static [&'static [u8]],
    service: Option<Service>,
    words: Option<&'static [u8]>,
    listener: Option<std::net::TcpListener>,
    asking: Option<String>,
}

impl Origin {
    pub fn https(name: &str) -> Setup {
        Setup {
            name: name.into(),
            certificate: Some(Certificate::Good),
            alpn: &[b"h2", b"http/1.1"],
            service: None,
            words: None,
            listener: None,
            asking: None,
        }
    }

    pub fn http(name: &str) -> Setup {
        Setup { certificate: None, ..Self::https(name) }
    }

    /// The requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test panics inside").clone()
    }

    /// How many connections to it are open.
    pub fn open(&self) -> usize {
        // Itself and who accepts them hold one as well.
        Arc::strong_count(&self.open).saturating_sub(2)
    }

    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}{path}", self.name, self.addr.port())
    }
}

impl Setup {
    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    pub fn http1_only(mut self) -> Self {
        self.alpn = &[b"http/1.1"];
        self
    }

    /// Answers by itself instead of echoing; the body is streamed to it.
    pub fn answering<F, A>(mut self, service: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        self.service = Some(Arc::new(move |request| Box::pin(service(request))));
        self
    }

    /// Says these bytes, whatever it hears, and ends the connection; with none, it never says anything. No TLS, no HTTP.
    pub fn saying(mut self, words: &'static [u8]) -> Self {
        self.words = Some(words);
        self
    }

    /// Lets in only who shows a certificate of this authority, given in PEM.
    pub fn asking(mut self, authority: &str) -> Self {
        self.asking = Some(authority.to_owned());
        self
    }

    /// Listens here instead of on loopback.
    pub fn on(mut self, listener: std::net::TcpListener) -> Self {
        listener.set_nonblocking(true).expect("a socket can be told so");
        self.listener = Some(listener);
        self
    }

    pub async fn start(self) -> Origin {
        let loopback = if self.name.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" };
        let listener = match self.listener {
            Some(listener) => TcpListener::from_std(listener).expect("it does not block"),
            None => TcpListener::bind(loopback).await.expect("loopback has ports"),
        };
        let addr = listener.local_addr().expect("it is bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (root, acceptor) = match self.certificate {
            None => (String::new(), None),
            Some(kind) => {
                let (root, acceptor) = acceptor(&self.name, kind, self.alpn, self.asking.as_deref());
                (root, Some(acceptor))
            }
        };
        let (mut tasks, open) = (JoinSet::new(), Arc::default());
        match self.words {
            None => tasks.spawn(serve(listener, acceptor, Arc::clone(&seen), self.service, Arc::clone(&open))),
            Some(words) => tasks.spawn(say(listener, words)),
        };
        Origin { name: self.name, addr, tls: self.certificate.is_some(), root, seen, open, _tasks: tasks }
    }
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    seen: Arc<Mutex<Vec<Seen>>>,
    service: Option<Service>,
    open: Arc<()>,
) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    while let Ok((stream, _)) = listener.accept().await {
        number += 1;
        let (acceptor, seen, service) = (acceptor.clone(), Arc::clone(&seen), service.clone());
        let _ = stream.set_nodelay(true);
        let open = Arc::clone(&open);
        connections.spawn(async move {
            let _open = open;
            match acceptor {
                None => speak(stream, false, (number, None), seen, service).await,
                Some(acceptor) => {
                    let Ok(tls) = acceptor.accept(stream).await else { return };
                    let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                    let shown = tls.get_ref().1.peer_certificates().map(|chain| serial(&chain[0]));
                    speak(tls, http2, (number, shown), seen, service).await;
                }
            }
        });
    }
}

async fn say(listener: TcpListener, words: &'static [u8]) {
    let mut silent = Vec::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        if words.is_empty() {
            silent.push(stream);
        } else {
            // What is not read before the end would reset the connection and take the words with it.
            let _ = stream.read(&mut [0; 16 * 1024]).await;
            let _ = stream.write_all(words).await;
        }
    }
}

async fn speak<S>(
    stream: S,
    http2: bool,
    from: (usize, Option<Arc<str>>),
    seen: Arc<Mutex<Vec<Seen>>>,
    service: Option<Service>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let (seen, service, from) = (Arc::clone(&seen), service.clone(), from.clone());
        async move { Ok::<_, Infallible>(answer(&seen, service, from, request).await) }
    });
    let io = TokioIo::new(stream);
    if http2 {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).with_upgrades().await;
    }
}

/// Answers by the test's service, or echoes: the request's line and body come back.
async fn answer(
    seen: &Mutex<Vec<Seen>>,
    service: Option<Service>,
    (connection, shown): (usize, Option<Arc<str>>),
    request: Request<Incoming>,
) -> Response<Body> {
    let mut noted = Seen {
        method: request.method().clone(),
        target: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
        version: request.version(),
        headers: request.headers().clone(),
        body: Bytes::new(),
        connection,
        shown,
    };
    if let Some(service) = service {
        seen.lock().expect("no test panics inside").push(noted);
        return service(request).await;
    }
    let Ok(body) = request.into_body().collect().await else { return Response::new(full("broken")) };
    noted.body = body.to_bytes();
    let echo = format!("{} {} {}", noted.method, noted.target, String::from_utf8_lossy(&noted.body));
    seen.lock().expect("no test panics inside").push(noted);
    Response::new(full(echo))
}

fn verifier(asking: Option<&str>) -> Arc<dyn ClientCertVerifier> {
    let Some(authority) = asking else { return WebPkiClientVerifier::no_client_auth() };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).expect("PEM")).expect("an authority");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tollgate::tls::provider());
    verifier.build().expect("there is a root")
}

fn serial(certificate: &CertificateDer<'_>) -> Arc<str> {
    let (_, parsed) = X509Certificate::from_der(certificate).expect("it was verified");
    let text: String = parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
    text.strip_prefix("00").unwrap_or(&text).into()
}

/// An IPv6 literal without the brackets that it has in a URL.
pub fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

fn acceptor(name: &str, kind: Certificate, alpn: &[&[u8]], asking: Option<&str>) -> (String, TlsAcceptor) {
    let subject = if kind == Certificate::WrongName { "other.example.net" } else { name };
    let mut params = CertificateParams::new([bare(subject).to_owned()]).expect("a host name");
    if kind == Certificate::Expired {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    }
    let key = KeyPair::generate().expect("a key can be made");
    let certificate = params.self_signed(&key).expect("a certificate can be made");
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let secret = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut config = rustls::ServerConfig::builder_with_provider(tollgate::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_client_cert_verifier(verifier(asking))
        .with_single_cert(chain, secret)
        .expect("key and certificate fit");
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let root = if kind == Certificate::UnknownIssuer { String::new() } else { certificate.pem() };
    (root, TlsAcceptor::from(Arc::new(config)))
}
