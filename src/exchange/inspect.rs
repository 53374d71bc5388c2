//! Looks for secrets in bodies that are held, without keeping other calls waiting.
//!
//! A small body is looked into where it came in. A large one takes milliseconds, so it is looked into on a thread of its
//! own: health, the kill switch and other calls go on. Only so many are at one time, that processors are left for them.

use std::{num::NonZero, sync::Arc, thread::available_parallelism};

use ::http::HeaderMap;
use bytes::Bytes;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::question::Held;
use crate::{
    refusal::Refusal,
    secret::{
        Action, Found, Mode, Treatment,
        body::{self, Content, Inspected},
        placeholder::{self, Placeholders},
    },
};

/// How many large bodies may be looked into at one time.
#[derive(Debug)]
pub struct Turns(Arc<Semaphore>);

impl Default for Turns {
    /// Half of the processors, and at least one.
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(available_parallelism().map_or(1, NonZero::get).div_ceil(2))))
    }
}

/// The body as it may be sent. Notes what it holds.
///
/// # Errors
/// The refusals of secrets and placeholders.
pub(super) async fn inspected(
    bytes: Bytes,
    content: Content,
    headers: &mut HeaderMap,
    held: &mut Held<'_>,
    otherwise: Mode,
) -> Result<Bytes, Refusal> {
    let inspected = if bytes.len() <= SMALL {
        look(&bytes, content, held.placeholders, held.treatment, otherwise, held.found)?
    } else {
        look_apart(bytes.clone(), content, held, otherwise).await?
    };
    match inspected {
        Inspected::Same => Ok(bytes),
        Inspected::Redacted(written) => {
            body::adjust(headers, written.len());
            Ok(Bytes::from_owner(Written { written, instead_of: bytes }))
        }
        Inspected::Refused(kind) => Err(Refusal::SecretRefused(kind)),
    }
}

/// On a thread of its own. A call that ends before it is done leaves it behind: it keeps its turn, and the room of its
/// body, until then.
async fn look_apart(
    bytes: Bytes,
    content: Content,
    held: &mut Held<'_>,
    otherwise: Mode,
) -> Result<Inspected, Refusal> {
    let turn = Arc::clone(&held.turns.0).acquire_owned().await.expect("it is never closed");
    let (placeholders, treatment) = (held.placeholders.clone(), held.treatment.clone());
    // A copy, so that what was noted before is not lost with the call.
    let mut found = held.found.clone();
    let looking = spawn_blocking(move || {
        let looked = look(&bytes, content, &placeholders, &treatment, otherwise, &mut found);
        drop((bytes, turn));
        (looked, found)
    });
    let (looked, found) = looking.await.map_err(|_| Refusal::Panicked)?;
    *held.found = found;
    looked
}

fn look(
    bytes: &[u8],
    content: Content,
    placeholders: &Placeholders,
    treatment: &Treatment,
    otherwise: Mode,
    found: &mut Vec<Found>,
) -> Result<Inspected, Refusal> {
    if placeholders.are_in(bytes) {
        found.push(Found { kind: placeholder::KIND, place: "body".into(), action: Action::Refuse });
        return Err(Refusal::PlaceholderMisplaced);
    }
    Ok(body::inspect(bytes, content, treatment, otherwise, found))
}

/// A body without its secrets, and the one that it was, whose room it takes.
struct Written {
    written: Vec<u8>,
    #[expect(dead_code, reason = "held for its Drop")]
    instead_of: Bytes,
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        &self.written
    }
}

