//! A token endpoint for tests: a real server on a free port that answers as it is told and remembers what it saw.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use super::client::Client;

/// One request that an endpoint saw.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) authorization: String,
    pub(super) body: String,
}

/// What an endpoint answers.
pub(super) enum Reply {
    With(Response<Full<Bytes>>),
    Never,
}

impl Reply {
    pub(super) fn status(status: u16) -> Self {
        Self::With(Response::builder().status(status).body(Full::default()).unwrap())
    }

    pub(super) fn json(text: &str) -> Self {
        Self::status(200).header("content-type", "application/json").body(text)
    }

    pub(super) fn token(value: &str, life: u64) -> Self {
        Self::json(&format!(r#"{{"access_token":"{value}","token_type":"Bearer","expires_in":{life}}}"#))
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Self::With(response) = &mut self {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        self
    }

    pub(super) fn body(mut self, text: &str) -> Self {
        if let Self::With(response) = &mut self {
            *response.body_mut() = Full::new(Bytes::copy_from_slice(text.as_bytes()));
        }
        self
    }
}

/// A running endpoint. It stops when it is dropped.
pub(super) struct Endpoint {
    address: SocketAddr,
    seen: watch::Receiver<Vec<Seen>>,
    _serving: JoinSet<()>,
}

type Script = Arc<Mutex<dyn FnMut(&Seen) -> Reply + Send>>;

impl Endpoint {
    pub(super) async fn start(script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Self {
        let script: Script = Arc::new(Mutex::new(script));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, seen) = watch::channel(Vec::new());
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, script, Arc::new(sender)));
        Self { address, seen, _serving: serving }
    }

    /// Where it listens, with no path.
    pub(super) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/token", self.address)
    }

    pub(super) fn revocation_url(&self) -> String {
        format!("http://{}/revoke", self.address)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    pub(super) fn minted(&self) -> usize {
        self.seen().iter().filter(|seen| seen.path == "/token").count()
    }

    /// The tokens that were revoked, as soon as there are so many.
    pub(super) async fn revoked(&self, count: usize) -> Vec<String> {
        let revoked = |seen: &Vec<Seen>| -> Vec<String> {
            seen.iter().filter(|seen| seen.path == "/revoke").map(|seen| seen.body.clone()).collect()
        };
        let mut seen = self.seen.clone();
        let seen = seen.wait_for(|seen| revoked(seen).len() >= count).await.unwrap();
        revoked(&seen)
    }
}

async fn serve(listener: TcpListener, script: Script, seen: Arc<watch::Sender<Vec<Seen>>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
        connections.spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&script), Arc::clone(&seen)));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    script: Script,
    seen: Arc<watch::Sender<Vec<Seen>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let authorization = parts.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let request = Seen {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        authorization: authorization.unwrap_or_default(),
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    let reply = (script.lock().unwrap())(&request);
    seen.send_modify(|all| all.push(request));
    match reply {
        Reply::With(response) => Ok(response),
        Reply::Never => std::future::pending().await,
    }
}

/// A client that trusts no certificate: these endpoints speak cleartext on loopback.
pub(super) fn client() -> Client {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    Client::new(&Arc::new(tls))
}
