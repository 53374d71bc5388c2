//! Why a pod can't be injected: each reason begins with the field that it is about.

use std::fmt;

/// Why a pod can't be injected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unsafe {
    reasons: Vec<Reason>,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The field, from the pod on: `spec.hostNetwork`.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl Unsafe {
    /// One reason.
    pub fn one(field: &str, why: &str) -> Self {
        let mut found = Self::default();
        found.add(field, why);
        found
    }

    /// A further reason.
    pub fn add(&mut self, field: impl Into<String>, why: impl Into<String>) {
        self.reasons.push(Reason { field: field.into(), why: why.into() });
    }

    /// Each of them.
    pub fn reasons(&self) -> &[Reason] {
        &self.reasons
    }

    /// An error, if there is a reason.
    ///
    /// # Errors
    /// Itself, where it holds a reason.
    pub fn into_result(self) -> Result<(), Self> {
        if self.reasons.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Unsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, reason) in self.reasons.iter().enumerate() {
            let between = if index == 0 { "" } else { "; " };
            write!(f, "{between}{reason}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

impl std::error::Error for Unsafe {}
