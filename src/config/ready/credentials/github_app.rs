//! Installation tokens of GitHub Apps: from what was written to their source.

use super::{super::Check, base_url, secret};
use crate::{
    config::{document::Place, settings::GithubApp},
    credential::{Source, github_app},
};

pub(super) fn github_app(check: &mut Check<'_>, place: &Place, written: &GithubApp) -> Source {
    let number = place.key("installation_id");
    let installation = check.required(&number, written.installation_id.as_deref());
    let installation_id = installation.parse().unwrap_or_else(|_| {
        if !installation.is_empty() {
            check.document.report(&number, "not a number; it stands at the end of the installation's URL");
        }
        0
    });
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    for (index, _) in written.repositories.iter().enumerate().filter(|(_, name)| !plain(name)) {
        check.document.report(&place.key("repositories").index(index), "not a repository's name; leave out its owner");
    }
    for name in written.permissions.keys().filter(|name| !plain(name) || *name == "repository") {
        check.document.report(&place.key("permissions").key(name), "not the name of a permission");
    }
    Source::GithubApp(github_app::GithubApp {
        api: base_url(check, &place.key("api"), written.api.as_deref(), "https://api.github.com"),
        app_id: check.required(&place.key("app_id"), written.app_id.as_deref()),
        installation_id,
        private_key: secret(check, &place.key("private_key"), written.private_key.as_ref()),
        scopes: github_app::scopes(&written.repositories, &written.permissions),
        repositories: written.repositories.clone(),
        permissions: written.permissions.clone(),
    })
}
