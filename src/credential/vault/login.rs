//! Who we are to a server: one login for all that asks with the same account, held in wiped memory.
//!
//! However many ask at once, one logs in. What a login made dies with it, so one that would end too early is replaced,
//! and left to those that were made with it; at the end all are revoked.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use tracing::debug;
use zeroize::Zeroizing;

use super::{
    super::{Declaration, Failure, SecretPlace, Source, assertion::Assertion, client::Client, mint::Tools, reply},
    Server,
    api::{self, Api},
};
use crate::refusal::CredentialRefusal;

/// How we prove who we are to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Where the method is mounted, e.g. `jwt`.
    pub mount: String,
    /// The method.
    pub method: AuthMethod,
}

/// A method of authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthMethod {
    /// A signed token: the methods `jwt` and `kubernetes`.
    Jwt {
        /// The role to log in with.
        role: String,
        /// The token.
        token: Assertion,
    },
    /// A role's identifier and a secret: the method `approle`.
    AppRole {
        /// The role's identifier.
        role_id: String,
        /// Where its secret stands.
        secret_id: SecretPlace,
        /// Whether there stands a wrapping token in its place, which gives the secret once.
        wrapped: bool,
    },
}

/// All logins of this process.
#[derive(Default)]
pub(in crate::credential) struct Logins(Mutex<Vec<Arc<Account>>>);

/// One login at a server.
pub(super) struct Session {
    pub(super) token: Zeroizing<String>,
    begun: Instant,
    pub(super) expires: Instant,
}

struct Account {
    server: Server,
    auth: Auth,
    slot: AsyncMutex<Slot>,
}

#[derive(Default)]
struct Slot {
    session: Option<Arc<Session>>,
    /// Replaced, but what was made with them may be in use.
    earlier: Vec<Arc<Session>>,
    failed: Option<(Instant, Failure)>,
    unwrapped: Option<Unwrapped>,
}

/// A secret that a wrapping token gave, which gives it to nobody else.
struct Unwrapped {
    wrapping: Zeroizing<String>,
    secret: Zeroizing<String>,
}

impl Session {
    /// Whether what is made with it now lives long enough, or would not live longer with a new one.
    fn serves(&self, now: Instant, useful: Duration) -> bool {
        let most = (self.expires - self.begun).mul_f64(REPLACED_BELOW);
        self.expires.saturating_duration_since(now) >= useful.min(most)
    }

    /// Whether it is so new that a refusal is not about its age.
    pub(super) fn is_new(&self) -> bool {
        self.begun.elapsed() < NEW
    }
}

