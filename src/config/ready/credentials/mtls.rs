//! A client certificate in files: from what was written to its source.

use super::{super::Check, secret};
use crate::{
    config::{document::Place, settings::Mtls},
    credential::{Source, mtls},
};

pub(super) fn mtls(check: &mut Check<'_>, place: &Place, written: &Mtls) -> Source {
    let expires = written.expires.and_then(|day| {
        let end = day.end();
        if end.is_none() {
            check.document.report(&place.key("expires"), "too far in the future");
        }
        end
    });
    Source::Mtls(mtls::Mtls {
        certificate: secret(check, &place.key("certificate"), written.certificate.as_ref()),
        key: secret(check, &place.key("key"), written.key.as_ref()),
        owner: check.required(&place.key("owner"), written.owner.as_deref()),
        expires,
    })
}
