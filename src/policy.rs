//! Decides calls. The only place where a [`Permit`] is made.
//!
//! A [`Policy`] is one generation: compiled Rego, data, matchers, read set and a cache of its own. It is swapped whole.
//! Deciding does no I/O and knows nothing of HTTP libraries. What policy does not say clearly is a [`Denial`].

pub mod allow_list;
pub mod answer;
pub mod bundle;
pub mod cache;
pub mod engine;
pub mod input;
pub mod lint;
pub mod reads;
pub mod trial;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use self::{
    allow_list::AllowList,
    answer::Verdict,
    bundle::{LoadError, Sources},
    cache::Answers,
    engine::{Failure, Pool},
    input::Document,
    reads::ReadSet,
};
use crate::config::{self, Mode};

pub use answer::{Answer, Class, Obligations};
pub use input::Input;

/// One generation of policy: everything that its decisions depend on, besides the input.
#[derive(Debug)]
pub struct Policy {
    revision: Arc<str>,
    reads: ReadSet,
    /// `None` where no policy of this generation reads `input.matches`.
    allow_list: Option<AllowList>,
    pool: Pool,
    /// `None` where answers can't be kept.
    answers: Option<Answers>,
}

/// Proof that policy permitted one call. Its fields are private: only this module makes one.
#[derive(Debug, Clone)]
pub struct Permit {
    answer: Arc<Answer>,
    enforced: bool,
}

/// A no: by a rule, for want of an approval, or because policy did not decide.
#[derive(Debug, Clone)]
pub struct Denial {
    /// Which kind of no.
    pub kind: DenialKind,
    /// The reason's name, e.g. `effect_exceeds_task`.
    pub reason: Arc<str>,
    /// One sentence for the agent.
    pub message: Arc<str>,
    /// The rule that said so, e.g. `platform.effect`.
    pub rule: Arc<str>,
    /// Whose concern it is.
    pub class: Class,
}

/// Which kind of no. A rule's no and an undecided call are never the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenialKind {
    /// A rule denied it.
    Rule,
    /// A rule asks for an approval first.
    ApprovalRequired,
    /// Policy did not decide; why not.
    Undecided(Undecided),
}

/// Why policy did not decide. Each is a refusal of class `policy_error` with its own label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Undecided {
    /// The rule is undefined for this input.
    Undefined,
    /// Evaluation failed.
    Error,
    /// Evaluation took longer than `policy.budget`.
    Budget,
    /// Evaluation panicked.
    Panic,
    /// A field of the answer has the wrong type or a value that is not allowed there, or `decision` is missing.
    WrongType,
    /// The answer has a field that the contract does not know.
    UnknownField,
    /// The answer is a yes that is bound to something that this version can't do.
    Obligation,
}

/// What policy said of one call.
#[derive(Debug)]
pub struct Decision {
    /// A permit, or why not.
    pub outcome: Result<Permit, Denial>,
    /// What policy would have enforced: in shadow mode a denied call carries a permit in `outcome` and its denial here.
    pub shadowed: Option<Denial>,
    /// Whether the answer came from the cache.
    pub cache: CacheUse,
    /// The generation that decided.
    pub revision: Arc<str>,
    /// How long deciding took.
    pub duration: Duration,
}

/// How the cache was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheUse {
    /// Answered from it.
    Hit,
    /// Evaluated, then kept.
    Miss,
    /// Evaluated; this policy or this answer can't be kept.
    Bypass,
}

impl CacheUse {
    /// As it stands in records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

impl Policy {
    /// Compiles what was read. What could surprise later is refused here. How long that takes is not bounded, so
    /// texts from elsewhere are tried in a child process first, by [`trial`].
    pub fn compile(sources: Sources, settings: &config::Policy, workers: usize) -> Result<Self, LoadError> {
        lint::check(&sources, &settings.decision)?;
        let allow_list = AllowList::compile(&sources.data)?;
        let sources = Arc::new(sources);
        let mut engine = engine::load(&sources, settings.budget)
            .map_err(|error| LoadError::one(lint::in_one_line("policy", &error)))?;
        let reads = ReadSet::of_modules(engine.get_modules());
        let pool = Pool::new(
            Arc::clone(&sources),
            engine,
            &settings.decision,
            settings.budget,
            workers,
            reads.reads().to_vec(),
        )?;
        let answers = match reads.uncacheable().is_empty() {
            true => Answers::new(settings.cache_entries, settings.cache_ttl),
            false => None,
        };
        Ok(Self {
            revision: Arc::clone(&sources.revision),
            allow_list: reads.reads_part("matches").then_some(allow_list),
            reads,
            pool,
            answers,
        })
    }

    /// Decides one call. Never waits for anything but the evaluation itself.
    pub fn decide(&self, input: &Input<'_>, mode: Mode) -> Decision {
        let begun = Instant::now();
        let matches = match &self.allow_list {
            Some(list) => list.matches(input.call, &input.upstream.name),
            None => Vec::new(),
        };
        let (answer, cache) = self.answer(Document { input, matches: &matches });
        let (outcome, shadowed) = match (outcome(answer), mode) {
            (Err(denial), Mode::Shadow) => (Ok(Permit::in_spite_of(&denial)), Some(denial)),
            (outcome, Mode::Enforce | Mode::Shadow) => (outcome, None),
        };
        Decision { outcome, shadowed, cache, revision: Arc::clone(&self.revision), duration: begun.elapsed() }
    }

