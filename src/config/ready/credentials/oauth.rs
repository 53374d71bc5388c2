//! Credentials from OAuth 2.0 issuers: from what was written to their source.

use super::{
    super::{Check, at},
    issuer_url, secret,
};
use crate::{
    config::{
        document::{Place, Step},
        settings::{
            ClientAssertion, IdentityProvider, Oauth, OauthClient, OauthToken, Placement, RequestedType, SecretMethod,
            ShownType,
        },
    },
    credential::{
        SecretPlace, Source,
        assertion::{Assertion, Signed},
        oauth::{
            self, Grant, IdJag, TokenExchange,
            authentication::{Authentication, Client},
            server::{Endpoints, Server},
            shown::{TokenType, Typed},
            target::Target,
        },
    },
};

pub(super) fn client_credentials(check: &mut Check<'_>, place: &Place, written: &Oauth) -> Source {
    only(check, place, &[]);
    source(check, place, written, |_, _| Grant::ClientCredentials)
}

pub(super) fn token_exchange(check: &mut Check<'_>, place: &Place, written: &Oauth) -> Source {
    only(check, place, &["subject", "actor", "requested_token_type"]);
    if written.audience.is_none() && written.resources.is_empty() {
        check.document.report(&place.key("audience"), "is required, or `resources`: whom the token is for");
    }
    source(check, place, written, |check, server| {
        Grant::TokenExchange(TokenExchange {
            subject: typed(check, &place.key("subject"), written.subject.as_ref(), server),
            actor: written.actor.as_ref().map(|actor| typed(check, &place.key("actor"), Some(actor), server)),
            wants: match written.requested_token_type {
                None | Some(RequestedType::AccessToken) => TokenType::AccessToken,
                Some(RequestedType::Jwt) => TokenType::Jwt,
            },
        })
    })
}

pub(super) fn jwt_bearer(check: &mut Check<'_>, place: &Place, written: &Oauth) -> Source {
    only(check, place, &["assertion"]);
    let assertion = place.key("assertion");
    if written.assertion.as_ref().is_some_and(|written| written.token_type.is_some()) {
        check.document.report(&assertion.key("type"), "an assertion is always a JSON Web Token");
    }
    source(check, place, written, |check, server| {
        Grant::JwtBearer(shown(check, &assertion, written.assertion.as_ref(), server))
    })
}

pub(super) fn id_jag(check: &mut Check<'_>, place: &Place, written: &Oauth) -> Source {
    only(check, place, &["subject", "identity_provider"]);
    if let Some(audience) = &written.audience {
        let message = format!("the assertion is for `issuer`, and the token for `resources`; found `{audience}`");
        check.document.report(&place.key("audience"), message);
    }
    let issuer = check.required(&place.key("issuer"), written.issuer.as_deref());
    source(check, place, written, |check, _| {
        let inner = place.key("identity_provider");
        let provider = match &written.identity_provider {
            Some(provider) => server(check, &inner, &Asked::from(provider)),
            None => {
                check.document.report(&inner, "is required: {issuer: …, client: {…}}");
                nobody()
            }
        };
        let subject = typed(check, &place.key("subject"), written.subject.as_ref(), &provider);
        Grant::IdJag(Box::new(IdJag { provider, subject, audience: issuer }))
    })
}

