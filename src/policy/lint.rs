//! Refuses policies that could surprise at run time: every problem is reported with its place before a policy is used.
//!
//! regorus accepts at load what it fails on later: functions that don't exist, wrong numbers of arguments, rules that
//! depend on themselves. Some of it would end the process, some would turn a `not` around. What is refused here can't.

mod builtins;
mod calls;
mod cycles;
mod names;
mod prescan;
mod vars;
mod walk;

use std::{collections::BTreeSet, time::Duration};

use regorus::{
    Engine,
    unstable::{Module, Ref, Span},
};
use serde_json::Value;

use self::{
    calls::Calls,
    cycles::References,
    names::{Names, Path, View},
    vars::Vars,
    walk::Node,
};
use super::{
    bundle::{LoadError, Sources},
    engine,
    reads::ReadSet,
};

/// Checks everything but the tests. `decision` is the rule that will be asked, as a path below `data`.
pub fn check(sources: &Sources, decision: &str) -> Result<(), LoadError> {
    let modules = parse(&sources.modules)?;
    let mut problems = Vec::new();
    let names = Names::gather(&modules, &mut problems);
    let mut references = References::new();
    for module in &modules {
        check_module(&View::new(&names, module), module, &mut references, &mut problems);
    }
    problems.extend(cycles::find(&names, &references));
    check_data(&names, &sources.data, &mut problems);
    let asked: Path = std::iter::once("data").chain(decision.split('/')).map(str::to_owned).collect();
    if !names.touches(&asked) {
        problems.push(format!("policy.decision: no rule defines {}", asked.join(".")));
    }
    let reads = ReadSet::of_modules(&modules);
    for (path, place) in reads.unknown_paths() {
        problems.push(format!("{place}: {path} is not part of the input"));
    }
    LoadError::unless_empty(problems)?;
    compile(sources, &asked)
}

/// Parses texts of which the lexer says that the parser can be let loose on them.
pub fn parse(texts: &[(String, String)]) -> Result<Vec<Ref<Module>>, LoadError> {
    let scanned = texts.iter().filter_map(|(name, text)| prescan::scan(name, text).err());
    LoadError::unless_empty(scanned.collect())?;
    let mut engine = Engine::new();
    let mut problems = Vec::new();
    for (name, text) in texts {
        if let Err(error) = engine.add_policy(name.clone(), text.clone()) {
            problems.push(in_one_line(name, &error));
        }
    }
    LoadError::unless_empty(problems)?;
    Ok(engine.get_modules().clone())
}

fn check_module(view: &View<'_>, module: &Module, references: &mut References, problems: &mut Vec<String>) {
    for rule in &module.policy {
        let mut calls = Calls::new(view);
        let mut vars = Vars::new(view);
        let mut reads = BTreeSet::new();
        walk::rule(rule, &mut |node, scope| match node {
            Node::With(with) => problems.extend(calls.with(with).err()),
            Node::Expr(expr) => {
                vars.see(expr, scope);
                match calls.call(expr, scope) {
                    Ok(function) => reads.extend(function),
                    Err(problem) => problems.push(problem),
                }
                reads.extend(view.resolve(expr, scope).filter(|path| path[0] == "data"));
            }
        });
        problems.extend(vars.unsafe_ones());
        references.entry(view.path_of(rule)).or_default().append(&mut reads);
    }
}

/// Data must not stand where a rule does: one of the two would win unseen.
fn check_data(names: &Names, data: &Value, problems: &mut Vec<String>) {
    for (rule, place) in &names.rules {
        let mut found = data;
        let whole = rule[1..].iter().all(|name| match found.get(name) {
            Some(value) => {
                found = value;
                true
            }
            None => false,
        });
        if whole {
            problems.push(format!("{place}: {} is given by data too", rule.join(".")));
        }
    }
}

fn compile(sources: &Sources, decision: &[String]) -> Result<(), LoadError> {
    let engine = engine::load(sources, BUDGET);
    let compiled = engine.and_then(|mut engine| engine.compile_with_entrypoint(&written(decision).into()));
    compiled.map(drop).map_err(|error| LoadError::one(in_one_line("policy", &error)))
}

/// The rules that a module defines, by path from `data` on, with their places.
pub fn rules(module: &Module) -> Vec<(Vec<String>, String)> {
    module.policy.iter().map(|rule| (names::path_in(module, rule), at(rule.span()))).collect()
}

/// A path as it is written in Rego: what is not a name stands in brackets.
pub fn written(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        let is_name = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        match (text.is_empty(), is_name) {
            (true, _) => text.push_str(part),
            (false, true) => text.extend([".", part]),
            (false, false) => text.extend(["[\"", part, "\"]"]),
        }
    }
    text
}

