//! Values that look like a credential and are worth nothing: what an agent's client is given in place of one.
//!
//! A client that wants a key gets a placeholder; the real one is put on here, in the one slot that the destination's
//! credential goes into. A placeholder anywhere else, or towards any other destination, is an agent that tries to have it
//! expanded where it should not be, or to pass it on: the call is refused, and the place is noted.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use aho_corasick::AhoCorasick;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, header::AUTHORIZATION, request::Parts};
use percent_encoding::{percent_decode, percent_decode_str};

use super::{
    Action, Found, detect,
    rules::pattern::SHORTEST,
    strip::{self, note},
};
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

/// The placeholders that a request carries.
#[derive(Debug, Default)]
pub struct Carried {
    /// Each by its index, and where it stands.
    all: Vec<(usize, Where)>,
    /// What else stands in each of these places.
    beside: HashMap<Where, Beside>,
}

/// What stands beside a placeholder, in all values of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Beside {
    /// Nothing that could be a secret: a scheme, a name, a signature.
    Nothing,
    /// Something long, of the kind of a secret where it has the format of one.
    Something(Option<&'static str>),
}

/// Where a placeholder stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
            carried.all.extend(finder.find_iter(text).map(|found| (found.pattern().as_usize(), place())));
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
            look(&Cow::from(percent_decode(pair.as_bytes())), &|| parameter(pair));
        }
        if !carried.all.is_empty() {
            carried.look_beside(finder, parts);
        }
        carried
    }

    /// Whether one of them stands in this body, which is no place for any.
    pub fn are_in(&self, body: &[u8]) -> bool {
        self.finder.as_ref().is_some_and(|finder| finder.is_match(body))
    }
}

impl Carried {
    /// Looks at everything that has one of these places: a client may send a field twice.
    fn look_beside(&mut self, finder: &AhoCorasick, parts: &Parts) {
        self.beside = self.all.iter().map(|(_, place)| (place.clone(), Beside::Nothing)).collect();
        let mut look = |place: Where, look: &dyn Fn(&Where) -> Beside| {
            if let Some(most) = self.beside.get_mut(&place) {
                *most = look(&place).max(*most);
            }
        };
        for (name, value) in &parts.headers {
            look(Where::Header(name.clone()), &|_| beside_in_header(finder, value.as_bytes()));
        }
        if let Some((userinfo, _)) = parts.uri.authority().and_then(|authority| authority.as_str().rsplit_once('@')) {
            look(Where::Userinfo, &|_| beside_in_pair(finder, &Cow::from(percent_decode_str(userinfo))));
        }
        for pair in parts.uri.query().unwrap_or_default().split('&') {
            let (_, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = || Cow::from(percent_decode_str(value));
            look(parameter(pair), &|place| match place {
                Where::Query(name) if is_amz_credential(name) => beside_in_signature(finder, &value()),
                _ => beside_in(finder, &value()),
            });
        }
    }

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
        for (which, place) in &self.all {
            let is_owner = all.owners[*which].iter().any(|owner| **owner == *destination);
            if !is_owner || !credential.is_some_and(|credential| place.is_slot_of(&credential.placement)) {
                if std::mem::replace(&mut all_right, false) {
                    found.push(Found { kind: KIND, place: place.shown(), action: Action::Refuse });
                } else {
                    // Of what an agent sends a thousand times only so much is noted.
                    note(found, KIND, place.shown(), Action::Refuse);
                }
                continue;
            }
            let exact = place.exact();
            match self.beside[place] {
                Beside::Nothing => {
                    found.iter_mut().filter(|each| each.place == exact).for_each(|each| each.kind = KIND);
                }
                // What was noted of this place is the first that was found there, and that may be the placeholder.
                Beside::Something(Some(kind)) => note(found, kind, exact, Action::Strip),
                Beside::Something(None) => {}
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
            (Self::Query(name), Placement::SigV4(_)) => is_amz_credential(name),
            // As clients take user and password from a URL.
            (Self::Userinfo, Placement::Basic(_) | Placement::BasicPair) => true,
            (Self::Header(_) | Self::Query(_) | Self::Userinfo | Self::Path, _) => false,
        }
    }

    /// As a secret that was found there says it.
    fn exact(&self) -> Cow<'static, str> {
        match self {
            Self::Query(name) => strip::place("query", name.as_bytes()),
            Self::Header(_) | Self::Userinfo | Self::Path => self.shown(),
        }
    }

