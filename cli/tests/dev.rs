//! `towline dev` and the commands beside it, as a user runs them: real binaries, real processes, an empty home.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what it expects by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test waits, and knows how long it has waited")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use support::{Home, app, wait_for};

const SLEEPER: &str = "command: [sleep, \"1000\"], stop: {gracePeriod: 2s}";

/// A file of the examples that ship.
fn example(path: &str) -> String {
    format!("{}/../examples/{path}", env!("CARGO_MANIFEST_DIR"))
}

fn services(home: &Home) -> Vec<Value> {
    let ended = home.run(&["services", "local", "--output", "json"]).expect(0);
    serde_json::from_str::<Value>(&ended.stdout).unwrap()["services"].as_array().unwrap().clone()
}

fn ids(home: &Home) -> Vec<String> {
    let mut ids: Vec<_> =
        services(home).iter().map(|service| service["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn once_starts_all_shows_it_and_leaves_nothing() {
    let home = Home::new();
    let ended = home.run(&["dev", "--once"]).expect(0);
    let rows: Vec<&str> = ended.stdout.lines().collect();
    assert!(rows[0].starts_with("SERVICE "), "{}", ended.stdout);
    assert!(
        rows[1].contains("default/App/hello") && rows[1].contains("started") && rows[1].contains("http=")
    );
    assert!(rows[3].contains("default/App/ticker") && rows[3].contains("ready"));
    assert_eq!((rows.len(), ended.stderr.as_str()), (4, ""), "no noise");
    home.expect_nothing_left();

    let args = ["dev", "--once", &example("dev"), "--output", "json"];
    let list: Value = serde_json::from_str(&home.run(&args).expect(0).stdout).unwrap();
    let services = list["services"].as_array().unwrap();
    assert_eq!((services.len(), &services[0]["status"]), (2, &Value::from("ready")));
    home.expect_nothing_left();
}

#[test]
fn once_with_a_manifest_that_is_wrong_names_the_place_and_starts_nothing() {
    let home = Home::new();
    let text =
        format!("{}---\n{}", app("good", SLEEPER), app("bad", "command: [x], units: -1, umsk: \"022\""));
    let path = home.file("apps/two.yaml", &text);
    let ended = home.run(&["dev", "--once", path.parent().unwrap().to_str().unwrap()]).expect(1);
    for part in ["two.yaml: document 2: spec.units: found", "two.yaml: document 2: spec.umsk: "] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
    home.expect_nothing_left();
    let missing = home.run(&["dev", "--once", "nowhere.yaml"]).expect(1);
    assert!(missing.stderr.contains("cannot read `nowhere.yaml`: no such file"), "{}", missing.stderr);
}

#[test]
fn once_with_a_command_that_does_not_exist_is_a_failure_of_the_cluster() {
    let home = Home::new();
    let path = home.file(
        "f.yaml",
        &format!("{}---\n{}", app("good", SLEEPER), app("bad", "command: [no-such-program]")),
    );
    let ended = home.run(&["dev", "--once", path.to_str().unwrap()]).expect(8);
    assert!(ended.stderr.contains("default/App/bad ("), "{}", ended.stderr);
    assert!(ended.stderr.contains("f.yaml, document 2"), "{}", ended.stderr);
    assert!(ended.stderr.contains("command `no-such-program` not found in PATH"), "{}", ended.stderr);
    home.expect_nothing_left();
}

#[test]
fn once_that_takes_too_long_says_what_is_missing() {
    let home = Home::new();
    let path = home.file("f.yaml", &app("slow", SLEEPER));
    let args = ["dev", "--once", "--timeout", "1ms", path.to_str().unwrap()];
    let ended = home.run(&args).expect(9);
    assert!(ended.stderr.contains("not all has started within 1ms"), "{}", ended.stderr);
    assert!(ended.stderr.contains("default/App/slow"), "{}", ended.stderr);
    home.expect_nothing_left();
}

#[test]
fn once_with_an_app_that_ends_at_once_says_why() {
    let home = Home::new();
    let path = home.file("f.yaml", &app("dies", "command: [sh, -c, \"exit 3\"]"));
    let args = ["dev", "--once", "--timeout", "2s", path.to_str().unwrap()];
    let ended = home.run(&args).expect(9);
    assert!(ended.stderr.contains("exited with status 3"), "{}", ended.stderr);
    home.expect_nothing_left();
}

#[test]
fn a_port_in_use_and_a_directory_in_use_are_told_with_a_remedy() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = home.run(&["dev", "--once", "--listen", &address]).expect(1);
    assert!(
        ended.stderr.contains(&format!("port {} is in use", taken.local_addr().unwrap().port())),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("--listen 127.0.0.1:0"), "{}", ended.stderr);
    home.expect_nothing_left();

    let data = home.elsewhere().join("data");
    let dev = home.dev(&["--data-dir", data.to_str().unwrap()]);
    let again = home.run(&["dev", "--once", "--data-dir", data.to_str().unwrap()]).expect(1);
    assert!(again.stderr.contains("running hub") && again.stderr.contains("--data-dir"), "{}", again.stderr);
    assert_eq!(ids(&home), ["default/App/hello", "default/App/ticker"], "the first one is unharmed");
    dev.stop(Signal::INT).expect(0);
    home.expect_nothing_left();
    assert!(data.join("hub/hub.redb").exists(), "what was named is kept");
    home.run(&["dev", "--once", "--data-dir", data.to_str().unwrap()]).expect(0);
}

#[test]
fn every_command_works_from_a_second_terminal_without_flags() {
    let home = Home::new();
    let dev = home.dev(&[]);
    let says = |args: &[&str], part: &str| {
        let ended = home.run(args).expect(0);
        assert!(ended.stdout.contains(part), "{args:?}: {ended:#?}");
        assert_eq!(ended.stderr, "", "{args:?}");
    };
    says(&["instances"], "default/local  connected");
    says(&["instance", "show", "local"], "runtime    process");
    says(&["ping", "local"], "default/local answered in ");
    says(&["version"], env!("CARGO_PKG_VERSION"));
    says(&["services", "local"], "default/App/ticker  ready");
    says(&["services", "local", "hello"], "default/App/hello  ready");
    says(&["services", "--output", "json"], "\"status\":\"ready\"");
    says(&["events", "--since", "1h"], "connected");
    says(&["instance", "create", "shop", "--label", "site=oslo"], "never_seen");
    assert!(home.run(&["instance", "create", "shop"]).expect(7).stderr.contains("exists already"));
    assert!(home.run(&["ping", "shop"]).expect(3).stderr.contains("never seen"));
    assert!(home.run(&["instance", "delete", "local"]).expect(7).stderr.contains("--force"));
    says(&["instance", "delete", "shop"], "off the record");
    home.run(&["instance", "show", "shop"]).expect(6);
    home.run(&["logs", "local", "nope"]).expect(6);

    let file = home.file("extra.yaml", &app("extra", SLEEPER));
    says(&["apply", "local", "-f", file.to_str().unwrap()], "applied  default/App/extra");
    says(
        &["apply", "local", "-f", file.to_str().unwrap(), "--key", "twice", "--async"],
        "accepted  default/App/extra",
    );
    let actions = home.file(
        "actions.yaml",
        "actions: [{delete: {apiVersion: towline/v1, kind: App, metadata: {name: extra}}}]",
    );
    let export = home.run(&["export", "local"]).expect(0).stdout;
    assert!(export.contains(&app("extra", SLEEPER)), "byte for byte: {export}");
    says(&["sync", "local", "-f", actions.to_str().unwrap()], "deleted  default/App/extra");
    assert_eq!(ids(&home), ["default/App/hello", "default/App/ticker"]);
    says(
        &["sync", "local", "-f", &example("sync/ticker-to-clock.yaml")],
        "deleted  default/App/ticker\napplied  default/App/clock",
    );
    assert_eq!(ids(&home), ["default/App/clock", "default/App/hello"]);
    let broken = home.file("broken.yaml", &app("extra", "units: 3"));
    let refused = home.run(&["apply", "local", "-f", broken.to_str().unwrap()]).expect(8);
    assert!(refused.stderr.contains("broken.yaml, document 1): "), "{}", refused.stderr);
    dev.stop(Signal::TERM).expect(0);
    home.expect_nothing_left();
}

#[test]
fn the_example_answers_and_its_logs_can_be_followed() {
    let home = Home::new();
    let dev = home.dev(&[]);
    let follow = home.start(&["logs", "local", "hello", "-f", "--tail", "100"]);
    let hello = home.run(&["services", "local", "hello", "--output", "json"]).expect(0).stdout;
    let address =
        serde_json::from_str::<Value>(&hello).unwrap()["services"][0]["address"].as_str().unwrap().to_owned();
    let mut connection = TcpStream::connect(&address).unwrap();
    connection.write_all(b"GET /some/page HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("hello answers"), "{answer}");
    follow.until("the request is in the log", |stdout, _| stdout.contains("GET /some/page from 127.0.0.1"));

    // Whoever has read enough is no error.
    let mut enough = home.command(&["logs", "local", "ticker", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(enough.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("ticker is here"), "{line}");
    let ended =
        wait_for("the reader that was left ends", || enough.try_wait().unwrap().ok_or_else(String::new));
    assert_eq!(ended.code(), Some(0));

    // Not by INT, which whoever was started in the background ignores.
    follow.stop(Signal::TERM);
    dev.stop(Signal::TERM).expect(0);
    home.expect_nothing_left();
}

#[test]
fn a_changed_file_is_applied_again_and_a_broken_one_changes_nothing() {
    let home = Home::new();
    let first = home.file("apps/a.yaml", &format!("{}---\n{}", app("one", SLEEPER), app("two", SLEEPER)));
    let dev = home.dev(&[first.parent().unwrap().to_str().unwrap()]);
    assert_eq!(ids(&home), ["default/App/one", "default/App/two"]);

    fs::write(&first, app("one", "command: [sleep, \"1000\"], units: 2, stop: {gracePeriod: 2s}")).unwrap();
    wait_for("a second unit runs and the other app is gone", || {
        let found = services(&home);
        let is_done = found.len() == 1
            && found[0]["status"] == "ready"
            && found[0]["units"].as_array().unwrap().len() == 2;
        if is_done { Ok(()) } else { Err(format!("{found:?}\n{}", dev.stderr())) }
    });
    dev.until("it says so", |stdout, stderr| {
        stderr.contains("1 applied, 1 deleted") && stdout.contains("default/App/two is gone")
    });

    fs::write(&first, app("one", "command: [sleep, \"1000\"], unitz: 1")).unwrap();
    dev.until("it complains", |_, stderr| stderr.contains("a.yaml: document 1: spec.unitz: "));
    assert_eq!(services(&home)[0]["units"].as_array().unwrap().len(), 2, "the last good state stays");

    fs::write(&first, app("one", "command: [no-such-program]")).unwrap();
    dev.until("it says why", |_, stderr| stderr.contains("command `no-such-program` not found in PATH"));
    fs::write(&first, app("three", SLEEPER)).unwrap();
    wait_for("the mended file is applied", || {
        if ids(&home) == ["default/App/three"] { Ok(()) } else { Err(dev.stderr()) }
    });
    dev.stop(Signal::INT).expect(0);
    home.expect_nothing_left();
}

#[test]
fn what_was_removed_while_nothing_ran_is_deleted_at_the_next_start() {
    let home = Home::new();
    let data = home.elsewhere().join("data");
    let path = home.file("f.yaml", &format!("{}---\n{}", app("one", SLEEPER), app("two", SLEEPER)));
    let args = [
        "dev",
        "--once",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        data.to_str().unwrap(),
        path.to_str().unwrap(),
    ];
    assert!(home.run(&args).expect(0).stdout.contains("default/App/two"));
    home.file("f.yaml", &app("one", SLEEPER));
    let again = home.run(&args).expect(0).stdout;
    assert!(again.contains("default/App/one  ready") && !again.contains("default/App/two"), "{again}");
    home.expect_nothing_left();
}

#[test]
fn a_dev_that_was_asleep_goes_on() {
    let home = Home::new();
    let path = home.file("f.yaml", &app("one", SLEEPER));
    let dev = home.dev(&[path.to_str().unwrap()]);
    dev.signal(Signal::STOP);
    // Longer than any lease: the hub and the agent of this process have to find each other again.
    std::thread::sleep(Duration::from_secs(8));
    dev.signal(Signal::CONT);
    fs::write(&path, app("two", SLEEPER)).unwrap();
    wait_for("the change is applied", || {
        let ended = home.run(&["services", "local"]);
        if ended.stdout.contains("default/App/two  ready") {
            Ok(())
        } else {
            Err(format!("{ended:?}\n{}", dev.stderr()))
        }
    });
    dev.stop(Signal::TERM).expect(0);
    home.expect_nothing_left();
}

#[test]
fn a_signal_at_any_moment_leaves_nothing() {
    let home = Home::new();
    for after_ms in [0, 20, 40, 60, 80, 100, 150] {
        let dev = home.start(&["dev", "--once"]);
        std::thread::sleep(Duration::from_millis(after_ms));
        let ended = dev.stop(Signal::TERM);
        // Killed before it could catch signals, interrupted, or done already.
        assert!(matches!(ended.code, None | Some(0 | 1)), "{ended:#?}");
        assert!(ended.code != Some(1) || ended.stderr.contains("interrupted by SIGTERM"), "{ended:#?}");
        home.expect_nothing_left();
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let home = Home::new();
    let spec = "command: [sh, -c, \"trap '' TERM; while :; do sleep 0.1; done\"], stop: {gracePeriod: 5s}";
    let path = home.file("stubborn.yaml", &app("stubborn", spec));
    let dev = home.dev(&[path.to_str().unwrap()]);
    dev.signal(Signal::TERM);
    dev.until("it stops", |_, stderr| stderr.contains("SIGTERM: stopping everything"));
    let ended = dev.stop(Signal::INT).expect(1);
    assert!(ended.stderr.contains("ended at once by a second signal"), "{}", ended.stderr);
    wait_for("the unit follows", || match home.left_behind() {
        left if left.is_empty() => Ok(()),
        left => Err(left.join("\n")),
    });
}

#[test]
fn what_a_killed_dev_left_is_cleared_by_the_next() {
    let home = Home::new();
    let dev = home.dev(&[]);
    dev.stop(Signal::KILL);
    assert!(home.left_behind().iter().any(|left| left.contains("towline hello")), "units outlive it");
    home.run(&["dev", "--once"]).expect(0);
    home.expect_nothing_left();
}

#[test]
fn without_a_hub_the_address_and_a_remedy_are_told() {
    let home = Home::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hub = format!("http://{free}");
    let ended = home.run(&["ping", "local", "--hub", &hub]).expect(3);
    assert!(
        ended.stderr.contains(&format!("no hub answers at {hub} (connection refused")),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("--hub"), "{}", ended.stderr);
    home.run(&["ping", "--hub", &hub]).expect(2);
    home.run(&["ping", "local", "--hub", "https://hub"]).expect(2);
    home.run(&["frobnicate"]).expect(2);

    let dev = home.dev(&[]);
    let live = serde_json::from_str::<Value>(&fs::read_to_string(context_file(&home)).unwrap()).unwrap();
    let (live, token) = (live["hub"].as_str().unwrap(), live["token_file"].as_str().unwrap());
    home.run(&["ping", "local", "--hub", &format!("{hub},{live}"), "--token-file", token]).expect(0);
    home.run(&["ping", "local", "--hub", &format!("{hub},{live}")]).expect(5);
    dev.stop(Signal::TERM).expect(0);
}

fn context_file(home: &Home) -> String {
    home.left_behind().into_iter().find(|path| path.contains("/run/towline/dev-")).unwrap()
}

#[test]
fn a_bundle_goes_with_the_dev_that_it_was_put_to() {
    let home = Home::new();
    let place = home.elsewhere().join("shelf");
    let bundle = format!(
        "apiVersion: towline/v1\nkind: Bundle\nmetadata: {{name: shop}}\n---\n\
         apiVersion: towline/v1\nkind: Directory\nmetadata: {{name: shelf}}\nspec: {{path: {}}}\n---\n{}",
        place.display(),
        app("counter", SLEEPER)
    );
    let file = home.file("shop.yaml", &bundle);
    let put = ["bundle", "put", "local", "-f", file.to_str().unwrap(), "--wait"];
    for signal in [Signal::INT, Signal::KILL] {
        let dev = home.dev(&[]);
        let ended = home.run(&put).expect(0);
        assert!(ended.stdout.contains("done  put shop version 1"), "{}", ended.stdout);
        assert!(home.run(&["bundle", "list"]).expect(0).stdout.contains("shop"));
        assert!(place.is_dir());
        drop(dev.stop(signal));
        if signal == Signal::KILL {
            // Nobody was left to tidy up: whoever comes next does.
            home.dev(&[]).stop(Signal::INT).expect(0);
        }
        assert!(!place.exists(), "after {signal:?}");
        home.expect_nothing_left();
    }
}

#[test]
fn help_lists_the_commands_that_there_are() {
    let home = Home::new();
    let help = home.run(&["--help"]).expect(0).stdout;
    let listed: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split(' ').next())
        .collect();
    // Those of docs and SURFACE that this version has, in their order; and the demo service, which says that it is one.
    let expected = [
        "dev",
        "instances",
        "instance",
        "ping",
        "version",
        "services",
        "apply",
        "sync",
        "capacity",
        "addresses",
        "export",
        "import",
        "logs",
        "bundle",
        "jobs",
        "job",
        "events",
        "doctor",
        "completions",
        "hello",
    ];
    assert_eq!(listed, expected, "{help}");
    assert!(help.contains("demo service"), "{help}");
    for command in expected {
        let help = home.run(&[command, "--help"]).expect(0).stdout;
        assert!(help.contains("Usage: towline"), "{help}");
    }
    let below = ["put", "get", "list", "changes", "status", "pause", "resume", "retry", "delete"]
        .map(|verb| ("bundle", verb));
    for (command, verb) in below.into_iter().chain(["show", "watch", "cancel"].map(|verb| ("job", verb))) {
        let help = home.run(&[command, verb, "--help"]).expect(0).stdout;
        assert!(help.contains(&format!("Usage: towline {command} {verb} ")), "{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.run(&["completions", shell]).expect(0).stdout.contains("towline"));
    }
    home.expect_nothing_left();
}
