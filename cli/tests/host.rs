//! What a user does on a host: has it looked over for leftovers, and takes what runs there from one instance to another.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what it expects by panicking")]
#![expect(clippy::disallowed_methods, reason = "a test waits, and knows how long it has waited")]
#![expect(dead_code, reason = "this half of the tests needs less of what they share")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use support::{Home, Running, app, wait_for};

const SLEEPER: &str = "command: [sleep, \"1000\"], stop: {gracePeriod: 2s}";

/// Where a `towline dev` keeps its data, as it says.
fn data_of(dev: &Running) -> PathBuf {
    let stderr = dev.stderr();
    let line = stderr.lines().find(|line| line.trim_start().starts_with("data ")).unwrap();
    line.split_whitespace().nth(1).unwrap().into()
}

/// Pids by what their command line is.
fn processes(wanted: impl Fn(&str) -> bool) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let line = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ")
    };
    pids.filter(|pid| wanted(&line(pid))).collect()
}

/// Supervisors of the units of `app` in a data directory.
fn shims(data: &Path, app: &str) -> Vec<i32> {
    let dir = format!("{}/agent/units/{app}-", data.canonicalize().unwrap().display());
    processes(|line| line.starts_with("towline-shim ") && line.contains(&dir))
}

fn signal(pids: &[i32], signal: Signal) {
    for pid in pids {
        kill_process(Pid::from_raw(*pid).unwrap(), signal).unwrap();
    }
}

fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// The units in a data directory, by name.
fn units(data: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(data.join("agent/units")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Processes that bear a unit's mark.
fn marked(unit: &str) -> Vec<i32> {
    let mark = format!("TOWLINE_UNIT={unit}");
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let bears = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        lives(*pid) && environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    };
    pids.filter(bears).collect()
}

/// The host as a doctor of these tests sees it: other tests have marks and engines of their own.
fn doctor<'a>(nowhere: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let places = ["doctor", "--data-dir", nowhere, "--mark-dir", nowhere, "--docker-socket", nowhere];
    places.iter().chain(more).copied().collect()
}

fn leftovers(stdout: &str) -> BTreeMap<String, Value> {
    let found: Value = serde_json::from_str(stdout).unwrap();
    let all = found["leftovers"].as_array().unwrap();
    all.iter().map(|leftover| (leftover["name"].as_str().unwrap().to_owned(), leftover.clone())).collect()
}

