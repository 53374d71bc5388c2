//! Credentials: shape, then meaning.

mod aws;
mod cloud;
mod github_app;
mod mtls;
mod oauth;
mod registry_token;
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
        values::{Day, Period, SecretPlace},
    },
    credential::{self, Declaration, SecretValue, Source, exception::Exception, file::Register},
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
            document.report(&kind_place, format!("expected the name of a kind: {}", kinds()));
        }
        return None;
    };
    let Some((_, settle)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        document.report(&kind_place, format!("unknown kind; expected one of {}", kinds()));
        return None;
    };
    document.hide(&kind_place);
    let per_call = place.key("per_call");
    if FOUND.contains(&kind.as_str()) && document.wrote(&per_call) {
        document.report(&per_call, NOT_MINTED);
        document.hide(&per_call);
    }
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
        let declaration = declaration(check, &place, name, credential);
        if declaration.per_call && !declaration.source.minted() {
            check.document.report(&place.key("per_call"), NOT_MINTED);
        }
        declarations.insert(name.clone(), Arc::new(declaration));
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
            return Declaration { name: name.into(), source, placement, max_ttl, per_call: it.per_call };
        }
        // It stands until the exception ends.
        Credential::File(it) => (from_file(check, place, it), (&it.placement, Period(Duration::MAX))),
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
        // Registries take their tokens in one place only.
        Credential::RegistryToken(it) => {
            (registry_token::registry_token(check, place, it), (&Placement::Bearer, it.max_ttl))
        }
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
    Declaration { name: name.into(), source, placement, max_ttl, per_call: credential.per_call() }
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
    let placement = credential::Placement::Certificate;
    Declaration { name: name.into(), source, placement, max_ttl: Duration::MAX, per_call: false }
}

fn from_file(check: &mut Check<'_>, place: &Place, written: &FileCredential) -> Source {
    let file = match &written.file {
        Some(path) => check.path(&place.key("file"), path),
        None => {
            check.document.report(&place.key("file"), "is required");
            Default::default()
        }
    };
    Source::File(Register { file, exception: exception(check, place, written.owner.as_deref(), written.expires) })
}

fn exception(check: &mut Check<'_>, place: &Place, owner: Option<&str>, expires: Option<Day>) -> Exception {
    let expires = expires.and_then(|day| {
        let end = day.end();
        if end.is_none() {
            check.document.report(&place.key("expires"), "too far in the future");
        }
        end
    });
    Exception { owner: check.required(&place.key("owner"), owner), expires }
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
            Some(value) => {
                let value = SecretValue(Zeroizing::new(value));
                check.secrets.push(value.clone());
                credential::SecretPlace::Value(value)
            }
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

/// All kinds, as a problem tells them.
fn kinds() -> String {
    let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
    let (last, others) = names.split_last().expect("there are kinds");
    format!("{} or {last}", others.join(", "))
}

/// Settles one credential as what its kind is written like.
type Settle = fn(&mut Document, &Place) -> Option<Credential>;

/// Each kind that can be written.
const KINDS: [(&str, Settle); 15] = [
    ("file", |document, place| document.settle(place).map(Credential::File)),
    ("vault", |document, place| document.settle(place).map(Credential::Vault)),
    ("oauth_client_credentials", |document, place| document.settle(place).map(Credential::OauthClientCredentials)),
    ("oauth_token_exchange", |document, place| document.settle(place).map(Credential::OauthTokenExchange)),
    ("oauth_jwt_bearer", |document, place| document.settle(place).map(Credential::OauthJwtBearer)),
    ("id_jag", |document, place| document.settle(place).map(Credential::IdJag)),
    ("aws", |document, place| document.settle(place).map(Credential::Aws)),
    ("gcp", |document, place| document.settle(place).map(Credential::Gcp)),
    ("azure", |document, place| document.settle(place).map(Credential::Azure)),
    ("github_app", |document, place| document.settle(place).map(Credential::GithubApp)),
    ("kubernetes", |document, place| document.settle(place).map(Credential::Kubernetes)),
    ("registry_token", |document, place| document.settle(place).map(Credential::RegistryToken)),
    ("spiffe_jwt", |document, place| document.settle(place).map(Credential::SpiffeJwt)),
    ("spiffe_x509", |document, place| document.settle(place).map(Credential::SpiffeX509)),
    ("mtls", |document, place| document.settle(place).map(Credential::Mtls)),
];

/// The kinds that take what is there: nothing is minted for them.
const FOUND: [&str; 4] = ["file", "spiffe_jwt", "spiffe_x509", "mtls"];
const NOT_MINTED: &str = "nothing is minted for this credential, so there is nothing that a call could have alone";

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_kind_of_the_schema_settles_as_itself() {
        let known: BTreeSet<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(known.len(), KINDS.len(), "a kind stands there twice");
        let schema = schemars::schema_for!(Credential).to_value();
        let variants = schema["oneOf"].as_array().expect("a schema for each variant").iter();
        let of = |variant: &Value| variant["properties"]["kind"]["const"].as_str().expect("it is tagged").to_owned();
        let documented: BTreeSet<String> = variants.map(of).collect();
        assert!(documented.iter().map(String::as_str).eq(known), "{documented:?}");
        for kind in documented {
            let text = format!("credentials: {{it: {{kind: {kind}}}}}");
            let mut document = Document::read(&text, "f", &|_| None).expect("it is YAML");
            let settled = settle(&mut document);
            let credential = settled.get("it").unwrap_or_else(|| panic!("{kind} does not settle"));
            let written = serde_json::to_value(credential).expect("it can be written");
            assert_eq!(written["kind"], kind);
        }
    }
}
