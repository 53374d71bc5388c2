//! Credentials: shape, then meaning.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use http::{HeaderName, Uri};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{Check, at};
use crate::{
    config::{
        document::{Document, Place},
        settings::{Credential, FileCredential, Later, OauthClientCredentials, Placement},
        values::SecretPlace,
    },
    credential::{self, Declaration, SecretValue, Source},
};

/// Settles each credential on its own and hides all of them. Read as a tagged enum, a problem would lose its place.
pub(super) fn settle(document: &mut Document) -> BTreeMap<String, Credential> {
    let section = at(&["credentials"]);
    let mut settled = BTreeMap::new();
    let names = document.keys(&section);
    for name in &names {
        if let Some(credential) = settle_one(document, &section.key(name)) {
            settled.insert(name.clone(), credential);
        }
    }
    // A section that is no mapping stays, so that its problem is found with all the others.
    if !names.is_empty() {
        document.hide(&section);
    }
    settled
}

fn settle_one(document: &mut Document, place: &Place) -> Option<Credential> {
    let kind_place = place.key("kind");
    let kind = document.text(&kind_place);
    let later: fn(Later) -> Credential = match kind.as_deref() {
        Some("file") => {
            document.hide(&kind_place);
            return document.settle::<FileCredential>(place).map(Credential::File);
        }
        Some("oauth_client_credentials") => {
            document.hide(&kind_place);
            return document.settle::<OauthClientCredentials>(place).map(Credential::OauthClientCredentials);
        }
        Some("github_app") => Credential::GithubApp,
        Some("vault") => Credential::Vault,
        Some("oauth_token_exchange") => Credential::OauthTokenExchange,
        Some("oauth_jwt_bearer") => Credential::OauthJwtBearer,
        Some("id_jag") => Credential::IdJag,
        Some("aws") => Credential::Aws,
        Some("gcp") => Credential::Gcp,
        Some("azure") => Credential::Azure,
        Some("kubernetes") => Credential::Kubernetes,
        Some("spiffe_jwt") => Credential::SpiffeJwt,
        Some("spiffe_x509") => Credential::SpiffeX509,
        Some("mtls") => Credential::Mtls,
        Some(_) => {
            document.report(&kind_place, "unknown kind; this version knows file and oauth_client_credentials");
            return None;
        }
        None if document.wrote(&kind_place) || document.settle::<BTreeMap<String, Value>>(place).is_some() => {
            document.report(&kind_place, "expected the name of a kind: file or oauth_client_credentials");
            return None;
        }
        None => return None,
    };
    document.settle(place).map(later)
}

/// The declarations of all credentials that this version serves.
pub(super) fn declarations(
    check: &mut Check<'_>,
    settled: &BTreeMap<String, Credential>,
) -> BTreeMap<String, Arc<Declaration>> {
    let mut declarations = BTreeMap::new();
    for (name, credential) in settled {
        let place = at(&["credentials"]).key(name);
        if let Err(message) = super::destinations::name(name) {
            check.document.report(&place, message);
        }
        let (source, placement, max_ttl) = match credential {
            Credential::File(file) => (from_file(check, &place, file), &file.placement, file.max_ttl),
            Credential::OauthClientCredentials(oauth) => {
                (from_issuer(check, &place, oauth), &oauth.placement, oauth.max_ttl)
            }
            Credential::GithubApp(_)
            | Credential::Vault(_)
            | Credential::OauthTokenExchange(_)
            | Credential::OauthJwtBearer(_)
            | Credential::IdJag(_)
            | Credential::Aws(_)
            | Credential::Gcp(_)
            | Credential::Azure(_)
            | Credential::Kubernetes(_)
            | Credential::SpiffeJwt(_)
            | Credential::SpiffeX509(_)
            | Credential::Mtls(_) => {
                check.unavailable(&place.key("kind"), credential.kind());
                continue;
            }
        };
        let placement = placed(check, &place.key("as"), placement);
        let max_ttl = check.positive(&place.key("max_ttl"), max_ttl);
        declarations
            .insert(name.clone(), Arc::new(Declaration { name: name.as_str().into(), source, placement, max_ttl }));
    }
    declarations
}

fn from_file(check: &mut Check<'_>, place: &Place, written: &FileCredential) -> Source {
    let file = match &written.file {
        Some(path) => check.path(&place.key("file"), path),
        None => {
            check.document.report(&place.key("file"), "is required");
            Default::default()
        }
    };
    let expires = written.expires.and_then(|day| {
        let end = day.end();
        if end.is_none() {
            check.document.report(&place.key("expires"), "too far in the future");
        }
        end
    });
    Source::File { file, owner: check.required(&place.key("owner"), written.owner.as_deref()), expires }
}

