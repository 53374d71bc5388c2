//! A real OpenBao server that makes roles in a real PostgreSQL server, keeps secrets and signs tokens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tollgate::task::End;

use crate::{
    actors::{Bao, Origin, Postgres, Sidecar, bao::BAO, origin, sidecar::Setup},
    canary::Logs,
    clients::are_there,
    identity::identified,
};

/// A server that makes roles in another one. What it lets whoever logs in do is what Tollgate needs.
pub(crate) struct Database {
    pub(crate) bao: Bao,
    pub(crate) postgres: Postgres,
}

impl Database {
    /// A running one, where its programs are there.
    pub(crate) async fn start() -> Option<Self> {
        if !are_there(NEEDS) || !Postgres::is_there() {
            return None;
        }
        let (bao, postgres) = (bao().await, Postgres::start().await);
        bao.tell("sys/mounts/database", json!({"type": "database"})).await;
        let connection = json!({
            "plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "connection_url": postgres.url(),
        });
        bao.tell("database/config/postgres", connection).await;
        let database = Self { bao, postgres };
        database.role("readonly", "10m").await;
        Some(database)
    }

    /// A role whose credentials live so long.
    async fn role(&self, name: &str, life: &str) {
        let statement = r#"CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"#;
        let role = json!({"db_name": "postgres", "default_ttl": life, "creation_statements": [statement]});
        self.bao.tell(&format!("database/roles/{name}"), role).await;
    }

