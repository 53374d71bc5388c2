//! The fail-closed matrix: whatever is unknown, wrong, slow or gone, the agent sees a documented refusal, the origin sees
//! nothing, and the record says why.
//!
//! A [`Row`] stands for each label of `src/refusal.rs`. Those that can't be provoked, or not before the origin, stand in
//! [`ELSEWHERE`].

mod credentials;
mod endings;
mod origins;
mod policies;
mod requests;
mod tasks;

use std::{collections::BTreeSet, fs, path::Path, pin::Pin};

use serde_json::Value;

use crate::actors::{Origin, Sidecar, sidecar::Setup};

/// One row: what is wrong, what the record calls it, what the agent sees.
struct Row {
    wrong: &'static str,
    label: &'static str,
    answer: String,
    story: Pin<Box<dyn Future<Output = Told>>>,
}

/// What came of a story.
struct Told {
    /// What the agent saw, as `Answer` shows it; `reset`, `cut` or `handshake` where there was no answer.
    answer: String,
    record: Value,
}

impl Row {
    fn new(
        wrong: &'static str,
        label: &'static str,
        answer: impl Into<String>,
        story: impl Future<Output = Told> + 'static,
    ) -> Self {
        Self { wrong, label, answer: answer.into(), story: Box::pin(story) }
    }
}

async fn run(rows: Vec<Row>) {
    for Row { wrong, label, answer, story } in rows {
        let told = story.await;
        assert_eq!(told.answer, answer, "{wrong}: {}", told.record);
        assert_eq!(told.record["refusal"]["label"], label, "{wrong}: {}", told.record);
        assert_eq!(told.record["outcome"], "refused", "{wrong}: {}", told.record);
    }
}

/// The agent asks a good origin through this sidecar.
async fn asked(setup: Setup) -> Told {
    let origin = Origin::https("api.example.com").start().await;
    let sidecar = setup.in_front_of(&origin).start().await;
    let answer = sidecar.agent().get(&origin.url("/")).await;
    told(sidecar, &origin, answer).await
}

/// The end of a story whose one call the origin must not have seen.
async fn told(mut sidecar: Sidecar, origin: &Origin, answer: impl ToString) -> Told {
    sidecar.ended().await;
    assert!(origin.requests().is_empty(), "the origin saw {:?}", origin.requests());
    let record = sidecar.audit().await.pop().expect("the call has a record");
    Told { answer: answer.to_string(), record }
}

fn rows() -> Vec<Row> {
    [policies::rows(), tasks::rows(), requests::rows(), credentials::rows(), origins::rows(), endings::rows()]
        .into_iter()
        .flatten()
        .collect()
}

/// A label without a row, the file and the unit test that cover it instead, and why there is no row.
const ELSEWHERE: &[(&str, &str, &str, &str)] = &[
    (
        "origin_coding",
        "tests/it/scrubbing.rs",
        "an_answer_that_cannot_be_looked_through_is_refused",
        "the origin has to see a call before it can answer like that",
    ),
    (
        "credential_budget_spent",
        "src/credential/pace.rs",
        "a_budget_is_spent_and_fills_again",
        "an issuer has to be asked sixty times before",
    ),
    (
        "credential_circuit_open",
        "src/credential/circuit.rs",
        "failures_in_a_row_break_the_circuit_and_one_success_closes_it",
        "an issuer has to fail five times before",
    ),
    ("panicked", "src/exchange.rs", "a_panic_inside_is_a_refusal", "no request is known that makes the sidecar panic"),
    (
        "policy_panicked",
        "src/policy/engine.rs",
        "a_panic_is_caught_and_the_copy_replaced",
        "a policy that makes the engine panic is refused when it is loaded",
    ),
];

#[test]
fn every_refusal_has_its_row() {
    let mut covered: BTreeSet<String> = rows().iter().map(|row| row.label.to_owned()).collect();
    for (label, file, test, why) in ELSEWHERE {
        assert!(covered.insert((*label).to_owned()), "{label} has a row, and also: {why}");
        assert!(read(file).contains(&format!("fn {test}(")), "{label}: {file} has no test {test}");
    }
    assert_eq!(covered, labels());
}

#[test]
fn the_readme_has_each_label_once_with_what_the_agent_sees() {
    let table = documented();
    let listed: Vec<&String> = table.iter().flat_map(|(_, labels)| labels).collect();
    let once: BTreeSet<String> = listed.iter().map(|label| (*label).clone()).collect();
    assert_eq!(once.len(), listed.len(), "a label stands there twice: {listed:?}");
    assert_eq!(once, labels());
    for row in rows() {
        let seen = row.answer.split(' ').next().expect("split gives at least one");
        let (sees, _) = table.iter().find(|(_, labels)| labels.iter().any(|l| l == row.label)).expect("it is listed");
        assert!(sees.contains(seen), "{} ({}): the README says {sees:?}", row.wrong, row.answer);
    }
}

/// Every label, as the program's source defines them.
fn labels() -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    for (file, function) in [("src/refusal.rs", "pub fn label(&self)"), ("src/policy.rs", "pub fn label(self)")] {
        let source = read(file);
        let (_, after) = source.split_once(function).expect("labels are defined there");
        let (body, _) = after.split_once("\n    }\n").expect("the function ends");
        labels.extend(body.split('"').skip(1).step_by(2).map(str::to_owned));
    }
    labels
}

/// The rows of the README's table: what the agent sees, and the labels.
fn documented() -> Vec<(String, Vec<String>)> {
    let readme = read("README.md");
    let (_, section) = readme.split_once("\n## It fails closed\n").expect("the section is there");
    let (section, _) = section.split_once("\n## ").expect("another section follows");
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = section.lines().filter(|line| line.starts_with('|')).map(cells).skip(2);
    rows.map(|cells| (cells[2].clone(), cells[3].split('`').skip(1).step_by(2).map(str::to_owned).collect())).collect()
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("it is part of the repository")
}
