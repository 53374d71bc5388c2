//! Who the agent is: from what was written to where the identity comes from.

use super::{Check, at};
use crate::{
    config::settings::{self, IdentityKind},
    identity::{
        Id, Source,
        kubernetes::{Projected, TOKEN, TRUST_DOMAIN},
        spiffe::Endpoint,
    },
};

/// The agent's id, as far as the file says it, and what is to prove it.
pub(super) fn identity(check: &mut Check<'_>, written: Option<&settings::Identity>) -> (Id, Source) {
    let place = at(&["agent", "identity"]);
    let Some(written) = written else {
        check.document.report(&place, "is required: {kind: static, id: …}");
        return (Id::default(), Source::Configured);
    };
    let id = match (&written.id, written.kind) {
        (id, IdentityKind::Static) => Id::from(&*check.required(&place.key("id"), id.as_deref())),
        (Some(id), IdentityKind::Spiffe | IdentityKind::Kubernetes) => {
            if !is_spiffe_id(id) {
                check.document.report(&place.key("id"), "expected the id that must be proven: spiffe://…/…");
            }
            Id::from(&**id)
        }
        (None, IdentityKind::Spiffe | IdentityKind::Kubernetes) => Id::default(),
    };
    refuse_strangers(check, written);
    let source = match written.kind {
        IdentityKind::Static => Source::Configured,
        IdentityKind::Kubernetes => Source::Kubernetes(projected(check, written)),
        IdentityKind::Spiffe => match endpoint(check, written) {
            Some(endpoint) => Source::Spiffe(endpoint),
            None => Source::Configured,
        },
    };
    (id, source)
}

/// A name for people, where none is written.
pub(super) fn name(check: &mut Check<'_>, id: &Id) -> String {
    let last = |text: &str| text.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default().to_owned();
    match (id.known(), check.variable("TOLLGATE_SERVICE_ACCOUNT")) {
        (Some(id), _) => last(id),
        (None, Some(account)) => account,
        // The identity itself is missing, and that was said.
        (None, None) if !check.document.wrote(&at(&["agent", "identity"])) => String::new(),
        (None, None) => {
            check.document.report(&at(&["agent", "name"]), "is required where agent.identity gives no id");
            String::new()
        }
    }
}

/// Reports keys that belong to another kind: someone expects something of them.
fn refuse_strangers(check: &mut Check<'_>, written: &settings::Identity) {
    let kind = written.kind;
    for (key, is_written, of) in [
        ("socket", written.socket.is_some(), IdentityKind::Spiffe),
        ("token", written.token.is_some(), IdentityKind::Kubernetes),
        ("trust_domain", written.trust_domain.is_some(), IdentityKind::Kubernetes),
    ] {
        if is_written && kind != of {
            let message = format!("belongs to kind: {}", of.as_str());
            check.document.report(&at(&["agent", "identity", key]), message);
        }
    }
}

fn projected(check: &mut Check<'_>, written: &settings::Identity) -> Projected {
    let place = at(&["agent", "identity"]);
    let trust_domain = written.trust_domain.clone().or_else(|| check.variable("TOLLGATE_TRUST_DOMAIN"));
    let trust_domain = trust_domain.unwrap_or_else(|| TRUST_DOMAIN.to_owned());
    if !is_trust_domain(&trust_domain) {
        check.document.report(&place.key("trust_domain"), "not the name of a trust domain, such as example.org");
    }
    Projected {
        token: match &written.token {
            Some(path) => check.path(&place.key("token"), path),
            None => TOKEN.into(),
        },
        trust_domain,
        namespace: check.variable("TOLLGATE_POD_NAMESPACE"),
        pod: check.variable("TOLLGATE_POD_NAME"),
        pod_uid: check.variable("TOLLGATE_POD_UID"),
    }
}

