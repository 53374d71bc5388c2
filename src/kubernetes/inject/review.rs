//! One `AdmissionReview` (v1) and its answer.
//!
//! The answer to a pod that is injected is a JSON Patch that gives exactly the pod that [`inject`] gives. A review that
//! is not understood is no pod that may pass: it is an error, which the API server treats as its failure policy says.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Config, Injected, Outcome, inject, patch};

/// An answer, and what was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The `AdmissionReview` to send back.
    pub review: Value,
    /// What was decided.
    pub decision: Decision,
    /// The pod, as people find it: `namespace/name`.
    pub pod: String,
    /// Why, where there is a reason.
    pub reason: String,
}

/// What was decided about a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// It gets a sidecar.
    Inject,
    /// It passes unchanged.
    Skip,
    /// It may not be made.
    Refuse,
}

impl Decision {
    /// As metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inject => "inject",
            Self::Skip => "skip",
            Self::Refuse => "refuse",
        }
    }
}

/// Why there is no answer: what was sent is no review of a pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

/// Answers a review.
///
/// # Errors
/// Where what was sent is no review of a pod.
pub fn answer(body: &[u8], config: &Config) -> Result<Answer, Malformed> {
    let review: Review =
        serde_json::from_slice(body).map_err(|error| Malformed(format!("not an AdmissionReview: {error}")))?;
    if review.api_version != VERSION || review.kind != KIND {
        let text = format!("expected {KIND} of {VERSION}, not {:?} of {:?}", review.kind, review.api_version);
        return Err(Malformed(text));
    }
    let Some(request) = review.request else { return Err(Malformed("the review has no request".to_owned())) };
    if request.uid.is_empty() {
        return Err(Malformed("the request has no uid".to_owned()));
    }
    Ok(decide(&request, config))
}

fn decide(request: &Request, config: &Config) -> Answer {
    let kind = &request.kind;
    if (kind.group.as_str(), kind.version.as_str(), kind.kind.as_str()) != ("", "v1", "Pod") {
        let what = format!("{}/{} {}", kind.group, kind.version, kind.kind);
        return refuse(request, 400, "BadRequest", &format!("only pods of v1 are injected, not {what}"));
    }
    if request.operation != "CREATE" || !request.sub_resource.is_empty() {
        return pass(request, "only the creation of a pod can be changed");
    }
    let Some(pod) = &request.object else {
        return refuse(request, 400, "BadRequest", "the request has no object");
    };
    match inject(pod, &request.namespace, config) {
        Ok(Outcome::Inject(injected)) => allow(request, pod, &injected),
        Ok(Outcome::Skip(reason)) => pass(request, reason),
        Err(refused) => refuse(request, 403, "Forbidden", &format!("tollgate: {refused}")),
    }
}

fn allow(request: &Request, pod: &Value, injected: &Injected) -> Answer {
    let mut response = json!({"uid": request.uid, "allowed": true});
    let operations = patch::diff(pod, &injected.pod);
    if !operations.is_empty() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(Value::Array(operations).to_string()));
    }
    if !injected.warnings.is_empty() {
        response["warnings"] =
            injected.warnings.iter().take(MOST_WARNINGS).map(|warning| format!("tollgate: {warning}")).collect();
    }
    wrapped(request, response, Decision::Inject, "")
}

fn pass(request: &Request, reason: &str) -> Answer {
    wrapped(request, json!({"uid": request.uid, "allowed": true}), Decision::Skip, reason)
}

fn refuse(request: &Request, code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({"code": code, "reason": reason, "message": message});
    let response = json!({"uid": request.uid, "allowed": false, "status": status});
    wrapped(request, response, Decision::Refuse, message)
}

