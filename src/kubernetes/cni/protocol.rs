//! What a container runtime says to a CNI plugin, and how a plugin says that it can't.

use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::kubernetes::{ANNOTATION_CAPTURE, ANNOTATION_FENCE, fence::Fence};

/// The versions that are spoken.
pub const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", LATEST];

/// The latest of them.
pub const LATEST: &str = "1.1.0";

/// The capability by which a runtime passes a pod's annotations.
pub const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// One call for one pod.
#[derive(Debug)]
pub struct Call {
    configuration: Configuration,
    namespace: PathBuf,
    pod: Option<String>,
}

/// The plugin's entry in the network's list, as the runtime passes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    cni_version: String,
    #[serde(default)]
    runtime_config: BTreeMap<String, Value>,
    prev_result: Option<Value>,
    /// The platform's own limits on what an annotation may ask for.
    uid: Option<u32>,
    #[serde(default)]
    exempt_uids: Vec<u32>,
}

/// The annotation that the injector writes.
#[derive(Debug, Deserialize)]
struct Asked {
    uid: u32,
    proxy: u16,
    transparent: u16,
    dns: u16,
    #[serde(default)]
    exempt: Vec<u32>,
}

impl Call {
    /// Reads a call for a pod.
    pub fn read(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Refusal> {
        let configuration = Self::configuration_of(text)?;
        let required = |name: &'static str| {
            let value = variable(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| Refusal::new(Code::Variables, "a variable is missing", name))
        };
        required("CNI_CONTAINERID")?;
        required("CNI_IFNAME")?;
        let namespace = required("CNI_NETNS")?.into();
        let pod = variable("CNI_ARGS").and_then(|arguments| pod_in(&arguments));
        Ok(Self { configuration, namespace, pod })
    }

    /// Reads the configuration alone.
    pub fn configuration_of(text: &str) -> Result<Configuration, Refusal> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| Refusal::new(Code::Decode, "the configuration is no JSON", error))?;
        // Told first, because another version may have another shape.
        match value.get("cniVersion").map(Value::as_str) {
            Some(Some(version)) if SUPPORTED.contains(&version) => {}
            Some(version) => {
                let said = version.unwrap_or("it is no text");
                return Err(Refusal::new(Code::Version, "the version is not spoken here", said));
            }
            None => return Err(Refusal::new(Code::Decode, "the configuration is not understood", "no cniVersion")),
        }
        let configuration: Configuration = serde_json::from_value(value)
            .map_err(|error| Refusal::new(Code::Decode, "the configuration is not understood", error))?;
        let platform = Fence {
            uid: configuration.uid.unwrap_or(Fence::default().uid),
            exempt: configuration.exempt_uids.clone(),
            ..Fence::default()
        };
        match platform.flaw() {
            Some(flaw) => Err(Refusal::new(Code::Configuration, "the configuration makes no fence", flaw)),
            None => Ok(configuration),
        }
    }

    /// The result of the plugins before this one, to be handed on.
    pub fn previous(&self) -> Result<Value, Refusal> {
        let missing = "there is no prevResult: this plugin comes after one that makes the network";
        let result = self.configuration.prev_result.clone();
        let mut result = result.ok_or_else(|| Refusal::new(Code::Configuration, "not chained", missing))?;
        match result.as_object_mut() {
            Some(object) => object.insert("cniVersion".to_owned(), self.configuration.cni_version.clone().into()),
            None => return Err(Refusal::new(Code::Decode, "prevResult is not understood", "it is no object")),
        };
        Ok(result)
    }

    /// Where the pod's network is.
    pub fn namespace(&self) -> Result<&Path, Refusal> {
        if self.namespace.is_absolute() {
            Ok(&self.namespace)
        } else {
            Err(Refusal::new(Code::Variables, "CNI_NETNS is no path", self.namespace.display()))
        }
    }

    /// The fence that the pod's annotations ask for; `None` where they ask for none.
    pub fn fence(&self) -> Result<Option<Fence>, Refusal> {
        let Some(pod) = &self.pod else {
            // Not a pod: a container that a person started on the node.
            return Ok(None);
        };
        let annotations = self.configuration.runtime_config.get(ANNOTATIONS).and_then(Value::as_object);
        let annotations = annotations.ok_or_else(|| {
            let details = format!("{pod}: the runtime passed no {ANNOTATIONS}: is it in the entry's `capabilities`?");
            Refusal::new(Code::Configuration, "whether the pod is to be fenced is not known", details)
        })?;
        let text = |name| annotations.get(name).and_then(Value::as_str);
        if text(ANNOTATION_CAPTURE) != Some("cni") {
            return Ok(None);
        }
        let asked = text(ANNOTATION_FENCE).ok_or("it is missing").map_err(str::to_owned);
        let asked = asked.and_then(|text| serde_json::from_str(text).map_err(|error| error.to_string()));
        let asked: Asked = asked.map_err(|why| {
            Refusal::new(
                Code::Configuration,
                "an annotation can't be used",
                format!("{pod}: {ANNOTATION_FENCE}: {why}"),
            )
        })?;
        self.permitted(pod, asked).map(Some)
    }

    /// Who may set annotations may not thereby choose who is let out: that is the platform's.
    fn permitted(&self, pod: &str, asked: Asked) -> Result<Fence, Refusal> {
        let refuse =
            |why: String| Refusal::new(Code::Configuration, "an annotation asks for too much", format!("{pod}: {why}"));
        let uid = self.configuration.uid.unwrap_or(Fence::default().uid);
        if asked.uid != uid {
            return Err(refuse(format!("the sidecar's user is {uid} here, not {}", asked.uid)));
        }
        if let Some(other) = asked.exempt.iter().find(|exempt| !self.configuration.exempt_uids.contains(exempt)) {
            return Err(refuse(format!("user {other} is not among the entry's exemptUids")));
        }
        let Asked { uid, proxy, transparent, dns, exempt } = asked;
        let fence = Fence { uid, exempt, proxy, transparent, dns };
        match fence.flaw() {
            Some(flaw) => Err(refuse(flaw.to_owned())),
            None => Ok(fence),
        }
    }
}

