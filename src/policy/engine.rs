//! Evaluates the policy: the one place that runs regorus.
//!
//! Each worker thread has a deep copy of program and data of its own, because threads that share one copy spend their
//! time on its reference counts. An evaluation starts from an untouched clone, so that nothing of one call is left for
//! the next, also not after an error. It runs under a budget, with strict errors; a panic ends the evaluation and the
//! copy it ran on, not the worker. There is no outcome but a value or an [`Undecided`].

use std::{
    cell::Cell,
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use regorus::{Engine, LimitError, Value, utils::limits::ExecutionTimerConfig};

use super::{
    Undecided,
    bundle::{LoadError, Sources},
    input::{Document, value},
    lint::in_one_line,
    reads::Read,
};

/// The prepared copies of one policy generation.
pub struct Pool {
    sources: Arc<Sources>,
    rule: String,
    budget: Duration,
    reads: Vec<Read>,
    lanes: Box<[Mutex<Option<Lane>>]>,
}

/// One worker's copy.
struct Lane {
    prepared: Engine,
    template: value::Template,
}

/// Why an evaluation gave no value, with what the engine says about it. The text may repeat parts of the input, so it
/// is for the person who asked for this evaluation, never for a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which kind of failure.
    pub why: Undecided,
    /// What the engine says.
    pub text: String,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sources, rule, lanes, .. } = self;
        f.debug_struct("Pool")
            .field("revision", &sources.revision)
            .field("rule", rule)
            .field("lanes", &lanes.len())
            .finish()
    }
}

impl Pool {
    /// Prepares the first copy, and room for one copy for each of `workers`.
    pub fn new(
        sources: Arc<Sources>,
        engine: Engine,
        decision: &str,
        budget: Duration,
        workers: usize,
        reads: Vec<Read>,
    ) -> Result<Self, LoadError> {
        let lanes = (0..workers.max(1)).map(|_| Mutex::new(None)).collect();
        let pool = Self { sources, rule: rule_path(decision), budget, reads, lanes };
        let lane = pool.prepare(engine).map_err(|error| LoadError::one(in_one_line("policy", &error)))?;
        *pool.lane() = Some(lane);
        Ok(pool)
    }

    /// What the decision rule says of this document.
    pub fn evaluate(&self, document: Document<'_>) -> Result<Value, Undecided> {
        self.run(|template| template.fill(document)).map_err(|failure| {
            tracing::debug!(why = failure.why.label(), place = place(&failure.text), "policy evaluation failed");
            failure.why
        })
    }

    /// What the decision rule says of a document that was written by hand.
    pub fn evaluate_json(&self, input: &serde_json::Value) -> Result<Value, Failure> {
        self.run(|_| value::from_json(input))
    }

    fn run(&self, input: impl FnOnce(&mut value::Template) -> Value) -> Result<Value, Failure> {
        let mut slot = self.lane();
        let mut lane = match slot.take() {
            Some(lane) => lane,
            None => load(&self.sources, self.budget).and_then(|engine| self.prepare(engine)).map_err(Failure::from)?,
        };
        let evaluated = catch_unwind(AssertUnwindSafe(|| {
            let mut engine = lane.prepared.clone();
            engine.set_input(input(&mut lane.template));
            engine.eval_rule(self.rule.clone())
        }));
        match evaluated {
            Ok(outcome) => {
                *slot = Some(lane);
                outcome.map_err(Failure::from)
            }
            Err(_) => Err(Failure { why: Undecided::Panic, text: "the evaluation panicked".into() }),
        }
    }

