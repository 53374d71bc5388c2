//! Keys for AWS: from what was written to their source.

use super::{super::Check, issuer_url, oauth::proves};
use crate::{
    config::{
        document::Place,
        settings::{AwsCredential, AwsWebIdentity},
    },
    credential::{
        Placement, SecretPlace, Source,
        assertion::Assertion,
        aws::{AssumeRole, Scope},
    },
};

pub(super) fn aws(check: &mut Check<'_>, place: &Place, written: &AwsCredential) -> (Source, Placement) {
    let role_arn = check.required(&place.key("role_arn"), written.role_arn.as_deref());
    if !role_arn.is_empty() && !is_role(&role_arn) {
        check.document.report(&place.key("role_arn"), "not a role, such as arn:aws:iam::123456789012:role/agent");
    }
    for (key, name) in [("region", &written.region), ("service", &written.service)] {
        if name.as_deref().is_some_and(|name| !is_name(name)) {
            check.document.report(&place.key(key), format!("not the name of a {key}"));
        }
    }
    let source = Source::Aws(AssumeRole {
        sts_endpoint: endpoint(check, place, written),
        role_arn,
        web_identity: web_identity(check, &place.key("web_identity"), &written.web_identity),
        session_policy: session_policy(check, &place.key("session_policy"), written),
    });
    (source, Placement::SigV4(Scope { region: written.region.clone(), service: written.service.clone() }))
}

fn endpoint(check: &mut Check<'_>, place: &Place, written: &AwsCredential) -> String {
    match (&written.sts_endpoint, &written.region) {
        (Some(url), _) => {
            issuer_url(check, &place.key("sts_endpoint"), url);
            url.clone()
        }
        (None, Some(region)) if region.starts_with("cn-") => format!("https://sts.{region}.amazonaws.com.cn/"),
        (None, Some(region)) => format!("https://sts.{region}.amazonaws.com/"),
        (None, None) => {
            check.document.report(&place.key("region"), "is required, or sts_endpoint: where is the role assumed?");
            String::new()
        }
    }
}

fn web_identity(check: &mut Check<'_>, place: &Place, written: &AwsWebIdentity) -> Assertion {
    match written {
        AwsWebIdentity::File(path) => Assertion::At(SecretPlace::File(check.path(&place.key("file"), path))),
        AwsWebIdentity::Audience(audience) => {
            proves(check, place, &["spiffe", "kubernetes"]);
            Assertion::Identity(check.required(&place.key("audience"), Some(audience)))
        }
    }
}

fn session_policy(check: &mut Check<'_>, place: &Place, written: &AwsCredential) -> Option<String> {
    if written.session_policy.is_empty() {
        return None;
    }
    let text = serde_json::to_string(&written.session_policy).expect("what was read as JSON can be written");
    if text.chars().count() > LONGEST_POLICY {
        check.document.report(place, "longer than 2048 characters, which is all that STS takes");
    }
    if !written.session_policy.contains_key("Statement") {
        check.document.report(place, "not a policy: it has no Statement");
    }
    Some(text)
}

