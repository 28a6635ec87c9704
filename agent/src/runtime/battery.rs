//! The battery: what every runtime does alike. For anyone who writes one.
//!
//! A case panics with what differs. Cases may run at the same time, each on a runtime of its own with a [`Place`] of its
//! own; they leave no unit behind.

mod bounds;
mod commands;
mod declared;
mod files;
mod health;
mod hooks;
mod logs;
mod mark;
mod ports;
mod silence;

use std::{fmt, fs, future::Future, path::Path, pin::Pin, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::time::Instant;

use self::{
    bounds::{a_log_keeps_to_its_bounds, a_tail_keeps_to_its_bytes, what_two_agents_do_at_once_is_done_once},
    commands::{
        a_command_runs_as_its_unit_does, a_command_that_nobody_wants_ends_with_all_it_started,
        a_command_that_writes_much_waits_for_its_reader, a_program_that_there_is_not_says_so,
        how_a_command_ended_is_told, only_what_runs_runs_commands, what_a_command_reads_ends,
        what_a_command_writes_comes_in_order,
    },
    declared::{
        files_are_changed_under_a_unit_that_runs_on, files_are_there_before_it_starts,
        files_that_differ_are_told_and_written_again, what_is_in_a_file_is_never_told,
    },
    files::{
        a_file_comes_back_as_it_was_put, a_path_may_be_relative, files_belong_to_whom_they_are_given,
        what_is_no_file_is_refused, what_is_not_there_is_not_found, what_is_too_large_is_refused,
    },
    health::{
        a_command_that_fails_makes_a_unit_unhealthy, a_port_that_answers_is_what_makes_a_unit_started,
        a_wrong_answer_is_told_and_a_right_one_mends, health_is_known_again_after_a_restart_of_the_agent,
        what_is_not_healthy_yet_is_given_its_start_period, what_is_unhealthy_is_not_restarted,
    },
    hooks::{
        a_hook_that_fails_at_the_end_is_remarked_and_changes_nothing,
        a_hook_that_fails_at_the_start_is_the_starts_failure, a_hook_that_is_no_program_says_so,
        hooks_have_what_their_unit_has, hooks_run_once_around_each_life, who_follows_the_log_hears_of_hooks,
    },
    logs::{
        a_tail_is_the_last_lines, following_goes_on_across_crashes, following_goes_on_and_joins_who_comes,
        following_goes_on_where_a_unit_starts_again, lines_come_in_order,
    },
    mark::an_agent_of_a_later_epoch_acts_and_an_earlier_one_does_not_any_more,
    ports::ports_are_given_and_told,
    silence::{
        a_log_that_cannot_be_read_is_no_short_one, following_goes_on_when_the_runtime_answers_again,
        following_goes_on_when_the_runtime_has_died_and_come_back,
        what_does_not_answer_is_unknown_and_stays_as_it_is, what_has_died_and_come_back_has_its_units_once,
    },
};
use super::{LogLines, LogQuery, Runtime, RuntimeError, RuntimeKind, UnitLogLine, UnitSpec, UnitStatus};
use crate::{
    manifest,
    shim::{Ended, Status},
};

/// How long anything may take. No healthy machine gets there.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Where a runtime keeps its units: opened again, it finds them.
pub trait Place: Send + Sync {
    /// Opens the runtime, as an agent that starts does.
    fn open(&self) -> BoxFuture<'_, Arc<dyn Runtime>>;

    /// Lines of `spec` that every app needs here: an image, where units are containers.
    fn lines(&self) -> String;

    /// A directory that units find under the same path, and may write to.
    fn shared(&self) -> &Path;

    /// Opens the runtime as an agent of the same instance does that has a store of its own.
    fn open_other(&self) -> BoxFuture<'_, Arc<dyn Runtime>>;

    /// Who runs the units, where that is somebody who can fall silent; then [`SILENCE`] is to be passed, too. Processes have none:
    /// each unit's supervisor is the agent's own, and one that dies takes its unit along.
    fn daemon(&self) -> Option<&dyn Daemon> {
        None
    }
}

/// Who runs a runtime's units on its behalf. No case has it do something to others than its own units; all of it is done when it
/// returns, which may take a moment, and is undone with the [`Place`].
pub trait Daemon: Send + Sync {
    /// It answers nobody any more, and its units run on.
    fn freeze(&self);

    /// It answers again.
    fn thaw(&self);

    /// It is killed, and cannot tidy up.
    fn kill(&self);

    /// It is started again after that.
    fn start(&self);
}

/// A place, and the runtime that is open there.
pub struct Stand<'a> {
    place: &'a dyn Place,
    runtime: Arc<dyn Runtime>,
}

