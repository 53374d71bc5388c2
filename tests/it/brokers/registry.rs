//! Tokens for container registries: the real registry of Debian's `docker-registry`, behind a server of tokens that follows
//! the Distribution project's specification, and skopeo as the client, which holds a placeholder or nothing at all.

mod issuer;
mod parts;

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use self::{
    issuer::{Behaviour, SERVICE, TokenServer},
    parts::{NEEDS, PLACEHOLDER, Registry, Skopeo, layout, stored},
};
use crate::{
    actors::{Origin, Sidecar, agent::request, origin::full, sidecar::Setup},
    clients::are_there,
};

const HOST: &str = "registry.example.test";

/// What every credential here says.
fn credential(tokens: &TokenServer, more: Value) -> Value {
    let mut credential = json!({
        "kind": "registry_token", "realm": tokens.realm(), "service": SERVICE,
        "user": "robot", "secret": {"file": "registry-secret"}, "repositories": ["team/*"], "max_ttl": "10m",
    });
    credential.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    json!({"credentials": {"registry": credential}})
}

/// The sidecar in front of an origin that answers as it is told.
fn guarding(setup: Setup, origin: &Origin, tokens: &TokenServer, more: Value) -> Setup {
    setup
        .file("registry-secret", issuer::SECRET)
        .in_front_of_as(origin, json!({"credential": "registry", "placeholder": PLACEHOLDER}))
        .set(credential(tokens, more))
}

/// The real registry, and the server whose tokens it takes.
async fn scene() -> (TokenServer, Registry) {
    let tokens = TokenServer::start(Behaviour::Gives).await;
    let registry = Registry::start(HOST, &tokens).await;
    (tokens, registry)
}

/// A sidecar in front of the real registry.
async fn in_front_of(registry: &Registry, tokens: &TokenServer, more: Value) -> Sidecar {
    let destination = json!({
        "hosts": [HOST], "ports": [registry.port], "addresses": ["127.0.0.1"],
        "credential": "registry", "placeholder": PLACEHOLDER,
    });
    let roots = json!({"files": ["registry-root.pem"]});
    let setup = Sidecar::permissive()
        .file("registry-secret", issuer::SECRET)
        .file("registry-root.pem", &registry.root)
        .set(json!({"destinations": {"registry": destination}}))
        .set(json!({"tls": {"origin_roots": roots, "authority": {"trust_bundle": "bundle.pem"}}}))
        .set(credential(tokens, more));
    setup.allowing(json!([{"id": "registry", "destination": "registry"}])).start().await
}

#[tokio::test]
async fn an_image_is_pushed_and_pulled_with_a_placeholder_and_without_anything() {
    if !are_there(NEEDS) {
        return;
    }
    let (tokens, registry) = scene().await;
    let sidecar = in_front_of(&registry, &tokens, json!({"actions": ["pull", "push"]})).await;
    let skopeo = Skopeo::new();
    let layer = layout(&skopeo.home().join("image"));
    let host = format!("{HOST}:{}", registry.port);
    let there = format!("docker://{host}/team/demo:latest");
    let pair = format!("robot:{PLACEHOLDER}");
    assert!(tokens.asked().is_empty(), "nothing is asked for before the first call");

    for command in [
        &["login", "--username", "robot", "--password", PLACEHOLDER, &host][..],
        &["copy", "--dest-creds", &pair, "oci:image:latest", &there],
        &["logout", &host],
        &["copy", "--src-no-creds", &there, "oci:pulled:latest"],
    ] {
        skopeo.does(&sidecar, command).await;
    }

    assert_eq!(stored(&skopeo.home().join("pulled")), layer);
    // Each was asked for by us, as ourselves, and for no more than a call needed.
    for asked in tokens.asked() {
        assert!(asked.by.starts_with("tollgate/"), "{asked:?}");
        assert_eq!((asked.pair.as_str(), asked.service.as_str()), ("robot:dckr_pat_inner", SERVICE));
    }
    let mut scopes: Vec<_> = tokens.asked().iter().map(|asked| asked.scopes.join(" ")).collect();
    scopes.sort();
    let expected = ["", "repository:team/demo:pull", "repository:team/demo:pull,push"];
    assert_eq!(scopes, expected, "one token for each repository and what is done with it");
    no_one_saw_a_token(&skopeo, &sidecar, &tokens).await;
    for record in sidecar.audit().await {
        assert_eq!(record["decision"]["verdict"], "allow", "{record}");
        assert_eq!(record["credential"]["kind"], "registry_token", "{record}");
        assert_ne!(record["status"], 401, "{record}");
    }
}

