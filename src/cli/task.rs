//! `tollgate task`: opens, shows and ends the tasks of a sidecar, through its admin API.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
};

use clap::Subcommand;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{BAD_INPUT, NOT_PERMITTED, NOT_SO, Output, UNAVAILABLE, fail, print};
use crate::{
    admin::{
        api::{Need, OpenTask, OpenedTask, Task, Tasks},
        client::{self, Failure},
    },
    call::Effect,
    config::{Classification, values::Period},
    memory,
};

/// What `tollgate task` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// The socket of the sidecar's admin API.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "TOLLGATE_ADMIN",
        default_value = "/run/tollgate/admin.sock"
    )]
    admin: PathBuf,
    /// How the output is given.
    #[arg(long, global = true, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Open a task; prints the handle that its calls present.
    Open(Open),
    /// List the tasks that are known, those that ended lately among them.
    List,
    /// Show a task.
    Show(Id),
    /// End a task that is done; its credentials are revoked.
    End(Id),
    /// Stop a task at once.
    Kill(Id),
}

#[derive(Debug, clap::Args)]
struct Id {
    /// The task's identifier.
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Debug, clap::Args)]
struct Open {
    /// What it is for; policy and records see it.
    #[arg(long, value_name = "TEXT")]
    purpose: String,
    /// The most that a call may do in it: read, write, destructive or admin.
    #[arg(long, value_name = "EFFECT", value_parser = word::<Effect>)]
    max_effect: Option<Effect>,
    /// The most sensitive data it may touch: public, internal, confidential or restricted.
    #[arg(long, value_name = "LEVEL", value_parser = word::<Classification>)]
    ceiling: Option<Classification>,
    /// On whose behalf it is done; only a digest of it is kept.
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// How long it lasts. Default: one hour.
    #[arg(long, value_name = "PERIOD", value_parser = Period::from_str)]
    ttl: Option<Period>,
    /// How long it may be left alone before it ends. Default: for ever.
    #[arg(long, value_name = "PERIOD", value_parser = Period::from_str)]
    idle: Option<Period>,
    /// A destination that it needs, with the most that is to be done there; may be repeated.
    #[arg(long = "destination", value_name = "NAME[:EFFECT]", value_parser = need)]
    destinations: Vec<Need>,
}

/// Asks the sidecar and prints what it says.
pub fn run(args: Args) -> ExitCode {
    if let Err(error) = memory::keep_private() {
        return fail(&error.into(), "", UNAVAILABLE);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), "", UNAVAILABLE),
    };
    match runtime.block_on(args.command.ask(&args.admin, args.output)) {
        Ok(text) => print(&text, ExitCode::SUCCESS),
        Err(failure) => explain(failure),
    }
}

impl Command {
    async fn ask(self, admin: &Path, output: Output) -> Result<String, Failure> {
        let socket = Socket(admin);
        match self {
            Self::Open(open) => {
                let opened = socket.ask("POST", "/v1/tasks", Some(&open.document())).await?;
                Ok(shown(&opened, output, in_words))
            }
            Self::List => Ok(shown(&socket.get::<Tasks>("/v1/tasks").await?, output, in_a_table)),
            Self::Show(id) => Ok(shown(&socket.get(&id.path("")?).await?, output, in_lines)),
            Self::End(id) => {
                let ended = socket.ask("DELETE", &id.path("")?, None::<&Value>).await?;
                Ok(shown(&ended, output, in_one_line))
            }
            Self::Kill(id) => {
                let killed = socket.ask("POST", &id.path("/kill")?, None::<&Value>).await?;
                Ok(shown(&killed, output, in_one_line))
            }
        }
    }
}

struct Socket<'a>(&'a Path);

impl Socket<'_> {
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask("GET", path, None::<&Value>).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        client::ask(self.0, method, path, body).await
    }
}

impl Id {
    /// The task's path. What can't be part of one names no task.
    fn path(&self, after: &str) -> Result<String, Failure> {
        if self.id.is_empty() || !self.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            let problem = crate::task::registry::Fault::Unknown.into();
            return Err(Failure::Refused(problem));
        }
        Ok(format!("/v1/tasks/{}{after}", self.id))
    }
}

impl Open {
    fn document(self) -> OpenTask {
        let Self { purpose, max_effect, ceiling, subject, ttl, idle, destinations } = self;
        let manifest = (!destinations.is_empty()).then_some(destinations);
        OpenTask { purpose, max_effect, ceiling, subject, manifest, ttl, idle }
    }
}

fn explain(failure: Failure) -> ExitCode {
    let (hint, code) = match &failure {
        Failure::Unavailable { .. } => {
            ("a sidecar serves the socket that listen.admin names; `--admin PATH` says where it is", UNAVAILABLE)
        }
        Failure::NotPermitted(_) => ("the socket is for root and the sidecar's own user", NOT_PERMITTED),
        Failure::Refused(problem) => match problem.status {
            404 => ("`tollgate task list` says which there are", NOT_SO),
            409 => ("", NOT_SO),
            400 | 413 | 422 => ("", BAD_INPUT),
            _ => ("", UNAVAILABLE),
        },
    };
    fail(&failure.into(), hint, code)
}

/// As people read it, or as programs do.
fn shown<T: Serialize>(document: &T, output: Output, in_text: fn(&T) -> String) -> String {
    match output {
        Output::Text => in_text(document),
        Output::Json => {
            serde_json::to_string(document).expect("texts, numbers and lists of them always serialise") + "\n"
        }
    }
}