impl fmt::Debug for Stand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stand").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

type Run = for<'a> fn(&'a mut Stand<'_>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// One case.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    run: Run,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Case {
    /// Runs the case, and removes what is left.
    ///
    /// # Panics
    /// When the runtime does otherwise than all do.
    pub async fn run(&self, place: &dyn Place) {
        let mut stand = Stand { place, runtime: place.open().await };
        (self.run)(&mut stand).await;
        stand.runtime.delete_all().await.expect("what is left can be removed");
        assert_eq!(stand.runtime.list(), Vec::new(), "{}: nothing is left", self.name);
        stand.runtime.close().await;
    }
}

macro_rules! cases {
    ($($name:ident),+ $(,)?) => { &[$(Case { name: stringify!($name), run: |stand| Box::pin($name(stand)) }),+] };
}

/// Cases in which the agent looks at the ports of units: a runtime elsewhere passes them where a way leads there.
pub const REACHING: &[Case] = cases! {
    a_port_that_answers_is_what_makes_a_unit_started,
    a_wrong_answer_is_told_and_a_right_one_mends,
    what_is_not_healthy_yet_is_given_its_start_period,
    health_is_known_again_after_a_restart_of_the_agent,
    what_is_unhealthy_is_not_restarted,
};

/// Cases in which the runtime does not answer: for those with a [`Daemon`]. They are alone with it.
pub const SILENCE: &[Case] = cases! {
    what_does_not_answer_is_unknown_and_stays_as_it_is,
    what_has_died_and_come_back_has_its_units_once,
    following_goes_on_when_the_runtime_answers_again,
    following_goes_on_when_the_runtime_has_died_and_come_back,
    a_log_that_cannot_be_read_is_no_short_one,
};

/// Every other case.
pub const BATTERY: &[Case] = cases! {
    a_unit_starts_stops_starts_again_and_goes,
    what_is_done_already_is_done_again,
    what_there_is_not_is_not_found,
    how_it_ended_is_told,
    what_ends_is_started_again,
    what_ignores_its_signal_is_killed,
    what_cannot_start_leaves_nothing,
    the_environment_is_as_declared,
    files_are_there_before_it_starts,
    files_that_differ_are_told_and_written_again,
    files_are_changed_under_a_unit_that_runs_on,
    what_is_in_a_file_is_never_told,
    ports_are_given_and_told,
    lines_come_in_order,
    a_tail_is_the_last_lines,
    following_goes_on_and_joins_who_comes,
    following_goes_on_where_a_unit_starts_again,
    following_goes_on_across_crashes,
    units_belong_to_their_app,
    units_are_found_again,
    what_ended_while_nobody_looked_is_told_with_its_status_and_its_log,
    what_falls_is_noticed,
    what_a_command_writes_comes_in_order,
    how_a_command_ended_is_told,
    what_a_command_reads_ends,
    a_command_runs_as_its_unit_does,
    a_program_that_there_is_not_says_so,
    only_what_runs_runs_commands,
    a_command_that_nobody_wants_ends_with_all_it_started,
    a_command_that_writes_much_waits_for_its_reader,
    a_file_comes_back_as_it_was_put,
    a_path_may_be_relative,
    files_belong_to_whom_they_are_given,
    what_is_not_there_is_not_found,
    what_is_no_file_is_refused,
    what_is_too_large_is_refused,
    a_log_keeps_to_its_bounds,
    a_tail_keeps_to_its_bytes,
    an_agent_of_a_later_epoch_acts_and_an_earlier_one_does_not_any_more,
    what_two_agents_do_at_once_is_done_once,
    a_command_that_fails_makes_a_unit_unhealthy,
    what_is_unhealthy_is_not_restarted,
    hooks_run_once_around_each_life,
    a_hook_that_fails_at_the_start_is_the_starts_failure,
    a_hook_that_is_no_program_says_so,
    a_hook_that_fails_at_the_end_is_remarked_and_changes_nothing,
    hooks_have_what_their_unit_has,
    who_follows_the_log_hears_of_hooks,
};