/// The largest body that is looked into where it came in: less than a fifth of a millisecond.
const SMALL: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::{config::Limits, refusal::answer::Shape};

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: Limits = Limits {
        connections: 1,
        header_bytes: 1024,
        inspect_bytes: 1 << 20,
        inspect_total: 1 << 20,
        json_depth: 8,
        sniff: SECOND,
        connect: SECOND,
        drain: SECOND,
    };
    const FAKE: &str = "ghp_tollgate0000000000000000000000000000";

    /// What looking takes besides the body.
    struct Bench {
        budget: Arc<Semaphore>,
        turns: Turns,
        shape: Shape,
        treatment: Treatment,
        placeholders: Placeholders,
        found: Vec<Found>,
    }

    impl Bench {
        fn new() -> Self {
            let owner = Arc::from("github");
            Self {
                budget: Arc::new(Semaphore::new(1 << 20)),
                turns: Turns(Arc::new(Semaphore::new(1))),
                shape: Shape::Problem,
                treatment: Treatment::default(),
                placeholders: Placeholders::new([(FAKE, &owner)].into_iter()),
                found: vec![Found { kind: "bearer", place: "header:authorization".into(), action: Action::Strip }],
            }
        }

        async fn look(&mut self, body: &Bytes) -> Result<(Bytes, HeaderMap), Refusal> {
            let mut held = Held {
                budget: &self.budget,
                turns: &self.turns,
                limits: &LIMITS,
                shape: &mut self.shape,
                treatment: &self.treatment,
                found: &mut self.found,
                placeholders: &self.placeholders,
            };
            let mut headers = HeaderMap::from_iter([(::http::header::CONTENT_LENGTH, body.len().into())]);
            let bytes = inspected(body.clone(), Content::Json, &mut headers, &mut held, Mode::Redact).await?;
            Ok((bytes, headers))
        }

        fn found(&self) -> Vec<String> {
            self.found.iter().map(|each| format!("{} {}", each.kind, each.place)).collect()
        }
    }

    fn pat() -> String {
        format!("ghp_{}", "aB3dE6gH9kL2".repeat(3))
    }

    /// A document of about this size with this text in it.
    fn document(size: usize, text: &str) -> Bytes {
        format!("{{\"a\": \"{text}\", \"b\": \"{}\"}}", "word ".repeat(size / 5)).into()
    }

    #[tokio::test]
    async fn a_large_body_is_treated_as_a_small_one() {
        for size in [10, SMALL * 2] {
            let mut bench = Bench::new();
            let clean = document(size, "nothing");
            let (passed, _) = bench.look(&clean).await.expect("it passes");
            assert_eq!(passed.as_ptr(), clean.as_ptr(), "the same bytes");

            let (passed, headers) = bench.look(&document(size, &pat())).await.expect("it passes");
            assert_eq!(passed, document(size, "REDACTED"));
            assert_eq!(headers["content-length"], passed.len().to_string());
            assert_eq!(bench.found(), ["bearer header:authorization", "github_pat body:/a"]);

            let refused = bench.look(&document(size, FAKE)).await;
            assert!(matches!(refused, Err(Refusal::PlaceholderMisplaced)));
            assert_eq!(bench.found().last().map(String::as_str), Some("placeholder body"));

            bench.treatment.mode = Some(Mode::Refuse);
            let refused = bench.look(&document(size, &pat())).await;
            assert!(matches!(refused, Err(Refusal::SecretRefused("github_pat"))));
        }
    }

    #[tokio::test]
    async fn a_large_body_waits_for_its_turn_and_a_small_one_does_not() {
        let mut bench = Bench::new();
        let turns = Arc::clone(&bench.turns.0);
        let taken = turns.try_acquire().expect("nobody looks");

        assert!(bench.look(&document(SMALL - 100, "nothing")).now_or_never().is_some(), "where it came in");
        let large = document(SMALL * 2, &pat());
        {
            let mut waiting = std::pin::pin!(bench.look(&large));
            assert!(waiting.as_mut().now_or_never().is_none(), "it waits");
            drop(taken);
            assert!(waiting.await.is_ok());
        }
        assert_eq!(bench.found().len(), 2);
        assert_eq!(turns.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_call_that_ends_meanwhile_gives_its_turn_and_its_bytes_back() {
        let mut bench = Bench::new();
        let large = document(SMALL * 8, &pat());

        // Dropped after it was begun.
        let _ = bench.look(&large).now_or_never();

        let _turn = bench.turns.0.acquire().await.expect("it is never closed");
        assert!(large.is_unique(), "no thread holds it");
        assert!(bench.found().contains(&"bearer header:authorization".to_owned()), "what was noted before stays");
    }
}
