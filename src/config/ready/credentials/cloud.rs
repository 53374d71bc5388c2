//! Tokens of clouds: from what was written to their source.

use super::{super::Check, base_url, issuer_url, oauth::proves, secret};
use crate::{
    config::{
        document::Place,
        settings::{Azure, Gcp, Kubernetes},
        values::SecretPlace,
    },
    credential::{
        Source,
        assertion::Assertion,
        azure,
        gcp::{self, ALL_OF_CLOUD},
        kubernetes::{Origin, Pod, SHORTEST, ServiceAccount, TokenRequest},
    },
};

pub(super) fn gcp(check: &mut Check<'_>, place: &Place, written: &Gcp) -> Source {
    let audience = check.required(&place.key("audience"), written.audience.as_deref());
    if !audience.is_empty() && !audience.starts_with("//iam.googleapis.com/") {
        check.document.report(&place.key("audience"), "expected //iam.googleapis.com/projects/…/providers/…");
    }
    let account = written.service_account.as_deref();
    if account.is_some_and(|account| !account.contains('@') || account.contains(['/', ':', '?', '#', ' '])) {
        check.document.report(&place.key("service_account"), "not the address of a service account");
    }
    let token_endpoint = written.token_endpoint.clone().unwrap_or_else(|| GOOGLE_TOKENS.to_owned());
    issuer_url(check, &place.key("token_endpoint"), &token_endpoint);
    let own = written.token_audience.clone().unwrap_or_else(|| format!("https:{audience}"));
    let scopes = match written.scopes.as_slice() {
        [] => vec![ALL_OF_CLOUD.to_owned()],
        scopes => scopes.to_vec(),
    };
    Source::Gcp(gcp::Gcp {
        token_endpoint,
        credentials_api: base_url(
            check,
            &place.key("credentials_api"),
            written.credentials_api.as_deref(),
            GOOGLE_ACCOUNTS,
        ),
        subject: assertion(check, place, written.token.as_ref(), own),
        audience,
        service_account: written.service_account.clone(),
        scopes,
    })
}

pub(super) fn azure(check: &mut Check<'_>, place: &Place, written: &Azure) -> Source {
    let tenant = check.required(&place.key("tenant"), written.tenant.as_deref());
    if tenant.contains(['/', '?', '#', ' ']) {
        check.document.report(&place.key("tenant"), "not a tenant's ID or domain");
    }
    let client_id = check.required(&place.key("client_id"), written.client_id.as_deref());
    if !matches!(written.scopes.as_slice(), [scope] if scope.ends_with("/.default")) {
        check.document.report(&place.key("scopes"), "expected one: the resource with `/.default` behind it");
    }
    proves(check, &place.key("kind"), &["spiffe", "kubernetes"]);
    let authority = base_url(check, &place.key("authority"), written.authority.as_deref(), ENTRA);
    Source::Azure(Box::new(azure::application(&authority, &tenant, &client_id, written.scopes.clone())))
}

pub(super) fn kubernetes(check: &mut Check<'_>, place: &Place, written: &Kubernetes) -> Source {
    let audience = check.required(&place.key("audience"), written.audience.as_deref());
    let origin = match &written.server {
        None => {
            if written.service_account.is_some() || written.pod.is_some() {
                check.document.report(&place.key("server"), "is required: it is asked for the service account's token");
            }
            Origin::Projected(secret(check, &place.key("token"), written.token.as_ref()))
        }
        Some(server) => Origin::Request(Box::new(request(check, place, written, server))),
    };
    Source::Kubernetes(ServiceAccount { audience, origin })
}

fn request(check: &mut Check<'_>, place: &Place, written: &Kubernetes, server: &str) -> TokenRequest {
    let account = written.service_account.as_ref();
    let named = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    if account.is_none_or(|account| !named(&account.namespace) || !named(&account.name)) {
        check.document.report(&place.key("service_account"), "is required: {namespace: …, name: …}");
    }
    if written.max_ttl.0 < SHORTEST {
        check.document.report(&place.key("max_ttl"), "the API server gives no token less than 10m");
    }
    let server = base_url(check, &place.key("server"), Some(server), "");
    TokenRequest {
        token: assertion(check, place, written.token.as_ref(), server.clone()),
        server,
        namespace: account.map(|account| account.namespace.clone()).unwrap_or_default(),
        name: account.map(|account| account.name.clone()).unwrap_or_default(),
        pod: written.pod.as_ref().map(|pod| Pod { name: pod.name.clone(), uid: pod.uid.clone() }),
    }
}

/// The token that was written, or else the identity's for this audience.
fn assertion(check: &mut Check<'_>, place: &Place, written: Option<&SecretPlace>, audience: String) -> Assertion {
    match written {
        Some(_) => Assertion::At(secret(check, &place.key("token"), written)),
        None => {
            proves(check, &place.key("token"), &["spiffe", "kubernetes"]);
            Assertion::Identity(audience)
        }
    }
}

const GOOGLE_TOKENS: &str = "https://sts.googleapis.com/v1/token";
const GOOGLE_ACCOUNTS: &str = "https://iamcredentials.googleapis.com";
const ENTRA: &str = "https://login.microsoftonline.com";
