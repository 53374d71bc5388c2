//! The static task: the one that the configuration gives, or the one of the pod's annotation where it gives none.
//!
//! The injector puts the annotation's text into a variable of the sidecar. What it says was checked there already; it is
//! checked again here, because API servers that inject by themselves check nothing.

use std::path::Path;

use super::{Check, at};
use crate::{
    config::{
        Problem, Problems, StaticTask, Tasks,
        document::{Document, Place},
        settings::{self, TaskSource},
    },
    kubernetes::ANNOTATION_TASK,
    task::{Manifest, Need},
};

/// Which task a call belongs to.
pub(super) fn tasks(check: &mut Check<'_>, tasks: &settings::Tasks) -> Tasks {
    let place = at(&["tasks", "source"]);
    let sources = tasks.source.as_deref();
    for (index, source) in sources.unwrap_or_default().iter().enumerate() {
        match source {
            TaskSource::TxnToken => check.unavailable(&place.index(index), "txn_token"),
            TaskSource::Static if index + 1 < sources.map_or(0, <[_]>::len) => {
                check.document.report(&place.index(index), "static holds for every call, so it stands last");
            }
            TaskSource::Header | TaskSource::Static => {}
        }
    }
    let annotated = annotated(check, tasks);
    Tasks {
        header: sources.is_none_or(|sources| sources.contains(&TaskSource::Header)),
        fixed: configured(check, tasks, annotated.is_some()).or(annotated),
        longest: check.positive(&at(&["tasks", "max_ttl"]), tasks.max_ttl),
    }
}

/// The task that a pod's annotation gives.
///
/// # Errors
/// Everything that is wrong with the text.
pub fn of_annotation(text: &str) -> Result<StaticTask, Problems> {
    if text.len() > LONGEST_ANNOTATION {
        return Err(Problems::one(ANNOTATION_TASK, None, format!("expected at most {LONGEST_ANNOTATION} bytes")));
    }
    // A pod's author names no variable of the sidecar.
    let nothing = |_: &str| None;
    let document = Document::read(text, ANNOTATION_TASK, &nothing)?;
    let mut check = Check::new(document, Path::new(""), &nothing);
    let settled = check.document.settle::<settings::StaticTask>(&Place::root());
    let task = settled.map(|settled| task(&mut check, &Place::root(), &settled));
    let problems = check.document.into_problems();
    match task {
        Some(task) if problems.is_empty() => Ok(task),
        Some(_) | None => Err(problems),
    }
}

fn configured(check: &mut Check<'_>, tasks: &settings::Tasks, is_annotated: bool) -> Option<StaticTask> {
    let place = at(&["tasks", "source"]);
    let named = tasks.source.as_ref().is_some_and(|sources| sources.contains(&TaskSource::Static));
    let Some(written) = &tasks.static_task else {
        if named && !is_annotated && !check.document.wrote(&at(&["tasks", "static"])) {
            check.document.report(&place, "names static, but there is no tasks.static");
        }
        return None;
    };
    if tasks.source.is_some() && !named {
        check.document.report(&place, "leaves out static, so tasks.static would have no effect");
    }
    Some(task(check, &at(&["tasks", "static"]), written))
}

/// The pod's own. It stands beside nothing: which of two were meant is not for the sidecar to guess, and what the platform
/// wrote would be nobody's bound.
fn annotated(check: &mut Check<'_>, tasks: &settings::Tasks) -> Option<StaticTask> {
    let text = check.injected(VARIABLE)?;
    let mut refuse = |why: String| check.document.report_variable(VARIABLE, format!("{ANNOTATION_TASK}: {why}"));
    let task = match of_annotation(&text) {
        Ok(task) => task,
        Err(problems) => {
            for problem in problems.iter() {
                refuse(in_words(problem));
            }
            return None;
        }
    };
    if tasks.static_task.is_some() {
        refuse("the configuration has tasks.static, beside which no pod says its own".to_owned());
    }
    if tasks.source.as_ref().is_some_and(|sources| !sources.contains(&TaskSource::Static)) {
        refuse("tasks.source leaves out static, so it would have no effect".to_owned());
    }
    if task.ttl > tasks.max_ttl.0 {
        refuse("ttl: longer than tasks.max_ttl of the configuration".to_owned());
    }
    Some(task)
}

/// A problem of the annotation, without the name of what it stands in.
pub fn in_words(problem: &Problem) -> String {
    match &*problem.path {
        "" => problem.message.clone(),
        path => format!("{path}: {}", problem.message),
    }
}

