//! Values that look like a credential and are worth nothing: what an agent's client is given in place of one.
//!
//! A client that wants a key gets a placeholder; the real one is put on here, in the one slot that the destination's
//! credential goes into. A placeholder anywhere else, or towards any other destination, is an agent that tries to have it
//! expanded where it should not be, or to pass it on: the call is refused, and the place is noted.

use std::{borrow::Cow, sync::Arc};

use aho_corasick::AhoCorasick;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, header::AUTHORIZATION, request::Parts};
use percent_encoding::{percent_decode, percent_decode_str};

use super::{Action, Found};
use crate::credential::{Declaration, Placement};

/// The placeholders of all destinations.
#[derive(Debug, Clone, Default)]
pub struct Placeholders {
    finder: Option<AhoCorasick>,
    values: Vec<Arc<str>>,
    /// Which destinations each is for.
    owners: Vec<Vec<Arc<str>>>,
}

impl PartialEq for Placeholders {
    /// The finder is made of the values alone.
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values && self.owners == other.owners
    }
}

impl Eq for Placeholders {}

/// The placeholders that a request carries, and where.
#[derive(Debug, Default)]
pub struct Carried(Vec<(usize, Where)>);

/// Where a placeholder stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Where {
    Header(HeaderName),
    /// A parameter, by its decoded name.
    Query(String),
    Userinfo,
    Path,
}

impl Placeholders {
    /// The placeholders of these destinations; several may share one.
    pub fn new<'a>(given: impl Iterator<Item = (&'a str, &'a Arc<str>)>) -> Self {
        let mut all = Self::default();
        for (value, owner) in given {
            match all.values.iter().position(|known| **known == *value) {
                Some(index) => all.owners[index].push(Arc::clone(owner)),
                None => {
                    all.values.push(value.into());
                    all.owners.push(vec![Arc::clone(owner)]);
                }
            }
        }
        if !all.values.is_empty() {
            let finder = AhoCorasick::new(all.values.iter().map(|value| value.as_bytes()));
            all.finder = Some(finder.expect("a few short texts fit"));
        }
        all
    }

    /// Those that stand in this head. Costs nothing where there are none at all.
    pub fn carried(&self, parts: &Parts) -> Carried {
        let mut carried = Carried::default();
        let Some(finder) = &self.finder else { return carried };
        let mut look = |text: &[u8], place: &dyn Fn() -> Where| {
            carried.0.extend(finder.find_iter(text).map(|found| (found.pattern().as_usize(), place())));
        };
        for (name, value) in &parts.headers {
            let place = || Where::Header(name.clone());
            look(value.as_bytes(), &place);
            if let Some(pair) = basic(value.as_bytes()) {
                look(&pair, &place);
            }
        }
        if let Some((userinfo, _)) = parts.uri.authority().and_then(|authority| authority.as_str().rsplit_once('@')) {
            look(&Cow::from(percent_decode_str(userinfo)), &|| Where::Userinfo);
        }
        look(&Cow::from(percent_decode_str(parts.uri.path())), &|| Where::Path);
        for pair in parts.uri.query().unwrap_or_default().split('&') {
            let (name, _) = pair.split_once('=').unwrap_or((pair, ""));
            let place = || Where::Query(percent_decode_str(name).decode_utf8_lossy().into_owned());
            look(&Cow::from(percent_decode(pair.as_bytes())), &place);
        }
        carried
    }

    /// Whether one of them stands in this body, which is no place for any.
    pub fn are_in(&self, body: &[u8]) -> bool {
        self.finder.as_ref().is_some_and(|finder| finder.is_match(body))
    }
}

impl Carried {
    /// Checks each against the destination that the request goes to, and notes the ones that stand where they must not.
    /// What was found in their right places was no secret, whatever it looks like. Whether all stand right.
    pub fn settle(
        &self,
        all: &Placeholders,
        destination: &str,
        credential: Option<&Declaration>,
        found: &mut Vec<Found>,
    ) -> bool {
        let mut all_right = true;
        for (which, place) in &self.0 {
            let is_owner = all.owners[*which].iter().any(|owner| **owner == *destination);
            let shown = place.shown();
            if is_owner && credential.is_some_and(|credential| place.is_slot_of(&credential.placement)) {
                let exact = place.exact();
                let here = |each: &&mut Found| each.place == exact;
                found.iter_mut().filter(here).for_each(|each| each.kind = KIND);
            } else {
                all_right = false;
                found.push(Found { kind: KIND, place: shown, action: Action::Refuse });
            }
        }
        all_right
    }
}

impl Where {
    fn is_slot_of(&self, placement: &Placement) -> bool {
        match (self, placement) {
            (
                Self::Header(name),
                Placement::Bearer | Placement::Basic(_) | Placement::BasicPair | Placement::SigV4(_),
            ) => name == AUTHORIZATION,
            (Self::Header(name), Placement::Header(slot)) => name == slot,
            (Self::Query(name), Placement::Query(slot)) => name == slot,
            (Self::Query(name), Placement::SigV4(_)) => name.eq_ignore_ascii_case("x-amz-credential"),
            // As clients take user and password from a URL.
            (Self::Userinfo, Placement::Basic(_) | Placement::BasicPair) => true,
            (Self::Header(_) | Self::Query(_) | Self::Userinfo | Self::Path, _) => false,
        }
    }

