//! Secrets of OpenBao and HashiCorp Vault: from what was written to their source.

use std::path::Path;

use super::{super::Check, issuer_url, oauth::proves, secret};
use crate::{
    config::{
        document::Place,
        settings::{
            BasicUser, Placement, VaultAlgorithm, VaultAppRole, VaultAuth, VaultCredential, VaultSecretId, VaultSigned,
        },
        values::SecretPlace,
    },
    credential::{
        self, Source,
        vault::{Algorithm, Assertion, Auth, AuthMethod, Certified, Fields, Server, Signed, Vault, Wanted},
    },
};

pub(super) fn vault(check: &mut Check<'_>, place: &Place, written: &VaultCredential) -> Source {
    let address_place = place.key("address");
    let address = check.required(&address_place, written.address.as_deref());
    issuer_url(check, &address_place, &address);
    if address.contains('?') {
        check.document.report(&address_place, "expected a URL without a query");
    }
    if let Some(namespace) = &written.namespace {
        path(check, &place.key("namespace"), namespace);
    }
    for (index, policy) in written.policies.iter().enumerate() {
        check.required(&place.key("policies").index(index), Some(policy));
    }
    let auth = auth(check, &place.key("auth"), written.auth.as_ref(), &address);
    let wanted = wanted(check, place, written);
    let server = Server { address, namespace: written.namespace.clone() };
    Source::Vault(Box::new(Vault { server, auth, wanted, policies: written.policies.clone() }))
}

fn wanted(check: &mut Check<'_>, place: &Place, written: &VaultCredential) -> Wanted {
    let chosen = [
        ("secret", written.secret.is_some()),
        ("certificate", written.certificate.is_some()),
        ("signed", written.signed.is_some()),
    ];
    for (key, _) in chosen.iter().filter(|(_, is_written)| *is_written).skip(1) {
        check.document.report(&place.key(key), "one of `secret`, `certificate` and `signed`");
    }
    match (&written.secret, &written.certificate, &written.signed) {
        (None, Some(certificate), _) => {
            fields_alone(check, place, written);
            if check.document.wrote(&place.key("as")) {
                check.document.report(&place.key("as"), "not with `certificate`, which stands in no request");
            }
            let path_place = place.key("certificate").key("path");
            let issuing_path = check.required(&path_place, certificate.path.as_deref());
            path(check, &path_place, &issuing_path);
            let name_place = place.key("certificate").key("common_name");
            let common_name = check.required(&name_place, certificate.common_name.as_deref());
            Wanted::Certificate(Certified { path: issuing_path, common_name, identity: certificate.identity })
        }
        (None, None, Some(signed)) => {
            fields_alone(check, place, written);
            narrows_nothing(check, place, written);
            Wanted::Signed(signed_token(check, &place.key("signed"), signed))
        }
        (secret, _, _) => {
            let secret_place = place.key("secret");
            let secret = check.required(&secret_place, secret.as_deref());
            path(check, &secret_place, &secret);
            let fields = fields(check, place, written);
            // The API of KV version 2 has this in all its paths that lead to a secret.
            if secret.split('/').skip(1).any(|segment| segment == "data") {
                narrows_nothing(check, place, written);
                return Wanted::Kept { path: secret, fields };
            }
            Wanted::Leased { path: secret, fields }
        }
    }
}

fn fields_alone(check: &mut Check<'_>, place: &Place, written: &VaultCredential) {
    if written.field.is_some() {
        check.document.report(&place.key("field"), "only with `secret`");
    }
    if matches!(written.placement, Placement::Basic(BasicUser::Fields { .. })) {
        check.document.report(&place.key("as").key("basic"), "fields only with `secret`");
    }
}

fn narrows_nothing(check: &mut Check<'_>, place: &Place, written: &VaultCredential) {
    if !written.policies.is_empty() {
        check.document.report(&place.key("policies"), "of no use here: no token is made");
    }
}

fn fields(check: &mut Check<'_>, place: &Place, written: &VaultCredential) -> Fields {
    match &written.placement {
        Placement::Basic(BasicUser::Fields { user, password }) => {
            if written.field.is_some() {
                check.document.report(&place.key("field"), "`as` names the fields already");
            }
            Fields::Pair { user: user.clone(), password: password.clone() }
        }
        _ => Fields::One(check.required(&place.key("field"), written.field.as_deref())),
    }
}

fn signed_token(check: &mut Check<'_>, place: &Place, written: &VaultSigned) -> Signed {
    let path_place = place.key("path");
    let signing_path = check.required(&path_place, written.path.as_deref());
    path(check, &path_place, &signing_path);
    let algorithm = match written.algorithm {
        VaultAlgorithm::Es256 => Algorithm::Es256,
        VaultAlgorithm::Rs256 => Algorithm::Rs256,
        VaultAlgorithm::EdDsa => Algorithm::EdDsa,
    };
    Signed {
        path: signing_path,
        algorithm,
        key_id: written.key_id.clone(),
        issuer: check.required(&place.key("issuer"), written.issuer.as_deref()),
        audience: check.required(&place.key("audience"), written.audience.as_deref()),
    }
}

