//! What the webhook counts, as OpenMetrics text. No label holds anything that a pod's author chooses.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::review::Decision;

/// All metrics of one webhook.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    reviews: Family<Labels, Counter>,
    duration: Histogram,
    certificate_expiry: Gauge,
    certificate_failures: Counter,
}

impl Metrics {
    /// All of them at zero.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            reviews: Family::default(),
            duration: Histogram::new([0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0]),
            certificate_expiry: Gauge::default(),
            certificate_failures: Counter::default(),
        };
        for decision in OUTCOMES {
            drop(metrics.reviews.get_or_create(&Labels { decision }));
        }
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("tollgate_inject_reviews", "Reviews by what was decided", self.reviews.clone());
        registry.register_with_unit(
            "tollgate_inject_review_duration",
            "How long a review took, from its last byte to its answer",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register(
            "tollgate_inject_certificate_expiry_timestamp_seconds",
            "When the certificate in use ends",
            self.certificate_expiry.clone(),
        );
        registry.register(
            "tollgate_inject_certificate_reload_failures",
            "Changed certificate files that could not be used",
            self.certificate_failures.clone(),
        );
    }

    /// A review was answered.
    pub fn review(&self, decision: Decision, took: Duration) {
        self.reviews.get_or_create(&Labels { decision: decision.as_str() }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// What came was no review.
    pub fn malformed(&self) {
        self.reviews.get_or_create(&Labels { decision: MALFORMED }).inc();
    }

    /// Another certificate is in use.
    pub fn certificate(&self, expires: SystemTime) {
        let seconds = expires.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.certificate_expiry.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// Another certificate can't be used.
    pub fn certificate_failure(&self) {
        self.certificate_failures.inc();
    }

    /// All of them as text.
    pub fn encode(&self) -> String {
        let mut encoded = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        text::encode(&mut encoded, &registry).expect("writing to a string does not fail");
        encoded
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    decision: &'static str,
}

const MALFORMED: &str = "malformed";
const OUTCOMES: [&str; 4] = ["inject", "skip", "refuse", MALFORMED];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_and_labels_are_these() {
        let metrics = Metrics::new();
        metrics.review(Decision::Inject, Duration::from_micros(200));
        metrics.malformed();
        let text = metrics.encode();
        let names =
            text.lines().filter(|line| !line.starts_with('#') && !line.contains("bucket") && !line.contains("sum"));
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        insta::assert_snapshot!(names.join("\n"), @r#"
        tollgate_inject_certificate_expiry_timestamp_seconds 0
        tollgate_inject_certificate_reload_failures_total 0
        tollgate_inject_review_duration_seconds_count 1
        tollgate_inject_reviews_total{decision="inject"} 1
        tollgate_inject_reviews_total{decision="malformed"} 1
        tollgate_inject_reviews_total{decision="refuse"} 0
        tollgate_inject_reviews_total{decision="skip"} 0
        "#);
    }
}
