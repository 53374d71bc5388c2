//! The detector against a corpus that a script writes: secrets are found and called what they are, and what only looks like
//! them is not.
//!
//! By itself it runs on a part of the corpus. With `TOLLGATE_CORPUS` it reads the corpus in that folder instead and writes
//! what it found there, for `tests/secrets/compare`.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use serde_json::{Value, json};
use tollgate::secret::{
    Found, Mode, Treatment,
    body::{self, Content, Inspected},
    strip,
};

/// A sample, what is known of it, and the kinds that were found in it.
struct Sample {
    about: Value,
    found: Vec<&'static str>,
}

impl Sample {
    /// Whether the secret is called what it is: policies and configurations name kinds. What has no mark of its own is
    /// called by its field in a head, if that is known for secrets.
    fn is_named(&self) -> bool {
        let in_head = matches!(self.about["position"].as_str(), Some("header" | "query"));
        self.found.iter().any(|kind| match *kind {
            "api_key" | "bearer" | "unknown" if in_head && self.about["marked"] == false => true,
            "aws_sigv4" if in_head => self.about["rule"] == "aws_access_key",
            kind => self.about["rule"] == kind,
        })
    }
}

#[test]
fn secrets_of_the_corpus_are_found_and_nothing_else() {
    let written = tempfile::tempdir().expect("a folder");
    let given = env::var_os("TOLLGATE_CORPUS").map(PathBuf::from);
    let folder = match &given {
        Some(folder) => folder.clone(),
        None => {
            write(written.path());
            written.path().to_owned()
        }
    };

    let samples = read(&folder);

    if given.is_some() {
        let hits: Vec<Value> = samples
            .iter()
            .filter(|sample| !sample.found.is_empty())
            .map(|sample| json!({"file": sample.about["file"], "kinds": sample.found}))
            .collect();
        fs::write(folder.join("tollgate.json"), Value::from(hits).to_string()).expect("the folder can be written to");
    }
    let (secret, harmless): (Vec<_>, Vec<_>) = samples.iter().partition(|sample| sample.about["secret"] == true);
    let missed: Vec<_> = secret.iter().filter(|sample| sample.found.is_empty()).collect();
    let wrong: Vec<_> = harmless.iter().filter(|sample| !sample.found.is_empty()).collect();
    let misnamed: Vec<_> = secret.iter().filter(|sample| !sample.found.is_empty() && !sample.is_named()).collect();
    assert!(misnamed.is_empty(), "{} of {} are called otherwise: {}", misnamed.len(), secret.len(), counted(&misnamed));
    assert!(secret.len() > 1000 && harmless.len() >= 500, "{} and {}", secret.len(), harmless.len());
    assert!(missed.len() * 50 <= secret.len(), "missed {} of {}: {}", missed.len(), secret.len(), counted(&missed));
    assert!(wrong.len() * 1000 <= harmless.len(), "{} of {}: {}", wrong.len(), harmless.len(), counted(&wrong));
}

fn write(folder: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/secrets/corpus");
    let done =
        Command::new("python3").arg(script).args(["--seed", "7", "--scale", "0.2", "--out"]).arg(folder).status();
    assert!(done.expect("python3 is there").success());
}

fn read(folder: &Path) -> Vec<Sample> {
    let manifest = fs::read_to_string(folder.join("manifest.jsonl")).expect("a manifest");
    let sample = |line: &str| {
        let about: Value = serde_json::from_str(line).expect("a line of JSON");
        let file = about["file"].as_str().expect("a name");
        let text = fs::read(folder.join("samples").join(file)).expect("a sample");
        let found = match about["position"].as_str() {
            Some("header" | "query") => in_head(&text),
            position => in_body(&text, position.unwrap_or_default()),
        };
        Sample { about, found: found.iter().map(|each| each.kind).collect() }
    };
    manifest.lines().map(sample).collect()
}

/// What is taken away from a request with this head.
fn in_head(text: &[u8]) -> Vec<Found> {
    let text = std::str::from_utf8(text).expect("a head is text");
    let mut lines = text.split("\r\n");
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a request line");
    let mut request = Request::get(target);
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").expect("a field");
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
        request = request.header(HeaderName::try_from(name).expect("a name"), value);
    }
    let (mut parts, ()) = request.body(()).expect("a request").into_parts();
    let mut found = Vec::new();
    strip::strip(&mut parts, &mut found);
    found
}

/// What is found in a body; what is written in its place must be what it was before.
fn in_body(text: &[u8], position: &str) -> Vec<Found> {
    let media = match position {
        "json" | "nested" => "application/json",
        "form" => "application/x-www-form-urlencoded",
        "multipart" => "multipart/form-data; boundary=x",
        _ => "text/plain",
    };
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media))]);
    let content = Content::of(&headers).expect("it is looked into");
    let mut found = Vec::new();
    let inspected = body::inspect(text, content, &Treatment::default(), Mode::Redact, &mut found);
    if let Inspected::Redacted(written) = inspected {
        if serde_json::from_slice::<Value>(text).is_ok() {
            serde_json::from_slice::<Value>(&written).expect("JSON stays JSON");
        }
        let mut again = Vec::new();
        let inspected = body::inspect(&written, content, &Treatment::default(), Mode::Redact, &mut again);
        assert_eq!(
            inspected,
            Inspected::Same,
            "{}\n{}",
            String::from_utf8_lossy(text),
            String::from_utf8_lossy(&written)
        );
    }
    found
}

fn counted(samples: &[&&Sample]) -> String {
    let mut counts = BTreeMap::new();
    for sample in samples {
        let about = |key: &str| sample.about[key].as_str().unwrap_or_default().to_owned();
        let key = (about("kind"), about("position"), about("encoding"), format!("{:?}", sample.found));
        counts.entry(key).or_insert_with(Vec::new).push(about("file"));
    }
    let lines = counts.iter().map(|(key, files)| format!("\n  {} {key:?} {}", files.len(), files[0]));
    lines.collect()
}
