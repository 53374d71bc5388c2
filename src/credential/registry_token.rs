//! Container registries with the token flow of the Distribution project: a token for each call's repository and actions.
//!
//! Such a registry sends its clients elsewhere for a token. Here it is us who go there, before the call leaves, so that
//! no client is ever challenged and none ever holds one. What a call needs is told by its method and path; that is all
//! that is asked for, if it is declared and policy granted it. A token that says it may do more, or is for another
//! registry, is refused; one that may do less is sent, and the registry decides. Nobody can end a token before its time.

pub mod scope;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Method, StatusCode, header};
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{
    Failure, SecretPlace, UNRESERVED, basic_pair,
    jose::Unverified,
    mint::{Asking, Life, Minted, Secret, Unusable},
    reply, sensitive,
};
use crate::{call::HttpCall, refusal::CredentialRefusal};
use scope::{Action, Need};

/// Where a registry's tokens are asked for, and what may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryToken {
    /// Where tokens are given.
    pub realm: String,
    /// The registry, as whoever gives tokens calls it.
    pub service: String,
    /// Who we are there; without one, what anybody may have.
    pub account: Option<Account>,
    /// What may be done at the most.
    pub actions: Vec<Action>,
    /// Patterns of the repositories that it may be done with; any where there are none.
    pub repositories: Vec<String>,
    /// Whether the names of all repositories may be read.
    pub catalog: bool,
}

/// A user of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The name.
    pub user: String,
    /// The password, or what stands for one.
    pub secret: SecretPlace,
}

/// What a registry's issuer gave. What else it says is ignored.
#[derive(Deserialize)]
struct Given {
    #[serde(default, deserialize_with = "reply::wiped_or_empty")]
    token: Zeroizing<String>,
    /// The same, by its name in OAuth 2.0.
    #[serde(default, deserialize_with = "reply::wiped_or_empty")]
    access_token: Zeroizing<String>,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    issued_at: Option<String>,
    /// Read only to be wiped: nothing here outlives its token.
    #[serde(default, rename = "refresh_token", deserialize_with = "reply::wiped_or_empty")]
    _refresh_token: Zeroizing<String>,
}

impl RegistryToken {
    /// The scopes of what this call needs, if all of it is declared and within what policy granted.
    pub(super) fn needs(&self, call: &HttpCall, granted: Option<&[Arc<str>]>) -> Result<Vec<Arc<str>>, Failure> {
        let needs = scope::needs(call).ok_or_else(|| not_granted("the call is none of the registry's API"))?;
        if !needs.iter().all(|need| self.declares(need)) {
            return Err(not_granted("the call needs a repository or an action that is not declared"));
        }
        if let Some(granted) = granted {
            let grants: Option<Vec<_>> = granted.iter().map(|text| scope::Grant::read(text)).collect();
            let grants =
                grants.ok_or_else(|| Failure::misconfigured("policy grants what is no scope of a registry"))?;
            if !needs.iter().all(|need| need.is_within(&grants)) {
                return Err(not_granted("the call needs a repository or an action that policy did not grant"));
            }
        }
        Ok(needs.iter().map(|need| need.scope().into()).collect())
    }

    fn declares(&self, need: &Need<'_>) -> bool {
        match need {
            Need::Catalog => self.catalog,
            Need::Repository { name, actions } => {
                let named = |pattern: &String| scope::matches(pattern, name);
                (self.repositories.is_empty() || self.repositories.iter().any(named))
                    && actions.iter().all(|action| self.actions.contains(action))
            }
        }
    }

    /// Asks for a token with these scopes.
    pub(super) async fn mint(&self, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        let mut headers = HeaderMap::new();
        if let Some(Account { user, secret }) = &self.account {
            let secret = secret.read().await.map_err(|failure| failure.about("secret"))?;
            headers.insert(header::AUTHORIZATION, sensitive(&["Basic ", &basic_pair(user, &secret)])?);
        }
        let endpoint = self.question(asking.scopes);
        let answer = asking.tools.client.call(Method::GET, &endpoint, headers, Zeroizing::default()).await?;
        let given: Given = reply::object(&answer, StatusCode::OK)?;
        let life = given.life(SystemTime::now())?;
        let token = given.only()?;
        let life = match Unverified::read(&token) {
            Some(said) => self.checked(&said, asking, life)?,
            // An opaque token says nothing; what it is good for is between its issuer and the registry.
            None => life,
        };
        Ok(Minted { secret: Secret::Value(token), life: Life::For(life), handle: None })
    }

