//! What an injected pod's sidecar has and its agent has not: an identity that is proven, a task that the pod's author
//! gave it, credentials that are minted for both, and the socket at which tasks are opened.

use std::sync::{Arc, Mutex};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Response, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{CONFIG, JOB, NAME, POLICED, injected_by, kubelet::Pod, lines, recorded, started_as, world};
use crate::{
    actors::{Origin, origin},
    machine::{Network, TOLLGATE, WORLD4, can_be_had},
};

const SOCKET: &str = "/run/tollgate/admin/admin.sock";

const ISSUER: &str = "credentials: {api: {kind: oauth_client_credentials, token_endpoint: 'https://10.77.0.1:8443/token', \
                      client: {id: tollgate, assertion: identity, audience: tollgate}, scopes: [read]}}";

/// What the chart writes where the sidecar's token is mounted, and an origin with a credential.
fn config(credentials: &str) -> String {
    let proven = CONFIG.replace("kind: static", "kind: kubernetes");
    let wanted = "addresses: [10.77.0.1], credential: api";
    format!("{}{credentials}\n", proven.replace("addresses: [10.77.0.1]", wanted))
}

fn annotated(annotations: &Value) -> String {
    JOB.replace("labels: {app: triage}", &format!("labels: {{app: triage}}, annotations: {annotations}"))
}

/// Gives a token to whom an assertion names, and keeps what assertions said.
async fn issuer(network: &Network) -> (Origin, Arc<Mutex<Vec<Value>>>) {
    let shown = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&shown);
    let answering = move |request: http::Request<hyper::body::Incoming>| {
        let kept = Arc::clone(&kept);
        async move {
            let form = request.into_body().collect().await.expect("the body is whole").to_bytes();
            let form = String::from_utf8(form.to_vec()).expect("text");
            // No character of a token is escaped in a form.
            let assertion = form.split('&').find_map(|field| field.strip_prefix("client_assertion="));
            let claims = assertion.expect("it shows one").split('.').nth(1).expect("a JWT");
            let claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).expect("base64")).expect("JSON");
            kept.lock().expect("no test panics inside").push(claims);
            let token = json!({"access_token": "minted-for-triage", "token_type": "Bearer", "expires_in": 300});
            let mut response = Response::new(origin::full(token.to_string()));
            response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a value"));
            response
        }
    };
    let listener = network.world.listen(&format!("{WORLD4}:8443"));
    (Origin::https(WORLD4).on(listener).answering(answering).start().await, shown)
}

/// The status of a call, and the answer's body where it is a refusal.
fn called(pod: &Pod<'_>, container: &str, more: &[&str]) -> String {
    let url = format!("https://{NAME}/hello");
    let curl = [&["curl", "-sS", "-w", "\n%{http_code}", &url], more].concat();
    let output = String::from_utf8(pod.run(container, &curl).stdout).expect("text");
    match output.rsplit_once('\n') {
        Some((_, "200")) => "200".to_owned(),
        Some((body, status)) => format!("{status} {body}"),
        None => output,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_proves_its_identity_and_works_in_the_task_of_its_annotation() {
    if !can_be_had() {
        return;
    }
    let network = Network::new();
    let (origin, (issuer, shown)) = (world(&network).await, issuer(&network).await);
    let job = annotated(&json!({"tollgate.dev/task": "{purpose: triage, max_effect: read, ttl: 8h}"}));
    let config = [("config.yaml", config(ISSUER)), ("root.pem", format!("{}{}", origin.root, issuer.root))].into();
    let template = injected_by(&job, json!({"capture": "init"}));
    let mut pod = started_as(&network, config, template, "init", POLICED);

    assert_eq!(called(&pod, "agent", &[]), "200");
    assert_eq!(origin.requests()[0].header("authorization"), Some("Bearer minted-for-triage"));
    let proven = shown.lock().expect("no test panics inside")[0].clone();
    assert_eq!(proven["sub"], "system:serviceaccount:agents:triage");
    let record = recorded(&pod).await;
    assert_eq!(record["agent"]["id"], "spiffe://cluster.local/ns/agents/sa/triage", "{record}");
    assert_eq!(record["task"]["purpose"], "triage", "{record}");
    assert_eq!(record["task"]["source"], "static");

    the_socket_is_the_sidecars(&pod);
    assert!(pod.file("tollgate-ca-key", "revocations.jsonl").exists(), "what a crash leaves is written down in memory");

    pod.sidecar().signal(Signal::KILL);
    pod.sidecar().ended();
    pod.start_sidecar();
    the_socket_is_the_sidecars(&pod);
    assert_eq!(called(&pod, "agent", &[]), "200", "and its identity is proven again");
    assert!(network.escaped().is_empty(), "{:?}", network.escaped());
}

/// `kubectl exec POD -c tollgate -- tollgate task list`, and the same by those who must not.
fn the_socket_is_the_sidecars(pod: &Pod<'_>) {
    let listed = pod.run("tollgate", &[TOLLGATE, "task", "list"]);
    assert!(listed.status.success(), "{listed:?}");
    assert!(lines(&listed).iter().any(|line| line.contains("triage")), "{listed:?}");

    let stranger = pod.run_as(1000, "tollgate", &[TOLLGATE, "task", "list"]);
    assert_eq!(stranger.status.code(), Some(77), "who sees the socket is not served for that: {stranger:?}");
    for agent in ["agent", "root"] {
        let blind = pod.run(agent, &[TOLLGATE, "task", "list", "--admin", SOCKET]);
        assert_eq!(blind.status.code(), Some(69), "{agent} does not see it: {blind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_container_that_is_named_opens_tasks() {
    if !can_be_had() {
        return;
    }
    let network = Network::new();
    let origin = world(&network).await;
    let job = annotated(&json!({"tollgate.dev/orchestrator": "boss"}));
    let boss =
        r#"{name: boss, image: "registry.example.test/boss:1", securityContext: {runAsUser: 2000, runAsGroup: 2000}}"#;
    let template = injected_by(&format!("{job}      - {boss}\n"), json!({"permit": {"orchestrators": true}}));
    let config = [("config.yaml", CONFIG.to_owned()), ("root.pem", origin.root.clone())].into();
    let pod = started_as(&network, config, template, "init", POLICED);

    let open =
        ["curl", "-sS", "--unix-socket", SOCKET, "--json", r#"{"purpose": "triage"}"#, "http://localhost/v1/tasks"];
    let opened = pod.run("boss", &open);
    let opened: Value = serde_json::from_slice(&opened.stdout).unwrap_or_else(|_| panic!("{opened:?}"));
    let handle = format!("Tollgate-Task: {}", opened["handle"].as_str().expect("a handle"));
    assert_eq!(called(&pod, "agent", &["-H", &handle]), "200");
    assert!(called(&pod, "agent", &["-H", "Tollgate-Task: tollgate_task_x"]).starts_with("403 "));
    let record = recorded(&pod).await;
    assert_eq!((&record["task"]["purpose"], &record["task"]["source"]), (&json!("triage"), &json!("header")));

    for agent in ["agent", "root"] {
        let refused = pod.run(agent, &open);
        assert_eq!(refused.status.code(), Some(7), "{agent} does not see it: {refused:?}");
    }
    let stranger = pod.run_as(1000, "boss", &[TOLLGATE, "task", "list", "--admin", SOCKET]);
    assert_eq!(stranger.status.code(), Some(77), "{stranger:?}");
    let replaced = pod.run("boss", &["rm", "-f", SOCKET]);
    assert!(!replaced.status.success(), "it reads the directory only: {replaced:?}");
}
