//! Cases about health: each kind of check, what a verdict does to a unit, and what it does not.

use std::fs;

use super::{Stand, until};
use crate::{
    runtime::UnitStatus,
    shim::{Health, Status},
};

/// A server of the shared directory, once there is `go` in it; then there is `up`, too.
fn server(stand: &Stand<'_>) -> String {
    let dir = stand.place.shared().display();
    format!(
        "until [ -e {dir}/go ]; do sleep 0.05; done; touch {dir}/up; exec busybox httpd -f -p $PORT_HTTP -h {dir}"
    )
}

/// What `spec` says of a server and its check, with looks that follow each other closely.
fn checked(probe: &str, more: &str) -> String {
    format!(
        "  ports: [{{name: http, port: 8080}}]\n  health: {{{probe}, interval: 200ms, timeout: 5s, {more}}}\n"
    )
}

fn put(stand: &Stand<'_>, name: &str) {
    fs::write(stand.place.shared().join(name), name).expect("the shared directory can be written to");
}

fn take(stand: &Stand<'_>, name: &str) {
    fs::remove_file(stand.place.shared().join(name)).expect("it is there");
}

fn is(health: Health) -> impl Fn(&UnitStatus) -> bool {
    move |status| status.state.health == Some(health)
}

pub(super) async fn a_port_that_answers_is_what_makes_a_unit_started(stand: &mut Stand<'_>) {
    let unit = stand.start(&server(stand), &checked("tcp: {port: 8080}", "startPeriod: 1h")).await;
    assert_eq!((unit.state.status, unit.state.health), (Status::Starting, Some(Health::Starting)));
    let refused = |status: &UnitStatus| {
        status.state.reason.as_deref().is_some_and(|why| why.starts_with("not healthy yet: tcp :8080 "))
    };
    let seen = stand.until(&unit.unit, "a look in vain", refused).await;
    assert_eq!(seen.state.status, Status::Starting, "{seen:?}");
    assert!(seen.state.pid.is_some(), "it runs: {seen:?}");
    put(stand, "go");
    let seen = stand.until(&unit.unit, "health", is(Health::Healthy)).await;
    assert_eq!((seen.state.status, seen.state.reason), (Status::Started, None));
}

pub(super) async fn a_wrong_answer_is_told_and_a_right_one_mends(stand: &mut Stand<'_>) {
    put(stand, "go");
    put(stand, "page");
    let probe = "http: {port: http, path: /page}";
    let unit = stand.start(&server(stand), &checked(probe, "retries: 2, startPeriod: 1h")).await.unit;
    let seen = stand.until(&unit, "health", is(Health::Healthy)).await;
    assert_eq!((seen.state.status, &seen.state.reason), (Status::Started, &None));
    take(stand, "page");
    let sick = stand.until(&unit, "a verdict", is(Health::Unhealthy)).await;
    let expected = "unhealthy: GET :8080/page answered 404, expected 200";
    assert_eq!((sick.state.status, sick.state.reason.as_deref()), (Status::Error, Some(expected)));
    assert!(!sick.state.final_state && sick.state.pid == seen.state.pid, "it runs on: {sick:?}");
    put(stand, "page");
    let seen = stand.until(&unit, "health again", is(Health::Healthy)).await;
    assert_eq!((seen.state.status, seen.state.reason), (Status::Started, None));
}

pub(super) async fn a_command_that_fails_makes_a_unit_unhealthy(stand: &mut Stand<'_>) {
    let dir = stand.place.shared().display().to_string();
    let command = format!("echo looked; echo nothing there; test -e {dir}/ok || exit 3");
    let probe = format!("exec: {{command: [/bin/sh, -c, {command:?}]}}");
    let unit = stand.start("exec sleep 1000", &checked(&probe, "retries: 2")).await;
    assert_eq!((unit.state.status, unit.state.health), (Status::Starting, Some(Health::Starting)));
    let sick = stand.until(&unit.unit, "a verdict", is(Health::Unhealthy)).await;
    let reason = sick.state.reason.as_deref().unwrap_or_default();
    assert_eq!(sick.state.status, Status::Error);
    assert_eq!(reason, "unhealthy: `/bin/sh` exited with status 3: nothing there");
    put(stand, "ok");
    let well = stand.until(&unit.unit, "health", is(Health::Healthy)).await;
    assert_eq!((well.state.status, well.state.reason), (Status::Started, None));
    let lines = stand.texts(0).await;
    assert!(lines.is_empty(), "looks are no part of its log: {lines:?}");
    take(stand, "ok");
    stand.until(&unit.unit, "a verdict again", is(Health::Unhealthy)).await;
    stand.runtime.stop(&unit.unit).await.expect("what does not work can be stopped");
    let stopped = stand.look(&unit.unit).await.expect("a stopped unit is still there");
    assert_eq!((stopped.state.status, stopped.state.health), (Status::Stopped, None));
}

pub(super) async fn what_is_not_healthy_yet_is_given_its_start_period(stand: &mut Stand<'_>) {
    let probe = "http: {port: 8080, path: /page}";
    let unit = stand.start(&server(stand), &checked(probe, "retries: 1, startPeriod: 1h")).await.unit;
    put(stand, "go");
    let wrong = |status: &UnitStatus| {
        status.state.reason.as_deref().is_some_and(|why| why.contains("answered 404, expected 200"))
    };
    let seen = stand.until(&unit, "a wrong answer", wrong).await;
    assert_eq!(seen.state.status, Status::Starting, "{seen:?}");
    let other = stand.start(&server(stand), &checked(probe, "retries: 1")).await.unit;
    let sick = stand.until(&other, "a verdict", is(Health::Unhealthy)).await;
    assert_eq!(sick.state.status, Status::Error);
    let seen = stand.look(&unit).await.expect("it is there");
    assert_eq!(seen.state.status, Status::Starting, "{seen:?}");
}

pub(super) async fn health_is_known_again_after_a_restart_of_the_agent(stand: &mut Stand<'_>) {
    put(stand, "go");
    put(stand, "page");
    let probe = "http: {port: 8080, path: /page}";
    let unit = stand.start(&server(stand), &checked(probe, "retries: 1, startPeriod: 1h")).await.unit;
    let before = stand.until(&unit, "health", is(Health::Healthy)).await;
    stand.runtime.close().await;
    stand.runtime = stand.place.open().await;
    let after = stand.until(&unit, "health", is(Health::Healthy)).await;
    assert_eq!(after.state.pid, before.state.pid);
    take(stand, "page");
    let sick = stand.until(&unit, "a verdict", is(Health::Unhealthy)).await;
    assert!(sick.state.reason.is_some_and(|why| why.contains("answered 404")));
}

pub(super) async fn what_is_unhealthy_is_not_restarted(stand: &mut Stand<'_>) {
    put(stand, "go");
    let probe = "http: {port: 8080, status: 418}";
    let unit = stand.start(&server(stand), &checked(probe, "retries: 1")).await;
    let sick = stand.until(&unit.unit, "a verdict", is(Health::Unhealthy)).await;
    let dir = stand.place.shared().to_owned();
    until("the server", || dir.join("up").exists()).await;
    assert_eq!((sick.state.restarts, sick.state.pid), (0, unit.state.pid), "{sick:?}");
    let seen = stand.look(&unit.unit).await.expect("it is there");
    assert_eq!((seen.state.restarts, seen.state.pid, seen.state.status), (0, unit.state.pid, Status::Error));
}
