//! Tells what was measured: medians over the rounds, and the sidecar's as a share of the bare proxy's.

use std::{fmt, time::Duration};

use crate::load::Measured;

/// What one round came to.
pub struct Round {
    rate: f64,
    p50: f64,
    p99: f64,
    /// Microseconds of processor time per call.
    spent: f64,
}

impl Round {
    pub fn of(measured: Measured, spent: Duration) -> Self {
        let Measured { latencies, elapsed } = measured;
        let calls = latencies.len().max(1);
        let at = |share: f64| latencies.get((calls as f64 * share) as usize).map_or(0.0, |taken| micros(*taken));
        Self {
            rate: calls as f64 / elapsed.as_secs_f64(),
            p50: at(0.50),
            p99: at(0.99),
            spent: micros(spent) / calls as f64,
        }
    }
}

/// All rounds of the three ways.
pub struct Table<'a> {
    pub direct: &'a [Round],
    pub bare: &'a [Round],
    pub tollgate: &'a [Round],
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<16}{:>12}{:>12}{:>12}{:>26}",
            "", "requests/s", "p50 µs", "p99 µs", "processor µs per request"
        )?;
        for (name, rounds) in [("direct", self.direct), ("bare proxy", self.bare), ("tollgate", self.tollgate)] {
            let column = |value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
            write!(f, "{name:<16}{:>12.0}", column(|round| round.rate))?;
            write!(f, "{:>12.0}{:>12.0}", column(|round| round.p50), column(|round| round.p99))?;
            // Without a proxy there is nothing to compare with one.
            let spent = if name == "direct" { "-".into() } else { format!("{:.1}", column(|round| round.spent)) };
            writeln!(f, "{spent:>26}")?;
        }
        writeln!(f, "\ntollgate / bare proxy; in brackets the lowest and highest of single rounds")?;
        self.share(f, "requests/s", |round| round.rate, |share| Some((share >= RATE, format!("at least {RATE:.2}"))))?;
        self.share(f, "p99", |round| round.p99, |share| Some((share <= P99, format!("at most {P99:.2}"))))?;
        self.share(f, "processor time", |round| round.spent, |_| None)
    }
}

impl Table<'_> {
    fn share(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: &str,
        value: fn(&Round) -> f64,
        limit: impl Fn(f64) -> Option<(bool, String)>,
    ) -> fmt::Result {
        let pairs = self.tollgate.iter().zip(self.bare);
        let mut single: Vec<f64> = pairs.map(|(ours, bare)| value(ours) / value(bare)).collect();
        single.sort_by(f64::total_cmp);
        let of = |rounds: &[Round]| median(rounds.iter().map(value).collect());
        let share = of(self.tollgate) / of(self.bare);
        let (lowest, highest) = (single.first().unwrap_or(&share), single.last().unwrap_or(&share));
        write!(f, "{name:<16}{share:>12.2}   ({lowest:.2} … {highest:.2})")?;
        match limit(share) {
            Some((met, limit)) => writeln!(f, "   {limit}: {}", if met { "met" } else { "MISSED" }),
            None => writeln!(f),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

const RATE: f64 = 0.80;
const P99: f64 = 1.50;
