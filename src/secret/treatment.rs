//! What is done with a secret that the agent sent: by kind and by destination.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is done with a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Takes away the header or parameter that carries it. In a body it is as `redact`.
    Strip,
    /// Writes `REDACTED` in its place.
    Redact,
    /// Refuses the call.
    Refuse,
    /// Lets it pass and records it.
    Observe,
}

/// What was done with a secret, as metrics say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It was taken away.
    Strip,
    /// `REDACTED` stands in its place.
    Redact,
    /// The call was refused for it.
    Refuse,
    /// It was only noted.
    Note,
}

/// What a destination does with the secrets that are sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Treatment {
    /// For kinds that are not listed. `None`: heads are stripped, bodies of HTTP are redacted and messages of MCP observed.
    pub mode: Option<Mode>,
    /// By kind.
    pub kinds: BTreeMap<&'static str, Mode>,
    /// Whether bodies of plain HTTP are held and looked into.
    pub bodies: bool,
}

impl Treatment {
    /// What is done with a secret of this kind in a head.
    pub fn in_head(&self, kind: &str) -> Mode {
        self.chosen(kind).unwrap_or(Mode::Strip)
    }

    /// What is done with a secret of this kind in a body; `otherwise` where nothing was chosen.
    pub fn in_body(&self, kind: &str, otherwise: Mode) -> Mode {
        match self.chosen(kind).unwrap_or(otherwise) {
            Mode::Strip | Mode::Redact => Mode::Redact,
            other @ (Mode::Refuse | Mode::Observe) => other,
        }
    }

    fn chosen(&self, kind: &str) -> Option<Mode> {
        self.kinds.get(kind).copied().or(self.mode)
    }
}

impl Mode {
    /// What it does, where it can be done.
    pub fn action(self) -> Action {
        match self {
            Self::Strip => Action::Strip,
            Self::Redact => Action::Redact,
            Self::Refuse => Action::Refuse,
            Self::Observe => Action::Note,
        }
    }
}

impl Action {
    /// Its label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strip => "stripped",
            Self::Redact => "redacted",
            Self::Refuse => "refused",
            Self::Note => "noted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kinds_own_mode_counts_before_the_destinations() {
        let chosen = Treatment {
            mode: Some(Mode::Strip),
            kinds: BTreeMap::from([("github_pat", Mode::Refuse), ("jwt", Mode::Observe)]),
            bodies: true,
        };
        assert_eq!(chosen.in_head("slack"), Mode::Strip);
        assert_eq!(chosen.in_body("slack", Mode::Observe), Mode::Redact);
        assert_eq!(chosen.in_head("github_pat"), Mode::Refuse);
        assert_eq!(chosen.in_body("jwt", Mode::Redact), Mode::Observe);
    }

    #[test]
    fn nothing_chosen_is_what_it_always_was() {
        let usual = Treatment::default();
        assert_eq!(usual.in_head("slack"), Mode::Strip);
        assert_eq!(usual.in_body("slack", Mode::Observe), Mode::Observe);
        assert_eq!(usual.in_body("slack", Mode::Redact), Mode::Redact);
    }
}
