//! The file that a configuration was read from, kept so that a reload can tell what changed in it.

use std::{
    fmt,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Agent, Audit, Config, Level, Limits, Listen, Profile, Tasks, Telemetry, Tls, document::LONGEST_FILE};
use crate::identity::Source;

/// A configuration file as it was read.
#[derive(Clone)]
pub struct File {
    /// Where it stands.
    pub path: PathBuf,
    /// What it said.
    pub text: Arc<str>,
    /// What it said of the things that only a restart changes. What a command line changed afterwards is not in here.
    pub fixed: Fixed,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The sections that only a restart changes: sockets, keys, files and tasks were made of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    profile: Profile,
    agent: Agent,
    identity: Source,
    listen: Listen,
    tls: Tls,
    tasks: Tasks,
    audit: Audit,
    telemetry: Telemetry,
    limits: Limits,
}

impl Fixed {
    /// Those of this configuration.
    pub fn of(config: &Config) -> Self {
        Self {
            profile: config.profile,
            // The level in force is no setting, nor is what was proven since.
            agent: Agent { id: config.agent.id.apart(), assurance: Level::default(), ..config.agent.clone() },
            identity: config.identity.clone(),
            listen: config.listen.clone(),
            tls: config.tls.clone(),
            tasks: config.tasks.clone(),
            audit: config.audit.clone(),
            telemetry: config.telemetry.clone(),
            limits: config.limits,
        }
    }

    /// The sections that differ, by their names in the file.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let Self { profile, agent, identity, listen, tls, tasks, audit, telemetry, limits } = self;
        let sections = [
            ("profile", *profile != other.profile),
            ("agent", *agent != other.agent || *identity != other.identity),
            ("listen", *listen != other.listen),
            ("tls", *tls != other.tls),
            ("tasks", *tasks != other.tasks),
            ("audit", *audit != other.audit),
            ("telemetry", *telemetry != other.telemetry),
            ("limits", *limits != other.limits),
        ];
        sections.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }
}

/// The text of a file, and of one that is too long so much that this is seen.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LONGEST_FILE as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(more: &str) -> Fixed {
        let text = format!("agent: {{identity: {{kind: static, id: x}}}}\n{more}");
        Fixed::of(&Config::parse(&text, Path::new("/etc/tollgate"), "f", &|_| None).unwrap())
    }

    #[test]
    fn a_section_that_differs_is_named() {
        for (more, sections) in [
            ("", &[][..]),
            ("mode: shadow", &[]),
            ("destinations: {api: {hosts: [api.example.com]}}", &[]),
            ("credentials: {key: {kind: file, file: key, owner: team-x}}", &[]),
            ("policy: {paths: [policy], budget: 20ms}", &[]),
            ("profile: observe", &["profile"]),
            ("profile: strict\naudit: {file: a}", &["profile", "audit"]),
            ("listen: {proxy: '127.0.0.1:1'}", &["listen"]),
            ("tls: {origin_roots: {files: [a.pem]}}", &["tls"]),
            ("tasks: {static: {purpose: triage, ttl: 1h}}", &["tasks"]),
            ("audit: {file: a}", &["audit"]),
            ("telemetry: {otlp: {endpoint: 'http://localhost:4318'}}", &["telemetry"]),
            ("limits: {json_depth: 7}", &["limits"]),
        ] {
            assert_eq!(fixed("").differences(&fixed(more)), sections, "{more}");
        }
        let other = Config::parse("agent: {identity: {kind: static, id: y}}", Path::new(""), "f", &|_| None).unwrap();
        assert_eq!(fixed("").differences(&Fixed::of(&other)), ["agent"]);
    }
}
