//! GitHub Apps: an installation token with no more repositories and permissions than the call needs, ended with its task.
//!
//! GitHub gives such a token one hour. It is served for as long as it may be, and then ended (`DELETE
//! /installation/token`). Scopes are `permission:level`, e.g. `issues:write`, and `repository:NAME`: what policy chooses
//! from them is all that is asked for, and a token that can do more is refused.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Failure, SecretPlace,
    client::Answer,
    jose::{self, Header, SigningKey},
    mint::{Asking, Handle, Life, Minted, Secret, Tools, Unusable},
    reply, sensitive,
};
use crate::refusal::CredentialRefusal;

/// One installation of a GitHub App.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GithubApp {
    /// Where the API is, without a slash at the end.
    pub api: String,
    /// The app's client ID or number.
    pub app_id: String,
    /// The installation's number.
    pub installation_id: u64,
    /// The app's private key, in PEM.
    pub private_key: SecretPlace,
    /// The repositories that may be asked for; all of the installation where there are none.
    pub repositories: Vec<String>,
    /// The permissions that may be asked for; all of the app where there are none.
    pub permissions: BTreeMap<String, Level>,
    /// What policy may choose from: made of both by [`scopes`].
    pub scopes: Vec<String>,
}

/// How far a permission goes; each holds the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Read.
    Read,
    /// Read and write.
    Write,
    /// Administer.
    Admin,
}

/// The scopes that these repositories and permissions come to.
pub fn scopes(repositories: &[String], permissions: &BTreeMap<String, Level>) -> Vec<String> {
    let levels = permissions.iter().flat_map(|(name, most)| {
        let within = LEVELS.into_iter().filter(move |(level, _)| level <= most);
        within.map(move |(_, text)| format!("{name}:{text}"))
    });
    levels.chain(repositories.iter().map(|name| format!("{REPOSITORY}{name}"))).collect()
}

/// What is asked for.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Wanted<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    repositories: Vec<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    permissions: BTreeMap<&'a str, Level>,
}

/// What GitHub gave.
#[derive(Deserialize)]
struct Given {
    #[serde(deserialize_with = "reply::wiped")]
    token: Zeroizing<String>,
    expires_at: String,
    #[serde(default)]
    permissions: BTreeMap<String, String>,
    #[serde(default)]
    repositories: Option<Vec<Repository>>,
}

#[derive(Deserialize)]
struct Repository {
    name: String,
}

impl GithubApp {
    /// Asks for a token.
    pub(super) async fn mint(&self, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        let wanted = self.wanted(asking.scopes)?;
        let mut headers = headers(&self.proof().await?)?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = serde_json::to_vec(&wanted).map_err(|_| Failure::malformed("the request can't be written"))?;
        let endpoint = format!("{}/app/installations/{}/access_tokens", self.api, self.installation_id);
        let answer = asking.tools.client.call(Method::POST, &endpoint, headers, Zeroizing::new(body)).await?;
        let given: Given = reply::object(&answer, StatusCode::CREATED)?;
        let handle = Some(Handle::Secret(given.token.clone()));
        match given.life(&wanted) {
            Ok(life) => Ok(Minted { secret: Secret::Value(given.token), life: Life::Fixed(life), handle }),
            Err(failure) => Err(Unusable { failure, handle }),
        }
    }

    /// Ends a token, with its own authority.
    pub(super) async fn revoke(&self, tools: &Tools, handle: &Handle) -> Result<(), Failure> {
        let Handle::Secret(token) = handle else { return Err(Failure::malformed("a token ends itself")) };
        let endpoint = format!("{}/installation/token", self.api);
        let answer: Answer =
            tools.client.call(Method::DELETE, &endpoint, headers(token)?, Zeroizing::default()).await?;
        match answer.status {
            // 401: it had ended before.
            StatusCode::NO_CONTENT | StatusCode::UNAUTHORIZED => Ok(()),
            _ => Err(reply::refused(&answer, None)),
        }
    }

