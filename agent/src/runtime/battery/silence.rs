//! Cases about a runtime that does not answer: what is known stays, nothing is done, and nothing is lost.

use std::{fs, path::PathBuf};

use tokio::time::Instant;

use super::{Daemon, PATIENCE, PAUSE, Stand, all, next, until};
use crate::{
    runtime::{LogQuery, RuntimeError, UnitStatus},
    shim::Status,
};

fn daemon<'a>(stand: &Stand<'a>) -> &'a dyn Daemon {
    stand.place.daemon().expect("these cases are for runtimes that have one")
}

/// Waits until the agent has noticed.
async fn is_unknown(stand: &Stand<'_>) {
    let is_unknown = |seen: &UnitStatus| seen.state.status == Status::Unknown;
    until("the units to be unknown", || stand.runtime.list().iter().all(is_unknown)).await;
}

/// Waits until the agent has noticed that it answers.
async fn answers(stand: &Stand<'_>) {
    until("the runtime to answer", || stand.runtime.trouble("default/App/web", None).is_none()).await;
}

/// Waits until the runtime is back, and does what planning does then: what a runtime that came back has stopped is started.
async fn is_back(stand: &Stand<'_>, unit: &str) {
    answers(stand).await;
    let begun = Instant::now();
    loop {
        match stand.runtime.start_again(unit).await {
            Ok(_) => return,
            // It may be about to stop it.
            Err(error) => assert!(begun.elapsed() < PATIENCE, "it cannot be started again: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn ids(units: &[UnitStatus]) -> Vec<&str> {
    units.iter().map(|seen| seen.unit.as_str()).collect()
}

pub(super) async fn what_does_not_answer_is_unknown_and_stays_as_it_is(stand: &mut Stand<'_>) {
    let unit = stand.start("exec sleep 1000", "").await;
    let daemon = daemon(stand);
    daemon.freeze();
    is_unknown(stand).await;
    let looked = stand.runtime.observe("default/App/web", None).await;
    assert!(matches!(looked, Err(RuntimeError::Unknown { .. })), "no plan is made from it: {looked:?}");
    assert!(stand.runtime.trouble("default/App/web", None).is_some());
    let spec = stand.spec("web", "exec sleep 1000", "");
    let made = stand.runtime.start(&spec).await.expect_err("nobody could start it");
    assert_eq!(ids(&stand.runtime.list()), [unit.unit.as_str()], "{made}");
    daemon.thaw();
    let seen = stand.until(&unit.unit, "it to be known again", |seen| seen.state.is_up()).await;
    assert_eq!((seen.state.pid, seen.state.restarts), (unit.state.pid, unit.state.restarts));
    assert_eq!(ids(&stand.runtime.list()), [unit.unit.as_str()], "nothing was made, then or now");
    assert_eq!(stand.runtime.trouble("default/App/web", None), None);
}

pub(super) async fn what_has_died_and_come_back_has_its_units_once(stand: &mut Stand<'_>) {
    let (one, two) = (stand.start("exec sleep 1000", "").await, stand.start("exec sleep 1000", "").await);
    stand.runtime.stop(&two.unit).await.expect("it stops");
    let daemon = daemon(stand);
    daemon.kill();
    is_unknown(stand).await;
    daemon.start();
    is_back(stand, &one.unit).await;
    stand.until(&one.unit, "it to run", |seen| seen.state.is_up()).await;
    let stopped = stand.look(&two.unit).await.expect("what was stopped is there");
    assert_eq!(stopped.state.status, Status::Stopped, "and nobody starts it");
    let mut expected = [one.unit.as_str(), &two.unit];
    expected.sort_unstable();
    assert_eq!(ids(&stand.runtime.list()), expected);
    // An agent that starts now finds the same.
    stand.runtime.close().await;
    stand.runtime = stand.place.open().await;
    assert_eq!(ids(&stand.runtime.list()), expected);
    let again = stand.runtime.start_again(&two.unit).await.expect("it can be started again");
    assert_eq!((again.state.status, &again.unit), (Status::Started, &two.unit));
}

/// A unit that writes a line each time that it is told to, and goes on where it stood when it is started again.
struct Teller {
    unit: String,
    dir: PathBuf,
}

impl Teller {
    async fn start(stand: &Stand<'_>) -> Self {
        let dir = stand.place.shared().to_owned();
        let script = format!(
            "cd {}; i=$(cat next 2>/dev/null || echo 1); while :; do until [ -e $i ]; do sleep 0.05; done; echo line $i; \
             i=$((i+1)); echo $i > next; done",
            dir.display()
        );
        Self { unit: stand.start(&script, "").await.unit, dir }
    }

    fn tell(&self, number: u32) {
        fs::write(self.dir.join(number.to_string()), "").expect("the shared directory can be written to");
    }

    /// Waits until it has written that line, whoever reads it.
    async fn told(&self, number: u32) {
        let (path, after) = (self.dir.join("next"), (number + 1).to_string());
        until("it to write", || fs::read_to_string(&path).is_ok_and(|text| text.trim() == after)).await;
    }
}

pub(super) async fn following_goes_on_when_the_runtime_answers_again(stand: &mut Stand<'_>) {
    let teller = Teller::start(stand).await;
    let mut lines = stand.follow();
    teller.tell(1);
    assert_eq!(next(&mut lines).await.line.text, "line 1");
    let daemon = daemon(stand);
    daemon.freeze();
    teller.tell(2);
    teller.told(2).await;
    is_unknown(stand).await;
    daemon.thaw();
    assert_eq!(next(&mut lines).await.line.text, "line 2");
    teller.tell(3);
    assert_eq!(next(&mut lines).await.line.text, "line 3");
    answers(stand).await;
    assert_eq!(stand.texts(3).await, ["line 1", "line 2", "line 3"]);
}

pub(super) async fn following_goes_on_when_the_runtime_has_died_and_come_back(stand: &mut Stand<'_>) {
    let teller = Teller::start(stand).await;
    let mut lines = stand.follow();
    for number in 1..=2 {
        teller.tell(number);
        assert_eq!(next(&mut lines).await.line.text, format!("line {number}"));
        teller.told(number).await;
    }
    let daemon = daemon(stand);
    daemon.kill();
    is_unknown(stand).await;
    daemon.start();
    is_back(stand, &teller.unit).await;
    teller.tell(3);
    assert_eq!(next(&mut lines).await.line.text, "line 3", "and none of those before");
    teller.tell(4);
    assert_eq!(next(&mut lines).await.line.text, "line 4");
}

pub(super) async fn a_log_that_cannot_be_read_is_no_short_one(stand: &mut Stand<'_>) {
    stand.start("echo one; exec sleep 1000", "").await;
    stand.log(1).await;
    let daemon = daemon(stand);
    for noticed in [false, true] {
        daemon.freeze();
        if noticed {
            is_unknown(stand).await;
        }
        let mut lines = stand.runtime.logs(Stand::query());
        let end = tokio::time::timeout(PATIENCE, lines.recv()).await.expect("it ends");
        assert!(matches!(end, Some(Err(_))), "{end:?}");
        assert!(lines.recv().await.is_none(), "nothing follows it");
        daemon.thaw();
        answers(stand).await;
        stand.log(1).await;
    }
    daemon.kill();
    let mut lines = stand.runtime.logs(LogQuery { tail: Some(1), ..Stand::query() });
    let end = lines.recv().await;
    assert!(matches!(end, Some(Err(_))), "{end:?}");
    daemon.start();
    answers(stand).await;
    assert!(!all(stand.runtime.logs(Stand::query())).await.is_empty());
}
