use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::{
    super::{
        endpoint::{Endpoint, Reply},
        testing::{Scene, own},
    },
    Action::{Pull, Push},
    *,
};
use crate::call::http::Scheme;

const LONGEST: Duration = Duration::from_secs(900);
const PULL: &[&str] = &["repository:team/demo:pull"];

fn registry(endpoint: &Endpoint) -> RegistryToken {
    RegistryToken {
        realm: endpoint.url(),
        service: "registry.test".into(),
        account: Some(Account { user: "robot".into(), secret: own("canary-secret") }),
        actions: vec![Pull, Push],
        repositories: vec!["team/*".into()],
        catalog: false,
    }
}

fn call(method: Method, path: &str) -> HttpCall {
    HttpCall {
        method,
        scheme: Scheme::Https,
        host: "registry.test".into(),
        port: 443,
        path: path.to_owned(),
        segments: Vec::new(),
        query: Vec::new(),
        raw_query: None,
    }
}

/// What comes of an answer with this body, where these scopes were asked for.
async fn given(body: &Value, scopes: &[&str]) -> Result<(String, Duration), CredentialRefusal> {
    let text = body.to_string();
    let endpoint = Endpoint::start(move |_| Reply::json(&text)).await;
    let minted = registry(&endpoint).mint(&Scene::new().asking(scopes, LONGEST)).await;
    let minted = minted.map_err(|unusable| {
        assert!(unusable.handle.is_none());
        assert!(!unusable.failure.detail.contains("canary"), "{}", unusable.failure.detail);
        unusable.failure.refusal
    })?;
    assert!(minted.handle.is_none(), "nobody can end it");
    let Life::For(life) = minted.life else { panic!("it is told") };
    Ok((minted.secret.values()[0].to_owned(), life))
}

/// A token that says this.
fn jwt(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2lnbmF0dXJl", part(&json!({"alg": "ES256"})), part(claims))
}

fn access(access: &Value) -> Value {
    json!({"token": jwt(&json!({"aud": "registry.test", "access": access}))})
}

fn seconds_from_now(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds)
}

