//! A client certificate in files: from what was written to its source.

use super::{super::Check, exception, secret};
use crate::{
    config::{document::Place, settings::Mtls},
    credential::{Source, mtls},
};

pub(super) fn mtls(check: &mut Check<'_>, place: &Place, written: &Mtls) -> Source {
    Source::Mtls(mtls::Mtls {
        certificate: secret(check, &place.key("certificate"), written.certificate.as_ref()),
        key: secret(check, &place.key("key"), written.key.as_ref()),
        exception: exception(check, place, written.owner.as_deref(), written.expires),
    })
}
