//! An identity that the configuration gives. It is always there, and nothing proves it: it has no token and no certificate.

use super::{Id, Proof, standing::Standing};

/// An identity that is only said.
#[derive(Debug)]
pub struct Configured {
    pub(super) standing: Standing,
}

impl Configured {
    /// This one.
    pub(super) fn new(id: Id) -> Self {
        Self { standing: Standing::proven(id, Proof { serial: None, expires_at: None }) }
    }
}