#[tokio::test]
async fn a_layer_is_taken_over_from_a_declared_repository_only() {
    if !are_there(NEEDS) {
        return;
    }
    let (tokens, registry) = scene().await;
    let both = in_front_of(&registry, &tokens, json!({"actions": ["pull", "push"]})).await;
    let one = json!({"actions": ["pull", "push"], "repositories": ["team/last"]});
    let one = in_front_of(&registry, &tokens, one).await;
    let skopeo = Skopeo::new();
    layout(&skopeo.home().join("image"));
    let there = |name: &str| format!("docker://{HOST}:{}/team/{name}:latest", registry.port);

    for (sidecar, name) in [(&both, "demo"), (&both, "next"), (&one, "last")] {
        skopeo.does(sidecar, &["copy", "oci:image:latest", &there(name)]).await;
    }

    let asked: Vec<_> = tokens.asked().iter().map(|asked| asked.scopes.join(" ")).collect();
    let over = "repository:team/next:pull,push repository:team/demo:pull";
    assert!(asked.iter().any(|scopes| scopes == over), "{asked:?}");
    assert!(!asked.iter().any(|scopes| scopes.contains("last") && scopes.contains(' ')), "{asked:?}");
    let refused = format!("HEAD {HOST} credential_not_granted");
    assert!(one.records().await.contains(&refused), "it was tried, and then uploaded: {:?}", one.records().await);
    no_one_saw_a_token(&skopeo, &one, &tokens).await;
}

#[tokio::test]
async fn a_push_that_is_not_declared_is_refused_and_so_is_another_repository() {
    if !are_there(NEEDS) {
        return;
    }
    let (tokens, registry) = scene().await;
    let sidecar = in_front_of(&registry, &tokens, json!({})).await;
    let skopeo = Skopeo::new();
    layout(&skopeo.home().join("image"));
    let there = |path: &str| format!("docker://{HOST}:{}/{path}:latest", registry.port);

    skopeo.fails(&sidecar, &["copy", "oci:image:latest", &there("team/demo")]).await;
    skopeo.fails(&sidecar, &["inspect", &there("other/demo")]).await;

    let records = sidecar.records().await;
    for method in ["POST", "GET"] {
        let refused = format!("{method} {HOST} credential_not_granted");
        assert!(records.contains(&refused), "{refused}: {records:?}");
    }
    for asked in tokens.asked() {
        assert!(asked.scopes.iter().all(|scope| scope == "repository:team/demo:pull"), "{asked:?}");
    }
    assert!(registry.is_empty(), "nothing was written");
    no_one_saw_a_token(&skopeo, &sidecar, &tokens).await;
}

/// Neither the client, in all that it said, nor the records hold one.
async fn no_one_saw_a_token(skopeo: &Skopeo, sidecar: &Sidecar, tokens: &TokenServer) {
    let (heard, records) = (skopeo.heard(), sidecar.audit().await);
    assert!(heard.contains("level=debug") && heard.contains(HOST), "it was told to say everything: {heard}");
    for token in tokens.given() {
        assert!(!heard.contains(&token), "{heard}");
        assert!(!records.iter().any(|record| record.to_string().contains(&token)), "{records:?}");
    }
}

#[tokio::test]
async fn each_call_carries_a_token_for_what_it_needs() {
    let tokens = TokenServer::start(Behaviour::Gives).await;
    let origin = Origin::https(HOST).start().await;
    let more = json!({"actions": ["pull", "push", "delete"], "catalog": true, "repositories": []});
    let sidecar = guarding(Sidecar::permissive(), &origin, &tokens, more).start().await;
    let table = [
        (Method::GET, "/v2/", ""),
        (Method::GET, "/v2/team/demo/manifests/latest", "repository:team/demo:pull"),
        (Method::HEAD, "/v2/team/demo/blobs/sha256:01", "repository:team/demo:pull"),
        (Method::GET, "/v2/team/demo/tags/list?n=1", "repository:team/demo:pull"),
        (Method::POST, "/v2/team/demo/blobs/uploads/", "repository:team/demo:pull,push"),
        (Method::PATCH, "/v2/team/demo/blobs/uploads/1", "repository:team/demo:pull,push"),
        (Method::PUT, "/v2/team/demo/manifests/latest", "repository:team/demo:pull,push"),
        (Method::DELETE, "/v2/team/demo/manifests/latest", "repository:team/demo:pull,delete"),
        (
            Method::POST,
            "/v2/team/demo/blobs/uploads/?mount=sha256:01&from=team/base",
            "repository:team/demo:pull,push repository:team/base:pull",
        ),
        (Method::GET, "/v2/_catalog", "registry:catalog:*"),
    ];
    for (method, path, scopes) in table {
        let answer = sidecar.agent().send(request(method.clone(), &origin.url(path), "")).await;
        assert_eq!(answer.to_string(), "200", "{method} {path}");
        let seen = origin.requests().pop().expect("it arrived");
        let token = seen.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).expect("a token");
        assert_eq!(tokens.scopes_of(token).join(" "), scopes, "{method} {path}");
        let said = issuer::claims(token);
        assert_eq!(said["exp"].as_u64().zip(said["iat"].as_u64()).map(|(end, begin)| end - begin), Some(300));
    }
    assert_eq!(tokens.asked().len(), 6, "calls that need the same share a token");
    let record = sidecar.audit().await.remove(0);
    assert_eq!(record["credential"]["name"], "registry");
}

