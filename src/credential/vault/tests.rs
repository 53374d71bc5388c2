use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;

use super::{
    super::{
        SecretPlace, SecretValue,
        endpoint::{Endpoint, Reply, Seen},
        mint::Secret,
        testing::Scene,
    },
    *,
};

const LONGEST: Duration = Duration::from_secs(600);
const LOGIN: &str =
    r#"{"auth":{"client_token":"s.login","accessor":"acc-login","lease_duration":1200,"token_type":"service"}}"#;
const CHILD: &str = r#"{"auth":{"client_token":"s.child","accessor":"acc-1","lease_duration":600,"token_type":"service","token_policies":["default"]}}"#;
const LEASE: &str = r#"{"lease_id":"database/creds/readonly/1","lease_duration":300,"renewable":true,
    "data":{"username":"v-agent","password":"p\"w"}}"#;

/// A server that answers as it should, but for what a test says.
async fn server(other: impl Fn(&Seen) -> Option<Reply> + Send + 'static) -> Endpoint {
    Endpoint::start(move |seen| other(seen).unwrap_or_else(|| usual(seen))).await
}

fn usual(seen: &Seen) -> Reply {
    let token = seen.headers.get("x-vault-token").map(|token| token.to_str().unwrap());
    match (seen.path.as_str(), token) {
        ("/v1/auth/jwt/login" | "/v1/auth/approle/login", None) => Reply::json(LOGIN),
        ("/v1/auth/token/create", Some("s.login")) => Reply::json(CHILD),
        ("/v1/database/creds/readonly", Some("s.child")) => Reply::json(LEASE),
        ("/v1/kv/data/app", Some("s.login")) => Reply::json(r#"{"lease_id":"","data":{"data":{"token":"kept"}}}"#),
        ("/v1/transit/sign/agents", Some("s.login")) => Reply::json(r#"{"data":{"signature":"vault:v3:c2ln"}}"#),
        ("/v1/auth/token/revoke-accessor" | "/v1/auth/token/revoke-self", Some("s.login")) => Reply::status(204),
        _ => Reply::status(403).body(r#"{"errors":["permission denied"]}"#),
    }
}

fn value(text: &str) -> SecretPlace {
    SecretPlace::Value(SecretValue(Zeroizing::new(text.to_owned())))
}

fn source(endpoint: &Endpoint) -> Vault {
    let token = Assertion::At(value("a.b.c"));
    Vault {
        server: Server { address: endpoint.base(), namespace: Some("team-a".into()) },
        auth: Auth { mount: "jwt".into(), method: AuthMethod::Jwt { role: "agent".into(), token } },
        wanted: Wanted::Leased {
            path: "database/creds/readonly".into(),
            fields: Fields::Pair { user: "username".into(), password: "password".into() },
        },
        policies: Vec::new(),
    }
}

fn app_role(endpoint: &Endpoint, wrapped: bool) -> Vault {
    let method = AuthMethod::AppRole { role_id: "r-1".into(), secret_id: value("s-1"), wrapped };
    Vault { auth: Auth { mount: "approle".into(), method }, ..source(endpoint) }
}

fn kept(endpoint: &Endpoint) -> Vault {
    let wanted = Wanted::Kept { path: "kv/data/app".into(), fields: Fields::One("token".into()) };
    Vault { wanted, ..source(endpoint) }
}

fn paths(endpoint: &Endpoint) -> Vec<String> {
    endpoint.seen().iter().map(|seen| seen.path.trim_start_matches("/v1/").to_owned()).collect()
}

fn reference(handle: Option<&Handle>) -> Option<&str> {
    match handle {
        Some(Handle::Reference(name)) => Some(name),
        Some(Handle::Secret(_)) | None => None,
    }
}

/// What was refused, and what is to be revoked all the same.
async fn refusal(source: &Vault) -> (CredentialRefusal, Option<String>, String) {
    let scene = Scene::new();
    let unusable = source.mint(&scene.asking(&[], LONGEST)).await.err().expect("it is refused");
    let handle = reference(unusable.handle.as_ref()).map(ToOwned::to_owned);
    (unusable.failure.refusal, handle, unusable.failure.detail)
}

#[tokio::test]
async fn a_dynamic_secret_is_read_with_a_token_of_its_own() {
    let endpoint = server(|_| None).await;
    let scene = Scene::new();
    let minted = source(&endpoint).mint(&scene.asking(&[], LONGEST)).await.ok().unwrap();
    let Secret::Pair { user, password } = &minted.secret else { panic!("both were made") };
    assert_eq!((user.as_str(), password.as_str()), ("v-agent", "p\"w"));
    assert_eq!(reference(minted.handle.as_ref()), Some("acc-1"));
    assert!(matches!(minted.life, Life::For(life) if life.as_secs() == 300));

    let seen = endpoint.seen();
    assert_eq!(paths(&endpoint), ["auth/jwt/login", "auth/token/create", "database/creds/readonly"]);
    for request in &seen {
        assert_eq!(request.headers["x-vault-request"], "true");
        assert_eq!(request.headers["x-vault-namespace"], "team-a");
    }
    assert_eq!(seen[0].body, r#"{"role":"agent","jwt":"a.b.c"}"#);
    let asked: Value = serde_json::from_str(&seen[1].body).unwrap();
    assert_eq!(
        asked,
        json!({"ttl": "600s", "explicit_max_ttl": "600s", "renewable": false, "display_name": "tollgate",
               "meta": {"task": "task-1", "destination": scene.upstream.name.to_string()}})
    );
    assert_eq!((seen[2].method.as_str(), seen[2].query.as_str()), ("GET", "ttl=600s"));
}

#[tokio::test]
async fn a_child_lives_no_longer_than_its_login_and_its_lease_no_longer_than_the_child() {
    let short = |seen: &Seen| match seen.path.as_str() {
        "/v1/auth/jwt/login" => Some(Reply::json(&LOGIN.replace("1200", "100"))),
        "/v1/auth/token/create" => {
            let asked: Value = serde_json::from_str(&seen.body).unwrap();
            let life = asked["ttl"].as_str().unwrap().trim_end_matches('s').to_owned();
            assert!(["99", "100"].contains(&life.as_str()), "{life}");
            Some(Reply::json(&CHILD.replace("600", &life)))
        }
        _ => None,
    };
    let endpoint = server(short).await;
    let minted = source(&endpoint).mint(&Scene::new().asking(&[], LONGEST)).await.ok().unwrap();
    assert!(matches!(minted.life, Life::For(life) if (99..=100).contains(&life.as_secs())));
}

#[tokio::test]
async fn policies_narrow_the_child_and_a_broader_one_is_handed_back() {
    let policies = |given: &'static str| {
        move |seen: &Seen| {
            let asked = seen.path == "/v1/auth/token/create";
            asked.then(|| Reply::json(&CHILD.replace(r#"["default"]"#, given)))
        }
    };
    let endpoint = server(policies(r#"["readonly"]"#)).await;
    let narrow = |endpoint: &Endpoint| Vault { policies: vec!["readonly".into()], ..source(endpoint) };
    assert!(narrow(&endpoint).mint(&Scene::new().asking(&[], LONGEST)).await.is_ok());
    let asked: Value = serde_json::from_str(&endpoint.seen()[1].body).unwrap();
    assert_eq!((&asked["policies"], &asked["no_default_policy"]), (&json!(["readonly"]), &json!(true)));

    let endpoint = server(policies(r#"["readonly","admin"]"#)).await;
    let (refusal, handle, _) = refusal(&narrow(&endpoint)).await;
    assert_eq!((refusal, handle.as_deref()), (CredentialRefusal::ScopeExceeded, Some("acc-1")));
}

#[tokio::test]
async fn what_is_not_as_it_should_be_is_refused_and_handed_back() {
    use CredentialRefusal::{LifetimeExceeded, Malformed, Rejected, Unavailable};
    let gives = |text: String| move || Reply::json(&text);
    let fails = |status: u16| move || Reply::status(status);
    let table: [(&str, Box<dyn Fn() -> Reply + Send>, CredentialRefusal, bool); 22] = [
        ("auth/jwt/login", Box::new(fails(400)), Rejected, false),
        ("auth/jwt/login", Box::new(fails(429)), Unavailable, false),
        ("auth/jwt/login", Box::new(fails(503)), Unavailable, false),
        ("auth/jwt/login", Box::new(fails(307)), Unavailable, false),
        ("auth/jwt/login", Box::new(fails(204)), Malformed, false),
        ("auth/jwt/login", Box::new(gives("[]".into())), Malformed, false),
        ("auth/jwt/login", Box::new(gives(r#"{"auth":null}"#.into())), Malformed, false),
        ("auth/jwt/login", Box::new(gives(LOGIN.replace("1200", "0"))), Malformed, false),
        ("auth/token/create", Box::new(fails(403)), Rejected, false),
        ("auth/token/create", Box::new(fails(500)), Unavailable, false),
        ("auth/token/create", Box::new(gives("{}".into())), Malformed, false),
        ("auth/token/create", Box::new(gives(CHILD.replace("acc-1", ""))), Malformed, false),
        ("auth/token/create", Box::new(gives(CHILD.replace("service", "batch"))), Malformed, true),
        ("auth/token/create", Box::new(gives(CHILD.replace("600", "601"))), LifetimeExceeded, true),
        ("auth/token/create", Box::new(gives(CHILD.replace("600", "0"))), LifetimeExceeded, true),
        ("database/creds/readonly", Box::new(fails(404)), Rejected, true),
        ("database/creds/readonly", Box::new(fails(429)), Unavailable, true),
        ("database/creds/readonly", Box::new(gives("{".into())), Malformed, true),
        ("database/creds/readonly", Box::new(gives(LEASE.replace("300", "601"))), LifetimeExceeded, true),
        ("database/creds/readonly", Box::new(gives(LEASE.replace("database/creds/readonly/1", ""))), Malformed, true),
        ("database/creds/readonly", Box::new(gives(LEASE.replace("password", "other"))), Malformed, true),
        ("database/creds/readonly", Box::new(gives(LEASE.replace(r#""v-agent""#, "7"))), Malformed, true),
    ];
    for (index, (path, reply, expected, handed_back)) in table.into_iter().enumerate() {
        let endpoint = server(move |seen| (seen.path.trim_start_matches("/v1/") == path).then(&reply)).await;
        let (refusal, handle, detail) = refusal(&source(&endpoint)).await;
        assert_eq!((refusal, handle.is_some()), (expected, handed_back), "{index} {path}: {detail}");
    }
}

#[tokio::test]
async fn a_refusal_names_the_remedy_and_quotes_nothing_else() {
    let endpoint = server(|seen| {
        (seen.path == "/v1/auth/token/create").then(|| {
            let text = r#"{"errors":["batch tokens cannot create more tokens","canary"]}"#;
            Reply::status(400).header("retry-after", "3").body(text)
        })
    })
    .await;
    let (_, _, detail) = refusal(&source(&endpoint)).await;
    assert_eq!(
        detail,
        "auth/token/create: the issuer answered 400: our login is a batch token; hint: set `token_type=service` at its \
         role"
    );
}

#[tokio::test]
async fn however_many_ask_one_logs_in() {
    let endpoint = server(|_| None).await;
    let (scene, source) = (Scene::new(), source(&endpoint));
    let minted = join_all((0..20).map(async |_| source.mint(&scene.asking(&[], LONGEST)).await.is_ok())).await;
    assert!(minted.iter().all(|minted| *minted));
    assert_eq!(paths(&endpoint).iter().filter(|path| *path == "auth/jwt/login").count(), 1);
}

#[tokio::test]
async fn who_waited_while_a_login_failed_does_not_try_at_once_again() {
    let endpoint = server(|seen| (seen.path == "/v1/auth/jwt/login").then(|| Reply::status(503))).await;
    let (scene, source) = (Scene::new(), source(&endpoint));
    let minted = join_all((0..20).map(async |_| source.mint(&scene.asking(&[], LONGEST)).await.is_ok())).await;
    assert!(minted.iter().all(|minted| !*minted));
    assert_eq!(paths(&endpoint).len(), 1);
    assert!(source.mint(&scene.asking(&[], LONGEST)).await.is_err());
    assert_eq!(paths(&endpoint).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_its_server_takes_no_longer_is_replaced_once() {
    let logins = AtomicUsize::new(0);
    let endpoint = server(move |seen| match seen.path.as_str() {
        "/v1/auth/jwt/login" => {
            let number = logins.fetch_add(1, Ordering::Relaxed);
            Some(Reply::json(&LOGIN.replace("s.login", &format!("s.login-{number}"))))
        }
        "/v1/kv/data/app" if seen.headers["x-vault-token"] == "s.login-1" => {
            Some(Reply::json(r#"{"data":{"data":{"token":"kept"}}}"#))
        }
        _ => None,
    })
    .await;
    let (scene, source) = (Scene::new(), kept(&endpoint));
    // A login that is new and not taken is a matter of its rights.
    assert!(source.mint(&scene.asking(&[], LONGEST)).await.is_err());
    assert_eq!(paths(&endpoint), ["auth/jwt/login", "kv/data/app"]);
    tokio::time::advance(Duration::from_secs(20)).await;
    assert!(source.mint(&scene.asking(&[], LONGEST)).await.is_ok());
    assert_eq!(paths(&endpoint)[2..], ["kv/data/app", "auth/jwt/login", "kv/data/app"]);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_would_end_too_early_is_replaced_and_ended_with_all_others() {
    let endpoint = server(|_| None).await;
    let (scene, source) = (Scene::new(), source(&endpoint));
    for since in [0, 410, 410] {
        tokio::time::advance(Duration::from_secs(since)).await;
        assert!(source.mint(&scene.asking(&[], LONGEST)).await.is_ok());
    }
    let count = |wanted: &str| paths(&endpoint).iter().filter(|path| *path == wanted).count();
    assert_eq!(count("auth/jwt/login"), 2);
    scene.tools.vault.end(&scene.tools.client).await;
    assert_eq!(count("auth/token/revoke-self"), 2);
}

#[tokio::test]
async fn a_role_logs_in_with_its_secret() {
    let endpoint = server(|_| None).await;
    assert!(app_role(&endpoint, false).mint(&Scene::new().asking(&[], LONGEST)).await.is_ok());
    assert_eq!(endpoint.seen()[0].body, r#"{"role_id":"r-1","secret_id":"s-1"}"#);
}

fn unwraps(path: &'static str) -> impl Fn(&Seen) -> Option<Reply> + Send {
    let used = Mutex::new(false);
    move |seen| {
        let used = &mut *used.lock().unwrap();
        match seen.path.as_str() {
            "/v1/sys/wrapping/lookup" | "/v1/sys/wrapping/unwrap" if *used => {
                Some(Reply::status(400).body(r#"{"errors":["wrapping token is not valid or does not exist"]}"#))
            }
            "/v1/sys/wrapping/lookup" => {
                assert_eq!(seen.body, r#"{"token":"s-1"}"#);
                Some(Reply::json(&format!(r#"{{"data":{{"creation_path":"{path}"}}}}"#)))
            }
            "/v1/sys/wrapping/unwrap" => {
                assert_eq!(seen.headers["x-vault-token"], "s-1");
                *used = true;
                Some(Reply::json(r#"{"data":{"secret_id":"inner"}}"#))
            }
            _ => None,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrapped_secret_is_unwrapped_once_and_kept() {
    let endpoint = server(unwraps("auth/approle/role/agent/secret-id")).await;
    let (scene, source) = (Scene::new(), app_role(&endpoint, true));
    assert!(source.mint(&scene.asking(&[], LONGEST)).await.is_ok());
    tokio::time::advance(Duration::from_secs(1000)).await;
    assert!(source.mint(&scene.asking(&[], LONGEST)).await.is_ok());
    let logins: Vec<_> = endpoint.seen().into_iter().filter(|seen| seen.path.ends_with("login")).collect();
    assert_eq!(logins.len(), 2);
    assert!(logins.iter().all(|seen| seen.body.contains("inner")));

    // Another process, or a thief, comes second.
    let (refusal, _, detail) = refusal(&app_role(&endpoint, true)).await;
    assert_eq!(refusal, CredentialRefusal::Rejected);
    assert!(detail.contains("somebody stole the secret id"), "{detail}");
}

#[tokio::test]
async fn a_wrapping_token_that_was_not_made_for_the_role_is_refused() {
    for forged in ["cubbyhole/x", "auth/other/role/agent/secret-id", "auth/approle/role/a/b/secret-id", ""] {
        let endpoint = server(unwraps(forged)).await;
        let (refusal, _, detail) = refusal(&app_role(&endpoint, true)).await;
        assert_eq!(refusal, CredentialRefusal::Rejected, "{forged}");
        assert!(detail.contains("forged"), "{detail}");
        assert_eq!(paths(&endpoint), ["sys/wrapping/lookup"]);
    }
}

#[tokio::test]
async fn a_secret_of_kv_stands_until_it_is_read_again() {
    let endpoint = server(|_| None).await;
    let (scene, source) = (Scene::new(), kept(&endpoint));
    let minted = source.mint(&scene.asking(&[], LONGEST)).await.ok().unwrap();
    assert_eq!(minted.secret.values(), ["kept"]);
    assert!(minted.handle.is_none() && !source.revocable());
    assert!(matches!(minted.life, Life::Standing { ends: None, again } if again == LONGEST));
}

#[tokio::test]
async fn what_is_no_secret_of_kv_is_refused() {
    for answer in [
        r#"{"lease_id":"kv/1","data":{"data":{"token":"kept"}}}"#,
        r#"{"data":{"token":"kept"}}"#,
        r#"{"data":{"data":null}}"#,
        r#"{"data":{"data":{"token":7}}}"#,
        "{}",
    ] {
        let endpoint = server(|seen| (seen.path == "/v1/kv/data/app").then(|| Reply::json(answer))).await;
        assert_eq!(refusal(&kept(&endpoint)).await.0, CredentialRefusal::Malformed, "{answer}");
    }
}

#[tokio::test]
async fn a_token_is_signed_for_one_task_and_one_destination() {
    use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
    let endpoint = server(|_| None).await;
    let signed = Signed {
        path: "transit/sign/agents".into(),
        algorithm: Algorithm::Rs256,
        key_id: Some("agents-3".into()),
        issuer: "https://agents.test".into(),
        audience: "https://api.test".into(),
    };
    let source = Vault { wanted: Wanted::Signed(signed), ..source(&endpoint) };
    let scene = Scene::new();
    let minted = source.mint(&scene.asking(&[], LONGEST)).await.ok().unwrap();
    assert!(matches!(minted.life, Life::For(life) if life == LONGEST) && minted.handle.is_none());
    let token = minted.secret.values()[0].to_owned();
    let (unsigned, signature) = token.rsplit_once('.').unwrap();
    assert_eq!(signature, "c2ln");
    let asked: Value = serde_json::from_str(&endpoint.seen()[1].body).unwrap();
    assert_eq!(asked["input"], STANDARD.encode(unsigned));
    assert_eq!((&asked["hash_algorithm"], &asked["signature_algorithm"]), (&json!("sha2-256"), &json!("pkcs1v15")));
    let part = |text: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
    let (header, claims) = unsigned.split_once('.').unwrap();
    assert_eq!(part(header), json!({"alg": "RS256", "typ": "JWT", "kid": "agents-3"}));
    let claims = part(claims);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 600);
    assert_eq!((&claims["sub"], &claims["aud"]), (&json!("spiffe://example.org/tester"), &json!("https://api.test")));
    assert_eq!((&claims["task"], &claims["iss"]), (&json!("task-1"), &json!("https://agents.test")));
}

#[tokio::test]
async fn what_is_no_signature_is_refused() {
    for answer in [
        r#"{"data":{"signature":"c2ln"}}"#,
        r#"{"data":{"signature":"vault:v1:"}}"#,
        r#"{"data":{"signature":"vault:v1:a\r\nb"}}"#,
        r#"{"data":{}}"#,
    ] {
        let endpoint = server(|seen| (seen.path == "/v1/transit/sign/agents").then(|| Reply::json(answer))).await;
        let signed = Signed {
            path: "transit/sign/agents".into(),
            algorithm: Algorithm::Es256,
            key_id: None,
            issuer: "i".into(),
            audience: "a".into(),
        };
        let source = Vault { wanted: Wanted::Signed(signed), ..source(&endpoint) };
        assert_eq!(refusal(&source).await.0, CredentialRefusal::Malformed, "{answer}");
    }
}

#[tokio::test]
async fn a_child_is_ended_by_its_accessor_and_one_that_is_unknown_has_ended() {
    let handle = Handle::Reference("acc-1".into());
    let table: [(fn() -> Reply, Option<CredentialRefusal>); 6] = [
        (|| Reply::status(204), None),
        (|| Reply::json(r#"{"warnings":["No token found with this accessor"]}"#), None),
        (|| Reply::status(400).body(r#"{"errors":["1 error occurred:\n\t* invalid accessor\n\n"]}"#), None),
        (|| Reply::status(403).body(r#"{"errors":["permission denied"]}"#), Some(CredentialRefusal::Rejected)),
        (|| Reply::status(503), Some(CredentialRefusal::Unavailable)),
        (|| Reply::status(429), Some(CredentialRefusal::Unavailable)),
    ];
    for (reply, expected) in table {
        let endpoint = server(move |seen| (seen.path == "/v1/auth/token/revoke-accessor").then(reply)).await;
        let outcome = source(&endpoint).revoke(&Scene::new().tools, &handle).await;
        assert_eq!(outcome.err().map(|failure| failure.refusal), expected);
        assert_eq!(endpoint.seen()[1].body, r#"{"accessor":"acc-1"}"#);
    }
}

#[tokio::test]
async fn without_a_token_of_the_identity_nobody_is_asked() {
    let endpoint = server(|_| None).await;
    let method = AuthMethod::Jwt { role: "agent".into(), token: Assertion::Identity("vault".into()) };
    let source = Vault { auth: Auth { mount: "jwt".into(), method }, ..source(&endpoint) };
    let (refusal, _, detail) = refusal(&source).await;
    assert_eq!(refusal, CredentialRefusal::Misconfigured);
    assert!(detail.starts_with("login: identity: "), "{detail}");
    assert!(endpoint.seen().is_empty());
}

/// A certificate of this life, as the PKI engine gives it.
fn issued(life: Duration) -> String {
    let (key, mut params) = (rcgen::KeyPair::generate().unwrap(), rcgen::CertificateParams::default());
    params.not_after = (std::time::SystemTime::now() + life).into();
    let certificate = params.self_signed(&key).unwrap();
    let data = json!({"certificate": certificate.pem(), "ca_chain": [], "private_key": key.serialize_pem()});
    json!({"lease_id": "", "data": data}).to_string()
}

fn certified(endpoint: &Endpoint) -> Vault {
    let wanted = Certified { path: "pki/issue/agents".into(), common_name: "triage".into(), identity: true };
    Vault { wanted: Wanted::Certificate(wanted), ..source(endpoint) }
}

#[tokio::test]
async fn a_certificate_names_the_agent_and_lives_no_longer_than_it_is_of_use() {
    let answer = issued(Duration::from_secs(605));
    let endpoint = server(move |seen| (seen.path == "/v1/pki/issue/agents").then(|| Reply::json(&answer))).await;
    let scene = Scene::new();
    let minted = certified(&endpoint).mint(&scene.asking(&[], LONGEST)).await.ok().unwrap();
    assert!(matches!(minted.secret, Secret::Certificate(_)));
    assert!(matches!(minted.life, Life::For(life) if life == LONGEST), "the server's clock may be ahead");
    assert_eq!(reference(minted.handle.as_ref()), Some("acc-1"));
    let seen = endpoint.seen();
    assert_eq!(seen[2].headers["x-vault-token"], "s.child");
    let asked: Value = serde_json::from_str(&seen[2].body).unwrap();
    assert_eq!(
        asked,
        json!({"common_name": "triage", "uri_sans": "spiffe://example.org/tester", "ttl": "600s", "format": "pem",
               "private_key_format": "pkcs8"})
    );
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_handed_back() {
    use CredentialRefusal::{LifetimeExceeded, Malformed};
    let table = [
        (issued(Duration::from_secs(670)), LifetimeExceeded),
        (issued(Duration::from_secs(600)).replace("PRIVATE KEY", "OTHER"), Malformed),
        (r#"{"data":{"certificate":"x","private_key":"y"}}"#.to_owned(), Malformed),
        ("{}".to_owned(), Malformed),
    ];
    for (answer, expected) in table {
        let endpoint = server(move |seen| (seen.path == "/v1/pki/issue/agents").then(|| Reply::json(&answer))).await;
        let (refusal, handle, detail) = refusal(&certified(&endpoint)).await;
        assert_eq!((refusal, handle.as_deref()), (expected, Some("acc-1")), "{detail}");
    }
}
