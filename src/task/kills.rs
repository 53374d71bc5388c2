//! What was switched off for good: this agent, or destinations. It stays so until the sidecar is started anew.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::refusal::Refusal;

/// What was switched off. Nothing at first; asking costs one load then.
#[derive(Debug, Default)]
pub struct Kills {
    any: AtomicBool,
    agent: AtomicBool,
    destinations: RwLock<BTreeSet<Arc<str>>>,
}

impl Kills {
    /// Why no call may be made to this destination, if so.
    pub fn refusal(&self, destination: &str) -> Option<Refusal> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        if self.agent() {
            return Some(Refusal::AgentKilled);
        }
        let killed = self.destinations.read().unwrap_or_else(PoisonError::into_inner).contains(destination);
        killed.then_some(Refusal::DestinationKilled)
    }

    /// Whether the agent was switched off.
    pub fn agent(&self) -> bool {
        self.agent.load(Ordering::Acquire)
    }

    /// The destinations that were switched off.
    pub fn destinations(&self) -> Vec<Arc<str>> {
        self.destinations.read().unwrap_or_else(PoisonError::into_inner).iter().map(Arc::clone).collect()
    }

    pub(super) fn kill_agent(&self) {
        self.agent.store(true, Ordering::Release);
        self.any.store(true, Ordering::Release);
    }

    pub(super) fn kill_destination(&self, name: &str) {
        self.destinations.write().unwrap_or_else(PoisonError::into_inner).insert(name.into());
        self.any.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_killed_is_refused_with_its_own_label_and_nothing_else_is() {
        let kills = Kills::default();
        let label = |name| kills.refusal(name).map(|refusal| refusal.label());
        assert_eq!(label("github"), None);
        kills.kill_destination("github");
        assert_eq!((label("github"), label("tools")), (Some("destination_killed"), None));
        kills.kill_agent();
        assert_eq!((label("github"), label("tools")), (Some("agent_killed"), Some("agent_killed")));
        assert_eq!(kills.destinations(), ["github".into()]);
    }
}
