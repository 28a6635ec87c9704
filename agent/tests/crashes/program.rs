//! What the program itself says of failpoints.

use std::process::{Command, Output};

/// Checks the options alone: it ends at once, and needs no bus.
fn check_config(failpoints: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_towline-agent"))
        .args(["check-config", "--instance", "site", "--nats", "nats://127.0.0.1:1", "--data-dir"])
        .arg(dir.path())
        .env("TOWLINE_MARK_DIR", dir.path().join("marks"))
        .env("TOWLINE_FAILPOINTS", failpoints)
        .output()
        .unwrap()
}

#[test]
fn without_failpoints_it_starts() {
    assert!(check_config("").status.success());
}

#[test]
fn credentials_for_registries_are_checked_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let checked = Command::new(env!("CARGO_BIN_EXE_towline-agent"))
            .args(["check-config", "--instance", "site", "--nats", "nats://127.0.0.1:1", "--data-dir"])
            .arg(dir.path())
            .arg("--mark-dir")
            .arg(dir.path().join("marks"))
            .env("TOWLINE_REGISTRY_AUTH", &file)
            .output()
            .unwrap();
        (checked.status.success(), String::from_utf8(checked.stderr).unwrap())
    };
    assert!(check(r#"{"auths": {"a.example": {"auth": "bmFtZTpzZWNyZXQ="}}}"#).0);
    for text in [r#"{"auths": {"a.example": {"auth": "secret"}}}"#, r#"{"auths": "secret"}"#] {
        let (is_good, said) = check(text);
        assert!(!is_good && said.contains("registry credentials in") && !said.contains("secret"), "{said}");
    }
    std::fs::remove_file(&file).unwrap();
    let absent = Command::new(env!("CARGO_BIN_EXE_towline-agent"))
        .args(["run", "--instance", "site", "--nats", "nats://127.0.0.1:1", "--registry-auth"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(!absent.status.success() && String::from_utf8(absent.stderr).unwrap().contains("config.json"));
}

#[cfg(not(feature = "failpoints"))]
#[test]
fn a_build_without_failpoints_refuses_to_run_as_if_it_had_some() {
    let refused = check_config("op.done=kill");
    assert!(!refused.status.success());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("this build has no failpoints: unset it, or build with --features"), "{said}");
    let listed = Command::new(env!("CARGO_BIN_EXE_towline-agent")).arg("failpoints").output().unwrap();
    assert!(!listed.status.success() && listed.stdout.is_empty());
}

#[cfg(feature = "failpoints")]
#[test]
fn it_lists_its_points_and_refuses_what_cannot_happen_there() {
    let listed = Command::new(env!("CARGO_BIN_EXE_towline-agent")).arg("failpoints").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let listed: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    let all = towline_agent::failpoints::ALL.map(|point| {
        let actions = if point.can_fail { &["kill", "stall", "error"][..] } else { &["kill", "stall"] };
        [&[point.name], actions].concat()
    });
    assert_eq!(listed, all);
    for point in listed {
        for action in ["kill", "stall", "error"] {
            let answer = check_config(&format!("{}={action}@2", point[0]));
            let said = String::from_utf8(answer.stderr).unwrap();
            assert_eq!(answer.status.success(), point[1..].contains(&action), "{point:?} {action} {said}");
        }
    }
    for (text, complaint) in [
        ("op.doen=kill", "found \"op.doen\", allowed are the names"),
        ("op.done=die", "found \"op.done=die\", allowed is name=kill|stall|error"),
        ("op.done=error", "nothing can fail at op.done, allowed are kill and stall"),
    ] {
        let refused = check_config(text);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && said.contains(complaint), "{text}: {said}");
    }
}
