//! One complete situation, told as it happens: an origin that accepts only ephemeral tokens, an issuer of them, a sidecar
//! with the shipped policy, and an agent that carries a long-lived key.
//!
//! It needs no network, no root and nothing installed: everything is on loopback, in this process.

pub mod agent;
pub mod story;
pub mod world;

use std::{
    io::{self, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::{
    cli::Output,
    config::Config,
    shutdown::Drain,
    sidecar::{Listeners, Sidecar},
    telemetry::spans::FinishedSpan,
};
use agent::Agent;
use story::{Scene, Step, Told};
use world::World;

/// Runs the demonstration and tells it to `out`, in JSON as one document for each call and one for the trace. Returns
/// whether everything went as told.
///
/// # Errors
/// What kept it from starting, or an output that can't be written.
pub async fn run(output: Output, colour: bool, out: &mut dyn Write) -> anyhow::Result<bool> {
    let drain = Drain::new();
    let world = World::start(&drain, story::key()).await?;
    let scratch = tempfile::tempdir()?;
    let config = configuration(&world, scratch.path())?;
    let listeners = Listeners::bind(&config.listen).await?;
    let proxy = listeners.addresses().first().copied().context("the proxy is bound")?;
    let (tap, spans) = mpsc::unbounded_channel();
    let sidecar = Sidecar::start_tapped(config, &listeners, Some(tap)).await?;
    let agent = Agent::new(proxy, sidecar.authority().certificate().clone())?;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(sidecar.serve(listeners, async move {
        let _ = stopped.await;
    }));

    let scene = Scene { agent, world: &world };
    let told = tell(scene, spans, Narrator { output, colour, out }).await;
    let _ = stop.send(());
    serving.await?;
    drain.stop(Duration::ZERO).await;
    told
}

async fn tell(
    scene: Scene<'_>,
    mut spans: mpsc::UnboundedReceiver<FinishedSpan>,
    mut narrator: Narrator<'_>,
) -> anyhow::Result<bool> {
    narrator.begin(&scene)?;
    let mut as_told = true;
    let mut first: Vec<FinishedSpan> = Vec::new();
    for (number, step) in story::steps(scene.world).into_iter().enumerate() {
        let told = scene.play(&step, &mut spans).await?;
        as_told &= told.as_expected();
        narrator.call(number + 1, &step, &told)?;
        if number == 0 {
            first = told.spans;
        }
    }
    ensure!(!first.is_empty(), "the first call left no span");
    narrator.trace(&first)?;
    as_told &= scene.world.key_seen() == 0;
    narrator.end(as_told, scene.world)?;
    Ok(as_told)
}

struct Narrator<'a> {
    output: Output,
    colour: bool,
    out: &'a mut dyn Write,
}

impl Narrator<'_> {
    fn begin(&mut self, scene: &Scene<'_>) -> io::Result<()> {
        if self.output == Output::Json {
            return Ok(());
        }
        writeln!(self.out, "An agent with a long-lived key in hand ({}…) makes ten calls.", &story::key()[..8])?;
        writeln!(
            self.out,
            "Its origin at {} accepts only tokens that the issuer gave out for this run.\n",
            scene.world.origin
        )
    }

    fn call(&mut self, number: usize, step: &Step, told: &Told) -> io::Result<()> {
        if self.output == Output::Json {
            let document = json!({
                "call": number, "sent": step.line(), "with": step.carried, "status": told.status, "decision": told.decision,
                "reason": told.reason, "cached": told.cached, "origin": told.origin, "added_us": told.added.as_micros(),
                "as_told": told.as_expected(),
            });
            return writeln!(self.out, "{document}");
        }
        let mark = if told.as_expected() { self.paint("32", "ok") } else { self.paint("31", "NOT AS TOLD") };
        writeln!(self.out, "{number:>2}  {:<52} {} {}  {mark}", step.line(), told.status, told.decision)?;
        let cache = match told.cached {
            Some(true) => "from the cache",
            Some(false) => "evaluated",
            None => "refused before policy",
        };
        let reason = if told.reason.is_empty() { step.why } else { &told.reason };
        writeln!(
            self.out,
            "    agent sent {}; origin saw {}; {reason}; {cache}; {} µs added",
            step.carried,
            told.origin,
            told.added.as_micros()
        )
    }

    fn trace(&mut self, spans: &[FinishedSpan]) -> io::Result<()> {
        if self.output == Output::Json {
            let spans: Vec<_> = spans
                .iter()
                .map(|span| json!({"name": span.name, "span_id": span.span_id.to_string(), "us": span.duration.as_micros()}))
                .collect();
            return writeln!(self.out, "{}", json!({"trace": spans}));
        }
        writeln!(self.out, "\nThe trace of the first call:")?;
        for span in spans.iter().filter(|span| span.attribute("tollgate.decision").is_some()) {
            writeln!(self.out, "  {} {} µs", span.name, span.duration.as_micros())?;
            for child in spans.iter().filter(|child| child.parent_id == Some(span.span_id)) {
                writeln!(self.out, "  ├─ {} {} µs", child.name, child.duration.as_micros())?;
            }
            for name in [
                "server.address",
                "tollgate.decision",
                "tollgate.decision.cached",
                "tollgate.credential.kind",
                "tollgate.credential.fingerprint",
            ] {
                if let Some(value) = span.attribute(name) {
                    writeln!(self.out, "  │  {name} = {value}")?;
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, as_told: bool, world: &World) -> io::Result<()> {
        let (issued, key_seen) = (world.issued(), world.key_seen());
        if self.output == Output::Json {
            let document = json!({"as_told": as_told, "tokens_issued": issued, "key_seen_by_origin": key_seen});
            return writeln!(self.out, "{document}");
        }
        let verdict = if as_told { "Everything went as told" } else { "Something did not go as told" };
        let reached = match key_seen {
            0 => "never".to_owned(),
            count => format!("in {count} requests"),
        };
        writeln!(self.out, "\n{verdict}. Tokens issued: {issued}. The agent's own key reached the origin: {reached}.")
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The configuration, as a user would write it.
fn configuration(world: &World, scratch: &Path) -> anyhow::Result<Config> {
    let root = scratch.join("origin.pem");
    std::fs::write(&root, world.root_pem())?;
    std::fs::write(scratch.join("client-secret"), world::CLIENT.1)?;
    let port = world.origin.port();
    let text = format!(
        r#"
agent:
  name: triage-bot
  identity: {{kind: static, id: "spiffe://example.com/agent/triage-bot"}}
listen: {{proxy: "127.0.0.1:0"}}
tls: {{origin_roots: {{system: false, files: [origin.pem]}}}}
destinations:
  tickets: {{hosts: [{tickets}], ports: [{port}], addresses: [127.0.0.1], credential: tickets-token}}
  tools: {{hosts: [{tools}], ports: [{port}], addresses: [127.0.0.1], protocol: mcp, credential: tickets-token}}
credentials:
  tickets-token:
    kind: oauth_client_credentials
    token_endpoint: "http://{issuer}/token"
    client: {{id: {client}, secret: {{file: client-secret}}}}
    audience: "https://{tickets}"
    max_ttl: 10m
tasks: {{source: [static], static: {{purpose: triage, ttl: 1h}}}}
audit: {{file: audit.jsonl}}
"#,
        tickets = world::HOSTS[0],
        tools = world::HOSTS[1],
        issuer = world.issuer,
        client = world::CLIENT.0,
    );
    let mut config =
        Config::parse(&text, scratch, "demo.yaml", &|_| None).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    config.policy.data = Some(story::allow_list());
    Ok(config)
}
