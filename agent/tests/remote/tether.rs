//! What the agent starts beside itself ends with it, and a password is told to `ssh` alone.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::AGENT;

fn runs(seconds: &str) -> bool {
    let found =
        Command::new("pgrep").args(["--full", "--exact", &format!("sleep {seconds}")]).output().unwrap();
    found.status.success()
}

#[expect(clippy::disallowed_methods, reason = "this test has a thread of its own, and a clock")]
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_tied_to_the_agent_ends_with_it_however_that_happens() {
    let seconds = (1_000_000 + std::process::id()).to_string();
    let script = format!("'{AGENT}' tether $$ sleep {seconds} & wait");
    let mut agent = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    until("the program to run", || runs(&seconds));
    agent.kill().unwrap();
    agent.wait().unwrap();
    until("it to end, too", || !runs(&seconds));
    let orphan = Command::new(AGENT).args(["tether", "1", "sleep", &seconds]).status().unwrap();
    assert!(!orphan.success() && !runs(&seconds), "whose agent has gone does not begin");
}

#[test]
fn f_s1_the_agents_program_answers_ssh_with_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let asked = |prompt: &str| {
        let mut command = Command::new(AGENT);
        command.arg(prompt).env("TOWLINE_SSH_PASSWORD_FILE", &file).stderr(Stdio::null());
        command.output().unwrap()
    };
    assert_eq!(asked("root@far's password: ").stdout, b"s3cret\n");
    let other = asked("Enter passphrase for key '/key': ");
    assert!(other.stdout.is_empty() && !other.status.success());
}