/// Three of them: one was killed and its data removed, one was killed and its data kept, one runs.
#[test]
fn a_doctor_removes_what_nobody_has_and_nothing_else() {
    let home = Home::new();
    let nowhere = home.elsewhere().join("nowhere").display().to_string();
    let orphan = "command: [sh, -c, \"setsid sleep 1000 & exec sleep 1000\"], stop: {gracePeriod: 2s}";
    let apps = [app("frozen", SLEEPER), app("orphan", orphan)].join("---\n");
    let file = home.file("apps.yaml", &apps).display().to_string();
    let kept = home.elsewhere().join("kept").display().to_string();
    let (dead, idle) = (home.dev(&[&file]), home.dev(&["--data-dir", &kept, &file]));
    let alive = home.dev(&[&file]);
    let (gone, kept, there) = (data_of(&dead), data_of(&idle), data_of(&alive));
    let (lost, stays) = (units(&gone), units(&kept).union(&units(&there)).cloned().collect::<BTreeSet<_>>());
    assert_eq!((lost.len(), stays.len()), (2, 4));
    let before: BTreeMap<&String, Vec<i32>> = stays.iter().map(|unit| (unit, marked(unit))).collect();
    // A supervisor that is frozen does not notice that its unit's directory has gone; one that is dead notices nothing, and
    // what its command has started in a session of its own lives on.
    let (frozen, killed) = (shims(&gone, "frozen"), shims(&gone, "orphan"));
    assert_eq!((frozen.len(), killed.len()), (1, 1));
    signal(&frozen, Signal::STOP);
    dead.signal(Signal::KILL);
    idle.signal(Signal::KILL);
    dead.end(&["dev"]);
    idle.end(&["dev"]);
    signal(&killed, Signal::KILL);
    fs::remove_dir_all(&gone).unwrap();
    let left: BTreeMap<&String, Vec<i32>> = lost.iter().map(|unit| (unit, marked(unit))).collect();
    assert!(left.values().all(|pids| !pids.is_empty()), "{left:?}");

    let found = home.run(&doctor(&nowhere, &["--output", "json"])).expect(1);
    let found = leftovers(&found.stdout);
    for unit in &lost {
        assert_eq!(
            (found[unit]["kind"].as_str(), found[unit]["removed"].as_bool()),
            (Some("unit"), Some(false))
        );
        let why = found[unit]["why"].as_str().unwrap();
        assert!(why.starts_with("its data directory") && why.ends_with("is gone"), "{why}");
    }
    assert!(stays.iter().all(|unit| !found.contains_key(unit)), "{found:?}");
    // The two that were killed have left word of themselves in the home; the one that runs has, too.
    let command = home.command(&[]);
    let home_path = command.get_envs().find_map(|(name, value)| value.filter(|_| name == "HOME")).unwrap();
    let home_path = home_path.to_str().unwrap();
    let devs: Vec<&String> = found
        .iter()
        .filter(|(name, of)| of["kind"] == "dev" && name.starts_with(home_path))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(devs.len(), 2, "{found:?}");

    let mine: Vec<&str> = lost.iter().chain(devs).map(String::as_str).collect();
    let unasked = home.run(&doctor(&nowhere, &[&["--fix"], mine.as_slice()].concat())).expect(2);
    assert!(unasked.stderr.contains("--yes"), "{unasked:?}");
    assert!(left.values().flatten().all(|pid| lives(*pid)), "nothing is done unasked");
    let fixed = home.run(&doctor(&nowhere, &[&["--fix", "--yes"], mine.as_slice()].concat())).expect(0);
    assert!(fixed.stdout.contains("DONE") && fixed.stdout.contains("removed"), "{fixed:?}");
    wait_for("they are gone", || {
        let pids = left.values().flatten().chain(&frozen).filter(|pid| lives(**pid)).count();
        if pids == 0 { Ok(()) } else { Err(format!("{pids} live")) }
    });
    let nothing = home.run(&doctor(&nowhere, mine.as_slice())).expect(0);
    assert!(nothing.stdout.contains("nothing is left that nobody has"), "{nothing:?}");

    let after: BTreeMap<&String, Vec<i32>> = stays.iter().map(|unit| (unit, marked(unit))).collect();
    assert_eq!(after, before, "what belongs to a store or an agent is not touched");
    home.run(&["services", "local"]).expect(0);
    alive.stop(Signal::TERM).expect(0);
    // Its units are found again where its data is, and go with it.
    home.run(&["dev", "--once", "--data-dir", &kept.display().to_string(), &file]).expect(0);
    home.expect_nothing_left();
}

/// Hosts that an agent's configuration names are looked at; one that does not answer is no clean bill of health.
#[test]
fn a_doctor_says_which_hosts_it_did_not_look_at() {
    let home = Home::new();
    let nowhere = home.elsewhere().join("nowhere").display().to_string();
    let places = ["doctor", "--data-dir", &nowhere, "--mark-dir", &nowhere, "--output", "json", "--config"];
    let config = format!(
        "docker:\n  hosts:\n    edge-1: {{socket: {nowhere}}}\n    edge-2: {{socket: {nowhere}-2}}\n"
    );
    let file = home.file("agent.yaml", &config).display().to_string();
    let found = home.run(&[places.as_slice(), &[&file]].concat()).expect(1);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    for (unseen, host) in found["unseen"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|unseen| unseen["host"] != "this host")
        .zip(["edge-1", "edge-2"])
    {
        assert_eq!(unseen["host"], host);
        assert!(unseen["why"].as_str().unwrap().contains("does not answer"), "{found}");
    }
    assert!(found["unseen"].as_array().unwrap().len() >= 2, "{found}");
    let bad = home.file("bad.yaml", "docker: {hosts: {edge-1: {sokcet: /x}}}\n").display().to_string();
    let refused = home.run(&[places.as_slice(), &[&bad]].concat()).expect(2);
    assert!(refused.stderr.contains("docker.hosts.edge-1.sokcet"), "{refused:?}");
    let unasked = home.run(&["doctor", "--data-dir", &nowhere, "--mark-dir", &nowhere]);
    assert!(unasked.stderr.contains("--config FILE"), "{unasked:?}");
}

fn pids(home: &Home) -> BTreeMap<String, u64> {
    let services = home.run(&["services", "local", "--output", "json"]).expect(0);
    let services: Value = serde_json::from_str(&services.stdout).unwrap();
    let units = services["services"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|service| service["units"].as_array().unwrap());
    units.map(|unit| (unit["id"].as_str().unwrap().to_owned(), unit["pid"].as_u64().unwrap())).collect()
}