/// `namespace/name` of the pod, where the arguments name one.
fn pod_in(arguments: &str) -> Option<String> {
    let of = |name| arguments.split(';').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
    let namespace = of("K8S_POD_NAMESPACE")?.1;
    Some(format!("{namespace}/{}", of("K8S_POD_NAME").map_or("", |(_, name)| name)))
}

/// The version that a configuration names.
pub fn version_of(text: &str) -> Option<String> {
    let value: Value = serde_json::from_str(text).ok()?;
    value.get("cniVersion")?.as_str().map(str::to_owned)
}

/// Why a call fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: Code,
    message: &'static str,
    details: String,
}

/// The protocol's codes, and one of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The version is not spoken.
    Version = 1,
    /// The container, or its namespace, is not known.
    NoSuchNamespace = 3,
    /// A variable is missing or wrong.
    Variables = 4,
    /// Input could not be read.
    Io = 5,
    /// Input is not understood.
    Decode = 6,
    /// The configuration can't be used.
    Configuration = 7,
    /// No pod can be served now.
    Unavailable = 50,
    /// The fence could not be put up, or does not stand.
    Fence = 100,
}

impl Refusal {
    /// With a message, and what it is about.
    pub fn new(code: Code, message: &'static str, details: impl Display) -> Self {
        Self { code, message, details: details.to_string() }
    }

    /// As the runtime reads it.
    pub fn to_json(&self, version: &str) -> String {
        let Self { code, message, details } = self;
        let code = *code as u32;
        format!("{}\n", json!({"cniVersion": version, "code": code, "msg": message, "details": details}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(annotations: Value, entry: Value) -> Call {
        let mut text = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "tollgate-cni",
            "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]},
            "runtimeConfig": {ANNOTATIONS: annotations},
        });
        text.as_object_mut().expect("an object").extend(entry.as_object().expect("an object").clone());
        let variable = |name: &str| {
            Some(match name {
                "CNI_ARGS" => "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b".to_owned(),
                _ => "/x".to_owned(),
            })
        };
        Call::read(&text.to_string(), &variable).expect("it is read")
    }

    fn asking(text: &str) -> Value {
        json!({ANNOTATION_CAPTURE: "cni", ANNOTATION_FENCE: text})
    }

    const PORTS: &str = r#""proxy":15001,"transparent":15002,"dns":15053,"health":15020"#;

    #[test]
    fn a_pod_that_asks_is_fenced_as_it_asks() {
        let call = call(asking(&format!(r#"{{"uid":15000,{PORTS},"exempt":[1337]}}"#)), json!({"exemptUids": [1337]}));
        let expected = Fence { exempt: vec![1337], ..Fence::default() };
        assert_eq!(call.fence(), Ok(Some(expected)));
    }

    #[test]
    fn a_pod_that_does_not_ask_is_passed_through() {
        for annotations in [json!({}), json!({ANNOTATION_CAPTURE: "init"})] {
            assert_eq!(call(annotations, json!({})).fence(), Ok(None));
        }
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for (annotations, entry) in [
            (Value::Null, json!({})),
            (json!({ANNOTATION_CAPTURE: "cni"}), json!({})),
            (asking("{}"), json!({})),
            (asking(&format!(r#"{{"uid":1000,{PORTS}}}"#)), json!({})),
            (asking(&format!(r#"{{"uid":15000,{PORTS},"exempt":[1000]}}"#)), json!({})),
            (asking(&format!(r#"{{"uid":15000,{PORTS}}}"#)), json!({"uid": 16000})),
        ] {
            assert!(call(annotations.clone(), entry).fence().is_err(), "{annotations}");
        }
    }

    #[test]
    fn the_result_is_handed_on_in_the_version_of_the_call() {
        let result = call(json!({}), json!({})).previous().expect("there is one");
        assert_eq!(result, json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]}));
    }
}
