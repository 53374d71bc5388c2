//! Reads the answers of issuers that speak JSON, without quoting any of it.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::{Failure, client::Answer};
use crate::refusal::CredentialRefusal;

/// A successful answer's object. What is not asked for in it is ignored, as these issuers add to theirs.
pub(super) fn object<T: DeserializeOwned>(answer: &Answer, success: StatusCode) -> Result<T, Failure> {
    if answer.status != success {
        return Err(refused(answer));
    }
    // The decoder would take an array for the fields in their order, and its own message could quote the answer.
    let read = answer.body.trim_ascii_start().first().filter(|first| **first == b'{');
    let read = read.and_then(|_| serde_json::from_slice(&answer.body).ok());
    read.ok_or_else(|| Failure::malformed("the answer is not what the API describes"))
}

/// What another status means.
pub(super) fn refused(answer: &Answer) -> Failure {
    let status = answer.status.as_u16();
    let refusal = match status {
        429 | 500..=599 => CredentialRefusal::Unavailable,
        // A limit on requests that is told as a refusal, with the time to wait.
        403 if answer.retry_after.is_some() => CredentialRefusal::Unavailable,
        400..=499 => CredentialRefusal::Rejected,
        _ => CredentialRefusal::Malformed,
    };
    Failure { refusal, detail: format!("the issuer answered {status}"), retry_after: answer.retry_after }
}

/// How long until a moment that an issuer told (RFC 3339).
pub(super) fn life_until(moment: &str) -> Result<Duration, Failure> {
    let end: Result<jiff::Timestamp, _> = moment.parse();
    let end = SystemTime::from(end.map_err(|_| Failure::malformed("the end of its life is not a time"))?);
    let life = end.duration_since(SystemTime::now()).unwrap_or_default();
    if life.is_zero() {
        return Err(Failure::new(CredentialRefusal::Expired, "it had ended when it came"));
    }
    Ok(life)
}

/// A token in an answer, in memory that is wiped.
pub(super) fn wiped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    Ok(Zeroizing::new(String::deserialize(deserializer)?))
}

/// A token that can stand in a header.
pub(super) fn is_token(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            headers: HeaderMap::new(),
            body: Zeroizing::new(body.as_bytes().to_vec()),
        }
    }

    #[test]
    fn a_status_says_who_is_at_fault() {
        use CredentialRefusal::{Malformed, Rejected, Unavailable};
        for (status, refusal) in
            [(429, Unavailable), (502, Unavailable), (403, Rejected), (404, Rejected), (302, Malformed)]
        {
            assert_eq!(refused(&answer(status, "")).refusal, refusal, "{status}");
        }
        let limited = Answer { retry_after: Some(Duration::from_secs(60)), ..answer(403, "") };
        assert_eq!(refused(&limited).refusal, Unavailable);
    }

    #[test]
    fn what_is_no_object_is_malformed_and_not_quoted() {
        for body in ["", "[\"canary\"]", "canary", "{\"token\":1}", "{\"token\":\"a\"} canary"] {
            #[derive(Debug, Deserialize)]
            struct Given {
                #[serde(rename = "token")]
                _token: String,
            }
            let failure = object::<Given>(&answer(200, body), StatusCode::OK).unwrap_err();
            assert_eq!(failure.refusal, CredentialRefusal::Malformed);
            assert!(!failure.detail.contains("canary"));
        }
    }

    #[test]
    fn an_end_is_a_time_in_the_future() {
        let hour = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3600);
        let life = life_until(&hour.to_string()).unwrap();
        assert!(life > Duration::from_secs(3590) && life <= Duration::from_secs(3600));
        for wrong in ["", "tomorrow", "2020-01-01T00:00:00Z"] {
            assert!(life_until(wrong).is_err(), "{wrong}");
        }
    }
}