    /// What the decision rule says of an input document written by hand; whether that is an answer is for
    /// [`Answer::decode`] to say. The allow-list's matches are filled in where the document has none.
    pub fn evaluate(&self, input: &serde_json::Value) -> Result<regorus::Value, Failure> {
        let mut input = input.clone();
        if let (Some(list), serde_json::Value::Object(fields)) = (&self.allow_list, &input)
            && !fields.contains_key("matches")
        {
            let matches = list.matches_document(&input);
            input["matches"] = matches.iter().map(|id| serde_json::Value::from(&**id)).collect();
        }
        self.pool.evaluate_json(&input)
    }

    /// Names this generation: equal texts have equal revisions.
    pub fn revision(&self) -> &Arc<str> {
        &self.revision
    }

    /// What of `input` this generation reads.
    pub fn reads(&self) -> &ReadSet {
        &self.reads
    }

    fn answer(&self, document: Document<'_>) -> (Result<Arc<Answer>, Undecided>, CacheUse) {
        let Some(answers) = &self.answers else { return (self.ask(document), CacheUse::Bypass) };
        let key = document.key(self.reads.reads());
        if let Some(answer) = answers.find(&key) {
            return (Ok(answer), CacheUse::Hit);
        }
        let answer = self.ask(document);
        let is_kept = answer
            .as_ref()
            .is_ok_and(|answer| answers.keep(key, answer, document.input.task.remaining(SystemTime::now())));
        (answer, if is_kept { CacheUse::Miss } else { CacheUse::Bypass })
    }

    fn ask(&self, document: Document<'_>) -> Result<Arc<Answer>, Undecided> {
        Answer::decode(&self.pool.evaluate(document)?).map(Arc::new)
    }
}
impl Permit {
    /// What the yes is bound to.
    pub fn obligations(&self) -> &Obligations {
        &self.answer.obligations
    }

    /// The rule that said yes; in shadow mode, the one that would have said no.
    pub fn rule(&self) -> &Arc<str> {
        &self.answer.rule
    }

    /// The reason's name, where policy gave one.
    pub fn reason(&self) -> &Arc<str> {
        &self.answer.reason
    }

    /// Whether policy said yes itself. Not so for a call that only goes on because policy is in shadow mode.
    pub fn enforced(&self) -> bool {
        self.enforced
    }

    /// For shadow mode alone: the call goes on although policy said no. Nothing that the no said binds it.
    fn in_spite_of(denial: &Denial) -> Self {
        let answer = Answer {
            decision: Verdict::Allow,
            reason: Arc::clone(&denial.reason),
            rule: Arc::clone(&denial.rule),
            ..Answer::denied()
        };
        Self { answer: Arc::new(answer), enforced: false }
    }
}

impl Denial {
    fn said(kind: DenialKind, answer: &Answer) -> Self {
        let or = |text: &Arc<str>, default: &str| if text.is_empty() { default.into() } else { Arc::clone(text) };
        let (reason, message) = match kind {
            DenialKind::Rule | DenialKind::Undecided(_) => ("denied", "policy does not permit this call"),
            DenialKind::ApprovalRequired => ("approval_required", "this call needs a person's approval"),
        };
        Self {
            kind,
            reason: or(&answer.reason, reason),
            message: or(&answer.message, message),
            rule: Arc::clone(&answer.rule),
            class: answer.class,
        }
    }
}

impl From<Undecided> for Denial {
    fn from(why: Undecided) -> Self {
        Self {
            kind: DenialKind::Undecided(why),
            reason: why.label().into(),
            message: why.message().into(),
            rule: "".into(),
            class: Class::PolicyError,
        }
    }
}

impl Undecided {
    /// The name in metrics and records, and the reason that the agent is given.
    pub fn label(self) -> &'static str {
        match self {
            Self::Undefined => "policy_undefined",
            Self::Error => "policy_failed",
            Self::Budget => "policy_budget_spent",
            Self::Panic => "policy_panicked",
            Self::WrongType => "policy_wrong_type",
            Self::UnknownField => "policy_unknown_field",
            Self::Obligation => "policy_obligation_unsupported",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Undefined => "policy says nothing about this call, so it is not made",
            Self::Error => "policy could not be evaluated for this call, so it is not made",
            Self::Budget => "policy took too long to decide about this call, so it is not made",
            Self::Panic => "the policy engine failed on this call, so it is not made",
            Self::WrongType | Self::UnknownField => "policy gave an invalid answer for this call, so it is not made",
            Self::Obligation => "policy permits this call under a condition that can't be met here, so it is not made",
        }
    }
}

/// A permit only for a clear yes.
fn outcome(answer: Result<Arc<Answer>, Undecided>) -> Result<Permit, Denial> {
    let answer = answer?;
    match answer.decision {
        Verdict::Allow => Ok(Permit { answer, enforced: true }),
        Verdict::Deny => Err(Denial::said(DenialKind::Rule, &answer)),
        Verdict::RequireApproval => Err(Denial::said(DenialKind::ApprovalRequired, &answer)),
    }
}

#[cfg(test)]
mod tests;