#[tokio::test]
async fn policy_narrows_what_is_declared() {
    const NARROW: &str = r#"
        package tollgate
        decision := {"decision": "allow", "obligations": {"scopes": ["repository:team/demo:pull"]}}
    "#;
    let tokens = TokenServer::start(Behaviour::Gives).await;
    let origin = Origin::https(HOST).start().await;
    let more = json!({"actions": ["pull", "push"]});
    let sidecar = guarding(Sidecar::with_policy(NARROW), &origin, &tokens, more).start().await;

    let mut told = Vec::new();
    for (method, path) in [
        (Method::GET, "/v2/"),
        (Method::GET, "/v2/team/demo/manifests/latest"),
        (Method::PUT, "/v2/team/demo/manifests/latest"),
        (Method::GET, "/v2/team/base/manifests/latest"),
        (Method::POST, "/v2/team/demo/blobs/uploads/?mount=sha256:01&from=team/base"),
    ] {
        told.push(sidecar.agent().send(request(method, &origin.url(path), "")).await.to_string());
    }

    let no = "403 credential_not_granted";
    assert_eq!(told, ["200", "200", no, no, no]);
    assert_eq!((origin.requests().len(), tokens.asked().len()), (2, 2));
}

#[tokio::test]
async fn a_challenge_stays_with_us_and_is_answered_with_another_token() {
    let tokens = TokenServer::start(Behaviour::Gives).await;
    let (realm, given) = (tokens.realm(), tokens.clone());
    let origin = Origin::https(HOST).answering(move |request| {
        // The first of them is not taken.
        let authorization = request.headers().get("authorization").cloned().expect("it has a token");
        let first = given.given().first().map(|token| format!("Bearer {token}"));
        let is_first = first.is_some_and(|first| authorization == first.as_str());
        let challenge = format!(r#"Bearer realm="{realm}",service="{SERVICE}",scope="repository:team/demo:pull""#);
        let refused = is_first || request.method() != Method::GET;
        async move {
            let mut response = Response::new(full("{}"));
            if refused {
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                response.headers_mut().insert("www-authenticate", challenge.parse().expect("text"));
            }
            response
        }
    });
    let origin = origin.start().await;
    let sidecar = guarding(Sidecar::permissive(), &origin, &tokens, json!({"actions": ["pull", "push"]})).start().await;
    let path = "/v2/team/demo/manifests/latest";

    assert_eq!(sidecar.agent().get(&origin.url(path)).await.to_string(), "200");
    assert_eq!((origin.requests().len(), tokens.asked().len()), (2, 2));

    let answer = sidecar.agent().send(request(Method::PUT, &origin.url(path), "{}")).await;
    assert_eq!(answer.to_string(), "401");
    assert!(!answer.headers.contains_key("www-authenticate"), "{:?}", answer.headers);
    assert_eq!(origin.requests().len(), 3, "what is not safe to repeat is not repeated");
}

#[tokio::test]
async fn blobs_that_lie_elsewhere_are_fetched_without_a_token() {
    let tokens = TokenServer::start(Behaviour::Gives).await;
    let store = Origin::https("blobs.example.test").start().await;
    let elsewhere = store.url("/sha256/01");
    let leading = elsewhere.clone();
    let origin = Origin::https(HOST).answering(move |_| {
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        response.headers_mut().insert("location", leading.parse().expect("text"));
        async move { response }
    });
    let origin = origin.start().await;
    let setup = guarding(Sidecar::permissive(), &origin, &tokens, json!({}));
    let sidecar = setup.in_front_of(&store).start().await;

    let answer = sidecar.agent().get(&origin.url("/v2/team/demo/blobs/sha256:01")).await;
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(answer.headers["location"], elsewhere);
    assert_eq!(sidecar.agent().get(&elsewhere).await.to_string(), "200");
    assert_eq!(store.requests().pop().expect("it arrived").header("authorization"), None);
}

#[tokio::test]
async fn without_a_token_of_the_right_scope_a_call_is_not_made() {
    for (behaviour, label) in [
        (Behaviour::Fails(401), "credential_rejected"),
        (Behaviour::Fails(503), "credential_unavailable"),
        (Behaviour::Fails(429), "credential_unavailable"),
        (Behaviour::Says("<html>"), "credential_malformed"),
        (Behaviour::Says("{}"), "credential_malformed"),
        (Behaviour::Says(r#"{"token": "t", "expires_in": 86400}"#), "credential_lifetime_exceeded"),
        (Behaviour::GivesMore, "credential_scope_exceeded"),
    ] {
        let tokens = TokenServer::start(behaviour).await;
        let origin = Origin::https(HOST).start().await;
        let sidecar = guarding(Sidecar::permissive(), &origin, &tokens, json!({})).start().await;
        let mut call = request(Method::GET, &origin.url("/v2/team/demo/manifests/latest"), "");
        call.headers_mut().insert("authorization", "Bearer my-own-token".parse().expect("text"));

        assert_eq!(sidecar.agent().send(call).await.to_string(), format!("503 {label}"), "{behaviour:?}");

        assert!(origin.requests().is_empty(), "{behaviour:?}");
        assert_eq!(sidecar.records().await, [format!("GET {HOST} {label}")]);
    }
}
