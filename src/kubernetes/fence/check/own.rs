//! Looks at what this process is, may do, and can see.

use std::{
    fs::{self, File},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use rustix::{
    process::getuid,
    thread::{CapabilitySet, capabilities, capability_is_in_bounding_set, no_new_privs},
};

use super::{Fence, Finding, Question, Way};
use crate::kubernetes::fence;

/// Everything that can be seen without sending.
pub fn findings(question: &Question) -> Vec<Finding> {
    let fence = &question.fence;
    let mut findings = vec![
        Finding::of(Way::User, "this user", user(fence)),
        Finding::of(Way::User, format!("becoming user {}", fence.uid), become_sidecar(fence.uid)),
    ];
    findings.extend(DANGEROUS.map(|(name, set)| Finding::of(Way::Capability, name, capability(set))));
    findings.push(Finding::of(Way::Rules, "reading and changing the table", rules()));
    findings.push(Finding::of(Way::Process, "the sidecar's processes", processes(fence.uid)));
    findings.extend(question.hidden.iter().map(|path| Finding::of(Way::File, path.display().to_string(), file(path))));
    findings
}

fn user(fence: &Fence) -> Result<String, String> {
    let uid = getuid().as_raw();
    if uid == fence.uid || fence.exempt.contains(&uid) {
        Err(format!("user {uid} is let out, so that nothing here proves anything"))
    } else if uid == 0 {
        Err("root: it can become any user where it has the capability, and owns files of others".to_owned())
    } else {
        Ok(format!("user {uid} is not let out"))
    }
}

/// Tried, not deduced: security modules and user namespaces have a say as well.
fn become_sidecar(uid: u32) -> Result<String, String> {
    let mut other = Command::new("/proc/self/exe");
    other.arg("--version").uid(uid).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match other.status() {
        Err(error) => Ok(format!("not possible: {error}")),
        Ok(_) => Err("possible: the fence lets that user out".to_owned()),
    }
}

fn capability(set: CapabilitySet) -> Result<String, String> {
    let held = capabilities(None).map_err(|error| format!("can't be read: {error}"))?;
    if (held.effective | held.permitted | held.inheritable).contains(set) {
        return Err("held".to_owned());
    }
    // A program with the set-user-id bit gains what the bounding set leaves, unless gaining is forbidden.
    let gains = !no_new_privs().unwrap_or(false) && capability_is_in_bounding_set(set).unwrap_or(true);
    if gains { Err("can be gained by starting a privileged program".to_owned()) } else { Ok("not held".to_owned()) }
}

fn rules() -> Result<String, String> {
    match fence::reachable() {
        Err(failure) => Ok(format!("not possible: {failure}")),
        Ok(()) => Err("possible".to_owned()),
    }
}

fn processes(uid: u32) -> Result<String, String> {
    let entries = fs::read_dir("/proc").map_err(|error| format!("/proc can't be read: {error}"))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_process = name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        if is_process && entry.metadata().is_ok_and(|metadata| metadata.uid() == uid) {
            return Err(format!("process {} is the sidecar's: the process namespace is shared", name.display()));
        }
    }
    // The container that holds a pod's namespaces is the first process only where they are shared.
    match fs::read_to_string("/proc/1/comm") {
        Ok(first) if first.trim() == "pause" => Err("the pod's containers share a process namespace".to_owned()),
        _ => Ok("not seen".to_owned()),
    }
}

fn file(path: &Path) -> Result<String, String> {
    let readable = if path.is_dir() { fs::read_dir(path).is_ok() } else { File::open(path).is_ok() };
    if readable { Err("it can be read".to_owned()) } else { Ok("it can't be read".to_owned()) }
}

/// What turns into a way out: changing the table or the routes, sending what no table sees, becoming the sidecar or
/// looking into it, and what contains all of these.
const DANGEROUS: [(&str, CapabilitySet); 8] = [
    ("NET_ADMIN", CapabilitySet::NET_ADMIN),
    ("NET_RAW", CapabilitySet::NET_RAW),
    ("SYS_PTRACE", CapabilitySet::SYS_PTRACE),
    ("SETUID", CapabilitySet::SETUID),
    ("SYS_ADMIN", CapabilitySet::SYS_ADMIN),
    ("SYS_MODULE", CapabilitySet::SYS_MODULE),
    ("BPF", CapabilitySet::BPF),
    ("DAC_READ_SEARCH", CapabilitySet::DAC_READ_SEARCH),
];
