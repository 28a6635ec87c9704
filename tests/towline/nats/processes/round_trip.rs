//! `towline export | towline import`, as it is typed, with the real programs: it changes nothing.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::Value;
use towline_tests::docker::{DockerEngine, IMAGE};
use towline_tests::processes::AgentProcess;
use towline_tests::wait::until;

use super::Site;

/// What the engine does when it is only asked for a file.
const READS: [&str; 2] = ["archive-path", "export"];

/// Direct apps, one of them written oddly, and a bundle beside them; all brought here by the command line. `more` is what each
/// app needs on its runtime.
async fn bring(site: &Site, agent: &AgentProcess, more: &str) {
    let app = |name: &str, spec: &str| {
        format!(
            "apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec:\n{more}  stop: {{gracePeriod: 0s}}\n{spec}"
        )
    };
    let file = |name: &str, content: &str| {
        let path = agent.dir().join(name);
        std::fs::write(&path, content).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let web = file("web.yaml", &app("web", "  units: 2\n  files: [{path: conf, content: \"a\\n\"}]\n"));
    // No end of line, and a comment that no parser gives back.
    let odd = app("odd", "  files: [{path: conf, base64: YQ==}] # größer");
    let odd = file("odd.yaml", &format!("# by hand\r\n{odd}"));
    let shop = file("shop.yaml", &app("till", "  files: [{path: conf, content: b}]\n"));
    let applied = site.hub.cli(&["apply", "site", "-f", &web, "-f", &odd]).await;
    assert!(applied.status.success(), "{applied:?}");
    let put = site.hub.cli(&["bundle", "put", "site", "shop", "-f", &shop, "--wait"]).await;
    assert!(put.status.success(), "{put:?}");
}

/// All that the command line shows: among it the units, since when they run, and digests of what was applied.
async fn shown(site: &Site) -> BTreeMap<&'static str, Value> {
    let mut shown = BTreeMap::new();
    for (name, args) in [
        ("services", &["services", "site"][..]),
        ("bundles", &["bundle", "list", "site"]),
        ("changes", &["bundle", "changes", "site", "shop"]),
    ] {
        shown.insert(name, site.hub.cli_json(args).await);
    }
    shown
}

async fn jobs(site: &Site) -> Vec<Value> {
    site.hub.cli_json(&["jobs", "site"]).await["jobs"].as_array().unwrap().clone()
}

