//! docs/operations.md, "Over NATS", followed line by line across network namespaces, with links that are cut and joined.

mod readme;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;
use towline_protocol::limits;
use towline_protocol::subject::Root;
use towline_tests::chain::{binary, instance};
use towline_tests::nats::server_binary;
use towline_tests::netns::Namespaces;
use towline_tests::processes::{Program, Units, lives};
use towline_tests::wait::{PATIENCE, until};

use super::script;

/// Where the server is, as seen from each place.
const SEEN_FROM: [(&str, &str); 3] = [("hub", "127.0.0.1"), ("shop-7", "10.71.7.1"), ("shop-8", "10.71.8.1")];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The blocks of this page's section "Over NATS" that begin with `sh` and these words.
fn blocks_of(page: &str, words: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join(page)).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("Over NATS\n")).unwrap();
    let begin = format!("```sh{words}\n");
    let found: Vec<_> =
        section.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect();
    assert!(!found.is_empty(), "{page} has no block `{begin}`");
    found
}

fn blocks(word: &str) -> Vec<String> {
    blocks_of("docs/operations.md", &format!(" {word}"))
}

fn block(word: &str) -> String {
    blocks(word).remove(0)
}

/// A shell in a namespace that finds our programs and the server.
fn shell(net: &Namespaces, place: &str, text: &str) -> std::process::Command {
    let mut command = net.command(place, "bash");
    let folders = [binary("towline"), server_binary()].map(|program| program.parent().unwrap().to_owned());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&path))).unwrap();
    command.arg("-euc").arg(text).env("PATH", path);
    command
}

/// Three machines: one with NATS and hub, and two with an agent each.
struct Machines {
    // Fields are dropped in this order.
    programs: Vec<(&'static str, Program)>,
    #[expect(dead_code, reason = "dropped to end the units")]
    units: Vec<Units>,
    net: Namespaces,
    dir: TempDir,
}

impl Machines {
    fn new() -> Self {
        let mut net = Namespaces::new();
        for (place, _) in SEEN_FROM {
            net.add(place);
        }
        net.link("hub", "shop-7", "10.71.7");
        net.link("hub", "shop-8", "10.71.8");
        let dir = tempfile::tempdir().unwrap();
        let units =
            ["shop-7", "shop-8"].map(|place| Units::below(&dir.path().join(place).join("towline-agent")));
        let nats = dir.path().join("etc/towline-nats");
        fs::create_dir_all(&nats).unwrap();
        for file in fs::read_dir(repository().join("deploy/nats")).unwrap().flatten() {
            fs::copy(file.path(), nats.join(file.file_name())).unwrap();
        }
        Self { programs: Vec::new(), units: units.into(), net, dir }
    }

    /// The page's lines with this machine's names: places, the server's address, passwords.
    fn adapted(&self, place: &str, server: &str, text: &str) -> String {
        let dir = self.dir.path().display();
        let mut text = text
            .replace("/etc/", &format!("{dir}/etc/"))
            .replace("/var/lib/", &format!("{dir}/{place}/"))
            .replace("nats.example.com", server);
        if text.contains("PASSWORD") {
            let passwords =
                fs::read_to_string(self.dir.path().join("etc/towline-nats/passwords.conf")).unwrap();
            let user =
                if place == "hub" { "hub_password".to_owned() } else { format!("default_{place}_password") };
            let line = passwords.lines().find(|line| line.starts_with(&user.replace('-', "_"))).unwrap();
            text = text.replace("PASSWORD", line.split('"').nth(1).unwrap());
        }
        text
    }

    fn shell(&self, place: &str, text: &str) -> std::process::Command {
        let mut command = shell(&self.net, place, text);
        // Places are hosts, so each has marks of its own.
        command.env("TOWLINE_MARK_DIR", self.dir.path().join(place).join("marks"));
        command
    }

    /// Follows a block whose last line runs on.
    fn start(&mut self, name: &'static str, place: &'static str, text: &str) {
        let (_, server) = SEEN_FROM.into_iter().find(|(other, _)| *other == place).unwrap();
        let text = self.adapted(place, server, text);
        // The shell becomes the program, so that the pid is the program's own.
        let (before, last) = text.trim_end().rsplit_once('\n').unwrap();
        let command = self.shell(place, &format!("{before}\nexec {last}"));
        fs::create_dir_all(self.dir.path().join(place)).unwrap();
        let log = self.dir.path().join(format!("{name}-{place}.log"));
        self.programs.push((name, Program::start(&format!("{name} of {place}"), command, log)));
    }