fn auth(check: &mut Check<'_>, place: &Place, written: Option<&VaultAuth>, address: &str) -> Auth {
    let jwt = |mount: String, role, token| Auth { mount, method: AuthMethod::Jwt { role, token } };
    match written {
        Some(VaultAuth::Jwt(written)) => {
            let place = place.key("jwt");
            let mount = mount(check, &place, written.mount.as_deref(), "jwt");
            let role = check.required(&place.key("role"), written.role.as_deref());
            if written.audience.is_some() && written.token.is_some() {
                check.document.report(&place.key("audience"), "not with `token`, which is for whom it is for");
            }
            let token = match &written.token {
                Some(token) => Assertion::At(secret(check, &place.key("token"), Some(token))),
                None => {
                    proves(check, &place, &["spiffe", "kubernetes"]);
                    Assertion::Identity(written.audience.clone().unwrap_or_else(|| address.to_owned()))
                }
            };
            jwt(mount, role, token)
        }
        Some(VaultAuth::Kubernetes(written)) => {
            let place = place.key("kubernetes");
            let mount = mount(check, &place, written.mount.as_deref(), "kubernetes");
            let role = check.required(&place.key("role"), written.role.as_deref());
            let token = match &written.token {
                Some(token) => secret(check, &place.key("token"), Some(token)),
                None => credential::SecretPlace::File(Path::new(SERVICE_ACCOUNT).into()),
            };
            jwt(mount, role, Assertion::At(token))
        }
        Some(VaultAuth::Approle(written)) => app_role(check, &place.key("approle"), written),
        None => {
            check.document.report(place, "is required: {jwt: {role: …}}, {kubernetes: {role: …}} or {approle: {…}}");
            jwt(String::new(), String::new(), Assertion::Identity(String::new()))
        }
    }
}

fn app_role(check: &mut Check<'_>, place: &Place, written: &VaultAppRole) -> Auth {
    let mount = mount(check, place, written.mount.as_deref(), "approle");
    let role_id = check.required(&place.key("role_id"), written.role_id.as_deref());
    let secret_place = place.key("secret_id");
    let (written, wrapped) = match &written.secret_id {
        Some(VaultSecretId { file: Some(file), env: None, wrapped }) => {
            (Some(SecretPlace::File(file.clone())), *wrapped)
        }
        Some(VaultSecretId { file: None, env: Some(name), wrapped }) => {
            (Some(SecretPlace::Env(name.clone())), *wrapped)
        }
        Some(VaultSecretId { file: Some(_), env: Some(_), wrapped: _ }) => {
            check.document.report(&secret_place, "one of `file` and `env`, not both");
            return Auth { mount, method: nobody() };
        }
        Some(VaultSecretId { file: None, env: None, wrapped: _ }) | None => (None, false),
    };
    let secret_id = secret(check, &secret_place, written.as_ref());
    Auth { mount, method: AuthMethod::AppRole { role_id, secret_id, wrapped } }
}

/// Stands where a problem was reported, so that the others are found as well.
fn nobody() -> AuthMethod {
    AuthMethod::Jwt { role: String::new(), token: Assertion::Identity(String::new()) }
}

fn mount(check: &mut Check<'_>, place: &Place, written: Option<&str>, usual: &str) -> String {
    let mount = written.unwrap_or(usual);
    path(check, &place.key("mount"), mount);
    mount.to_owned()
}

/// A path of the API, without `/v1/`: no part of it may lead elsewhere.
fn path(check: &mut Check<'_>, place: &Place, path: &str) {
    let is_segment = |segment: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~@:+=,".contains(&byte);
        !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(known)
    };
    if !path.is_empty() && !path.split('/').all(is_segment) {
        check.document.report(place, "expected a path such as database/creds/readonly, without slashes at its ends");
    }
}

