//! The exception register: what stands in it has somebody who answers for it, and mostly an end.
//!
//! After its end an exception gives no credential. From two weeks before it, whoever reads the log is told, at start
//! and in use, once a day for each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tracing::warn;

use super::{Declaration, Failure};
use crate::refusal::CredentialRefusal;

/// A long-lived secret that is used although it is one: with somebody who answers for it, and an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// Who answers for it.
    pub owner: String,
    /// When it ends.
    pub expires: Option<SystemTime>,
}

impl Exception {
    /// Nothing, while it holds.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match self.state(SystemTime::now()) {
            State::Ended(end) => {
                let detail = format!("the exception ended on {}; ask its owner: {}", day(end), self.owner);
                Err(Failure::new(CredentialRefusal::Expired, detail))
            }
            State::EndsSoon(_) | State::Holds => Ok(()),
        }
    }

    fn state(&self, now: SystemTime) -> State {
        match self.expires.map(|end| (end, end.duration_since(now).unwrap_or_default())) {
            Some((end, Duration::ZERO)) => State::Ended(end),
            Some((end, left)) if left <= SOON => State::EndsSoon(end),
            Some(_) | None => State::Holds,
        }
    }
}

/// How it is with an exception.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Holds,
    EndsSoon(SystemTime),
    Ended(SystemTime),
}

/// When somebody was last told of each exception that ends.
#[derive(Default)]
pub(super) struct Told(Mutex<HashMap<Arc<str>, SystemTime>>);

impl Told {
    /// Tells of an exception that has ended or soon will, if nobody was told within a day.
    pub(super) fn look(&self, declaration: &Declaration) {
        let Some(exception) = declaration.source.exception() else { return };
        let now = SystemTime::now();
        let state = exception.state(now);
        if state == State::Holds || !self.is_due(&declaration.name, now) {
            return;
        }
        let (credential, owner) = (&declaration.name, &exception.owner);
        match state {
            State::Ended(end) => warn!(%credential, owner, ended = %day(end), "exception ended, its calls are refused"),
            State::EndsSoon(end) => warn!(%credential, owner, ends = %day(end), "exception ends soon"),
            State::Holds => {}
        }
    }

    fn is_due(&self, name: &Arc<str>, now: SystemTime) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.get(name).is_none_or(|last| now.duration_since(*last).is_ok_and(|since| since >= DAY));
        if due {
            told.insert(Arc::clone(name), now);
        }
        due
    }
}

/// The last day on which an exception holds that ends at this midnight.
fn day(end: SystemTime) -> jiff::civil::Date {
    let last = end.checked_sub(Duration::from_secs(1)).unwrap_or(end);
    let last = jiff::Timestamp::try_from(last).unwrap_or(jiff::Timestamp::MAX);
    last.to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// How long before its end an exception is told of.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_holds_to_its_end_and_names_its_owner_after() {
        let now = SystemTime::now();
        let exception = |expires| Exception { owner: "team-x".into(), expires };
        assert_eq!(exception(None).state(now), State::Holds);
        assert_eq!(exception(Some(now + SOON + DAY)).state(now), State::Holds);
        assert_eq!(exception(Some(now + DAY)).state(now), State::EndsSoon(now + DAY));
        assert_eq!(exception(Some(now)).state(now), State::Ended(now));
        assert!(exception(Some(now + DAY)).check().is_ok());
        let midnight = SystemTime::UNIX_EPOCH + Duration::from_secs(1_580_515_200);
        let refused = exception(Some(midnight)).check().unwrap_err();
        assert_eq!(refused.refusal, CredentialRefusal::Expired);
        assert_eq!(refused.detail, "the exception ended on 2020-01-31; ask its owner: team-x");
    }

    #[test]
    fn it_is_told_once_a_day() {
        let (told, name, now) = (Told::default(), Arc::from("legacy"), SystemTime::now());
        assert!(told.is_due(&name, now));
        assert!(!told.is_due(&name, now + DAY / 2));
        assert!(told.is_due(&Arc::from("other"), now));
        assert!(told.is_due(&name, now + DAY));
        assert!(!told.is_due(&name, now + DAY + DAY / 2));
    }
}