fn source(
    check: &mut Check<'_>,
    place: &Place,
    written: &Oauth,
    grant: impl FnOnce(&mut Check<'_>, &Server) -> Grant,
) -> Source {
    let server = server(check, place, &Asked::from(written));
    let grant = grant(check, &server);
    if written.dpop && written.placement != Placement::Bearer {
        check.document.report(&place.key("as"), "a token that is bound to a key stands in `Authorization` only");
    }
    Source::Oauth(Box::new(oauth::Oauth { grant, server, target: target(check, place, written), dpop: written.dpop }))
}

/// The kinds share most of their keys; of the others each has its own.
fn only(check: &mut Check<'_>, place: &Place, known: &[&str]) {
    for key in ["subject", "actor", "requested_token_type", "assertion", "identity_provider"] {
        if !known.contains(&key) && check.document.wrote(&place.key(key)) {
            check.document.report(&place.key(key), "is not a key of this kind");
        }
    }
}

fn target(check: &mut Check<'_>, place: &Place, written: &Oauth) -> Target {
    let scope =
        |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    for (index, _) in written.scopes.iter().enumerate().filter(|(_, text)| !scope(text)) {
        check.document.report(&place.key("scopes").index(index), "not a scope (RFC 6749 section 3.3)");
    }
    for (index, _) in written.resources.iter().enumerate().filter(|(_, text)| !is_resource(text)) {
        let message = "not an absolute URI without fragment (RFC 8707 section 2)";
        check.document.report(&place.key("resources").index(index), message);
    }
    for (index, detail) in written.authorization_details.iter().enumerate() {
        if detail.get("type").and_then(serde_json::Value::as_str).is_none_or(str::is_empty) {
            let place = place.key("authorization_details").index(index).key("type");
            check.document.report(&place, "is required: the name of what is asked for (RFC 9396 section 2)");
        }
    }
    let details = written.authorization_details.iter().map(|detail| detail.clone().into_iter().collect());
    Target {
        scopes: written.scopes.clone(),
        audience: written.audience.as_deref().map(|text| check.required(&place.key("audience"), Some(text))),
        resources: written.resources.clone(),
        details: details.collect(),
    }
}

fn is_resource(text: &str) -> bool {
    let scheme = |scheme: &str| scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    text.split_once(':').is_some_and(|(name, rest)| scheme(name) && !rest.is_empty())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

/// What is written of an authorization server.
struct Asked<'a> {
    issuer: Option<&'a str>,
    token: Option<&'a str>,
    revocation: Option<&'a str>,
    revocable: Option<bool>,
    client: Option<&'a OauthClient>,
}

impl<'a> From<&'a Oauth> for Asked<'a> {
    fn from(written: &'a Oauth) -> Self {
        Self {
            issuer: written.issuer.as_deref(),
            token: written.token_endpoint.as_deref(),
            revocation: written.revocation_endpoint.as_deref(),
            revocable: written.revocable,
            client: written.client.as_ref(),
        }
    }
}

impl<'a> From<&'a IdentityProvider> for Asked<'a> {
    fn from(written: &'a IdentityProvider) -> Self {
        Self {
            issuer: written.issuer.as_deref(),
            token: written.token_endpoint.as_deref(),
            revocation: written.revocation_endpoint.as_deref(),
            revocable: written.revocable,
            client: written.client.as_ref(),
        }
    }
}

fn server(check: &mut Check<'_>, place: &Place, written: &Asked<'_>) -> Server {
    let issuer = written.issuer.map(|issuer| issuer_of(check, &place.key("issuer"), issuer));
    let endpoints = match (written.token, issuer) {
        (Some(token), issuer) => {
            let token = url(check, &place.key("token_endpoint"), token);
            if written.revocable.is_some() {
                let message = "is told by `revocation_endpoint`, where the endpoints are written";
                check.document.report(&place.key("revocable"), message);
            }
            let revocation = written.revocation.map(|text| url(check, &place.key("revocation_endpoint"), text).into());
            Endpoints::Written { token: token.into(), revocation, issuer }
        }
        (None, Some(issuer)) => {
            if written.revocation.is_some() {
                let message = "needs `token_endpoint`; an issuer that is asked says itself where it revokes";
                check.document.report(&place.key("revocation_endpoint"), message);
            }
            Endpoints::Discovered { issuer, revocable: written.revocable.unwrap_or(true) }
        }
        (None, None) => {
            check.document.report(&place.key("token_endpoint"), "is required, or `issuer`");
            nowhere()
        }
    };
    Server { endpoints, client: client(check, &place.key("client"), written.client) }
}

fn url(check: &mut Check<'_>, place: &Place, text: &str) -> String {
    let text = check.required(place, Some(text));
    issuer_url(check, place, &text);
    text
}

/// Compared letter by letter with what the issuer says of itself.
fn issuer_of(check: &mut Check<'_>, place: &Place, text: &str) -> String {
    let text = url(check, place, text);
    if text.contains('?') {
        check.document.report(place, "expected a URL without a query (RFC 8414 section 2)");
    }
    text
}