/// Where the kubelet puts the token of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{config::Config, credential::SecretPlace as Place};

    const APP_ROLE: &str = "auth: {approle: {role_id: r, secret_id: {file: s, wrapped: true}}}";

    fn parse(credential: &str) -> Result<Config, String> {
        let text = format!(
            "agent: {{name: a, identity: {{kind: static, id: x}}}}
destinations: {{d: {{hosts: [api.test], credential: c}}}}
credentials: {{c: {{kind: vault, address: 'https://bao:8200', {credential}}}}}"
        );
        Config::parse(&text, Path::new("/etc/tollgate"), "f", &|_| None).map_err(|problems| problems.to_string())
    }

    fn vault(credential: &str) -> (Vault, credential::Placement) {
        let config = parse(&format!("{APP_ROLE}, {credential}")).unwrap();
        let declaration = &config.credentials["c"];
        let Source::Vault(vault) = &declaration.source else { panic!("it is of another kind") };
        (vault.as_ref().clone(), declaration.placement.clone())
    }

    #[test]
    fn a_path_says_whether_its_secret_has_a_lease() {
        let pair = "as: {basic: {user: username, password: password}}";
        let (leased, placement) = vault(&format!("namespace: team/a, secret: database/creds/x, {pair}"));
        let fields = Fields::Pair { user: "username".into(), password: "password".into() };
        assert_eq!(leased.wanted, Wanted::Leased { path: "database/creds/x".into(), fields });
        assert_eq!((placement, leased.server.namespace.as_deref()), (credential::Placement::BasicPair, Some("team/a")));
        let (kept, placement) = vault("secret: team/kv/data/app, field: token, as: {header: X-Key}");
        assert_eq!(kept.wanted, Wanted::Kept { path: "team/kv/data/app".into(), fields: Fields::One("token".into()) });
        assert!(matches!(placement, credential::Placement::Header(_)));
        let (named, _) = vault("secret: data/creds/x, field: password, as: {basic: build}");
        assert!(matches!(named.wanted, Wanted::Leased { .. }), "a mount of that name is none of KV");
    }

    #[test]
    fn a_certificate_stands_in_no_request() {
        let (vault, placement) = vault("certificate: {path: pki/issue/agents, common_name: triage}, policies: [pki]");
        assert!(vault.certifies());
        assert_eq!(placement, credential::Placement::Certificate);
    }

    #[test]
    fn each_way_to_log_in_has_its_usual_mount() {
        let secret = "secret: kv/data/app, field: token";
        let auth = |written: &str| {
            let config = parse(&format!("auth: {written}, {secret}")).unwrap();
            let Source::Vault(vault) = &config.credentials["c"].source else { panic!("it is of another kind") };
            vault.auth.clone()
        };
        let kubernetes = auth("{kubernetes: {role: a}}");
        let token = Assertion::At(Place::File(SERVICE_ACCOUNT.into()));
        assert_eq!(kubernetes.method, AuthMethod::Jwt { role: "a".into(), token });
        assert_eq!(kubernetes.mount, "kubernetes");
        let jwt = auth("{jwt: {mount: spire/jwt, role: a, token: {file: t}}}");
        let token = Assertion::At(Place::File("/etc/tollgate/t".into()));
        assert_eq!(jwt, Auth { mount: "spire/jwt".into(), method: AuthMethod::Jwt { role: "a".into(), token } });
        let (vault, _) = vault(secret);
        let secret_id = Place::File("/etc/tollgate/s".into());
        let method = AuthMethod::AppRole { role_id: "r".into(), secret_id, wrapped: true };
        assert_eq!(vault.auth, Auth { mount: "approle".into(), method });
    }

    #[test]
    fn what_is_wrong_is_reported_at_its_place() {
        let table = [
            ("secret: a/b, field: c", "auth: is required"),
            ("auth: {jwt: {role: a}}, secret: a/b, field: c", "auth.jwt: shows the agent's identity, which needs"),
            ("auth: {jwt: {token: {file: t}}}, secret: a/b, field: c", "auth.jwt.role: is required"),
            ("auth: {ldap: {}}, secret: a/b, field: c", "auth: "),
            ("auth: {approle: {role_id: r, secret_id: {file: s, env: S}}}, secret: a/b, field: c", "not both"),
            ("auth: {approle: {role_id: r}}, secret: a/b, field: c", "secret_id: is required"),
            ("APP", "secret: is required"),
            ("APP, secret: a/b", "field: is required"),
            ("APP, secret: /a/b, field: c", "secret: expected a path"),
            ("APP, secret: a/../b, field: c", "secret: expected a path"),
            ("APP, secret: 'a/b?x', field: c", "secret: expected a path"),
            ("APP, namespace: 'a b', secret: a/b, field: c", "namespace: expected a path"),
            ("APP, secret: a/b, field: c, as: {basic: {user: u, password: p}}", "field: `as` names the fields already"),
            ("APP, secret: kv/data/a, field: c, policies: [p]", "policies: of no use here"),
            ("APP, secret: a/b, field: c, signed: {path: t/sign/k, issuer: i, audience: a}", "signed: one of"),
            ("APP, signed: {path: t/sign/k, issuer: i, audience: a}, field: f", "field: only with `secret`"),
            ("APP, signed: {path: t/sign/k, issuer: i}", "signed.audience: is required"),
            ("APP, signed: {path: t/sign/k, issuer: i, audience: a, algorithm: none}", "algorithm"),
            ("APP, certificate: {path: pki/issue/a, common_name: n}, as: bearer", "as: not with `certificate`"),
            ("APP, certificate: {path: pki/issue/a}", "certificate.common_name: is required"),
        ];
        for (written, expected) in table {
            let problems = parse(&written.replace("APP", APP_ROLE)).expect_err(written);
            assert!(problems.contains(expected), "{written}: {problems}");
        }
    }
}
