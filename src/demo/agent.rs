//! The agent of the demonstration: a plain HTTP client with a proxy setting, a trust bundle and a long-lived key.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// A client behind a sidecar.
pub struct Agent {
    proxy: SocketAddr,
    tls: Arc<ClientConfig>,
}

/// What the agent sends.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The method.
    pub method: Method,
    /// The whole URL.
    pub url: String,
    /// Header fields.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

/// What the agent got.
#[derive(Debug)]
pub struct Got {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body, and in how many pieces it came.
    pub body: Bytes,
    /// Pieces of the body.
    pub pieces: usize,
}

impl Agent {
    /// An agent that sends everything through `proxy` and trusts `root` alone.
    ///
    /// # Errors
    /// When the certificate can't be used.
    pub fn new(proxy: SocketAddr, root: CertificateDer<'static>) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(root)?;
        let tls = ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { proxy, tls: Arc::new(tls) })
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn call(&self, sent: &Sent) -> anyhow::Result<Got> {
        let uri: Uri = sent.url.parse()?;
        let host = uri.host().context("the URL has a host")?.to_owned();
        let stream = TcpStream::connect(self.proxy).await?;
        if uri.scheme_str() == Some("http") {
            return exchange(stream, sent.request(&sent.url, &host)?).await;
        }
        let port = uri.port_u16().unwrap_or(443);
        let stream = match tunnel(stream, &host, port).await? {
            Tunnel::Open(stream) => stream,
            Tunnel::Refused(got) => return Ok(got),
        };
        let tls =
            TlsConnector::from(Arc::clone(&self.tls)).connect(ServerName::try_from(host.clone())?, stream).await?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        exchange(tls, sent.request(path, &format!("{host}:{port}"))?).await
    }
}

impl Sent {
    fn request(&self, target: &str, host: &str) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(&self.method).uri(target).header(header::HOST, host);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        Ok(request.body(Full::new(Bytes::from(self.body.clone())))?)
    }
}

enum Tunnel {
    Open(TcpStream),
    Refused(Got),
}

async fn tunnel(mut stream: TcpStream, host: &str, port: u16) -> anyhow::Result<Tunnel> {
    let head = format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            bail!("the proxy closed the connection");
        }
    }
    let status = std::str::from_utf8(answer.get(9..12).context("a status line")?)?.parse()?;
    if status == StatusCode::OK {
        return Ok(Tunnel::Open(stream));
    }
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
    let body = Bytes::copy_from_slice(&answer[body..]);
    Ok(Tunnel::Refused(Got { status, headers: HeaderMap::new(), body, pieces: 1 }))
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<Got>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response: Response<Incoming> = sender.send_request(request).await?;
        let (parts, mut body) = response.into_parts();
        let (mut bytes, mut pieces) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                bytes.extend_from_slice(&data);
                pieces += 1;
            }
        }
        Ok(Got { status: parts.status, headers: parts.headers, body: bytes.into(), pieces })
    };
    // The connection is driven until the answer is whole; when it breaks, the answer says so.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = driven => unreachable!("it is pending for ever"),
    }
}