fn from_issuer(check: &mut Check<'_>, place: &Place, written: &OauthClientCredentials) -> Source {
    let endpoint = place.key("token_endpoint");
    let token_endpoint = check.required(&endpoint, written.token_endpoint.as_deref());
    issuer_url(check, &endpoint, &token_endpoint);
    if let Some(url) = &written.revocation_endpoint {
        issuer_url(check, &place.key("revocation_endpoint"), url);
    }
    let scope =
        |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    for (index, _) in written.scopes.iter().enumerate().filter(|(_, text)| !scope(text)) {
        check.document.report(&place.key("scopes").index(index), "not a scope (RFC 6749 section 3.3)");
    }
    if let Some(audience) = &written.audience {
        check.required(&place.key("audience"), Some(audience));
    }
    let client_place = place.key("client");
    let client = written.client.as_ref();
    if client.is_none() {
        check.document.report(&client_place, "is required: {id: …, secret: {file: …}}");
    }
    let client_id = client.map(|client| check.required(&client_place.key("id"), client.id.as_deref()));
    let secret = client.map(|client| secret(check, &client_place.key("secret"), client.secret.as_ref()));
    Source::OauthClientCredentials {
        token_endpoint,
        revocation_endpoint: written.revocation_endpoint.clone(),
        client_id: client_id.unwrap_or_default(),
        client_secret: secret.unwrap_or_else(|| credential::SecretPlace::File(Default::default())),
        scopes: written.scopes.clone(),
        audience: written.audience.clone(),
    }
}

fn secret(check: &mut Check<'_>, place: &Place, written: Option<&SecretPlace>) -> credential::SecretPlace {
    let nowhere = credential::SecretPlace::File(Default::default());
    match written {
        None => {
            check.document.report(place, "is required: {file: PATH} or {env: NAME}");
            nowhere
        }
        Some(SecretPlace::File(path)) => credential::SecretPlace::File(check.path(&place.key("file"), path)),
        Some(SecretPlace::Env(name)) => match check.variable(name) {
            Some(value) => credential::SecretPlace::Value(SecretValue(Zeroizing::new(value))),
            None => {
                check.document.report(&place.key("env"), format!("environment variable {name} is not set"));
                nowhere
            }
        },
    }
}

fn placed(check: &mut Check<'_>, place: &Place, written: &Placement) -> credential::Placement {
    match written {
        Placement::Bearer => {}
        Placement::Basic(user) => {
            if user.is_empty() || user.contains(|c: char| c == ':' || c.is_control()) {
                check.document.report(
                    &place.key("basic"),
                    "not a user name (RFC 7617): empty, or with a colon or control character",
                );
            }
            return credential::Placement::Basic(user.clone());
        }
        Placement::Header(name) => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) if !FRAMING.contains(&name.as_str()) => return credential::Placement::Header(name),
            Ok(_) => check
                .document
                .report(&place.key("header"), "this header belongs to the connection, not to a credential"),
            Err(_) => check.document.report(&place.key("header"), "not the name of a header"),
        },
        Placement::Query(name) => {
            if name.is_empty() || name.contains(char::is_control) {
                check.document.report(&place.key("query"), "not the name of a query parameter");
            }
            return credential::Placement::Query(name.clone());
        }
    }
    credential::Placement::Bearer
}

/// Our own secret goes to this URL, so it is encrypted on the way or never leaves the machine.
fn issuer_url(check: &mut Check<'_>, place: &Place, url: &str) {
    if url.is_empty() {
        return;
    }
    let message = match url.parse::<Uri>() {
        Ok(uri) => match (uri.scheme_str(), uri.host()) {
            _ if url.contains('#') || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
                "expected a URL without user information and fragment"
            }
            (Some("https"), Some(host)) if !host.is_empty() => return,
            (Some("http"), Some(host)) if is_loopback(host) => return,
            (Some("http"), Some(_)) => "expected https; http only to a loopback address such as 127.0.0.1",
            (_, _) => "expected a URL such as https://issuer.example/token",
        },
        Err(_) => "expected a URL such as https://issuer.example/token",
    };
    check.document.report(place, message);
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Headers that frame a message or belong to one connection; a credential there would change what is sent where.
const FRAMING: [&str; 11] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "expect",
];
