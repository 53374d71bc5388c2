//! A client certificate in files, as written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::{Day, SecretPlace};

/// A client certificate and its key: an exception with an owner and an end. Re-read on change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mtls {
    /// Where the certificate stands as PEM, its issuers behind it. Example: `{file: /run/secrets/client/tls.crt}`.
    #[schemars(required)]
    pub certificate: Option<SecretPlace>,
    /// Where its key stands as PEM. Example: `{file: /run/secrets/client/tls.key}`.
    #[schemars(required)]
    pub key: Option<SecretPlace>,
    /// Who answers for this exception. Example: `team-x`.
    #[schemars(required)]
    pub owner: Option<String>,
    /// The last day, in UTC, on which it is used. Default: the certificate's own end. Example: `2027-01-31`.
    pub expires: Option<Day>,
}
