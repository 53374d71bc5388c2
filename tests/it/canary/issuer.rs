//! An issuer that knows secrets and keeps none to itself. Which mistake it makes stands in its path.

use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::search::Secret;
use crate::actors::{
    Origin,
    origin::{Body, full},
};

/// One of the things that a broker asks, and the right answer. `BASE` in it is the issuer's own URL.
pub struct Step {
    pub path: &'static str,
    pub status: u16,
    pub answer: String,
}

impl Step {
    pub fn new(path: &'static str, status: u16, answer: &Value) -> Self {
        Self { path, status, answer: answer.to_string() }
    }
}

/// What it does with one who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Gives what is asked for, and takes it back.
    Gives,
    /// Gives it, and does not take it back.
    Keeps,
    /// Answers a step with this status, and says what it was asked.
    Refuses(usize, u16),
    /// As if it were the right answer.
    Repeats(usize),
    /// Gives the right answer in a list.
    Lists(usize),
    /// Leaves half of the right answer out.
    Breaks(usize),
    /// Says something else in one place of the right answer: text where there was a number, two lines where there was one.
    Differs(usize, usize),
    /// Sends whoever asks elsewhere.
    Leads(usize),
}

/// A running one. Ends when it is dropped.
pub struct Issuer {
    origin: Origin,
    script: Arc<Script>,
}

struct Script {
    steps: Vec<Step>,
    revocation: Option<Step>,
    manners: Vec<Manner>,
    said: Mutex<Vec<String>>,
}

impl Issuer {
    pub async fn start(steps: Vec<Step>, revocation: Option<Step>) -> Self {
        let mut manners = vec![Manner::Gives, Manner::Keeps];
        for (step, right) in steps.iter().enumerate() {
            manners.extend([400, 403, 503].map(|status| Manner::Refuses(step, status)));
            manners.extend([Manner::Repeats(step), Manner::Lists(step), Manner::Breaks(step), Manner::Leads(step)]);
            manners.extend((0..places(&right.answer)).map(|place| Manner::Differs(step, place)));
        }
        let script = Arc::new(Script { steps, revocation, manners, said: Mutex::default() });
        let answering = Arc::clone(&script);
        let origin = Origin::http("127.0.0.1").answering(move |request| Arc::clone(&answering).answer(request));
        Self { origin: origin.start().await, script }
    }

    pub fn manners(&self) -> &[Manner] {
        &self.script.manners
    }

    /// Where it behaves like this.
    pub fn base(&self, manner: usize) -> String {
        format!("http://{}/{manner}", self.origin.addr)
    }

    /// Everything that was asked and answered.
    pub fn said(&self) -> Vec<String> {
        self.script.said.lock().expect("no test panics inside").clone()
    }

    /// Whether it takes back what it gave.
    pub fn can_revoke(&self) -> bool {
        self.script.revocation.is_some()
    }

    /// How often it was asked to take back what it gave in this manner.
    pub fn revoked(&self, manner: usize) -> usize {
        let Some(revocation) = &self.script.revocation else { return 0 };
        let path = format!("/{manner}{}", revocation.path);
        self.origin.requests().iter().filter(|seen| seen.target == path).count()
    }

    /// What it says in each manner that nobody was to hear.
    pub fn secrets(&self) -> Vec<Secret> {
        let told = self.script.manners.iter().enumerate().filter(|(_, manner)| manner.tells());
        told.map(|(number, manner)| Secret::text(&format!("what is told by {manner:?}"), &canary(number))).collect()
    }
}

impl Manner {
    /// Whether nothing that can be used is given.
    pub fn fails(self) -> bool {
        !matches!(self, Self::Gives | Self::Keeps | Self::Differs(..))
    }

    /// Whether it adds a secret of its own.
    fn tells(self) -> bool {
        !matches!(self, Self::Gives | Self::Keeps | Self::Lists(_) | Self::Breaks(_))
    }
}

