//! Every example is a configuration that loads and a policy that compiles and passes its own tests; every document says
//! what the program does.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::actors::{Origin, Sidecar, agent::request};

/// Runs the program there; it must succeed.
fn tollgate(directory: &Path, arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_tollgate")).args(arguments).current_dir(directory).output();
    let output = output.expect("the program runs");
    assert!(output.status.success(), "{directory:?} {arguments:?}: {output:?}");
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn document(name: &str) -> String {
    fs::read_to_string(repository("docs").join(name)).expect("it is part of the repository")
}

#[test]
fn every_example_loads_and_passes_its_policy_tests() {
    let mut seen = 0;
    for entry in fs::read_dir(repository("examples")).expect("there are examples") {
        let example = entry.expect("it can be read").path();
        tollgate(&example, &["config", "check", "tollgate.yaml"]);
        tollgate(&example, &["policy", "test", "policy"]);
        seen += 1;
    }
    assert!(seen > 0);
}

/// The example has each line of the presets, and is checked whole.
#[test]
fn the_presets_for_placeholders_are_those_of_the_example() {
    let example = repository("examples/placeholders");
    let read = |name: &str| fs::read_to_string(example.join(name)).expect("it is part of the repository");
    let (configuration, environment) = (read("tollgate.yaml"), read("agent.env"));
    let text = document("placeholders.md");
    let blocks = text.split("```yaml\n").skip(1).map(|block| block.split("```").next().expect("it ends"));
    let mut presets = 0;
    for line in blocks.flat_map(str::lines) {
        assert!(configuration.lines().any(|given| given == line), "{line}");
        presets += usize::from(line.contains("placeholder: "));
    }
    assert!(presets > 10, "{presets}");
    for (name, value) in environment.lines().filter_map(|line| line.split_once('=')) {
        assert!(text.contains(&format!("`{name}")), "{name}");
        let is_placeholder = configuration.contains(&format!("placeholder: {value}}}"));
        assert!(is_placeholder || value.len() < 16, "{name}");
    }
}

/// The one block of YAML in docs/configuration.md.
fn documented_configuration() -> String {
    let text = document("configuration.md");
    let (_, block) = text.split_once("```yaml\n").expect("there is an example");
    let (yaml, rest) = block.split_once("```").expect("it ends");
    assert!(!rest.contains("```yaml"), "a second example would not be checked");
    yaml.to_owned()
}

#[test]
fn the_documented_configuration_is_valid() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("tollgate.yaml"), documented_configuration()).expect("written");
    fs::create_dir(dir.path().join("policy")).expect("a directory");
    tollgate(dir.path(), &["config", "check", "tollgate.yaml"]);
}

#[test]
fn the_documented_configuration_has_every_key_that_is_served() {
    let yaml = documented_configuration();
    // Each kind of credential has a page of its own.
    let pages = fs::read_dir(repository("docs").join("credentials")).expect("there are pages");
    let pages: String =
        pages.map(|page| fs::read_to_string(page.expect("it can be read").path()).expect("it is text")).collect();
    let schema: Value = serde_json::from_str(&document("config.schema.json")).expect("JSON");
    let definitions = schema["$defs"].as_object().expect("there are definitions");
    let served = |text: &Value| !text.as_str().is_some_and(|text| text.contains("Not available in this version"));
    // What stands below a key that is not served is not served either.
    let beyond = ["Bundle", "Verify", "PublicKey", "Approvals", "Notify", "DecisionLogs"];
    let objects = definitions.iter().filter(|(name, _)| !beyond.contains(&name.as_str())).map(|(_, object)| object);
    let mut checked = 0;
    for object in objects.chain([&schema]) {
        for (key, property) in object["properties"].as_object().into_iter().flatten() {
            let for_redis = key == "url";
            if served(&property["description"]) && !for_redis {
                let told = yaml.contains(&format!("{key}:"))
                    || pages.contains(&format!("{key}:"))
                    || pages.contains(&format!("`{key}`"));
                assert!(told, "{key} is not documented");
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "{checked}");
}

/// A sidecar that has seen a bit of everything.
async fn seasoned() -> Sidecar {
    let origin = Origin::https("api.example.com").start().await;
    let tools = Origin::https("tools.example.com").start().await;
    let mut sidecar = Sidecar::permissive()
        .file("key", "the-key")
        .in_front_of_as(&origin, json!({"credential": "key"}))
        .in_front_of_as(&tools, json!({"protocol": "mcp"}))
        .set(json!({
            "credentials": {"key": {"kind": "file", "file": "key", "owner": "team-x"}},
            "tasks": {"source": ["static"], "static": {"purpose": "triage"}},
        }))
        .start()
        .await;
    let agent = sidecar.agent();
    let mut call = request(Method::GET, &origin.url("/?page=2"), "");
    call.headers_mut().insert("authorization", HeaderValue::from_static("Bearer my-own-key"));
    let parent = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    call.headers_mut().insert("traceparent", parent);
    assert_eq!(agent.send(call).await.to_string(), "200");
    sidecar.ended().await;
    let message = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{}}}"#;
    let mut call = request(Method::POST, &tools.url("/mcp"), message);
    call.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    assert_eq!(agent.send(call).await.to_string(), "200");
    sidecar.ended().await;
    assert_eq!(agent.get("https://paste.example.net/").await.to_string(), "403 unknown_destination");
    sidecar.ended().await;
    drop((origin, tools));
    sidecar
}

