//! What is told when an operation is not done: problem details (RFC 9457).

use http::{HeaderValue, Response, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api;
use crate::task::registry::Fault;

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// `about:blank`: the status says it all.
    pub r#type: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, in one sentence.
    pub detail: String,
    /// The methods that there are instead.
    #[serde(skip)]
    allow: Option<&'static str>,
}

impl Problem {
    /// A problem of this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            r#type: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            allow: None,
        }
    }

    /// The method is not one of these.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("the method is not served here; there is {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, detail) }
    }

    /// The answer that says so.
    pub fn respond(&self) -> Response<String> {
        let status = StatusCode::from_u16(self.status).expect("made of a status");
        let mut response = api::json(status, self);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let status = match fault {
            Fault::Unknown => StatusCode::NOT_FOUND,
            Fault::Over | Fault::Unused => StatusCode::CONFLICT,
            Fault::Full => StatusCode::SERVICE_UNAVAILABLE,
            Fault::TooLong => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_its_status_and_the_methods_that_there_are() {
        let response = Problem::method_not_allowed("GET, DELETE").respond();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["allow"]),
            (405, &HeaderValue::from_static("GET, DELETE"))
        );
        let body: serde_json::Value = serde_json::from_str(response.body()).expect("JSON");
        assert_eq!((&body["status"], &body["title"]), (&405.into(), &"Method Not Allowed".into()));
        assert!(body.get("allow").is_none());
    }
}