fn wrapped(request: &Request, response: Value, decision: Decision, reason: &str) -> Answer {
    let review = json!({"apiVersion": VERSION, "kind": KIND, "response": response});
    let metadata = request.object.as_ref().and_then(|object| object.get("metadata"));
    let text = |key: &str| metadata.and_then(|metadata| metadata.get(key)).and_then(Value::as_str);
    let name = text("name").or(text("generateName")).unwrap_or_default();
    Answer { review, decision, pod: format!("{}/{name}", request.namespace), reason: reason.to_owned() }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    uid: String,
    kind: Kind,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    namespace: String,
    object: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    version: String,
    kind: String,
}

const VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// The API server shows few of them.
const MOST_WARNINGS: usize = 8;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config() -> Config {
        Config::parse("image: a:1\nskip: {opted_out: true}", Path::new(""), "f", &|_| None).unwrap()
    }

    fn review(request: Value) -> Vec<u8> {
        json!({"apiVersion": VERSION, "kind": KIND, "request": request}).to_string().into_bytes()
    }

    fn request(pod: Value) -> Value {
        json!({"uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE",
               "namespace": "agents", "object": pod})
    }

    fn pod() -> Value {
        json!({"metadata": {"generateName": "a-"}, "spec": {"containers": [{"name": "a", "image": "a"}]}})
    }

    #[test]
    fn the_patch_gives_the_injected_pod() {
        let answer = answer(&review(request(pod())), &config()).unwrap();
        let response = &answer.review["response"];
        assert_eq!((response["uid"].as_str(), response["allowed"].as_bool()), (Some("u"), Some(true)));
        let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        let mut patched = pod();
        json_patch::patch(&mut patched, &patch).unwrap();
        let Outcome::Inject(injected) = inject(&pod(), "agents", &config()).unwrap() else { panic!("injected") };
        assert_eq!(patched, injected.pod);
        assert_eq!((answer.decision, answer.pod.as_str()), (Decision::Inject, "agents/a-"));
    }

    #[test]
    fn only_what_is_a_new_pod_is_changed() {
        let with = |field: &str, value: Value| {
            let mut request = request(pod());
            request[field] = value;
            answer(&review(request), &config()).unwrap()
        };
        for (field, value, decision) in [
            ("operation", json!("UPDATE"), Decision::Skip),
            ("operation", json!("DELETE"), Decision::Skip),
            ("subResource", json!("ephemeralcontainers"), Decision::Skip),
            ("namespace", json!("kube-system"), Decision::Skip),
            ("kind", json!({"group": "apps", "version": "v1", "kind": "Deployment"}), Decision::Refuse),
            ("object", Value::Null, Decision::Refuse),
            ("object", json!({"spec": {"containers": [{"name": "a"}], "hostNetwork": true}}), Decision::Refuse),
            ("object", json!("pod"), Decision::Refuse),
            ("dryRun", json!(true), Decision::Inject),
        ] {
            let answer = with(field, value.clone());
            assert_eq!(answer.decision, decision, "{field} {value}");
            assert_eq!(answer.review["response"]["uid"], "u");
            assert_eq!(answer.review["response"]["allowed"], decision != Decision::Refuse);
        }
    }

    #[test]
    fn what_is_no_review_is_malformed() {
        let deep = "[".repeat(100_000);
        for body in [
            "",
            "null",
            "[]",
            "{}",
            "{\"kind\": \"AdmissionReview\"}",
            &deep,
            "{\"apiVersion\": \"admission.k8s.io/v1beta1\", \"kind\": \"AdmissionReview\", \"request\": null}",
            "{\"apiVersion\": \"admission.k8s.io/v1\", \"kind\": \"AdmissionReview\"}",
            "{\"apiVersion\": \"admission.k8s.io/v1\", \"kind\": \"AdmissionReview\", \"request\": {\"uid\": \"u\"}}",
            "{\"apiVersion\": \"admission.k8s.io/v1\", \"kind\": \"AdmissionReview\", \"request\": {\"kind\": {\"version\": \"v1\", \"kind\": \"Pod\"}}}",
        ] {
            assert!(answer(body.as_bytes(), &config()).is_err(), "{}", &body[..body.len().min(80)]);
        }
    }
}