    fn start_all(&mut self) {
        let servers = SEEN_FROM.map(|(_, server)| server).join(" ");
        let prepared = self.shell("hub", &self.adapted("hub", &servers, &block("prepare"))).output().unwrap();
        assert!(prepared.status.success(), "{prepared:?}");
        let etc = self.dir.path().join("etc");
        fs::create_dir(etc.join("towline")).unwrap();
        fs::copy(etc.join("towline-nats/ca.pem"), etc.join("towline/ca.pem")).unwrap();
        // In any order: the agents come first here.
        for (place, text) in ["shop-7", "shop-8"].into_iter().zip(blocks("agent")) {
            assert!(text.contains(&format!("--instance default/{place} ")), "the blocks' order: {text}");
            self.start("towline-agent", place, &text);
        }
        self.start("towline-hub", "hub", &block("hub"));
        self.start("nats-server", "hub", &block("nats"));
    }

    /// Runs what the page says for looking, with other words for `towline` if there are any.
    async fn look(&self, words: Option<&str>) -> Output {
        let page = block("look");
        let (before, last) = page.trim_end().rsplit_once('\n').unwrap();
        let last = words.map_or_else(|| last.to_owned(), |words| format!("towline --output json {words}"));
        let text = self.adapted("hub", "127.0.0.1", &format!("{before}\nexec {last}"));
        let running = tokio::process::Command::from(self.shell("hub", &text))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        tokio::time::timeout(PATIENCE, running).await.expect("towline does not hang").unwrap()
    }

    async fn json(&self, words: &str) -> Option<Value> {
        let output = self.look(Some(words)).await;
        if output.status.success() { serde_json::from_slice(&output.stdout).ok() } else { None }
    }

    /// Waits until an instance stands so; returns its epoch.
    async fn until_state(&self, name: &str, state: &str) -> u64 {
        until(&format!("{name} to be {state}"), || async {
            let shown = self.json(&format!("instance show {name}")).await?;
            let is_so = shown["presence"]["state"] == state;
            if is_so { shown["session"]["epoch"].as_u64() } else { None }
        })
        .await
    }

    /// Exit code of a command, the error's own word, and how long it took.
    async fn refused(&self, words: &str) -> (Option<i32>, String, Duration) {
        let begun = Instant::now();
        let output = self.look(Some(words)).await;
        let error: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{output:?}"));
        (output.status.code(), error["code"].as_str().unwrap_or_default().to_owned(), begun.elapsed())
    }

    /// An app that notes ten times a second that it runs; returns the file of notes, its manifest, and its pid.
    async fn ticker(&self, place: &str, name: &str) -> (PathBuf, u32) {
        let ticks = self.dir.path().join(format!("{place}-{name}.ticks"));
        let file = self.manifest(place, name, &ticks);
        let applied = self.look(Some(&format!("apply {place} -f {}", file.display()))).await;
        assert!(applied.status.success(), "{applied:?}");
        let pid = until("its pid", || self.pid(place, name)).await;
        (ticks, pid)
    }

    fn manifest(&self, place: &str, name: &str, ticks: &Path) -> PathBuf {
        let file = self.dir.path().join(format!("{place}-{name}.yaml"));
        let ticker = format!("while true; do echo >> {}; sleep 0.1; done", ticks.display());
        fs::write(&file, script(name, &ticker, "")).unwrap();
        file
    }

