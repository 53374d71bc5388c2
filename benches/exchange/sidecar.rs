//! The sidecar with everything on: policy and its cache, a minted credential in place of the agent's, spans that are
//! delivered, and a record of every call.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::json;
use tollgate::{
    config::Config,
    sidecar::{Listeners, Sidecar},
    telemetry::logs,
};

use crate::{
    process::{Ready, Setting, released},
    wire::HOST,
};

pub async fn run(setting: &Setting) -> anyhow::Result<()> {
    logs::init("info")?;
    let config = configuration(setting)?;
    let listeners = Listeners::bind(&config.listen).await?;
    let addresses = listeners.addresses();
    let sidecar = Sidecar::start(config, &listeners).await?;
    let ready = Ready {
        addr: *addresses.first().context("the proxy is bound")?,
        root: sidecar.authority().certificate_pem().to_owned(),
        health: addresses.get(1).copied(),
    };
    println!("{}", serde_json::to_string(&ready)?);
    sidecar.serve(listeners, released()).await;
    Ok(())
}

/// The configuration, as a user would write it.
fn configuration(setting: &Setting) -> anyhow::Result<Config> {
    let scratch = &setting.scratch;
    std::fs::write(scratch.join("origin.pem"), &setting.root)?;
    std::fs::write(scratch.join("client-secret"), "of the benchmark")?;
    let port = setting.origin.context("the origin is known")?.port();
    let services = setting.services.context("the services are known")?;
    let text = format!(
        r#"
agent: {{name: bench, identity: {{kind: static, id: "spiffe://example.com/agent/bench"}}}}
listen: {{proxy: "127.0.0.1:0", health: "127.0.0.1:0"}}
tls: {{origin_roots: {{system: false, files: [origin.pem]}}}}
destinations:
  origin: {{hosts: [{HOST}], ports: [{port}], addresses: [127.0.0.1], credential: token}}
credentials:
  token:
    kind: oauth_client_credentials
    token_endpoint: "http://{services}/token"
    client: {{id: bench, secret: {{file: client-secret}}}}
tasks: {{source: [static], static: {{purpose: bench, ttl: 1h}}}}
audit: {{file: audit.jsonl}}
telemetry: {{otlp: {{endpoint: "http://{services}", protocol: http}}}}
"#
    );
    let config = Config::parse(&text, scratch, "bench.yaml", &|_| None);
    let mut config = config.map_err(|problems| anyhow::anyhow!("{problems}"))?;
    config.policy.data = Some(json!({"tollgate": {"allow": allow_list()}}));
    // Policies are tried by the program itself, which this one is not.
    config.policy.program = Some(env!("CARGO_BIN_EXE_tollgate").into());
    Ok(config)
}

/// One entry that permits what the agent does, among others as a fleet has them.
fn allow_list() -> Vec<serde_json::Value> {
    let named = |name: String| json!({"id": name, "destination": name, "paths": ["/v1/**"]});
    let wanted = json!({"id": "items", "destination": "origin", "methods": ["GET", "POST"], "paths": ["/v1/items/*"]});
    (0..OTHERS).map(|number| named(format!("other-{number}"))).chain([wanted]).collect()
}

/// What the sidecar says that it did, beside what was asked of it: everything was on only if these agree.
pub async fn account(health: SocketAddr, calls: usize) -> anyhow::Result<String> {
    let begun = Instant::now();
    loop {
        let metrics = scrape(health)?;
        let sum = |name: &str| -> u64 { metrics.lines().filter(|line| line.starts_with(name)).filter_map(value).sum() };
        let recorded = sum("tollgate_audit_records_total");
        // Records and counts may trail the answers by a moment.
        if recorded >= calls as u64 || begun.elapsed() > PATIENCE {
            return Ok(format!(
                "of {calls} calls: {} decided from the cache, {} with an injected credential, \
                 {recorded} in the audit file, {} spans not delivered",
                sum("tollgate_decisions_total{cache=\"hit\"}"),
                sum("tollgate_credentials_total{kind=\"oauth_client_credentials\",event=\"injected\"}"),
                sum("tollgate_spans_dropped_total"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn value(line: &str) -> Option<u64> {
    line.rsplit_once(' ')?.1.parse().ok()
}

fn scrape(health: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(health)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

const OTHERS: usize = 99;
const PATIENCE: Duration = Duration::from_secs(5);