    /// Waits until nothing that was given is left: neither a role nor a lease.
    pub(crate) async fn is_clean_within(&self, limit: Duration) {
        let clean = async {
            while !self.postgres.roles().is_empty() || !self.leases().await.is_empty() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(limit, clean).await.unwrap_or_else(|_| panic!("left behind: {:?}", self.postgres.roles()));
    }

    pub(crate) async fn leases(&self) -> Vec<String> {
        self.bao.list("sys/leases/lookup/database/creds/readonly").await
    }
}

/// A server with a secret, a key that signs, and accounts for whoever has a token of this test's or a role's secret.
async fn bao() -> Bao {
    let bao = Bao::start().await;
    bao.tell("sys/policies/acl/agent", json!({"policy": POLICY})).await;
    bao.tell("secret/data/app", json!({"data": {"token": "kept-5ecret"}})).await;
    bao.tell("sys/auth/approle", json!({"type": "approle"})).await;
    bao.tell("auth/approle/role/agent", json!({"token_policies": "agent", "token_ttl": "20m"})).await;
    bao
}

/// The account of a role, with its secret in a file.
pub(crate) async fn app_role(bao: &Bao, setup: &Setup) -> Value {
    let id = bao.read("auth/approle/role/agent/role-id").await;
    let secret = bao.tell("auth/approle/role/agent/secret-id", json!({})).await;
    let secret = secret["data"]["secret_id"].as_str().expect("a secret");
    std::fs::write(setup.path().join("secret-id"), secret).expect("it can be written");
    json!({"approle": {"role_id": id["role_id"], "secret_id": {"file": "secret-id"}}})
}

/// Puts a credential of this server onto calls to the origin.
fn with(setup: Setup, origin: &Origin, bao: &Bao, auth: &Value, more: Value) -> Setup {
    let credential = json!({"kind": "vault", "address": bao.url(), "auth": auth});
    setup
        .in_front_of_as(origin, json!({"credential": "it"}))
        .set(json!({"credentials": {"it": credential}}))
        .set(json!({"credentials": {"it": more}}))
}

pub(crate) fn readonly() -> Value {
    json!({"secret": "database/creds/readonly", "as": {"basic": {"user": "username", "password": "password"}}})
}

/// A sidecar with the role's account.
pub(crate) async fn as_role(origin: &Origin, bao: &Bao, more: Value) -> Setup {
    let setup = Sidecar::permissive();
    let auth = app_role(bao, &setup).await;
    with(setup, origin, bao, &auth, more)
}

/// The user and the password that a request carried.
pub(crate) fn basic(authorization: Option<&str>) -> (String, String) {
    let encoded = authorization.and_then(|value| value.strip_prefix("Basic ")).expect("basic authentication");
    let pair = String::from_utf8(STANDARD.decode(encoded).expect("base64")).expect("text");
    let (user, password) = pair.split_once(':').expect("a pair");
    (user.to_owned(), password.to_owned())
}

/// Searches what operators look at.
async fn nowhere(sidecar: &mut Sidecar, logs: &Logs, secrets: &[&str]) {
    let records: String = sidecar.audit().await.iter().map(Value::to_string).collect();
    let spans = format!("{:?}", sidecar.heard());
    for (sink, text) in [("audit", records), ("spans", spans), ("metrics", sidecar.metrics()), ("log", logs.text())] {
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "{sink}: {text}");
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs()
}

/// A token of the kubelet's for this audience, signed with this key.
pub(crate) fn projected(key: &KeyPair, audience: &str) -> String {
    let header = json!({"alg": "ES256", "typ": "JWT"});
    let claims = json!({
        "sub": "system:serviceaccount:agents:triage", "aud": [audience], "jti": "t-1",
        "iat": now(), "nbf": now(), "exp": now() + 600,
        "kubernetes.io": {"namespace": "agents", "serviceaccount": {"name": "triage", "uid": "u-1"}},
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&header), part(&claims));
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).expect("a P-256 key");
    let signature = key.sign(&SystemRandom::new(), text.as_bytes()).expect("it signs");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_database_role_lives_as_long_as_its_task() {
    let Some(database) = Database::start().await else { return };
    let logs = Logs::listen();
    let (bao, key) = (&database.bao, KeyPair::generate().expect("a key can be made"));
    bao.trust(&key.public_key_pem(), &bao.url()).await;
    let origin = Origin::https("api.example.com").start().await;
    let projected = projected(&key, &bao.url());
    let setup = identified(json!({"kind": "kubernetes", "token": "token"})).file("token", &projected);
    let setup = with(setup, &origin, bao, &json!({"jwt": {"mount": "jwt", "role": "agent"}}), readonly());
    let mut sidecar = setup.set(json!({"tasks": {"static": {"purpose": "triage"}}})).start().await;
    crate::identity::until(&sidecar, true).await;
    assert_eq!(database.postgres.roles(), [""; 0], "nothing is minted before the first call");

    for _ in 0..3 {
        assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
    }

    let requests = origin.requests();
    let (user, password) = basic(requests[0].header("authorization"));
    assert!(requests.iter().all(|seen| basic(seen.header("authorization")) == (user.clone(), password.clone())));
    assert_eq!(database.postgres.roles(), [user.as_str()]);
    let life: u64 = database
        .postgres
        .ask("select extract(epoch from rolvaliduntil - now())::int from pg_roles where rolcanlogin and not rolsuper")
        .parse()
        .expect("a number");
    // The server adds a few seconds, so that it is the one who ends it.
    assert!((540..=610).contains(&life), "{life}");
    let record = &sidecar.audit().await[0];
    assert_eq!(record["credential"]["kind"], "vault");
    let token = projected.rsplit('.').next().expect("a signature");
    nowhere(&mut sidecar, &logs, &[&password, token]).await;

    let task = record["task"]["id"].as_str().expect("a task");
    sidecar.inner().tasks().end(task, End::Ended).expect("the task is known");
    database.is_clean_within(Duration::from_secs(2)).await;
    assert_eq!(bao.tokens().await, 1, "the login serves other tasks");
    sidecar.stop().await;
    assert_eq!(bao.tokens().await, 0);
}

#[tokio::test]
async fn what_is_given_when_the_sidecar_stops_is_ended_with_it() {
    let Some(database) = Database::start().await else { return };
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = as_role(&origin, &database.bao, readonly()).await.start().await;
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
    assert_eq!((database.postgres.roles().len(), database.leases().await.len()), (1, 1));

    sidecar.stop().await;

    database.is_clean_within(Duration::from_secs(2)).await;
    assert_eq!(database.bao.tokens().await, 0);
}

#[tokio::test]
async fn a_lease_that_lives_longer_than_allowed_is_refused_and_ended() {
    let Some(database) = Database::start().await else { return };
    database.role("readonly", "1h").await;
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = as_role(&origin, &database.bao, readonly()).await.start().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "503 credential_lifetime_exceeded");

    assert!(origin.requests().is_empty());
    database.is_clean_within(Duration::from_secs(2)).await;
}

