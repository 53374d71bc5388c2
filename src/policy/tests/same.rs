//! For all policies and calls: a kept answer is the one that an evaluation would give now.

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Value as Json, json};

use super::{super::reads::Step, *};

/// One variant of a call: each number chooses a field's content. Few contents, so that equal questions come up.
#[derive(Debug, Clone)]
struct Choice([usize; 14]);

/// Calls that differ from one another in few places, so that what a policy does not read is put to the test.
fn choices(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Choice>> {
    let changes = prop::collection::vec((0..14_usize, 0..3_usize), 0..3);
    (prop::array::uniform14(0..3_usize), prop::collection::vec(changes, count)).prop_map(|(base, variants)| {
        let changed = |changes: Vec<(usize, usize)>| {
            let mut choice = base;
            changes.into_iter().for_each(|(index, content)| choice[index] = content);
            Choice(choice)
        };
        variants.into_iter().map(changed).collect()
    })
}

fn scene(Choice(choice): &Choice) -> Scene {
    let word = |index: usize| ["a", "b", "issues"][choice[index]].to_owned();
    let mut scene = match choice[0] {
        0 => Scene::mcp(json!({"repo": word(1), "deep": {"n": choice[2]}})),
        1 => Scene::mcp(json!({"repo": [word(1)], "deep": null})),
        _ => Scene::http(),
    };
    scene.call.http.method = [::http::Method::GET, ::http::Method::POST, ::http::Method::DELETE][choice[3]].clone();
    scene.call.http.path = format!("/{}", word(4));
    scene.call.http.segments = vec![word(4)];
    scene.call.http.query = match choice[5] {
        0 => Vec::new(),
        1 => vec![("q".into(), word(6)), ("page".into(), "1".into())],
        _ => vec![("page".into(), "1".into()), ("q".into(), word(6)), ("q".into(), "b".into())],
    };
    scene.call.headers.insert("accept", word(7).parse().unwrap());
    if choice[8] == 0 {
        scene.call.headers.remove("accept");
    }
    scene.call.body.json = [None, Some(json!({"title": word(9)})), Some(json!(["a"]))][choice[9]].clone();
    scene.task.purpose = word(10).into();
    scene.task.epoch = choice[11] as u64;
    scene.upstream.name = word(12).into();
    scene.ip = (choice[13] != 0).then(|| [203, 0, 113, choice[13] as u8].into());
    scene.secrets.truncate(choice[1]);
    scene.agent.labels.insert("app".into(), word(2));
    if choice[6] == 1 {
        scene.upstream.credential = None;
    }
    scene
}

/// What stands below `input` in a condition; all of them are in the schema.
const PLACES: &[&str] = &[
    "call.method",
    "call.path",
    "call.segments[0]",
    "call.segments",
    "call.query.q[0]",
    "call.query.page",
    "call.query",
    "call.headers.accept[0]",
    "call.headers[\"content-type\"]",
    "call.headers",
    "call.body.json.title",
    "call.body.json",
    "call.mcp.tool",
    "call.mcp.arguments.repo",
    "call.mcp.arguments.deep.n",
    "call.mcp.arguments",
    "call.mcp",
    "call",
    "task.purpose",
    "task.epoch",
    "task.history.calls",
    "task",
    "destination.name",
    "destination.ip",
    "destination",
    "credential.name",
    "credential",
    "secrets[0]",
    "secrets",
    "agent.labels.app",
    "agent.labels",
    "approval.id",
];

fn condition() -> impl Strategy<Value = String> {
    let place = || prop::sample::select(PLACES);
    let word = || prop::sample::select(&["\"a\"", "\"b\"", "\"issues\"", "\"POST\"", "1", "null", "[\"a\"]"][..]);
    prop_oneof![
        (place(), word()).prop_map(|(place, word)| format!("input.{place} == {word}")),
        (place(), word()).prop_map(|(place, word)| format!("not input.{place} == {word}")),
        place().prop_map(|place| format!("not input.{place}")),
        place().prop_map(|place| format!("input.{place}")),
        (place(), word()).prop_map(|(place, word)| format!("some x@ in input.{place}; x@ == {word}")),
        (place(), place()).prop_map(|(a, b)| format!("input.{a} == input.{b}")),
        (place(), word()).prop_map(|(place, word)| format!("is({word}, input.{place})")),
        word().prop_map(|word| format!("x@ := input.call.query; x@.q[_] == {word}")),
        word().prop_map(|word| format!("some x@; input.call.headers[x@][_] == {word}")),
        word().prop_map(|word| format!("input.call.query[input.task.purpose] == {word}")),
        Just("startswith(input.call.path, \"/a\")".to_owned()),
        Just("count(input.secrets) > 0".to_owned()),
        Just("walk(input.call.mcp, [_, \"a\"])".to_owned()),
        (0..3_usize).prop_map(|index| format!("helper_{index}")),
        (0..3_usize).prop_map(|index| format!("not helper_{index}")),
    ]
}

/// Conditions one below the other, each with variables of its own.
fn numbered(conditions: &[String]) -> String {
    let numbered = conditions.iter().enumerate().map(|(index, condition)| condition.replace('@', &index.to_string()));
    numbered.collect::<Vec<_>>().join("\n  ")
}

fn no_helper() -> impl Strategy<Value = String> {
    condition().prop_filter("helpers don't depend on helpers", |condition| !condition.contains("helper"))
}

fn rules() -> impl Strategy<Value = String> {
    let body = || prop::collection::vec(condition(), 1..3).prop_map(|conditions| numbered(&conditions));
    (prop::array::uniform3(no_helper()), body(), body()).prop_map(|(helpers, first, second)| {
        let helpers: Vec<_> = helpers
            .iter()
            .enumerate()
            .map(|(index, body)| format!("helper_{index} if {{\n  {}\n}}", numbered(std::slice::from_ref(body))))
            .collect();
        format!(
            "is(a, b) if a == b\n{}\ndefault decision := {{\"decision\": \"deny\", \"reason\": \"default\"}}\n\
             decision := {{\"decision\": \"allow\", \"reason\": \"first\"}} if {{\n  {first}\n}} \
             else := {{\"decision\": \"deny\", \"reason\": \"second\"}} if {{\n  {second}\n}}",
            helpers.join("\n"),
        )
    })
}

fn told(decision: &Decision) -> Result<String, (DenialKind, String)> {
    match &decision.outcome {
        Ok(permit) => Ok(permit.reason().to_string()),
        Err(denial) => Err((denial.kind, denial.reason.to_string())),
    }
}

/// What the whole document holds at each place that is read.
fn seen<'a>(policy: &Policy, document: &'a Json) -> Vec<Option<&'a Json>> {
    let below = |read: &reads::Read| {
        let field = read.field().path.split('.').try_fold(document, |json, name| json.get(name));
        read.steps.iter().try_fold(field?, |json, step| match step {
            Step::Key(key) => json.as_object()?.get(key),
            Step::Index(index) => json.as_array()?.get(*index),
        })
    };
    policy.reads().reads().iter().map(below).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_kept_answer_equals_a_fresh_one(rules in rules(), choices in choices(2..16)) {
        let keeping = compile(&rules);
        let forgetting = try_compile(&rules, &config::Policy { cache_entries: 0, ..settings() }).unwrap();
        for choice in &choices {
            let scene = scene(choice);
            let fresh = decide(&forgetting, &scene, Mode::Enforce);
            prop_assert_eq!(fresh.cache, CacheUse::Bypass);
            for _ in 0..2 {
                let kept = decide(&keeping, &scene, Mode::Enforce);
                prop_assert_eq!(told(&kept), told(&fresh), "{:?}", kept.cache);
            }
            let whole = forgetting.evaluate(&scene.to_json()).map_err(|failure| failure.why);
            let whole = outcome(whole.and_then(|value| Answer::decode(&value).map(Arc::new)));
            let whole = whole.map(|permit| permit.reason().to_string()).map_err(|no| (no.kind, no.reason.to_string()));
            prop_assert_eq!(whole, told(&fresh), "the whole document gives another answer than the part that is read");
        }
    }

    #[test]
    fn the_key_changes_with_every_field_that_is_read_and_with_no_other(
        rules in rules(),
        pair in choices(2..3),
    ) {
        let policy = compile(&rules);
        let (one, other) = (scene(&pair[0]), scene(&pair[1]));
        let (one_json, other_json) = (one.to_json(), other.to_json());
        let same_key = one.key(policy.reads()) == other.key(policy.reads());
        let same_sight = one.task.epoch == other.task.epoch && seen(&policy, &one_json) == seen(&policy, &other_json);
        prop_assert_eq!(same_key, same_sight);
    }
}

#[test]
fn the_generated_policies_and_calls_put_the_cache_to_the_test() {
    let mut runner = TestRunner::deterministic();
    let (mut first_hits, mut allowed, mut denied) = (0, 0, 0);
    for _ in 0..40 {
        let policy = compile(&rules().new_tree(&mut runner).unwrap().current());
        for choice in choices(20..21).new_tree(&mut runner).unwrap().current() {
            let decision = decide(&policy, &scene(&choice), Mode::Enforce);
            first_hits += usize::from(decision.cache == CacheUse::Hit);
            allowed += usize::from(decision.outcome.is_ok());
            denied += usize::from(decision.outcome.is_err());
        }
    }
    let enough = [first_hits, allowed, denied].iter().all(|count| *count >= 50);
    assert!(enough, "{first_hits} answered for another call, {allowed} allowed, {denied} denied of 800");
}
