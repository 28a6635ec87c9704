//! What a unit finds when it starts, and why it may not.

use std::{fs, time::Duration};

use towline_agent::runtime::process::{DEFAULT_PATH, LogQuery};

use crate::bench::*;

#[tokio::test]
async fn what_cannot_be_executed_says_why_and_leaves_nothing() {
    let bench = Bench::new().await;
    let table = [
        ("  command: [no-such-program]\n", "command `no-such-program` not found in PATH (/usr/local/sbin:"),
        ("  command: [/no/such]\n", "command `/no/such` does not exist"),
        ("  command: [/etc/passwd]\n", "command `/etc/passwd` may not be executed"),
        ("  command: [/bin/true]\n  workingDir: /no/such\n", "cannot enter the working directory /no/such"),
        ("  command: [/bin/true]\n  user: no-such-user\n", "there is no user \"no-such-user\""),
        (
            "  command: [/bin/true]\n  files: [{path: /no/such/file, content: x}]\n",
            "its directory does not exist",
        ),
    ];
    for (spec, expected) in table {
        let error = bench.start(spec).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error} lacks {expected}");
        assert!(bench.runtime.list().is_empty(), "{spec}");
    }
    bench.end().await;
}

#[tokio::test]
async fn a_unit_sees_a_clean_environment_and_its_ports() {
    let bench = Bench::new().await;
    let spec = format!(
        "{}  env: {{COLOUR: red}}\n  umask: \"027\"\n  ports: [{{name: http-main, port: 80}}, {{name: dns, port: 53, protocol: udp}}]\n",
        shell("env | sort; umask; pwd; cat; exec sleep 1000")
    );
    let started = bench.start(&spec).await.unwrap();
    let ports: Vec<u16> = started.ports.iter().map(|port| port.host_port).collect();
    let work = bench.dir.path().canonicalize().unwrap().join("units").join(&started.unit).join("work");
    let expected = vec![
        "COLOUR=red".to_owned(),
        format!("HOME={}", work.display()),
        format!("PATH={DEFAULT_PATH}"),
        format!("PORT_DNS={}", ports[1]),
        format!("PORT_HTTP_MAIN={}", ports[0]),
        format!("PWD={}", work.display()),
        "TOWLINE_APP=default/App/web".to_owned(),
        "TOWLINE_GENERATION=g1".to_owned(),
        format!("TOWLINE_INSTANCE={}", bench.instance()),
        format!("TOWLINE_UNIT={}", started.unit),
        "0027".to_owned(),
        work.display().to_string(),
    ];
    let found = lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), expected.len()).await;
    assert_eq!(texts(&found), expected);
    bench.runtime.stop(&started.unit).await.unwrap();
    let again = bench.runtime.start_again(&started.unit).await.unwrap();
    assert_eq!(again.ports, started.ports, "ports are stable");
    bench.end().await;
}

#[tokio::test]
async fn a_fixed_port_in_use_is_refused_before_the_start() {
    let bench = Bench::new().await;
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let spec =
        format!("  command: [sleep, \"1000\"]\n  ports: [{{name: http, port: 80, hostPort: {port}}}]\n");
    let error = bench.start(&spec).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("port {port} (tcp on 127.0.0.1) of \"http\" is in use; free it")),
        "{error}"
    );
    drop(held);
    let first = bench.start(&spec).await.unwrap();
    let error = bench.start(&spec).await.unwrap_err().to_string();
    assert!(error.contains(&format!("is in use by unit {}", first.unit)), "{error}");
    bench.runtime.delete(&first.unit).await.unwrap();
    bench.start(&spec).await.unwrap();
    bench.end().await;
}

#[tokio::test]
async fn files_are_written_owned_and_removed() {
    let bench = Bench::new().await;
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("conf");
    let spec = format!(
        "{}  files: [{{path: a/b, content: inside}}, {{path: {}, content: outside, mode: \"0644\"}}]\n",
        shell("cat a/b; echo; exec sleep 1000"),
        path.display()
    );
    fs::write(&path, "theirs").unwrap();
    let error = bench.start(&spec).await.unwrap_err().to_string();
    assert!(error.contains("exists and is not of this app"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    fs::remove_file(&path).unwrap();
    let one = bench.start(&spec).await.unwrap();
    let two = bench.start(&spec).await.unwrap();
    let found = lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), 2).await;
    assert_eq!(texts(&found), ["inside", "inside"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "outside");
    bench.runtime.delete(&one.unit).await.unwrap();
    assert!(path.exists(), "another unit of the app has it still");
    bench.runtime.delete(&two.unit).await.unwrap();
    assert!(!path.exists());
    bench.end().await;
}

#[tokio::test]
async fn a_declared_user_is_who_runs_it_where_tests_are_root() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new().await;
    let spec = format!(
        "{}  user: nobody\n  files: [{{path: mine, content: readable}}]\n",
        shell(
            "id -un; cat mine; echo; cat \"$PWD/mine\"; echo; ls \"$PWD/..\" >/dev/null 2>&1 || echo closed; exec sleep 1000"
        )
    );
    bench.start(&spec).await.unwrap();
    let found = lines(bench.runtime.logs(LogQuery { follow: true, ..query() }), 4).await;
    assert_eq!(texts(&found), ["nobody", "readable", "readable", "closed"]);
    bench.end().await;
}

#[tokio::test]
async fn a_long_data_directory_does_no_harm() {
    let mut bench = Bench::new().await;
    let deep = bench.dir.path().join("a-long-name-".repeat(15)).join("and-another-".repeat(15));
    bench.runtime = open(&deep).await;
    let started = bench.start("  command: [sleep, \"1000\"]\n").await.unwrap();
    bench.runtime.delete(&started.unit).await.unwrap();
    bench.runtime.close().await;
}

#[tokio::test]
async fn what_starts_shims_badly_is_named() {
    let bench = Bench::new().await;
    for (word, expected) in [("/no/such/shim", "/no/such/shim"), ("/bin/false", "its supervisor was lost")] {
        let mut config = config(bench.dir.path());
        config.shim = vec![word.into()];
        let runtime = towline_agent::runtime::process::ProcessRuntime::open(config).await.unwrap();
        let error = runtime.start(&unit("  command: [/bin/true]\n")).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(runtime.list().is_empty());
        runtime.close().await;
    }
    bench.end().await;
}

#[tokio::test]
async fn many_units_start_and_stop_together() {
    let bench = Bench::new().await;
    let spec = "  command: [sleep, \"1000\"]\n  ports: [{name: http, port: 80}]\n";
    let starts = futures::future::join_all((0..100).map(|_| bench.start(spec)));
    // How fast is for a measurement to say, on a machine that does nothing else.
    let units = tokio::time::timeout(Duration::from_secs(120), starts).await.unwrap();
    let ports: std::collections::BTreeSet<u16> =
        units.iter().map(|unit| unit.as_ref().unwrap().ports[0].host_port).collect();
    assert_eq!(ports.len(), 100, "no port is given twice");
    bench.end().await;
}
