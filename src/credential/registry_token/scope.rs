//! What a call to a registry needs, by the OCI distribution specification, and whether that is within what was granted.
//!
//! Names of repositories become part of scopes, so what is not spelt as the specification says is no name: a colon or
//! comma in one would ask for more.

use http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::call::HttpCall;

/// What can be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Read manifests, blobs and tags.
    Pull,
    /// Write them.
    Push,
    /// Delete them.
    Delete,
}

/// One right that a call needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Need<'a> {
    /// To do this with a repository.
    Repository { name: &'a str, actions: &'static [Action] },
    /// To read the names of all repositories.
    Catalog,
}

/// One right that policy granted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Grant<'a> {
    Repository { pattern: &'a str, actions: Vec<Action> },
    Catalog,
}

/// All that a call needs; `None` for what is no call of the registry's API.
pub(super) fn needs(call: &HttpCall) -> Option<Vec<Need<'_>>> {
    let actions: &'static [Action] = match call.method {
        Method::GET | Method::HEAD => &[Action::Pull],
        Method::POST | Method::PUT | Method::PATCH => &[Action::Pull, Action::Push],
        Method::DELETE => &[Action::Pull, Action::Delete],
        _ => return None,
    };
    let reads = actions == [Action::Pull];
    match call.path.strip_prefix("/v2")? {
        // Whether the registry lets us in at all.
        "" | "/" => reads.then(Vec::new),
        "/_catalog" => reads.then(|| vec![Need::Catalog]),
        path => {
            let name = repository(path.strip_prefix('/')?)?;
            let mut needs = vec![Need::Repository { name, actions }];
            if let Some(from) = source(call)?.filter(|from| *from != name) {
                needs.push(Need::Repository { name: from, actions: &[Action::Pull] });
            }
            Some(needs)
        }
    }
}

impl Need<'_> {
    /// As it is asked for.
    pub(super) fn scope(&self) -> String {
        match self {
            Self::Catalog => CATALOG.to_owned(),
            Self::Repository { name, actions } => {
                let actions: Vec<_> = actions.iter().map(|action| action.as_str()).collect();
                format!("{REPOSITORY}{name}:{}", actions.join(","))
            }
        }
    }

    /// Whether these grants together cover it.
    pub(super) fn is_within(&self, grants: &[Grant<'_>]) -> bool {
        match self {
            Self::Catalog => grants.contains(&Grant::Catalog),
            Self::Repository { name, actions } => actions.iter().all(|action| {
                grants.iter().any(|grant| match grant {
                    Grant::Repository { pattern, actions } => actions.contains(action) && matches(pattern, name),
                    Grant::Catalog => false,
                })
            }),
        }
    }
}

impl<'a> Grant<'a> {
    /// `repository:PATTERN:ACTIONS` or `registry:catalog:*`; `None` for anything else.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        if text == CATALOG {
            return Some(Self::Catalog);
        }
        let (pattern, actions) = text.strip_prefix(REPOSITORY)?.rsplit_once(':')?;
        let actions: Option<Vec<_>> = actions.split(',').map(Action::read).collect();
        is_pattern(pattern).then_some(Self::Repository { pattern, actions: actions? })
    }
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Pull, Self::Push, Self::Delete].into_iter().find(|action| action.as_str() == text)
    }
}

/// Whether this can stand for repositories: names in which `*` stands for any text within a component, and `**` for any
/// number of components, twice at the most: each multiplies what comparing costs.
pub fn is_pattern(text: &str) -> bool {
    let is_component = |component: &str| {
        let starred = component.bytes().all(|byte| byte == b'*' || is_of_name(byte));
        component == "**" || (!component.is_empty() && starred && !component.contains("**"))
    };
    let deep = text.split('/').filter(|component| *component == "**").count();
    text.len() <= LONGEST_NAME && deep <= 2 && text.split('/').all(is_component)
}

/// Whether a pattern stands for this name.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (first, more) = cut(pattern);
    if first == "**" {
        let Some(more) = more else { return true };
        let mut rest = Some(name);
        while let Some(here) = rest {
            if matches(more, here) {
                return true;
            }
            rest = cut(here).1;
        }
        return false;
    }
    let (component, rest) = cut(name);
    is_like(first, component)
        && match (more, rest) {
            (None, None) => true,
            (Some(more), Some(rest)) => matches(more, rest),
            (Some(more), None) => more == "**",
            (None, Some(_)) => false,
        }
}

/// The first component, and those behind it.
fn cut(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)))
}

