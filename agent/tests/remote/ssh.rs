//! Engines through SSH.

use std::{
    fs, io,
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use towline_agent::{
    runtime::{
        Runtime as _, UnitSpec,
        battery::{BATTERY, REACHING},
        docker::{DockerRuntime, Endpoint, RemoteEngine, SshConfig},
    },
    shim::Status,
};

use crate::{
    battery, config,
    engine::{Engine, IMAGE},
    sshd::Sshd,
    until,
};

async fn open(dir: &Path, ways: Vec<SshConfig>) -> DockerRuntime {
    DockerRuntime::open(config("ssh/site", dir, ways.into_iter().map(Endpoint::Ssh).collect())).await
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
    battery("ssh", &Endpoint::Ssh(sshd.way(&engine.socket)), &[BATTERY, REACHING]).await;
}

/// The engine's host is this machine, so a look that went past the connection would find the port, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-real"]
async fn f_s1_ports_are_looked_at_through_the_connection_and_nowhere_else() {
    let (engine, dir) = (Engine::start("ports", &[]), tempfile::tempdir().unwrap());
    // A server that lets us through to the engine, and to no other port.
    let address = format!("127.0.0.1:{}", on_tcp(&engine.socket));
    let sshd = Sshd::configured(&format!("PermitOpen {address}\n"));
    let way = SshConfig { engine: RemoteEngine::Tcp(address), ..sshd.way(&engine.socket) };
    let runtime = open(dir.path(), vec![way]).await;
    let yaml = format!(
        "apiVersion: towline/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n  image: {IMAGE}\n  command: [httpd, -f, -p, \"8080\"]\n  ports: \
         [{{name: http, port: 8080}}]\n  stop: {{gracePeriod: 0s}}\n  health: {{tcp: {{port: http}}, interval: \
         200ms, startPeriod: 1h}}\n"
    );
    let manifest =
        towline_agent::manifest::parse(runtime.kind(), "ports", yaml.as_bytes()).unwrap().remove(0);
    let spec = UnitSpec { manifest: Arc::new(manifest), generation: "g".to_owned() };
    let unit = runtime.start(&spec).await.unwrap();
    let port = unit.ports.first().unwrap().host_port;
    until("it to listen", async || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    let said = async || runtime.list().into_iter().find_map(|unit| unit.state.reason).unwrap_or_default();
    until("a look", async || said().await.contains("tcp :8080 ")).await;
    let said = said().await;
    assert!(said.contains("tcp :8080 ") && said.contains("connection"), "{said}");
    let seen = runtime.list().remove(0).state;
    assert_eq!(seen.status, Status::Starting, "{seen:?}");
    runtime.delete_all().await.unwrap();
    runtime.close().await;
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
        assert_eq!(mode(&socket.with_file_name("ports.sock")), 0o600);
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

/// Has `socket` answer on a TCP port of this machine, too, for as long as the process lives; says on which.
fn on_tcp(socket: &Path) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (near, Ok(far)) = (near.unwrap(), UnixStream::connect(&socket)) else { continue };
            let (mut to_far, mut from_far) = (far.try_clone().unwrap(), far);
            let (mut to_near, mut from_near) = (near.try_clone().unwrap(), near);
            std::thread::spawn(move || {
                io::copy(&mut from_near, &mut to_far).ok();
                to_far.shutdown(Shutdown::Write).ok();
            });
            std::thread::spawn(move || {
                io::copy(&mut from_far, &mut to_near).ok();
                to_near.shutdown(Shutdown::Write).ok();
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-real"]
async fn f_s1_an_engine_that_listens_on_tcp_there_is_reached_too() {
    let (engine, sshd) = (Engine::without_network("tcp"), Sshd::started());
    let far = RemoteEngine::Tcp(format!("127.0.0.1:{}", on_tcp(&engine.socket)));
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path(), vec![SshConfig { engine: far, ..sshd.way(&engine.socket) }]).await;
    assert!(answers(&runtime).await);
    runtime.close().await;
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
