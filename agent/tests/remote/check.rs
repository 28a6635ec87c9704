//! `towline-agent check-config` with a configuration file, as an operator sees it.

use std::{path::Path, process::Command};

use crate::AGENT;

/// Its exit status and what it says.
fn check(dir: &Path, runtime: &str, text: &str) -> (bool, String) {
    let file = dir.join("hosts.yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(AGENT);
    command.args(["check-config", "--instance", "default/site", "--nats", "nats://127.0.0.1:4222"]);
    command.args(["--runtime", runtime]).arg("--data-dir").arg(dir.join("data"));
    command.arg("--mark-dir").arg(dir.join("marks")).env("TOWLINE_CONFIG", &file);
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn f_v1_f_v2_check_config_accepts_what_is_sound_and_says_all_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let sound = "docker: {hosts: {one: {}, two: {socket: /run/other.sock, labels: {disk: ssd}}}}\n";
    assert_eq!(check(dir.path(), "docker", sound), (true, String::new()));
    let (accepted, said) = check(dir.path(), "process", sound);
    assert!(
        !accepted && said.contains("hosts.yaml: docker.hosts: ") && said.contains("--runtime docker"),
        "{said}"
    );
    let wrong = "docker: {hosts: {one: {sockett: /a}, two: {ssh: {knownHosts: /known}}}}\ncolour: red\n";
    let (accepted, said) = check(dir.path(), "docker", wrong);
    assert!(!accepted && said.lines().count() == 3, "{said}");
    for expected in [
        "hosts.yaml: docker.hosts.one.sockett: found an unknown field, allowed are labels, socket, tcp, ssh",
        "hosts.yaml: docker.hosts.two.ssh: found none of key, agent and passwordFile, but one of them is required",
        "hosts.yaml: colour: found an unknown field, allowed are docker",
    ] {
        assert!(said.contains(expected), "{expected}\nis not in\n{said}");
    }
}
