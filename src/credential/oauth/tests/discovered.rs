use super::*;

fn document(seen: &Seen, more: &str) -> Reply {
    let base = format!("http://{}", seen.headers["host"].to_str().unwrap());
    Reply::json(&format!(r#"{{"issuer":"{base}","token_endpoint":"{base}/token"{}}}"#, more.replace("BASE", &base)))
}

fn source(endpoint: &Endpoint, revocable: bool) -> Oauth {
    let mut source = super::source(endpoint);
    source.server.endpoints = Endpoints::Discovered { issuer: endpoint.base(), revocable };
    source
}

#[tokio::test]
async fn the_issuer_says_where_it_is_asked() {
    let endpoint = Endpoint::start(|seen| match seen.path.as_str() {
        "/token" => Reply::token("t", 60),
        "/revoke" => Reply::status(200),
        _ => document(seen, r#","revocation_endpoint":"BASE/revoke""#),
    })
    .await;
    let scene = Scene::new();
    let mut source = source(&endpoint, true);
    source.server.client.authentication = Authentication::PrivateKey { key: own(&key()), key_id: None };
    let minted = source.mint(&scene.asking(&[], LONGEST)).await.ok().unwrap();
    source.revoke(&scene.tools, &minted.handle.unwrap()).await.unwrap();
    let seen = endpoint.seen();
    assert_eq!(
        seen.iter().map(|seen| seen.path.as_str()).collect::<Vec<_>>(),
        ["/.well-known/oauth-authorization-server", "/token", "/revoke"]
    );
    assert_eq!(token_of(&seen[1], "client_assertion").claims["aud"], json!(endpoint.base()));
}

#[tokio::test]
async fn an_issuer_that_cannot_revoke_is_taken_only_where_that_is_known() {
    let script = |seen: &Seen| match seen.path.as_str() {
        "/token" => Reply::token("t", 60),
        _ => document(seen, ""),
    };
    let endpoint = Endpoint::start(script).await;
    assert_eq!(failure(&source(&endpoint, true)).await.refusal, CredentialRefusal::Rejected);
    assert_eq!(endpoint.minted(), 0);
    assert!(minted(&source(&endpoint, false), &[]).await.handle.is_none());
}

#[tokio::test]
async fn an_endpoint_that_moved_is_found_again() {
    let mut asked = 0;
    let endpoint = Endpoint::start(move |seen| match seen.path.as_str() {
        "/token" => Reply::status(404),
        "/moved" => Reply::token("t", 60),
        _ => {
            asked += 1;
            let base = format!("http://{}", seen.headers["host"].to_str().unwrap());
            let path = if asked == 1 { "token" } else { "moved" };
            Reply::json(&format!(r#"{{"issuer":"{base}","token_endpoint":"{base}/{path}"}}"#))
        }
    })
    .await;
    let (scene, source) = (Scene::new(), source(&endpoint, false));
    assert!(source.mint(&scene.asking(&[], LONGEST)).await.is_err());
    assert!(source.mint(&scene.asking(&[], LONGEST)).await.is_ok());
}
