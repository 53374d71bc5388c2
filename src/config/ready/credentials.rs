//! Credentials: shape, then meaning.

mod aws;
mod cloud;
mod github_app;
mod mtls;
mod oauth;
mod spiffe;
mod vault;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderName, Uri};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{Check, at};
use crate::{
    config::{
        document::{Document, Place},
        settings::{BasicUser, Credential, FileCredential, Placement},
        values::SecretPlace,
    },
    credential::{self, Declaration, SecretValue, Source, file::Register},
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
    let Some(kind) = document.text(&kind_place) else {
        if document.wrote(&kind_place) || document.settle::<BTreeMap<String, Value>>(place).is_some() {
            document.report(&kind_place, format!("expected the name of a kind: {KINDS}"));
        }
        return None;
    };
    let settle: fn(&mut Document, &Place) -> Option<Credential> = match kind.as_str() {
        "file" => |document, place| document.settle(place).map(Credential::File),
        "oauth_client_credentials" => |document, place| document.settle(place).map(Credential::OauthClientCredentials),
        "oauth_token_exchange" => |document, place| document.settle(place).map(Credential::OauthTokenExchange),
        "oauth_jwt_bearer" => |document, place| document.settle(place).map(Credential::OauthJwtBearer),
        "id_jag" => |document, place| document.settle(place).map(Credential::IdJag),
        "vault" => |document, place| document.settle(place).map(Credential::Vault),
        "aws" => |document, place| document.settle(place).map(Credential::Aws),
        "gcp" => |document, place| document.settle(place).map(Credential::Gcp),
        "azure" => |document, place| document.settle(place).map(Credential::Azure),
        "github_app" => |document, place| document.settle(place).map(Credential::GithubApp),
        "kubernetes" => |document, place| document.settle(place).map(Credential::Kubernetes),
        "spiffe_jwt" => |document, place| document.settle(place).map(Credential::SpiffeJwt),
        "spiffe_x509" => |document, place| document.settle(place).map(Credential::SpiffeX509),
        "mtls" => |document, place| document.settle(place).map(Credential::Mtls),
        _ => {
            document.report(&kind_place, format!("unknown kind; expected one of {KINDS}"));
            return None;
        }
    };
    document.hide(&kind_place);
    settle(document, place)
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
        declarations.insert(name.clone(), Arc::new(declaration(check, &place, name, credential)));
    }
    declarations
}

fn declaration(check: &mut Check<'_>, place: &Place, name: &str, credential: &Credential) -> Declaration {
    let (source, (placement, max_ttl)) = match credential {
        Credential::SpiffeX509(it) => return certificate(name, spiffe::x509(check, place, it)),
        Credential::Mtls(it) => return certificate(name, mtls::mtls(check, place, it)),
        Credential::Aws(it) => {
            let (source, placement) = aws::aws(check, place, it);
            let max_ttl = check.positive(&place.key("max_ttl"), it.max_ttl);
            return Declaration { name: name.into(), source, placement, max_ttl };
        }
        Credential::File(it) => (from_file(check, place, it), (&it.placement, it.max_ttl)),
        Credential::OauthClientCredentials(it) => {
            (oauth::client_credentials(check, place, it), (&it.placement, it.max_ttl))
        }
        Credential::OauthTokenExchange(it) => (oauth::token_exchange(check, place, it), (&it.placement, it.max_ttl)),
        Credential::OauthJwtBearer(it) => (oauth::jwt_bearer(check, place, it), (&it.placement, it.max_ttl)),
        Credential::IdJag(it) => (oauth::id_jag(check, place, it), (&it.placement, it.max_ttl)),
        Credential::Vault(it) => (vault::vault(check, place, it), (&it.placement, it.max_ttl)),
        Credential::Gcp(it) => (cloud::gcp(check, place, it), (&it.placement, it.max_ttl)),
        Credential::Azure(it) => (cloud::azure(check, place, it), (&it.placement, it.max_ttl)),
        Credential::GithubApp(it) => (github_app::github_app(check, place, it), (&it.placement, it.max_ttl)),
        Credential::Kubernetes(it) => (cloud::kubernetes(check, place, it), (&it.placement, it.max_ttl)),
        Credential::SpiffeJwt(it) => (spiffe::jwt(check, place, it), (&it.placement, it.max_ttl)),
    };
    let placement = match &source {
        Source::Vault(vault) if vault.certifies() => credential::Placement::Certificate,
        _ => placed(check, &place.key("as"), placement),
    };
    if placement == credential::Placement::BasicPair && !matches!(source, Source::Vault(_)) {
        check.document.report(&place.key("as").key("basic"), "expected the name of a user; only vault makes one");
    }
    let max_ttl = check.positive(&place.key("max_ttl"), max_ttl);
    Declaration { name: name.into(), source, placement, max_ttl }
}

/// A URL that paths are put behind; this one where none was written.
fn base_url(check: &mut Check<'_>, place: &Place, written: Option<&str>, usual: &str) -> String {
    let url = written.unwrap_or(usual);
    issuer_url(check, place, url);
    if url.contains(['?', '#']) {
        check.document.report(place, "has a query or a fragment");
    }
    url.trim_end_matches('/').to_owned()
}

/// A certificate, which ends when it ends.
fn certificate(name: &str, source: Source) -> Declaration {
    Declaration { name: name.into(), source, placement: credential::Placement::Certificate, max_ttl: Duration::MAX }
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
    Source::File(Register { file, owner: check.required(&place.key("owner"), written.owner.as_deref()), expires })
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
        Placement::Basic(BasicUser::Fields { .. }) => return credential::Placement::BasicPair,
        Placement::Basic(BasicUser::Name(user)) => {
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

const KINDS: &str = "file, vault, oauth_client_credentials, oauth_token_exchange, oauth_jwt_bearer, id_jag, aws, gcp, \
                     azure, github_app, kubernetes, spiffe_jwt, spiffe_x509 or mtls";

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
