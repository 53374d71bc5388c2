use std::sync::Mutex;

use http::HeaderValue;
use tokio::time::advance;

use super::{
    book::{KEPT, MOST},
    *,
};
use crate::task::handle::TASK;

const HOUR: Duration = Duration::from_secs(3600);

type Log = Arc<Mutex<Vec<(String, Happened)>>>;

fn registry(fixed: Option<config::StaticTask>) -> (Registry, Log) {
    let log = Log::default();
    let told = Arc::clone(&log);
    let settings = config::Tasks { fixed, ..config::Tasks::default() };
    let registry =
        Registry::new(&settings, Box::new(move |id, what| told.lock().expect("no panic").push((id.to_string(), what))));
    (registry, log)
}

fn opening(purpose: &str) -> Opening {
    Opening {
        purpose: purpose.into(),
        max_effect: None,
        ceiling: None,
        subject: None,
        manifest: None,
        ttl: HOUR,
        idle: None,
    }
}

fn presenting(registry: &Registry, handle: &str) -> Presented {
    registry.take(&mut HeaderMap::from_iter([(TASK, HeaderValue::from_str(handle).expect("a value"))]))
}

fn enter(registry: &Registry, presented: Presented, destination: &str) -> Result<Arc<Task>, Refusal> {
    let task = registry.of(presented)?;
    task.enter(destination).map(|()| task)
}

fn label(entered: Result<Arc<Task>, Refusal>) -> String {
    entered.map_or_else(|refusal| refusal.label().to_owned(), |task| task.purpose.to_string())
}

#[tokio::test]
async fn a_call_belongs_to_the_task_that_it_presents_else_to_the_static_one_else_to_none() {
    let (none, _) = registry(None);
    assert_eq!(enter(&none, Presented::Nothing, "api").expect("it may").source, Source::None);

    let (registry, _) = registry(Some(config::StaticTask::new("fixed", HOUR)));
    let one = registry.open(opening("one")).expect("it opens");
    let other = registry.open(opening("other")).expect("it opens");
    for (presented, expected) in [
        (Presented::Nothing, "fixed"),
        (presenting(&registry, &one.handle), "one"),
        (presenting(&registry, &other.handle), "other"),
        (presenting(&registry, "tollgate_task_unknown"), "task_unknown"),
        (presenting(&registry, &one.shown.task.id), "task_unknown"),
        (presenting(&registry, ""), "task_unknown"),
        (Presented::Several, "malformed_request"),
    ] {
        assert_eq!(label(enter(&registry, presented, "api")), expected);
    }
}

#[tokio::test]
async fn what_ended_refuses_every_further_call_and_what_it_caused_is_taken_back_once() {
    let (registry, log) = registry(None);
    for (end, expected) in [(End::Ended, "task_ended"), (End::Killed, "task_killed"), (End::Expired, "task_expired")] {
        let opened = registry.open(opening("x")).expect("it opens");
        let (id, presented) = (&opened.shown.task.id, presenting(&registry, &opened.handle));
        let before = enter(&registry, presented, "api").expect("it is open");
        registry.end(id, end).expect("it is known");
        registry.end(id, End::Killed).expect("it is still known");
        assert_eq!(label(enter(&registry, presented, "api")), expected);
        assert_eq!(before.refusal("api").map(|refusal| refusal.label()), Some(expected), "also for who holds it");
        let shown = registry.show(id).expect("it is remembered");
        assert_eq!((shown.end, shown.task.epoch), (Some(end), 2));
        assert_eq!(log.lock().expect("no panic").pop(), Some((id.to_string(), Happened::Over)));
        assert!(log.lock().expect("no panic").is_empty());
    }
    assert_eq!(registry.end("unknown", End::Ended).expect_err("unknown"), Fault::Unknown);
}

#[tokio::test]
async fn a_change_is_the_next_epoch() {
    let (registry, log) = registry(None);
    let opened = registry.open(opening("read")).expect("it opens");
    let id = Arc::clone(&opened.shown.task.id);
    let before = enter(&registry, presenting(&registry, &opened.handle), "api").expect("it is open");
    let change = Change {
        purpose: Some("write".into()),
        max_effect: Some(Effect::Write),
        ceiling: Some(Classification::Public),
        subject: Some(Subject::new("alice")),
        ttl: None,
    };
    registry.change(&id, change).expect("it is open");

    let after = registry.newest(&before);
    assert_eq!((before.epoch, after.epoch, &*after.purpose), (1, 2, "write"));
    assert_eq!((after.max_effect, after.ceiling), (Some(Effect::Write), Some(Classification::Public)));
    assert_eq!(after.expires_at, before.expires_at, "what is not named stays");
    assert_eq!(*log.lock().expect("no panic"), [(id.to_string(), Happened::Changed { epoch: 2 })]);

    let longer = Change { ttl: Some(2 * HOUR), ..Change::default() };
    assert!(registry.change(&id, longer).expect("it is open").task.expires_at > after.expires_at);
    let too_long = Change { ttl: Some(25 * HOUR), ..Change::default() };
    assert_eq!(registry.change(&id, too_long).expect_err("too long"), Fault::TooLong);
    registry.end(&id, End::Ended).expect("it is known");
    assert_eq!(registry.change(&id, Change::default()).expect_err("it is over"), Fault::Over);
    assert_eq!(registry.change("unknown", Change::default()).expect_err("unknown"), Fault::Unknown);
}

