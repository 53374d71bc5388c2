//! A client behind the sidecar.

use std::{fmt, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// A client that sends everything through the sidecar's explicit proxy.
#[derive(Clone)]
pub struct Agent {
    proxy: SocketAddr,
    roots: Arc<RootCertStore>,
    http2: bool,
}

/// What the agent got. Shows as `403 no_writes`: the status, and the reason where there is one.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Agent {
    pub fn new(proxy: SocketAddr, root: CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(root).expect("our authority's certificate is valid");
        Self { proxy, roots: Arc::new(roots), http2: false }
    }

    /// The same agent, speaking HTTP/2 inside TLS.
    pub fn http2(&self) -> Self {
        Self { http2: true, ..self.clone() }
    }

    pub async fn get(&self, url: &str) -> Answer {
        self.send(request(Method::GET, url, "")).await
    }

    pub async fn post(&self, url: &str, body: &str) -> Answer {
        self.send(request(Method::POST, url, body)).await
    }

    /// Sends a request with an absolute URL on a connection of its own.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        match self.connection(request.uri()).await {
            Ok(mut connection) => connection.send(request).await,
            Err(answer) => answer,
        }
    }

    /// Opens a connection that reaches this URL's origin.
    pub async fn connection(&self, url: &Uri) -> Result<Connection, Answer> {
        let host = url.host().expect("an absolute URL").to_owned();
        let stream = TcpStream::connect(self.proxy).await.expect("the sidecar listens");
        if url.scheme_str() == Some("http") {
            return Ok(Connection::http1(stream, false).await);
        }
        let port = url.port_u16().unwrap_or(443);
        let stream = self.tunnel(stream, &format!("{host}:{port}")).await?;
        let tls = self.tls(stream, &host).await.expect("the agent trusts the sidecar's authority");
        if self.http2 { Ok(Connection::http2(tls).await) } else { Ok(Connection::http1(tls, true).await) }
    }

    /// CONNECT to `target`, then TLS for `sni`: for agents that lie.
    pub async fn claiming(&self, target: &str, sni: &str) -> Result<Connection, String> {
        let stream = TcpStream::connect(self.proxy).await.expect("the sidecar listens");
        let stream = self.tunnel(stream, target).await.map_err(|answer| answer.to_string())?;
        let tls = self.tls(stream, sni).await.map_err(|error| error.to_string())?;
        if self.http2 { Ok(Connection::http2(tls).await) } else { Ok(Connection::http1(tls, true).await) }
    }

    /// A bare tunnel, or the refusal.
    pub async fn connect(&self, target: &str) -> Result<TcpStream, Answer> {
        let stream = TcpStream::connect(self.proxy).await.expect("the sidecar listens");
        self.tunnel(stream, target).await
    }

    /// A connection to the explicit proxy, for agents that speak by themselves.
    pub async fn stream(&self) -> TcpStream {
        TcpStream::connect(self.proxy).await.expect("the sidecar listens")
    }

    /// Writes bytes to the explicit proxy and reads until it closes.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.stream().await;
        stream.write_all(bytes).await.expect("the sidecar reads");
        rest(&mut stream).await
    }

    async fn tunnel(&self, mut stream: TcpStream, target: &str) -> Result<TcpStream, Answer> {
        let head = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("the sidecar reads");
        let mut bytes = Vec::new();
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 32];
            let mut answer = httparse::Response::new(&mut fields);
            if let Ok(httparse::Status::Complete(at)) = answer.parse(&bytes) {
                let status = StatusCode::from_u16(answer.code.expect("it is complete")).expect("a status");
                if status == StatusCode::OK {
                    return Ok(stream);
                }
                let mut body = bytes[at..].to_vec();
                let length = length(&answer);
                while body.len() < length {
                    assert_ne!(stream.read_buf(&mut body).await.expect("it answers"), 0, "it answers whole");
                }
                let headers = answer.headers.iter().filter(|f| !f.name.is_empty());
                let headers = headers.map(|f| (f.name.parse().expect("a name"), f.value.try_into().expect("a value")));
                let headers = headers.collect();
                return Err(Answer { status, version: Version::HTTP_11, headers, body: body.into(), trailers: None });
            }
            assert_ne!(stream.read_buf(&mut bytes).await.expect("it answers"), 0, "it answers before it closes");
        }
    }

    pub async fn tls(&self, stream: TcpStream, sni: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::builder_with_provider(tollgate::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = vec![if self.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let name = ServerName::try_from(super::origin::bare(sni).to_owned()).expect("a host name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// One connection of the agent, kept open between requests.
pub struct Connection {
    sender: Sender,
    /// Inside a tunnel the target is in origin form.
    origin_form: bool,
    _driver: JoinSet<()>,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    pub async fn http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, origin_form: bool) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a fresh connection");
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Self { sender: Sender::Http1(sender), origin_form, _driver: driver }
    }

    pub async fn http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Self {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("a fresh connection");
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let _ = connection.await;
        });
        Self { sender: Sender::Http2(sender), origin_form: false, _driver: driver }
    }

    pub async fn get(&mut self, url: &str) -> Answer {
        self.send(request(Method::GET, url, "")).await
    }

    pub async fn send(&mut self, request: Request<Body>) -> Answer {
        Answer::of(self.begin(request).await.expect("the sidecar answers")).await
    }

    /// Sends a request and returns when the answer's head is there.
    pub async fn begin(&mut self, mut request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http1(sender) => {
                if !request.headers().contains_key(header::HOST) {
                    let authority = request.uri().authority().expect("an absolute URL").as_str().parse();
                    request.headers_mut().insert(header::HOST, authority.expect("an authority is a header value"));
                }
                if self.origin_form {
                    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse();
                    *request.uri_mut() = path.expect("a path is a URI");
                }
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// Reads until the sidecar closes.
pub async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// An answer that was read as text, as [`Answer`] shows it. `reset` where there was none.
pub fn shown(text: &str) -> String {
    let Some(status) = text.split(' ').nth(1) else { return "reset".to_owned() };
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let reason = reason(&serde_json::from_str(body).unwrap_or_default());
    reason.map_or_else(|| status.to_owned(), |reason| format!("{status} {reason}"))
}

/// A request with an absolute URL.
pub fn request(method: Method, url: &str, body: &str) -> Request<Body> {
    Request::builder().method(method).uri(url).body(full(body.to_owned())).expect("a valid request")
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

impl Answer {
    pub async fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let collected = body.collect().await.expect("the answer is whole");
        let trailers = collected.trailers().cloned();
        Self {
            status: parts.status,
            version: parts.version,
            headers: parts.headers,
            body: collected.to_bytes(),
            trailers,
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status.as_u16())?;
        reason(&self.json()).map_or(Ok(()), |reason| write!(f, " {reason}"))
    }
}

fn reason(document: &serde_json::Value) -> Option<String> {
    let reason = document.get("reason").or_else(|| document.pointer("/error/data/reason"));
    Some(reason?.as_str()?.to_owned())
}

fn length(answer: &httparse::Response<'_, '_>) -> usize {
    let field = answer.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    field.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok()).unwrap_or(0)
}