fn client(check: &mut Check<'_>, place: &Place, written: Option<&OauthClient>) -> Client {
    let Some(written) = written else {
        check.document.report(place, "is required: {id: …, secret: {file: …}}");
        return nobody().client;
    };
    let id = check.required(&place.key("id"), written.id.as_deref());
    let proofs = [written.secret.is_some(), written.key.is_some(), written.assertion.is_some()];
    if proofs.into_iter().filter(|is_there| *is_there).count() > 1 {
        check.document.report(place, "has exactly one of `secret`, `key` and `assertion`");
    }
    if written.method.is_some() && written.secret.is_none() {
        check.document.report(&place.key("method"), "says how a `secret` is sent, and there is none");
    }
    if written.key_id.is_some() && written.key.is_none() {
        check.document.report(&place.key("key_id"), "names a `key`, and there is none");
    }
    let authentication = match (&written.key, written.assertion) {
        (Some(key), _) => Authentication::PrivateKey {
            key: secret(check, &place.key("key"), Some(key)),
            key_id: written.key_id.clone(),
        },
        (None, Some(ClientAssertion::Spiffe)) => {
            proves(check, &place.key("assertion"), &["spiffe"]);
            Authentication::Spiffe
        }
        (None, Some(ClientAssertion::Identity)) => {
            proves(check, &place.key("assertion"), &["spiffe", "kubernetes"]);
            Authentication::Identity
        }
        // What was written and doesn't fit was reported.
        (None, None) if ["key", "assertion"].iter().any(|key| check.document.wrote(&place.key(key))) => {
            nobody().client.authentication
        }
        (None, None) => {
            let secret = secret(check, &place.key("secret"), written.secret.as_ref());
            match written.method {
                None | Some(SecretMethod::ClientSecretBasic) => Authentication::Basic(secret),
                Some(SecretMethod::ClientSecretPost) => Authentication::Post(secret),
            }
        }
    };
    let audience = written.audience.as_deref().map(|text| check.required(&place.key("audience"), Some(text)));
    Client { id, authentication, audience }
}

fn typed(check: &mut Check<'_>, place: &Place, written: Option<&OauthToken>, server: &Server) -> Typed {
    let token_type = match written.and_then(|written| written.token_type) {
        Some(ShownType::AccessToken) => TokenType::AccessToken,
        Some(ShownType::IdToken) => TokenType::IdToken,
        Some(ShownType::Saml2) => TokenType::Saml2,
        Some(ShownType::RefreshToken) => TokenType::RefreshToken,
        Some(ShownType::Jwt) => TokenType::Jwt,
        None => {
            if written.is_some_and(|written| written.token.is_some()) {
                check.document.report(&place.key("type"), "is required: what the token is, such as id_token");
            }
            TokenType::Jwt
        }
    };
    Typed { shown: shown(check, place, written, server), token_type }
}

/// What this server is shown. Where nobody says whom it is for, it is for the server.
fn shown(check: &mut Check<'_>, place: &Place, written: Option<&OauthToken>, server: &Server) -> Assertion {
    let Some(written) = written else {
        proves(check, place, &["spiffe", "kubernetes"]);
        return Assertion::Identity(server.audience().to_owned());
    };
    let audience = written.audience.as_deref().map(|text| check.required(&place.key("audience"), Some(text)));
    if written.token.is_some() && written.key.is_some() {
        check.document.report(place, "`token` and `key` exclude each other");
    }
    if written.token.is_some() && audience.is_some() {
        check.document.report(&place.key("audience"), "a token that somebody else gave has one already");
    }
    let audience = audience.unwrap_or_else(|| server.audience().to_owned());
    let ours = [("key_id", &written.key_id), ("issuer", &written.issuer), ("subject", &written.subject)];
    for (key, _) in ours.into_iter().filter(|(_, text)| text.is_some() && written.key.is_none()) {
        check.document.report(&place.key(key), "stands in a token that we sign, which needs a `key`");
    }
    match (&written.token, &written.key) {
        (Some(token), _) => Assertion::At(secret(check, &place.key("token"), Some(token))),
        (None, Some(key)) => Assertion::Signed(Box::new(Signed {
            key: secret(check, &place.key("key"), Some(key)),
            key_id: written.key_id.clone(),
            issuer: check.required(&place.key("issuer"), Some(written.issuer.as_deref().unwrap_or(&server.client.id))),
            subject: check.required(&place.key("subject"), written.subject.as_deref()),
            audience,
        })),
        (None, None) => {
            proves(check, place, &["spiffe", "kubernetes"]);
            Assertion::Identity(audience)
        }
    }
}

/// An identity that nothing proves has no token to show. Of a credential that nobody uses that is not said: it may be there
/// for another identity.
pub(super) fn proves(check: &mut Check<'_>, place: &Place, kinds: &[&str]) {
    if !place.steps().get(1).is_some_and(|step| matches!(step, Step::Key(name) if check.used.contains(name))) {
        return;
    }
    let kind = check.document.text(&at(&["agent", "identity", "kind"]));
    if !kind.is_some_and(|kind| kinds.contains(&kind.as_str())) {
        let message = format!("shows the agent's identity, which needs agent.identity.kind: {}", kinds.join(" or "));
        check.document.report(place, message);
    }
}

/// Stand-ins for what is missing and was reported.
fn nobody() -> Server {
    let authentication = Authentication::Basic(SecretPlace::File(Default::default()));
    Server { endpoints: nowhere(), client: Client { id: String::new(), authentication, audience: None } }
}

fn nowhere() -> Endpoints {
    Endpoints::Written { token: "".into(), revocation: None, issuer: None }
}

#[cfg(test)]
mod tests;