impl Script {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let host = parts.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let fields = parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.as_bytes().escape_ascii()));
        let fields = fields.collect::<Vec<_>>().join(" ");
        let asked = format!("{} {} {fields} {}", parts.method, parts.uri, String::from_utf8_lossy(&body));
        let (number, path) = number(parts.uri.path());
        let (status, answer) = self.say(number, &path, &asked, &format!("http://{host}/{number}"));
        self.said.lock().expect("no test panics inside").extend([asked, answer.clone()]);
        let mut response = Response::new(full(answer));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        if status > 299 {
            let telling = canary(number);
            for name in ["location", "www-authenticate", "x-error", "dpop-nonce"] {
                let value = format!("https://issuer.example/?{name}={telling}");
                response.headers_mut().insert(name, value.parse().expect("a value"));
            }
        }
        response
    }

    /// What is answered to whoever asks like this, and with which status.
    fn say(&self, number: usize, path: &str, asked: &str, base: &str) -> (u16, String) {
        let chatty = || {
            let text = format!("{} as you said in {asked}", canary(number));
            json!({"error": text, "error_description": text, "errors": [text], "message": text, "data": text})
                .to_string()
        };
        if let Some(revocation) = self.revocation.as_ref().filter(|step| step.path == path) {
            return match self.manners[number] {
                Manner::Keeps => (400, chatty()),
                _ => (revocation.status, revocation.answer.clone()),
            };
        }
        let Some(at) = self.steps.iter().position(|step| step.path == path) else { return (404, chatty()) };
        let Step { status, answer, .. } = &self.steps[at];
        let right = answer.replace("BASE", base);
        match self.manners[number] {
            Manner::Refuses(step, status) if step == at => (status, chatty()),
            Manner::Repeats(step) if step == at => (*status, format!("{} {asked}", canary(number))),
            Manner::Lists(step) if step == at => (*status, format!("[{right}]")),
            Manner::Breaks(step) if step == at => (*status, right[..right.len() * 2 / 3].to_owned()),
            Manner::Leads(step) if step == at => (307, chatty()),
            Manner::Differs(step, place) if step == at => (*status, differing(&right, place, &canary(number))),
            _ => (*status, right),
        }
    }
}

/// A secret that is like no other, and does not look like one: nothing but custody hides it.
pub fn canary(number: usize) -> String {
    format!("ought-not-be-{number:04}-seen-anywhere")
}

/// The manner in a path, and the path without it. A well-known path stands before it.
fn number(path: &str) -> (usize, String) {
    let known = "/.well-known/oauth-authorization-server";
    let (rest, suffix) = path.strip_prefix(known).map_or((path, ""), |rest| (rest, known));
    let rest = rest.trim_start_matches('/');
    let (number, rest) =
        rest.split_once('/').map_or((rest, String::new()), |(number, rest)| (number, format!("/{rest}")));
    (number.parse().expect("the test says how"), if suffix.is_empty() { rest } else { suffix.to_owned() })
}

/// How many places an answer has that can be different.
fn places(answer: &str) -> usize {
    match serde_json::from_str::<Value>(answer) {
        Ok(answer) => pointers(&answer, String::new()).len(),
        Err(_) => texts(answer).len(),
    }
}

fn differing(answer: &str, place: usize, canary: &str) -> String {
    let Ok(mut answer) = serde_json::from_str::<Value>(answer) else {
        let text = texts(answer)[place];
        return answer.replacen(&format!(">{text}<"), &format!(">{canary} and\nmore<"), 1);
    };
    let pointer = pointers(&answer, String::new()).swap_remove(place);
    let value = answer.pointer_mut(&pointer).expect("it is one of them");
    *value = if value.is_string() { format!("{canary} and\nmore").into() } else { canary.into() };
    answer.to_string()
}

/// The places of all values, but for those that are names and by that no secrets: they are written down to revoke by.
fn pointers(value: &Value, at: String) -> Vec<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| *name != "accessor")
            .flat_map(|(name, value)| pointers(value, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))))
            .collect(),
        Value::Array(values) if !values.is_empty() => {
            values.iter().enumerate().flat_map(|(index, value)| pointers(value, format!("{at}/{index}"))).collect()
        }
        _ => vec![at],
    }
}

/// The texts of an XML document.
fn texts(document: &str) -> Vec<&str> {
    let texts = document.split('<').filter_map(|piece| piece.split_once('>'));
    texts.map(|(_, text)| text).filter(|text| !text.is_empty()).collect()
}