#[tokio::test]
async fn a_server_that_is_busy_slow_or_gone_is_told_apart_and_nothing_is_forwarded() {
    let Some(database) = Database::start().await else { return };
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = as_role(&origin, &database.bao, readonly()).await.start().await;
    let agent = sidecar.agent();
    let quota = json!({"path": "database/", "rate": 0.001, "interval": "1h"});
    database.bao.tell("sys/quotas/rate-limit/it", quota).await;
    database.bao.spend("database/creds/none").await;
    assert_eq!(agent.get(&origin.url("/")).await.to_string(), "503 credential_unavailable");
    database.bao.delete("sys/quotas/rate-limit/it").await;

    database.bao.pause();
    let asked_again = async {
        loop {
            match agent.get(&origin.url("/")).await.to_string() {
                // Left in peace after the failure before.
                answer if answer == "503 credential_unavailable" => sleep(Duration::from_millis(50)).await,
                answer => return answer,
            }
        }
    };
    let answer = timeout(Duration::from_secs(20), asked_again).await.expect("it is asked again");
    assert_eq!(answer, "503 credential_timeout");
    database.bao.go_on();
    assert!(origin.requests().is_empty());

    let recovers = async {
        while agent.get(&origin.url("/")).await.to_string() != "200" {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(Duration::from_secs(20), recovers).await.expect("it recovers without a restart");
    assert_eq!(database.postgres.roles().len(), 1);
}

#[tokio::test]
async fn a_secret_of_kv_goes_into_its_header() {
    if !are_there(NEEDS) {
        return;
    }
    let bao = bao().await;
    let origin = Origin::https("api.example.com").start().await;
    let kept = json!({"secret": "secret/data/app", "field": "token", "as": {"header": "X-Api-Key"}});
    let sidecar = as_role(&origin, &bao, kept).await.start().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");

    assert_eq!(origin.requests()[0].header("x-api-key"), Some("kept-5ecret"));
    assert_eq!(bao.tokens().await, 1, "our login is enough");
}

/// Says of every token that it is the service account's, as the API server says it.
async fn review(request: Request<Incoming>) -> Response<origin::Body> {
    let review = request.into_body().collect().await.expect("the body is whole").to_bytes();
    let mut review: Value = serde_json::from_slice(&review).expect("a review");
    let user = json!({"username": "system:serviceaccount:agents:triage", "uid": "u-1"});
    review["status"] = json!({"authenticated": true, "audiences": ["vault"], "user": user});
    let mut response = Response::new(origin::full(review.to_string()));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

#[tokio::test]
async fn a_service_account_has_its_account_in_a_namespace() {
    if !are_there(NEEDS) {
        return;
    }
    let (bao, key) = (Bao::start().await, KeyPair::generate().expect("a key can be made"));
    let kubernetes = Origin::http("kubernetes").answering(review).start().await;
    let origin = Origin::https("api.example.com").start().await;
    bao.tell("sys/namespaces/team-a", json!({})).await;
    bao.tell("team-a/sys/policies/acl/agent", json!({"policy": POLICY})).await;
    bao.tell("team-a/sys/mounts/secret", json!({"type": "kv", "options": {"version": "2"}})).await;
    bao.tell("team-a/secret/data/app", json!({"data": {"token": "of-team-a"}})).await;
    bao.tell("team-a/sys/auth/kubernetes", json!({"type": "kubernetes"})).await;
    let cluster = json!({
        "kubernetes_host": format!("http://{}", kubernetes.addr), "kubernetes_ca_cert": origin.root,
        "disable_local_ca_jwt": true, "token_reviewer_jwt": projected(&key, "api"),
    });
    bao.tell("team-a/auth/kubernetes/config", cluster).await;
    let role = json!({
        "bound_service_account_names": ["triage"], "bound_service_account_namespaces": ["agents"],
        "token_policies": ["agent"], "token_ttl": "20m",
    });
    bao.tell("team-a/auth/kubernetes/role/agent", role).await;
    let auth = json!({"kubernetes": {"role": "agent", "token": {"file": "token"}}});
    let kept = json!({"namespace": "team-a", "secret": "secret/data/app", "field": "token"});
    let setup = with(Sidecar::permissive(), &origin, &bao, &auth, kept).file("token", &projected(&key, "vault"));
    let sidecar = setup.start().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");

    assert_eq!(origin.requests()[0].header("authorization"), Some("Bearer of-team-a"));
    assert_eq!(bao.list("team-a/auth/token/accessors").await.len(), 1);
    sidecar.stop().await;
    assert_eq!(bao.list("team-a/auth/token/accessors").await.len(), 0);
}

#[tokio::test]
async fn a_wrapped_secret_is_taken_once() {
    if !are_there(NEEDS) {
        return;
    }
    let bao = bao().await;
    let origin = Origin::https("api.example.com").start().await;
    let kept = || json!({"secret": "secret/data/app", "field": "token"});
    let wrapped = bao.wrapped("auth/approle/role/agent/secret-id").await;
    let setup = Sidecar::permissive();
    let mut auth = app_role(&bao, &setup).await;
    auth["approle"]["secret_id"]["wrapped"] = true.into();
    let setup = with(setup, &origin, &bao, &auth, kept()).file("secret-id", &wrapped);
    let sidecar = setup.start().await;
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
    sidecar.stop().await;

    let setup = with(Sidecar::permissive(), &origin, &bao, &auth, kept()).file("secret-id", &wrapped);
    let (logs, mut second) = (Logs::listen(), setup.start().await);
    assert_eq!(second.agent().get(&origin.url("/")).await.to_string(), "503 credential_rejected");
    assert!(logs.text().contains("somebody stole the secret id"), "{}", logs.text());
    nowhere(&mut second, &logs, &[&wrapped, "kept-5ecret"]).await;
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_certificate_is_issued_for_the_task_and_shown_to_the_origin() {
    if !are_there(NEEDS) {
        return;
    }
    let bao = bao().await;
    bao.tell("sys/mounts/pki", json!({"type": "pki"})).await;
    let root = bao.tell("pki/root/generate/internal", json!({"common_name": "clients", "key_type": "ec"})).await;
    let role = json!({
        "allow_any_name": true, "enforce_hostnames": false, "allowed_uri_sans": "spiffe://example.org/*",
        "key_type": "ec", "key_bits": 256, "generate_lease": true,
    });
    bao.tell("pki/roles/agents", role).await;
    let authority = root["data"]["certificate"].as_str().expect("a certificate");
    let origin = Origin::https("api.example.com").asking(authority).start().await;
    let certificate = json!({"path": "pki/issue/agents", "common_name": "triage", "identity": true});
    let sidecar = as_role(&origin, &bao, json!({"certificate": certificate, "max_ttl": "5m"})).await.start().await;

    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");
    assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");

    let shown: Vec<_> = origin.requests().iter().map(|seen| seen.shown.clone().expect("a certificate")).collect();
    assert_eq!(shown[0], shown[1], "one certificate serves the task");
    let issued = bao.list("pki/certs").await;
    let serial = issued.iter().find(|serial| serial.replace([':', '-'], "") == *shown[0]).expect("it issued it");
    assert_eq!(bao.read(&format!("pki/cert/{serial}")).await["revocation_time"], 0);

    sidecar.stop().await;
    assert_ne!(bao.read(&format!("pki/cert/{serial}")).await["revocation_time"], 0);
    assert_eq!(bao.tokens().await, 0);
}

#[tokio::test]
async fn a_signed_token_says_who_calls_whom_for_which_task() {
    if !are_there(NEEDS) {
        return;
    }
    for (algorithm, kind) in [("ES256", "ecdsa-p256"), ("RS256", "rsa-2048"), ("EdDSA", "ed25519")] {
        let bao = bao().await;
        bao.tell("sys/mounts/transit", json!({"type": "transit"})).await;
        bao.tell("transit/keys/agents", json!({"type": kind})).await;
        let origin = Origin::https("api.example.com").start().await;
        let signed = json!({
            "path": "transit/sign/agents", "algorithm": algorithm, "key_id": "agents-1",
            "issuer": "https://agents.example.com", "audience": "https://api.example.com",
        });
        let sidecar = as_role(&origin, &bao, json!({"signed": signed, "max_ttl": "5m"})).await.start().await;

        assert_eq!(sidecar.agent().get(&origin.url("/")).await.to_string(), "200");

        let requests = origin.requests();
        let token = requests[0].header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let (text, signature) = token.and_then(|token| token.rsplit_once('.')).expect("a token");
        let checked = json!({
            "input": STANDARD.encode(text), "signature": format!("vault:v1:{signature}"), "marshaling_algorithm": "jws",
            "hash_algorithm": "sha2-256", "signature_algorithm": "pkcs1v15",
        });
        let answer = bao.tell("transit/verify/agents", checked).await;
        assert_eq!(answer["data"]["valid"], true, "{algorithm}");
        let part = |text: &str| -> Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).expect("base64")).expect("JSON")
        };
        let (header, claims) = text.split_once('.').expect("two parts");
        assert_eq!(part(header), json!({"alg": algorithm, "typ": "JWT", "kid": "agents-1"}));
        let claims = part(claims);
        assert_eq!(claims["sub"], "spiffe://example.org/tester");
        assert_eq!((&claims["aud"], &claims["destination"]), (&json!("https://api.example.com"), &json!("api")));
        assert!((1..=300).contains(&(claims["exp"].as_u64().expect("an end") - now())));
    }
}

pub(crate) const NEEDS: &[&str] = &[BAO, "setpriv"];

/// What Tollgate's account may do.
const POLICY: &str = r#"
path "auth/token/create" { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
path "database/creds/readonly" { capabilities = ["read"] }
path "secret/data/app" { capabilities = ["read"] }
path "pki/issue/agents" { capabilities = ["update"] }
path "transit/sign/agents" { capabilities = ["update"] }
"#;
