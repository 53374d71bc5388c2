//! Bounds on what the agent can make the stub resolver do and keep.

use std::time::Instant;

use crate::config::Cover;

/// Lets through so many at once, and so many a second.
#[derive(Debug)]
pub struct Bucket {
    size: f64,
    per_second: f64,
    left: f64,
    seen: Option<Instant>,
}

impl Bucket {
    /// A full one.
    pub fn full(size: u32, per_second: u32) -> Self {
        let size = f64::from(size);
        Self { size, per_second: f64::from(per_second), left: size, seen: None }
    }

    /// Whether one more may come now.
    pub fn take(&mut self, now: Instant) -> bool {
        let passed = self.seen.map_or(0.0, |seen| now.saturating_duration_since(seen).as_secs_f64());
        self.seen = Some(now);
        self.left = self.size.min(self.left + passed * self.per_second);
        let room = self.left >= 1.0;
        if room {
            self.left -= 1.0;
        }
        room
    }
}

/// Whether a name is one that a host would have. What the configuration spells out is; below a suffix the agent chooses,
/// and long names are how data is carried in questions.
pub fn is_modest(name: &str, cover: Cover<'_>) -> bool {
    match cover {
        Cover::Exact => true,
        Cover::Suffix(suffix) => {
            let below = &name[..name.len() - suffix.len()];
            name.len() <= LONGEST && below.split('.').count() <= DEEPEST
        }
    }
}

const LONGEST: usize = 128;
const DEEPEST: usize = 8;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_lets_through_its_size_and_then_its_pace() {
        let (mut bucket, now) = (Bucket::full(3, 2), Instant::now());
        assert_eq!((0..9).filter(|_| bucket.take(now)).count(), 3);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..9).filter(|_| bucket.take(later)).count(), 2);
        let much_later = now + Duration::from_secs(100);
        assert_eq!((0..9).filter(|_| bucket.take(much_later)).count(), 3, "never more than its size");
    }

    #[test]
    fn names_below_a_suffix_have_a_length_and_a_depth() {
        let cover = Cover::Suffix(".example.org");
        assert!(is_modest("bucket.s3.eu-west-1.example.org", cover));
        assert!(!is_modest(&format!("{}.{}.example.org", "a".repeat(63), "b".repeat(63)), cover));
        assert!(!is_modest("1.2.3.4.5.6.7.8.9.example.org", cover));
        assert!(is_modest(&"a".repeat(200), Cover::Exact));
    }
}