#[tokio::test(start_paused = true)]
async fn time_ends_a_task_and_so_does_want_of_use() {
    let (registry, log) = registry(Some(config::StaticTask::new("fixed", HOUR)));
    let idle = registry.open(Opening { idle: Some(HOUR / 4), ..opening("idle") }).expect("it opens");
    let used = registry.open(Opening { idle: Some(HOUR / 4), ..opening("used") }).expect("it opens");
    let streaming = registry.open(Opening { idle: Some(HOUR / 4), ..opening("streaming") }).expect("it opens");
    let registry = Arc::new(registry);
    let keeping = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.keep().await }
    });
    let stream = tokio::spawn({
        let task = enter(&registry, presenting(&registry, &streaming.handle), "api").expect("it is open");
        async move { task.withdrawn("api").await }
    });
    for _ in 0..2 {
        advance(HOUR / 6).await;
        enter(&registry, presenting(&registry, &used.handle), "api").expect("it is used");
        tokio::task::yield_now().await;
    }
    let end = |opened: &Opened| registry.show(&opened.shown.task.id).and_then(|shown| shown.end);
    assert_eq!((end(&idle), end(&used), end(&streaming)), (Some(End::Idle), None, None));
    assert_eq!(label(enter(&registry, presenting(&registry, &idle.handle), "api")), "task_expired");
    assert_eq!(label(enter(&registry, Presented::Nothing, "api")), "fixed");

    advance(HOUR).await;
    assert_eq!(stream.await.expect("no panic").label(), "task_expired");
    assert_eq!(label(enter(&registry, Presented::Nothing, "api")), "task_expired");
    assert_eq!(log.lock().expect("no panic").len(), 4);
    keeping.abort();
}

#[tokio::test(start_paused = true)]
async fn what_ended_is_forgotten_after_a_while_and_the_number_of_tasks_is_bounded() {
    let (registry, _) = registry(None);
    let first = registry.open(opening("first")).expect("it opens");
    for _ in 1..MOST {
        registry.open(opening("more")).expect("there is room");
    }
    assert_eq!(registry.open(opening("one too many")).expect_err("it is full"), Fault::Full);
    registry.end(&first.shown.task.id, End::Ended).expect("it is known");
    let last = registry.open(opening("last")).expect("what ended makes room");
    assert_eq!(label(enter(&registry, presenting(&registry, &first.handle), "api")), "task_unknown");

    registry.end(&last.shown.task.id, End::Ended).expect("it is known");
    registry.sweep(Instant::now() + KEPT / 2);
    assert_eq!(label(enter(&registry, presenting(&registry, &last.handle), "api")), "task_ended");
    registry.sweep(Instant::now() + KEPT);
    assert_eq!(label(enter(&registry, presenting(&registry, &last.handle), "api")), "task_unknown");
}

#[tokio::test]
async fn what_is_switched_off_is_refused_in_every_task() {
    let (registry, _) = registry(None);
    let opened = registry.open(opening("x")).expect("it opens");
    let presented = presenting(&registry, &opened.handle);
    let task = enter(&registry, Presented::Nothing, "api").expect("no task is needed");

    registry.kill_destination("api");
    assert_eq!(label(enter(&registry, presented, "api")), "destination_killed");
    assert_eq!(label(enter(&registry, presented, "tools")), "x");
    assert_eq!(task.withdrawn("api").await.label(), "destination_killed");

    registry.kill_agent();
    assert_eq!(label(enter(&registry, presented, "tools")), "agent_killed");
    assert_eq!(label(enter(&registry, Presented::Nothing, "tools")), "agent_killed");
    assert_eq!(registry.show(&opened.shown.task.id).and_then(|shown| shown.end), Some(End::Killed));
}

#[tokio::test]
async fn no_task_is_opened_that_no_call_could_belong_to_or_that_lasts_too_long() {
    let settings = config::Tasks { header: false, ..config::Tasks::default() };
    let unused = Registry::new(&settings, Box::new(|_, _| {}));
    assert_eq!(unused.open(opening("x")).expect_err("unused"), Fault::Unused);
    let (registry, _) = registry(None);
    let long = Opening { ttl: 25 * HOUR, ..opening("x") };
    assert_eq!(registry.open(long).expect_err("too long"), Fault::TooLong);
    assert_eq!(registry.count(), 0);
}

#[tokio::test]
async fn debug_shows_no_handle() {
    let (registry, _) = registry(None);
    let opened = registry.open(opening("triage")).expect("it is opened");
    let shown = format!("{opened:?} {registry:?}");
    assert!(shown.contains("triage") && !shown.contains(&opened.handle[14..]), "{shown}");
}
