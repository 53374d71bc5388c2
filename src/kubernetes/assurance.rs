//! How well a pod's agent is fenced in: what the injector arranged, as far as it was checked.
//!
//! Four facts make the level, and none of them comes from the agent. The injector says how traffic is captured and which
//! of the pod's containers could get around the fence; the namespace's ConfigMap says whether the platform placed a
//! NetworkPolicy there; the check of the fence, which ran before the agent and wrote where no agent can, says whether it
//! holds. What is missing counts as the worst. `L3` can't be reached: nothing here can check that a gateway stands
//! outside.

use std::{fs, path::PathBuf, time::Duration};

use tokio::time::sleep;

use super::{Capture, fence::check::Report};
use crate::config::{Assurance, Level};

/// What the injector says of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// How traffic is captured.
    pub capture: Capture,
    /// Whether the platform placed its NetworkPolicy on the pods of this namespace.
    pub network_policy: bool,
    /// Where the check of the fence writes what it found.
    pub report: Option<PathBuf>,
    /// What the pod's containers are, or may do, that would lead around a fence. `None`: nobody looked.
    pub weaknesses: Option<Vec<String>>,
}

/// A level, and why it is no higher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The level.
    pub level: Assurance,
    /// What keeps it from being higher, or what it rests on.
    pub why: String,
}

impl Claim {
    /// The level that the claim and the check's report amount to.
    pub fn standing(&self, report: Result<&Report, &str>) -> Standing {
        let (level, rest) = match (self.capture, self.network_policy) {
            (Capture::Proxy, _) => return Standing::lowest("traffic is led here by variables only"),
            (Capture::Init, _) => (Assurance::L1, ""),
            (Capture::Cni, false) => (Assurance::L1, "; no NetworkPolicy of the platform's is known here"),
            (Capture::Cni, true) => (Assurance::L2, ""),
        };
        match (&self.weaknesses, report) {
            (None, _) => Standing::lowest("nobody said what the pod's containers may do"),
            (Some(weaknesses), _) if !weaknesses.is_empty() => Standing::lowest(&weaknesses.join("; ")),
            (Some(_), Err(why)) => Standing::lowest(why),
            (Some(_), Ok(report)) if !report.holds || report.leaks().next().is_some() => {
                let leaks: Vec<&str> = report.leaks().map(|leak| leak.tried.as_str()).collect();
                Standing::lowest(&format!("the fence leaks: {}", leaks.join(", ")))
            }
            (Some(_), Ok(report)) => {
                Standing { level, why: format!("checked: {} ways out are closed{rest}", report.findings.len()) }
            }
        }
    }

    fn read(&self) -> Result<Report, String> {
        let path = self.report.as_ref().ok_or("there is no place for a report of the fence")?;
        let text = fs::read(path).map_err(|error| format!("no report of the fence: {error}"))?;
        serde_json::from_slice(&text).map_err(|error| format!("the report of the fence can't be read: {error}"))
    }
}

impl Standing {
    fn lowest(why: &str) -> Self {
        Self { level: Assurance::L0, why: why.to_owned() }
    }
}

/// Keeps the level at what was checked. The check runs after the sidecar has started, and again when the pod's network is
/// made anew, so its report is read time and again.
pub async fn follow(claim: Claim, level: Level) {
    let mut last = None;
    loop {
        let report = claim.read();
        let standing = claim.standing(report.as_ref().map_err(String::as_str));
        if last.as_ref() != Some(&standing) {
            level.set(standing.level);
            tracing::info!(level = standing.level.as_str(), why = standing.why, "assurance");
            last = Some(standing);
        }
        sleep(if report.is_err() && claim.report.is_some() { UNTIL_THERE } else { AGAIN }).await;
    }
}

/// The agent starts as soon as the check has passed, and its first call should have the level already.
const UNTIL_THERE: Duration = Duration::from_millis(20);

const AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::fence::check::{Finding, Way};

    fn report(holds: bool) -> Report {
        let finding = Finding { way: Way::Tcp, tried: "192.0.2.1:22".into(), holds, seen: String::new() };
        Report { holds, uid: 15001, findings: vec![finding] }
    }

    fn claim(capture: Capture, weaknesses: Option<&[&str]>) -> Claim {
        let weaknesses = weaknesses.map(|all| all.iter().map(|one| (*one).to_owned()).collect());
        Claim { capture, network_policy: true, report: None, weaknesses }
    }

    fn without_policy(claim: Claim) -> Claim {
        Claim { network_policy: false, ..claim }
    }

    #[test]
    fn the_level_is_what_was_checked() {
        let clean = Some(&[][..]);
        for (claim, report, level) in [
            (claim(Capture::Init, clean), Ok(&report(true)), Assurance::L1),
            (claim(Capture::Cni, clean), Ok(&report(true)), Assurance::L2),
            (without_policy(claim(Capture::Init, clean)), Ok(&report(true)), Assurance::L1),
            (without_policy(claim(Capture::Cni, clean)), Ok(&report(true)), Assurance::L1),
            (claim(Capture::Proxy, clean), Ok(&report(true)), Assurance::L0),
            (claim(Capture::Cni, None), Ok(&report(true)), Assurance::L0),
            (claim(Capture::Cni, Some(&["container `a` is root"])), Ok(&report(true)), Assurance::L0),
            (claim(Capture::Cni, clean), Ok(&report(false)), Assurance::L0),
            (claim(Capture::Cni, clean), Err("no report"), Assurance::L0),
        ] {
            assert_eq!(claim.standing(report).level, level, "{claim:?} {report:?}");
        }
    }

    #[test]
    fn a_report_that_contradicts_itself_counts_as_a_leak() {
        let contradiction = Report { holds: true, ..report(false) };
        assert_eq!(claim(Capture::Cni, Some(&[])).standing(Ok(&contradiction)).level, Assurance::L0);
    }
}
