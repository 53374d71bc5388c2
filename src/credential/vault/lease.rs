//! What a secret engine gave: which of its fields are the credential, and how long it lives.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{
    super::{Failure, client::Answer, mint::Secret, reply},
    api::{self, Said},
};

/// Which fields of a secret are the credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fields {
    /// This one.
    One(String),
    /// A user and a password.
    Pair {
        /// The field with the user's name, e.g. `username`.
        user: String,
        /// The field with the password, e.g. `password`.
        password: String,
    },
}

impl Fields {
    /// The credential, out of the fields of a secret.
    fn pick(&self, data: Option<&RawValue>) -> Result<Secret, Failure> {
        let data = data.map_or("", RawValue::get);
        // The values stay where they are: in the answer, which is wiped.
        let fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(data).map_err(|_| Failure::malformed("the secret has no fields"))?;
        let field = |name: &str| {
            let raw =
                fields.get(name).ok_or_else(|| Failure::malformed(format!("the secret has no field `{name}`")))?;
            let text = serde_json::from_str::<String>(raw.get()).map(Zeroizing::new);
            text.map_err(|_| Failure::malformed(format!("the field `{name}` is not a string")))
        };
        match self {
            Self::One(name) => field(name).map(Secret::Value),
            Self::Pair { user, password } => Ok(Secret::Pair { user: field(user)?, password: field(password)? }),
        }
    }
}

/// A dynamic secret, and how long its lease lives. One that nothing would end, or that lives too long, is refused.
pub(super) fn leased(
    answer: &Answer,
    step: &str,
    fields: &Fields,
    longest: Duration,
) -> Result<(Secret, Duration), Failure> {
    let Said { lease_id, lease_duration, data, .. } = api::read(answer, step)?;
    if lease_id.is_none_or(|id| id.is_empty()) || lease_duration == 0 {
        let detail = "the secret has no lease, so nothing would end it; hint: a field of KV version 2 is read at \
                      MOUNT/data/PATH";
        return Err(Failure::malformed(detail).about(step));
    }
    let life = Duration::from_secs(lease_duration);
    if life > longest {
        return Err(reply::outlives(life, longest).about(step));
    }
    Ok((fields.pick(data).map_err(|failure| failure.about(step))?, life))
}

/// A secret of KV version 2, which stands until somebody writes another one.
pub(super) fn kept(answer: &Answer, step: &str, fields: &Fields) -> Result<Secret, Failure> {
    #[derive(Deserialize)]
    struct Version<'a> {
        #[serde(borrow)]
        data: Option<&'a RawValue>,
    }
    let Said { lease_id, data, .. } = api::read(answer, step)?;
    if lease_id.is_some_and(|id| !id.is_empty()) {
        return Err(Failure::malformed("the secret has a lease, which one of KV has not").about(step));
    }
    let data = data.map_or("", RawValue::get);
    let version: Version<'_> =
        serde_json::from_str(data).map_err(|_| Failure::malformed("it is no secret of KV version 2").about(step))?;
    fields.pick(version.data).map_err(|failure| failure.about(step))
}
