//! An OAuth token endpoint that can be told to misbehave.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

/// How the issuer answers.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// A token of this life, in seconds.
    Issues { expires_in: u64 },
    /// This status.
    Fails(StatusCode),
    /// This body.
    Says(&'static str),
    /// Never.
    Hangs,
}

/// An issuer on loopback. Ends when it is dropped.
pub struct Issuer {
    pub addr: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    behaviour: Mutex<Behaviour>,
    issued: Mutex<Vec<String>>,
    revoked: Mutex<Vec<String>>,
    asked: Mutex<Vec<String>>,
}

impl Issuer {
    pub async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let addr = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            behaviour: Mutex::new(behaviour),
            issued: Mutex::default(),
            revoked: Mutex::default(),
            asked: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&state)));
        Self { addr, state, _tasks: tasks }
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().expect("no test panics inside") = behaviour;
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub fn issued(&self) -> Vec<String> {
        self.state.issued.lock().expect("no test panics inside").clone()
    }

    pub fn revoked(&self) -> Vec<String> {
        self.state.revoked.lock().expect("no test panics inside").clone()
    }

    /// The forms that were posted.
    pub fn asked(&self) -> Vec<String> {
        self.state.asked.lock().expect("no test panics inside").clone()
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(state.answer(request).await) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let revocation = request.uri().path() == "/revoke";
        let form = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let form = String::from_utf8_lossy(&form).into_owned();
        if revocation {
            let token = form.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default();
            self.revoked.lock().expect("no test panics inside").push(token.to_owned());
            return Response::new(Full::default());
        }
        self.asked.lock().expect("no test panics inside").push(form);
        let behaviour = self.behaviour.lock().expect("no test panics inside").clone();
        match behaviour {
            Behaviour::Issues { expires_in } => {
                let token = format!("ephemeral-{}", uuid::Uuid::new_v4().simple());
                self.issued.lock().expect("no test panics inside").push(token.clone());
                let answer =
                    serde_json::json!({"access_token": token, "token_type": "Bearer", "expires_in": expires_in});
                json(answer.to_string())
            }
            Behaviour::Fails(status) => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = status;
                response
            }
            Behaviour::Says(body) => json(body.to_owned()),
            Behaviour::Hangs => std::future::pending().await,
        }
    }
}

fn json(body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}
