//! The origin's answer on its way to the agent.

use http::{HeaderMap, HeaderValue, header};

use crate::{audit::Record, call::http as canonical, origin::Lease, refusal::Refusal};

/// What is done when the last frame of an answer has passed. Dropped before that, it leaves the record to say that the
/// call was abandoned, and the connection to be closed.
pub struct Ending {
    /// The record of the call.
    pub record: Record,
    /// The connection that the answer came over.
    pub lease: Lease,
}

impl Ending {
    /// Data bytes have passed.
    pub fn passed(&mut self, bytes: usize) {
        self.record.facts.response_bytes += bytes as u64;
    }

    /// The last frame has passed.
    pub fn complete(self) {
        let Self { record, lease } = self;
        lease.give_back();
        record.finish();
    }

    /// The answer broke off: by the origin, or because the agent broke its request off.
    pub fn broken(self) {
        let Self { mut record, .. } = self;
        if record.facts.sent.as_ref().is_some_and(|sent| sent.broken()) {
            record.facts.abandoned = true;
        } else {
            record.facts.origin_error = Some("response_broken");
        }
        record.finish();
    }
}

/// Takes away what belongs to the leg behind, or would lead the agent around this sidecar.
///
/// # Errors
/// [`Refusal::OriginProtocol`] when `Connection` names a field that must not be taken away.
pub fn clean(headers: &mut HeaderMap, upgraded: bool) -> Result<(), Refusal> {
    canonical::strip_hop_by_hop(headers).map_err(|_| Refusal::OriginProtocol)?;
    // HTTP/3 does not pass here, and another authority would be another destination.
    headers.remove(header::ALT_SVC);
    if upgraded {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    Ok(())
}
