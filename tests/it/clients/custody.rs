//! Clients that are given a placeholder for their key, in the way that their users give them one. Their servers see the
//! credential, in its slot, and the placeholder nowhere. `docs/placeholders.md` says the same to users.

mod servers;

use std::fs;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;

use self::servers::{Answering, PULL_TOKEN, Server, accept, converse, give, images, packages};
use super::{CLIENTS, NODE24, PYTHON, Says, are_there, clean, cleaned, git, lines, resolved, run, trusted};
use crate::actors::{Origin, Sidecar, agent::request, origin::Seen, sidecar::Setup};

#[tokio::test]
async fn git_clones_and_pushes() {
    if !are_there(&["git"]) {
        return;
    }
    let key = Key { placeholder: "ghp_tollgate00000000000000000000000000", secret: "ghs_inner", slot: GIT };
    let dir = tempfile::tempdir().expect("a directory");
    let served = git::project(dir.path()).await;
    let bare = served.join("project.git");
    let origin = Origin::https("git.example.test").answering(move |request| git::http_backend(served.clone(), request));
    let origin = origin.start().await;
    let sidecar = key.guarded(&origin).await;
    let git = |arguments: &[&str]| {
        let mut git = cleaned(&["git"], &[("https_proxy", Says::Proxy), ("GIT_SSL_CAINFO", Says::Bundle)], &sidecar);
        git.current_dir(dir.path()).args(arguments);
        git
    };

    // In the URL git sends it no earlier than it is asked to; in a header, as actions/checkout has it, always.
    let url = origin.url("/project.git").replace("https://", &format!("https://x-access-token:{}@", key.placeholder));
    lines(&mut git(&["clone", "--quiet", &url, "copy"])).await;
    let header = format!("http.extraHeader=Authorization: {}", basic("x-access-token", key.placeholder));
    let commit = "-c user.name=t -c user.email=t@example.test -C copy commit --quiet --allow-empty --message=second";
    lines(&mut git(&commit.split(' ').collect::<Vec<_>>())).await;
    lines(&mut git(&["-c", &header, "-C", "copy", "push", "--quiet", "origin", "HEAD:refs/heads/mine"])).await;

    let mut log = Command::new("git");
    clean(&mut log, dir.path()).current_dir(bare).args(["log", "-1", "--format=%s", "mine"]);
    assert_eq!(lines(&mut log).await, ["second"]);
    key.was_put_on(&origin, &sidecar).await;
}

