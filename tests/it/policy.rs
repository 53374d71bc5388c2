//! What policy says is done, on every request.

use serde_json::{Value, json};

use crate::actors::{Origin, Sidecar};

pub const NO_WRITES: &str = r#"
package tollgate

default decision := {"decision": "allow"}

decision := {"decision": "deny", "reason": "no_writes", "message": "this task only reads", "rule": "test.no_writes", "class": "security"} if {
	input.call.effect != "read"
}
"#;

#[tokio::test]
async fn a_denied_request_never_reaches_the_origin() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::with_policy(NO_WRITES).in_front_of(&origin).start().await;

    let answer = sidecar.agent().post(&origin.url("/v1/files"), "{}").await;

    assert_eq!(answer.to_string(), "403 no_writes");
    assert!(origin.requests().is_empty());
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["POST api.example.com policy_denied"]);
}

#[tokio::test]
async fn a_refusal_tells_the_agent_what_to_do_next() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::with_policy(NO_WRITES).in_front_of(&origin).start().await;

    let answer = sidecar.agent().post(&origin.url("/v1/files"), "{}").await;
    sidecar.ended().await;

    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let mut problem = answer.json();
    assert_eq!(problem["decision_id"], answer.headers["tollgate-decision"].to_str().expect("text"));
    let record = &sidecar.audit().await[0];
    assert_eq!(problem["decision_id"], record["decision_id"]);
    assert_eq!(problem["trace_id"], record["trace_id"]);
    problem["decision_id"] = Value::Null;
    problem["trace_id"] = Value::Null;
    insta::assert_json_snapshot!(problem, @r#"
    {
      "class": "security",
      "decision_id": null,
      "detail": "this task only reads",
      "next_steps": [
        "Do not repeat this call: the answer stays the same.",
        "Choose a call that the task permits, or ask the person who gave the task."
      ],
      "reason": "no_writes",
      "retryable": false,
      "rule": "test.no_writes",
      "status": 403,
      "title": "Denied by policy",
      "trace_id": null,
      "type": "https://tollgate.dev/problems/policy_denied"
    }
    "#);
}

#[tokio::test]
async fn shadow_mode_forwards_and_records_what_it_would_have_denied() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::with_policy(NO_WRITES).in_front_of(&origin).set(json!({"mode": "shadow"})).start().await;

    let answer = sidecar.agent().post(&origin.url("/v1/files"), "x").await;
    let floor = sidecar.agent().get("http://169.254.169.254/").await;

    assert_eq!(answer.to_string(), "200");
    assert_eq!(floor.to_string(), "403 address_forbidden", "the hard floor holds in every mode");
    sidecar.ended().await;
    let record = &sidecar.audit().await[0];
    assert_eq!(record["decision"]["verdict"], "deny");
    assert_eq!(record["decision"]["enforced"], false);
    assert_eq!(record["outcome"], "completed");
}

#[tokio::test]
async fn an_approval_that_is_missing_is_said() {
    let policy = r#"
        package tollgate
        decision := {"decision": "require_approval", "reason": "needs_sre", "class": "missing_approval",
            "obligations": {"approval": {"group": "sre", "expires": "15m", "uses": 1}}}
    "#;
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::with_policy(policy).in_front_of(&origin).start().await;

    let answer = sidecar.agent().get(&origin.url("/")).await;

    assert_eq!(answer.to_string(), "403 needs_sre");
    assert_eq!(answer.json()["class"], "missing_approval");
    let problem = answer.json();
    assert_eq!((&problem["retryable"], answer.headers.get("retry-after")), (&json!(false), None));
    assert_eq!(problem["next_steps"][0], "Approvals can't be given in this version.");
    assert!(origin.requests().is_empty());
    sidecar.ended().await;
    assert_eq!(sidecar.records().await, ["GET api.example.com approval_required"]);
}

#[tokio::test]
async fn the_same_question_is_answered_from_the_cache() {
    let origin = Origin::https("api.example.com").start().await;
    let mut sidecar = Sidecar::permissive().in_front_of(&origin).start().await;

    let mut cached = Vec::new();
    for path in ["/a", "/b"] {
        sidecar.agent().get(&origin.url(path)).await;
        let spans = sidecar.next_spans().await;
        let span = spans.last().expect("the call's own span");
        cached.push(span.attribute("tollgate.decision.cached").expect("it is told").to_owned());
    }
    assert_eq!(cached, ["false", "true"], "the path is no input of the shipped policy, its matches are");
}