    /// This thread's copy, or else any that is free. Waits only when more threads decide than there are copies.
    fn lane(&self) -> MutexGuard<'_, Option<Lane>> {
        let first = hint() % self.lanes.len();
        for offset in 0..self.lanes.len() {
            match self.lanes[(first + offset) % self.lanes.len()].try_lock() {
                Ok(lane) => return lane,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        self.lanes[first].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Analyses the policy, and makes sure that the decision rule exists.
    fn prepare(&self, mut engine: Engine) -> anyhow::Result<Lane> {
        engine.compile_with_entrypoint(&self.rule.as_str().into())?;
        Ok(Lane { prepared: engine, template: value::Template::new(&self.reads) })
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let why = match error.downcast_ref::<LimitError>() {
            Some(LimitError::TimeLimitExceeded { .. }) => Undecided::Budget,
            Some(LimitError::MemoryLimitExceeded { .. } | LimitError::RegexSizeLimitExceeded { .. }) | None => {
                Undecided::Error
            }
        };
        Self { why, text: error.to_string() }
    }
}

/// Parses the sources into an engine of their own. Nothing is evaluated by that.
pub fn load(sources: &Sources, budget: Duration) -> anyhow::Result<Engine> {
    // With the default of 128 globs, a policy that matches more of them compiles each one again on every evaluation.
    regorus::cache::configure(regorus::cache::Config { regex: PATTERNS, glob: PATTERNS });
    let mut engine = Engine::new();
    engine.set_strict_builtin_errors(true);
    // What a policy prints would otherwise go to standard error.
    engine.set_gather_prints(true);
    engine.set_execution_timer_config(ExecutionTimerConfig { limit: budget, check_interval: CHECK_INTERVAL });
    for (name, text) in &sources.modules {
        engine.add_policy(name.clone(), text.clone())?;
    }
    engine.add_data(value::from_json(&sources.data))?;
    Ok(engine)
}

/// The rule's path in Rego: `tollgate/decision` is `data.tollgate.decision`.
fn rule_path(decision: &str) -> String {
    let is_name = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !part.starts_with(|first: char| first.is_ascii_digit())
    };
    decision.split('/').fold("data".to_owned(), |path, part| match is_name(part) {
        true => format!("{path}.{part}"),
        false => format!("{path}[{part:?}]"),
    })
}

/// The file, line and column of an error's text, without the snippet and values that follow.
fn place(text: &str) -> &str {
    text.lines().find_map(|line| line.trim_start().strip_prefix("--> ")).unwrap_or_default()
}

/// A small number of this thread's own, so that each thread comes back to the same copy.
fn hint() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static HINT: Cell<Option<usize>> = const { Cell::new(None) });
    HINT.with(|own| {
        let hint = own.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
        own.set(Some(hint));
        hint
    })
}

/// Compiled regular expressions, and globs, kept by regorus for the whole process.
const PATTERNS: usize = 4096;

