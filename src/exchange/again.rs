//! Makes a call once more whose credential the origin did not take.
//!
//! A 401 from a destination that we authenticate to is ours to answer: the credential is given up, and the call is made
//! again with the next one, once, where that is safe: its method has no effect (RFC 9110 section 9.2.1) and it has no body.
//! Any other call is answered as the origin did; the next one carries the next credential. Where the origin only wanted
//! another nonce in the proof of possession, the credential stays.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::Body;

use super::{Exchange, question::Question};
use crate::{
    body::RequestBody, call::Protocol, credential::Credential, origin::Reply, policy::Permit, refusal::Refusal,
};

/// A request's fields, as few bytes as they take: nearly all calls are made once.
pub type Fields = Vec<(HeaderName, HeaderValue)>;

/// The request's fields, kept for making the call again; `None` when it must not be.
pub fn spare(
    question: &Question,
    headers: &HeaderMap,
    body: &RequestBody,
    credential: Option<&Credential>,
) -> Option<Fields> {
    let is_safe = matches!(question.call.http.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let repeatable = is_safe && body.is_end_stream() && question.call.protocol != Protocol::WebSocket;
    let copied = || headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    (credential.is_some() && repeatable).then(copied)
}

impl Exchange<'_> {
    /// The origin answered 401 to a call with this credential.
    pub(super) async fn unauthorized(
        &mut self,
        question: &Question,
        permit: &Permit,
        credential: Arc<Credential>,
        spare: Option<Fields>,
        reply: Reply,
    ) -> Result<(Reply, Option<Arc<Credential>>), Refusal> {
        let nonce = credential.note_nonce(reply.response.headers());
        if !nonce {
            self.sidecar.credentials().rotate(&credential);
        }
        let Some(headers) = spare else { return Ok((reply, Some(credential))) };
        let next = if nonce { Some(Arc::clone(&credential)) } else { self.mint(question, permit).await? };
        let Some(next) = next.filter(|next| nonce || next.fingerprint != credential.fingerprint) else {
            // Its source has no other one, so asking again would change nothing.
            return Ok((reply, Some(credential)));
        };
        drop(reply);
        self.record.facts.answer.refused = Some(Arc::clone(&credential.fingerprint));
        let request = self.dress(question, headers.into_iter().collect(), RequestBody::empty(), permit, Some(&next))?;
        let reply = self.send(question, permit, Some(&next), request, false).await?;
        Ok((reply, Some(next)))
    }
}
