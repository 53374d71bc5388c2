//! The origin's answer on its way to the agent.

use std::{
    borrow::Cow,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, header};

use super::custody::Custody;
use crate::{audit::Record, call::http as canonical, origin::Lease, refusal::Refusal, task::bell::Listener};

/// What is done when the last frame of an answer has passed. Dropped before that, it leaves the record to say that the
/// call was abandoned, and the connection to be closed.
pub struct Ending {
    /// The record of the call.
    pub record: Record,
    /// The connection that the answer came over.
    pub lease: Lease,
    /// Hears what happens to the call's task, once something waits for it.
    pub listener: Option<Listener>,
    /// Looks after the credential that the call carried.
    pub custody: Option<Custody>,
}

impl Ending {
    /// Data bytes have passed, and so many secrets were found in the body since the last ones.
    pub fn passed(&mut self, bytes: usize, found: u64) {
        self.record.facts.response_bytes += bytes as u64;
        if let Some(custody) = self.custody.as_ref().filter(|_| found > 0) {
            custody.found(&mut self.record.facts.answer, Cow::Borrowed("body"), found);
        }
    }

    /// Keeps what is ours of what comes behind the body.
    pub fn keep(&mut self, trailers: &mut HeaderMap) {
        if let Some(custody) = &self.custody {
            custody.keep_trailers(trailers, &mut self.record.facts.answer);
        }
    }

    /// Why nothing more may pass, if so.
    pub fn withdrawn(&self) -> Option<Refusal> {
        let facts = &self.record.facts;
        facts.task.as_ref()?.refusal(&facts.upstream.as_ref()?.name)
    }

    /// Ready when [`Self::withdrawn`] has to be asked again.
    pub fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(task) = &self.record.facts.task else { return Poll::Pending };
        match &mut self.listener {
            Some(listener) => listener.poll_rung(cx),
            None => {
                // What happened before it listens is found by asking once more.
                self.listener = Some(task.life.listen());
                Poll::Ready(())
            }
        }
    }

    /// The answer was cut.
    pub fn refused(self, refusal: Refusal) {
        let Self { mut record, .. } = self;
        record.facts.refusal = Some(refusal);
        record.finish();
    }

    /// The last frame has passed.
    pub fn complete(self) {
        let Self { record, lease, .. } = self;
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
