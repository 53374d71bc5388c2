use serde_json::json;

use super::{input::tests::Scene, *};

mod same;

const ALLOW: &str = "decision := {\"decision\": \"allow\", \"reason\": \"fine\", \"rule\": \"t.fine\"}";

fn settings() -> config::Policy {
    config::Policy {
        paths: Vec::new(),
        data: None,
        program: None,
        decision: "tollgate/decision".into(),
        budget: Duration::from_secs(5),
        cache_entries: 100,
        cache_ttl: Duration::from_secs(60),
    }
}

fn try_compile(rules: &str, settings: &config::Policy) -> Result<Policy, LoadError> {
    let modules = vec![("test.rego".to_owned(), format!("package tollgate\n{rules}\n"))];
    let sources = Sources { modules, data: json!({}), revision: "r1".into() };
    Policy::compile(sources, settings, 2)
}

fn compile(rules: &str) -> Policy {
    try_compile(rules, &settings()).unwrap_or_else(|error| panic!("{rules}\n{error}"))
}

fn decide(policy: &Policy, scene: &Scene, mode: Mode) -> Decision {
    policy.decide(&scene.input(), mode)
}

fn denial(rules: &str) -> Denial {
    decide(&compile(rules), &Scene::http(), Mode::Enforce).outcome.unwrap_err()
}

#[test]
fn a_clear_yes_is_a_permit_with_its_obligations() {
    let policy = compile(
        r#"decision := {"decision": "allow", "rule": "t.fine", "reason": "fine", "obligations": {"max_ttl": "1m", "sensitive": false}}"#,
    );
    let decision = decide(&policy, &Scene::http(), Mode::Enforce);
    let permit = decision.outcome.unwrap();
    assert_eq!((&**permit.rule(), &**permit.reason(), permit.enforced()), ("t.fine", "fine", true));
    assert_eq!(permit.obligations().max_ttl, Some(Duration::from_secs(60)));
    assert_eq!(&*decision.revision, "r1");
    assert!(decision.shadowed.is_none());
}

#[test]
fn a_rules_no_says_what_the_rule_says() {
    let denial = denial(
        r#"decision := {"decision": "deny", "reason": "late", "message": "Too late.", "rule": "t.late", "class": "quota"}"#,
    );
    assert_eq!(denial.kind, DenialKind::Rule);
    assert_eq!([&*denial.reason, &*denial.message, &*denial.rule], ["late", "Too late.", "t.late"]);
    assert_eq!(denial.class, Class::Quota);
}

