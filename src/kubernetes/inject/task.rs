//! The task that a pod's author gives it by annotation: checked here, so that who writes it is told, and passed on as it
//! was written.
//!
//! It is a variable of the sidecar's container, which nobody changes once the pod is made.

use super::{Config, Unsafe, pod::Pod};
use crate::{config::ready::tasks, kubernetes::ANNOTATION_TASK};

/// What the pod's author wrote.
pub fn written(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.get(ANNOTATION_TASK).map(String::as_str)
}

/// Looks for everything that is wrong with it.
pub fn check(pod: &Pod, config: &Config, found: &mut Unsafe) {
    let Some(text) = written(pod) else { return };
    let field = format!("metadata.annotations[{ANNOTATION_TASK}]");
    if !config.settings.permit.tasks {
        return found.add(
            field,
            "the platform permits no task of a pod's own; `permit.tasks` in the injector's configuration does",
        );
    }
    if text.trim().is_empty() {
        return found.add(field, "is empty");
    }
    if let Err(problems) = tasks::of_annotation(text) {
        for problem in problems.iter() {
            found.add(field.clone(), tasks::in_words(problem));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn found(text: &str, more: &str) -> String {
        let config = Config::parse(&format!("image: a:1\n{more}"), Path::new(""), "f", &|_| None).unwrap();
        let pod = Pod::read(&json!({"metadata": {"annotations": {ANNOTATION_TASK: text}}, "spec": {}})).unwrap();
        let mut found = Unsafe::default();
        check(&pod, &config, &mut found);
        found.to_string()
    }

    #[test]
    fn what_is_wrong_with_a_task_is_told_to_its_author() {
        assert_eq!(found("{purpose: triage, max_effect: read, ttl: 8h}", ""), "");
        for (text, more, why) in [
            ("{purpose: triage}", "permit: {tasks: false}", "the platform permits no task"),
            (" ", "", "is empty"),
            ("triage", "", "expected a mapping of keys"),
            ("{purpose: triage, max_efect: read}", "", "max_efect: unknown key; did you mean `max_effect`?"),
            ("{max_effect: read}", "", "purpose: is required"),
            ("{purpose: triage, ttl: 0s}", "", "ttl: expected more than 0"),
        ] {
            let said = found(text, more);
            assert!(said.starts_with("metadata.annotations[tollgate.dev/task]: "), "{text}: {said}");
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
