//! Rows about policy: no clear yes is a no.

use std::fs;

use serde_json::json;

use super::{Row, asked, run};
use crate::actors::{Sidecar, sidecar::Setup};

/// A sidecar that decides by this rule.
fn policy(decision: &str) -> Setup {
    Sidecar::with_policy(&format!("package tollgate\n{decision}"))
}

pub(super) fn rows() -> Vec<Row> {
    let said = [
        ("a rule's no", r#"decision := {"decision": "deny"}"#, "policy_denied", "403 denied"),
        (
            "an approval is missing",
            r#"decision := {"decision": "require_approval"}"#,
            "approval_required",
            "403 approval_required",
        ),
        (
            "undefined",
            r#"decision := {"decision": "allow"} if input.call.method == "NONE""#,
            "policy_undefined",
            "403 policy_undefined",
        ),
        (
            "an error",
            r#"decision := {"decision": "allow"} if not startswith(input.call.port, "x")"#,
            "policy_failed",
            "403 policy_failed",
        ),
        (
            "two answers",
            "decision := {\"decision\": \"allow\"} if input.schema == 1\ndecision := {\"decision\": \"deny\"} if input.schema == 1",
            "policy_failed",
            "403 policy_failed",
        ),
        ("a boolean", "decision := true", "policy_wrong_type", "403 policy_wrong_type"),
        ("a misspelt value", r#"decision := {"decision": "alow"}"#, "policy_wrong_type", "403 policy_wrong_type"),
        ("no decision", r#"decision := {"reason": "fine"}"#, "policy_wrong_type", "403 policy_wrong_type"),
        (
            "an unknown field",
            r#"decision := {"decision": "allow", "obligation": {}}"#,
            "policy_unknown_field",
            "403 policy_unknown_field",
        ),
        (
            "an obligation that can't be kept",
            r#"decision := {"decision": "allow", "obligations": {"redact": ["/a"]}}"#,
            "policy_obligation_unsupported",
            "403 policy_obligation_unsupported",
        ),
    ];
    let mut rows: Vec<Row> = said
        .into_iter()
        .map(|(wrong, rule, label, answer)| Row::new(wrong, label, answer, asked(policy(rule))))
        .collect();
    rows.push(Row::new("slow", "policy_budget_spent", "403 policy_budget_spent", asked(slow())));
    rows.push(Row::new("an expired task", "task_expired", "403 task_expired", asked(expired())));
    rows
}

/// Eight million steps, and two milliseconds for them.
fn slow() -> Setup {
    let rule = "decision := {\"decision\": \"allow\"} if {\n\tinput.call.host == \"api.example.com\"\n\tcount([1 | some a in data.many; some b in data.many; some c in data.many; a + b + c > 0]) > 0\n}";
    let numbers: Vec<u32> = (1..=200).collect();
    let setup = policy(rule).set(json!({"policy": {"budget": "2ms"}}));
    fs::create_dir_all(setup.path().join("policy/many")).expect("a directory");
    fs::write(setup.path().join("policy/many/data.json"), json!(numbers).to_string()).expect("it can be written");
    setup
}

fn expired() -> Setup {
    Sidecar::permissive().set(json!({"tasks": {"source": ["static"], "static": {"purpose": "x", "ttl": "1ms"}}}))
}

#[tokio::test]
async fn what_policy_does_not_say_clearly_is_refused() {
    run(rows()).await;
}

#[tokio::test]
async fn a_policy_that_cannot_be_loaded_keeps_the_sidecar_from_starting() {
    for (case, rego, told) in [
        ("does not parse", "package tollgate\ndecision := {", "policy.rego"),
        ("an unknown builtin", "package tollgate\ndecision := {\"decision\": \"allow\"} if nosuch(1)", "nosuch"),
        (
            "a refused builtin",
            "package tollgate\ndecision := {\"decision\": \"allow\"} if count(numbers.range(1, 9)) > 0",
            "numbers.range",
        ),
        (
            "a misspelt input",
            "package tollgate\ndecision := {\"decision\": \"allow\"} if not input.taks.purpose",
            "input.taks",
        ),
        ("deep nesting", "package tollgate\nx := [[[[[[[[[[[[1]]]]]]]]]]]]", "nest"),
    ] {
        let error = match Sidecar::with_policy(rego).try_start().await {
            Ok(_) => panic!("{case}: it started"),
            Err(error) => format!("{error:#}"),
        };
        assert!(error.contains(told), "{case}: {error}");
    }
}