fn in_words(opened: &OpenedTask) -> String {
    let OpenedTask { handle, task } = opened;
    let expires = task.expires_at.as_deref().unwrap_or("never");
    format!("task:    {}\nexpires: {expires}\nheader:  Tollgate-Task: {handle}\n", task.id)
}

fn in_a_table(tasks: &Tasks) -> String {
    let mut rows = vec![["ID", "STATE", "SOURCE", "CALLS", "DENIED", "EXPIRES", "PURPOSE"].map(str::to_owned)];
    rows.extend(tasks.tasks.iter().map(|task| {
        [
            task.id.clone(),
            task.state.as_str().to_owned(),
            task.source.clone(),
            task.history.calls.to_string(),
            task.history.denied.to_string(),
            task.expires_at.clone().unwrap_or_default(),
            task.purpose.clone(),
        ]
    }));
    let widths: Vec<usize> =
        (0..7).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn in_lines(task: &Task) -> String {
    let history = &task.history;
    let counts = format!("{} calls, {} denied, {} hosts", history.calls, history.denied, history.hosts);
    let needs = task.manifest.iter().flatten().map(|need| match need.max_effect {
        Some(most) => format!("{}:{most}", need.destination),
        None => need.destination.clone(),
    });
    let lines = [
        ("task", Some(task.id.clone())),
        ("state", Some(task.state.as_str().to_owned())),
        ("source", Some(task.source.clone())),
        ("purpose", Some(task.purpose.clone())),
        ("max_effect", task.max_effect.map(|most| most.to_string())),
        ("ceiling", task.ceiling.map(|ceiling| ceiling.as_str().to_owned())),
        ("subject", task.subject_hash.clone()),
        ("manifest", Some(needs.collect::<Vec<_>>().join(", ")).filter(|needs| !needs.is_empty())),
        ("opened", Some(task.opened_at.clone())),
        ("expires", task.expires_at.clone()),
        ("idle", task.idle.map(|idle| idle.to_string())),
        ("epoch", Some(task.epoch.to_string())),
        ("history", Some(counts)),
    ];
    lines.into_iter().filter_map(|(name, value)| Some(format!("{:<12}{}\n", format!("{name}:"), value?))).collect()
}

fn in_one_line(task: &Task) -> String {
    format!("{} {}\n", task.state.as_str(), task.id)
}

/// A word of a closed set, as the configuration has it.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::from(text)).map_err(|error| error.to_string())
}

fn need(text: &str) -> Result<Need, String> {
    let (destination, max_effect) = match text.split_once(':') {
        Some((destination, most)) => (destination, Some(word(most)?)),
        None => (text, None),
    };
    if destination.is_empty() {
        return Err("expected the name of a destination".to_owned());
    }
    Ok(Need { destination: destination.to_owned(), max_effect })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::{History, State};

    fn task() -> Task {
        Task {
            id: "0199-a".into(),
            source: "header".into(),
            state: State::Open,
            purpose: "triage".into(),
            max_effect: Some(Effect::Write),
            ceiling: None,
            subject_hash: None,
            manifest: Some(vec![need("github:read").expect("valid"), need("storage").expect("valid")]),
            opened_at: "2026-11-22T05:00:00.000Z".into(),
            expires_at: Some("2026-11-22T06:00:00.000Z".into()),
            idle: None,
            epoch: 1,
            history: History { calls: 41, hosts: 3, denied: 2 },
        }
    }

    #[test]
    fn people_read_lines_and_programs_documents() {
        let opened = OpenedTask { handle: "tollgate_task_x".into(), task: task() };
        insta::assert_snapshot!(shown(&opened, Output::Text, in_words), @r"
        task:    0199-a
        expires: 2026-11-22T06:00:00.000Z
        header:  Tollgate-Task: tollgate_task_x
        ");
        insta::assert_snapshot!(shown(&Tasks { tasks: vec![task()] }, Output::Text, in_a_table), @r"
        ID      STATE  SOURCE  CALLS  DENIED  EXPIRES                   PURPOSE
        0199-a  open   header  41     2       2026-11-22T06:00:00.000Z  triage
        ");
        insta::assert_snapshot!(shown(&task(), Output::Text, in_lines), @r"
        task:       0199-a
        state:      open
        source:     header
        purpose:    triage
        max_effect: write
        manifest:   github:read, storage
        opened:     2026-11-22T05:00:00.000Z
        expires:    2026-11-22T06:00:00.000Z
        epoch:      1
        history:    41 calls, 2 denied, 3 hosts
        ");
        assert_eq!(shown(&task(), Output::Text, in_one_line), "open 0199-a\n");
        let document: Task = serde_json::from_str(&shown(&task(), Output::Json, in_lines)).expect("JSON");
        assert_eq!(document, task());
    }

    #[test]
    fn what_can_not_be_part_of_a_path_names_no_task() {
        for id in ["", "..", "a/kill", "a?b", "ü"] {
            assert!(Id { id: id.into() }.path("").is_err(), "{id}");
        }
        assert_eq!(Id { id: "0199-a".into() }.path("/kill").expect("valid"), "/v1/tasks/0199-a/kill");
    }

    #[test]
    fn a_destination_is_named_alone_or_with_an_effect() {
        assert_eq!(need("github").expect("valid").max_effect, None);
        assert_eq!(need("github:write").expect("valid").max_effect, Some(Effect::Write));
        assert!(need("github:look").is_err() && need(":read").is_err() && need("").is_err());
    }
}
