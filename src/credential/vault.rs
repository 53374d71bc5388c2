//! Secrets of OpenBao and HashiCorp Vault: dynamic ones that have a lease, fields of KV, certificates and signed tokens.
//!
//! A dynamic secret is read with a token that was made for it alone, a child of our login. Its accessor, which is no
//! secret, is all that we keep: revoking by it revokes the lease, also after a crash. The token itself is forgotten once
//! the secret is read. It ends with the task's credential, so no lease outlives its task even if nobody revokes it.

mod api;
pub mod certificate;
pub mod lease;
pub mod login;
pub mod signing;

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use zeroize::Zeroizing;

pub use super::assertion::Assertion;
use super::{
    Failure,
    client::Answer,
    mint::{Asking, Handle, Life, Minted, Tools, Unusable},
};
use crate::refusal::CredentialRefusal;
use api::Api;
pub use certificate::Certified;
pub use lease::Fields;
pub(super) use login::Logins;
use login::Session;
pub use login::{Auth, AuthMethod};
pub use signing::{Algorithm, Signed};

/// A secret of a server, and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vault {
    /// The server.
    pub server: Server,
    /// How we log in.
    pub auth: Auth,
    /// What is asked for.
    pub wanted: Wanted,
    /// The policies that the token of a dynamic secret is narrowed to; all that our login has, if empty.
    pub policies: Vec<String>,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where it is, e.g. `https://bao:8200`.
    pub address: String,
    /// The namespace that all paths are in.
    pub namespace: Option<String>,
}

/// What is asked of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A dynamic secret, which is made on reading and ends with its lease.
    Leased {
        /// Where it is read, e.g. `database/creds/readonly`.
        path: String,
        /// What of it is the credential.
        fields: Fields,
    },
    /// A secret of KV version 2, which stands until somebody writes another one.
    Kept {
        /// Where it is read, e.g. `kv/data/app`.
        path: String,
        /// What of it is the credential.
        fields: Fields,
    },
    /// A client certificate that the server issues.
    Certificate(Certified),
    /// A token that the server signs.
    Signed(Signed),
}

/// A token that was made for one credential.
struct Child {
    token: Zeroizing<String>,
    accessor: Arc<str>,
    life: Duration,
}

/// What a child token is asked for with.
#[derive(Serialize)]
struct ChildRequest {
    #[serde(skip)]
    seconds: u64,
    #[serde(flatten)]
    body: Value,
}

impl Vault {
    /// Whether it gives certificates, which stand in no request.
    pub fn certifies(&self) -> bool {
        matches!(self.wanted, Wanted::Certificate(_))
    }

    pub(super) fn revocable(&self) -> bool {
        match &self.wanted {
            Wanted::Leased { .. } => true,
            Wanted::Kept { .. } | Wanted::Certificate(_) | Wanted::Signed(_) => false,
        }
    }

    /// Whether reading it makes a new one.
    pub(super) fn minted(&self) -> bool {
        match &self.wanted {
            Wanted::Leased { .. } | Wanted::Certificate(_) | Wanted::Signed(_) => true,
            Wanted::Kept { .. } => false,
        }
    }

    pub(super) fn issuer(&self) -> &str {
        &self.server.address
    }

    pub(super) async fn mint(&self, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        match &self.wanted {
            Wanted::Leased { path, fields } => self.leased(asking, path, fields).await,
            Wanted::Kept { path, fields } => Ok(self.kept(asking, path, fields).await?),
            Wanted::Certificate(certified) => self.certificate(asking, certified).await,
            Wanted::Signed(signed) => Ok(self.signed(asking, signed).await?),
        }
    }

    /// Ends a child token, and with it the lease that it has.
    pub(super) async fn revoke(&self, tools: &Tools, handle: &Handle) -> Result<(), Failure> {
        let Handle::Reference(accessor) = handle else {
            return Err(Failure::malformed("a token is revoked by its accessor only"));
        };
        let body = json!({"accessor": &**accessor});
        let path = "auth/token/revoke-accessor";
        let (_, answer) = self.as_us(tools, AT_ONCE, Method::POST, path, |_| Some(&body)).await?;
        match answer.status {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            _ if api::says(&answer, "invalid accessor") => Ok(()),
            _ => Err(api::refused(&answer, path)),
        }
    }

    async fn leased(&self, asking: &Asking<'_>, path: &str, fields: &Fields) -> Result<Minted, Unusable> {
        let child = self.child(asking).await?;
        let handle = Handle::Reference(Arc::clone(&child.accessor));
        // Engines that can be told are asked for no longer life than is of use; others do not look at it.
        let asked = format!("{path}?ttl={}s", child.life.as_secs());
        let answer = self.api(asking.tools).call(Method::GET, &asked, Some(&child.token), None::<&()>).await;
        let answer = answer.map_err(|failure| failure.about(path));
        match answer.and_then(|answer| lease::leased(&answer, path, fields, asking.longest)) {
            // The lease ends with the token that it was read with.
            Ok((secret, life)) => Ok(Minted { secret, life: Life::For(life.min(child.life)), handle: Some(handle) }),
            Err(failure) => Err(Unusable { failure, handle: Some(handle) }),
        }
    }

