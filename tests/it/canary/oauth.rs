//! OAuth issuers, of every grant and every way to prove who asks.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::{
    issuer::Step,
    scene::{Scene, own},
    search::{Secret, signed_one_of},
};

/// A token response with more than is asked for.
fn granted(token: &str, more: Value) -> Value {
    let mut answer = json!({
        "access_token": token, "refresh_token": own(91), "token_type": "Bearer", "expires_in": 300, "scope": "read",
    });
    answer.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    answer
}

fn given() -> Vec<Secret> {
    vec![Secret::text("the token", &own(90)), Secret::text("the refresh token", &own(91))]
}

fn revoking() -> Option<Step> {
    Some(Step { path: "/revoke", status: 200, answer: String::new() })
}

/// What every credential here says.
fn credential(kind: &str, base: &str, more: Value) -> Value {
    let mut credential = json!({
        "kind": kind, "token_endpoint": format!("{base}/token"), "revocation_endpoint": format!("{base}/revoke"),
        "scopes": ["read"],
    });
    credential.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    credential
}

#[tokio::test]
async fn a_client_secret_and_what_it_gives_are_shown_nowhere() {
    let mut scene = Scene {
        files: vec![("secret", own(1))],
        steps: vec![Step::new("/token", 200, &granted(&own(90), json!({})))],
        revocation: revoking(),
        secrets: given(),
        ..Scene::default()
    };
    scene.secrets.push(Secret::text("the client secret", &own(1)));
    let client = json!({"id": "tollgate", "secret": {"file": "secret"}});
    let searched = scene.search(|base| credential("oauth_client_credentials", base, json!({"client": client}))).await;
    assert_eq!(searched.seen[0].header("authorization"), Some(&*format!("Bearer {}", own(90))));
}

#[tokio::test]
async fn tokens_that_are_exchanged_are_shown_nowhere() {
    let urn = "urn:ietf:params:oauth:token-type:access_token";
    let mut scene = Scene {
        files: vec![("secret", own(1)), ("subject", own(2)), ("actor", own(3))],
        steps: vec![Step::new("/token", 200, &granted(&own(90), json!({"issued_token_type": urn})))],
        revocation: revoking(),
        secrets: given(),
        ..Scene::default()
    };
    let names = ["the client secret", "the subject's token", "the actor's token"];
    scene.secrets.extend(names.iter().zip(1..).map(|(name, number)| Secret::text(name, &own(number))));
    let more = json!({
        "client": {"id": "tollgate", "secret": {"file": "secret"}, "method": "client_secret_post"},
        "audience": "https://api.example.com", "per_call": true,
        "subject": {"token": {"file": "subject"}, "type": "id_token"},
        "actor": {"token": {"file": "actor"}, "type": "access_token"},
    });
    let searched = scene.search(|base| credential("oauth_token_exchange", base, more.clone())).await;
    assert_eq!(searched.seen[0].header("authorization"), Some(&*format!("Bearer {}", own(90))));
}

#[tokio::test]
async fn assertions_that_we_sign_and_their_keys_are_shown_nowhere() {
    let [client, grant] = [(); 2].map(|()| KeyPair::generate().expect("a key can be made"));
    let scene = Scene {
        files: vec![("client.pem", client.serialize_pem()), ("grant.pem", grant.serialize_pem())],
        steps: vec![Step::new("/token", 200, &granted(&own(90), json!({})))],
        revocation: revoking(),
        secrets: given(),
        keys: vec![
            Secret::key("the client's key", &client.serialize_pem()),
            Secret::key("the key of the assertion", &grant.serialize_pem()),
        ],
        ..Scene::default()
    };
    let more = json!({
        "client": {"id": "tollgate", "key": {"file": "client.pem"}},
        "assertion": {"key": {"file": "grant.pem"}, "subject": "build"},
    });
    let searched = scene.search(|base| credential("oauth_jwt_bearer", base, more.clone())).await;
    assert!([client, grant].iter().all(|key| signed_one_of(key, &searched.tokens)), "both keys are in use");
}

#[tokio::test]
async fn an_assertion_that_goes_from_one_issuer_to_another_is_shown_nowhere() {
    let issuer = "https://issuer.example.com";
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let assertion = format!(
        "{}.{}.{}",
        part(json!({"alg": "ES256", "typ": "oauth-id-jag+jwt"})),
        part(json!({"aud": issuer, "client_id": "tollgate", "sub": "alice"})),
        URL_SAFE_NO_PAD.encode(own(92))
    );
    let first = json!({
        "token_type": "N_A", "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag", "expires_in": 60,
    });
    let mut scene = Scene {
        files: vec![("secret", own(1)), ("provider-secret", own(2)), ("id-token", own(3))],
        steps: vec![
            Step::new("/provider/token", 200, &granted(&assertion, first)),
            Step::new("/token", 200, &granted(&own(90), json!({}))),
        ],
        revocation: revoking(),
        secrets: given(),
        ..Scene::default()
    };
    let names = ["the client secret", "the client secret of the first", "the ID token"];
    scene.secrets.extend(names.iter().zip(1..).map(|(name, number)| Secret::text(name, &own(number))));
    scene.secrets.push(Secret::text("the assertion", &own(92)));
    let asked = |base: &str| {
        let provider = json!({
            "issuer": "https://provider.example.com", "token_endpoint": format!("{base}/provider/token"),
            "revocation_endpoint": format!("{base}/provider/revoke"),
            "client": {"id": "tollgate-there", "secret": {"file": "provider-secret"}},
        });
        let more = json!({
            "issuer": issuer, "client": {"id": "tollgate", "secret": {"file": "secret"}},
            "subject": {"token": {"file": "id-token"}, "type": "id_token"}, "identity_provider": provider,
        });
        credential("id_jag", base, more)
    };
    let searched = scene.search(asked).await;
    assert_eq!(searched.seen[0].header("authorization"), Some(&*format!("Bearer {}", own(90))));
}

#[tokio::test]
async fn a_bound_token_of_an_issuer_that_was_looked_up_and_its_proofs_are_shown_nowhere() {
    let key = KeyPair::generate().expect("a key can be made");
    let document = json!({"issuer": "BASE", "token_endpoint": "BASE/token", "revocation_endpoint": "BASE/revoke"});
    let scene = Scene {
        files: vec![("client.pem", key.serialize_pem())],
        steps: vec![
            Step::new("/.well-known/oauth-authorization-server", 200, &document),
            Step::new("/token", 200, &granted(&own(90), json!({"token_type": "DPoP"}))),
        ],
        revocation: revoking(),
        secrets: given(),
        keys: vec![Secret::key("the client's key", &key.serialize_pem())],
        ..Scene::default()
    };
    let searched = scene
        .search(|base| {
            let client = json!({"id": "tollgate", "key": {"file": "client.pem"}});
            json!({
                "kind": "oauth_client_credentials", "issuer": base, "client": client, "scopes": ["read"], "dpop": true,
            })
        })
        .await;
    assert_eq!(searched.seen[0].header("authorization"), Some(&*format!("DPoP {}", own(90))));
    let proof = searched.seen[0].header("dpop").expect("a proof").to_owned();
    assert!(searched.tokens.contains(&proof) && signed_one_of(&key, &searched.tokens));
}
