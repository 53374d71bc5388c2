//! What a task says that it needs. It permits nothing: calls outside it are told apart from those within.

use std::sync::Arc;

use crate::call::Effect;

/// Everything that a task says it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest(Arc<[Need]>);

/// One destination that a task needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its configured name.
    pub destination: Arc<str>,
    /// The most that is to be done there; `None`: anything.
    pub max_effect: Option<Effect>,
}

impl Manifest {
    /// A manifest of these.
    pub fn new(needs: Vec<Need>) -> Self {
        Self(needs.into())
    }

    /// What it consists of.
    pub fn needs(&self) -> &[Need] {
        &self.0
    }

    /// Whether it names a call of this effect to this destination.
    pub fn covers(&self, destination: &str, effect: Effect) -> bool {
        self.0.iter().any(|need| &*need.destination == destination && need.max_effect.is_none_or(|most| effect <= most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_covered_by_its_destination_and_effect() {
        let need = |name: &str, max_effect| Need { destination: name.into(), max_effect };
        let manifest = Manifest::new(vec![need("github", Some(Effect::Write)), need("storage", None)]);
        for (destination, effect, expected) in [
            ("github", Effect::Read, true),
            ("github", Effect::Write, true),
            ("github", Effect::Destructive, false),
            ("storage", Effect::Admin, true),
            ("tools", Effect::Read, false),
        ] {
            assert_eq!(manifest.covers(destination, effect), expected, "{destination} {effect}");
        }
        assert!(!Manifest::new(Vec::new()).covers("github", Effect::Read));
    }
}
