//! GitHub, Google Cloud, Entra ID, AWS, the Kubernetes API and container registries.

use jiff::{SignedDuration, Timestamp};
use rcgen::KeyPair;
use serde_json::json;

use super::{
    issuer::Step,
    scene::{Scene, own},
    search::{Secret, signed_one_of},
};
use crate::brokers::vault::projected;

fn soon() -> String {
    (Timestamp::now() + SignedDuration::from_mins(9)).to_string()
}

#[tokio::test]
async fn the_key_of_a_github_app_and_its_tokens_are_shown_nowhere() {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key can be made");
    let given = json!({
        "token": own(90), "expires_at": soon(), "permissions": {"issues": "write", "metadata": "read"},
        "repositories": [{"id": 7, "name": "shop"}],
    });
    let scene = Scene {
        files: vec![("app.pem", key.serialize_pem())],
        steps: vec![Step::new("/app/installations/42/access_tokens", 201, &given)],
        revocation: Some(Step { path: "/installation/token", status: 204, answer: String::new() }),
        secrets: vec![Secret::text("the token", &own(90))],
        keys: vec![Secret::key("the app's key", &key.serialize_pem())],
        ..Scene::default()
    };
    let searched = scene
        .search(|base| {
            json!({
                "kind": "github_app", "api": base, "app_id": "Iv1.x", "installation_id": "42",
                "private_key": {"file": "app.pem"}, "permissions": {"issues": "write"}, "repositories": ["shop"],
                "as": {"basic": "x-access-token"},
            })
        })
        .await;
    assert!(searched.seen[0].header("authorization").is_some_and(|value| value.starts_with("Basic ")));
    assert!(signed_one_of(&key, &searched.tokens), "the key is in use");
}

#[tokio::test]
async fn the_tokens_of_googles_two_steps_are_shown_nowhere() {
    let exchanged = json!({
        "access_token": own(80), "token_type": "Bearer", "expires_in": 3600,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    });
    let impersonated = json!({"accessToken": own(90), "expireTime": soon()});
    let scene = Scene {
        files: vec![("subject", own(1))],
        steps: vec![
            Step::new("/sts", 200, &exchanged),
            Step::new("/v1/projects/-/serviceAccounts/agent@p.test:generateAccessToken", 200, &impersonated),
        ],
        secrets: vec![
            Secret::text("the subject's token", &own(1)),
            Secret::text("the exchanged token", &own(80)),
            Secret::text("the token", &own(90)),
        ],
        ..Scene::default()
    };
    let provider = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x";
    let searched = scene
        .search(|base| {
            json!({
                "kind": "gcp", "audience": provider, "service_account": "agent@p.test", "token": {"file": "subject"},
                "token_endpoint": format!("{base}/sts"), "credentials_api": base, "as": {"query": "key"},
            })
        })
        .await;
    assert!(searched.seen[0].target.ends_with(&own(90)), "{}", searched.seen[0].target);
}

#[tokio::test]
async fn the_identity_that_entra_takes_and_its_tokens_are_shown_nowhere() {
    let key = KeyPair::generate().expect("a key can be made");
    let given = json!({"access_token": own(90), "token_type": "Bearer", "expires_in": 4200, "ext_expires_in": 4200});
    let scene = Scene {
        files: vec![("token", projected(&key, "api://AzureADTokenExchange"))],
        identity: Some(json!({"kind": "kubernetes", "token": "token"})),
        steps: vec![Step::new("/tenant/oauth2/v2.0/token", 200, &given)],
        secrets: vec![Secret::text("the token", &own(90))],
        ..Scene::default()
    };
    let searched = scene
        .search(|base| {
            json!({
                "kind": "azure", "tenant": "tenant", "client_id": "11111111", "authority": base,
                "scopes": ["https://storage.azure.com/.default"],
            })
        })
        .await;
    assert_eq!(searched.seen[0].header("authorization"), Some(&*format!("Bearer {}", own(90))));
    assert!(signed_one_of(&key, &searched.tokens), "the identity is shown to the issuer");
}

#[tokio::test]
async fn a_service_accounts_token_that_is_asked_for_with_another_is_shown_nowhere() {
    let audience = "https://registry.example.com";
    let given = json!({
        "spec": {"audiences": [audience], "expirationSeconds": 600},
        "status": {"token": own(90), "expirationTimestamp": soon()},
    });
    let scene = Scene {
        files: vec![("own", own(1))],
        steps: vec![Step::new("/api/v1/namespaces/agents/serviceaccounts/reader/token", 201, &given)],
        secrets: vec![Secret::text("our own token", &own(1)), Secret::text("the token", &own(90))],
        ..Scene::default()
    };
    let searched = scene
        .search(|base| {
            json!({
                "kind": "kubernetes", "audience": audience, "server": base, "token": {"file": "own"},
                "service_account": {"namespace": "agents", "name": "reader"},
            })
        })
        .await;
    assert_eq!(searched.seen[0].header("authorization"), Some(&*format!("Bearer {}", own(90))));
}

#[tokio::test]
async fn keys_of_aws_and_the_token_that_buys_them_are_shown_nowhere() {
    let scene = Scene {
        files: vec![("token", own(1))],
        steps: vec![Step { path: "/sts", status: 200, answer: super::session_keys(&own(80), &own(90)) }],
        secrets: vec![
            Secret::text("the web identity", &own(1)),
            Secret::text("the secret key", &own(80)),
            Secret::text("the session's token", &own(90)),
        ],
        ..Scene::default()
    };
    let searched = scene
        .search(|base| {
            json!({
                "kind": "aws", "role_arn": "arn:aws:iam::123456789012:role/agent", "region": "eu-west-1",
                "service": "execute-api", "sts_endpoint": format!("{base}/sts"), "web_identity": {"file": "token"},
            })
        })
        .await;
    assert_eq!(searched.seen[0].header("x-amz-security-token"), Some(&*own(90)));
}

#[tokio::test]
async fn the_password_at_a_registry_and_its_tokens_are_shown_nowhere() {
    let given = json!({
        "token": own(90), "access_token": own(90), "refresh_token": own(91), "expires_in": 300,
        "issued_at": Timestamp::now().to_string(),
    });
    let scene = Scene {
        files: vec![("password", own(1))],
        steps: vec![Step::new("/token", 200, &given)],
        secrets: vec![
            Secret::text("the password", &own(1)),
            Secret::text("the token", &own(90)),
            Secret::text("the refresh token", &own(91)),
        ],
        path: Some("/v2/team/demo/manifests/latest"),
        ..Scene::default()
    };
    let searched = scene
        .search(|base| {
            json!({
                "kind": "registry_token", "realm": format!("{base}/token"), "service": "registry.example.com",
                "user": "robot", "secret": {"file": "password"},
            })
        })
        .await;
    assert_eq!(searched.seen[0].header("authorization"), Some(&*format!("Bearer {}", own(90))));
}