    async fn pid(&self, place: &str, name: &str) -> Option<u32> {
        let services = self.json(&format!("services {place} {name}")).await?;
        services["services"][0]["units"][0]["pid"].as_u64().and_then(|pid| pid.try_into().ok())
    }
}

fn count(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |file| file.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_lines_hold_while_links_are_cut_and_joined() {
    let mut machines = Machines::new();
    machines.start_all();
    let epochs = [
        machines.until_state("shop-7", "connected").await,
        machines.until_state("shop-8", "connected").await,
    ];
    let table = machines.look(None).await;
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("shop-7") && table.contains("shop-8"), "{table}");
    let (ticks_7, pid_7) = machines.ticker("shop-7", "web").await;
    let (ticks_8, pid_8) = machines.ticker("shop-8", "web").await;

    // A call that is sent before the loss is known ends with a typed error, within the loss bound.
    machines.net.cut("hub", "shop-7");
    let cut = Instant::now();
    let late = machines.dir.path().join("late.ticks");
    let manifest = machines.manifest("shop-7", "late", &late);
    let (code, word, took) = machines.refused(&format!("apply shop-7 -f {}", manifest.display())).await;
    assert_eq!((code, word.as_str()), (Some(4), "unknown_outcome"));
    assert!(took < 5 * limits::CALL_SILENCE_MAX, "it took {took:?}");
    machines.until_state("shop-7", "unreachable").await;
    assert!(
        cut.elapsed() < 5 * limits::PRESENCE_LOST_AFTER,
        "the loss was noticed after {:?}",
        cut.elapsed()
    );
    // From then on it is known, and answered at once. The other site notices nothing.
    let (code, word, took) = machines.refused("ping shop-7").await;
    assert_eq!((code, word.as_str()), (Some(3), "unavailable"));
    assert!(took < limits::CALL_SILENCE_MAX, "nobody was waited for: {took:?}");
    assert_eq!(machines.until_state("shop-8", "connected").await, epochs[1]);
    assert!(machines.json("ping shop-8").await.is_some());

    // The other link, too; then both come back.
    machines.net.cut("hub", "shop-8");
    let (before_7, before_8) = (count(&ticks_7), count(&ticks_8));
    machines.until_state("shop-8", "unreachable").await;
    assert!(count(&ticks_7) > before_7 && count(&ticks_8) > before_8, "units keep running");
    machines.net.join("hub", "shop-7");
    machines.net.join("hub", "shop-8");
    for (name, (epoch, pid)) in [("shop-7", (epochs[0], pid_7)), ("shop-8", (epochs[1], pid_8))] {
        assert_eq!(machines.until_state(name, "connected").await, epoch, "{name} resumes its epoch");
        until("a call", || async { machines.pid(name, "web").await.filter(|found| *found == pid) }).await;
        assert!(lives(pid), "{name}: the unit ran on");
    }
    // What was sent while the link was cut came after the lease: it was refused, and not done.
    assert_eq!(count(&late), 0);
    assert_eq!(machines.pid("shop-7", "late").await, None);
    revoking_ends_one_and_nobody_else(&machines).await;
}

/// As users.conf says: remove an entry, and reload.
async fn revoking_ends_one_and_nobody_else(machines: &Machines) {
    let losses = || {
        let (_, agent) = machines.programs.iter().find(|(name, _)| *name == "towline-agent").unwrap();
        agent.log().matches("the connection to NATS was lost").count()
    };
    let (file, before) = (machines.dir.path().join("etc/towline-nats/users.conf"), losses());
    let users = fs::read_to_string(&file).unwrap();
    let (kept, _) = users.split_once("    {\n        user: \"default.shop-8\"").unwrap();
    fs::write(&file, format!("{kept}]\n")).unwrap();
    let (_, server) = machines.programs.iter().find(|(name, _)| *name == "nats-server").unwrap();
    let folder = file.parent().unwrap().display();
    let reload = format!("{folder}/make-passwords && nats-server --signal reload={}", server.pid());
    assert!(machines.shell("hub", &reload).status().unwrap().success());
    machines.until_state("shop-8", "unreachable").await;
    assert!(machines.json("ping shop-7").await.is_some());
    assert_eq!(losses(), before, "who stays is not disconnected");
}

/// The configuration that we ship gives to each agent what the protocol says, word for word.
#[test]
fn the_shipped_users_have_exactly_the_rights_of_the_protocol() {
    let users = fs::read_to_string(repository().join("deploy/nats/users.conf")).unwrap();
    for name in ["shop-7", "shop-8"] {
        let (root, instance) = (Root::default(), instance(name));
        for line in [
            format!("publish: {:?}\n", root.agent_may_publish(&instance)),
            format!("subscribe: {:?}\n", root.agent_may_subscribe(&instance)),
        ] {
            assert!(users.contains(&line), "{line} is not in users.conf");
        }
    }
    assert_eq!(users.matches("publish:").count(), 3, "a hub, two agents, and nobody else");
}