    fn shown(&self) -> Cow<'static, str> {
        match self {
            // Names are the agent's to choose: they are cut, and left out when they are secrets.
            Self::Header(name) => strip::header_place(name),
            // This one could be the placeholder itself.
            Self::Query(_) => "query".into(),
            Self::Userinfo => "userinfo".into(),
            Self::Path => "path".into(),
        }
    }
}

/// The place of a parameter.
fn parameter(pair: &str) -> Where {
    let name = pair.split('=').next().unwrap_or_default();
    Where::Query(percent_decode_str(name).decode_utf8_lossy().into_owned())
}

fn is_amz_credential(name: &str) -> bool {
    name.eq_ignore_ascii_case("x-amz-credential")
}

/// The pair in `Basic` authentication.
fn basic(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, encoded) = value.split_at_checked(6)?;
    scheme.eq_ignore_ascii_case(b"basic ").then(|| STANDARD.decode(encoded.trim_ascii()).ok())?
}

fn beside_in_header(finder: &AhoCorasick, value: &[u8]) -> Beside {
    if let Some(pair) = basic(value) {
        return beside_in_pair(finder, &pair);
    }
    if value.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"AWS4-")) {
        return beside_in_signature(finder, value);
    }
    beside_in(finder, value)
}

/// A signature is as long as a secret, and is none.
fn beside_in_signature(finder: &AhoCorasick, value: &[u8]) -> Beside {
    match detect::find(&without(finder, value)) {
        None if finder.is_match(value) => Beside::Nothing,
        kind => Beside::Something(kind),
    }
}

/// A user may have a long name; what has the format of a secret is none.
fn beside_in_pair(finder: &AhoCorasick, pair: &[u8]) -> Beside {
    match detect::search(&without(finder, pair)) {
        None if finder.is_match(pair) => Beside::Nothing,
        kind => Beside::Something(kind),
    }
}

fn beside_in(finder: &AhoCorasick, value: &[u8]) -> Beside {
    let rest = without(finder, value);
    let separates = |byte: &u8| matches!(byte, b' ' | b'\t' | b',' | b';' | b'=' | b'"' | b'\'');
    let long = |word: &[u8]| word.len() >= SHORTEST;
    if finder.is_match(value) && !rest.split(separates).any(long) {
        return Beside::Nothing;
    }
    Beside::Something(detect::search(&rest))
}

/// A text with a space in the place of each placeholder.
fn without(finder: &AhoCorasick, text: &[u8]) -> Vec<u8> {
    let mut rest = Vec::with_capacity(text.len());
    let mut from = 0;
    for found in finder.find_iter(text) {
        rest.extend_from_slice(&text[from..found.start()]);
        rest.push(b' ');
        from = found.end();
    }
    rest.extend_from_slice(&text[from..]);
    rest
}

