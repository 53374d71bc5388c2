//! What the sidecar costs: requests a second, latency and processor time with everything on, beside two baselines in
//! the same run: no proxy at all, and a bare proxy that only passes requests on.
//!
//! `cargo bench --bench exchange`; `-- --quick` only shows that it works, `-- --http1` or `-- --http2` runs one of the
//! two figures. Origin, proxies and services are processes of their own, started from this program, so that all are
//! built with one profile, one allocator and as many workers. Rounds alternate, because machines drift.

mod bare;
mod load;
mod origin;
mod process;
mod report;
mod services;
mod sidecar;
mod wire;

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::timeout;

use load::{Load, Way};
use process::{Process, Setting};
use report::{Round, Table};
use wire::Wire;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.as_slice() {
        [flag, role, setting] if flag == process::ROLE => runtime.block_on(play(role, &serde_json::from_str(setting)?)),
        _ => runtime.block_on(measure(&Plan::from_arguments(&arguments)?)),
    }
}

/// The other processes' part.
async fn play(role: &str, setting: &Setting) -> anyhow::Result<()> {
    match role {
        "origin" => origin::run(setting).await,
        "services" => services::run().await,
        "bare" => bare::run(setting).await,
        "tollgate" => sidecar::run(setting).await,
        _ => bail!("no role is called {role}"),
    }
}

/// How long and what is measured.
struct Plan {
    rounds: usize,
    round: Duration,
    warm_up: Duration,
    wires: Vec<Wire>,
}

impl Plan {
    fn from_arguments(arguments: &[String]) -> anyhow::Result<Self> {
        let (round, warm_up) = (Duration::from_secs(3), Duration::from_secs(2));
        let mut plan = Self { rounds: 7, round, warm_up, wires: Vec::new() };
        for argument in arguments {
            match argument.as_str() {
                "--quick" => {
                    let (round, warm_up) = (Duration::from_millis(300), Duration::from_millis(100));
                    plan = Self { rounds: 3, round, warm_up, ..plan };
                }
                "--http1" => plan.wires.push(Wire::Http1),
                "--http2" => plan.wires.push(Wire::Http2),
                // Cargo's own.
                "--bench" => {}
                _ => bail!("{argument} is not known; hint: --quick, --http1, --http2"),
            }
        }
        if plan.wires.is_empty() {
            plan.wires = vec![Wire::Http1, Wire::Http2];
        }
        Ok(plan)
    }
}

async fn measure(plan: &Plan) -> anyhow::Result<()> {
    for &wire in &plan.wires {
        let mut world = World::start(wire).await?;
        world.warm_up(plan).await?;
        for number in 0..plan.rounds {
            world.round(plan, number).await?;
        }
        world.report(plan).await?;
    }
    Ok(())
}

/// Everyone who takes part, on loopback.
struct World {
    wire: Wire,
    direct: Contender,
    bare: Contender,
    tollgate: Contender,
    _services: Process,
    // Last, so that the files go when nobody writes to them any more.
    _scratch: tempfile::TempDir,
}

/// One way to the origin, and what was measured on it.
struct Contender {
    load: Load,
    /// Whose processor time counts: the proxy, or without one the origin, which is not shown.
    process: Process,
    calls: usize,
    rounds: Vec<Round>,
}

impl World {
    async fn start(wire: Wire) -> anyhow::Result<Self> {
        let scratch = tempfile::tempdir()?;
        let services = Process::start("services", &Setting::new(wire, scratch.path()))?;
        let origin = Process::start("origin", &Setting::new(wire, scratch.path()))?;
        let setting = Setting {
            origin: Some(origin.ready.addr),
            root: origin.ready.root.clone(),
            services: Some(services.ready.addr),
            ..Setting::new(wire, scratch.path())
        };
        let bare = Process::start("bare", &setting)?;
        let tollgate = Process::start("tollgate", &setting)?;
        let way = |process: &Process, proxied, credential| Way {
            addr: process.ready.addr,
            root: process.ready.root.clone(),
            origin: origin.ready.addr,
            proxied,
            credential,
        };
        let ways = (
            way(&origin, false, origin::AGENTS),
            way(&bare, true, origin::AGENTS),
            way(&tollgate, true, origin::INJECTED),
        );
        Ok(Self {
            wire,
            direct: Contender::open(origin, &ways.0, wire).await?,
            bare: Contender::open(bare, &ways.1, wire).await?,
            tollgate: Contender::open(tollgate, &ways.2, wire).await?,
            _services: services,
            _scratch: scratch,
        })
    }

    async fn warm_up(&mut self, plan: &Plan) -> anyhow::Result<()> {
        for contender in [&mut self.direct, &mut self.bare, &mut self.tollgate] {
            contender.round(plan.warm_up).await?;
            contender.rounds.clear();
        }
        Ok(())
    }

    async fn round(&mut self, plan: &Plan, number: usize) -> anyhow::Result<()> {
        let mut order = [&mut self.direct, &mut self.bare, &mut self.tollgate];
        if number % 2 == 1 {
            order.reverse();
        }
        for contender in order {
            contender.round(plan.round).await?;
        }
        Ok(())
    }

    async fn report(&self, plan: &Plan) -> anyhow::Result<()> {
        let table = Table { direct: &self.direct.rounds, bare: &self.bare.rounds, tollgate: &self.tollgate.rounds };
        let title = format!(
            "{} on all connections, {} connections kept alive, TLS on both sides, {} rounds of {:.1} s",
            self.wire.name(),
            load::CONNECTIONS,
            plan.rounds,
            plan.round.as_secs_f64(),
        );
        println!("{title}\n\n{table}");
        let health = self.tollgate.process.ready.health.context("the sidecar tells its health")?;
        println!("{}\n", sidecar::account(health, self.tollgate.calls).await?);
        Ok(())
    }
}

impl Contender {
    async fn open(process: Process, way: &Way, wire: Wire) -> anyhow::Result<Self> {
        let load = timeout(GRACE, Load::open(way, wire)).await.context("connections open in time")??;
        Ok(Self { process, load, calls: 0, rounds: Vec::new() })
    }

    async fn round(&mut self, time: Duration) -> anyhow::Result<()> {
        let before = self.process.processor_time()?;
        let measured = timeout(time + GRACE, self.load.run(time)).await.context("a round ends in time")??;
        let spent = self.process.processor_time()?.saturating_sub(before);
        self.calls += measured.latencies.len();
        self.rounds.push(Round::of(measured, spent));
        Ok(())
    }
}

const GRACE: Duration = Duration::from_secs(30);
