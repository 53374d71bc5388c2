//! A server that gives registry tokens as the Distribution project specifies: JSON Web Tokens with the rights that were
//! asked for, signed with a key whose certificate the registry trusts.

use std::{
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::actors::{
    Origin,
    origin::{Body, full},
};

pub const SERVICE: &str = "registry.example.test";
pub const SECRET: &str = "dckr_pat_inner";
pub const ISSUER: &str = "tokens.example.test";

/// How it answers.
#[derive(Debug, Clone, Copy)]
pub enum Behaviour {
    /// What was asked for.
    Gives,
    /// That, and the right to push.
    GivesMore,
    /// This status.
    Fails(u16),
    /// This body.
    Says(&'static str),
}

/// A request for a token.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The client's name.
    pub by: String,
    pub pair: String,
    pub service: String,
    pub scopes: Vec<String>,
}

/// The server. Clones are the same one.
#[derive(Clone)]
pub struct TokenServer {
    origin: Arc<Origin>,
    shared: Arc<Shared>,
}

struct Shared {
    behaviour: Behaviour,
    key: EcdsaKeyPair,
    /// In DER, in base64.
    certificate: String,
    root: String,
    asked: Mutex<Vec<Asked>>,
    given: Mutex<Vec<String>>,
}

impl TokenServer {
    pub async fn start(behaviour: Behaviour) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new([ISSUER.to_owned()]).expect("a host name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate can be made");
        let shared = Arc::new(Shared {
            behaviour,
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).expect("P-256"),
            certificate: STANDARD.encode(certificate.der()),
            root: certificate.pem(),
            asked: Mutex::default(),
            given: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        let origin = Origin::http("127.0.0.1").answering(move |request| {
            let response = serving.answer(&request);
            async move { response }
        });
        Self { origin: Arc::new(origin.start().await), shared }
    }

    /// Where it is asked.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.origin.addr)
    }

    /// What verifies its tokens, in PEM.
    pub fn root(&self) -> &str {
        &self.shared.root
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("no test panics inside").clone()
    }

    /// The tokens so far.
    pub fn given(&self) -> Vec<String> {
        self.shared.given.lock().expect("no test panics inside").clone()
    }

    /// What this token was asked for.
    pub fn scopes_of(&self, token: &str) -> Vec<String> {
        let index = self.given().iter().position(|given| given == token).expect("it was given here");
        self.asked()[index].scopes.clone()
    }
}

/// What a token says.
pub fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).expect("base64url")).expect("JSON")
}

impl Shared {
    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let field = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let pair = field("authorization").strip_prefix("Basic ").and_then(|pair| STANDARD.decode(pair).ok());
        let pair = String::from_utf8(pair.unwrap_or_default()).expect("text");
        let query = request.uri().query().unwrap_or_default();
        let all = |wanted: &str| -> Vec<String> {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let values = pairs.filter(|(name, _)| *name == wanted).map(|(_, value)| percent_decode_str(value));
            values.map(|value| value.decode_utf8_lossy().into_owned()).collect()
        };
        let asked =
            Asked { by: field("user-agent").to_owned(), pair, service: all("service").concat(), scopes: all("scope") };
        let is_known = asked.pair == format!("robot:{SECRET}");
        let scopes = asked.scopes.clone();
        self.asked.lock().expect("no test panics inside").push(asked);
        match self.behaviour {
            _ if !is_known => told(401, "{}".to_owned()),
            Behaviour::Fails(status) => told(status, "{}".to_owned()),
            Behaviour::Says(text) => told(200, text.to_owned()),
            Behaviour::Gives => told(200, self.token(&scopes, &[])),
            Behaviour::GivesMore => told(200, self.token(&scopes, &["push"])),
        }
    }

    /// The answer with a token, as the specification has it.
    fn token(&self, scopes: &[String], more: &[&str]) -> String {
        let access = scopes.iter().map(|scope| {
            let (of, actions) = scope.rsplit_once(':').expect("a scope has three parts");
            let (kind, name) = of.split_once(':').expect("a scope has three parts");
            let actions: Vec<_> = actions.split(',').chain(more.iter().copied()).collect();
            json!({"type": kind, "name": name, "actions": actions})
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs();
        let claims = json!({
            "iss": ISSUER, "sub": "robot", "aud": SERVICE, "iat": now, "nbf": now, "exp": now + LIFE,
            "jti": uuid::Uuid::new_v4().to_string(), "access": access.collect::<Vec<_>>(),
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("it signs");
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        self.given.lock().expect("no test panics inside").push(token.clone());
        let issued = jiff::Timestamp::now().to_string();
        json!({"token": token, "access_token": token, "expires_in": LIFE, "issued_at": issued, "refresh_token": "r"})
            .to_string()
    }
}

fn told(status: u16, body: String) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

/// In seconds.
const LIFE: u64 = 300;
