mod across_two_issuers;
mod bound_to_a_key;
mod discovered;

use std::{
    fs,
    time::{Duration, SystemTime},
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    super::{
        SecretPlace,
        assertion::Signed,
        endpoint::{Endpoint, Reply, Seen},
        jose::{self, Header, SigningKey, Unverified},
        mint::{Life, Secret},
        testing::{Scene, client_credentials, own},
    },
    authentication::Authentication,
    server::Endpoints,
    *,
};
use crate::{
    identity::{self, Identity, kubernetes::Projected},
    refusal::CredentialRefusal,
};

const LONGEST: Duration = Duration::from_secs(600);

fn source(endpoint: &Endpoint) -> Oauth {
    let mut source = client_credentials(&endpoint.url(), Some(&endpoint.revocation_url()));
    source.server.client.id = "tollgate:a".into();
    source.server.client.authentication = Authentication::Basic(own("s e+cret"));
    source.target.audience = Some("https://api.test/".into());
    source
}

/// Exchanges a token of somebody else's.
fn exchange(endpoint: &Endpoint) -> Oauth {
    let subject = Typed { shown: Assertion::At(own("subject-token")), token_type: TokenType::IdToken };
    let grant = TokenExchange { subject, actor: None, wants: TokenType::AccessToken };
    Oauth { grant: Grant::TokenExchange(grant), ..source(endpoint) }
}

async fn mint(source: &Oauth, scopes: &[&str]) -> Result<Minted, Unusable> {
    source.mint(&Scene::new().asking(scopes, LONGEST)).await
}

async fn minted(source: &Oauth, scopes: &[&str]) -> Minted {
    mint(source, scopes).await.map_err(|unusable| unusable.failure).unwrap()
}

async fn failure(source: &Oauth) -> Failure {
    mint(source, &["read", "write"]).await.err().expect("nothing to be had").failure
}

fn secret(handle: Option<&Handle>) -> Option<&str> {
    handle.map(|handle| match handle {
        Handle::Secret(token) => token.as_str(),
        Handle::Reference(name) => panic!("{name} is no token"),
    })
}

/// A field of a form.
fn field(seen: &Seen, name: &str) -> Option<String> {
    let pair = seen.body.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    pair.map(|value| percent_encoding::percent_decode_str(value).decode_utf8().unwrap().into_owned())
}

fn token_of(seen: &Seen, name: &str) -> Unverified {
    Unverified::read(&field(seen, name).expect(name)).expect(name)
}

fn key() -> String {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    pem::encode(&pem::Pem::new("PRIVATE KEY", key.to_pkcs8v1().unwrap().as_ref()))
}

/// A token of somebody else's with these claims.
fn foreign(typ: &str, claims: &Value) -> String {
    SigningKey::generate().sign(Header { typ, key_id: None, with_key: false }, claims).to_string()
}

/// An identity that a token for this audience proves.
fn proven(audience: &str) -> (Arc<Identity>, TempDir) {
    let claims = json!({"sub": "system:serviceaccount:ns:sa", "aud": [audience], "exp": jose::now() + 600});
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("token"), foreign("JWT", &claims)).unwrap();
    let projected = Projected { token: dir.path().join("token"), ..Projected::default() };
    (Arc::new(Identity::new(&identity::Source::Kubernetes(projected), identity::Id::default())), dir)
}

fn answer(more: Value) -> String {
    let mut answer = json!({"access_token": "t", "token_type": "Bearer", "expires_in": 60});
    answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    answer.to_string()
}

#[tokio::test]
async fn the_request_is_as_the_standard_says() {
    let endpoint = Endpoint::start(|_| Reply::token("canary", 600)).await;
    let minted = minted(&source(&endpoint), &["read", "write"]).await;
    assert_eq!((minted.secret.values(), secret(minted.handle.as_ref())), (vec!["canary"], Some("canary")));
    assert!(matches!(minted.life, Life::For(LONGEST)));
    let seen = endpoint.seen();
    let form = "grant_type=client_credentials&scope=read%20write&audience=https%3A%2F%2Fapi.test%2F";
    assert_eq!(seen[0].body, form);
    // `tollgate%3Aa:s%20e%2Bcret`
    assert_eq!(seen[0].authorization, "Basic dG9sbGdhdGUlM0FhOnMlMjBlJTJCY3JldA==");
}

