//! Rows about tasks: what ended, was stopped or never was carries no call.

use http::{HeaderValue, Method};
use serde_json::json;
use tollgate::task::{End, Registry};

use super::{Row, Told, run, told};
use crate::actors::{Origin, Sidecar, agent::request};

pub(super) fn rows() -> Vec<Row> {
    let off: [(&str, &str, &str, fn(&Registry)); 4] = [
        ("a task that was done", "task_ended", "403 task_ended", |tasks| end(tasks, End::Ended)),
        ("a task that was stopped", "task_killed", "403 task_killed", |tasks| end(tasks, End::Killed)),
        ("the agent was switched off", "agent_killed", "403 agent_killed", Registry::kill_agent),
        ("the destination was switched off", "destination_killed", "403 destination_killed", |tasks| {
            tasks.kill_destination("api");
        }),
    ];
    let mut rows: Vec<Row> =
        off.into_iter().map(|(wrong, label, answer, off)| Row::new(wrong, label, answer, after(off))).collect();
    rows.push(Row::new("another's handle", "task_unknown", "403 task_unknown", presenting(&["tollgate_task_x"])));
    rows.push(Row::new("two handles", "malformed_request", "400 malformed_request", presenting(&["a", "a"])));
    rows
}

fn end(tasks: &Registry, end: End) {
    let id = tasks.list()[0].task.id.to_string();
    tasks.end(&id, end).expect("it is known");
}

async fn after(off: fn(&Registry)) -> Told {
    let origin = Origin::https("api.example.com").start().await;
    let task = json!({"tasks": {"static": {"purpose": "x"}}});
    let sidecar = Sidecar::permissive().in_front_of(&origin).set(task).start().await;
    off(sidecar.inner().tasks());
    let answer = sidecar.agent().get(&origin.url("/")).await;
    told(sidecar, &origin, answer).await
}

/// The static task must not be taken instead.
async fn presenting(handles: &'static [&'static str]) -> Told {
    let origin = Origin::https("api.example.com").start().await;
    let task = json!({"tasks": {"static": {"purpose": "x"}}});
    let sidecar = Sidecar::permissive().in_front_of(&origin).set(task).start().await;
    let mut call = request(Method::GET, &origin.url("/"), "");
    for handle in handles {
        call.headers_mut().append("tollgate-task", HeaderValue::from_static(handle));
    }
    let answer = sidecar.agent().send(call).await;
    told(sidecar, &origin, answer).await
}

#[tokio::test]
async fn what_ended_or_never_was_carries_no_call() {
    run(rows()).await;
}