impl Stand<'_> {
    fn spec(&self, name: &str, script: &str, more: &str) -> UnitSpec {
        let script = serde_json::to_string(script).expect("a text is JSON");
        // The first process of a container ignores signals that it does not handle.
        let stop = if more.contains("  stop:") { "" } else { "  stop: {gracePeriod: 1s}\n" };
        let yaml = format!(
            "apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec:\n{}  command: [/bin/sh, -c, {script}]\n{stop}{more}",
            self.place.lines()
        );
        let read = manifest::parse(self.runtime.kind(), "battery", yaml.as_bytes());
        let manifest = read.expect("the battery's own apps are in order").remove(0);
        UnitSpec { manifest: Arc::new(manifest), generation: "g1".to_owned() }
    }

    async fn start(&self, script: &str, more: &str) -> UnitStatus {
        self.runtime.start(&self.spec("web", script, more)).await.expect("it starts")
    }

    async fn look(&self, unit: &str) -> Option<UnitStatus> {
        let units = self.runtime.observe("default/App/web", None).await.expect("the runtime answers");
        units.into_iter().find(|status| status.unit == unit)
    }

    async fn until(&self, unit: &str, what: &str, holds: impl Fn(&UnitStatus) -> bool) -> UnitStatus {
        let begun = Instant::now();
        loop {
            let seen = self.look(unit).await;
            match seen {
                Some(status) if holds(&status) => return status,
                seen => assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}: {seen:?}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn follow(&self) -> LogLines {
        self.runtime.logs(LogQuery { follow: true, ..Self::query() })
    }

    fn query() -> LogQuery {
        LogQuery { app: "default/App/web".to_owned(), ..LogQuery::default() }
    }

    /// The whole log, once it has so many lines.
    async fn log(&self, count: usize) -> Vec<UnitLogLine> {
        let begun = Instant::now();
        loop {
            let lines = all(self.runtime.logs(Self::query())).await;
            if lines.len() >= count {
                return lines;
            }
            assert!(begun.elapsed() < PATIENCE, "only {lines:?} was written");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn texts(&self, count: usize) -> Vec<String> {
        self.log(count).await.into_iter().map(|line| line.line.text).collect()
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The next line of a log that is followed.
async fn next(lines: &mut LogLines) -> UnitLogLine {
    let line = tokio::time::timeout(PATIENCE, lines.recv()).await.expect("a line comes");
    line.expect("the log goes on").expect("the log can be read")
}

async fn all(mut lines: LogLines) -> Vec<UnitLogLine> {
    let mut found = Vec::new();
    let read = async {
        while let Some(line) = lines.recv().await {
            found.push(line.expect("the log can be read"));
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the log ends");
    found
}

async fn a_unit_starts_stops_starts_again_and_goes(stand: &mut Stand<'_>) {
    let started = stand.start("exec sleep 1000", "").await;
    assert_eq!(started.state.status, Status::Started, "{started:?}");
    assert!(started.state.pid.is_some_and(|pid| pid > 0), "{started:?}");
    assert_eq!(stand.look(&started.unit).await.map(|seen| seen.state.pid), Some(started.state.pid));
    stand.runtime.stop(&started.unit).await.expect("it stops");
    let stopped = stand.look(&started.unit).await.expect("a stopped unit is still there");
    assert_eq!((stopped.state.status, stopped.state.pid), (Status::Stopped, None));
    let again = stand.runtime.start_again(&started.unit).await.expect("it starts again");
    assert_eq!((again.state.status, &again.unit), (Status::Started, &started.unit));
    assert_ne!(again.state.pid, started.state.pid);
    stand.runtime.delete(&started.unit).await.expect("it goes");
    assert_eq!(stand.look(&started.unit).await, None);
}

async fn what_is_done_already_is_done_again(stand: &mut Stand<'_>) {
    let started = stand.start("exec sleep 1000", "").await;
    let same = stand.runtime.start_again(&started.unit).await.expect("what runs may be started");
    assert_eq!(same.state.pid, started.state.pid, "and stays as it is");
    for _ in 0..2 {
        stand.runtime.stop(&started.unit).await.expect("what has stopped may be stopped");
    }
}

async fn what_there_is_not_is_not_found(stand: &mut Stand<'_>) {
    let runtime = &stand.runtime;
    let is_missing =
        |error: &RuntimeError| matches!(error, RuntimeError::NotFound { unit } if unit == "web-0");
    assert!(runtime.start_again("web-0").await.is_err_and(|error| is_missing(&error)));
    assert!(runtime.stop("web-0").await.is_err_and(|error| is_missing(&error)));
    assert!(runtime.delete("web-0").await.is_err_and(|error| is_missing(&error)));
    let started = stand.start("exec sleep 1000", "").await;
    stand.runtime.delete(&started.unit).await.expect("it goes");
    let again = stand.runtime.delete(&started.unit).await;
    assert!(matches!(again, Err(RuntimeError::NotFound { .. })), "{again:?}");
    assert!(
        stand.runtime.falls_within("web-0", Duration::from_secs(1)).await,
        "what is not there has fallen"
    );
}

async fn how_it_ended_is_told(stand: &mut Stand<'_>) {
    let failed = stand.start("exit 3", "  restart: {condition: never}\n").await;
    let ended = stand.until(&failed.unit, "its end", |status| status.state.final_state).await;
    assert_eq!((ended.state.status, ended.state.last_end), (Status::Error, Some(Ended::Exited(3))));
    assert_eq!(ended.state.reason.as_deref(), Some("exited with status 3"));
    let done = stand.start("exit 0", "  restart: {condition: on-failure}\n").await;
    let ended = stand.until(&done.unit, "its end", |status| status.state.final_state).await;
    assert_eq!((ended.state.status, ended.state.last_end), (Status::Stopped, Some(Ended::Exited(0))));
    assert_eq!(ended.state.reason.as_deref(), Some("exited with status 0"));
}

async fn what_ends_is_started_again(stand: &mut Stand<'_>) {
    let looping = stand.start("sleep 0.1; exit 4", "").await;
    let crash = |status: &UnitStatus| {
        status.state.restarts >= 2
            && status.state.reason.as_deref().is_some_and(|reason| reason.contains("exited with status 4"))
    };
    let seen = stand.until(&looping.unit, "a restart that says why", crash).await;
    assert_eq!(seen.state.status, Status::Error);
    assert!(!seen.state.final_state, "it goes on: {seen:?}");
    stand.runtime.stop(&looping.unit).await.expect("what loops can be stopped");
    let stopped = stand.look(&looping.unit).await.expect("a stopped unit is still there");
    assert_eq!(stopped.state.status, Status::Stopped, "{stopped:?}");
}

async fn what_ignores_its_signal_is_killed(stand: &mut Stand<'_>) {
    let script = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    let deaf = stand.start(script, "  stop: {gracePeriod: 1s}\n").await;
    stand.log(1).await;
    stand.runtime.stop(&deaf.unit).await.expect("it is killed");
    assert_eq!(stand.look(&deaf.unit).await.map(|seen| seen.state.pid), Some(None));
    let script = "trap 'echo told; exit 0' USR1; echo ready; while :; do sleep 0.1; done";
    let polite = stand.start(script, "  stop: {signal: SIGUSR1, gracePeriod: 50s}\n").await;
    stand.log(2).await;
    stand.runtime.stop(&polite.unit).await.expect("it goes when it is told");
    assert!(stand.texts(3).await.contains(&"told".to_owned()));
}

async fn what_cannot_start_leaves_nothing(stand: &mut Stand<'_>) {
    let mut spec = stand.spec("web", "", "");
    let mut manifest = (*spec.manifest).clone();
    manifest.spec.command = vec!["/no/such/program".to_owned()];
    spec.manifest = Arc::new(manifest);
    let error = stand.runtime.start(&spec).await.expect_err("there is no such program");
    assert!(error.to_string().contains("/no/such/program"), "{error}");
    assert_eq!(
        stand.runtime.observe("default/App/web", None).await.expect("the runtime answers"),
        Vec::new()
    );
}

async fn the_environment_is_as_declared(stand: &mut Stand<'_>) {
    let script =
        "echo $GREETING; echo $TOWLINE_UNIT; echo $TOWLINE_APP; echo $PORT_HTTP; pwd; exec sleep 1000";
    let more = "  env: {GREETING: h\u{e4}llo}\n  workingDir: /tmp\n  ports: [{name: http, port: 8080}]\n";
    let unit = stand.start(script, more).await;
    let [greeting, name, app, port, dir] = <[String; 5]>::try_from(stand.texts(5).await).expect("five lines");
    assert_eq!((greeting.as_str(), dir.as_str()), ("h\u{e4}llo", "/tmp"));
    assert_eq!((&name, app.as_str()), (&unit.unit, "default/App/web"));
    let told: u16 = port.parse().expect("a port is a number");
    let given = unit.ports.first().expect("it has a port");
    let expected = if stand.runtime.kind() == RuntimeKind::Process { given.host_port } else { 8080 };
    assert_eq!(told, expected, "where it is to listen");
}

async fn units_belong_to_their_app(stand: &mut Stand<'_>) {
    let web = stand.start("exec sleep 1000", "").await;
    let other = stand.runtime.start(&stand.spec("other", "exec sleep 1000", "")).await.expect("it starts");
    let ids = |units: Vec<UnitStatus>| units.into_iter().map(|unit| unit.unit).collect::<Vec<_>>();
    assert_eq!(ids(stand.runtime.units_of("default/App/web")), std::slice::from_ref(&web.unit));
    let observed = stand.runtime.observe("default/App/other", None).await.expect("the runtime answers");
    assert_eq!(ids(observed), std::slice::from_ref(&other.unit));
    let mut both = [web.unit, other.unit];
    both.sort();
    assert_eq!(ids(stand.runtime.list()), both);
}

async fn units_are_found_again(stand: &mut Stand<'_>) {
    let running = stand.start("echo before; exec sleep 1000", "").await;
    let ended = stand.start("exit 5", "  restart: {condition: never}\n").await;
    stand.until(&ended.unit, "its end", |status| status.state.final_state).await;
    stand.log(1).await;
    stand.runtime.close().await;
    stand.runtime = stand.place.open().await;
    let found = stand.look(&running.unit).await.expect("it is found again");
    assert_eq!((found.state.pid, &found.generation), (running.state.pid, &running.generation));
    assert_eq!(found.created, running.created);
    let found = stand.look(&ended.unit).await.expect("what has ended is found again");
    assert_eq!(found.state.last_end, Some(Ended::Exited(5)), "and how it ended");
    assert_eq!(stand.texts(1).await, ["before"], "and its log");
}

async fn what_ended_while_nobody_looked_is_told_with_its_status_and_its_log(stand: &mut Stand<'_>) {
    let shared = stand.place.shared().to_owned();
    let dir = shared.display();
    let script = format!(
        "echo before; touch {dir}/up; until [ -e {dir}/go ]; do sleep 0.05; done; echo meanwhile; exit 7"
    );
    let unit = stand.start(&script, "  restart: {condition: never}\n").await.unit;
    until("it to be up", || shared.join("up").exists()).await;
    stand.runtime.close().await;
    fs::write(shared.join("go"), "").expect("the shared directory can be written to");
    stand.runtime = stand.place.open().await;
    let ended = stand.until(&unit, "its end", |status| status.state.final_state).await;
    assert_eq!((ended.state.status, ended.state.last_end), (Status::Error, Some(Ended::Exited(7))));
    assert_eq!(stand.texts(2).await, ["before", "meanwhile"]);
}

async fn what_falls_is_noticed(stand: &mut Stand<'_>) {
    let lasting = stand.start("exec sleep 1000", "").await;
    assert!(!stand.runtime.falls_within(&lasting.unit, Duration::from_millis(200)).await);
    let brief = stand.start("sleep 1; exit 1", "  restart: {condition: never}\n").await;
    assert!(stand.runtime.falls_within(&brief.unit, PATIENCE).await);
}
