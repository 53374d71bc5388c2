use super::*;

fn decode(json: &str) -> Result<Answer, Undecided> {
    Answer::decode(&Value::from_json_str(json).unwrap())
}

#[test]
fn every_field_of_the_contract_is_read() {
    let answer = decode(
        r#"{"decision": "require_approval", "reason": "big", "message": "Ask.", "rule": "team.big", "class": "quota",
            "obligations": {"scopes": ["issues:write"], "max_ttl": "10m", "redact": ["/arguments/token"],
                            "strip_headers": ["X-Debug"], "taint": "confidential", "sensitive": true, "recheck": "60s",
                            "approval": {"group": "sre", "expires": "15m", "uses": 1}},
            "cache": {"ttl": "5s"}}"#,
    )
    .unwrap();
    assert_eq!(answer.decision, Verdict::RequireApproval);
    assert_eq!([&*answer.reason, &*answer.message, &*answer.rule], ["big", "Ask.", "team.big"]);
    assert_eq!(answer.class, Class::Quota);
    assert_eq!(answer.cache_ttl, Some(Duration::from_secs(5)));
    let expected = Obligations {
        scopes: Some(vec!["issues:write".into()]),
        max_ttl: Some(Duration::from_secs(600)),
        strip_headers: vec![HeaderName::from_static("x-debug")],
        approval: Some(Approval { group: Some("sre".into()), expires: Some(Duration::from_secs(900)), uses: Some(1) }),
    };
    assert_eq!(answer.obligations, expected);
}

