//! Keys for AWS, from `AssumeRoleWithWebIdentity`; and requests signed anew with them (Signature Version 4).
//!
//! The call to STS is not signed: who the agent is proves a token. What the keys may do is what the role and the session
//! policy both allow. Nobody can end them before their time, which is 15 minutes at least; but the secret key never
//! leaves this process, so keys that are no longer served sign nothing.

mod answer;
mod claim;
mod scope;
mod signer;
mod sigv4;

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use zeroize::Zeroizing;

use super::{
    Failure,
    assertion::Assertion,
    client::{Answer, Form},
    mint::{Asking, Life, Minted, Secret, Unusable},
    reply,
};
use crate::refusal::CredentialRefusal;

pub use claim::Claim;
pub use scope::{Scope, Signing};
pub(super) use signer::Signer;

/// A role, and how it is assumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssumeRole {
    /// Where STS answers.
    pub sts_endpoint: String,
    /// E.g. `arn:aws:iam::123456789012:role/agent`.
    pub role_arn: String,
    /// What proves who the agent is.
    pub web_identity: Assertion,
    /// What of the role is left, as the JSON of a policy.
    pub session_policy: Option<String>,
}

impl AssumeRole {
    pub(super) fn issuer(&self) -> &str {
        &self.sts_endpoint
    }

    /// Asks for keys that live as long as they are of use, which STS makes 15 minutes at least.
    pub(super) async fn mint(&self, asking: &Asking<'_>) -> Result<Minted, Unusable> {
        let token = self.web_identity.read(asking.tools).await.map_err(|failure| failure.about("web identity"))?;
        let session = session_name(&asking.task.id);
        let life = Duration::from_secs(asking.useful.as_secs().clamp(SHORTEST, LONGEST));
        let seconds = life.as_secs().to_string();
        let mut fields = vec![
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", &self.role_arn),
            ("RoleSessionName", &session),
            ("WebIdentityToken", &token),
            ("DurationSeconds", &seconds),
        ];
        if let Some(policy) = &self.session_policy {
            fields.push(("Policy", policy));
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/xml"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let form = Form::new(&fields).into_body();
        let answer = asking.tools.client.call(Method::POST, &self.sts_endpoint, headers, form).await?;
        if answer.status != http::StatusCode::OK {
            return Err(refused(&answer).into());
        }
        let given = Given::read(&answer.body)?;
        self.check_who(&given, &session)?;
        let granted = reply::life_within(reply::moment(&given.expiration)?, life, SKEW)?;
        let Given { access_key, secret_key, session_token, .. } = given;
        let secret = Secret::Aws { access_key, secret_key, session_token };
        // Served no longer than allowed: the secret key is wiped then, and was nowhere else.
        Ok(Minted { secret, life: Life::For(granted.min(asking.longest)), handle: None })
    }

    /// Whoever answers says which role was assumed; servers that only speak like STS may say nothing.
    fn check_who(&self, given: &Given, session: &str) -> Result<(), Failure> {
        let role = self.role_arn.rsplit('/').next().unwrap_or_default();
        let expected = format!(":assumed-role/{role}/{session}");
        match given.arn.as_deref().map(String::as_str) {
            None | Some("") => Ok(()),
            Some(arn) if arn.ends_with(&expected) => Ok(()),
            Some(_) => Err(Failure::malformed("the keys are for another role or session than was asked for")),
        }
    }
}

/// What STS gave.
struct Given {
    access_key: Zeroizing<String>,
    secret_key: Zeroizing<String>,
    session_token: Zeroizing<String>,
    expiration: Zeroizing<String>,
    arn: Option<Zeroizing<String>>,
}

impl Given {
    fn read(body: &[u8]) -> Result<Self, Failure> {
        let wanted = [
            "AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials/AccessKeyId",
            "AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials/SecretAccessKey",
            "AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials/SessionToken",
            "AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/Credentials/Expiration",
            "AssumeRoleWithWebIdentityResponse/AssumeRoleWithWebIdentityResult/AssumedRoleUser/Arn",
        ];
        match answer::texts(body, wanted)? {
            [Some(access_key), Some(secret_key), Some(session_token), Some(expiration), arn] => {
                Ok(Self { access_key, secret_key, session_token, expiration, arn })
            }
            _ => Err(Failure::malformed("the answer holds no keys, or not all of what belongs to them")),
        }
    }
}

/// What an answer other than 200 means. Only known errors are told: what else stands there is not for a log.
fn refused(answer: &Answer) -> Failure {
    let found = answer::texts(&answer.body, ["ErrorResponse/Error/Code"]).ok().and_then(|[code]| code);
    let known = found.and_then(|code| ERRORS.iter().find(|(known, _)| **known == **code));
    let failure = reply::refused(answer, known.map(|(name, _)| *name));
    match known {
        Some((_, refusal)) if answer.status.is_client_error() => Failure { refusal: *refusal, ..failure },
        Some(_) | None => failure,
    }
}

/// The task's id as a session name (`[\w+=,.@-]{2,64}`), which CloudTrail shows.
fn session_name(task: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_+=,.@-".contains(c) { c } else { '-' };
    let mut name: String = task.chars().map(plain).take(64).collect();
    while name.len() < 2 {
        name.push('-');
    }
    name
}

/// What STS says when it does not give keys, and who has to do something about it.
const ERRORS: [(&str, CredentialRefusal); 10] = [
    ("AccessDenied", CredentialRefusal::Rejected),
    ("ExpiredTokenException", CredentialRefusal::Rejected),
    ("IDPCommunicationError", CredentialRefusal::Unavailable),
    ("IDPRejectedClaim", CredentialRefusal::Rejected),
    ("InvalidIdentityToken", CredentialRefusal::Rejected),
    ("MalformedPolicyDocument", CredentialRefusal::Rejected),
    ("PackedPolicyTooLarge", CredentialRefusal::Rejected),
    ("RegionDisabledException", CredentialRefusal::Rejected),
    ("Throttling", CredentialRefusal::Unavailable),
    ("ValidationError", CredentialRefusal::Rejected),
];

/// What `DurationSeconds` may be.
const SHORTEST: u64 = 900;
const LONGEST: u64 = 43_200;

/// How far AWS's clock may be from ours, in place of [`reply::SKEW`]: further, and it takes no signature of ours. Up to
/// there keys are of use, and they are served no longer than was asked for.
const SKEW: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
mod tests;
