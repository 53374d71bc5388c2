//! What happens to credentials, as it is told and counted.

use std::{sync::Arc, time::Duration};

/// Told of everything that happens to a credential: its kind, and what happened.
pub type Events = Arc<dyn Fn(&'static str, Event) + Send + Sync>;

/// What happens to a credential, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Minted or read for the first time.
    Minted,
    /// Replaced by a newer one.
    Refreshed,
    /// Not to be had.
    Refused,
    /// Ended by its issuer on our word.
    Revoked {
        /// How long after it was to end.
        lag: Duration,
    },
    /// Given up before its time, because it was seen where it must not be or its origin took it no longer.
    Rotated,
    /// Not ended by its issuer: valid until it expires.
    RevokeFailed,
}

impl Event {
    /// As it stands in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minted => "minted",
            Self::Refreshed => "refreshed",
            Self::Refused => "refused",
            Self::Revoked { .. } => "revoked",
            Self::Rotated => "rotated",
            Self::RevokeFailed => "revoke_failed",
        }
    }
}
