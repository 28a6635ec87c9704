//! Engines through SSH.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, time::Duration};

use tokio::time::Instant;
use towline_agent::runtime::{
    Runtime as _,
    docker::{DockerRuntime, Endpoint, SshConfig},
};

use crate::{battery, config, engine::Engine, sshd::Sshd};

async fn open(dir: &Path, ways: Vec<SshConfig>) -> DockerRuntime {
    DockerRuntime::open(config("ssh/site", dir, ways.into_iter().map(Endpoint::Ssh).collect())).await
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(100), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn answers(runtime: &DockerRuntime) -> bool {
    runtime.observe("default/App/web", None).await.is_ok()
}

/// Why there is no way through.
async fn refusal(way: SshConfig) -> String {
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path(), vec![way]).await;
    let error = runtime.observe("default/App/web", None).await.unwrap_err().to_string();
    runtime.close().await;
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-real"]
async fn f_s1_the_battery_holds_over_ssh() {
    let (engine, sshd) = (Engine::start("ssh", &[]), Sshd::started());
    battery("ssh", &Endpoint::Ssh(sshd.way(&engine.socket))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-real"]
async fn f_s1_one_connection_a_host_is_reused_comes_back_and_is_closed_at_the_end() {
    let (engine, sshd) = (Engine::without_network("reused"), Sshd::started());
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path(), vec![sshd.way(&engine.socket), sshd.way(&engine.socket)]).await;
    for _ in 0..20 {
        assert!(answers(&runtime).await);
    }
    assert_eq!(sshd.accepted(), 2, "one for each host");
    let connections = sshd.connections();
    assert_eq!(connections.len(), 2, "{connections:?}");
    let sockets: Vec<&str> = connections
        .iter()
        .filter_map(|line| line.split_whitespace().find(|word| word.contains("/engine.sock:")))
        .map(|word| word.split(':').next().unwrap())
        .collect();
    assert_ne!(sockets[0], sockets[1], "each has a socket of its own");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for socket in &sockets {
        let socket = Path::new(socket);
        assert_eq!((mode(socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    }
    let pid = connections[0].split(' ').next().unwrap();
    assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
    until("a new connection", async || sshd.accepted() == 3).await;
    until("an answer through it", async || answers(&runtime).await).await;
    runtime.close().await;
    assert_eq!(sshd.connections(), Vec::<String>::new());
    assert!(sockets.iter().all(|socket| !Path::new(socket).exists()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-real"]
async fn f_s1_a_host_with_another_key_or_none_that_is_known_is_refused() {
    let sshd = Sshd::started();
    let way = sshd.way(Path::new("/nowhere/docker.sock"));
    let wrong = refusal(SshConfig { known_hosts: sshd.path("wrong_hosts"), ..way.clone() }).await;
    assert!(wrong.contains("shows another key than the one in") && wrong.contains("wrong_hosts"), "{wrong}");
    let unknown = refusal(SshConfig { known_hosts: sshd.path("no_hosts"), ..way.clone() }).await;
    assert!(unknown.contains("is not in") && unknown.contains("no_hosts"), "{unknown}");
    assert_eq!(sshd.accepted(), 0);
    let denied = refusal(SshConfig { key: Some(sshd.path("stranger")), ..way.clone() }).await;
    assert!(denied.contains("does not let root in") && denied.contains("host far-0"), "{denied}");
    let closed = refusal(way).await;
    assert!(closed.contains("open failed") && closed.contains("unix:///nowhere/docker.sock"), "{closed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-real"]
async fn f_s1_it_is_tried_until_somebody_listens_and_a_time_out_says_why() {
    let (engine, mut sshd) = (Engine::without_network("late"), Sshd::prepare());
    let dir = tempfile::tempdir().unwrap();
    let timeout = Duration::from_secs(2);
    let runtime = open(dir.path(), vec![SshConfig { timeout, ..sshd.way(&engine.socket) }]).await;
    let error = runtime.observe("default/App/web", None).await.unwrap_err().to_string();
    assert!(error.contains("Connection refused"), "{error}");
    sshd.start();
    until("a way through", async || answers(&runtime).await).await;
    runtime.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-real"]
async fn f_s1_an_agent_lets_us_in_and_one_that_has_gone_does_not() {
    let (engine, sshd) = (Engine::without_network("agent"), Sshd::started());
    let socket = sshd.path("agent.sock");
    let mut agent = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).spawn().unwrap();
    until("the agent", async || socket.exists()).await;
    let added = Command::new("ssh-add").arg(sshd.path("client")).env("SSH_AUTH_SOCK", &socket).status();
    assert!(added.unwrap().success());
    let way = SshConfig { key: None, agent: Some(socket), ..sshd.way(&engine.socket) };
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path(), vec![way.clone()]).await;
    assert!(answers(&runtime).await);
    runtime.close().await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    let error = refusal(way).await;
    assert!(error.contains("does not let root in"), "{error}");
}

/// A user for the occasion, with a password.
struct User(String);

impl User {
    fn new(password: &str) -> Self {
        let name = format!("towline{}", std::process::id());
        let hash = Command::new("openssl").args(["passwd", "-6", password]).output().unwrap().stdout;
        let hash = String::from_utf8(hash).unwrap();
        let made = Command::new("useradd")
            .args(["--no-create-home", "--shell", "/bin/sh", "--password", hash.trim(), &name])
            .status();
        assert!(made.unwrap().success());
        Self(name)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        Command::new("userdel").arg(&self.0).status().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-real"]
async fn f_s1_a_password_lets_us_in_and_another_one_does_not() {
    let (engine, sshd, user) =
        (Engine::without_network("password"), Sshd::started(), User::new("s3cret word"));
    fs::set_permissions(&engine.socket, fs::Permissions::from_mode(0o666)).unwrap();
    let file = sshd.path("password");
    fs::write(&file, "s3cret word\n").unwrap();
    let way = SshConfig {
        user: user.0.clone(),
        key: None,
        password_file: Some(file.clone()),
        ..sshd.way(&engine.socket)
    };
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path(), vec![way.clone()]).await;
    assert!(answers(&runtime).await);
    let connections = sshd.connections();
    assert!(connections.iter().all(|line| !line.contains("s3cret")), "{connections:?}");
    runtime.close().await;
    fs::write(&file, "another\n").unwrap();
    let error = refusal(way).await;
    assert!(error.contains(&format!("does not let {} in", user.0)), "{error}");
}