/// Does it, and looks at all that can be seen through the hub.
async fn round_trip(site: &Site) {
    let exported = site.hub.cli(&["export", "site"]).await;
    assert!(exported.status.success(), "{exported:?}");
    let text = String::from_utf8(exported.stdout.clone()).unwrap();
    assert!(
        text.contains("# by hand\r\n") && text.contains("# größer") && text.contains("name: web"),
        "{text}"
    );
    assert!(!text.contains("name: till"), "what a bundle has is exported with the bundle: {text}");
    let (before, jobs_before) = (shown(site).await, jobs(site).await);
    assert_eq!(before["services"]["services"].as_array().unwrap().len(), 3);

    let (export, import) = site.hub.cli_pipe(&["export", "site"], &["import", "site"]).await;
    assert!(export.success() && import.status.success(), "{export:?} {import:?}");
    let said = String::from_utf8(import.stdout).unwrap();
    assert_eq!(said, "applied  default/App/odd\napplied  default/App/web\n");

    assert_eq!(shown(site).await, before);
    let after = jobs(site).await;
    let fresh: Vec<&Value> = after.iter().filter(|job| !jobs_before.contains(job)).collect();
    let [job] = fresh.as_slice() else { panic!("the call itself, and nothing because of it: {fresh:?}") };
    assert_eq!((&job["kind"], &job["state"]), (&"apply".into(), &"done".into()));
    let again = site.hub.cli(&["export", "site"]).await;
    assert_eq!(again.stdout, exported.stdout, "and it can be exported again");

    // What cannot be exported says so, and nothing is imported for it.
    let (export, import) = site.hub.cli_pipe(&["export", "nobody"], &["import", "site"]).await;
    assert_eq!((export.code(), import.status.code()), (Some(3), Some(0)), "{import:?}");
    assert!(String::from_utf8_lossy(&import.stderr).contains("nothing to import"), "{import:?}");
    let (export, import) = site.hub.cli_pipe(&["export", "site"], &["import", "nobody"]).await;
    assert_eq!((export.code(), import.status.code()), (Some(0), Some(3)), "{import:?}");
    assert_eq!(shown(site).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_y1_export_piped_into_import_changes_nothing_on_docker() {
    let engine = DockerEngine::start("round-trip", &["without-network"]);
    let site = Site::start().await;
    let mut agent = AgentProcess::start_on("site", site.server.url(), &engine).await;
    site.hub.until_state("site", "connected").await;
    bring(&site, &agent, &format!("  image: {IMAGE}\n  command: [sh, -c, \"echo up; exec sleep 1000\"]\n"))
        .await;
    let state = || {
        let ids = engine.containers("default/site");
        assert_eq!(ids.len(), 4);
        let format = "{{.Id}} {{.Created}} {{.State.StartedAt}} {{.State.Pid}} {{.RestartCount}}";
        let words: Vec<&str> =
            ["inspect", "--format", format].into_iter().chain(ids.iter().map(String::as_str)).collect();
        engine.docker(&words)
    };
    let events = || {
        let format = ["--format", "{{.Actor.ID}} {{.Action}}"];
        let until = engine.docker(&["system", "info", "--format", "{{.SystemTime}}"]);
        let text = engine.docker(&[&["events", "--since", "0", "--until", &until][..], &format].concat());
        let is_read = |line: &&str| READS.iter().any(|action| line.ends_with(action));
        text.lines().filter(|line| !is_read(line)).map(str::to_owned).collect::<Vec<_>>()
    };
    let (before, events_before) = (state(), events());
    assert_eq!(events_before.iter().filter(|line| line.ends_with(" start")).count(), 4, "{events_before:?}");

    round_trip(&site).await;
    assert_eq!(state(), before, "no container was made or started again");
    assert_eq!(events(), events_before, "the engine did nothing at all");
    let said = until("the unit's line", || async {
        let logs = site.hub.cli(&["logs", "site", "odd"]).await;
        assert!(logs.status.success(), "{logs:?}");
        String::from_utf8(logs.stdout).ok().filter(|text| !text.is_empty())
    })
    .await;
    assert_eq!(said.matches("up").count(), 1, "{said}");

    // Nor does it with an agent that has found them again.
    let epoch = site.hub.until_state("site", "connected").await;
    agent.start_again().await;
    until("the agent to be back", || async {
        Some(site.hub.until_state("site", "connected").await).filter(|now| *now > epoch)
    })
    .await;
    let (export, import) = site.hub.cli_pipe(&["export", "site"], &["import", "site"]).await;
    assert!(export.success() && import.status.success(), "{export:?} {import:?}");
    assert_eq!(String::from_utf8(import.stdout).unwrap().lines().count(), 2);
    assert_eq!((state(), events()), (before, events_before));
}

/// When the files of the units of an agent were written, by path.
fn written(units: &Path) -> BTreeMap<String, (i64, i64)> {
    let unit = |entry: std::fs::DirEntry| {
        let path = entry.path().join("work/conf");
        let meta = std::fs::metadata(&path).ok()?;
        Some((path.display().to_string(), (meta.ctime(), meta.ctime_nsec())))
    };
    std::fs::read_dir(units).unwrap().filter_map(|entry| unit(entry.unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_y1_export_piped_into_import_changes_nothing_on_processes() {
    let site = Site::start().await;
    let agent = site.agent("site").await;
    bring(&site, &agent, "  command: [sleep, \"1000\"]\n").await;
    let units = agent.data_dir().join("units");
    let before = written(&units);
    assert_eq!(before.len(), 4);
    // Among what is shown are pids and when they began.
    round_trip(&site).await;
    assert_eq!(written(&units), before, "no unit is new, and no file was written again");
}
