//! Does what is asked of the admin API.

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use serde::de::DeserializeOwned;

use super::{
    api::{self, json, moment},
    openapi,
    operation::{Action, Found},
    problem::Problem,
};
use crate::{
    config::values::Period,
    sidecar::{Generation, Sidecar},
    task::{
        End, Manifest, Registry, Subject,
        kills::Kills,
        registry::{Change, Fault, Opening},
    },
};

/// Does what was found.
///
/// # Errors
/// Why it was not done.
pub fn act(sidecar: &Sidecar, found: &Found<'_>, body: &[u8]) -> Result<Response<String>, Problem> {
    let tasks = sidecar.tasks();
    let shown = match found.action {
        Action::Status => return Ok(json(StatusCode::OK, &status(sidecar))),
        Action::Policy => return Ok(json(StatusCode::OK, &policy(sidecar, &sidecar.generation()))),
        Action::Describe => return Ok(json(StatusCode::OK, &openapi::document())),
        Action::List => {
            let tasks = tasks.list().iter().map(api::Task::from).collect();
            return Ok(json(StatusCode::OK, &api::Tasks { tasks }));
        }
        Action::Open => return open(tasks, read(body)?),
        Action::Kill => return kill(sidecar, read(body)?),
        Action::Show => tasks.show(found.id).ok_or(Fault::Unknown)?,
        Action::Change => tasks.change(found.id, change(read(body)?)?)?,
        Action::End => tasks.end(found.id, End::Ended)?,
        Action::KillTask => tasks.end(found.id, End::Killed)?,
    };
    Ok(json(StatusCode::OK, &api::Task::from(&shown)))
}

/// The document of a body.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))
}

fn open(tasks: &Registry, wanted: api::OpenTask) -> Result<Response<String>, Problem> {
    let opening = opening(wanted, tasks.longest())?;
    let opened = tasks.open(opening)?;
    let document = api::OpenedTask { handle: opened.handle.to_string(), task: api::Task::from(&opened.shown) };
    let mut response = json(StatusCode::CREATED, &document);
    let location = format!("/v1/tasks/{}", document.task.id);
    let location = HeaderValue::try_from(location).expect("hex digits and dashes are visible ASCII");
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn opening(wanted: api::OpenTask, longest: Duration) -> Result<Opening, Problem> {
    let api::OpenTask { purpose, max_effect, ceiling, subject, manifest, ttl, idle } = wanted;
    let manifest = manifest.unwrap_or_default();
    if manifest.len() > MOST_NEEDS {
        return Err(invalid("manifest: at most 256 destinations"));
    }
    for need in &manifest {
        text("manifest", &need.destination)?;
    }
    Ok(Opening {
        purpose: text("purpose", &purpose)?,
        max_effect,
        ceiling,
        subject: subject.map(|subject| text("subject", &subject)).transpose()?.map(|id| Subject::new(&id)),
        manifest: (!manifest.is_empty()).then(|| Manifest::new(manifest.iter().map(Into::into).collect())),
        ttl: ttl.map(|ttl| positive("ttl", ttl)).transpose()?.unwrap_or(USUAL.min(longest)),
        idle: idle.map(|idle| positive("idle", idle)).transpose()?,
    })
}

fn change(wanted: api::ChangeTask) -> Result<Change, Problem> {
    if wanted == api::ChangeTask::default() {
        return Err(invalid("nothing is to be changed"));
    }
    let api::ChangeTask { purpose, max_effect, ceiling, subject, ttl } = wanted;
    Ok(Change {
        purpose: purpose.map(|purpose| text("purpose", &purpose)).transpose()?,
        max_effect,
        ceiling,
        subject: subject.map(|subject| text("subject", &subject)).transpose()?.map(|id| Subject::new(&id)),
        ttl: ttl.map(|ttl| positive("ttl", ttl)).transpose()?,
    })
}

fn kill(sidecar: &Sidecar, what: api::Kill) -> Result<Response<String>, Problem> {
    let (tasks, agent) = (sidecar.tasks(), sidecar.agent());
    match what {
        api::Kill::Task(id) => drop(tasks.end(&id, End::Killed)?),
        api::Kill::Agent(name) if agent.id.known() != Some(&*name) && name != agent.name => {
            return Err(Problem::new(StatusCode::NOT_FOUND, "this sidecar stands beside another agent"));
        }
        api::Kill::All(false) => return Err(invalid("all: only `true` is accepted")),
        api::Kill::Agent(_) | api::Kill::All(true) => {
            tasks.kill_agent();
            tracing::warn!("the agent was switched off");
        }
        api::Kill::Destination(name) => {
            if !sidecar.generation().upstreams.iter().any(|upstream| *upstream.name == *name) {
                return Err(Problem::new(StatusCode::NOT_FOUND, "there is no destination of this name"));
            }
            tasks.kill_destination(&name);
            sidecar.credentials().end_destination(&name);
            tracing::warn!(destination = name, "a destination was switched off");
        }
    }
    Ok(json(StatusCode::OK, &killed(tasks.kills())))
}

fn status(sidecar: &Sidecar) -> api::Status {
    let (agent, generation) = (sidecar.agent(), sidecar.generation());
    api::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        agent: api::Agent { id: agent.id.known().map(str::to_owned), name: agent.name.clone() },
        mode: generation.mode,
        profile: sidecar.profile(),
        assurance: agent.assurance.as_str().to_owned(),
        ready: sidecar.readiness().is_ready(),
        generation: generation.number,
        policy: policy(sidecar, &generation),
        connections: sidecar.recorder().metrics().connections(),
        tasks: sidecar.tasks().count(),
        killed: killed(sidecar.tasks().kills()),
    }
}

