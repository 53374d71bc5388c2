use super::*;

fn source(endpoint: &Endpoint) -> Oauth {
    Oauth { dpop: true, ..super::source(endpoint) }
}

fn bound(seen: &Seen) -> Unverified {
    Unverified::read(seen.headers["dpop"].to_str().unwrap()).unwrap()
}

fn granted() -> Reply {
    Reply::json(&answer(json!({"token_type": "DPoP"})))
}

#[tokio::test]
async fn the_request_proves_that_we_hold_the_key_and_each_token_has_its_own() {
    let endpoint = Endpoint::start(|_| granted()).await;
    let first = minted(&source(&endpoint), &[]).await;
    minted(&source(&endpoint), &[]).await;
    assert!(matches!(&first.secret, Secret::Bound { token, .. } if token.as_str() == "t"));
    assert_eq!((first.secret.values(), secret(first.handle.as_ref())), (vec!["t"], Some("t")));
    let [first, second] = [bound(&endpoint.seen()[0]), bound(&endpoint.seen()[1])];
    assert_eq!(first.header["typ"], "dpop+jwt");
    assert_eq!((&first.claims["htm"], &first.claims["htu"]), (&"POST".into(), &endpoint.url().into()));
    assert!(!first.claims.contains_key("ath") && !first.claims.contains_key("nonce"));
    assert_ne!(first.header["jwk"], second.header["jwk"]);
    assert_ne!(first.claims["jti"], second.claims["jti"]);
}

#[tokio::test]
async fn a_nonce_is_given_back_once() {
    let endpoint = Endpoint::start(|seen| match bound(seen).claims.get("nonce") {
        None => Reply::status(400).header("dpop-nonce", "n1").body(r#"{"error":"use_dpop_nonce"}"#),
        Some(_) => granted(),
    })
    .await;
    let mut source = source(&endpoint);
    source.server.client.authentication = Authentication::PrivateKey { key: own(&key()), key_id: None };
    minted(&source, &[]).await;
    let seen = endpoint.seen();
    let [first, second] = [&seen[0], &seen[1]].map(bound);
    assert_eq!(second.claims["nonce"], "n1");
    assert_eq!(first.header["jwk"], second.header["jwk"]);
    // What proves who we are is good for one request, too.
    let [first, second] = [&seen[0], &seen[1]].map(|seen| token_of(seen, "client_assertion").claims["jti"].clone());
    assert_ne!(first, second);
}

#[tokio::test]
async fn an_issuer_that_is_never_content_is_not_asked_for_ever() {
    let again = |_: &Seen| Reply::status(400).header("dpop-nonce", "n").body(r#"{"error":"use_dpop_nonce"}"#);
    let endpoint = Endpoint::start(again).await;
    let failure = failure(&source(&endpoint)).await;
    assert_eq!(failure.detail, "the issuer answered 400: use_dpop_nonce");
    assert_eq!(endpoint.seen().len(), 2);
    let endpoint = Endpoint::start(|_| Reply::status(400).body(r#"{"error":"use_dpop_nonce"}"#)).await;
    assert_eq!(super::failure(&source(&endpoint)).await.refusal, CredentialRefusal::Rejected);
    assert_eq!(endpoint.seen().len(), 1);
}

#[tokio::test]
async fn a_token_that_anyone_could_use_is_refused() {
    let endpoint = Endpoint::start(|_| Reply::token("t", 60)).await;
    let unusable = mint(&source(&endpoint), &[]).await.err().unwrap();
    assert_eq!(unusable.failure.refusal, CredentialRefusal::Malformed);
    assert_eq!(secret(unusable.handle.as_ref()), Some("t"));
}