#[tokio::test]
async fn just_what_is_needed_is_asked_for() {
    let endpoint = Endpoint::start(|_| Reply::json(r#"{"token":"opaque","expires_in":300}"#)).await;
    let mut registry = registry(&endpoint);
    let scopes = ["repository:team/demo:pull,push", "repository:team/base:pull"];
    let minted = registry.mint(&Scene::new().asking(&scopes, LONGEST)).await.ok().unwrap();
    assert_eq!(minted.secret.values(), ["opaque"]);
    assert!(matches!(minted.life, Life::For(life) if life == Duration::from_secs(300)));
    registry.account = None;
    registry.realm.push_str("?tenant=a");
    registry.mint(&Scene::new().asking(&[], LONGEST)).await.ok().unwrap();

    let [first, second] = &endpoint.seen()[..] else { panic!("it was asked twice") };
    assert_eq!((&first.method, first.authorization.as_str()), (&Method::GET, "Basic cm9ib3Q6Y2FuYXJ5LXNlY3JldA=="));
    let scopes = "scope=repository%3Ateam%2Fdemo%3Apull%2Cpush&scope=repository%3Ateam%2Fbase%3Apull";
    assert_eq!(first.query, format!("service=registry.test&{scopes}"));
    assert_eq!((second.query.as_str(), second.authorization.as_str()), ("tenant=a&service=registry.test", ""));
}

#[test]
fn what_is_not_declared_or_not_granted_is_needed_in_vain() {
    use CredentialRefusal::{Misconfigured, NotGranted};
    let declared = RegistryToken {
        realm: String::new(),
        service: String::new(),
        account: None,
        actions: vec![Pull, Push],
        repositories: vec!["team/*".into()],
        catalog: false,
    };
    let needs = |method: Method, path: &str, granted: Option<&[&str]>| {
        let granted: Option<Vec<Arc<str>>> = granted.map(|all| all.iter().map(|text| (*text).into()).collect());
        let scopes = declared.needs(&call(method, path), granted.as_deref());
        scopes.map(|scopes| scopes.join(" ")).map_err(|failure| failure.refusal)
    };
    let (mine, theirs) = ("/v2/team/demo/manifests/latest", "/v2/other/demo/manifests/latest");
    let pull = Ok("repository:team/demo:pull".to_owned());
    assert_eq!(needs(Method::GET, mine, None), pull);
    assert_eq!(needs(Method::GET, "/v2/", None), Ok(String::new()));
    assert_eq!(needs(Method::GET, "/v2/", Some(&[])), Ok(String::new()));
    assert_eq!(needs(Method::PUT, mine, None), Ok("repository:team/demo:pull,push".to_owned()));
    for (method, path) in [
        (Method::GET, theirs),
        (Method::DELETE, mine),
        (Method::GET, "/v2/_catalog"),
        (Method::GET, "/token"),
        (Method::OPTIONS, mine),
    ] {
        assert_eq!(needs(method.clone(), path, None), Err(NotGranted), "{method} {path}");
        assert_eq!(needs(method, path, Some(&["repository:**:pull,push,delete"])), Err(NotGranted), "{path}");
    }
    // Policy narrows what is declared, and never widens it.
    assert_eq!(needs(Method::GET, mine, Some(&["repository:team/demo:pull"])), pull);
    assert_eq!(needs(Method::GET, mine, Some(&["repository:**:pull,push,delete"])), pull);
    for granted in [&[][..], &["repository:team/base:pull"], &["repository:team/demo:push"], &["registry:catalog:*"]] {
        assert_eq!(needs(Method::GET, mine, Some(granted)), Err(NotGranted), "{granted:?}");
    }
    assert_eq!(needs(Method::PUT, mine, Some(&["repository:team/demo:pull"])), Err(NotGranted));
    assert_eq!(needs(Method::GET, mine, Some(&["repository:**:pull", "pull"])), Err(Misconfigured));
}

#[tokio::test]
async fn a_token_is_found_by_either_name() {
    for body in [
        json!({"token": "a"}),
        json!({"access_token": "a"}),
        json!({"token": "a", "access_token": "a", "refresh_token": "canary", "scope": ""}),
        json!({"token": "a", "access_token": null, "refresh_token": null, "expires_in": null, "issued_at": ""}),
    ] {
        assert_eq!(given(&body, PULL).await, Ok(("a".to_owned(), UNTOLD)), "{body}");
    }
    for body in [
        json!({}),
        json!([]),
        json!({"token": ""}),
        json!({"token": "can ary"}),
        json!({"token": 1}),
        json!({"token": "canary", "access_token": "canary-2"}),
        json!({"token": "a", "expires_in": 0}),
        json!({"token": "a", "expires_in": -1}),
        json!({"token": "a", "expires_in": "60"}),
        json!({"token": "a", "issued_at": "yesterday"}),
    ] {
        assert_eq!(given(&body, PULL).await, Err(CredentialRefusal::Malformed), "{body}");
    }
}

#[tokio::test]
async fn it_lives_as_long_as_it_is_told_from_when_it_was_issued() {
    let issued = |seconds| json!({"token": "a", "expires_in": 300, "issued_at": seconds_from_now(seconds).to_string()});
    let left = given(&issued(-100), PULL).await.unwrap().1.as_secs();
    assert!((195..=200).contains(&left), "{left}");
    // A clock that is ahead of ours gains nothing.
    assert_eq!(given(&issued(100), PULL).await.unwrap().1, Duration::from_secs(300));
    assert_eq!(given(&issued(-300), PULL).await, Err(CredentialRefusal::Malformed));

    let ends = |seconds| {
        let claims = json!({"exp": seconds_from_now(seconds).as_second()});
        json!({"token": jwt(&claims), "expires_in": 300})
    };
    let left = given(&ends(200), PULL).await.unwrap().1.as_secs();
    assert!((195..=200).contains(&left), "{left}");
    assert_eq!(given(&ends(600), PULL).await.unwrap().1, Duration::from_secs(300));
    assert_eq!(given(&ends(-1), PULL).await, Err(CredentialRefusal::Malformed));
    assert_eq!(given(&ends(86_400), PULL).await, Err(CredentialRefusal::LifetimeExceeded));
}

#[tokio::test]
async fn a_token_that_may_do_less_is_taken() {
    let both = ["repository:team/demo:pull,push", "repository:team/base:pull"];
    let entry = |name: &str, actions: &Value| json!({"type": "repository", "name": name, "actions": actions});
    for entries in [
        json!([entry("team/demo", &json!(["push", "pull"])), entry("team/base", &json!(["pull"]))]),
        json!([entry("team/demo", &json!(["pull"]))]),
        json!([entry("team/demo", &json!([])), entry("other", &Value::Null)]),
        json!([]),
        Value::Null,
    ] {
        assert!(given(&access(&entries), &both).await.is_ok(), "{entries}");
    }
    let all = json!([{"type": "registry", "name": "catalog", "actions": ["*"]}]);
    assert!(given(&access(&all), &["registry:catalog:*"]).await.is_ok());
}

#[tokio::test]
async fn a_token_that_may_do_more_is_refused() {
    let entry =
        |kind: &str, name: &str, action: &str| json!([{"type": kind, "name": name, "actions": ["pull", action]}]);
    for entries in [
        entry("repository", "team/demo", "push"),
        entry("repository", "team/demo", "*"),
        entry("repository", "team/other", "pull"),
        entry("repository", "team", "pull"),
        entry("repository(plugin)", "team/demo", "pull"),
        entry("registry", "catalog", "*"),
        json!([{"name": "team/demo", "actions": ["pull"]}]),
        json!([{"type": "repository", "name": "team/demo", "actions": "pull"}]),
        json!([{"type": "repository", "name": "team/demo", "actions": [["pull"]]}]),
    ] {
        assert_eq!(given(&access(&entries), PULL).await, Err(CredentialRefusal::ScopeExceeded), "{entries}");
        assert_eq!(given(&access(&entries), &[]).await, Err(CredentialRefusal::ScopeExceeded), "{entries}");
    }
    for entries in [json!({}), json!("all"), json!(["repository:team/demo:pull"])] {
        assert_eq!(given(&access(&entries), PULL).await, Err(CredentialRefusal::Malformed), "{entries}");
    }
}

#[tokio::test]
async fn a_token_for_another_registry_is_refused() {
    let of = |claims: Value| json!({"token": jwt(&claims)});
    for audience in [json!("other.test"), json!(["other.test"]), json!([]), json!(1)] {
        let body = of(json!({"aud": audience, "access": []}));
        assert_eq!(given(&body, PULL).await, Err(CredentialRefusal::ScopeExceeded), "{audience}");
    }
    for claims in [
        json!({"aud": ["other.test", "registry.test"], "access": []}),
        json!({"access": []}),
        // Of another family, with an audience of its own.
        json!({"aud": "*@*", "scp": "applied-permissions/user"}),
    ] {
        assert!(given(&of(claims.clone()), PULL).await.is_ok(), "{claims}");
    }
}

#[tokio::test]
async fn an_issuer_that_says_no_or_fails_is_told_apart() {
    use CredentialRefusal::{Malformed, Rejected, Unavailable};
    for (status, refusal) in
        [(401, Rejected), (404, Rejected), (403, Unavailable), (429, Unavailable), (503, Unavailable)]
    {
        let endpoint = Endpoint::start(move |_| Reply::status(status).header("retry-after", "7")).await;
        let unusable = registry(&endpoint).mint(&Scene::new().asking(PULL, LONGEST)).await.err().unwrap();
        assert_eq!(unusable.failure.refusal, refusal, "{status}");
        assert_eq!(unusable.failure.retry_after, Some(Duration::from_secs(7)));
    }
    for reply in ["<html>", "canary", &format!(r#"{{"token":"{}"}}"#, "a".repeat(70_000))] {
        let body = reply.to_owned();
        let endpoint = Endpoint::start(move |_| Reply::json(&body)).await;
        let unusable = registry(&endpoint).mint(&Scene::new().asking(PULL, LONGEST)).await.err().unwrap();
        assert_eq!(unusable.failure.refusal, Malformed);
        assert!(!unusable.failure.detail.contains("canary"));
    }
}

#[tokio::test]
async fn a_secret_that_is_missing_asks_nobody() {
    let endpoint = Endpoint::start(|_| Reply::Never).await;
    let mut registry = registry(&endpoint);
    registry.account = Some(Account { user: "robot".into(), secret: SecretPlace::File("/nowhere".into()) });
    let unusable = registry.mint(&Scene::new().asking(PULL, LONGEST)).await.err().unwrap();
    assert_eq!(unusable.failure.refusal, CredentialRefusal::Unavailable);
    assert!(unusable.failure.detail.starts_with("secret: "), "{}", unusable.failure.detail);
    assert!(endpoint.seen().is_empty());
}
