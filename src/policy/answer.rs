//! What policy answers: exactly the contract's schema, or a denial.
//!
//! Decoding is strict everywhere, also below `obligations`, and also where a field would not matter for the decision:
//! a misspelt obligation must not become a yes without it. A yes that is bound to something this version can't do is
//! no yes either. What policy says to people is shown without the secrets that it may have copied from its input.

use std::{sync::Arc, time::Duration};

use http::HeaderName;
use regorus::Value;

use super::Undecided;
use crate::{config::values::Period, secret::mask};

/// A decoded answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was decided.
    pub decision: Verdict,
    /// The reason's name; empty when policy gave none.
    pub reason: Arc<str>,
    /// One sentence for the agent; empty when policy gave none.
    pub message: Arc<str>,
    /// The rule's name; empty when policy gave none.
    pub rule: Arc<str>,
    /// Whose concern a no is; when policy gave none, `missing_approval` for an approval and else `security`.
    pub class: Class,
    /// What a yes is bound to.
    pub obligations: Obligations,
    /// How long the answer may be kept, where policy says so.
    pub cache_ttl: Option<Duration>,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Allow,
    /// No.
    Deny,
    /// Only after a person's yes.
    RequireApproval,
}

/// Whose concern a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A forbidden call.
    Security,
    /// The platform's configuration.
    Misconfiguration,
    /// An approval is missing.
    MissingApproval,
    /// A task is missing.
    MissingTask,
    /// A quota is used up.
    Quota,
    /// Policy did not decide.
    PolicyError,
    /// A credential could not be had.
    Credential,
    /// The origin.
    Origin,
    /// The agent's use of the protocol.
    AgentProtocol,
    /// Too much at once.
    Overload,
    /// The sidecar is stopping.
    Shutdown,
}

impl Class {
    /// As it stands in answers, metrics and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Security => "security",
            Self::Misconfiguration => "misconfiguration",
            Self::MissingApproval => "missing_approval",
            Self::MissingTask => "missing_task",
            Self::Quota => "quota",
            Self::PolicyError => "policy_error",
            Self::Credential => "credential",
            Self::Origin => "origin",
            Self::AgentProtocol => "agent_protocol",
            Self::Overload => "overload",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What a yes is bound to. Those that this version can't honour make the decision a denial, never a weaker yes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Obligations {
    /// Scopes to ask the credential's issuer for.
    pub scopes: Option<Vec<Arc<str>>>,
    /// The longest life of the credential.
    pub max_ttl: Option<Duration>,
    /// Header fields to remove from the request.
    pub strip_headers: Vec<HeaderName>,
    /// Who may approve the call and for how long, where an approval is required.
    pub approval: Option<Approval>,
}

/// Who may approve a call, and for how long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Approval {
    /// The group whose members may approve.
    pub group: Option<Arc<str>>,
    /// How long the request for approval stands.
    pub expires: Option<Duration>,
    /// How many calls one approval permits.
    pub uses: Option<u32>,
}

impl Answer {
    /// Decodes what the decision rule evaluated to.
    pub fn decode(value: &Value) -> Result<Self, Undecided> {
        if *value == Value::Undefined {
            return Err(Undecided::Undefined);
        }
        let mut decision = None;
        let mut class = None;
        let mut bound = Bound::default();
        let mut answer = Self::denied();
        for field in fields(value)? {
            match field? {
                ("decision", value) => decision = Some(verdict(value)?),
                ("reason", value) => answer.reason = said(value)?,
                ("message", value) => answer.message = said(value)?,
                ("rule", value) => answer.rule = said(value)?,
                ("class", value) => class = Some(policy_class(value)?),
                ("obligations", value) => bound = Bound::decode(value)?,
                ("cache", value) => answer.cache_ttl = cache_ttl(value)?,
                _ => return Err(Undecided::UnknownField),
            }
        }
        answer.decision = decision.ok_or(Undecided::WrongType)?;
        answer.class = class.unwrap_or(match answer.decision {
            Verdict::Allow | Verdict::Deny => Class::Security,
            Verdict::RequireApproval => Class::MissingApproval,
        });
        if answer.decision == Verdict::Allow && (bound.beyond_us || bound.obligations.approval.is_some()) {
            return Err(Undecided::Obligation);
        }
        answer.obligations = bound.obligations;
        Ok(answer)
    }

    /// A no that says nothing more.
    pub(super) fn denied() -> Self {
        let nothing: Arc<str> = "".into();
        Self {
            decision: Verdict::Deny,
            reason: Arc::clone(&nothing),
            message: Arc::clone(&nothing),
            rule: nothing,
            class: Class::Security,
            obligations: Obligations::default(),
            cache_ttl: None,
        }
    }
}

/// Obligations as decoded, and whether one of them is more than this version can do.
#[derive(Default)]
struct Bound {
    obligations: Obligations,
    beyond_us: bool,
}

