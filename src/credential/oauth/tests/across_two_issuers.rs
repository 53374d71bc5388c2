use super::*;

const ISSUER: &str = "https://as.test";

fn source(provider: &Endpoint, endpoint: &Endpoint) -> Oauth {
    let mut source = super::source(endpoint);
    source.target.audience = None;
    source.server.client.id = "at-the-second".into();
    let mut provider = super::source(provider).server;
    provider.client.authentication = Authentication::Post(own("s"));
    let subject = Typed { shown: Assertion::At(own("id-token")), token_type: TokenType::IdToken };
    source.grant = Grant::IdJag(Box::new(IdJag { provider, subject, audience: ISSUER.into() }));
    source
}

fn assertion(more: Value) -> String {
    let mut claims = json!({"aud": ISSUER, "client_id": "at-the-second", "sub": "user"});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    foreign("oauth-id-jag+jwt", &claims)
}

fn given(assertion: &str, more: Value) -> String {
    let mut given =
        json!({"access_token": assertion, "token_type": "N_A", "issued_token_type": TokenType::IdJag.urn()});
    given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    given.to_string()
}

#[tokio::test]
async fn the_first_gives_an_assertion_and_the_second_takes_it() {
    let assertion = assertion(json!({}));
    let text = given(&assertion, json!({"expires_in": 300, "scope": "read"}));
    let provider = Endpoint::start(move |_| Reply::json(&text)).await;
    let endpoint = Endpoint::start(|_| Reply::token("t", 60)).await;
    let mut source = source(&provider, &endpoint);
    source.target.resources = vec!["https://api.test/".into()];
    let minted = minted(&source, &["read"]).await;
    assert_eq!(minted.secret.values(), ["t"]);
    let first = &provider.seen()[0];
    assert_eq!(field(first, "grant_type").as_deref(), Some(TOKEN_EXCHANGE));
    assert_eq!(field(first, "requested_token_type").as_deref(), Some(TokenType::IdJag.urn()));
    assert_eq!(field(first, "audience").as_deref(), Some(ISSUER));
    assert_eq!(field(first, "resource").as_deref(), Some("https://api.test/"));
    assert_eq!(field(first, "scope").as_deref(), Some("read"));
    assert_eq!(field(first, "subject_token").as_deref(), Some("id-token"));
    assert_eq!(field(first, "client_id").as_deref(), Some("tollgate:a"));
    let second = &endpoint.seen()[0];
    assert_eq!(field(second, "grant_type").as_deref(), Some(JWT_BEARER));
    assert_eq!(field(second, "assertion"), Some(assertion));
    assert!(second.authorization.starts_with("Basic "));
}

#[tokio::test]
async fn what_is_no_assertion_for_the_second_is_not_shown_to_it_and_revoked() {
    let jag = || assertion(json!({}));
    let table = [
        given(&jag(), json!({"token_type": "Bearer"})),
        given(&jag(), json!({"issued_token_type": TokenType::AccessToken.urn()})),
        given(&jag(), json!({"issued_token_type": null})),
        given(&jag(), json!({"scope": "read admin"})),
        given(&assertion(json!({"aud": "https://other.test"})), json!({})),
        given(&assertion(json!({"aud": [ISSUER, "https://other.test"]})), json!({})),
        given(&assertion(json!({"client_id": "other"})), json!({})),
        given(&foreign("JWT", &json!({"aud": ISSUER, "client_id": "at-the-second"})), json!({})),
        given("opaque", json!({})),
        // What can't be read as a whole is revoked as well.
        given(&jag(), json!({"scope": ["read"]})),
        r#"{"access_token":"cut short","access_token":"cut","scope":"#.to_owned(),
    ];
    for text in table {
        let shown = text.clone();
        let provider = Endpoint::start(move |seen| match seen.path.as_str() {
            "/revoke" => Reply::status(200),
            _ => Reply::json(&text),
        })
        .await;
        let endpoint = Endpoint::start(|_| Reply::token("t", 60)).await;
        let unusable = mint(&source(&provider, &endpoint), &["read"]).await.err().expect(&shown);
        assert!(unusable.failure.detail.starts_with("identity provider: "), "{}", unusable.failure.detail);
        assert!(unusable.handle.is_none() && endpoint.seen().is_empty(), "{shown}");
        assert_eq!(provider.revoked(1).await.len(), 1);
    }
}