fn policy(sidecar: &Sidecar, generation: &Generation) -> api::Policy {
    let failure = sidecar.reload_failure();
    api::Policy {
        revision: generation.policy.revision().to_string(),
        since: moment(generation.since),
        failure: failure.map(|failure| api::Failure { error: failure.error.clone(), at: moment(failure.at) }),
    }
}

fn killed(kills: &Kills) -> api::Killed {
    api::Killed {
        agent: kills.agent(),
        destinations: kills.destinations().iter().map(|name| name.to_string()).collect(),
    }
}

/// A text that people write: it stands in records and on terminals.
fn text(name: &str, text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if text.is_empty() || text.len() > LONGEST_TEXT || text.chars().any(char::is_control) {
        return Err(invalid(&format!("{name}: expected one line of 1 to {LONGEST_TEXT} bytes")));
    }
    Ok(text.to_owned())
}

fn positive(name: &str, period: Period) -> Result<Duration, Problem> {
    if period.0.is_zero() { Err(invalid(&format!("{name}: expected more than 0"))) } else { Ok(period.0) }
}

fn invalid(detail: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

const LONGEST_TEXT: usize = 512;
const MOST_NEEDS: usize = 256;

/// How long a task lasts where nobody says it.
const USUAL: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn wanted(more: &str) -> Result<Opening, Problem> {
        opening(read(format!(r#"{{"purpose": "triage"{more}}}"#).as_bytes())?, DAY)
    }

    #[test]
    fn a_task_is_opened_as_it_was_asked_for() {
        let opening = wanted(
            r#", "max_effect": "read", "ceiling": "internal", "subject": " alice ", "ttl": "5m", "idle": "1m",
               "manifest": [{"destination": "github"}]"#,
        )
        .expect("valid");
        assert_eq!((opening.ttl.as_secs(), opening.idle.map(|idle| idle.as_secs())), (300, Some(60)));
        assert_eq!(opening.subject, Some(Subject::new("alice")));
        assert_eq!(opening.manifest.expect("given").needs().len(), 1);

        let plain = wanted("").expect("valid");
        assert_eq!((plain.ttl, plain.manifest), (USUAL, None));
        assert_eq!(opening_within(Duration::from_secs(60)).ttl.as_secs(), 60);
    }

    fn opening_within(longest: Duration) -> Opening {
        opening(read(br#"{"purpose": "x"}"#).expect("valid"), longest).expect("valid")
    }

    #[test]
    fn what_can_not_be_used_is_refused() {
        for (more, status) in [
            (r#", "ttl": "0s""#, 422),
            (r#", "idle": "0s""#, 422),
            (r#", "subject": """#, 422),
            (r#", "manifest": [{"destination": "a\nb"}]"#, 422),
            (r#", "ttl": 5"#, 400),
            (r#", "purpose": "twice""#, 400),
            (r#", "source": "static""#, 400),
        ] {
            assert_eq!(wanted(more).expect_err("not usable").status, status, "{more}");
        }
        for purpose in ["", " ", "a\nb", "\u{1b}[31m", &"x".repeat(LONGEST_TEXT + 1)] {
            assert_eq!(text("purpose", purpose).expect_err("not usable").status, 422, "{purpose:?}");
        }
        assert_eq!(change(api::ChangeTask::default()).expect_err("nothing to do").status, 422);
    }
}
