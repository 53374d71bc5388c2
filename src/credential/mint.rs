//! What a broker is asked for, and what it gives: the vocabulary that the store and all brokers share.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    Failure,
    circuit::Circuits,
    client::Client,
    exception,
    oauth::{dpop, metadata::Issuers},
    pieces::pieces,
    placement::Placed,
    vault,
};
use crate::{
    config::Upstream, identity::Identity, secret::scrub::Needles, task::Task, tls::certificate::ClientCertificate,
};

/// What every broker works with. A broker that keeps something between two mints (a login, a nonce) keeps it here,
/// because a [`Source`](super::Source) is configuration and holds no state.
pub(super) struct Tools {
    /// Speaks to issuers.
    pub(super) client: Client,
    /// Proves to them who the agent is.
    pub(super) identity: Arc<Identity>,
    /// Where issuers say that they are asked.
    pub(super) issuers: Arc<Issuers>,
    /// Who we are to the Vault servers.
    pub(super) vault: Arc<vault::Logins>,
    /// Who was told of exceptions that end.
    pub(super) exceptions: Arc<exception::Told>,
}

impl Tools {
    pub(super) fn new(client: Client, identity: Arc<Identity>) -> Self {
        Self { client, identity, issuers: Arc::default(), vault: Arc::default(), exceptions: Arc::default() }
    }

    /// The same for one mint: its issuers are spared, and none is waited for after this moment.
    pub(super) fn for_mint(&self, circuits: &Arc<Circuits>, deadline: Instant) -> Self {
        let (issuers, vault) = (Arc::clone(&self.issuers), Arc::clone(&self.vault));
        let (identity, exceptions) = (Arc::clone(&self.identity), Arc::clone(&self.exceptions));
        Self { client: self.client.for_mint(circuits, deadline), identity, issuers, vault, exceptions }
    }
}

/// One credential that is asked for.
pub(super) struct Asking<'a> {
    pub(super) tools: &'a Tools,
    /// The scopes that policy chose, else all that are declared. Nothing more may be given.
    pub(super) scopes: &'a [&'a str],
    /// The longest life that is accepted. What lives longer is refused.
    pub(super) longest: Duration,
    /// How long it is of use: an issuer that can be told is asked for no more.
    pub(super) useful: Duration,
    /// The task that it is for.
    pub(super) task: &'a Task,
    /// The destination that it is for.
    pub(super) upstream: &'a Upstream,
}

/// What an issuer gave.
pub(super) struct Minted {
    pub(super) secret: Secret,
    pub(super) life: Life,
    /// What ends it before its time, where its issuer can.
    pub(super) handle: Option<Handle>,
}

/// How long it may be served.
pub(super) enum Life {
    /// Its issuer ends it so long after it was asked. A longer life than is allowed is refused.
    For(Duration),
    /// As [`Self::For`], from an issuer that knows one life only: a longer one is served in part, and then ended by us.
    Fixed(Duration),
    /// It stands until it is looked at again: a file, or a certificate that others rotate.
    Standing {
        /// When it ends for good, where that is known.
        ends: Option<SystemTime>,
        /// How long it is served before the next look.
        again: Duration,
    },
}

/// The secret itself.
#[derive(Clone)]
pub(super) enum Secret {
    /// One value: a token, a key, a password.
    Value(Zeroizing<String>),
    /// A user and a password, both of which the issuer made.
    Pair {
        /// The user's name.
        user: Zeroizing<String>,
        /// The password.
        password: Zeroizing<String>,
    },
    /// A token that is worth nothing without a key of ours.
    Bound {
        /// The token.
        token: Zeroizing<String>,
        /// The key.
        key: Arc<dpop::Key>,
    },
    /// A certificate, whose key never leaves the TLS library.
    Certificate(Arc<ClientCertificate>),
    /// Keys that sign requests.
    Aws {
        /// The name of the keys, which is no secret.
        access_key: Zeroizing<String>,
        /// What signs. Never goes onto a request.
        secret_key: Zeroizing<String>,
        /// What goes along with each signature.
        session_token: Zeroizing<String>,
    },
}

impl Secret {
    /// Every value in it that must not come back to the agent.
    pub(super) fn values(&self) -> Vec<&str> {
        match self {
            Self::Value(value) => vec![value],
            Self::Pair { password, .. } => vec![password],
            Self::Bound { token, .. } => vec![token],
            Self::Certificate(_) => Vec::new(),
            Self::Aws { secret_key, session_token, .. } => vec![secret_key, session_token],
        }
    }

    /// What answers are looked through for. Of keys that sign, what goes out is worth nothing without what does not; and
    /// whoever compares checksums, as clients of S3 do, needs compressed answers as they are.
    /// The form on the wire counts as a value of its own: an origin may encode that once more. So does what of a value may
    /// be said alone.
    pub(super) fn needles(&self, placed: &Placed) -> Option<Needles> {
        match self {
            Self::Aws { .. } => None,
            _ => {
                let pieces = match self {
                    Self::Value(value) => pieces(value),
                    _ => Vec::new(),
                };
                let mut values = self.values();
                values.extend(placed.encoded());
                values.extend(pieces.iter().map(|piece| piece.as_str()));
                Needles::new(&values)
            }
        }
    }
}

/// What an issuer needs to end what it gave.
#[derive(Clone)]
pub(super) enum Handle {
    /// The credential itself (RFC 7009): stays in memory only.
    Secret(Zeroizing<String>),
    /// A name that is no secret, e.g. an accessor: written down, so that a crash loses nothing.
    Reference(Arc<str>),
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(_) => f.write_str("[secret]"),
            Self::Reference(name) => f.debug_tuple("Reference").field(name).finish(),
        }
    }
}

/// Why there is no credential, and what ends the one that was given all the same.
pub(super) struct Unusable {
    pub(super) failure: Failure,
    pub(super) handle: Option<Handle>,
}

impl From<Failure> for Unusable {
    fn from(failure: Failure) -> Self {
        Self { failure, handle: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_credential_is_shown_only_where_it_is_a_name() {
        let secret = Handle::Secret(Zeroizing::new("canary".to_owned()));
        let named = Handle::Reference("accessor-1".into());
        assert_eq!(format!("{secret:?} {named:?}"), r#"[secret] Reference("accessor-1")"#);
    }
}