#[test]
fn a_bare_decision_is_enough() {
    for (json, decision, class) in [
        (r#"{"decision": "allow"}"#, Verdict::Allow, Class::Security),
        (r#"{"decision": "deny"}"#, Verdict::Deny, Class::Security),
        (r#"{"decision": "require_approval"}"#, Verdict::RequireApproval, Class::MissingApproval),
    ] {
        let answer = decode(json).unwrap();
        assert_eq!((answer.decision, answer.class), (decision, class), "{json}");
        assert_eq!(answer.obligations, Obligations::default());
    }
}

#[test]
fn a_wrong_shape_is_no_decision() {
    let bound = |what: &str| format!(r#"{{"decision": "allow", "obligations": {what}}}"#);
    for json in [
        "true".to_owned(),
        "null".into(),
        "[]".into(),
        "\"allow\"".into(),
        "1".into(),
        "{}".into(),
        r#"{"reason": "x"}"#.into(),
        r#"{"decision": true}"#.into(),
        r#"{"decision": null}"#.into(),
        r#"{"decision": "Allow"}"#.into(),
        r#"{"decision": "allow "}"#.into(),
        r#"{"decision": ["allow"]}"#.into(),
        r#"{"decision": "allow", "reason": null}"#.into(),
        r#"{"decision": "allow", "reason": 1}"#.into(),
        r#"{"decision": "allow", "message": ["x"]}"#.into(),
        r#"{"decision": "allow", "rule": {}}"#.into(),
        r#"{"decision": "deny", "class": "policy_error"}"#.into(),
        r#"{"decision": "deny", "class": "Security"}"#.into(),
        r#"{"decision": "allow", "cache": "5s"}"#.into(),
        r#"{"decision": "allow", "cache": {"ttl": 5}}"#.into(),
        r#"{"decision": "allow", "cache": {"ttl": "soon"}}"#.into(),
        r#"{"decision": "allow", "cache": {"ttl": "-5s"}}"#.into(),
        r#"{"decision": "allow", "obligations": null}"#.into(),
        r#"{"decision": "allow", "obligations": []}"#.into(),
        bound(r#"{"scopes": "issues:write"}"#),
        bound(r#"{"scopes": [1]}"#),
        bound(r#"{"scopes": {"a": "b"}}"#),
        bound(r#"{"max_ttl": 600}"#),
        bound(r#"{"max_ttl": ""}"#),
        bound(r#"{"strip_headers": "x-a"}"#),
        bound(r#"{"strip_headers": ["x a"]}"#),
        bound(r#"{"strip_headers": [""]}"#),
        bound(r#"{"sensitive": "true"}"#),
        bound(r#"{"sensitive": 1}"#),
        bound(r#"{"redact": "/a"}"#),
        bound(r#"{"redact": ["a"]}"#),
        bound(r#"{"recheck": 60}"#),
        bound(r#"{"taint": "secret"}"#),
        bound(r#"{"approval": "sre"}"#),
        bound(r#"{"approval": {"group": 1}}"#),
        bound(r#"{"approval": {"uses": 0}}"#),
        bound(r#"{"approval": {"uses": -1}}"#),
        bound(r#"{"approval": {"uses": 1.5}}"#),
        bound(r#"{"approval": {"uses": "1"}}"#),
        bound(r#"{"approval": {"uses": 4294967296}}"#),
        bound(r#"{"approval": {"expires": 15}}"#),
    ] {
        assert_eq!(decode(&json), Err(Undecided::WrongType), "{json}");
    }
}

#[test]
fn an_unknown_field_is_no_decision_wherever_it_stands() {
    for json in [
        r#"{"decision": "allow", "allowed": true}"#,
        r#"{"decision": "allow", "obligation": {}}"#,
        r#"{"decision": "deny", "Reason": "x"}"#,
        r#"{"decision": "allow", "obligations": {"strip_header": []}}"#,
        r#"{"decision": "allow", "cache": {"ttl": "5s", "max": 1}}"#,
        r#"{"decision": "require_approval", "obligations": {"approval": {"groups": ["sre"]}}}"#,
    ] {
        assert_eq!(decode(json), Err(Undecided::UnknownField), "{json}");
    }
}

#[test]
fn a_field_that_is_named_by_no_string_is_unknown() {
    let mut engine = regorus::Engine::new();
    let value = engine.eval_query(r#"{"decision": "allow", 1: 2}"#.into(), false).unwrap();
    assert_eq!(Answer::decode(&value.result[0].expressions[0].value), Err(Undecided::UnknownField));
}

#[test]
fn undefined_is_told_apart_from_a_wrong_type() {
    assert_eq!(Answer::decode(&Value::Undefined), Err(Undecided::Undefined));
}

#[test]
fn a_yes_bound_to_what_cannot_be_done_is_no_yes() {
    for bound in [
        r#"{"redact": ["/arguments/token"]}"#,
        r#"{"recheck": "60s"}"#,
        r#"{"taint": "public"}"#,
        r#"{"sensitive": true}"#,
        r#"{"approval": {}}"#,
        r#"{"approval": {"group": "sre"}}"#,
    ] {
        let allow = format!(r#"{{"decision": "allow", "obligations": {bound}}}"#);
        assert_eq!(decode(&allow), Err(Undecided::Obligation), "{bound}");
        let deny = format!(r#"{{"decision": "deny", "obligations": {bound}}}"#);
        assert_eq!(decode(&deny).map(|answer| answer.decision), Ok(Verdict::Deny), "{bound}");
    }
    assert!(decode(r#"{"decision": "allow", "obligations": {"redact": [], "sensitive": false}}"#).is_ok());
}

#[test]
fn a_set_of_scopes_is_read_as_a_list() {
    let mut engine = regorus::Engine::new();
    let query = r#"{"decision": "allow", "obligations": {"scopes": {"b", "a"}}}"#;
    let value = engine.eval_query(query.into(), false).unwrap();
    let answer = Answer::decode(&value.result[0].expressions[0].value).unwrap();
    assert_eq!(answer.obligations.scopes, Some(vec!["a".into(), "b".into()]));
}

#[test]
fn a_secret_that_policy_repeats_is_not_passed_on() {
    let pat = format!("ghp_{}", "a".repeat(36));
    let said = format!(r#"{{"decision": "deny", "reason": "no {pat}", "message": "Not {pat}.", "rule": "r {pat}"}}"#);
    let answer = decode(&said).unwrap();
    assert_eq!([&*answer.reason, &*answer.message, &*answer.rule], ["no REDACTED", "Not REDACTED.", "r REDACTED"]);
    let clean = decode(r#"{"decision": "deny", "reason": "late", "message": "Too late."}"#).unwrap();
    assert_eq!([&*clean.reason, &*clean.message], ["late", "Too late."]);
}
