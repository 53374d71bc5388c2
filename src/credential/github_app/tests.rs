use super::{
    super::{
        SecretValue,
        endpoint::{Endpoint, Reply, Seen},
        testing::Scene,
    },
    *,
};

const LONGEST: Duration = Duration::from_secs(900);

fn app(endpoint: &Endpoint, permissions: &[(&str, Level)], repositories: &[&str]) -> GithubApp {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem();
    let permissions = permissions.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect();
    let repositories: Vec<String> = repositories.iter().map(|name| (*name).to_owned()).collect();
    GithubApp {
        api: endpoint.url().trim_end_matches("/token").to_owned(),
        app_id: "Iv1.tollgate".into(),
        installation_id: 42,
        private_key: SecretPlace::Value(SecretValue(Zeroizing::new(key))),
        scopes: scopes(&repositories, &permissions),
        repositories,
        permissions,
    }
}

fn given(permissions: &str, repositories: &str) -> Reply {
    let expires_at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3600);
    Reply::status(201).body(&format!(
        r#"{{"token":"ghs_canary","expires_at":"{expires_at}","permissions":{permissions}{repositories}}}"#
    ))
}

async fn answered(reply: impl Fn(&Seen) -> Reply + Send + 'static) -> (Endpoint, GithubApp) {
    let endpoint = Endpoint::start(move |seen| reply(seen)).await;
    let app = app(&endpoint, &[("issues", Level::Write), ("contents", Level::Read)], &["shop"]);
    (endpoint, app)
}

#[tokio::test]
async fn what_policy_chose_is_asked_for_and_nothing_else() {
    let repository = r#","repositories":[{"name":"shop"}]"#;
    let (endpoint, app) = answered(move |_| given(r#"{"issues":"read","metadata":"read"}"#, repository)).await;
    let minted = app.mint(&Scene::new().asking(&["issues:read", "repository:shop"], LONGEST)).await.ok().unwrap();
    assert_eq!(minted.secret.values(), ["ghs_canary"]);
    assert!(matches!(minted.life, Life::Fixed(life) if life > Duration::from_secs(3500)));
    assert!(matches!(minted.handle, Some(Handle::Secret(token)) if *token == "ghs_canary"));
    let seen = &endpoint.seen()[0];
    assert_eq!(seen.path, "/app/installations/42/access_tokens");
    assert_eq!(seen.body, r#"{"repositories":["shop"],"permissions":{"issues":"read"}}"#);
    let proof = jose::Unverified::read(seen.authorization.strip_prefix("Bearer ").unwrap()).unwrap();
    assert_eq!((&proof.claims["iss"], &proof.header["alg"]), (&json!("Iv1.tollgate"), &json!("RS256")));
    let life = proof.claims["exp"].as_u64().unwrap() - proof.claims["iat"].as_u64().unwrap();
    assert!(life <= 600, "{life}");
}

#[tokio::test]
async fn without_a_choice_all_that_is_declared_is_asked_for() {
    let (_endpoint, app) = answered(|_| Reply::Never).await;
    let all: Vec<&str> = app.scopes.iter().map(String::as_str).collect();
    assert_eq!(all, ["contents:read", "issues:read", "issues:write", "repository:shop"]);
    let wanted = app.wanted(&all).unwrap();
    assert_eq!(wanted.permissions, BTreeMap::from([("contents", Level::Read), ("issues", Level::Write)]));
    assert_eq!(app.wanted(&["issues:read"]).unwrap().repositories, ["shop"], "repositories stay narrow");
    assert_eq!(app.wanted(&["repository:shop"]).unwrap_err().refusal, CredentialRefusal::Misconfigured);
}

#[tokio::test]
async fn a_token_that_can_do_more_is_refused_and_handed_back() {
    let table = [
        (r#"{"issues":"write"}"#, r#","repositories":[{"name":"shop"}]"#),
        (r#"{"issues":"read","administration":"read"}"#, r#","repositories":[{"name":"shop"}]"#),
        (r#"{"issues":"read","metadata":"write"}"#, r#","repositories":[{"name":"shop"}]"#),
        (r#"{"issues":"maintain"}"#, r#","repositories":[{"name":"shop"}]"#),
        (r#"{"issues":"read"}"#, r#","repositories":[{"name":"shop"},{"name":"payroll"}]"#),
        (r#"{"issues":"read"}"#, ""),
    ];
    for (permissions, repositories) in table {
        let (_endpoint, app) = answered(move |_| given(permissions, repositories)).await;
        let unusable = app.mint(&Scene::new().asking(&["issues:read"], LONGEST)).await.err().unwrap();
        assert_eq!(unusable.failure.refusal, CredentialRefusal::ScopeExceeded, "{permissions}{repositories}");
        assert!(matches!(unusable.handle, Some(Handle::Secret(_))));
    }
}

#[tokio::test]
async fn a_token_is_ended_with_its_own_authority_once_or_twice() {
    for (status, ended) in [(204, true), (401, true), (503, false), (404, false)] {
        let (endpoint, app) = answered(move |_| Reply::status(status)).await;
        let handle = Handle::Secret(Zeroizing::new("ghs_canary".to_owned()));
        assert_eq!(app.revoke(&Scene::new().tools, &handle).await.is_ok(), ended, "{status}");
        let seen = &endpoint.seen()[0];
        assert_eq!((seen.path.as_str(), seen.authorization.as_str()), ("/installation/token", "Bearer ghs_canary"));
    }
}

#[tokio::test]
async fn a_key_that_is_missing_or_of_another_kind_asks_nobody() {
    let (endpoint, mut app) = answered(|_| Reply::Never).await;
    let ec = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for key in [SecretPlace::File("/nowhere".into()), SecretPlace::Value(SecretValue(Zeroizing::new(ec)))] {
        app.private_key = key;
        let unusable = app.mint(&Scene::new().asking(&["issues:read"], LONGEST)).await.err().unwrap();
        assert!(unusable.failure.detail.starts_with("private key: "), "{}", unusable.failure.detail);
    }
    assert!(endpoint.seen().is_empty());
}