    /// Says that we are the app, for a moment. It is dated back, because clocks differ.
    async fn proof(&self) -> Result<Zeroizing<String>, Failure> {
        let about = |failure: Failure| failure.about("private key");
        let key = SigningKey::from_pem(&self.private_key.read().await.map_err(about)?).map_err(about)?;
        if !matches!(key, SigningKey::Rs256(_)) {
            return Err(about(Failure::misconfigured("GitHub takes RSA keys only")));
        }
        let now = jose::now();
        let claims = json!({"iss": self.app_id, "iat": now - CLOCKS_DIFFER, "exp": now + PROOF});
        Ok(key.sign(Header { typ: "JWT", key_id: None, with_key: false }, &claims))
    }

    fn wanted<'a>(&'a self, scopes: &[&'a str]) -> Result<Wanted<'a>, Failure> {
        let mut wanted = Wanted::default();
        for scope in scopes {
            let (name, level) = scope.split_once(':').ok_or_else(|| Failure::malformed("a scope without a colon"))?;
            if let Some(repository) = scope.strip_prefix(REPOSITORY) {
                wanted.repositories.push(repository);
                continue;
            }
            let level = LEVELS.into_iter().find(|(_, text)| *text == level);
            let (level, _) = level.ok_or_else(|| Failure::malformed("a scope of no known level"))?;
            let most = wanted.permissions.entry(name).or_insert(level);
            *most = level.max(*most);
        }
        // Asking for none is asking for all, which policy did not choose.
        if wanted.permissions.is_empty() && !self.permissions.is_empty() {
            let detail = "policy asks for repositories and no permission";
            return Err(Failure::misconfigured(detail));
        }
        if wanted.repositories.is_empty() {
            wanted.repositories = self.repositories.iter().map(String::as_str).collect();
        }
        Ok(wanted)
    }
}

impl Given {
    /// How long it lives, or what is wrong with it.
    fn life(&self, wanted: &Wanted<'_>) -> Result<Duration, Failure> {
        let exceeded = |what| Err(Failure::new(CredentialRefusal::ScopeExceeded, what));
        if !reply::is_token(&self.token) {
            return Err(Failure::malformed("`token` is empty or holds characters that it must not"));
        }
        let within = |(name, level): (&String, &String)| {
            let most = wanted.permissions.get(name.as_str());
            let level = LEVELS.into_iter().find(|(_, text)| text == level).map(|(level, _)| level);
            // Which repositories there are is told to every token.
            level.is_some_and(|level| most.is_some_and(|most| level <= *most))
                || (name == "metadata" && level == Some(Level::Read))
        };
        if !wanted.permissions.is_empty() && !self.permissions.iter().all(within) {
            return exceeded("the token has a permission that was not asked for");
        }
        if !wanted.repositories.is_empty() {
            let Some(given) = &self.repositories else { return exceeded("the token is for all repositories") };
            if !given.iter().all(|given| wanted.repositories.iter().any(|name| name.eq_ignore_ascii_case(&given.name)))
            {
                return exceeded("the token is for a repository that was not asked for");
            }
        }
        // GitHub knows one life, whatever is allowed: it is served in part and then ended.
        reply::life_until(reply::moment(&self.expires_at)?, Duration::MAX)
    }
}

fn headers(bearer: &str) -> Result<HeaderMap, Failure> {
    Ok(HeaderMap::from_iter([
        (header::AUTHORIZATION, sensitive(&["Bearer ", bearer])?),
        (header::ACCEPT, HeaderValue::from_static("application/vnd.github+json")),
        (HeaderName::from_static("x-github-api-version"), HeaderValue::from_static("2022-11-28")),
    ]))
}

const LEVELS: [(Level, &str); 3] = [(Level::Read, "read"), (Level::Write, "write"), (Level::Admin, "admin")];
const REPOSITORY: &str = "repository:";

/// In seconds. GitHub takes no proof of more than ten minutes.
const CLOCKS_DIFFER: u64 = 60;
const PROOF: u64 = 300;

#[cfg(test)]
mod tests;
