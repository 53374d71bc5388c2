//! Every reason that an agent gets no answer from the origin.
//!
//! A [`Refusal`] defines its status, label, class and message together, once. The label is the metric's and the record's;
//! the class says whose concern it is. Adding a reason means choosing all of them: no match here has a `_`.

pub mod answer;

use std::{sync::Arc, time::Duration};

use http::StatusCode;

use crate::policy::{Class, Denial, DenialKind};

/// Why a call got no answer from the origin. Closed: nothing else can refuse.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// Policy's no.
    Denied(Denial),
    /// The request can't be brought into one unambiguous form.
    MalformedRequest(&'static str),
    /// The request's head is larger than `limits.header_bytes`, or has too many fields.
    HeaderTooLarge,
    /// The body that policy must see is larger than `limits.inspect_bytes`.
    BodyTooLarge,
    /// All bodies held for policy together reached `limits.inspect_total`.
    InspectionFull,
    /// The body did not arrive whole.
    BodyIncomplete,
    /// The body is not what the destination's protocol allows; the JSON-RPC code that says so.
    MalformedMessage {
        /// JSON-RPC error code.
        code: i32,
        /// What is wrong.
        detail: &'static str,
    },
    /// CONNECT target (or dialled address), SNI and `Host`/`:authority` do not agree.
    NameMismatch(&'static str),
    /// No configured destination covers this host and port.
    UnknownDestination,
    /// The name leads to, or is, an address that is never dialled, or not from this destination.
    AddressForbidden(&'static str),
    /// A destination of our own: the sidecar's own ports.
    OwnAddress,
    /// The first bytes are of no protocol that is known here, or did not come in time.
    UnknownProtocol,
    /// This combination of protocol and destination is not served.
    UnsupportedProtocol(&'static str),
    /// The agent did not accept our certificate, or its handshake broke.
    AgentTls,
    /// The time of the task that the call belongs to is over.
    TaskExpired,
    /// The task that the call belongs to was done.
    TaskEnded,
    /// The task that the call belongs to was stopped.
    TaskKilled,
    /// The call presents a handle that is no task's.
    TaskUnknown,
    /// The agent was switched off.
    AgentKilled,
    /// The destination was switched off.
    DestinationKilled,
    /// The call carries a secret of this kind, which the destination's configuration refuses.
    SecretRefused(&'static str),
    /// A placeholder stands where it must not, or goes to a destination that it is not for.
    PlaceholderMisplaced,
    /// The configuration of an open tunnel's destination has changed.
    DestinationChanged,
    /// Nothing proves who the agent is.
    IdentityUnavailable,
    /// The destination's credential could not be had.
    Credential(CredentialRefusal),
    /// The destination has a credential, and this leg is not verified TLS.
    CredentialCleartext,
    /// The name does not resolve.
    OriginUnresolved,
    /// No address accepted a connection.
    OriginUnreachable,
    /// The origin's certificate does not verify for the name.
    OriginCertificate(&'static str),
    /// The origin did not answer in time.
    OriginTimeout,
    /// The origin broke the connection or the protocol before its answer began.
    OriginProtocol,
    /// The call carried a credential, and its answer can't be looked through for it.
    OriginCoding(&'static str),
    /// The record of this call can't be kept.
    AuditUnavailable,
    /// `limits.connections` are open.
    TooManyConnections,
    /// The sidecar is stopping.
    Stopping,
    /// A fault of ours, caught at the edge.
    Panicked,
}

/// Why a credential could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialRefusal {
    /// The issuer or file can't be reached.
    Unavailable,
    /// The issuer did not answer in time.
    Timeout,
    /// The issuer said no.
    Rejected,
    /// The issuer's answer is not what the standard says.
    Malformed,
    /// It would live longer than allowed.
    LifetimeExceeded,
    /// The issuer gave more than was asked for.
    ScopeExceeded,
    /// The call needs more than is declared for the credential, or than policy granted. No issuer was asked.
    NotGranted,
    /// What we were told to use, or policy to ask for, can't be used. No issuer is at fault.
    Misconfigured,
    /// What stands with us has ended: an exception, a certificate, a projected token.
    Expired,
    /// More was asked of the issuer within a minute than it is to bear.
    BudgetSpent,
    /// The issuer failed several times in a row and is left alone.
    CircuitOpen,
}

impl Refusal {
    /// The name in metrics, records and the problem's `type`. Stable.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Denied(denial) => match denial.kind {
                DenialKind::Rule => "policy_denied",
                DenialKind::ApprovalRequired => "approval_required",
                DenialKind::Undecided(why) => why.label(),
            },
            Self::MalformedRequest(_) => "malformed_request",
            Self::HeaderTooLarge => "header_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::InspectionFull => "inspection_full",
            Self::BodyIncomplete => "body_incomplete",
            Self::MalformedMessage { .. } => "malformed_message",
            Self::NameMismatch(_) => "name_mismatch",
            Self::UnknownDestination => "unknown_destination",
            Self::AddressForbidden(_) => "address_forbidden",
            Self::OwnAddress => "own_address",
            Self::UnknownProtocol => "unknown_protocol",
            Self::UnsupportedProtocol(_) => "unsupported_protocol",
            Self::AgentTls => "agent_tls",
            Self::SecretRefused(_) => "secret_refused",
            Self::PlaceholderMisplaced => "placeholder_misplaced",
            Self::TaskExpired => "task_expired",
            Self::TaskEnded => "task_ended",
            Self::TaskKilled => "task_killed",
            Self::TaskUnknown => "task_unknown",
            Self::AgentKilled => "agent_killed",
            Self::DestinationKilled => "destination_killed",
            Self::DestinationChanged => "destination_changed",
            Self::IdentityUnavailable => "identity_unavailable",
            Self::Credential(why) => match why {
                CredentialRefusal::Unavailable => "credential_unavailable",
                CredentialRefusal::Timeout => "credential_timeout",
                CredentialRefusal::Rejected => "credential_rejected",
                CredentialRefusal::Malformed => "credential_malformed",
                CredentialRefusal::LifetimeExceeded => "credential_lifetime_exceeded",
                CredentialRefusal::ScopeExceeded => "credential_scope_exceeded",
                CredentialRefusal::NotGranted => "credential_not_granted",
                CredentialRefusal::Misconfigured => "credential_misconfigured",
                CredentialRefusal::Expired => "credential_expired",
                CredentialRefusal::BudgetSpent => "credential_budget_spent",
                CredentialRefusal::CircuitOpen => "credential_circuit_open",
            },
            Self::CredentialCleartext => "credential_cleartext",
            Self::OriginUnresolved => "origin_unresolved",
            Self::OriginUnreachable => "origin_unreachable",
            Self::OriginCertificate(_) => "origin_certificate",
            Self::OriginTimeout => "origin_timeout",
            Self::OriginProtocol => "origin_protocol",
            Self::OriginCoding(_) => "origin_coding",
            Self::AuditUnavailable => "audit_unavailable",
            Self::TooManyConnections => "too_many_connections",
            Self::Stopping => "stopping",
            Self::Panicked => "panicked",
        }
    }

    /// The HTTP status that the agent sees. Never 401 or 407: clients would start a login.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Denied(_)
            | Self::UnknownDestination
            | Self::AddressForbidden(_)
            | Self::OwnAddress
            | Self::UnknownProtocol
            | Self::UnsupportedProtocol(_)
            | Self::AgentTls
            | Self::SecretRefused(_)
            | Self::PlaceholderMisplaced
            | Self::TaskExpired
            | Self::TaskEnded
            | Self::TaskKilled
            | Self::TaskUnknown
            | Self::AgentKilled
            | Self::DestinationKilled
            | Self::DestinationChanged
            | Self::Credential(CredentialRefusal::NotGranted)
            | Self::CredentialCleartext => StatusCode::FORBIDDEN,
            Self::MalformedRequest(_) | Self::MalformedMessage { .. } | Self::BodyIncomplete => StatusCode::BAD_REQUEST,
            Self::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NameMismatch(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::OriginUnresolved
            | Self::OriginUnreachable
            | Self::OriginCertificate(_)
            | Self::OriginProtocol
            | Self::OriginCoding(_) => StatusCode::BAD_GATEWAY,
            Self::OriginTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Credential(_)
            | Self::IdentityUnavailable
            | Self::InspectionFull
            | Self::AuditUnavailable
            | Self::TooManyConnections
            | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whose concern it is.
    pub fn class(&self) -> Class {
        match self {
            Self::Denied(denial) => denial.class,
            Self::MalformedRequest(_)
            | Self::HeaderTooLarge
            | Self::BodyTooLarge
            | Self::BodyIncomplete
            | Self::MalformedMessage { .. }
            | Self::UnknownProtocol
            | Self::AgentTls => Class::AgentProtocol,
            Self::NameMismatch(_)
            | Self::AddressForbidden(_)
            | Self::OwnAddress
            | Self::SecretRefused(_)
            | Self::PlaceholderMisplaced => Class::Security,
            Self::UnknownDestination
            | Self::UnsupportedProtocol(_)
            | Self::DestinationChanged
            | Self::Credential(CredentialRefusal::Misconfigured)
            | Self::CredentialCleartext => Class::Misconfiguration,
            Self::TaskExpired | Self::TaskEnded | Self::TaskKilled | Self::TaskUnknown => Class::MissingTask,
            Self::AgentKilled | Self::DestinationKilled => Class::Security,
            Self::Credential(_) | Self::IdentityUnavailable => Class::Credential,
            Self::OriginUnresolved
            | Self::OriginUnreachable
            | Self::OriginCertificate(_)
            | Self::OriginTimeout
            | Self::OriginProtocol
            | Self::OriginCoding(_) => Class::Origin,
            Self::InspectionFull | Self::AuditUnavailable | Self::TooManyConnections | Self::Panicked => {
                Class::Overload
            }
            Self::Stopping => Class::Shutdown,
        }
    }

    /// The reason's name: policy's own where policy refused, else the label.
    pub fn reason(&self) -> Arc<str> {
        match self {
            Self::Denied(denial) => Arc::clone(&denial.reason),
            other => other.label().into(),
        }
    }

    /// The rule that refused: policy's own, else the name of ours.
    pub fn rule(&self) -> Arc<str> {
        match self {
            Self::Denied(denial) => Arc::clone(&denial.rule),
            other => format!("tollgate.{}", other.label()).into(),
        }
    }

    /// One sentence for the agent: true, short, without a secret or another destination's name.
    pub fn detail(&self) -> Arc<str> {
        match self {
            Self::Denied(denial) => Arc::clone(&denial.message),
            Self::MalformedRequest(what) | Self::MalformedMessage { detail: what, .. } | Self::NameMismatch(what) => {
                (*what).into()
            }
            Self::HeaderTooLarge => "the request's header section is larger than this sidecar accepts".into(),
            Self::BodyTooLarge => "the body is larger than can be inspected for this destination".into(),
            Self::InspectionFull => "too many bodies are being inspected at this moment".into(),
            Self::BodyIncomplete => "the request's body did not arrive whole".into(),
            Self::UnknownDestination => "no configured destination covers this host and port".into(),
            Self::AddressForbidden(what) => (*what).into(),
            Self::OwnAddress => "the sidecar's own addresses can't be reached through it".into(),
            Self::UnknownProtocol => "the connection speaks neither TLS nor HTTP".into(),
            Self::UnsupportedProtocol(what) => (*what).into(),
            Self::AgentTls => "the TLS handshake with the agent failed".into(),
            Self::PlaceholderMisplaced => {
                "a placeholder stands where no credential belongs, or goes to another destination".into()
            }
            Self::SecretRefused(kind) => {
                format!("the call carries a secret ({kind}), which must not be sent to this destination").into()
            }
            Self::TaskExpired => "the task's time is over".into(),
            Self::TaskEnded => "the task has ended".into(),
            Self::TaskKilled => "the task was stopped".into(),
            Self::TaskUnknown => "no task of this sidecar has the handle in Tollgate-Task".into(),
            Self::AgentKilled => "the agent was switched off".into(),
            Self::DestinationKilled => "the destination was switched off".into(),
            Self::DestinationChanged => "the configuration of this destination has changed".into(),
            Self::IdentityUnavailable => "the identity of this agent can't be proven now".into(),
            Self::Credential(why) => match why {
                CredentialRefusal::Unavailable => "the credential for this destination can't be had now".into(),
                CredentialRefusal::Timeout => {
                    "the issuer of this destination's credential did not answer in time".into()
                }
                CredentialRefusal::Rejected => "the issuer refused a credential for this destination".into(),
                CredentialRefusal::Malformed => {
                    "the issuer of this destination's credential gave an invalid answer".into()
                }
                CredentialRefusal::LifetimeExceeded => {
                    "a credential for this destination would live longer than allowed".into()
                }
                CredentialRefusal::ScopeExceeded => {
                    "the issuer gave a credential that may do more than was asked".into()
                }
                CredentialRefusal::NotGranted => {
                    "the call needs more than the credential for this destination may be asked for".into()
                }
                CredentialRefusal::Misconfigured => {
                    "the credential for this destination, or what policy asks of it, is set up wrongly".into()
                }
                CredentialRefusal::Expired => "the credential for this destination has expired".into(),
                CredentialRefusal::BudgetSpent => {
                    "too many credentials were asked of this issuer; wait a minute".into()
                }
                CredentialRefusal::CircuitOpen => {
                    "the issuer of this destination's credential failed and is left alone for a while".into()
                }
            },
            Self::CredentialCleartext => {
                "this destination's credential is only sent over verified TLS; use https".into()
            }
            Self::OriginUnresolved => "the destination's name does not resolve".into(),
            Self::OriginUnreachable => "the destination does not accept connections".into(),
            Self::OriginCertificate(what) | Self::OriginCoding(what) => (*what).into(),
            Self::OriginTimeout => "the destination did not answer in time".into(),
            Self::OriginProtocol => "the destination broke the connection or the protocol".into(),
            Self::AuditUnavailable => "the record of this call can't be kept, so it is not made".into(),
            Self::TooManyConnections => "too many connections are open".into(),
            Self::Stopping => "the sidecar is stopping".into(),
            Self::Panicked => "the sidecar failed on this call; it was not forwarded by that".into(),
        }
    }

    /// What the agent can do next. At least one step, each one sentence.
    pub fn next_steps(&self) -> &'static [&'static str] {
        match self {
            Self::Denied(denial) => match denial.kind {
                DenialKind::Rule => &[
                    "Do not repeat this call: the answer stays the same.",
                    "Choose a call that the task permits, or ask the person who gave the task.",
                ],
                DenialKind::ApprovalRequired => {
                    &["Approvals can't be given in this version.", "Go on with calls that need no approval."]
                }
                DenialKind::Undecided(_) => {
                    &["Do not repeat this call.", "Report the decision id to the owner of the policy."]
                }
            },
            Self::MalformedRequest(_) | Self::MalformedMessage { .. } | Self::BodyIncomplete | Self::AgentTls => {
                &["Correct the request and send it again."]
            }
            Self::HeaderTooLarge => &["Send fewer or shorter headers."],
            Self::BodyTooLarge => &["Send a smaller body, or split the call."],
            Self::NameMismatch(_) => &["Open a new connection to the host that the request names."],
            Self::PlaceholderMisplaced => {
                &["Send the placeholder in the slot of its own destination only: it is worth nothing anywhere else."]
            }
            Self::SecretRefused(_) => {
                &["Send the call without the secret; what the destination needs is put on for it."]
            }
            Self::TaskExpired | Self::TaskEnded | Self::TaskKilled => &["Stop, and ask for a new task."],
            Self::TaskUnknown => &["Send the handle as it was given, or ask for a new task."],
            Self::AgentKilled => &["Stop."],
            Self::DestinationKilled => &["Do not repeat this call.", "Go on without this destination."],
            Self::DestinationChanged => &["Open a new connection."],
            Self::UnknownDestination => {
                &["Do not repeat this call.", "Ask the platform team to add the destination, if the task needs it."]
            }
            Self::AddressForbidden(_) | Self::OwnAddress => &["Do not repeat this call."],
            Self::UnknownProtocol | Self::UnsupportedProtocol(_) => {
                &["Use HTTP or TLS towards a configured destination."]
            }
            Self::Credential(CredentialRefusal::NotGranted) => &[
                "Do not repeat this call: the answer stays the same.",
                "Ask the platform team to grant it to the destination's credential, if the task needs it.",
            ],
            Self::Credential(CredentialRefusal::Misconfigured) => {
                &["Do not repeat this call.", "Report the decision id to the platform team."]
            }
            Self::Credential(_)
            | Self::IdentityUnavailable
            | Self::InspectionFull
            | Self::AuditUnavailable
            | Self::TooManyConnections => {
                &["Try again later.", "Report the decision id to the platform team if it stays."]
            }
            Self::CredentialCleartext => &["Use https for this destination."],
            Self::OriginUnresolved | Self::OriginUnreachable | Self::OriginTimeout | Self::OriginProtocol => {
                &["Try again later."]
            }
            Self::OriginCertificate(_) => &["Do not repeat this call.", "Report the decision id to the platform team."],
            Self::OriginCoding(_) => {
                &["Send `Accept-Encoding: identity`.", "Report the decision id to the platform team if it stays."]
            }
            Self::Stopping => &["Try again after the restart."],
            Self::Panicked => &["Report the decision id to the platform team."],
        }
    }

    /// How long to wait before the same call may succeed; `None` where repeating is of no use.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Denied(denial) => match denial.kind {
                // Nothing can grant an approval yet, so waiting for one is of no use.
                DenialKind::ApprovalRequired | DenialKind::Rule | DenialKind::Undecided(_) => None,
            },
            Self::Credential(CredentialRefusal::BudgetSpent | CredentialRefusal::CircuitOpen) => {
                Some(Duration::from_secs(30))
            }
            Self::Credential(CredentialRefusal::Unavailable | CredentialRefusal::Timeout)
            | Self::IdentityUnavailable
            | Self::InspectionFull
            | Self::AuditUnavailable
            | Self::TooManyConnections
            | Self::OriginUnresolved
            | Self::OriginUnreachable
            | Self::OriginTimeout
            | Self::OriginProtocol => Some(Duration::from_secs(5)),
            Self::Stopping => Some(Duration::from_secs(10)),
            Self::Credential(
                CredentialRefusal::Rejected
                | CredentialRefusal::Malformed
                | CredentialRefusal::LifetimeExceeded
                | CredentialRefusal::ScopeExceeded
                | CredentialRefusal::NotGranted
                | CredentialRefusal::Misconfigured
                | CredentialRefusal::Expired,
            )
            | Self::MalformedRequest(_)
            | Self::HeaderTooLarge
            | Self::BodyTooLarge
            | Self::BodyIncomplete
            | Self::MalformedMessage { .. }
            | Self::NameMismatch(_)
            | Self::UnknownDestination
            | Self::AddressForbidden(_)
            | Self::OwnAddress
            | Self::UnknownProtocol
            | Self::UnsupportedProtocol(_)
            | Self::AgentTls
            | Self::SecretRefused(_)
            | Self::PlaceholderMisplaced
            | Self::TaskExpired
            | Self::TaskEnded
            | Self::TaskKilled
            | Self::TaskUnknown
            | Self::AgentKilled
            | Self::DestinationKilled
            | Self::DestinationChanged
            | Self::CredentialCleartext
            | Self::OriginCertificate(_)
            | Self::OriginCoding(_)
            | Self::Panicked => None,
        }
    }
}