    /// As a secret that was found there says it.
    fn exact(&self) -> Cow<'static, str> {
        match self {
            Self::Query(name) => format!("query:{name}").into(),
            Self::Header(_) | Self::Userinfo | Self::Path => self.shown(),
        }
    }

    fn shown(&self) -> Cow<'static, str> {
        match self {
            Self::Header(name) => format!("header:{name}").into(),
            // The name is the agent's to choose, and could be the placeholder itself.
            Self::Query(_) => "query".into(),
            Self::Userinfo => "userinfo".into(),
            Self::Path => "path".into(),
        }
    }
}

/// The pair in `Basic` authentication.
fn basic(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, encoded) = value.split_at_checked(6)?;
    scheme.eq_ignore_ascii_case(b"basic ").then(|| STANDARD.decode(encoded.trim_ascii()).ok())?
}

/// What one is called in records and policy input.
pub const KIND: &str = "placeholder";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Request;

    use super::*;
    use crate::credential::{Source, file::Register};

    const FAKE: &str = "ghp_placeholder00000000000000000000000000";

    fn declaration(placement: Placement) -> Declaration {
        let source = Source::File(Register { file: "/f".into(), owner: "o".into(), expires: None });
        Declaration { name: "c".into(), source, placement, max_ttl: Duration::from_secs(1) }
    }

    fn misplaced(head: http::request::Builder, destination: &str, placement: Placement) -> Vec<String> {
        let (github, other) = (Arc::from("github"), Arc::from("other"));
        let all = Placeholders::new([(FAKE, &github), ("sk-placeholder-0000", &other)].into_iter());
        let (parts, ()) = head.body(()).unwrap().into_parts();
        let mut found = Vec::new();
        let right = all.carried(&parts).settle(&all, destination, Some(&declaration(placement)), &mut found);
        assert_eq!(right, found.is_empty());
        found.into_iter().map(|found| found.place.into_owned()).collect()
    }

    #[test]
    fn a_placeholder_in_its_slot_is_right() {
        let basic = format!("Basic {}", STANDARD.encode(format!("x-access-token:{FAKE}")));
        let bearer = || Request::get("/").header("authorization", format!("Bearer {FAKE}"));
        assert_eq!(misplaced(bearer(), "github", Placement::Bearer), [""; 0]);
        let head = Request::get("/").header("authorization", &basic);
        assert_eq!(misplaced(head, "github", Placement::Basic("x-access-token".into())), [""; 0]);
        let head = Request::get(format!("https://u:{FAKE}@h/"));
        assert_eq!(misplaced(head, "github", Placement::Basic("u".into())), [""; 0]);
        let head = Request::get("/").header("x-api-key", FAKE);
        assert_eq!(misplaced(head, "github", Placement::Header(HeaderName::from_static("x-api-key"))), [""; 0]);
        let head = Request::get(format!("/?k%65y={FAKE}"));
        assert_eq!(misplaced(head, "github", Placement::Query("key".into())), [""; 0]);
    }

    #[test]
    fn what_is_found_in_its_slot_is_called_what_it_is() {
        let github = Arc::from("github");
        let all = Placeholders::new([(FAKE, &github)].into_iter());
        let request = Request::get("/").header("authorization", format!("Bearer {FAKE}")).body(()).unwrap();
        let found = |place: &'static str| Found { kind: "github_pat", place: place.into(), action: Action::Strip };
        let mut found = vec![found("header:authorization"), found("header:x-key")];
        let declaration = declaration(Placement::Bearer);
        assert!(all.carried(&request.into_parts().0).settle(&all, "github", Some(&declaration), &mut found));
        assert_eq!(found.iter().map(|found| found.kind).collect::<Vec<_>>(), [KIND, "github_pat"]);
    }

    #[test]
    fn anywhere_else_it_is_misplaced() {
        let table = [
            (Request::get("/").header("user-agent", format!("x {FAKE}")), "header:user-agent"),
            (Request::get("/").header("x-api-key", FAKE), "header:x-api-key"),
            (Request::get(format!("/a/{FAKE}")), "path"),
            (Request::get(format!("/a?b={}", FAKE.replace('_', "%5F"))), "query"),
            (Request::get(format!("/a?{FAKE}")), "query"),
            (Request::get(format!("https://{FAKE}@h/")), "userinfo"),
        ];
        for (head, place) in table {
            assert_eq!(misplaced(head, "github", Placement::Bearer), [place]);
        }
    }

    #[test]
    fn towards_another_destination_it_is_misplaced_in_every_place() {
        let head = Request::get("/").header("authorization", format!("Bearer {FAKE}"));
        assert_eq!(misplaced(head, "other", Placement::Bearer), ["header:authorization"]);
        let head = Request::get("/").header("authorization", "Bearer sk-placeholder-0000");
        assert_eq!(misplaced(head, "other", Placement::Bearer), [""; 0]);
    }

    #[test]
    fn a_body_is_no_place_for_one() {
        let github = Arc::from("github");
        let all = Placeholders::new([(FAKE, &github)].into_iter());
        assert!(all.are_in(format!("{{\"token\":\"{FAKE}\"}}").as_bytes()));
        assert!(!all.are_in(b"{}"));
        assert!(!Placeholders::default().are_in(FAKE.as_bytes()));
    }
}
