//! What it costs to look through answers for the credential that was put on: the rate of looking alone, and downloads and
//! streamed events through two sidecars in the same run, one whose destination has a credential and one without.
//!
//! `cargo bench --bench scrub`; `-- --quick` only shows that it works. Origin and sidecars are processes of their own, as
//! in `exchange`; rounds alternate, because machines drift.

mod agent;
mod origin;
#[path = "../exchange/process.rs"]
mod process;
mod raw;
mod sidecar;
#[path = "../exchange/wire.rs"]
mod wire;

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::timeout;

use agent::Agent;
use process::{Process, Setting};
use wire::Wire;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.as_slice() {
        [flag, role, setting] if flag == process::ROLE => runtime.block_on(play(role, &serde_json::from_str(setting)?)),
        _ => {
            let plan = Plan::from_arguments(&arguments)?;
            raw::measure(plan.raw);
            runtime.block_on(measure(&plan))
        }
    }
}

/// The other processes' part.
async fn play(role: &str, setting: &Setting) -> anyhow::Result<()> {
    match role {
        "origin" => origin::run(setting).await,
        PLAIN => sidecar::run(setting, false).await,
        SCRUBBING => sidecar::run(setting, true).await,
        _ => bail!("no role is called {role}"),
    }
}

/// How much is measured.
struct Plan {
    rounds: usize,
    mebibytes: usize,
    events: usize,
    raw: Duration,
}

impl Plan {
    fn from_arguments(arguments: &[String]) -> anyhow::Result<Self> {
        let mut plan = Self { rounds: 21, mebibytes: 100, events: 500, raw: Duration::from_secs(1) };
        for argument in arguments {
            match argument.as_str() {
                "--quick" => plan = Self { rounds: 3, mebibytes: 4, events: 20, raw: Duration::from_millis(50) },
                // Cargo's own.
                "--bench" => {}
                _ => bail!("{argument} is not known; hint: --quick"),
            }
        }
        Ok(plan)
    }
}

async fn measure(plan: &Plan) -> anyhow::Result<()> {
    for wire in [Wire::Http1, Wire::Http2] {
        let mut world = World::start(wire).await?;
        for contender in [&mut world.plain, &mut world.scrubbing] {
            contender.round(plan.mebibytes).await?;
            contender.rounds.clear();
        }
        for number in 0..plan.rounds {
            let mut order = [&mut world.plain, &mut world.scrubbing];
            if number % 2 == 1 {
                order.reverse();
            }
            for contender in order {
                contender.round(plan.mebibytes).await?;
            }
        }
        let late = [world.plain.agent.events(plan.events).await?, world.scrubbing.agent.events(plan.events).await?];
        world.report(plan, late);
    }
    Ok(())
}

/// Everyone who takes part, on loopback.
struct World {
    wire: Wire,
    plain: Contender,
    scrubbing: Contender,
    _origin: Process,
    // Last, so that the files go when nobody writes to them any more.
    _scratch: tempfile::TempDir,
}

/// One way to the origin, and what was measured on it.
struct Contender {
    agent: Agent,
    process: Process,
    rounds: Vec<Round>,
}

struct Round {
    /// MB/s.
    rate: f64,
    /// Milliseconds of the sidecar's processor time per 100 MB.
    spent: f64,
}

impl World {
    async fn start(wire: Wire) -> anyhow::Result<Self> {
        let scratch = tempfile::tempdir()?;
        let origin = Process::start("origin", &Setting::new(wire, scratch.path()))?;
        let contender = async |role: &str| {
            let own = scratch.path().join(role);
            std::fs::create_dir(&own)?;
            let setting = Setting {
                origin: Some(origin.ready.addr),
                root: origin.ready.root.clone(),
                ..Setting::new(wire, &own)
            };
            let process = Process::start(role, &setting)?;
            let open = Agent::open(&process.ready, origin.ready.addr, wire);
            let agent = timeout(GRACE, open).await.context("a connection opens in time")??;
            anyhow::Ok(Contender { agent, process, rounds: Vec::new() })
        };
        let (plain, scrubbing) = (contender(PLAIN).await?, contender(SCRUBBING).await?);
        Ok(Self { wire, plain, scrubbing, _origin: origin, _scratch: scratch })
    }

    fn report(&self, plan: &Plan, [plain, scrubbing]: [Duration; 2]) {
        let (name, size, rounds) = (self.wire.name(), plan.mebibytes, plan.rounds);
        println!("{name} on all connections, {size} MiB at a time, TLS on both sides, {rounds} rounds\n");
        println!("{:<24}{:>12}{:>24}{:>20}", "", "MB/s", "processor ms/100 MB", "event p50 µs");
        for (row, contender, late) in
            [("no credential", &self.plain, plain), ("looked through", &self.scrubbing, scrubbing)]
        {
            let (rate, spent) = (contender.median(|round| round.rate), contender.median(|round| round.spent));
            println!("{row:<24}{rate:>12.0}{spent:>24.1}{:>20.0}", late.as_secs_f64() * 1e6);
        }
        let (rate, spent) = (self.ratio(|round| round.rate), self.ratio(|round| round.spent));
        let later = scrubbing.saturating_sub(plain);
        println!("\nlooked through / no credential, median of the rounds' ratios");
        println!("{:<24}{rate:>12.2}   at least {RATE:.2}: {}", "MB/s", met(rate >= RATE));
        println!("{:<24}{spent:>12.2}", "processor time");
        let (micros, met) = (later.as_secs_f64() * 1e6, met(later <= Duration::from_millis(1)));
        println!("{:<24}{micros:>9.0} µs   at most 1000: {met}\n", "event later by");
    }

    /// Of two downloads that followed each other: what the machine does in a minute weighs on both.
    fn ratio(&self, value: fn(&Round) -> f64) -> f64 {
        let pairs = self.scrubbing.rounds.iter().zip(&self.plain.rounds);
        median(pairs.map(|(scrubbing, plain)| value(scrubbing) / value(plain)).collect())
    }
}

impl Contender {
    async fn round(&mut self, mebibytes: usize) -> anyhow::Result<()> {
        let before = self.process.processor_time()?;
        let taken = timeout(GRACE, self.agent.download(mebibytes)).await.context("a download ends in time")??;
        let spent = self.process.processor_time()?.saturating_sub(before);
        let megabytes = (mebibytes << 20) as f64 / 1e6;
        let spent = spent.as_secs_f64() * 1e3 / megabytes * 100.0;
        self.rounds.push(Round { rate: megabytes / taken.as_secs_f64(), spent });
        Ok(())
    }

    fn median(&self, value: fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(value).collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn met(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

const PLAIN: &str = "plain";
const SCRUBBING: &str = "scrubbing";
const RATE: f64 = 0.90;
const GRACE: Duration = Duration::from_secs(60);