#[test]
fn a_no_without_words_gets_ours() {
    let bare = denial(r#"decision := {"decision": "deny"}"#);
    assert_eq!((bare.kind, &*bare.reason, bare.class), (DenialKind::Rule, "denied", Class::Security));
    assert!(!bare.message.is_empty());
    let approval = denial(r#"decision := {"decision": "require_approval"}"#);
    assert_eq!((approval.kind, &*approval.reason), (DenialKind::ApprovalRequired, "approval_required"));
    assert_eq!(approval.class, Class::MissingApproval);
}

#[test]
fn what_is_no_decision_is_a_denial_of_class_policy_error_with_its_own_label() {
    for (rules, why) in [
        (r#"decision := {"decision": "allow"} if input.call.method == "GET""#, Undecided::Undefined),
        ("decision := 1 / (input.call.port - 443)", Undecided::Error),
        ("decision := 1 if input.call.port\ndecision := 2 if input.call.host", Undecided::Error),
        ("decision := true", Undecided::WrongType),
        (r#"decision := {"decision": "yes"}"#, Undecided::WrongType),
        (r#"decision := {"decision": "allow", "allowed": true}"#, Undecided::UnknownField),
        (r#"decision := {"decision": "allow", "obligations": {"redact": ["/a"]}}"#, Undecided::Obligation),
        (r#"decision := {"decision": "allow", "obligations": {"sensitive": true}}"#, Undecided::Obligation),
    ] {
        let denial = denial(rules);
        assert_eq!(denial.kind, DenialKind::Undecided(why), "{rules}");
        assert_eq!((&*denial.reason, denial.class), (why.label(), Class::PolicyError), "{rules}");
        assert_eq!(crate::refusal::Refusal::Denied(denial).label(), why.label());
    }
}

#[test]
fn shadow_mode_lets_go_on_what_was_denied_and_says_so() {
    for rules in [r#"decision := {"decision": "deny", "obligations": {"max_ttl": "1m"}}"#, "decision := true"] {
        let decision = decide(&compile(rules), &Scene::http(), Mode::Shadow);
        let permit = decision.outcome.unwrap();
        assert!(!permit.enforced() && permit.obligations().max_ttl.is_none());
        assert!(decision.shadowed.is_some(), "{rules}");
    }
    let allowed = decide(&compile(ALLOW), &Scene::http(), Mode::Shadow);
    assert!(allowed.outcome.unwrap().enforced() && allowed.shadowed.is_none());
}

#[test]
fn the_second_equal_call_is_answered_from_the_cache() {
    let policy = compile(&format!("{ALLOW} if input.call.method == \"POST\""));
    let mut scene = Scene::http();
    assert_eq!(decide(&policy, &scene, Mode::Enforce).cache, CacheUse::Miss);
    assert_eq!(decide(&policy, &scene, Mode::Enforce).cache, CacheUse::Hit);
    scene.call.http.path = "/elsewhere".into();
    assert_eq!(decide(&policy, &scene, Mode::Enforce).cache, CacheUse::Hit, "the path is not read");
    scene.call.http.method = ::http::Method::GET;
    let other = decide(&policy, &scene, Mode::Enforce);
    assert_eq!(other.cache, CacheUse::Bypass, "an undefined answer is not kept");
    assert!(other.outcome.is_err());
}

#[test]
fn another_task_or_epoch_is_another_question() {
    let policy = compile(ALLOW);
    let mut scene = Scene::http();
    decide(&policy, &scene, Mode::Enforce).outcome.unwrap();
    scene.task.epoch += 1;
    assert_eq!(decide(&policy, &scene, Mode::Enforce).cache, CacheUse::Miss);
    scene.task.id = "task-2".into();
    assert_eq!(decide(&policy, &scene, Mode::Enforce).cache, CacheUse::Miss);
    scene.task.expires_at = Some(SystemTime::UNIX_EPOCH);
    scene.task.epoch += 1;
    assert_eq!(decide(&policy, &scene, Mode::Enforce).cache, CacheUse::Bypass, "the task has ended");
}

#[test]
fn what_must_not_be_repeated_is_evaluated_each_time() {
    let turned_off = config::Policy { cache_entries: 0, ..settings() };
    for policy in [
        compile(r#"decision := {"decision": "require_approval"}"#),
        compile(r#"decision := {"decision": "allow", "cache": {"ttl": "0s"}}"#),
        compile(&format!("{ALLOW} if time.now_ns() > 0")),
        try_compile(ALLOW, &turned_off).unwrap(),
    ] {
        for _ in 0..2 {
            assert_eq!(decide(&policy, &Scene::http(), Mode::Enforce).cache, CacheUse::Bypass);
        }
    }
}

#[test]
fn a_budget_that_is_spent_is_a_denial() {
    let settings = config::Policy { budget: Duration::from_millis(2), ..settings() };
    let rules = "n := numbers.range(1, 10)\ndecision := 1";
    assert!(try_compile(rules, &settings).is_err(), "what can't be bounded is refused when it is loaded");
    let slow = "s := [1 | some a in l; some b in l; some c in l; a + b + c > 0]\n\
                l := [a | some a in input.call.body.json.rows; some b in input.call.body.json.rows; a + b >= 0]\n\
                decision := {\"decision\": \"allow\"} if count(s) > 1";
    let mut scene = Scene::http();
    scene.call.body.json = Some(json!({"rows": (0..100).collect::<Vec<u32>>()}));
    let denial = decide(&try_compile(slow, &settings).unwrap(), &scene, Mode::Enforce).outcome.unwrap_err();
    assert_eq!(denial.kind, DenialKind::Undecided(Undecided::Budget));
}

#[test]
fn a_path_that_the_input_does_not_have_is_refused_at_load() {
    let error = try_compile(&format!("{ALLOW} if input.taks.purpose == \"x\""), &settings()).unwrap_err();
    assert!(error.to_string().contains("input.taks.purpose"), "{error}");
}

#[test]
fn a_document_written_by_hand_gets_the_same_answer() {
    let policy = compile(&format!("{ALLOW} if \"x\" in input.call.query.q"));
    let answer = policy.evaluate(&Scene::http().to_json()).unwrap();
    assert_eq!(Answer::decode(&answer).unwrap().decision, Verdict::Allow);
    assert_eq!(policy.evaluate(&json!({})).unwrap(), regorus::Value::Undefined);
    let failing = compile("decision := 1 / (input.call.port - 443)");
    let failure = failing.evaluate(&Scene::http().to_json()).unwrap_err();
    assert_eq!(failure.why, Undecided::Error);
    assert!(failure.text.contains("test.rego:2"), "{}", failure.text);
}