    async fn certificate(&self, asking: &Asking<'_>, certified: &Certified) -> Result<Minted, Unusable> {
        let child = self.child(asking).await?;
        let handle = Handle::Reference(Arc::clone(&child.accessor));
        let issued = async {
            let request = certified.request(asking.tools.identity.id(), child.life)?;
            let path = &certified.path;
            let answer = self.api(asking.tools).call(Method::POST, path, Some(&child.token), Some(&request)).await;
            certified.read(&answer.map_err(|failure| failure.about(path))?, asking.longest)
        };
        match issued.await {
            Ok((secret, life)) => Ok(Minted { secret, life: Life::For(life), handle: Some(handle) }),
            Err(failure) => Err(Unusable { failure, handle: Some(handle) }),
        }
    }

    async fn kept(&self, asking: &Asking<'_>, path: &str, fields: &Fields) -> Result<Minted, Failure> {
        let (_, answer) = self.as_us(asking.tools, AT_ONCE, Method::GET, path, |_| None::<()>).await?;
        let secret = lease::kept(&answer, path, fields)?;
        Ok(Minted { secret, life: Life::Standing { ends: None, again: asking.useful }, handle: None })
    }

    async fn signed(&self, asking: &Asking<'_>, signed: &Signed) -> Result<Minted, Failure> {
        let unsigned = signed.unsigned(asking)?;
        let request = signed.request(&unsigned);
        let path = &signed.path;
        let (_, answer) = self.as_us(asking.tools, AT_ONCE, Method::POST, path, |_| Some(&request)).await?;
        let secret = unsigned.complete(&answer, path)?;
        Ok(Minted { secret, life: Life::For(unsigned.life), handle: None })
    }

    /// A token that lives as long as the credential is of use, and not longer than the login that makes it.
    async fn child(&self, asking: &Asking<'_>) -> Result<Child, Unusable> {
        let life = |session: &Session| {
            let left = session.expires.saturating_duration_since(Instant::now());
            asking.useful.min(left).as_secs().max(1)
        };
        let path = "auth/token/create";
        let body = |session: &Session| Some(self.child_request(asking, life(session)));
        let (sent, answer) = self.as_us(asking.tools, asking.useful, Method::POST, path, body).await?;
        let Some(given) = api::read(&answer, path)?.auth else {
            return Err(Failure::malformed("there is no token in the answer").about(path).into());
        };
        let fault = self.fault(&given, sent.map_or(0, |sent| sent.seconds));
        let accessor: Arc<str> = given.accessor.into();
        if let Some(failure) = fault {
            let handle = (!accessor.is_empty()).then_some(Handle::Reference(accessor));
            return Err(Unusable { failure: failure.about(path), handle });
        }
        Ok(Child { token: given.client_token, accessor, life: Duration::from_secs(given.lease_duration) })
    }

    fn child_request(&self, asking: &Asking<'_>, seconds: u64) -> ChildRequest {
        let life = format!("{seconds}s");
        let mut meta = Map::from_iter([("destination".to_owned(), Value::from(&*asking.upstream.name))]);
        if !asking.task.id.is_empty() {
            meta.insert("task".to_owned(), Value::from(&*asking.task.id));
        }
        let mut body = json!({
            "ttl": life, "explicit_max_ttl": life, "renewable": false, "display_name": "tollgate", "meta": meta,
        });
        if !self.policies.is_empty() {
            body["policies"] = json!(self.policies);
            body["no_default_policy"] = true.into();
        }
        ChildRequest { seconds, body }
    }

    /// What is wrong with a child token, if anything is.
    fn fault(&self, given: &api::Auth, most: u64) -> Option<Failure> {
        if given.client_token.is_empty() || given.accessor.is_empty() {
            return Some(Failure::malformed("the token has no accessor, so nobody could revoke it"));
        }
        if given.token_type.as_deref().is_some_and(|kind| kind != "service") {
            return Some(Failure::malformed("the token is no service token, so nobody could revoke it"));
        }
        if given.lease_duration == 0 || given.lease_duration > most {
            let detail = format!("the token lives {} s, asked were {most} s", given.lease_duration);
            return Some(Failure::new(CredentialRefusal::LifetimeExceeded, detail));
        }
        let given = given.token_policies.as_deref().unwrap_or_default();
        if !self.policies.is_empty() && given.iter().any(|policy| !self.policies.contains(policy)) {
            let detail = "the token has a policy that was not asked for";
            return Some(Failure::new(CredentialRefusal::ScopeExceeded, detail));
        }
        None
    }

    /// Makes a call with our login, and once more with a new one if the server takes it no longer. Also says what was
    /// sent.
    async fn as_us<B: Serialize>(
        &self,
        tools: &Tools,
        useful: Duration,
        method: Method,
        path: &str,
        body: impl Fn(&Session) -> Option<B>,
    ) -> Result<(Option<B>, Answer), Failure> {
        let Self { server, auth, .. } = self;
        let mut replaced = false;
        loop {
            let session = tools.vault.session(tools, server, auth, useful).await?;
            let body = body(&session);
            let answer = self.api(tools).call(method.clone(), path, Some(&session.token), body.as_ref()).await;
            let answer = answer.map_err(|failure| failure.about(path))?;
            if answer.status != StatusCode::FORBIDDEN || replaced || session.is_new() {
                return Ok((body, answer));
            }
            replaced = true;
            tools.vault.forget(server, auth, &session).await;
        }
    }

    fn api<'a>(&'a self, tools: &'a Tools) -> Api<'a> {
        Api { client: &tools.client, server: &self.server }
    }
}

/// How long a login must live that makes nothing which ends with it.
const AT_ONCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