fn endpoint(check: &mut Check<'_>, written: &settings::Identity) -> Option<Endpoint> {
    let place = at(&["agent", "identity", "socket"]);
    let Some(text) = written.socket.clone().or_else(|| check.variable("SPIFFE_ENDPOINT_SOCKET")) else {
        check.document.report(&place, "is required, here or in SPIFFE_ENDPOINT_SOCKET: unix:///run/spire/agent.sock");
        return None;
    };
    match Endpoint::parse(&text) {
        Ok(endpoint) if endpoint.crosses_a_network() => {
            check.document.report(&place, "the key would cross a network unencrypted; use a Unix socket or loopback");
            None
        }
        Ok(endpoint) => Some(endpoint),
        Err(problem) => {
            check.document.report(&place, problem);
            None
        }
    }
}

fn is_spiffe_id(text: &str) -> bool {
    text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).is_some_and(|(domain, path)| {
        is_trust_domain(domain) && !path.is_empty() && path.bytes().all(|byte| byte.is_ascii_graphic())
    })
}

fn is_trust_domain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    !text.is_empty() && text.len() <= 255 && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn read(identity: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let variable = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let text = format!("agent: {{identity: {identity}}}\n");
        Config::parse(&text, Path::new("/etc/tollgate"), "f", &variable).map_err(|problems| problems.to_string())
    }

    #[test]
    fn the_injectors_variables_say_what_the_file_leaves_out() {
        let env = [
            ("TOLLGATE_TRUST_DOMAIN", "example.org"),
            ("TOLLGATE_POD_NAMESPACE", "agents"),
            ("TOLLGATE_POD_NAME", "triage-0"),
            ("TOLLGATE_POD_UID", "u-0"),
            ("TOLLGATE_SERVICE_ACCOUNT", "triage"),
            ("SPIFFE_ENDPOINT_SOCKET", "unix:///run/spiffe/spire-agent.sock"),
        ];
        let kubernetes = read("{kind: kubernetes}", &env).unwrap();
        let Source::Kubernetes(projected) = &kubernetes.identity else { panic!("{:?}", kubernetes.identity) };
        assert_eq!(projected.token.to_str(), Some(TOKEN));
        assert_eq!((&*projected.trust_domain, projected.pod_uid.as_deref()), ("example.org", Some("u-0")));
        assert_eq!((&*kubernetes.agent.name, kubernetes.agent.id.known()), ("triage", None));
        let spiffe = read("{kind: spiffe, id: 'spiffe://example.org/ns/agents/sa/bot'}", &env).unwrap();
        assert!(matches!(spiffe.identity, Source::Spiffe(_)));
        assert_eq!(&*spiffe.agent.name, "bot");
    }

    #[test]
    fn what_can_prove_nothing_is_reported() {
        let named = [("TOLLGATE_SERVICE_ACCOUNT", "x")];
        for (identity, why) in [
            ("{kind: spiffe}", "agent.identity.socket: is required, here or in SPIFFE_ENDPOINT_SOCKET"),
            ("{kind: spiffe, socket: /run/agent.sock}", "agent.identity.socket: endpoint socket is not a valid URI"),
            ("{kind: spiffe, socket: 'tcp://10.0.0.1:1'}", "agent.identity.socket: the key would cross a network"),
            ("{kind: spiffe, socket: 'unix:///s', id: bot}", "agent.identity.id: expected the id that must be proven"),
            ("{kind: static, id: x, socket: 'unix:///s'}", "agent.identity.socket: belongs to kind: spiffe"),
            ("{kind: spiffe, socket: 'unix:///s', token: /t}", "agent.identity.token: belongs to kind: kubernetes"),
            ("{kind: kubernetes, trust_domain: 'A b'}", "agent.identity.trust_domain: not the name of a trust domain"),
            ("{kind: static}", "agent.identity.id: is required"),
        ] {
            let problems = read(identity, &named).map(drop).unwrap_err();
            assert!(problems.contains(why), "{identity}: {problems}");
        }
        let nameless = read("{kind: kubernetes}", &[]).map(drop).unwrap_err();
        assert!(nameless.contains("agent.name: is required where agent.identity gives no id"), "{nameless}");
    }
}
