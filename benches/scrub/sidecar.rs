//! The sidecar, in front of a destination with a credential or without.

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

pub async fn run(setting: &Setting, credential: bool) -> anyhow::Result<()> {
    logs::init("info")?;
    let config = configuration(setting, credential)?;
    let listeners = Listeners::bind(&config.listen).await?;
    let addr = *listeners.addresses().first().context("the proxy is bound")?;
    let sidecar = Sidecar::start(config, &listeners).await?;
    let ready = Ready { addr, root: sidecar.authority().certificate_pem().to_owned(), health: None };
    println!("{}", serde_json::to_string(&ready)?);
    sidecar.serve(listeners, released()).await;
    Ok(())
}

/// The configuration, as a user would write it.
fn configuration(setting: &Setting, credential: bool) -> anyhow::Result<Config> {
    let scratch = &setting.scratch;
    std::fs::write(scratch.join("origin.pem"), &setting.root)?;
    std::fs::write(scratch.join("key"), format!("ghp_{}", "a1B2c3".repeat(6)))?;
    let port = setting.origin.context("the origin is known")?.port();
    let carries = if credential { ", credential: key" } else { "" };
    let text = format!(
        r#"
agent: {{name: bench, identity: {{kind: static, id: "spiffe://example.com/agent/bench"}}}}
listen: {{proxy: "127.0.0.1:0"}}
tls: {{origin_roots: {{system: false, files: [origin.pem]}}}}
destinations:
  origin: {{hosts: [{HOST}], ports: [{port}], addresses: [127.0.0.1]{carries}}}
credentials:
  key: {{kind: file, file: key, owner: bench}}
audit: {{file: audit.jsonl}}
"#
    );
    let config = Config::parse(&text, scratch, "bench.yaml", &|_| None);
    let mut config = config.map_err(|problems| anyhow::anyhow!("{problems}"))?;
    config.policy.data = Some(json!({"tollgate": {"allow": [{"id": "all", "destination": "origin"}]}}));
    // Policies are tried by the program itself, which this one is not.
    config.policy.program = Some(env!("CARGO_BIN_EXE_tollgate").into());
    Ok(config)
}