impl Bound {
    fn decode(value: &Value) -> Result<Self, Undecided> {
        let mut bound = Self::default();
        let obligations = &mut bound.obligations;
        for field in fields(value)? {
            match field? {
                ("scopes", value) => obligations.scopes = Some(texts(value)?),
                ("max_ttl", value) => obligations.max_ttl = Some(duration(value)?),
                ("strip_headers", value) => obligations.strip_headers = header_names(value)?,
                ("approval", value) => obligations.approval = Some(approval(value)?),
                ("redact", value) => bound.beyond_us |= !pointers(value)?.is_empty(),
                ("sensitive", value) => bound.beyond_us |= boolean(value)?,
                ("recheck", value) => {
                    duration(value)?;
                    bound.beyond_us = true;
                }
                ("taint", value) => {
                    classification(value)?;
                    bound.beyond_us = true;
                }
                _ => return Err(Undecided::UnknownField),
            }
        }
        Ok(bound)
    }
}

fn approval(value: &Value) -> Result<Approval, Undecided> {
    let mut approval = Approval::default();
    for field in fields(value)? {
        match field? {
            ("group", value) => approval.group = Some(text(value)?),
            ("expires", value) => approval.expires = Some(duration(value)?),
            ("uses", value) => approval.uses = Some(count(value)?),
            _ => return Err(Undecided::UnknownField),
        }
    }
    Ok(approval)
}

fn cache_ttl(value: &Value) -> Result<Option<Duration>, Undecided> {
    let mut ttl = None;
    for field in fields(value)? {
        match field? {
            ("ttl", value) => ttl = Some(duration(value)?),
            _ => return Err(Undecided::UnknownField),
        }
    }
    Ok(ttl)
}

/// The fields of an object, by name.
fn fields(value: &Value) -> Result<impl Iterator<Item = Result<(&str, &Value), Undecided>>, Undecided> {
    let Value::Object(object) = value else { return Err(Undecided::WrongType) };
    Ok(object.iter().map(|(name, value)| match name {
        Value::String(name) => Ok((name.as_ref(), value)),
        _ => Err(Undecided::UnknownField),
    }))
}

fn verdict(value: &Value) -> Result<Verdict, Undecided> {
    match string(value)? {
        "allow" => Ok(Verdict::Allow),
        "deny" => Ok(Verdict::Deny),
        "require_approval" => Ok(Verdict::RequireApproval),
        _ => Err(Undecided::WrongType),
    }
}

/// The classes that a policy may give; the others are ours to give.
fn policy_class(value: &Value) -> Result<Class, Undecided> {
    match string(value)? {
        "security" => Ok(Class::Security),
        "misconfiguration" => Ok(Class::Misconfiguration),
        "missing_approval" => Ok(Class::MissingApproval),
        "missing_task" => Ok(Class::MissingTask),
        "quota" => Ok(Class::Quota),
        _ => Err(Undecided::WrongType),
    }
}

fn classification(value: &Value) -> Result<(), Undecided> {
    match string(value)? {
        "public" | "internal" | "confidential" | "restricted" => Ok(()),
        _ => Err(Undecided::WrongType),
    }
}

fn string(value: &Value) -> Result<&str, Undecided> {
    match value {
        Value::String(text) => Ok(text.as_ref()),
        _ => Err(Undecided::WrongType),
    }
}

/// What records, spans and the agent are told, without secrets.
fn said(value: &Value) -> Result<Arc<str>, Undecided> {
    string(value).map(|text| mask::text(text).into())
}

/// Copied rather than shared: the engine's own reference would tie this answer's count to one worker's memory.
fn text(value: &Value) -> Result<Arc<str>, Undecided> {
    string(value).map(Arc::from)
}

/// A set is read as a list, as OPA writes one.
fn texts(value: &Value) -> Result<Vec<Arc<str>>, Undecided> {
    match value {
        Value::Array(items) => items.iter().map(text).collect(),
        Value::Set(items) => items.iter().map(text).collect(),
        _ => Err(Undecided::WrongType),
    }
}

/// JSON pointers (RFC 6901).
fn pointers(value: &Value) -> Result<Vec<Arc<str>>, Undecided> {
    let pointers = texts(value)?;
    match pointers.iter().all(|pointer| pointer.is_empty() || pointer.starts_with('/')) {
        true => Ok(pointers),
        false => Err(Undecided::WrongType),
    }
}

fn header_names(value: &Value) -> Result<Vec<HeaderName>, Undecided> {
    let name = |text: Arc<str>| HeaderName::from_bytes(text.as_bytes()).map_err(|_| Undecided::WrongType);
    texts(value)?.into_iter().map(name).collect()
}

fn boolean(value: &Value) -> Result<bool, Undecided> {
    match value {
        Value::Bool(value) => Ok(*value),
        _ => Err(Undecided::WrongType),
    }
}

fn count(value: &Value) -> Result<u32, Undecided> {
    let Value::Number(number) = value else { return Err(Undecided::WrongType) };
    let count = number.as_u64().and_then(|count| u32::try_from(count).ok());
    count.filter(|count| *count > 0).ok_or(Undecided::WrongType)
}

fn duration(value: &Value) -> Result<Duration, Undecided> {
    string(value)?.parse::<Period>().map(|period| period.0).map_err(|_| Undecided::WrongType)
}

#[cfg(test)]
mod tests;