#[tokio::test]
async fn an_answer_that_is_not_exactly_right_is_refused_and_its_token_handed_back() {
    use CredentialRefusal::{LifetimeExceeded, Malformed, ScopeExceeded};
    let details = json!({"authorization_details": [{"type": "x"}]});
    let table = [
        (answer(json!({"expires_in": 601})), LifetimeExceeded, Some("t")),
        (answer(json!({"expires_in": 0})), Malformed, Some("t")),
        (answer(json!({"expires_in": -1})), Malformed, Some("t")),
        (answer(json!({"expires_in": "60"})), Malformed, Some("t")),
        (answer(json!({"expires_in": 1.5})), Malformed, Some("t")),
        (answer(json!({"expires_in": null})), Malformed, Some("t")),
        (answer(json!({"token_type": "DPoP"})), Malformed, Some("t")),
        (answer(json!({"token_type": "N_A"})), Malformed, Some("t")),
        (answer(json!({"token_type": ""})), Malformed, Some("t")),
        (answer(json!({"access_token": "t t"})), Malformed, Some("t t")),
        (answer(json!({"access_token": ""})), Malformed, Some("")),
        (answer(json!({"scope": "read admin"})), ScopeExceeded, Some("t")),
        (answer(details), ScopeExceeded, Some("t")),
        (answer(json!({"authorization_details": "x"})), Malformed, Some("t")),
        (
            r#"{"access_token":"t","access_token":"u","token_type":"Bearer","expires_in":60}"#.into(),
            Malformed,
            Some("u"),
        ),
        (r#"{"access_token":"t","token_type":"Bearer","scope":"a","scope":"a"}"#.into(), Malformed, Some("t")),
        (r#"{"scope":["read"],"access_token":"t","token_type":"Bear"#.into(), Malformed, Some("t")),
        (r#"{"access_token":1,"token_type":"Bearer","expires_in":60}"#.into(), Malformed, None),
        (r#"{"token_type":"Bearer","expires_in":60}"#.into(), Malformed, None),
        (r#"["t","Bearer",60]"#.into(), Malformed, None),
        (r#"{"access_token":"t","token_type":"Bearer","expires_in":60} x"#.into(), Malformed, Some("t")),
        (String::new(), Malformed, None),
        ("<html>".into(), Malformed, None),
    ];
    for (text, refusal, token) in table {
        let shown = text.clone();
        let endpoint = Endpoint::start(move |_| Reply::json(&text)).await;
        let unusable = mint(&source(&endpoint), &["read", "write"]).await.err().expect(&shown);
        assert_eq!(unusable.failure.refusal, refusal, "{shown}");
        assert_eq!(secret(unusable.handle.as_ref()), token, "{shown}");
    }
}

#[tokio::test]
async fn fewer_scopes_unknown_fields_and_a_refresh_token_do_no_harm() {
    let table = [
        answer(json!({"token_type": "bearer", "scope": "read"})),
        answer(json!({"token_type": "BEARER", "refresh_token": "r", "x": {}})),
        answer(json!({"scope": null, "refresh_token": null, "authorization_details": null})),
        answer(json!({"issued_token_type": "anything"})),
    ];
    for text in table {
        let shown = text.clone();
        let endpoint = Endpoint::start(move |_| Reply::json(&text)).await;
        assert!(mint(&source(&endpoint), &["read", "write"]).await.is_ok(), "{shown}");
    }
}

#[tokio::test]
async fn scopes_are_not_compared_when_none_were_asked_for() {
    let endpoint = Endpoint::start(move |_| Reply::json(&answer(json!({"scope": "default"})))).await;
    minted(&source(&endpoint), &[]).await;
    assert!(!endpoint.seen()[0].body.contains("scope"));
}

#[tokio::test]
async fn what_a_token_says_of_itself_can_only_be_refused() {
    use CredentialRefusal::{LifetimeExceeded, ScopeExceeded};
    let now = jose::now();
    let table = [
        (json!({"aud": "https://api.test/"}), None),
        (json!({"aud": ["https://api.test/"], "exp": now + 60, "scope": "read", "scp": ["read", "write"]}), None),
        // A nested actor is for people to read.
        (json!({"aud": "https://api.test/", "act": {"sub": "a", "act": {"sub": "admin"}}}), None),
        (json!({"aud": "https://other.test/"}), Some(ScopeExceeded)),
        (json!({"aud": ["https://api.test/", "https://other.test/"]}), Some(ScopeExceeded)),
        (json!({"aud": ["https://api.test/", 1]}), Some(ScopeExceeded)),
        (json!({"aud": []}), Some(ScopeExceeded)),
        (json!({}), Some(ScopeExceeded)),
        (json!({"aud": "https://api.test/", "exp": now + 7200}), Some(LifetimeExceeded)),
        (json!({"aud": "https://api.test/", "scope": "read admin"}), Some(ScopeExceeded)),
        (json!({"aud": "https://api.test/", "scp": ["admin"]}), Some(ScopeExceeded)),
        (json!({"aud": "https://api.test/", "scp": 1}), Some(ScopeExceeded)),
    ];
    for (claims, refusal) in table {
        let token = foreign("at+jwt", &claims);
        let given = token.clone();
        let endpoint = Endpoint::start(move |_| Reply::token(&given, 60)).await;
        let unusable = mint(&source(&endpoint), &["read", "write"]).await.err();
        assert_eq!(unusable.as_ref().map(|unusable| unusable.failure.refusal), refusal, "{claims}");
        if let Some(unusable) = unusable {
            assert_eq!(secret(unusable.handle.as_ref()), Some(&*token));
        }
    }
}

#[tokio::test]
async fn a_status_says_who_is_at_fault() {
    use CredentialRefusal::{Malformed, Rejected, Unavailable};
    let table = [
        (400, Rejected),
        (401, Rejected),
        (403, Unavailable),
        (404, Rejected),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
        (201, Malformed),
        (204, Malformed),
        (302, Malformed),
    ];
    for (status, refusal) in table {
        let endpoint = Endpoint::start(move |_| Reply::status(status).header("retry-after", "9")).await;
        let failure = failure(&source(&endpoint)).await;
        assert_eq!((failure.refusal, failure.retry_after), (refusal, Some(Duration::from_secs(9))), "{status}");
    }
}

#[tokio::test]
async fn only_known_errors_are_told() {
    let reply =
        |error: &str| Reply::status(401).body(&format!(r#"{{"error":"{error}","error_description":"canary"}}"#));
    for (error, told) in
        [("invalid_client", "the issuer answered 401: invalid_client"), ("canary", "the issuer answered 401")]
    {
        let endpoint = Endpoint::start(move |_| reply(error)).await;
        assert_eq!(failure(&source(&endpoint)).await.detail, told);
    }
}

#[tokio::test]
async fn a_token_is_revoked_with_its_kind_and_every_status_but_one_is_a_failure() {
    use CredentialRefusal::{Rejected, Unavailable};
    for (status, failure) in [(200, None), (503, Some(Unavailable)), (400, Some(Rejected))] {
        let endpoint = Endpoint::start(move |_| Reply::status(status)).await;
        let handle = Handle::Secret(Zeroizing::new("t&t".to_owned()));
        let revoked = source(&endpoint).revoke(&Scene::new().tools, &handle).await;
        assert_eq!(revoked.err().map(|failure| failure.refusal), failure);
        assert_eq!(endpoint.revoked(1).await, ["token=t%26t&token_type_hint=access_token"]);
    }
}

#[tokio::test]
async fn our_own_secret_that_is_not_there_is_unavailable_and_nothing_is_sent() {
    let nowhere = || SecretPlace::File("/nowhere/secret".into());
    let endpoint = Endpoint::start(|_| Reply::token("t", 60)).await;
    let with = |authentication: Authentication| {
        let mut source = source(&endpoint);
        source.server.client.authentication = authentication;
        source
    };
    let exchanged = |shown: Assertion| {
        let subject = Typed { shown, token_type: TokenType::Jwt };
        let grant = TokenExchange { subject, actor: None, wants: TokenType::AccessToken };
        Oauth { grant: Grant::TokenExchange(grant), ..source(&endpoint) }
    };
    let sources = [
        with(Authentication::Basic(nowhere())),
        with(Authentication::Post(nowhere())),
        with(Authentication::PrivateKey { key: nowhere(), key_id: None }),
        exchanged(Assertion::At(nowhere())),
    ];
    for source in sources {
        assert_eq!(failure(&source).await.refusal, CredentialRefusal::Unavailable);
    }
    // An identity that nothing proves is no token.
    for source in [with(Authentication::Spiffe), exchanged(Assertion::Identity(endpoint.url()))] {
        assert_eq!(failure(&source).await.refusal, CredentialRefusal::Misconfigured);
    }
    let malformed = with(Authentication::PrivateKey { key: own("canary"), key_id: None });
    assert_eq!(failure(&malformed).await.detail, "client: key: no private key in PEM");
    assert!(endpoint.seen().is_empty());
}

#[tokio::test]
async fn each_way_to_prove_who_we_are_is_as_its_standard_says() {
    let endpoint = Endpoint::start(|_| Reply::token("t", 60)).await;
    let (identity, _dir) = proven(&endpoint.url());
    let mut scene = Scene::new();
    scene.tools.identity = identity;
    for authentication in [
        Authentication::Post(own("s&s")),
        Authentication::PrivateKey { key: own(&key()), key_id: Some("k1".into()) },
        Authentication::Spiffe,
        Authentication::Identity,
    ] {
        let mut source = source(&endpoint);
        source.server.client.authentication = authentication;
        assert!(source.mint(&scene.asking(&[], LONGEST)).await.is_ok());
    }
    let seen = endpoint.seen();
    assert!(seen.iter().all(|seen| seen.authorization.is_empty()));
    assert_eq!(seen.iter().filter_map(|seen| field(seen, "client_id")).collect::<Vec<_>>(), ["tollgate:a"; 4]);
    assert_eq!(field(&seen[0], "client_secret").as_deref(), Some("s&s"));
    let types: Vec<_> = seen.iter().filter_map(|seen| field(seen, "client_assertion_type")).collect();
    assert_eq!(
        types.iter().map(|name| name.rsplit(':').next().unwrap()).collect::<Vec<_>>(),
        ["jwt-bearer", "jwt-spiffe", "jwt-bearer"]
    );
    let signed = token_of(&seen[1], "client_assertion");
    assert_eq!((&signed.header["alg"], &signed.header["kid"]), (&json!("ES256"), &json!("k1")));
    assert_eq!((&signed.claims["iss"], &signed.claims["sub"]), (&json!("tollgate:a"), &json!("tollgate:a")));
    assert_eq!(signed.claims["aud"], json!(endpoint.url()));
    assert_eq!(signed.claims["exp"].as_u64().unwrap() - signed.claims["iat"].as_u64().unwrap(), 60);
    assert_eq!(signed.claims["jti"].as_str().unwrap().len(), 22);
    for seen in &seen[2..] {
        assert_eq!(token_of(seen, "client_assertion").claims["sub"], "system:serviceaccount:ns:sa");
    }
}

#[tokio::test]
async fn a_token_is_exchanged_for_one_audience() {
    let issued = answer(json!({"issued_token_type": TokenType::AccessToken.urn()}));
    let endpoint = Endpoint::start(move |_| Reply::json(&issued)).await;
    let mut source = exchange(&endpoint);
    source.target.resources = vec!["https://api.test/v1".into(), "https://api.test/v2".into()];
    let Grant::TokenExchange(grant) = &mut source.grant else { unreachable!() };
    grant.actor = Some(Typed { shown: Assertion::At(own("actor-token")), token_type: TokenType::Jwt });
    minted(&source, &["read"]).await;
    let seen = &endpoint.seen()[0];
    assert_eq!(field(seen, "grant_type").as_deref(), Some(TOKEN_EXCHANGE));
    assert_eq!(field(seen, "subject_token").as_deref(), Some("subject-token"));
    assert_eq!(field(seen, "subject_token_type").as_deref(), Some("urn:ietf:params:oauth:token-type:id_token"));
    assert_eq!(field(seen, "actor_token").as_deref(), Some("actor-token"));
    assert_eq!(field(seen, "actor_token_type").as_deref(), Some("urn:ietf:params:oauth:token-type:jwt"));
    assert_eq!(field(seen, "requested_token_type").as_deref(), Some("urn:ietf:params:oauth:token-type:access_token"));
    assert_eq!(field(seen, "scope").as_deref(), Some("read"));
    assert_eq!(field(seen, "audience").as_deref(), Some("https://api.test/"));
    assert_eq!(seen.body.matches("resource=https%3A%2F%2Fapi.test%2Fv").count(), 2);
}

#[tokio::test]
async fn an_exchanged_token_must_be_of_the_type_that_was_wanted() {
    use TokenType::{AccessToken, IdToken, Jwt, RefreshToken};
    let table = [
        (AccessToken, Some(AccessToken), "Bearer", true),
        (AccessToken, None, "Bearer", false),
        (AccessToken, Some(Jwt), "Bearer", false),
        (AccessToken, Some(RefreshToken), "Bearer", false),
        (AccessToken, Some(AccessToken), "N_A", false),
        (Jwt, Some(Jwt), "N_A", true),
        (Jwt, Some(Jwt), "Bearer", true),
        (Jwt, Some(IdToken), "N_A", false),
    ];
    for (wants, issued, token_type, fits) in table {
        let text = answer(json!({"token_type": token_type, "issued_token_type": issued.map(TokenType::urn)}));
        let shown = text.clone();
        let endpoint = Endpoint::start(move |_| Reply::json(&text)).await;
        let mut source = exchange(&endpoint);
        let Grant::TokenExchange(grant) = &mut source.grant else { unreachable!() };
        grant.wants = wants;
        let unusable = mint(&source, &["read"]).await.err();
        assert_eq!(unusable.is_none(), fits, "{shown}");
        if let Some(Unusable { failure, handle }) = unusable {
            assert_eq!((failure.refusal, secret(handle.as_ref())), (CredentialRefusal::Malformed, Some("t")));
        }
    }
}

#[tokio::test]
async fn details_are_asked_for_and_must_be_told() {
    let asked = json!([{"type": "files", "actions": ["read", "write"]}]);
    let table = [
        (json!([{"type": "files", "actions": ["read"]}]), None),
        (json!([{"type": "files", "actions": ["delete"]}]), Some(CredentialRefusal::ScopeExceeded)),
        (json!(null), Some(CredentialRefusal::Malformed)),
    ];
    for (given, refusal) in table {
        let text = answer(json!({"authorization_details": given}));
        let endpoint = Endpoint::start(move |_| Reply::json(&text)).await;
        let mut source = source(&endpoint);
        source.target.details = asked.as_array().unwrap().clone();
        let unusable = mint(&source, &[]).await.err();
        assert_eq!(unusable.map(|unusable| unusable.failure.refusal), refusal);
        let sent = field(&endpoint.seen()[0], "authorization_details").unwrap();
        assert_eq!(serde_json::from_str::<Value>(&sent).unwrap(), asked);
    }
}

#[tokio::test]
async fn an_assertion_is_a_grant() {
    let endpoint = Endpoint::start(|_| Reply::token("t", 60)).await;
    let (identity, _dir) = proven("https://issuer.test");
    let mut scene = Scene::new();
    scene.tools.identity = identity;
    let (issuer, subject, audience) = ("tollgate".into(), "build".into(), endpoint.url());
    let signed = Assertion::Signed(Box::new(Signed { key: own(&key()), key_id: None, issuer, subject, audience }));
    for shown in [Assertion::At(own("held")), Assertion::Identity("https://issuer.test".into()), signed] {
        let source = Oauth { grant: Grant::JwtBearer(shown), ..source(&endpoint) };
        assert!(source.mint(&scene.asking(&["read"], LONGEST)).await.is_ok());
    }
    let seen = endpoint.seen();
    assert!(seen.iter().all(|seen| field(seen, "grant_type").as_deref() == Some(JWT_BEARER)));
    assert_eq!(field(&seen[0], "assertion").as_deref(), Some("held"));
    assert_eq!(token_of(&seen[1], "assertion").claims["sub"], "system:serviceaccount:ns:sa");
    let claims = token_of(&seen[2], "assertion").claims;
    assert_eq!(
        (&claims["iss"], &claims["sub"], &claims["aud"]),
        (&"tollgate".into(), &"build".into(), &endpoint.url().into())
    );
}

#[tokio::test]
async fn an_identity_for_somebody_else_is_not_shown() {
    let endpoint = Endpoint::start(|_| Reply::token("t", 60)).await;
    let (identity, _dir) = proven("https://elsewhere.test");
    let mut scene = Scene::new();
    scene.tools.identity = identity;
    let source = Oauth { grant: Grant::JwtBearer(Assertion::Identity(endpoint.url())), ..source(&endpoint) };
    let unusable = source.mint(&scene.asking(&[], LONGEST)).await.err().unwrap();
    assert_eq!(unusable.failure.refusal, CredentialRefusal::Misconfigured);
    assert!(endpoint.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_does_not_answer_is_left_after_a_while() {
    let endpoint = Endpoint::start(|_| Reply::Never).await;
    let begun = SystemTime::now();
    assert_eq!(failure(&source(&endpoint)).await.refusal, CredentialRefusal::Timeout);
    assert!(begun.elapsed().unwrap() < Duration::from_secs(5));
}