    /// The realm with the question in its query, a parameter for each scope.
    fn question(&self, scopes: &[&str]) -> String {
        let mut url = self.realm.clone();
        let parameters = [("service", &*self.service)].into_iter();
        for (name, value) in parameters.chain(scopes.iter().map(|scope| ("scope", *scope))) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(name);
            url.push('=');
            url.extend(utf8_percent_encode(value, UNRESERVED));
        }
        url
    }

    /// The life of a token that says nothing against it. Nothing in it is trusted: it can only be refused for it, or
    /// served for a shorter time.
    fn checked(&self, said: &Unverified, asking: &Asking<'_>, life: Duration) -> Result<Duration, Failure> {
        if let Some(access) = said.claims.get("access") {
            scoped(access, asking.scopes)?;
            // Other tokens than those of the Distribution project name their audience in ways of their own.
            if said.claims.contains_key("aud") && !said.audiences().unwrap_or_default().contains(&&*self.service) {
                return Err(exceeded("the token is for another service"));
            }
        }
        match said.expires_at() {
            Some(end) => Ok(life.min(reply::life_until(end, asking.longest)?)),
            None => Ok(life),
        }
    }
}

impl Given {
    /// The token, whichever of its names it has.
    fn only(self) -> Result<Zeroizing<String>, Failure> {
        let Self { token, access_token, .. } = self;
        let only = match (token.is_empty(), access_token.is_empty()) {
            (false, false) if token != access_token => {
                return Err(Failure::malformed("`token` and `access_token` differ"));
            }
            (false, _) => token,
            (true, _) => access_token,
        };
        match reply::is_token(&only) {
            true => Ok(only),
            false => Err(Failure::malformed("`token` is missing, empty or holds characters that it must not")),
        }
    }

    /// What is left of its life.
    fn life(&self, now: SystemTime) -> Result<Duration, Failure> {
        let whole = match self.expires_in {
            None => UNTOLD,
            Some(0) => return Err(Failure::malformed("`expires_in` is 0")),
            Some(seconds) => Duration::from_secs(seconds),
        };
        let age = match self.issued_at.as_deref() {
            None | Some("") => Duration::ZERO,
            Some(text) => {
                let issued = reply::moment(text).map_err(|_| Failure::malformed("`issued_at` is not a time"))?;
                now.duration_since(issued).unwrap_or_default()
            }
        };
        match whole.saturating_sub(age) {
            Duration::ZERO => Err(reply::dead()),
            left => Ok(left),
        }
    }
}

/// Holds what a token says it may do against what was asked for.
fn scoped(access: &Value, asked: &[&str]) -> Result<(), Failure> {
    let entries = match access {
        Value::Null => return Ok(()),
        Value::Array(entries) => entries,
        _ => return Err(Failure::malformed("the token's `access` is not a list")),
    };
    for entry in entries {
        let entry =
            entry.as_object().ok_or_else(|| Failure::malformed("the token's `access` is not a list of objects"))?;
        if !was_asked(entry, asked) {
            return Err(exceeded("the token says that it may do what was not asked for"));
        }
    }
    Ok(())
}

/// Whether each action of an entry was asked for. What is not written as the standard says, was not.
fn was_asked(entry: &Map<String, Value>, asked: &[&str]) -> bool {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let (Some(kind), Some(name)) = (text("type"), text("name")) else { return false };
    let entry_of = format!("{kind}:{name}");
    let of_it = asked.iter().filter_map(|scope| scope.rsplit_once(':')).filter(|(of, _)| *of == entry_of);
    let asked: Vec<&str> = of_it.flat_map(|(_, actions)| actions.split(',')).collect();
    match entry.get("actions") {
        None | Some(Value::Null) => true,
        Some(Value::Array(actions)) => actions.iter().all(|it| it.as_str().is_some_and(|it| asked.contains(&it))),
        Some(_) => false,
    }
}

fn not_granted(detail: &str) -> Failure {
    Failure::new(CredentialRefusal::NotGranted, detail)
}

fn exceeded(detail: &str) -> Failure {
    Failure::new(CredentialRefusal::ScopeExceeded, detail)
}

/// How long a token lives whose issuer doesn't say.
const UNTOLD: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