impl Logins {
    /// A login that outlives what is to be made with it, if one can.
    pub(super) async fn session(
        &self,
        tools: &Tools,
        server: &Server,
        auth: &Auth,
        useful: Duration,
    ) -> Result<Arc<Session>, Failure> {
        let account = self.account(server, auth);
        let asked = Instant::now();
        let mut slot = account.slot.lock().await;
        if let Some(session) = slot.session.as_ref().filter(|session| session.serves(Instant::now(), useful)) {
            return Ok(Arc::clone(session));
        }
        // Whoever waited while another one's login failed does not try at once again.
        if let Some((_, failure)) = slot.failed.as_ref().filter(|(at, _)| *at >= asked) {
            return Err(failure.clone());
        }
        match login(tools, server, auth, &mut slot.unwrapped).await {
            Ok(session) => {
                let session = Arc::new(session);
                slot.failed = None;
                slot.replace(Some(Arc::clone(&session)));
                Ok(session)
            }
            Err(failure) => {
                slot.failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    /// Uses a login no longer that its server takes no longer.
    pub(super) async fn forget(&self, server: &Server, auth: &Auth, session: &Arc<Session>) {
        let account = self.account(server, auth);
        let mut slot = account.slot.lock().await;
        if slot.session.as_ref().is_some_and(|held| Arc::ptr_eq(held, session)) {
            slot.replace(None);
        }
    }

    /// Ends the logins of accounts that are declared no longer, and with them whatever they made that still lives.
    pub(in crate::credential) async fn retain(&self, client: &Client, declared: &[Arc<Declaration>]) {
        let is_declared = |account: &Account| {
            declared.iter().any(|declaration| match &declaration.source {
                Source::Vault(vault) => vault.server == account.server && vault.auth == account.auth,
                _ => false,
            })
        };
        let gone = {
            let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            accounts.extract_if(.., |account| !is_declared(account)).collect()
        };
        end(client, gone).await;
    }

    /// Ends all logins, and with them whatever they made that still lives.
    pub(in crate::credential) async fn end(&self, client: &Client) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        end(client, all).await;
    }

    fn account(&self, server: &Server, auth: &Auth) -> Arc<Account> {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.iter().find(|account| account.server == *server && account.auth == *auth) {
            return Arc::clone(account);
        }
        let account = Account { server: server.clone(), auth: auth.clone(), slot: AsyncMutex::default() };
        let account = Arc::new(account);
        accounts.push(Arc::clone(&account));
        account
    }
}

async fn end(client: &Client, accounts: Vec<Arc<Account>>) {
    join_all(accounts.iter().map(async |account| {
        let mut slot = account.slot.lock().await;
        slot.replace(None);
        let api = Api { client, server: &account.server };
        join_all(slot.earlier.drain(..).map(|session| revoke(api, session))).await;
    }))
    .await;
}

impl Slot {
    fn replace(&mut self, session: Option<Arc<Session>>) {
        let now = Instant::now();
        self.earlier.retain(|earlier| earlier.expires > now);
        self.earlier.extend(std::mem::replace(&mut self.session, session));
    }
}

async fn login(
    tools: &Tools,
    server: &Server,
    auth: &Auth,
    unwrapped: &mut Option<Unwrapped>,
) -> Result<Session, Failure> {
    let api = Api { client: &tools.client, server };
    let credentials = match &auth.method {
        AuthMethod::Jwt { role, token } => {
            Credentials::Jwt { role, jwt: token.read(tools).await.map_err(|failure| failure.about("login"))? }
        }
        AuthMethod::AppRole { role_id, secret_id, wrapped } => {
            let secret_id = secret_id.read().await.map_err(|failure| failure.about("secret id"))?;
            let secret_id = match wrapped {
                true => unwrap(api, &auth.mount, secret_id, unwrapped).await?,
                false => secret_id,
            };
            Credentials::AppRole { role_id, secret_id }
        }
    };
    // Read before the server is asked: what it gives is at most this old.
    let begun = Instant::now();
    let path = format!("auth/{}/login", auth.mount);
    let answer =
        api.call(Method::POST, &path, None, Some(&credentials)).await.map_err(|failure| failure.about(LOGIN))?;
    let given = api::read(&answer, LOGIN)?.auth.ok_or_else(|| malformed("there is no token in the answer"))?;
    let expires = begun.checked_add(Duration::from_secs(given.lease_duration));
    match expires {
        Some(expires) if expires > begun && !given.client_token.is_empty() => {
            Ok(Session { token: given.client_token, begun, expires })
        }
        _ => Err(malformed("the token is empty or does not end")),
    }
}

/// The body of a login.
#[derive(Serialize)]
#[serde(untagged)]
enum Credentials<'a> {
    Jwt {
        role: &'a str,
        #[serde(serialize_with = "shown")]
        jwt: Zeroizing<String>,
    },
    AppRole {
        role_id: &'a str,
        #[serde(serialize_with = "shown")]
        secret_id: Zeroizing<String>,
    },
}

/// The secret that a wrapping token stands for. It is had once: whoever comes second finds out that somebody was first.
async fn unwrap(
    api: Api<'_>,
    mount: &str,
    wrapping: Zeroizing<String>,
    unwrapped: &mut Option<Unwrapped>,
) -> Result<Zeroizing<String>, Failure> {
    if let Some(known) = unwrapped.as_ref().filter(|known| *known.wrapping == *wrapping) {
        return Ok(known.secret.clone());
    }
    made_for(api, mount, &wrapping).await?;
    let answer = api.call(Method::POST, "sys/wrapping/unwrap", Some(&wrapping), None::<&()>).await;
    let answer = answer.map_err(|failure| failure.about(UNWRAP))?;
    if answer.status == StatusCode::BAD_REQUEST {
        return Err(taken());
    }
    let data = api::read(&answer, UNWRAP)?.data.ok_or_else(|| malformed("nothing was wrapped"))?;
    let WrappedSecret { secret_id } =
        serde_json::from_str(data.get()).map_err(|_| malformed("what was wrapped is not a secret id"))?;
    *unwrapped = Some(Unwrapped { wrapping, secret: secret_id.clone() });
    Ok(secret_id)
}

/// Looks where a wrapping token was made, so that one that somebody else wrapped is not taken for a role's.
async fn made_for(api: Api<'_>, mount: &str, wrapping: &Zeroizing<String>) -> Result<(), Failure> {
    let body = Lookup { token: wrapping };
    let answer = api.call(Method::POST, "sys/wrapping/lookup", None, Some(&body)).await;
    let answer = answer.map_err(|failure| failure.about(UNWRAP))?;
    if answer.status == StatusCode::BAD_REQUEST {
        return Err(taken());
    }
    let data = api::read(&answer, UNWRAP)?.data.ok_or_else(|| malformed("the wrapping token has no description"))?;
    let Described { creation_path } =
        serde_json::from_str(data.get()).map_err(|_| malformed("the wrapping token has no origin"))?;
    let role =
        creation_path.strip_prefix(&format!("auth/{mount}/role/")).and_then(|rest| rest.strip_suffix("/secret-id"));
    if role.is_none_or(|role| role.is_empty() || role.contains('/')) {
        let detail = "the wrapping token was not made for a secret id of this mount; hint: somebody may have forged it";
        return Err(Failure::new(CredentialRefusal::Rejected, detail).about(UNWRAP));
    }
    Ok(())
}

fn taken() -> Failure {
    let detail = "the wrapping token has expired, or its secret id was taken by somebody else or by this sidecar before \
                  it was restarted; hint: if it was neither of the latter, somebody stole the secret id: revoke it";
    Failure::new(CredentialRefusal::Rejected, detail).about(UNWRAP)
}

#[derive(Serialize)]
struct Lookup<'a> {
    token: &'a str,
}

#[derive(Deserialize)]
struct Described {
    creation_path: String,
}

#[derive(Deserialize)]
struct WrappedSecret {
    #[serde(deserialize_with = "reply::wiped")]
    secret_id: Zeroizing<String>,
}

/// What fails is left to expire: its server does not answer, or does not know it any longer.
async fn revoke(api: Api<'_>, session: Arc<Session>) {
    let answer = api.call(Method::POST, "auth/token/revoke-self", Some(&session.token), None::<&()>).await;
    if !answer.is_ok_and(|answer| answer.status.is_success()) {
        debug!(server = api.server.address, "login not revoked");
    }
}

fn malformed(detail: &str) -> Failure {
    Failure::malformed(detail).about(LOGIN)
}

fn shown<S: serde::Serializer>(secret: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret)
}

const LOGIN: &str = "login";
const UNWRAP: &str = "unwrapping the secret id";

/// A login with less of its life left than this is replaced, if what is to be made would outlive it.
const REPLACED_BELOW: f64 = 2.0 / 3.0;

/// How long a login is so new that its server must know it.
const NEW: Duration = Duration::from_secs(10);
