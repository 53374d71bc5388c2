//! Ways around the search for secrets: each leads nowhere, in either direction.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    actors::{
        Issuer, Origin, Sidecar,
        agent::{self, request},
        issuer::Behaviour,
        origin,
        sidecar::Setup,
    },
    secrets::with_issuer,
};

fn pat() -> String {
    format!("ghp_{}", "aB3dE6gH9kL2".repeat(3))
}

fn jwt() -> String {
    let part = |json: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
    format!(
        "{}.{}.{}",
        part(r#"{"alg":"HS256","typ":"JWT"}"#),
        part(r#"{"sub":"session-1"}"#),
        "aB3dE6gH9kL2".repeat(3)
    )
}

fn value(text: impl AsRef<[u8]>) -> HeaderValue {
    HeaderValue::from_bytes(text.as_ref()).expect("a value")
}

/// A sidecar whose origin is given what this file holds.
fn with_file(setup: Setup, origin: &Origin, held: &str, placement: Value) -> Setup {
    setup.file("key", held).in_front_of_as(origin, json!({"credential": "key"})).set(json!({
        "credentials": {"key": {"kind": "file", "file": "key", "as": placement, "owner": "team-x"}},
    }))
}

fn found(record: &Value) -> Vec<String> {
    let text = |found: &Value, member: &str| found[member].as_str().expect("a text").to_owned();
    let each = |found: &Value| format!("{} {}", text(found, "kind"), text(found, "where"));
    record["secrets"].as_array().map(|all| all.iter().map(each).collect()).unwrap_or_default()
}

#[tokio::test]
async fn a_key_inside_a_structured_field_never_comes_back_alone() {
    const KEY: &str = "y_NbAk0123+ab/defGHI9";
    let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
    for (name, held) in [
        ("authorization", format!("Token token={KEY}")),
        ("authorization", format!("Token token=\"{KEY}\", email=\"robot\"")),
        ("x-auth", format!("id=17;key={KEY}")),
        ("cookie", format!("theme=dark; session={KEY}")),
        ("authorization", basic(&format!("robot:{KEY}"))),
        ("x-registry-auth", STANDARD.encode(format!("robot:{KEY}"))),
    ] {
        let setup = Origin::https("api.example.com").answering(|_| async {
            let mut response = Response::new(origin::full(format!("your key is {KEY}.")));
            response.headers_mut().insert("x-echo", HeaderValue::from_static(KEY));
            response
        });
        let origin = setup.start().await;
        let mut sidecar = with_file(Sidecar::permissive(), &origin, &held, json!({"header": name})).start().await;

        let answer = sidecar.agent().get(&origin.url("/")).await;

        let stars = "*".repeat(KEY.len() - "REDACTED".len());
        assert_eq!(answer.text(), format!("your key is REDACTED{stars}."), "{name}: {held}");
        assert_eq!(answer.headers["x-echo"], format!("REDACTED{stars}"));
        sidecar.ended().await;
        let record = sidecar.audit().await.remove(0);
        let scrubbed = json!([{"where": "header:x-echo", "count": 1}, {"where": "body", "count": 1}]);
        assert_eq!(record["answer"]["scrubbed"], scrubbed, "{name}");
    }
}

#[tokio::test]
async fn fields_of_mcp_and_of_tracing_carry_no_secret() {
    let plain = Origin::https("api.example.com").start().await;
    let tools = Origin::https("tools.example.com").start().await;
    let mut sidecar =
        Sidecar::permissive().in_front_of(&plain).in_front_of_as(&tools, json!({"protocol": "mcp"})).start().await;
    let (pat, jwt) = (pat(), jwt());
    let message = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (origin, name, said, passes) in [
        (&plain, "mcp-foo", pat.clone(), false),
        (&plain, "mcp-session-id", pat.clone(), false),
        (&plain, "mcp-session-id", jwt.clone(), false),
        (&plain, "mcp-param-key", pat.clone(), false),
        (&plain, "mcp-session-id", "0190b6f6-9d7c-7c3e-8b1a-2f6d5c4b3a21".into(), true),
        (&plain, "tracestate", format!("a=1,b={pat}"), false),
        (&plain, "tracestate", "a=1,b=2".into(), true),
        (&tools, "mcp-foo", pat.clone(), false),
        (&tools, "mcp-session-id", pat.clone(), false),
        (&tools, "mcp-param-key", pat.clone(), false),
        (&tools, "mcp-param-key", "blue".into(), true),
        // What the specification names as one way to make them.
        (&tools, "mcp-session-id", jwt.clone(), true),
        (&tools, "tracestate", format!("a={pat}"), false),
    ] {
        let mut call = request(Method::POST, &origin.url("/"), message);
        for (name, said) in [("content-type", "application/json"), ("traceparent", parent), (name, &*said)] {
            call.headers_mut().insert(name, value(said));
        }

        assert_eq!(sidecar.agent().send(call).await.to_string(), "200", "{name}: {said}");

        let seen = origin.requests().pop().expect("it arrived");
        assert_eq!(seen.header(name), passes.then_some(&*said), "{}: {name}", origin.name);
        assert!(seen.header("traceparent").is_some());
        sidecar.ended().await;
        let record = sidecar.audit().await.pop().expect("it was recorded");
        let kind = if said.contains(&pat) { "github_pat" } else { "jwt" };
        let expected = if passes { vec![] } else { vec![format!("{kind} header:{name}")] };
        assert_eq!(found(&record), expected, "{}: {said}", origin.name);
    }
}

#[tokio::test]
async fn what_is_observed_passes_in_fields_of_mcp_and_of_tracing_too() {
    let pat = pat();
    for (mode, said) in [("observe", pat.clone()), ("redact", "REDACTED".to_owned())] {
        let tools = Origin::https("tools.example.com").start().await;
        let destination = json!({"protocol": "mcp", "secrets": {"mode": mode}});
        let sidecar = Sidecar::permissive().in_front_of_as(&tools, destination).start().await;
        let mut call = request(Method::POST, &tools.url("/"), r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
        for (name, said) in [
            ("content-type", "application/json"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", &format!("a={pat}")),
            ("mcp-param-key", &pat),
        ] {
            call.headers_mut().insert(name, value(said));
        }

        assert_eq!(sidecar.agent().send(call).await.to_string(), "200");

        let seen = &tools.requests()[0];
        assert_eq!(seen.header("tracestate"), Some(&*format!("a={said}")));
        assert_eq!(seen.header("mcp-param-key"), Some(&*said));
    }
}

#[tokio::test]
async fn trailers_of_a_request_carry_no_secret() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let setup = Origin::https("api.example.com").answering(move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            let body = request.into_body().collect().await.expect("it is whole");
            let _ = tell.send(body.trailers().cloned().unwrap_or_default());
            Response::new(origin::full("done"))
        }
    });
    let origin = setup.start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let pat = pat();
    let hidden = STANDARD.encode(format!("see {pat} there"));
    let fields = [
        ("grpc-x", pat.clone()),
        ("grpc-status-details-bin", hidden),
        ("x-amz-checksum-crc32", pat.clone()),
        ("digest", format!("sha-256={pat}")),
        ("content-digest", "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:".to_owned()),
    ];
    let trailers: HeaderMap = fields.iter().map(|(name, said)| (HeaderName::from_static(name), value(said))).collect();
    let frames = [Ok(Frame::data(Bytes::from("data"))), Ok(Frame::trailers(trailers))];
    let body: agent::Body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
    let call = Request::post(origin.url("/x")).header("content-type", "application/grpc").header("te", "trailers");

    let answer = sidecar.agent().http2().send(call.body(body).expect("a request")).await;

    assert_eq!(answer.to_string(), "200");
    let arrived = told.recv().await.expect("it was called");
    assert_eq!(arrived.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-digest"]);
    sidecar.ended().await;
    let record = sidecar.audit().await.remove(0);
    let expected = ["grpc-x", "grpc-status-details-bin", "x-amz-checksum-crc32", "digest"];
    assert_eq!(found(&record), expected.map(|name| format!("github_pat trailer:{name}")));
    assert!(!record.to_string().contains(&pat));
    let metrics = sidecar.metrics();
    assert!(metrics.contains(r#"tollgate_secrets_total{kind="github_pat",action="stripped"} 4"#), "{metrics}");
}

#[tokio::test]
async fn a_type_that_is_none_hides_no_body() {
    let origin = Origin::https("api.example.com").start().await;
    let destination = json!({"secrets": {"bodies": true}});
    let mut sidecar = Sidecar::permissive().in_front_of_as(&origin, destination).start().await;
    let body = format!(r#"{{"key": "{}"}}"#, pat());
    let typed = |types: &[&str]| {
        let mut call = request(Method::POST, &origin.url("/x"), &body);
        for media in types {
            call.headers_mut().append("content-type", value(media));
        }
        call
    };
    for media in ["application/\tjson", "image/png, application/json", "image /png", "image/", "image/png/json", "é/x"]
    {
        assert_eq!(sidecar.agent().send(typed(&[media])).await.to_string(), "200", "{media}");
        assert_eq!(origin.requests().pop().expect("it arrived").body, r#"{"key": "REDACTED"}"#, "{media}");
        sidecar.ended().await;
    }
    let before = origin.requests().len();
    for agent in [sidecar.agent(), sidecar.agent().http2()] {
        let answer = agent.send(typed(&["application/octet-stream", "application/json"])).await;
        assert_eq!(answer.to_string(), "400 malformed_request");
        sidecar.ended().await;
    }
    assert_eq!(origin.requests().len(), before);
}

#[tokio::test]
async fn a_placeholder_hides_no_secret() {
    const FAKE: &str = "ghp_tollgate0000000000000000000000000000";
    let origin = Origin::https("api.example.com").start().await;
    let destination = json!({
        "credential": "key",
        "placeholder": FAKE,
        "secrets": {"kinds": {"github_pat": "refuse", "slack": "refuse"}},
    });
    let mut sidecar = Sidecar::permissive()
        .file("key", "the-real-key")
        .in_front_of_as(&origin, destination)
        .set(json!({"credentials": {"key": {"kind": "file", "file": "key", "owner": "team-x"}}}))
        .start()
        .await;
    let (pat, slack) = (pat(), format!("xoxb-{}-{}-{}", "1".repeat(12), "2".repeat(12), "aB3dE6gH".repeat(3)));
    let basic = |pair: String| format!("Basic {}", STANDARD.encode(pair));
    for (fields, told) in [
        (vec![("authorization", format!("Bearer {FAKE}"))], "200"),
        (vec![("authorization", format!("Token token=\"{FAKE}\""))], "200"),
        (vec![("authorization", basic(format!("robot@example.com:{FAKE}")))], "200"),
        (vec![("authorization", format!("Bearer {FAKE} {pat}"))], "403 secret_refused"),
        (vec![("authorization", format!("Bearer {FAKE},{slack}"))], "403 secret_refused"),
        (vec![("authorization", basic(format!("{pat}:{FAKE}")))], "403 secret_refused"),
        (
            vec![("authorization", format!("Bearer {FAKE}")), ("authorization", format!("Bearer {pat}"))],
            "403 secret_refused",
        ),
        // The agent chooses names, and this one is a secret.
        (vec![(&*pat.to_lowercase(), FAKE.to_owned())], "403 placeholder_misplaced"),
    ] {
        let mut call = request(Method::GET, &origin.url("/x"), "");
        for (name, said) in &fields {
            call.headers_mut().append(HeaderName::try_from(*name).expect("a name"), value(said));
        }

        assert_eq!(sidecar.agent().send(call).await.to_string(), told, "{fields:?}");

        sidecar.ended().await;
        let record = sidecar.audit().await.pop().expect("it was recorded");
        assert!(!record.to_string().to_lowercase().contains(&pat.to_lowercase()), "{record}");
        let kinds = found(&record);
        assert_eq!(kinds == ["placeholder header:authorization"], told == "200", "{kinds:?}");
    }
    assert!(origin.requests().iter().all(|seen| seen.header("authorization") == Some("Bearer the-real-key")));
}

#[tokio::test]
async fn what_is_for_us_does_not_come_behind_the_body() {
    let setup = Origin::https("api.example.com").answering(|_| async {
        let mut trailers = HeaderMap::new();
        for name in ["dpop-nonce", "set-cookie", "www-authenticate", "authentication-info", "x-kept"] {
            trailers.insert(name, HeaderValue::from_static("told"));
        }
        let frames = [Ok(Frame::data(Bytes::from("text"))), Ok(Frame::trailers(trailers))];
        Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
    });
    let origin = setup.start().await;
    let mut sidecar = with_file(Sidecar::permissive(), &origin, "the-real-key", json!("bearer")).start().await;

    let answer = sidecar.agent().http2().get(&origin.url("/")).await;

    let trailers = answer.trailers.expect("they pass");
    assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    sidecar.ended().await;
    let record = sidecar.audit().await.remove(0);
    assert_eq!(
        record["answer"]["withheld"],
        json!(["set-cookie", "www-authenticate", "authentication-info", "dpop-nonce"])
    );
}

#[tokio::test]
async fn a_token_in_an_answer_that_makes_no_sense_is_revoked() {
    for answer in [
        r#"{"access_token":"token-of-nobody","token_type":"Bearer","expires_in":300,"scope":"read","scope":"read"}"#,
        r#"{"access_token":"token-of-nobody","token_type":"Bearer","expires_in":300,"scope":["read"]}"#,
        r#"{"token_type":{"is":"Bearer"},"access_token":"token-of-nobody"} and more"#,
        r#"{"access_token":"token-of-nobody","token_type":"Bea"#,
    ] {
        let issuer = Issuer::start(Behaviour::Says(answer)).await;
        let origin = Origin::https("api.example.com").start().await;
        let sidecar = with_issuer(Sidecar::permissive(), &origin, &issuer).start().await;

        let told = sidecar.agent().get(&origin.url("/")).await.to_string();

        assert_eq!(told, "503 credential_malformed", "{answer}");
        assert!(origin.requests().is_empty());
        let revoked = timeout(Duration::from_secs(5), async {
            while issuer.revoked() != ["token-of-nobody"] {
                tokio::task::yield_now().await;
            }
        });
        revoked.await.expect("what was given is revoked");
    }
}