fn task(check: &mut Check<'_>, place: &Place, written: &settings::StaticTask) -> StaticTask {
    let purpose = check.required(&place.key("purpose"), written.purpose.as_deref());
    if purpose.len() > LONGEST_PURPOSE || purpose.chars().any(char::is_control) {
        let expected = format!("expected one line of at most {LONGEST_PURPOSE} bytes");
        check.document.report(&place.key("purpose"), expected);
    }
    StaticTask {
        purpose,
        ttl: check.positive(&place.key("ttl"), written.ttl),
        idle: written.idle.map(|idle| check.positive(&place.key("idle"), idle)),
        max_effect: written.max_effect,
        ceiling: written.ceiling,
        manifest: manifest(check, &place.key("manifest"), &written.manifest),
    }
}

fn manifest(check: &mut Check<'_>, place: &Place, written: &[settings::Need]) -> Option<Manifest> {
    let needs: Vec<Need> = (0..)
        .zip(written)
        .map(|(index, need)| {
            let name = check.required(&place.index(index).key("destination"), Some(&need.destination));
            Need { destination: name.into(), max_effect: need.max_effect }
        })
        .collect();
    (!needs.is_empty()).then(|| Manifest::new(needs))
}

/// Where the injector puts the annotation's text.
const VARIABLE: &str = "TOLLGATE_TASK";
const LONGEST_ANNOTATION: usize = 4096;
/// As the admin API has it.
const LONGEST_PURPOSE: usize = 512;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{call::Effect, config::Config};

    fn read(tasks: &str, annotation: &str) -> Result<Option<StaticTask>, String> {
        let env = |name: &str| match name {
            "TOLLGATE_CAPTURE" => Some("init".to_owned()),
            VARIABLE => Some(annotation.to_owned()),
            _ => None,
        };
        let text = format!("agent: {{identity: {{kind: static, id: x}}}}\n{tasks}");
        let config = Config::parse(&text, Path::new("/"), "f", &env).map_err(|problems| problems.to_string())?;
        Ok(config.tasks.fixed)
    }

    #[test]
    fn a_pod_says_its_task_where_the_configuration_does_not() {
        let written = "{purpose: triage, max_effect: read, ttl: 8h, manifest: [{destination: api, max_effect: read}]}";
        for tasks in ["", "tasks: {source: [header, static]}\n", "tasks: {source: [static], max_ttl: 8h}\n"] {
            let task = read(tasks, written).unwrap().unwrap();
            assert_eq!((&*task.purpose, task.max_effect), ("triage", Some(Effect::Read)), "{tasks}");
            assert_eq!(task.ttl, Duration::from_secs(8 * 60 * 60));
            assert!(task.manifest.unwrap().covers("api", Effect::Read));
        }
        assert_eq!(read("", "").unwrap(), None);
        let json = r#"{"purpose": "a: b", "idle": "5m"}"#;
        assert_eq!(read("", json).unwrap().unwrap().idle, Some(Duration::from_secs(300)));
    }

    #[test]
    fn a_pods_task_beside_the_platforms_is_refused() {
        for (tasks, annotation, why) in [
            ("tasks: {static: {purpose: x}}\n", "{purpose: y}", "the configuration has tasks.static"),
            ("tasks: {source: [header]}\n", "{purpose: y}", "tasks.source leaves out static"),
            ("", "{purpose: y, ttl: 25h}", "ttl: longer than tasks.max_ttl"),
            ("", "triage", "expected a mapping of keys"),
            ("", "{ttl: 1h}", "purpose: is required"),
        ] {
            let problems = read(tasks, annotation).unwrap_err();
            assert!(problems.contains(VARIABLE) && problems.contains(why), "{tasks}{annotation}: {problems}");
        }
    }

    #[test]
    fn what_an_annotation_can_not_say_is_told_by_its_key() {
        for (text, place) in [
            ("{}", "purpose"),
            ("{purpose: ''}", "purpose"),
            (r#"{"purpose": "a\nb"}"#, "purpose"),
            ("{purpose: '${HOME}'}", "purpose"),
            ("{purpose: x, ttl: 0s}", "ttl"),
            ("{purpose: x, ttl: soon}", "ttl"),
            ("{purpose: x, max_effect: all}", "max_effect"),
            ("{purpose: x, ceiling: secret}", "ceiling"),
            ("{purpose: x, id: y}", "id"),
            ("{purpose: x, manifest: [{destination: ''}]}", "manifest[0].destination"),
        ] {
            let problems = of_annotation(text).unwrap_err();
            assert_eq!(problems.iter().map(|problem| &*problem.path).collect::<Vec<_>>(), [place], "{text}");
        }
        let long = format!("{{purpose: x}} # {}", "x".repeat(LONGEST_ANNOTATION));
        assert!(of_annotation(&long).is_err());
        assert!(of_annotation("purpose: [").is_err());
        assert!(of_annotation(&format!("purpose: {}", "x".repeat(LONGEST_PURPOSE + 1))).is_err());
    }
}