/// Whether a component is what a pattern of one says.
fn is_like(pattern: &str, component: &str) -> bool {
    let Some((before, more)) = pattern.split_once('*') else { return pattern == component };
    let Some(mut rest) = component.strip_prefix(before) else { return false };
    let mut pieces = more.split('*');
    let last = pieces.next_back().unwrap_or_default();
    for piece in pieces {
        let Some((_, after)) = rest.split_once(piece) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// The repository that a path below `/v2/` is about. Components of names may be called as the API's own words are, so what
/// the path is about stands at its end.
fn repository(path: &str) -> Option<&str> {
    let (rest, last) = path.rsplit_once('/')?;
    let (rest, kind) = rest.rsplit_once('/')?;
    let name = match (kind, last) {
        ("manifests" | "blobs" | "referrers", last) if !last.is_empty() => rest,
        ("tags", "list") => rest,
        // An upload is begun without a name of its own.
        ("uploads", _) => rest.strip_suffix("/blobs")?,
        _ => return None,
    };
    is_name(name).then_some(name)
}

/// The repository that a blob is to be taken over from, if there is one. Registries ask for the right to it wherever it is
/// named. `None` where it can be read in two ways, or is no name.
fn source(call: &HttpCall) -> Option<Option<&str>> {
    let mut all = call.query.iter().filter(|(name, _)| name == "from").map(|(_, value)| &**value);
    match (all.next(), all.next()) {
        (None, _) => Some(None),
        (Some(from), None) => is_name(from).then_some(Some(from)),
        (Some(_), Some(_)) => None,
    }
}

fn is_name(text: &str) -> bool {
    let is_edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_component = |component: &str| {
        is_edge(component.bytes().next()) && is_edge(component.bytes().next_back()) && component.bytes().all(is_of_name)
    };
    text.len() <= LONGEST_NAME && text.split('/').all(is_component)
}

fn is_of_name(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')
}

const REPOSITORY: &str = "repository:";
const CATALOG: &str = "registry:catalog:*";

/// Registries bound a name together with their own host at this.
const LONGEST_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::{
        Action::{Delete, Pull, Push},
        *,
    };
    use crate::call::http::Scheme;

    fn call(method: &str, path: &str) -> HttpCall {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        HttpCall {
            method: method.parse().unwrap(),
            scheme: Scheme::Https,
            host: "registry.test".into(),
            port: 443,
            path: path.to_owned(),
            segments: Vec::new(),
            query: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            raw_query: None,
        }
    }

    fn asked(method: &str, path: &str) -> Option<String> {
        let scopes: Vec<_> = needs(&call(method, path))?.iter().map(Need::scope).collect();
        Some(scopes.join(" "))
    }

    #[test]
    fn a_call_needs_what_its_method_and_path_say() {
        let digest = "sha256:0123";
        let table = [
            ("GET", "/v2/", ""),
            ("HEAD", "/v2", ""),
            ("GET", "/v2/demo/manifests/latest", "repository:demo:pull"),
            ("HEAD", "/v2/a/b/c/manifests/sha256:0123", "repository:a/b/c:pull"),
            ("GET", "/v2/library/demo/blobs/sha256:0123", "repository:library/demo:pull"),
            ("GET", "/v2/library/demo/tags/list?n=10", "repository:library/demo:pull"),
            ("GET", "/v2/library/demo/referrers/sha256:0123", "repository:library/demo:pull"),
            ("PUT", "/v2/demo/manifests/latest", "repository:demo:pull,push"),
            ("POST", "/v2/demo/blobs/uploads/", "repository:demo:pull,push"),
            ("POST", "/v2/demo/blobs/uploads", "repository:demo:pull,push"),
            ("PATCH", "/v2/a/demo/blobs/uploads/1-2", "repository:a/demo:pull,push"),
            ("GET", "/v2/demo/blobs/uploads/1-2", "repository:demo:pull"),
            ("DELETE", "/v2/demo/blobs/uploads/1-2", "repository:demo:pull,delete"),
            ("DELETE", "/v2/demo/manifests/sha256:0123", "repository:demo:pull,delete"),
            ("GET", "/v2/_catalog?n=1", "registry:catalog:*"),
            (
                "POST",
                &format!("/v2/demo/blobs/uploads/?mount={digest}&from=other/base"),
                "repository:demo:pull,push repository:other/base:pull",
            ),
            ("POST", "/v2/demo/blobs/uploads/?from=other", "repository:demo:pull,push repository:other:pull"),
            ("POST", "/v2/demo/blobs/uploads/?mount=x&from=demo", "repository:demo:pull,push"),
            ("POST", "/v2/demo/blobs/uploads/?mount=x", "repository:demo:pull,push"),
        ];
        for (method, path, scopes) in table {
            assert_eq!(asked(method, path).as_deref(), Some(scopes), "{method} {path}");
        }
    }

    #[test]
    fn words_of_the_api_can_be_parts_of_names() {
        let table = [
            ("/v2/manifests/manifests/manifests", "manifests"),
            ("/v2/a/blobs/uploads/manifests/b", "a/blobs/uploads"),
            ("/v2/a/manifests/tags/list", "a/manifests"),
            ("/v2/a/tags/manifests/list", "a/tags"),
            ("/v2/blobs/uploads/blobs/uploads/x", "blobs/uploads"),
            ("/v2/uploads/blobs/x", "uploads"),
        ];
        for (path, name) in table {
            assert_eq!(asked("GET", path), Some(format!("repository:{name}:pull")), "{path}");
        }
    }

    #[test]
    fn what_is_no_call_of_the_api_needs_nothing_that_can_be_given() {
        let table = [
            ("GET", "/"),
            ("GET", "/token"),
            ("GET", "/v1/demo/manifests/latest"),
            ("GET", "/v20/demo/manifests/latest"),
            ("GET", "/v2/demo"),
            ("GET", "/v2/demo/manifests/"),
            ("GET", "/v2/manifests/latest"),
            ("GET", "/v2/demo/tags/other"),
            ("GET", "/v2/blobs/uploads/x"),
            ("GET", "/v2//manifests/latest"),
            ("GET", "/v2/demo//manifests/latest"),
            ("GET", "/v2/Demo/manifests/latest"),
            ("GET", "/v2/demo:pull,push/manifests/latest"),
            ("GET", "/v2/demo%3Apush/manifests/latest"),
            ("GET", "/v2/-demo/manifests/latest"),
            ("GET", "/v2/demo./manifests/latest"),
            ("GET", "/v2/_catalog/x"),
            ("POST", "/v2/"),
            ("POST", "/v2/_catalog"),
            ("OPTIONS", "/v2/demo/manifests/latest"),
            ("QUERY", "/v2/demo/manifests/latest"),
            ("POST", "/v2/demo/blobs/uploads/?mount=x&from=a&from=b"),
            ("POST", "/v2/demo/blobs/uploads/?mount=x&from="),
            ("POST", "/v2/demo/blobs/uploads/?mount=x&from=a:push"),
        ];
        for (method, path) in table {
            assert_eq!(asked(method, path), None, "{method} {path}");
        }
        let long = format!("/v2/{}/manifests/latest", "a".repeat(256));
        assert_eq!(asked("GET", &long), None);
    }

    #[test]
    fn a_pattern_stands_for_names() {
        let table = [
            ("demo", "demo", true),
            ("demo", "demo/x", false),
            ("demo", "x/demo", false),
            ("team/*", "team/demo", true),
            ("team/*", "team/demo/x", false),
            ("team/*", "team", false),
            ("team/**", "team/demo/x", true),
            ("team/**", "team", true),
            ("team/**", "teams/demo", false),
            ("**", "a/b/c", true),
            ("**/demo", "a/b/demo", true),
            ("**/demo", "demo", true),
            ("**/demo", "a/demos", false),
            ("a/**/d", "a/b/c/d", true),
            ("a/**/d", "a/d", true),
            ("a/**/d", "a/b/c", false),
            ("de*o", "demo", true),
            ("de*o", "deo", true),
            ("d*m*o", "demo", true),
            ("d*o*o", "do", false),
            ("*-ci", "demo-ci", true),
            ("*-ci", "demo-ci-x", false),
        ];
        for (pattern, name, stands) in table {
            assert!(is_pattern(pattern), "{pattern}");
            assert_eq!(matches(pattern, name), stands, "{pattern} {name}");
        }
        for wrong in ["", "/demo", "demo/", "a//b", "De", "a:b", "a,b", "a**", "***", "a b", "**/a/**/b/**"] {
            assert!(!is_pattern(wrong), "{wrong}");
        }
    }

    #[test]
    fn grants_are_read_as_they_are_asked_for() {
        let read = |text: &'static str| Grant::read(text);
        assert_eq!(read("registry:catalog:*"), Some(Grant::Catalog));
        let both = Grant::Repository { pattern: "team/*", actions: vec![Pull, Push] };
        assert_eq!(read("repository:team/*:pull,push"), Some(both));
        for wrong in [
            "",
            "pull",
            "repository:demo",
            "repository:demo:",
            "repository:demo:*",
            "repository:demo:pull,",
            "x:y:pull",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        let grants = [read("repository:demo:pull").unwrap(), read("repository:**:push").unwrap()];
        let within = |name, actions| Need::Repository { name, actions }.is_within(&grants);
        assert!(within("demo", &[Pull]) && within("demo", &[Pull, Push]));
        assert!(!within("other", &[Pull]) && !within("demo", &[Pull, Delete]) && !Need::Catalog.is_within(&grants));
    }
}
