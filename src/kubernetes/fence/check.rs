//! Proves a fence from inside, as an agent's user sees it.
//!
//! Every way out is tried. A connection holds when it lands at the sidecar, which says so in its answer, or when there is
//! no route at all; that nothing comes back proves nothing, because what was sent may have left. What was not captured
//! must be refused by this kernel, at once. Then the process looks at itself: whoever can become the sidecar's user, open
//! raw sockets, change the table or look into the sidecar has another way.
//!
//! The addresses that are tried belong to nobody (RFC 5737, RFC 3849), but for those of the clouds' metadata services.
//! Where the sidecar does not serve yet, a stand-in listens in its place ([`stand_in`]).

mod names;
mod own;
mod stand_in;
mod wire;

use std::{fmt, path::PathBuf, thread};

use serde::{Deserialize, Serialize};

use self::stand_in::StandIn;
use super::Fence;

/// What to check.
#[derive(Debug, Clone)]
pub struct Question {
    /// The fence that is meant to stand.
    pub fence: Fence,
    /// Paths that an agent must not be able to read.
    pub hidden: Vec<PathBuf>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether nothing leaks.
    pub holds: bool,
    /// The user that looked.
    pub uid: u32,
    /// Everything that was tried, in a fixed order.
    pub findings: Vec<Finding>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of way out it is.
    pub way: Way,
    /// What was tried.
    pub tried: String,
    /// Whether it is closed.
    pub holds: bool,
    /// What happened.
    pub seen: String,
}

/// A kind of way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// A TCP connection.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// A question for a name.
    Dns,
    /// An echo request.
    Icmp,
    /// An address that is not the pod's, which answers would go to.
    Source,
    /// A socket below TCP and UDP.
    Raw,
    /// The sidecar as a relay.
    Relay,
    /// Who this process is, or can become.
    User,
    /// What this process may do.
    Capability,
    /// The table itself.
    Rules,
    /// Looking into the sidecar's processes.
    Process,
    /// The sidecar's files.
    File,
}

impl Report {
    /// What leaks.
    pub fn leaks(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !finding.holds)
    }
}

impl Finding {
    fn of(way: Way, tried: impl Into<String>, seen: Result<String, String>) -> Self {
        let (holds, seen) = match seen {
            Ok(seen) => (true, seen),
            Err(seen) => (false, seen),
        };
        Self { way, tried: tried.into(), holds, seen }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Dns => "dns",
            Self::Icmp => "icmp",
            Self::Source => "source",
            Self::Raw => "raw",
            Self::Relay => "relay",
            Self::User => "user",
            Self::Capability => "capability",
            Self::Rules => "rules",
            Self::Process => "process",
            Self::File => "file",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { way, tried, holds, seen } in &self.findings {
            let word = if *holds { "holds" } else { "LEAKS" };
            writeln!(f, "{word}  {way:10}  {tried:32}  {seen}")?;
        }
        match self.leaks().count() {
            0 => writeln!(f, "the fence holds for user {}: {} ways tried", self.uid, self.findings.len()),
            leaks => writeln!(f, "the fence leaks for user {}: {leaks} of {} ways", self.uid, self.findings.len()),
        }
    }
}

/// Tries every way out. Takes as long as the slowest one, which is a few seconds where something leaks.
pub fn check(question: &Question) -> Report {
    let fence = &question.fence;
    let stand_in = StandIn::raise(fence);
    // Each probe waits for its own answer, and none for another's.
    let findings = thread::scope(|scope| {
        let probes = wire::probes(fence).into_iter().chain(names::probes());
        let started: Vec<_> = probes.map(|probe| scope.spawn(probe)).collect();
        let mut findings: Vec<Finding> = started
            .into_iter()
            .map(|probe| probe.join().unwrap_or_else(|_| Finding::of(Way::Tcp, "a probe", Err("it failed".to_owned()))))
            .collect();
        if stand_in.is_none() {
            findings.extend(wire::relays(fence));
        }
        findings.extend(own::findings(question));
        findings
    });
    drop(stand_in);
    Report { holds: findings.iter().all(|finding| finding.holds), uid: rustix::process::getuid().as_raw(), findings }
}

type Probe = Box<dyn FnOnce() -> Finding + Send>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_told_to_people_and_to_programs() {
        let findings = vec![
            Finding::of(Way::Tcp, "192.0.2.1:22", Ok("captured".into())),
            Finding::of(Way::Udp, "192.0.2.1:443", Err("it was sent".into())),
        ];
        let report = Report { holds: false, uid: 1000, findings };
        insta::assert_snapshot!(report, @r"
        holds  tcp         192.0.2.1:22                      captured
        LEAKS  udp         192.0.2.1:443                     it was sent
        the fence leaks for user 1000: 1 of 2 ways
        ");
        insta::assert_snapshot!(serde_json::to_string(&report).expect("it is plain"), @r#"{"holds":false,"uid":1000,"findings":[{"way":"tcp","tried":"192.0.2.1:22","holds":true,"seen":"captured"},{"way":"udp","tried":"192.0.2.1:443","holds":false,"seen":"it was sent"}]}"#);
    }
}