/// The words in backticks.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[tokio::test]
async fn the_documented_metrics_are_those_that_are_served() {
    let sidecar = seasoned().await;
    let text = sidecar.metrics();
    let served: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| match line.split_once(' ') {
            Some((name, "counter")) => format!("{name}_total"),
            Some((name, _)) => name.to_owned(),
            None => panic!("no type: {line}"),
        })
        .collect();

    let document = document("telemetry.md");
    let (_, metrics) = document.split_once("## Metrics").expect("there is a section");
    let rows = metrics.lines().filter(|line| line.starts_with("| `"));
    let mut documented = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        let name = quoted(cells[1]).pop_first().expect("a name");
        documented.insert(name.to_owned());
        // What is not in use has no labels to compare.
        let sample = text
            .lines()
            .find(|line| line.starts_with(&format!("{}{{", name)) || line.starts_with(&format!("{name}_count{{")));
        if let Some((_, labels)) = sample.and_then(|line| line.split_once('{')) {
            let labels = labels.split('}').next().expect("split gives at least one");
            let used: BTreeSet<&str> = labels.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
            let known = quoted(cells[2]);
            assert!(used.is_subset(&known), "{name}: {used:?}, documented {known:?}");
        }
        if let Some((_, sources)) = VALUES.iter().find(|(of, _)| *of == name) {
            let (known, values) = (quoted(cells[3]), sources.iter().flat_map(values).collect());
            assert_eq!(known.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), values, "the values of {name}");
        }
    }
    assert_eq!(documented, served);
}

/// Metrics whose documented row names each value of a label, and where the source defines them: the file, what stands
/// before the texts, and what behind.
const VALUES: &[(&str, &[Source])] = &[
    ("tollgate_decisions_total", &[("src/policy.rs", "impl CacheUse {", "\n}\n")]),
    (
        "tollgate_credentials_total",
        &[
            ("src/credential/store/event.rs", "impl Event {", "\n}\n"),
            ("src/telemetry/metrics.rs", "kind: credential.kind, event: ", "}"),
        ],
    ),
    (
        "tollgate_secrets_total",
        &[
            ("src/secret/treatment.rs", "impl Action {", "\n}\n"),
            ("src/telemetry/metrics.rs", "let labels = SecretLabels {", "}"),
        ],
    ),
];

type Source = (&'static str, &'static str, &'static str);

/// The texts in quotes between the two.
fn values((file, after, before): &Source) -> Vec<String> {
    let source = fs::read_to_string(repository(file)).expect("it is part of the repository");
    let (_, rest) = source.split_once(after).expect("it is defined there");
    let (body, _) = rest.split_once(before).expect("it ends");
    body.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_attribute_of_a_span_is_documented() {
    let mut sidecar = seasoned().await;
    let document = document("telemetry.md");
    let documented = quoted(&document);
    let heard = sidecar.heard();
    assert!(heard.len() > 3);
    for span in heard {
        for (name, _) in &span.attributes {
            assert!(documented.contains(name.as_str()), "{name}");
        }
    }
}

#[tokio::test]
async fn every_member_of_a_record_is_documented() {
    let sidecar = seasoned().await;
    let document = document("audit.md");
    let documented = quoted(&document);
    let records = sidecar.audit().await;
    assert_eq!(records.len(), 3);
    for record in records {
        for (name, value) in record.as_object().expect("an object") {
            assert!(documented.contains(name.as_str()), "{name}");
            for below in value.as_object().into_iter().flatten().map(|(below, _)| below) {
                assert!(documented.contains(below.as_str()), "{name}.{below}");
            }
        }
    }
}

/// The shell line of docs/audit.md finds the hash that the first line has.
#[tokio::test]
async fn the_documented_command_computes_the_hash_of_a_line() {
    let sidecar = seasoned().await;
    let first = sidecar.audit().await.remove(0);
    let document = document("audit.md");
    let command = document.lines().find(|line| line.ends_with("| sha256sum")).expect("there is a command");
    let output = Command::new("sh").args(["-c", command]).current_dir(sidecar.dir.path()).output().expect("a shell");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(printed.split(' ').next(), first["hash"].as_str());
}
