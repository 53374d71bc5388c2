//! Keeps every token that its issuer can still end, and ends it.
//!
//! A token stands here from its mint until it is revoked or expires, also after a newer one took its place: what was
//! minted is not forgotten because it is no longer used.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};
use tracing::warn;
use zeroize::Zeroizing;

use super::{
    Declaration, Failure,
    client::Client,
    oauth::Issuer,
    store::{Event, Events},
};
use crate::{config::Upstream, refusal::CredentialRefusal};

/// What became of the tokens that were to be revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Their issuer ended them.
    pub revoked: usize,
    /// They stay valid until they expire.
    pub failed: usize,
}

/// A minted token that its issuer can end.
pub(super) struct Token {
    pub(super) value: Zeroizing<String>,
    pub(super) declaration: Arc<Declaration>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) expires: Instant,
}

/// The minted tokens, by the partition of their credential.
pub(super) struct Outstanding {
    client: Client,
    events: Events,
    /// `None` once everything was ended: nothing is kept from then on.
    tokens: Mutex<Option<HashMap<u64, Token>>>,
}

impl Outstanding {
    pub(super) fn new(client: Client, events: Events) -> Self {
        Self { client, events, tokens: Mutex::new(Some(HashMap::new())) }
    }

    /// Keeps a token, or gives it back when it is too late to keep any.
    pub(super) fn keep(&self, partition: u64, token: Token) -> Result<(), Token> {
        match &mut *self.tokens() {
            None => Err(token),
            Some(tokens) => {
                let now = Instant::now();
                tokens.retain(|_, kept| kept.expires > now);
                tokens.insert(partition, token);
                Ok(())
            }
        }
    }

    /// Ends one token, if it was not ended yet. What fails is kept for the end.
    pub(super) async fn end(&self, partition: u64) {
        let token = self.tokens().as_mut().and_then(|tokens| tokens.remove(&partition));
        if let Some(token) = token
            && !self.revoke(&token, token.expires).await
        {
            // Refused only when everything has been ended meanwhile, and then there is no later attempt.
            let _ = self.keep(partition, token);
        }
    }

    /// Ends the tokens of destinations that are not wanted any longer, several at a time.
    pub(super) async fn end_unless(&self, wanted: impl Fn(&Arc<Upstream>) -> bool) {
        let gone: Vec<u64> = match &*self.tokens() {
            Some(tokens) => {
                tokens.iter().filter(|(_, token)| !wanted(&token.upstream)).map(|(partition, _)| *partition).collect()
            }
            None => Vec::new(),
        };
        stream::iter(gone).for_each_concurrent(AT_A_TIME, async |partition| self.end(partition).await).await;
    }

    /// Ends all tokens, several at a time, and keeps none from now on.
    pub(super) async fn end_all(&self, deadline: Instant) -> Revocations {
        let now = Instant::now();
        let tokens = self.tokens().take().unwrap_or_default();
        let tokens = stream::iter(tokens.into_values().filter(|token| token.expires > now));
        let mut outcomes = tokens.map(async |token| self.revoke(&token, deadline).await).buffer_unordered(AT_A_TIME);
        let mut total = Revocations::default();
        while let Some(revoked) = outcomes.next().await {
            match revoked {
                true => total.revoked += 1,
                false => total.failed += 1,
            }
        }
        total
    }

    /// Asks the issuer to end this token; whether it did.
    pub(super) async fn revoke(&self, token: &Token, deadline: Instant) -> bool {
        let Some(issuer) = Issuer::of(&token.declaration.source) else { return false };
        let late = || Failure::new(CredentialRefusal::Timeout, "no time is left");
        let revoking = timeout_at(deadline, issuer.revoke(&self.client, &token.value)).await;
        let (event, revoked) = match revoking.unwrap_or_else(|_| Err(late())) {
            Ok(()) => (Event::Revoked, true),
            Err(failure) => {
                warn!(credential = %token.declaration.name, why = failure.detail, "credential not revoked");
                (Event::RevokeFailed, false)
            }
        };
        (self.events)(token.declaration.kind(), event);
        revoked
    }

    fn tokens(&self) -> MutexGuard<'_, Option<HashMap<u64, Token>>> {
        // Nothing that runs under the lock leaves the map half changed.
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many revocations run at a time: each may need a connection of its own.
const AT_A_TIME: usize = 32;