/// Every file of every unit that the agent writes, with its inode and time of change.
fn written(data: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    for unit in units(data) {
        let dir = data.join("agent/units").join(unit);
        for name in ["", "unit.json", "spec.json", "work", "work/conf"] {
            let meta = fs::metadata(dir.join(name)).unwrap();
            found.insert(dir.join(name), (meta.ino(), meta.mtime(), meta.mtime_nsec()));
        }
    }
    found
}

#[test]
fn f_y1_what_is_exported_and_imported_again_changes_nothing() {
    let home = Home::new();
    let spec = format!("{SLEEPER}, units: 2, files: [{{path: conf, content: \"a\\n\"}}]");
    let odd = "# a comment, and no line end\napiVersion: towline/v1\nkind: App\nmetadata:   {name: odd}\nspec: {command: [sleep, \"1000\"], \
               stop: {gracePeriod: 2s}, files: [{path: conf, base64: YQ==}]}";
    let dir = home.file("apps/web.yaml", &app("web", &spec)).parent().unwrap().display().to_string();
    home.file("apps/odd.yaml", odd);
    let dev = home.dev(&[&dir]);
    let data = data_of(&dev);
    let (before, files) = (pids(&home), written(&data));
    assert_eq!((before.len(), files.len()), (3, 15));
    let exported = home.run(&["export", "local"]).expect(0).stdout;
    assert!(exported.contains("# a comment") && exported.contains("name: web"), "{exported}");

    let mut import = home.command(&["import", "local", "-f", "-"]);
    let mut import =
        import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    import.stdin.take().unwrap().write_all(exported.as_bytes()).unwrap();
    let imported = import.wait_with_output().unwrap();
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(pids(&home), before, "no unit was started again");
    assert_eq!(written(&data), files, "nothing was written");
    assert_eq!(home.run(&["export", "local"]).expect(0).stdout, exported, "and it can be exported again");
    let empty = home.file("empty.yaml", "\n").display().to_string();
    home.run(&["import", "local", "-f", &empty]).expect(0);
    dev.stop(Signal::TERM).expect(0);
    home.expect_nothing_left();
}

/// A secret in a file is in no log, however much is logged, and in no answer but those that give documents back.
#[test]
fn what_is_in_a_file_is_never_told() {
    let home = Home::new();
    let secret = "hunter2-is-no-good-password";
    let text = app("web", &format!("{SLEEPER}, files: [{{path: conf, content: {secret}}}]"));
    let file = home.file("web.yaml", &text).display().to_string();
    let loud = home.command(&["dev", "--once", &file]).env("TOWLINE_LOG", "trace").output().unwrap();
    let log = String::from_utf8_lossy(&loud.stderr);
    assert!(loud.status.success() && log.lines().count() > 20, "{log}");
    assert!(!log.contains(secret), "{}", log.lines().find(|line| line.contains(secret)).unwrap_or_default());
    assert!(!String::from_utf8_lossy(&loud.stdout).contains(secret));

    let dev = home.dev(&[&home.file("other.yaml", &app("other", SLEEPER)).display().to_string()]);
    let put = ["bundle", "put", "local", "shop", "-f", &file];
    let planned = home.run(&[put.as_slice(), &["--dry-run"]].concat()).expect(0);
    assert!(planned.stdout.contains("+ spec.files[0].content: (hidden, blake3 "), "{planned:?}");
    home.run(&[put.as_slice(), &["--wait"]].concat()).expect(0);
    let changed = home.file("web.yaml", &text.replace(secret, &secret.to_uppercase())).display().to_string();
    let put = ["bundle", "put", "local", "shop", "-f", &changed, "--dry-run", "--output", "json"];
    let table = home.run(&put[..7]).expect(0);
    assert!(table.stdout.contains("- spec.files[0].content: (hidden, blake3 "), "{table:?}");
    let answers = [
        planned,
        table,
        home.run(&put).expect(0),
        home.run(&["bundle", "status", "local", "shop", "--output", "json"]).expect(0),
        home.run(&["bundle", "changes", "local", "shop", "--output", "json"]).expect(0),
        home.run(&["services", "local", "--output", "json"]).expect(0),
        home.run(&["jobs", "local", "--output", "json"]).expect(0),
    ];
    for answer in answers {
        let told = format!("{}{}", answer.stdout, answer.stderr).to_lowercase();
        assert!(!told.contains(secret), "{told}");
    }
    dev.stop(Signal::TERM).expect(0);
    home.expect_nothing_left();
}