/// `arn:PARTITION:iam::ACCOUNT:role/[PATH/]NAME`.
fn is_role(arn: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let [arn, partition, "iam", "", account, role] = parts[..] else { return false };
    let name = role.strip_prefix("role/").and_then(|path| path.rsplit('/').next());
    let digits = !account.is_empty() && account.bytes().all(|byte| byte.is_ascii_digit());
    let named = name.is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte))
    });
    arn == "arn" && is_name(partition) && digits && named
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// What the parameter `Policy` takes.
const LONGEST_POLICY: usize = 2048;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{
        config::Config,
        credential::{Placement, SecretPlace, Source, assertion::Assertion},
    };

    const STATIC: &str = "{kind: static, id: x}";
    const SPIFFE: &str = "{kind: spiffe, socket: 'unix:///run/agent.sock'}";

    fn parse(identity: &str, credential: &str) -> Result<Config, String> {
        let text = format!(
            "agent: {{name: a, identity: {identity}}}\nlisten: {{proxy: '127.0.0.1:0'}}\ndestinations: {{d: {{hosts: [api.test], credential: s3}}}}\ncredentials:\n  s3: {credential}\n"
        );
        Config::parse(&text, Path::new("/base"), "f", &|_| None).map_err(|problems| problems.to_string())
    }

    #[test]
    fn keys_are_declared_with_what_they_sign_for() {
        let config = parse(
            SPIFFE,
            "{kind: aws, role_arn: 'arn:aws:iam::1:role/a/agent', region: eu-west-1, session_policy: {}, max_ttl: 5m}",
        )
        .unwrap();
        let declaration = &config.credentials["s3"];
        let Source::Aws(source) = &declaration.source else { panic!("{declaration:?}") };
        assert_eq!(source.sts_endpoint, "https://sts.eu-west-1.amazonaws.com/");
        assert_eq!(source.web_identity, Assertion::Identity("sts.amazonaws.com".into()));
        assert_eq!(source.session_policy, None);
        let Placement::SigV4(scope) = &declaration.placement else { panic!("{declaration:?}") };
        assert_eq!((scope.region.as_deref(), scope.service.as_deref()), (Some("eu-west-1"), None));
        assert!(!declaration.revocable() && declaration.kind() == "aws");

        let config = parse(
            STATIC,
            "{kind: aws, role_arn: 'arn:aws-cn:iam::1:role/a', sts_endpoint: 'http://127.0.0.1:1/', service: s3, \
             web_identity: {file: token}, session_policy: {Statement: [{Effect: Deny}]}}",
        )
        .unwrap();
        let Source::Aws(source) = &config.credentials["s3"].source else { panic!("no such source") };
        assert_eq!(source.web_identity, Assertion::At(SecretPlace::File("/base/token".into())));
        assert_eq!(source.session_policy.as_deref(), Some(r#"{"Statement":[{"Effect":"Deny"}]}"#));
    }

    #[test]
    fn what_aws_would_refuse_is_refused_here() {
        let role = "role_arn: 'arn:aws:iam::1:role/a'";
        let long = format!("{role}, region: eu-west-1, session_policy: {{Statement: {}}}", "x".repeat(2048));
        let table = [
            ("region: eu-west-1", "role_arn"),
            (role, "region"),
            ("role_arn: agent, region: eu-west-1", "role_arn"),
            ("role_arn: 'arn:aws:iam::x:role/a', region: eu-west-1", "role_arn"),
            ("role_arn: 'arn:aws:iam::1:user/a', region: eu-west-1", "role_arn"),
            ("role_arn: 'arn:aws:iam::1:role/', region: eu-west-1", "role_arn"),
            (&format!("{role}, region: 'eu-west-1.evil.test/'"), "region"),
            (&format!("{role}, region: eu-west-1, service: S3"), "service"),
            (&format!("{role}, sts_endpoint: 'http://sts.test/'"), "sts_endpoint"),
            (&format!("{role}, region: eu-west-1, session_policy: {{Version: x}}"), "session_policy"),
            (&format!("{role}, region: eu-west-1, as: bearer"), "as"),
            (&format!("{role}, region: eu-west-1, max_ttl: 0s"), "max_ttl"),
            (&long, "session_policy"),
        ];
        for (written, key) in table {
            let problems = parse(SPIFFE, &format!("{{kind: aws, {written}}}")).unwrap_err();
            assert!(problems.contains(&format!("credentials.s3.{key}")), "{written}: {problems}");
            assert_eq!(problems.lines().count(), 1, "{problems}");
        }
    }

    #[test]
    fn an_identity_that_nothing_proves_is_shown_to_nobody() {
        let role = "{kind: aws, role_arn: 'arn:aws:iam::1:role/a', region: eu-west-1}";
        let problems = parse(STATIC, role).unwrap_err();
        assert!(problems.contains("credentials.s3.web_identity: shows the agent's identity"), "{problems}");
    }
}
