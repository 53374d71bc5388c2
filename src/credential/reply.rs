//! What the answers of issuers mean: for all of them the same. Nothing of an answer is quoted.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::{Failure, client::Answer};
use crate::refusal::CredentialRefusal;

/// A successful answer's object. What is not asked for in it is ignored, as these issuers add to theirs.
pub(super) fn object<'a, T: Deserialize<'a>>(answer: &'a Answer, success: StatusCode) -> Result<T, Failure> {
    if answer.status != success {
        return Err(refused(answer, None));
    }
    // The decoder would take an array for the fields in their order, and its own message could quote the answer.
    let read = answer.body.trim_ascii_start().first().filter(|first| **first == b'{');
    let read = read.and_then(|_| serde_json::from_slice(&answer.body).ok());
    read.ok_or_else(|| Failure::malformed("the answer is not what the API describes"))
}

/// What another status means, with the error's name where it is a known one: whatever else stands there is the issuer's
/// to choose, and not for a log.
pub(super) fn refused(answer: &Answer, known: Option<&str>) -> Failure {
    let status = answer.status.as_u16();
    let refusal = match status {
        _ if is_unwell(answer) => CredentialRefusal::Unavailable,
        400..=499 => CredentialRefusal::Rejected,
        _ => CredentialRefusal::Malformed,
    };
    let detail = match known {
        Some(known) => format!("the issuer answered {status}: {known}"),
        None => format!("the issuer answered {status}"),
    };
    Failure { refusal, detail, retry_after: answer.retry_after }
}

/// Whether an answer says that its issuer can do nothing for anybody now.
pub(super) fn is_unwell(answer: &Answer) -> bool {
    match answer.status.as_u16() {
        429 | 500..=599 => true,
        // A limit on requests that is told as a refusal, with the time to wait.
        403 => answer.retry_after.is_some(),
        _ => false,
    }
}

/// A moment that an issuer told (RFC 3339).
pub(super) fn moment(text: &str) -> Result<SystemTime, Failure> {
    let moment: Result<jiff::Timestamp, _> = text.parse();
    moment.map(SystemTime::from).map_err(|_| Failure::malformed("the end of its life is not a time"))
}

/// How long something lives that ends at this moment, of what is allowed. What is longer by less than [`SKEW`] is taken
/// for exactly what is allowed: the issuer's clock is ahead of ours.
pub(super) fn life_until(end: SystemTime, allowed: Duration) -> Result<Duration, Failure> {
    life_within(end, allowed, SKEW)
}

/// As [`life_until`], where another difference of clocks is to be borne.
pub(super) fn life_within(end: SystemTime, allowed: Duration, skew: Duration) -> Result<Duration, Failure> {
    let life = end.duration_since(SystemTime::now()).unwrap_or_default();
    if life.is_zero() {
        return Err(dead());
    }
    if life > allowed.saturating_add(skew) {
        return Err(outlives(life, allowed));
    }
    Ok(life.min(allowed))
}

/// Refuses what had ended when it came: no issuer gives that if its clock and ours agree.
pub(super) fn dead() -> Failure {
    Failure::malformed("it had ended when it came; hint: compare the issuer's clock with ours")
}

/// Refuses to ask an issuer that gives nothing so short: what came could be used by nobody, and ended by nobody.
pub(super) fn can_be_as_short(shortest: Duration, allowed: Duration) -> Result<(), Failure> {
    if shortest > allowed {
        let detail = format!("allowed are {allowed:?}, and its issuer gives none for less than {shortest:?}");
        return Err(Failure::new(CredentialRefusal::LifetimeExceeded, detail));
    }
    Ok(())
}

/// A life that is longer than allowed.
pub(super) fn outlives(life: Duration, allowed: Duration) -> Failure {
    Failure::new(CredentialRefusal::LifetimeExceeded, format!("it lives {life:?}, allowed are {allowed:?}"))
}

/// A secret in an answer, in memory that is wiped.
pub(super) fn wiped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

/// The same, empty where there is none.
pub(super) fn wiped_or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|text| Zeroizing::new(text.unwrap_or_default()))
}

/// A token that can stand in a header.
pub(super) fn is_token(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic())
}

/// How far an issuer's clock may be from ours.
pub(super) const SKEW: Duration = Duration::from_secs(60);

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
            assert_eq!(refused(&answer(status, ""), None).refusal, refusal, "{status}");
        }
        let limited = Answer { retry_after: Some(Duration::from_secs(60)), ..answer(403, "") };
        assert_eq!(refused(&limited, None).refusal, Unavailable);
        assert_eq!(refused(&answer(400, ""), Some("invalid_scope")).detail, "the issuer answered 400: invalid_scope");
    }

    #[test]
    fn what_is_no_object_is_malformed_and_not_quoted() {
        for body in ["", "[\"canary\"]", "canary", "{\"token\":1}", "{\"token\":\"a\"} canary"] {
            #[derive(Debug, Deserialize)]
            struct Given {
                #[serde(rename = "token")]
                _token: String,
            }
            let answer = answer(200, body);
            let failure = object::<Given>(&answer, StatusCode::OK).unwrap_err();
            assert_eq!(failure.refusal, CredentialRefusal::Malformed);
            assert!(!failure.detail.contains("canary"));
        }
    }

    #[test]
    fn an_end_is_a_time_in_the_future() {
        let hour = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3600);
        let life = life_until(moment(&hour.to_string()).unwrap(), Duration::MAX).unwrap();
        assert!(life > Duration::from_secs(3590) && life <= Duration::from_secs(3600));
        assert_eq!(moment("tomorrow").unwrap_err().refusal, CredentialRefusal::Malformed);
        let past = moment("2020-01-01T00:00:00Z").unwrap();
        assert_eq!(life_until(past, Duration::MAX).unwrap_err().refusal, CredentialRefusal::Malformed);
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_life_too_long() {
        const ALLOWED: Duration = Duration::from_secs(600);
        let life = |beyond: u64| life_until(SystemTime::now() + ALLOWED + Duration::from_secs(beyond), ALLOWED);
        assert_eq!(life(1).unwrap(), ALLOWED);
        assert_eq!(life(SKEW.as_secs()).unwrap(), ALLOWED);
        assert_eq!(life(SKEW.as_secs() + 5).unwrap_err().refusal, CredentialRefusal::LifetimeExceeded);
    }

    #[test]
    fn an_issuer_is_not_asked_for_what_it_never_gives() {
        const FLOOR: Duration = Duration::from_secs(600);
        assert!(can_be_as_short(FLOOR, FLOOR).is_ok());
        let refused = can_be_as_short(FLOOR, Duration::from_secs(300)).unwrap_err();
        assert_eq!(refused.refusal, CredentialRefusal::LifetimeExceeded);
        assert!(refused.detail.contains("600s") && refused.detail.contains("300s"), "{}", refused.detail);
    }
}
