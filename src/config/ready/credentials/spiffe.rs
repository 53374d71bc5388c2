//! The agent's own identity as a credential: from what was written to its source.

use super::super::{Check, at};
use crate::{
    config::{
        document::Place,
        settings::{SpiffeJwt, SpiffeX509},
    },
    credential::{Source, spiffe_jwt, spiffe_x509},
};

pub(super) fn jwt(check: &mut Check<'_>, place: &Place, written: &SpiffeJwt) -> Source {
    needs_spiffe(check, place);
    let audience = check.required(&place.key("audience"), written.audience.as_deref());
    Source::SpiffeJwt(spiffe_jwt::SpiffeJwt { audience })
}

pub(super) fn x509(check: &mut Check<'_>, place: &Place, _written: &SpiffeX509) -> Source {
    needs_spiffe(check, place);
    Source::SpiffeX509(spiffe_x509::SpiffeX509)
}

/// Without it there would never be such a credential.
fn needs_spiffe(check: &mut Check<'_>, place: &Place) {
    if check.document.text(&at(&["agent", "identity", "kind"])).as_deref() != Some("spiffe") {
        check.document.report(&place.key("kind"), "needs agent.identity: {kind: spiffe}");
    }
}
