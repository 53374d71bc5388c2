//! What can be asked of the admin API: one table, from which requests are told apart and the OpenAPI document is made.

use http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{api, problem::Problem};

/// One operation.
#[derive(Debug)]
pub struct Operation {
    /// What is done.
    pub action: Action,
    /// The HTTP method.
    pub method: &'static str,
    /// The path, with `{id}` for a task's identifier.
    pub path: &'static str,
    /// What it is for.
    pub summary: &'static str,
    /// The body that it takes.
    pub takes: Option<fn(&mut SchemaGenerator) -> Schema>,
    /// The status of its success.
    pub status: StatusCode,
    /// The document that it answers with.
    pub gives: fn(&mut SchemaGenerator) -> Schema,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Tells how the sidecar is.
    Status,
    /// Tells which policy decides.
    Policy,
    /// Lists the tasks.
    List,
    /// Opens a task.
    Open,
    /// Shows a task.
    Show,
    /// Changes a task.
    Change,
    /// Ends a task.
    End,
    /// Stops a task.
    KillTask,
    /// Switches something off.
    Kill,
    /// Describes all of this.
    Describe,
}

/// The operation that a request names.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// What is to be done.
    pub action: Action,
    /// The identifier in its path.
    pub id: &'a str,
}

/// Finds the operation of a method and path.
///
/// # Errors
/// The problems of what does not exist.
pub fn find<'a>(method: &str, path: &'a str) -> Result<Found<'a>, Problem> {
    let mut others = None;
    for operation in OPERATIONS {
        let Some(id) = identifier(operation.path, path) else { continue };
        if operation.method == method {
            return Ok(Found { action: operation.action, id });
        }
        others = Some(operation.path);
    }
    Err(match others {
        Some(path) => Problem::method_not_allowed(allowed(path)),
        None => Problem::new(StatusCode::NOT_FOUND, "there is nothing here; GET /v1/openapi.json says what there is"),
    })
}

/// The identifier that stands in this path where the template has it; empty where it has none.
fn identifier<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, after)) = template.split_once("{id}") else { return (template == path).then_some("") };
    let id = path.strip_prefix(before)?.strip_suffix(after)?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

fn allowed(path: &str) -> &'static str {
    match path {
        "/v1/tasks" => "GET, POST",
        "/v1/tasks/{id}" => "GET, PATCH, DELETE",
        "/v1/tasks/{id}/kill" | "/v1/kill" => "POST",
        _ => "GET",
    }
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// All of them.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        action: Action::Status,
        method: "GET",
        path: "/v1/status",
        summary: "How the sidecar is",
        takes: None,
        status: StatusCode::OK,
        gives: schema::<api::Status>,
    },
    Operation {
        action: Action::Policy,
        method: "GET",
        path: "/v1/policy",
        summary: "Which policy decides",
        takes: None,
        status: StatusCode::OK,
        gives: schema::<api::Policy>,
    },
    Operation {
        action: Action::List,
        method: "GET",
        path: "/v1/tasks",
        summary: "All tasks that are known, those that ended lately among them",
        takes: None,
        status: StatusCode::OK,
        gives: schema::<api::Tasks>,
    },
    Operation {
        action: Action::Open,
        method: "POST",
        path: "/v1/tasks",
        summary: "Open a task; its handle is told once",
        takes: Some(schema::<api::OpenTask>),
        status: StatusCode::CREATED,
        gives: schema::<api::OpenedTask>,
    },
    Operation {
        action: Action::Show,
        method: "GET",
        path: "/v1/tasks/{id}",
        summary: "One task",
        takes: None,
        status: StatusCode::OK,
        gives: schema::<api::Task>,
    },
    Operation {
        action: Action::Change,
        method: "PATCH",
        path: "/v1/tasks/{id}",
        summary: "Change what a task is; its credentials are revoked and its epoch rises",
        takes: Some(schema::<api::ChangeTask>),
        status: StatusCode::OK,
        gives: schema::<api::Task>,
    },
    Operation {
        action: Action::End,
        method: "DELETE",
        path: "/v1/tasks/{id}",
        summary: "End a task that is done; its credentials are revoked",
        takes: None,
        status: StatusCode::OK,
        gives: schema::<api::Task>,
    },
    Operation {
        action: Action::KillTask,
        method: "POST",
        path: "/v1/tasks/{id}/kill",
        summary: "Stop a task: as ending it, and its calls are told so",
        takes: None,
        status: StatusCode::OK,
        gives: schema::<api::Task>,
    },
    Operation {
        action: Action::Kill,
        method: "POST",
        path: "/v1/kill",
        summary: "Switch a task, a destination or the agent off, until the sidecar is started anew",
        takes: Some(schema::<api::Kill>),
        status: StatusCode::OK,
        gives: schema::<api::Killed>,
    },
    Operation {
        action: Action::Describe,
        method: "GET",
        path: "/v1/openapi.json",
        summary: "This document",
        takes: None,
        status: StatusCode::OK,
        gives: |_| schemars::json_schema!({"type": "object"}),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_found_by_its_method_and_path() {
        for operation in OPERATIONS {
            let path = operation.path.replace("{id}", "0199-a");
            let found = find(operation.method, &path).expect("it is listed");
            let id = if operation.path.contains("{id}") { "0199-a" } else { "" };
            assert_eq!(found, Found { action: operation.action, id });
            assert!(allowed(operation.path).split(", ").any(|method| method == operation.method), "{path}");
        }
    }

    #[test]
    fn the_methods_that_are_told_are_those_that_there_are() {
        for operation in OPERATIONS {
            let all = OPERATIONS.iter().filter(|other| other.path == operation.path).map(|other| other.method);
            assert_eq!(allowed(operation.path), all.collect::<Vec<_>>().join(", "));
        }
    }

    #[test]
    fn what_is_not_listed_is_not_there() {
        for (method, path, status) in [
            ("GET", "/", 404),
            ("GET", "/v1/tasks/", 404),
            ("GET", "/v1/tasks/a/b", 404),
            ("POST", "/v1/tasks//kill", 404),
            ("GET", "/v1/status/", 404),
            ("POST", "/v1/status", 405),
            ("PUT", "/v1/tasks/a", 405),
            ("get", "/v1/status", 405),
        ] {
            assert_eq!(find(method, path).expect_err("nothing").status, status, "{method} {path}");
        }
    }
}