/// Steps between two looks at the clock: a step takes about a microsecond.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(32).expect("32 is not zero");

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use serde_json::json;

    use super::*;
    use crate::policy::{input::tests::Scene, reads::ReadSet};

    const BUDGET: Duration = Duration::from_secs(5);

    fn sources(rules: &str) -> Arc<Sources> {
        let modules = vec![("test.rego".to_owned(), format!("package tollgate\n{rules}\n"))];
        Arc::new(Sources { modules, data: json!({"limit": 3}), revision: "test".into() })
    }

    fn try_pool(rules: &str, budget: Duration, workers: usize) -> Result<Pool, LoadError> {
        let sources = sources(rules);
        let mut engine = load(&sources, budget).map_err(|error| LoadError::one(error.to_string()))?;
        let reads = ReadSet::of_modules(engine.get_modules()).reads().to_vec();
        Pool::new(sources, engine, "tollgate/decision", budget, workers, reads)
    }

    fn pool(rules: &str) -> Pool {
        try_pool(rules, BUDGET, 2).unwrap()
    }

    fn evaluate(pool: &Pool, scene: &Scene) -> Result<serde_json::Value, Undecided> {
        let input = scene.input();
        pool.evaluate(Document { input: &input, matches: &scene.matches }).map(|value| match value {
            Value::Undefined => json!("undefined"),
            value => value::to_json(&value),
        })
    }

    #[test]
    fn a_rule_sees_the_input_and_the_data() {
        let pool = pool("decision := [input.call.method, data.limit]");
        assert_eq!(evaluate(&pool, &Scene::http()), Ok(json!(["POST", 3])));
    }

    #[test]
    fn an_undefined_rule_is_a_value_of_its_own() {
        let pool = pool("decision := 1 if input.call.method == \"GET\"");
        assert_eq!(evaluate(&pool, &Scene::http()), Ok(json!("undefined")));
    }

    #[test]
    fn what_fails_is_an_error_and_the_next_call_is_not_touched_by_it() {
        for (rules, what) in [
            ("decision := 1 if input.call.port\ndecision := 2 if input.call.port == 443", "a conflict"),
            ("decision := 1 / (input.call.port - 443)", "a division by zero"),
            ("decision := to_number(input.call.method) if input.call.port == 443\nelse := 2", "a builtin's error"),
            ("decision if not startswith(input.call.port, \"x\")", "a type error under not"),
            (
                "r if { input.call.port == 443; 1 / (input.call.port - 443) }\n\
              decision := 2 if { r with input.call.host as \"x\" } else := 3",
                "an error below with",
            ),
        ] {
            let pool = pool(rules);
            let mut scene = Scene::http();
            assert_eq!(evaluate(&pool, &scene), Err(Undecided::Error), "{what}");
            scene.call.http.port = 80;
            let fresh = evaluate(&try_pool(rules, BUDGET, 1).unwrap(), &scene);
            assert_eq!(evaluate(&pool, &scene), fresh, "after {what}");
        }
    }

    #[test]
    fn a_rule_that_loops_for_long_spends_its_budget() {
        let rules = "numbers := [n | some a in data.many; some b in data.many; n := a * b]\n\
                     decision := count(numbers) if input.call.port == 443\nelse := 1";
        let many: Vec<u32> = (0..3000).collect();
        let mut sources = Sources::clone(&sources(rules));
        sources.data = json!({"many": many});
        let budget = Duration::from_millis(5);
        let engine = load(&sources, budget).unwrap();
        let reads = ReadSet::everything().reads().to_vec();
        let pool = Pool::new(Arc::new(sources), engine, "tollgate/decision", budget, 1, reads).unwrap();
        let mut scene = Scene::http();
        assert_eq!(evaluate(&pool, &scene), Err(Undecided::Budget));
        scene.call.http.port = 80;
        assert_eq!(evaluate(&pool, &scene), Ok(json!(1)));
    }

    #[test]
    fn a_panic_is_caught_and_the_copy_replaced() {
        let pool = pool("decision := object.subset([], []) if input.call.port == 443\nelse := 1");
        let mut scene = Scene::http();
        for _ in 0..3 {
            assert_eq!(evaluate(&pool, &scene), Err(Undecided::Panic));
        }
        scene.call.http.port = 80;
        assert_eq!(evaluate(&pool, &scene), Ok(json!(1)));
    }

    #[test]
    fn a_decision_rule_that_does_not_exist_is_refused_at_load() {
        let error = try_pool("other := 1", BUDGET, 1).unwrap_err().to_string();
        assert!(error.contains("not a valid rule path"), "{error}");
    }

    #[test]
    fn text_that_is_no_rego_is_refused_with_its_place() {
        let error = try_pool("decision := ", BUDGET, 1).unwrap_err().to_string();
        assert!(error.contains("test.rego:"), "{error}");
    }

    #[test]
    fn a_path_in_slashes_is_a_rule_path() {
        for (decision, path) in [
            ("tollgate/decision", "data.tollgate.decision"),
            ("a/b-c/d", "data.a[\"b-c\"].d"),
            ("a/1/d", "data.a[\"1\"].d"),
        ] {
            assert_eq!(rule_path(decision), path);
        }
    }

    #[test]
    fn threads_that_decide_at_once_have_copies_of_their_own() {
        let pool = pool("decision := input.call.port");
        let both = Barrier::new(2);
        let hold = || {
            let lane = pool.lane();
            both.wait();
            std::ptr::from_ref(&*lane).addr()
        };
        let addresses =
            thread::scope(|scope| [scope.spawn(hold), scope.spawn(hold)].map(|thread| thread.join().unwrap()));
        assert_ne!(addresses[0], addresses[1]);
    }

    #[test]
    fn a_thread_comes_back_to_its_own_copy() {
        let pool = pool("decision := 1");
        let own = |pool: &Pool| std::ptr::from_ref(&*pool.lane()).addr();
        let first = own(&pool);
        assert!((0..10).all(|_| own(&pool) == first));
    }

    #[test]
    fn more_threads_than_copies_still_all_decide() {
        let pool = try_pool("decision := input.call.port", BUDGET, 1).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let scene = Scene::http();
                    (0..20).for_each(|_| assert_eq!(evaluate(&pool, &scene), Ok(json!(443))));
                });
            }
        });
    }
}