#[tokio::test]
async fn npm_publishes() {
    if !are_there(&[NODE24, NPM]) {
        return;
    }
    let key = Key { placeholder: "npm_tollgate0000000000000000000000000000", secret: "npm_inner", slot: BEARER };
    let (server, sidecar) = key.at("registry.example.test", packages).await;
    let home = sidecar.dir.path();
    let registry = server.origin.url("/");
    let token = format!("{}:_authToken=${{NPM_TOKEN}}\n", registry.trim_start_matches("https:"));
    fs::write(home.join(".npmrc"), format!("registry={registry}\n{token}")).expect("it can be written");
    let package = home.join("package");
    fs::create_dir(&package).expect("a directory");
    fs::write(package.join("package.json"), r#"{"name": "demo", "version": "1.0.0"}"#).expect("it can be written");
    let npm = |command: &str| {
        let variables = [("HTTPS_PROXY", Says::Proxy), ("NODE_EXTRA_CA_CERTS", Says::Bundle)];
        let mut npm = cleaned(&[NODE24], &variables, &sidecar);
        npm.arg(resolved(NPM)).args([command, "--no-update-notifier"]).current_dir(&package);
        npm.env("NPM_TOKEN", key.placeholder);
        npm
    };

    assert_eq!(lines(&mut npm("whoami")).await, ["agent"]);
    assert_eq!(lines(&mut npm("publish")).await, ["+ demo@1.0.0"]);

    let (_, body) = server.bodies().into_iter().find(|(line, _)| line == "PUT /demo").expect("it was published");
    let published: Value = serde_json::from_slice(&body).expect("npm sends JSON");
    assert_eq!(published["versions"]["1.0.0"]["name"], "demo");
    key.was_put_on(&server.origin, &sidecar).await;
}

#[tokio::test]
async fn twine_uploads() {
    if !are_there(&[PYTHON, TWINE]) {
        return;
    }
    let key = Key { placeholder: "pypi-tollgate0000000000000000000000", secret: "pypi-inner", slot: PYPI };
    let (server, sidecar) = key.at("upload.example.test", accept).await;
    let home = sidecar.dir.path();
    lines(cleaned(&[PYTHON], &[], &sidecar).arg(format!("{CLIENTS}/wheel.py")).current_dir(home)).await;

    let variables = [("HTTPS_PROXY", Says::Proxy), ("TWINE_CERT", Says::Bundle)];
    let mut twine = cleaned(&[PYTHON, "-m", "twine", "upload"], &variables, &sidecar);
    twine.args(["--non-interactive", "--disable-progress-bar", "demo-1.0-py3-none-any.whl"]).current_dir(home);
    twine.envs([("TWINE_USERNAME", "__token__"), ("TWINE_PASSWORD", key.placeholder)]);
    lines(twine.env("TWINE_REPOSITORY_URL", server.origin.url("/legacy/"))).await;

    let bodies = server.bodies();
    let [(line, body)] = &bodies[..] else { panic!("it came {} times", bodies.len()) };
    assert!(line == "POST /legacy/" && String::from_utf8_lossy(body).contains("demo-1.0-py3-none-any.whl"), "{line}");
    key.was_put_on(&server.origin, &sidecar).await;
}

#[tokio::test]
async fn the_openai_sdk_completes_and_streams() {
    let key = Key { placeholder: "sk-tollgate000000000000000000000000", secret: "sk-inner", slot: BEARER };
    let variables =
        |origin: &Origin| [("OPENAI_API_KEY", key.placeholder.to_owned()), ("OPENAI_BASE_URL", origin.url("/v1"))];
    converses(&key, "openai", variables).await;
}

#[tokio::test]
async fn the_anthropic_sdk_completes_and_streams() {
    // Since its second version it sends the key as a bearer token.
    let key = Key { placeholder: "sk-ant-tollgate00000000000000000000", secret: "sk-ant-inner", slot: BEARER };
    let variables =
        |origin: &Origin| [("ANTHROPIC_API_KEY", key.placeholder.to_owned()), ("ANTHROPIC_BASE_URL", origin.url(""))];
    converses(&key, "anthropic", variables).await;
}

/// The SDK of a model's provider gets an answer, whole and as a stream.
async fn converses(key: &Key, sdk: &str, variables: impl Fn(&Origin) -> [(&'static str, String); 2]) {
    if !are_there(&[PYTHON]) || !is_a_module(sdk).await {
        return;
    }
    let (server, sidecar) = key.at("model.example.test", converse).await;
    let mut client = cleaned(&[PYTHON], &[("HTTPS_PROXY", Says::Proxy), ("SSL_CERT_FILE", Says::Bundle)], &sidecar);
    client.arg(format!("{CLIENTS}/{sdk}_client.py")).envs(variables(&server.origin));

    assert_eq!(lines(&mut client).await, ["WHOLE hello", "STREAM hel lo"]);

    assert_eq!(server.origin.requests().len(), 2);
    key.was_put_on(&server.origin, &sidecar).await;
}

#[tokio::test]
async fn curl_with_the_keys_of_services() {
    if !are_there(&["curl"]) {
        return;
    }
    let (slack, stripe, anthropic) =
        ("xoxb-000000000000-tollgate", "sk_test_tollgate000000000000", "sk-ant-tollgate00000000000000000000");
    let header = |name: &str, value: &str| ["--header".to_owned(), format!("{name}: {value}")];
    let bearer = |value: &str| header("Authorization", &format!("Bearer {value}"));
    let user = |value: &str| ["--user".to_owned(), format!("{value}:")];
    let key = |placeholder, secret, slot| Key { placeholder, secret, slot };
    let path = "/v1/things";
    let table = [
        (key(slack, "xoxb-inner", BEARER), bearer(slack), path.to_owned()),
        // The key is the user in Stripe's documentation; it takes it as a bearer token too.
        (key(stripe, "sk_live_inner", BEARER), user(stripe), path.to_owned()),
        (key(stripe, "sk_live_inner", BEARER), bearer(stripe), path.to_owned()),
        (key(anthropic, "sk-ant-inner", API_KEY), header("x-api-key", anthropic), path.to_owned()),
        (key(stripe, "in-the-query", PARAMETER), header("x-kept", "yes"), format!("{path}?key={stripe}")),
    ];
    for (key, arguments, path) in table {
        let (server, sidecar) = key.at("api.example.test", accept).await;
        let variables = [("https_proxy", Says::Proxy), ("SSL_CERT_FILE", Says::Bundle)];
        let mut curl = cleaned(&["curl", "-sS"], &variables, &sidecar);
        curl.args(arguments).args(["--write-out", "%{http_code}", "--data", "a=b", &server.origin.url(&path)]);
        assert_eq!(lines(&mut curl).await, ["{}200"]);
        assert_eq!(server.bodies(), [("POST /v1/things".to_owned(), Bytes::from_static(b"a=b"))]);
        key.was_put_on(&server.origin, &sidecar).await;
    }
}

#[tokio::test]
async fn a_registry_whose_tokens_another_host_gives_is_pulled_from() {
    if !are_there(&["curl"]) {
        return;
    }
    let key = Key { placeholder: "dckr_pat_tollgate00000000000", secret: "dckr_pat_inner", slot: REGISTRY };
    let Server { origin: tokens, .. } = Server::start("auth.example.test", give).await;
    let images = images(tokens.url("/token"));
    let Server { origin: registry, .. } = Server::start("registry.example.test", images).await;
    // The registry itself has no credential: what its clients were given for a few minutes passes.
    let setup = key.guarding(Sidecar::permissive(), &tokens);
    let pass = json!({"secrets": {"kinds": {"bearer": "observe", "jwt": "observe"}}});
    let sidecar = trusted(setup.in_front_of_as(&registry, pass)).await;

    let told = pull(&sidecar, &registry, &key).await;

    assert_eq!(told, [format!("TOKEN {}", PULL_TOKEN.len()), "PULLED {\"layers\":[]}".to_owned()]);
    let asked = tokens.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].target, "/token?service=registry.example.test&scope=repository:library/demo:pull");
    assert_eq!(asked[0].header("authorization"), Some(&*basic("agent", key.secret)));
    let bearer = format!("Bearer {PULL_TOKEN}");
    assert_eq!(registry.requests().last().expect("it was asked").header("authorization"), Some(&*bearer));
}

#[tokio::test]
async fn a_registry_that_takes_the_credential_itself_never_challenges() {
    if !are_there(&["curl"]) {
        return;
    }
    let key = Key { placeholder: "robot-tollgate-000000", secret: "inner", slot: REGISTRY };
    let (server, sidecar) = key.at("registry.example.test", accept).await;
    assert_eq!(pull(&sidecar, &server.origin, &key).await, ["NO CHALLENGE 200", "PULLED {}"]);
    key.was_put_on(&server.origin, &sidecar).await;
}

#[tokio::test]
async fn the_challenge_of_a_registry_with_a_credential_stays_with_us() {
    if !are_there(&["curl"]) {
        return;
    }
    let key = Key { placeholder: "robot-tollgate-000000", secret: "inner", slot: REGISTRY };
    let images = images("https://registry.example.test/token".to_owned());
    let (server, sidecar) = key.at("registry.example.test", images).await;
    assert_eq!(pull(&sidecar, &server.origin, &key).await, ["NO CHALLENGE 401", "PULLED {}"]);
    key.was_put_on(&server.origin, &sidecar).await;
}

#[tokio::test]
async fn a_placeholder_out_of_its_slot_goes_nowhere() {
    let key = Key { placeholder: "sk-tollgate000000000000000000000000", secret: "sk-inner", slot: BEARER };
    let origin = Origin::https("api.example.test").start().await;
    let other = Origin::https("other.example.test").start().await;
    let tools = Origin::https("tools.example.test").start().await;
    let setup = key.guarding(Sidecar::permissive(), &origin);
    let setup = setup.in_front_of_as(&other, json!({"secrets": {"bodies": true}}));
    let setup = setup.in_front_of_as(&tools, json!({"protocol": "mcp"}));
    let sidecar = setup.start().await;
    let fake = key.placeholder;
    let call = |origin: &Origin, path: &str, name: &'static str, value: String| {
        let mut call = request(Method::GET, &origin.url(path), "");
        call.headers_mut().insert(name, HeaderValue::try_from(value).expect("text"));
        call
    };
    let post = |origin: &Origin, body: Value| {
        let mut call = request(Method::POST, &origin.url("/"), &body.to_string());
        call.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        call
    };
    let params = json!({"name": "t", "arguments": {"note": fake}});
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let table = [
        (call(&origin, "/", "user-agent", format!("demo ({fake})")), "header:user-agent"),
        (call(&origin, "/", "x-api-key", fake.to_owned()), "header:x-api-key"),
        (call(&origin, &format!("/paste/{fake}"), "accept", "*/*".into()), "path"),
        (call(&origin, &format!("/?q={}", fake.replace('-', "%2D")), "accept", "*/*".into()), "query"),
        (call(&other, "/", "authorization", format!("Bearer {fake}")), "header:authorization"),
        (call(&other, "/", "authorization", basic("u", fake)), "header:authorization"),
        (post(&other, json!({"note": fake})), "body"),
        (post(&tools, message), "body"),
    ];
    for (call, place) in table {
        let answer = sidecar.agent().send(call).await;

        let of_mcp = answer.json()["error"].is_object();
        assert_eq!(answer.status, if of_mcp { StatusCode::OK } else { StatusCode::FORBIDDEN }, "{place}");
        assert!(answer.text().contains("placeholder_misplaced"), "{place}: {}", answer.text());
        assert!(!answer.text().contains(fake), "{place}");
        let record = sidecar.audit().await.pop().expect("the call has a record");
        assert_eq!(record["refusal"]["label"], "placeholder_misplaced", "{place}");
        let found = record["secrets"].as_array().expect("a list");
        let told = found.iter().any(|found| found["kind"] == "placeholder" && found["where"] == place);
        assert!(told && !record.to_string().contains(fake), "{place}: {record}");
    }
    assert!([origin, other, tools].iter().all(|origin| origin.requests().is_empty()));
}