/// A problem at its place.
fn problem(span: &Span, problem: &str) -> String {
    format!("{}: {problem}", at(span))
}

fn at(span: &Span) -> String {
    format!("{}:{}:{}", span.source.file(), span.line, span.col)
}

/// regorus draws the line and points below it; here a problem is one line that begins with its place.
pub fn in_one_line(name: &str, error: &dyn std::fmt::Display) -> String {
    let drawn = error.to_string();
    let mut lines = drawn.lines();
    let place = lines.find_map(|line| line.strip_prefix("--> "));
    let message = lines.find_map(|line| line.strip_prefix("error: "));
    match (place, message) {
        (Some(place), Some(message)) => format!("{place}: {message}"),
        _ => format!("{name}: {}", drawn.split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}

/// Compiling evaluates nothing, so this bounds nothing.
const BUDGET: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sources(text: &str, data: Value) -> Sources {
        let modules = vec![("team.rego".to_owned(), text.to_owned())];
        Sources { modules, data, revision: "0".into() }
    }

    /// Problems of a module in package `team` with this text after the declaration.
    fn problems(text: &str) -> String {
        let sources = beside_the_library(sources(&format!("package team\n{text}"), json!({})));
        check(&sources, "team/decision").err().map(|error| error.to_string()).unwrap_or_default()
    }

    fn beside_the_library(mut sources: Sources) -> Sources {
        sources.modules.extend(crate::policy::bundle::Suite::read(&[], None).unwrap().sources.modules);
        sources
    }

    #[test]
    fn the_shipped_policy_is_clean() {
        let policy = crate::policy::bundle::Suite::read(&[], None).unwrap();
        check(&policy.sources, "tollgate/decision").unwrap();
    }

    #[test]
    fn what_is_in_order_is_accepted() {
        for text in [
            "decision := {\"decision\": \"deny\"}",
            "decision := x if { x := time.now_ns() }",
            "decision := x if { split(input.call.path, \"/\", x) }",
            "decision if regex.match(`^/v[0-9]+/`, input.call.path)",
            "decision := sprintf(\"%s %05d %.3f 100%%\", [input.call.path, 1, 2])",
            "decision if glob.match(data.pattern, [\"/\"], input.call.path)",
            "decision := replace(replace(input.call.path, \"--\", \"-\"), \"_\", \"--\")",
            "decision := f(1)\nf(effect) := effect if effect > 0\neffect := decision",
            "decision if every rule in input.call.segments { rule != decided }\ndecided := \"x\"\nrule := decision",
            "import data.other\ndecision := other.rule",
            "default f(_) := 0\ndecision := f(1)",
            "decision := [x | some x in input.call.segments; startswith(x, \"a\")]",
            "decision if { x := 1 } else := false if { y := 2; y > 1 }",
            "decision if data.limit == 1 with input as {}",
            "decision if { [a, b] = split(input.call.path, \"/\"); a == b }",
            "decision := i if input.call.segments[i] == \"x\"",
            "decision if { walk(input.call.body.json, [path, value]); count(path) > 1; value == 1 }",
            "decision := {name: true | input.call.headers[name][_] == \"x\"}",
            "decision := x if { some i, x in input.call.segments; i > 1 }",
            "parts contains name if { some name, _ in input.call.query }\ndecision := count(parts)",
            "limits[name] := 1 if { some name in input.call.segments }\ndecision := limits.x",
            "import data.tollgate.lib.answer\ndecision := answer.allow(\"x\") if input.call.effect == \"read\" \
             else := data.tollgate.standard.decision",
        ] {
            assert_eq!(problems(text), "", "{text}");
        }
    }

    #[test]
    fn bad_modules_are_refused_with_the_place() {
        for (text, expected) in [
            ("decision := ", "team.rego:2:"),
            ("decision := x", "team.rego:2:13: x is not defined"),
            ("decision if not denyd\ndenied if input.call.port == 1", "team.rego:2:17: denyd is not defined"),
            ("decision if inptu.call.port == 1", "team.rego:2:13: inptu is not defined"),
            ("decision if every x in input.secrets { y.kind == x.kind }", "y is not defined"),
            ("decision := f(1)\nf(x) := y", "y is not defined"),
            ("decision := nothing(1)", "team.rego:2:13: nothing is not a function"),
            ("decision := io.jwt.decode(\"\")", "io.jwt.decode is not a function; hint: tokens"),
            ("decision if startswith(\"a\")", "team.rego:2:13: startswith takes 2 arguments, not 1"),
            ("f(x) := x\ndecision := f(1, 2, 3)", "team.rego:3:13: data.team.f takes 1 argument, not 3"),
            ("f(x) := x\nf(x, y) := x\ndecision := 1", "another definition of this function takes other arguments"),
            ("decision := numbers.range(1, input.call.port)", "numbers.range is refused"),
            ("decision := numbers.range_step(1, 2, 1)", "numbers.range_step is refused"),
            ("decision := net.cidr_expand(\"::/64\")", "net.cidr_expand is refused"),
            ("decision if not http.send({}).body.blocked", "http.send is refused"),
            ("decision := opa.runtime()", "opa.runtime is refused"),
            ("decision := rand.intn(\"a\", 3)", "rand.intn is refused"),
            ("decision := uuid.rfc4122(\"a\")", "uuid.rfc4122 is refused"),
            ("decision if trace(\"x\")", "trace is refused"),
            ("decision if print(\"x\")", "print is refused"),
            ("decision := units.parse(\"1\")", "units.parse is refused"),
            ("decision := time.parse_ns(\"\", \"\")", "time.parse_ns is refused"),
            ("decision if object.subset({}, {})", "object.subset is refused"),
            ("decision := yaml.unmarshal(\"\")", "yaml.unmarshal is refused"),
            ("decision := strings.count(\"a\", \"\")", "strings.count: what is counted"),
            ("decision := sprintf(input.call.path, [])", "sprintf: the format has to be written out"),
            ("decision := sprintf(\"%065d\", [1])", "sprintf: a field may be 64 wide"),
            ("decision if regex.match(input.call.path, \"a\")", "regex.match: the pattern has to be written out"),
            ("decision if regex.match(\"(\", \"a\")", "regex.match: the pattern is not a regular expression"),
            ("decision if glob.match(input.call.path, [], \"a\")", "must not come from the input"),
            ("import input.call.path as p\ndecision if glob.match(p, [], \"a\")", "must not come from the input"),
            ("decision := replace(\"a\", input.call.path, \"b\")", "has to be written out"),
            ("decision := replace(replace(\"a\", \"a\", \"aa\"), \"a\", \"aa\")", "only once"),
            ("decision := bits.lsh(1, input.call.port)", "bits.lsh: how far to shift"),
            ("decision := x if { x := 1 with startswith as net.cidr_expand }", "`with` may stand in"),
            ("decision := decision", "team.rego:2:1: data.team.decision depends on itself"),
            ("f(x) := f(x + 1)\ndecision := f(1)", "data.team.f depends on itself: data.team.f -> data.team.f"),
            (
                "decision := a\na := b\nb := data.team.decision",
                "team.rego:3:1: data.team.a depends on itself: data.team.a -> data.team.b -> data.team.decision -> data.team.a",
            ),
            ("decision := data.team", "data.team.decision depends on itself"),
            ("other := 1", "policy.decision: no rule defines data.team.decision"),
            ("decision := input.call.methd", "input.call.methd is not part of the input"),
            ("decision := [[[[[[[[[1]]]]]]]]]", "team.rego:2:21: brackets are nested more than 8 deep"),
        ] {
            let found = problems(text);
            assert!(found.contains(expected), "{text}\nexpected {expected}\nfound {found}");
        }
    }

    #[test]
    fn every_problem_is_reported() {
        let text = "decision if nothing(1)\nother if trace(\"x\")\nthird if startswith(\"a\")\n";
        assert_eq!(problems(text).lines().count(), 3, "{}", problems(text));
    }

    #[test]
    fn brackets_in_texts_and_comments_do_not_count() {
        let text = format!("decision := \"{0}\" # {0}\nother := `{0}`", "[{(".repeat(9));
        assert_eq!(problems(&text), "");
    }

    #[test]
    fn six_thousand_brackets_are_refused_before_they_are_parsed() {
        let found = problems(&format!("decision := {}", "\n[".repeat(6000)));
        assert!(found.contains("nested more than 8 deep"), "{found}");
    }

    #[test]
    fn lines_that_are_too_long_are_refused() {
        let found = problems(&format!("decision := \"{}\"", "a".repeat(2000)));
        assert!(found.contains("maximum column"), "{found}");
    }

    #[test]
    fn data_must_not_stand_where_a_rule_does() {
        let data = json!({"team": {"decision": {"decision": "allow"}, "other": 1}});
        let error = check(&sources("package team\ndecision := 1", data), "team/decision").unwrap_err();
        assert_eq!(error.to_string(), "team.rego:2:1: data.team.decision is given by data too");
    }
}