/// What one is called in records and policy input.
pub const KIND: &str = "placeholder";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Request;

    use super::*;
    use crate::credential::{Source, exception::Exception, file::Register};

    const FAKE: &str = "ghp_placeholder00000000000000000000000000";

    fn declaration(placement: Placement) -> Declaration {
        let source =
            Source::File(Register { file: "/f".into(), exception: Exception { owner: "o".into(), expires: None } });
        Declaration { name: "c".into(), source, placement, max_ttl: Duration::from_secs(1), per_call: false }
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
    fn what_stands_beside_one_keeps_its_name() {
        let github = Arc::from("github");
        let all = Placeholders::new([(FAKE, &github), ("AKIATOLLGATE00000000", &github)].into_iter());
        let (slack, long) =
            (format!("xoxb-{}-{}-{}", "1".repeat(12), "2".repeat(12), "aB3dE6gH".repeat(3)), "s3cr/t".repeat(5));
        let basic = |pair: String| format!("Basic {}", STANDARD.encode(pair));
        let signed = |signature: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential=AKIATOLLGATE00000000/20260101/eu/s3/aws4_request, Signature={signature}"
            )
        };
        let digits = "0123456789abcdef".repeat(4);
        for (values, kinds) in [
            (vec![format!("Bearer {FAKE}")], vec![KIND]),
            (vec![format!("Token token=\"{FAKE}\"")], vec![KIND]),
            (vec![FAKE.to_owned()], vec![KIND]),
            (vec![basic(format!("somebody.with.a.long.name@example.com:{FAKE}"))], vec![KIND]),
            (vec![basic(format!("{FAKE}:"))], vec![KIND]),
            (vec![signed(&digits)], vec![KIND]),
            (vec![format!("Bearer {FAKE}"), format!("token {FAKE}")], vec![KIND]),
            (vec![format!("Bearer {FAKE} {slack}")], vec!["bearer", "slack"]),
            (vec![format!("Bearer {FAKE}{slack}")], vec!["bearer", "slack"]),
            (vec![format!("Bearer {FAKE},{long}")], vec!["bearer"]),
            (vec![basic(format!("{slack}:{FAKE}"))], vec!["bearer", "slack"]),
            (vec![signed(&slack)], vec!["bearer", "slack"]),
            (vec![format!("Bearer {FAKE}"), format!("Bearer {slack}")], vec!["bearer", "slack"]),
            (vec![format!("Bearer {FAKE}"), format!("Bearer {long}")], vec!["bearer"]),
        ] {
            let mut request = Request::get("/");
            for value in &values {
                request = request.header("authorization", value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let mut found = vec![Found { kind: "bearer", place: "header:authorization".into(), action: Action::Strip }];
            assert!(all.carried(&parts).settle(&all, "github", Some(&declaration(Placement::Bearer)), &mut found));
            assert_eq!(found.iter().map(|found| found.kind).collect::<Vec<_>>(), kinds, "{values:?}");
            assert!(found.iter().all(|found| found.place == "header:authorization"));
        }
    }

    #[test]
    fn what_stands_a_thousand_times_is_noted_a_few() {
        let query: Vec<String> = (0..1000).map(|n| format!("n{n}={FAKE}")).collect();
        assert_eq!(misplaced(Request::get(format!("/?{}", query.join("&"))), "github", Placement::Bearer), ["query"]);
        let mut request = Request::get("/");
        for n in 0..1000 {
            request = request.header(format!("x-{n}"), FAKE);
        }
        assert_eq!(misplaced(request, "github", Placement::Bearer).len(), 32);
    }

    #[test]
    fn a_parameter_that_stands_twice_hides_no_secret() {
        let github = Arc::from("github");
        let all = Placeholders::new([(FAKE, &github)].into_iter());
        let slack = format!("xoxb-{}-{}-{}", "1".repeat(12), "2".repeat(12), "aB3dE6gH".repeat(3));
        for (uri, kinds) in [
            (format!("/?k.1={FAKE}"), vec![KIND]),
            (format!("/?k.1={FAKE}&k%2E1={slack}"), vec!["api_key", "slack"]),
            (format!("/?k.1={FAKE}&other={slack}"), vec![KIND]),
        ] {
            let (parts, ()) = Request::get(uri).body(()).unwrap().into_parts();
            let mut found = vec![Found { kind: "api_key", place: "query:k.1".into(), action: Action::Strip }];
            let declaration = declaration(Placement::Query("k.1".into()));
            assert!(all.carried(&parts).settle(&all, "github", Some(&declaration), &mut found));
            assert_eq!(found.iter().map(|found| found.kind).collect::<Vec<_>>(), kinds);
        }
    }

    #[test]
    fn a_name_that_is_a_secret_is_not_shown() {
        let name = format!("ghp_{}", "ab3de6gh9kl2".repeat(3));
        assert_eq!(misplaced(Request::get("/").header(&name, FAKE), "github", Placement::Bearer), ["header"]);
        let long = "n".repeat(300);
        let shown = misplaced(Request::get("/").header(&long, FAKE), "github", Placement::Bearer);
        assert_eq!(shown, [format!("header:{}", "n".repeat(48))]);
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
