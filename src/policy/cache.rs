//! Keeps answers, so that the same question is not evaluated twice.
//!
//! A key is the canonical encoding of everything that the policy can read, byte for byte: there is no digest whose
//! collisions would have to be argued about. One cache belongs to one policy generation and dies with it, so that no
//! answer of an older policy is ever given. What may not be repeated (an approval, a call without a decision) is not kept.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{Expiry, policy::EvictionPolicy, sync::Cache};

use super::answer::{Answer, Verdict};

/// The answers of one policy generation.
#[derive(Debug)]
pub struct Answers {
    kept: Cache<Box<[u8]>, Kept, ahash::RandomState>,
    longest: Duration,
}

/// An answer and how long it may be repeated.
#[derive(Debug, Clone)]
struct Kept {
    answer: Arc<Answer>,
    life: Duration,
}

impl Answers {
    /// Room for about this many answers, each for at most `longest`. `None` when nothing could ever be kept.
    pub fn new(entries: u64, longest: Duration) -> Option<Self> {
        if entries == 0 || longest.is_zero() {
            return None;
        }
        // LRU, because an admission policy may refuse every key of a new generation while it is warming.
        let kept = Cache::builder()
            .max_capacity(entries)
            .weigher(weight)
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(ByLife)
            // The agent chooses parts of the keys, so the hasher's seed must be unknown to it.
            .build_with_hasher(ahash::RandomState::new());
        Some(Self { kept, longest })
    }

    /// The answer to exactly this question.
    pub fn find(&self, key: &[u8]) -> Option<Arc<Answer>> {
        self.kept.get(key).map(|kept| kept.answer)
    }

    /// Keeps an answer as long as the policy, the configuration and the task allow. Says whether it was kept.
    pub fn keep(&self, key: Vec<u8>, answer: &Arc<Answer>, task_remaining: Option<Duration>) -> bool {
        let life = self.life(answer, task_remaining);
        if life.is_zero() || key.len() > LONGEST_KEY {
            return false;
        }
        self.kept.insert(key.into_boxed_slice(), Kept { answer: Arc::clone(answer), life });
        true
    }

    fn life(&self, answer: &Answer, task_remaining: Option<Duration>) -> Duration {
        let by_verdict = match answer.decision {
            Verdict::Allow => self.longest,
            Verdict::Deny => self.longest.min(LONGEST_DENIAL),
            Verdict::RequireApproval => Duration::ZERO,
        };
        let by_policy = answer.cache_ttl.unwrap_or(by_verdict);
        by_verdict.min(by_policy).min(task_remaining.unwrap_or(by_verdict))
    }
}

/// Each entry says itself how long it lives.
struct ByLife;

impl Expiry<Box<[u8]>, Kept> for ByLife {
    fn expire_after_create(&self, _: &Box<[u8]>, kept: &Kept, _: Instant) -> Option<Duration> {
        Some(kept.life)
    }
}

/// A long key counts as several entries, so that the number of entries bounds the memory as well.
#[expect(clippy::borrowed_box, reason = "the cache's signature")]
fn weight(key: &Box<[u8]>, _: &Kept) -> u32 {
    u32::try_from(1 + key.len() / 512).unwrap_or(u32::MAX)
}

/// A denial is repeated only for a moment: people who correct a policy's data expect to see it at once.
const LONGEST_DENIAL: Duration = Duration::from_secs(1);

/// Questions longer than this (a policy that reads whole bodies) hardly repeat and would fill the cache.
const LONGEST_KEY: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn answer(decision: Verdict, cache_ttl: Option<Duration>) -> Arc<Answer> {
        Arc::new(Answer { decision, cache_ttl, ..Answer::denied() })
    }

    #[test]
    fn an_answer_lives_as_long_as_the_strictest_of_configuration_policy_and_task_says() {
        let answers = Answers::new(10, MINUTE).unwrap();
        let seconds = Duration::from_secs;
        for (decision, by_policy, by_task, expected) in [
            (Verdict::Allow, None, None, MINUTE),
            (Verdict::Allow, Some(seconds(5)), None, seconds(5)),
            (Verdict::Allow, Some(seconds(500)), None, MINUTE),
            (Verdict::Allow, Some(seconds(5)), Some(seconds(2)), seconds(2)),
            (Verdict::Allow, None, Some(Duration::ZERO), Duration::ZERO),
            (Verdict::Allow, Some(Duration::ZERO), None, Duration::ZERO),
            (Verdict::Deny, None, None, seconds(1)),
            (Verdict::Deny, Some(seconds(30)), None, seconds(1)),
            (Verdict::RequireApproval, None, None, Duration::ZERO),
            (Verdict::RequireApproval, Some(MINUTE), None, Duration::ZERO),
        ] {
            let life = answers.life(&answer(decision, by_policy), by_task);
            assert_eq!(life, expected, "{decision:?} {by_policy:?} {by_task:?}");
        }
    }

    #[test]
    fn what_was_kept_is_found_by_the_same_bytes_only() {
        let answers = Answers::new(10, MINUTE).unwrap();
        assert!(answers.keep(b"one".to_vec(), &answer(Verdict::Allow, None), None));
        assert!(answers.find(b"one").is_some());
        assert!(answers.find(b"two").is_none());
        assert!(answers.find(b"on").is_none());
    }

    #[test]
    fn an_approval_an_expired_task_and_an_overlong_question_are_not_kept() {
        let answers = Answers::new(10, MINUTE).unwrap();
        assert!(!answers.keep(b"a".to_vec(), &answer(Verdict::RequireApproval, None), None));
        assert!(!answers.keep(b"b".to_vec(), &answer(Verdict::Allow, None), Some(Duration::ZERO)));
        assert!(!answers.keep(vec![0; LONGEST_KEY + 1], &answer(Verdict::Allow, None), None));
        assert!(answers.find(b"a").is_none() && answers.find(b"b").is_none());
    }

    #[test]
    fn no_entries_or_no_time_means_no_cache() {
        assert!(Answers::new(0, MINUTE).is_none());
        assert!(Answers::new(10, Duration::ZERO).is_none());
    }
}
