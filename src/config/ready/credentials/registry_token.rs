//! Tokens of container registries: from what was written to their source.

use super::{super::Check, issuer_url, secret};
use crate::{
    config::{document::Place, settings::RegistryToken},
    credential::{
        Source,
        registry_token::{self, Account, scope::is_pattern},
    },
};

pub(super) fn registry_token(check: &mut Check<'_>, place: &Place, written: &RegistryToken) -> Source {
    let realm = check.required(&place.key("realm"), written.realm.as_deref());
    issuer_url(check, &place.key("realm"), &realm);
    if written.actions.is_empty() {
        check.document.report(&place.key("actions"), "is empty; name at least one of pull, push and delete");
    }
    for (index, _) in written.repositories.iter().enumerate().filter(|(_, text)| !is_pattern(text)) {
        let message = "not a repository's name, without the registry's and a tag; `*` and `**` stand for components";
        check.document.report(&place.key("repositories").index(index), message);
    }
    Source::RegistryToken(registry_token::RegistryToken {
        realm,
        service: check.required(&place.key("service"), written.service.as_deref()),
        account: account(check, place, written),
        actions: written.actions.clone(),
        repositories: written.repositories.clone(),
        catalog: written.catalog,
    })
}

fn account(check: &mut Check<'_>, place: &Place, written: &RegistryToken) -> Option<Account> {
    let Some(user) = &written.user else {
        if written.secret.is_some() {
            check.document.report(&place.key("user"), "is required: whose `secret` it is");
        }
        return None;
    };
    if user.is_empty() || user.contains(|c: char| c == ':' || c.is_control()) {
        let message = "not a user name (RFC 7617): empty, or with a colon or control character";
        check.document.report(&place.key("user"), message);
    }
    Some(Account { user: user.clone(), secret: secret(check, &place.key("secret"), written.secret.as_ref()) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::Config,
        credential::{SecretPlace, registry_token::scope::Action},
    };

    fn parse(credential: &str) -> Result<registry_token::RegistryToken, String> {
        let text = format!(
            "agent: {{name: a, identity: {{kind: static, id: x}}}}\n\
             destinations: {{d: {{hosts: [registry.test], credential: x}}}}\n\
             credentials:\n  x: {{kind: registry_token, {credential}}}\n"
        );
        let config =
            Config::parse(&text, Path::new("/base"), "f", &|_| None).map_err(|problems| problems.to_string())?;
        match &config.credentials["x"].source {
            Source::RegistryToken(source) => Ok(source.clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_more_it_is_what_anybody_may_pull() {
        let source = parse("realm: 'https://auth.test/token', service: registry.test").unwrap();
        let expected = registry_token::RegistryToken {
            realm: "https://auth.test/token".into(),
            service: "registry.test".into(),
            account: None,
            actions: vec![Action::Pull],
            repositories: Vec::new(),
            catalog: false,
        };
        assert_eq!(source, expected);
    }

    #[test]
    fn everything_can_be_said() {
        let source = parse(
            "realm: 'http://127.0.0.1:5001/token?a=b', service: s, user: robot$ci, secret: {file: key},
             actions: [pull, push, delete], repositories: [team/*, '**/shared', demo], catalog: true, max_ttl: 30m",
        )
        .unwrap();
        let account = Account { user: "robot$ci".into(), secret: SecretPlace::File("/base/key".into()) };
        assert_eq!(source.account, Some(account));
        assert_eq!(source.actions, [Action::Pull, Action::Push, Action::Delete]);
        assert_eq!(source.repositories, ["team/*", "**/shared", "demo"]);
        assert!(source.catalog);
    }

    #[test]
    fn what_cannot_work_is_said() {
        let table = [
            ("service: s", "realm: is required"),
            ("realm: 'https://auth.test/token'", "service: is required"),
            ("realm: 'http://auth.test/token', service: s", "realm: expected https"),
            ("realm: 'https://u:p@auth.test/token', service: s", "realm: expected a URL without user"),
            ("realm: 'https://a.test', service: s, user: u", "secret: is required"),
            ("realm: 'https://a.test', service: s, secret: {file: k}", "user: is required"),
            ("realm: 'https://a.test', service: s, user: 'a:b', secret: {file: k}", "user: not a user name"),
            ("realm: 'https://a.test', service: s, actions: []", "actions: is empty"),
            ("realm: 'https://a.test', service: s, actions: [all]", "actions[0]: unknown value `all`"),
            ("realm: 'https://a.test', service: s, repositories: [Demo]", "repositories[0]: not a repository's name"),
            (
                "realm: 'https://a.test', service: s, repositories: ['a:pull']",
                "repositories[0]: not a repository's name",
            ),
            ("realm: 'https://a.test', service: s, as: bearer", "as: unknown key"),
            ("realm: 'https://a.test', service: s, max_ttl: 0s", "max_ttl: expected more than 0"),
        ];
        for (written, problem) in table {
            let found = parse(written).unwrap_err();
            assert!(found.contains(&format!("credentials.x.{problem}")), "{written}: {found}");
        }
    }
}