/// What a client is given for its key, the key, and where that belongs.
struct Key {
    placeholder: &'static str,
    secret: &'static str,
    slot: Slot,
}

/// A slot as configuration says it, and the field that it is in.
#[derive(Clone, Copy)]
enum Slot {
    Bearer,
    Basic(&'static str),
    Field(&'static str),
    Parameter(&'static str),
}

const BEARER: Slot = Slot::Bearer;
const GIT: Slot = Slot::Basic("x-access-token");
const PYPI: Slot = Slot::Basic("__token__");
const REGISTRY: Slot = Slot::Basic("agent");
const API_KEY: Slot = Slot::Field("x-api-key");
const PARAMETER: Slot = Slot::Parameter("key");

impl Key {
    fn guarding(&self, setup: Setup, origin: &Origin) -> Setup {
        let slot = match self.slot {
            Slot::Bearer => json!("bearer"),
            Slot::Basic(user) => json!({"basic": user}),
            Slot::Field(name) => json!({"header": name}),
            Slot::Parameter(name) => json!({"query": name}),
        };
        let credential = json!({"kind": "file", "file": "key", "owner": "team-x", "as": slot});
        setup
            .file("key", self.secret)
            .in_front_of_as(origin, json!({"credential": "key", "placeholder": self.placeholder}))
            .set(json!({"credentials": {"key": credential}}))
    }

    /// A sidecar that keeps the key of this origin.
    async fn guarded(&self, origin: &Origin) -> Sidecar {
        trusted(self.guarding(Sidecar::permissive(), origin)).await
    }

    /// A server, and a sidecar that keeps its key.
    async fn at(&self, name: &str, answer: impl Answering) -> (Server, Sidecar) {
        let server = Server::start(name, answer).await;
        let sidecar = self.guarded(&server.origin).await;
        (server, sidecar)
    }

    /// Every request had the key in its slot, and the placeholder nowhere; no record has either.
    async fn was_put_on(&self, origin: &Origin, sidecar: &Sidecar) {
        let requests = origin.requests();
        for seen in &requests {
            self.is_put_on(seen);
        }
        let records = sidecar.audit().await;
        assert_eq!(records.len(), requests.len());
        for record in &records {
            let text = record.to_string();
            assert_eq!(record["decision"]["verdict"], "allow", "{text}");
            assert!(!text.contains(self.placeholder) && !text.contains(self.secret), "{text}");
        }
        // Or the client would have had nothing that could be replaced.
        let gave = |record: &Value| record["secrets"].as_array().is_some_and(|found| !found.is_empty());
        assert!(records.iter().any(gave), "{records:?}");
    }

    fn is_put_on(&self, seen: &Seen) {
        let authorization = match self.slot {
            Slot::Bearer => Some(format!("Bearer {}", self.secret)),
            Slot::Basic(user) => Some(basic(user, self.secret)),
            Slot::Field(name) => {
                assert_eq!(seen.header(name), Some(self.secret), "{seen:?}");
                None
            }
            Slot::Parameter(name) => {
                assert!(seen.target.ends_with(&format!("?{name}={}", self.secret)), "{seen:?}");
                None
            }
        };
        // No second one, in which the placeholder could be.
        let values: Vec<_> = seen.headers.get_all("authorization").iter().collect();
        let expected: Vec<_> = authorization.iter().map(String::as_str).collect();
        assert_eq!(values, expected);
        assert!(!format!("{seen:?}").contains(self.placeholder), "{seen:?}");
    }
}

/// What a client of this registry says that pulls an image.
async fn pull(sidecar: &Sidecar, registry: &Origin, key: &Key) -> Vec<String> {
    let variables = [("https_proxy", Says::Proxy), ("SSL_CERT_FILE", Says::Bundle)];
    let mut client = cleaned(&["sh", "registry.sh"], &variables, sidecar);
    client.current_dir(CLIENTS).args([&registry.url(""), &format!("agent:{}", key.placeholder)]);
    lines(&mut client).await
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Whether the Python of the parts has this module; in CI it must.
async fn is_a_module(name: &str) -> bool {
    let mut python = Command::new(resolved(PYTHON));
    let found = run(python.args(["-c", &format!("import {name}")])).await.status.success();
    assert!(found || std::env::var_os("CI").is_none(), "{name} is missing; tests/parts/install installs it");
    if !found {
        println!("skipped: needs {name} (tests/parts/install)");
    }
    found
}

const NPM: &str = "parts/python/nodejs/lib/node_modules/npm/bin/npm-cli.js";
const TWINE: &str = "parts/python/bin/twine";
