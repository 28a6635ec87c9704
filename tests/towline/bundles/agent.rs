//! The commands, with a real agent and real processes at the end.

use serde_json::Value;
use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_tests::chain::{HubChain, RealAgent};
use towline_tests::wait::until;

use super::support::Operator;

const HEAD: &str =
    "apiVersion: towline/v1\nkind: Bundle\nmetadata: {name: shop, description: what we sell}\n";

/// A hub whose one instance is an agent with the process runtime.
struct Site {
    hub: HubChain,
    agent: RealAgent,
    operator: Operator,
}

impl std::ops::Deref for Site {
    type Target = Operator;

    fn deref(&self) -> &Operator {
        &self.operator
    }
}

impl Site {
    async fn start() -> Self {
        let hub = HubChain::start().await;
        let agent = hub.process("site").await;
        let operator = Operator::new(&hub.url, &hub.token);
        Self { hub, agent, operator }
    }

    /// Everything must be gone by then.
    async fn end(self) {
        let units = self.agent.data_dir.path().join("units");
        self.agent.end().await;
        assert_eq!(std::fs::read_dir(units).map_or(0, Iterator::count), 0, "no unit is left");
        self.hub.stop().await;
    }

    /// Puts what the directory `shop` holds, and waits.
    async fn put(&self, more: &[&str], code: i32) -> super::support::Ended {
        let dir = self.path("shop");
        let args = [&["bundle", "put", "site", "-f", &dir][..], more].concat();
        self.run(&args).await.expect(code)
    }

    /// The units of an app and their pids, as services tell them.
    async fn pids(&self, app: &str) -> Vec<u64> {
        let found = self.json(&["services", "site", app]).await;
        let units = found.pointer("/services/0/units").and_then(Value::as_array).cloned().unwrap_or_default();
        units.iter().filter_map(|unit| unit["pid"].as_u64()).collect()
    }

    async fn status(&self) -> Value {
        self.json(&["bundle", "status", "site", "shop"]).await
    }

    async fn delete(&self) {
        self.run(&["bundle", "delete", "site", "shop", "--reason", "the test is over", "--wait"])
            .await
            .expect(0);
    }
}

fn app(name: &str, more: &str) -> String {
    format!(
        "apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec:\n  command: [sleep, \"1000\"]\n  stop: {{gracePeriod: 1s}}\n{more}"
    )
}

/// What came last of a workload.
fn result<'a>(status: &'a Value, workload: &str) -> &'a str {
    let workloads = status["workloads"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = workloads.iter().find(|found| found["id"] == workload);
    found.and_then(|found| found["result"]["state"].as_str()).unwrap_or("absent")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_is_put_changed_and_deleted() {
    let site = Site::start().await;
    site.file("shop/bundle.yaml", HEAD);
    site.file("shop/a.yaml", &app("counter", ""));
    site.file("shop/b.yaml", &app("till", "  units: 1\n"));
    let planned = site.put(&["--dry-run"], 0).await.stdout;
    assert!(planned.contains("+ add        App/counter"), "{planned}");
    assert!(planned.contains("2 to add, 0 to update, 0 to remove, 0 untouched"), "{planned}");
    assert_eq!(site.pids("counter").await, [] as [u64; 0], "a dry run does nothing");
    let put = site.put(&["--wait"], 0).await.stdout;
    assert!(put.contains("accepted  shop version 1  job "), "{put}");
    assert!(put.lines().last().unwrap().starts_with("done  put shop version 1 in "), "{put}");
    let (counter, till) = (site.pids("counter").await, site.pids("till").await);
    assert_eq!((counter.len(), till.len()), (1, 1));
    let status = site.status().await;
    assert_eq!((result(&status, "App/counter"), result(&status, "App/till")), ("ok", "ok"));
    let bundle = &status["bundle"];
    assert_eq!((bundle["accepted"].as_u64(), bundle["applied"].as_u64()), (Some(1), Some(1)));
    assert_eq!((&bundle["description"], &bundle["phase"]), (&"what we sell".into(), &"active".into()));

    let again = site.put(&["--wait"], 0).await.stdout;
    assert!(again.contains("unchanged  shop version 1"), "{again}");
    site.file("shop/b.yaml", &app("till", "  units: 2\n"));
    let planned = site.put(&["--dry-run"], 0).await.stdout;
    assert!(planned.contains("~ update     App/till"), "{planned}");
    assert!(planned.contains("- spec.units: 1") && planned.contains("+ spec.units: 2"), "{planned}");
    site.put(&["--wait", "--if-version", "1"], 0).await;
    assert_eq!(site.pids("counter").await, counter, "what did not change is not touched");
    assert_eq!(site.pids("till").await.len(), 2);
    site.file("shop/b.yaml", &app("other", ""));
    site.put(&["--wait", "--if-version", "1"], 7).await;
    site.put(&["--wait"], 0).await;
    assert_eq!((site.pids("till").await.len(), site.pids("other").await.len()), (0, 1));
    assert_eq!(site.json(&["bundle", "list", "site"]).await["bundles"][0]["applied"], 3);

    let record = site.run(&["bundle", "changes", "site", "shop"]).await.expect(0).stdout;
    assert!(record.lines().filter(|line| line.contains("App/till")).count() >= 3, "{record}");
    let owned = site.file("direct.yaml", &app("counter", "  units: 3\n"));
    site.run(&["apply", "site", "-f", &owned]).await.expect(8);
    assert_eq!(site.pids("counter").await, counter, "what a bundle owns, apply does not touch");
    site.delete().await;
    let list = site.json(&["bundle", "list", "site"]).await;
    assert_eq!((list["bundles"].as_array().map(Vec::len), site.pids("counter").await.len()), (Some(0), 0));
    site.run(&["bundle", "changes", "site", "shop"]).await.expect(0);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_bundle_stands_still_until_it_is_resumed() {
    let site = Site::start().await;
    let content = format!("{HEAD}---\n{}", app("counter", ""));
    site.run_with(&["bundle", "put", "site", "-f", "-", "--wait"], &content).await.expect(0);
    site.run(&["bundle", "pause", "site", "shop", "--reason", "the disk is full", "--wait"]).await.expect(0);
    let status = site.status().await;
    assert_eq!((&status["bundle"]["phase"], result(&status, "App/counter")), (&"paused".into(), "paused"));
    assert_eq!(site.pids("counter").await.len(), 0);
    site.run(&["bundle", "resume", "site", "shop", "--wait"]).await.expect(0);
    assert_eq!(site.pids("counter").await.len(), 1);
    let jobs = site.json(&["jobs", "site", "--bundle", "shop"]).await;
    let kinds: Vec<_> =
        jobs["jobs"].as_array().unwrap().iter().map(|job| job["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["resume", "pause", "put"], "the newest first");
    assert_eq!(jobs["jobs"][1]["reason"], "the disk is full");
    let put = jobs["jobs"][2]["id"].as_str().unwrap();
    let watched = site.run(&["job", "watch", "site", put]).await.expect(0).stdout;
    assert!(watched.contains("App/counter add"), "whoever comes late sees the same: {watched}");
    site.run(&["job", "cancel", "site", put]).await.expect(7);
    site.run(&["job", "show", "site", put]).await.expect(0);
    site.delete().await;
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_workload_fails_the_job_and_not_the_others() {
    let site = Site::start().await;
    let motd = |path: &str| {
        format!(
            "apiVersion: towline/v1\nkind: File\nmetadata: {{name: motd}}\nspec: {{path: {path}, content: hello}}\n"
        )
    };
    let nowhere = site.path("nowhere/motd");
    site.file("shop/a.yaml", &format!("{HEAD}---\n{}", app("counter", "")));
    site.file("shop/motd.yaml", &motd(&nowhere));
    let failed = site.put(&["--wait"], 8).await;
    assert!(
        failed.stderr.contains("File/motd") && failed.stderr.contains("motd.yaml, document 1"),
        "{}",
        failed.stderr
    );
    assert!(failed.stderr.contains("towline bundle status"), "{}", failed.stderr);
    let status = site.status().await;
    assert_eq!((result(&status, "File/motd"), result(&status, "App/counter")), ("error", "ok"));
    assert_eq!(status["bundle"]["accepted"], 1);
    assert!(status["bundle"].get("applied").is_none(), "accepted is not applied: {status}");
    let table = site.run(&["bundle", "status", "site", "shop"]).await.expect(0).stdout;
    assert!(table.contains("applied    none yet"), "{table}");
    // The cause is mended; the next try is asked for.
    std::fs::create_dir(site.path("nowhere")).unwrap();
    site.run(&["bundle", "retry", "site", "shop", "--workload", "File/motd", "--wait"]).await.expect(0);
    assert_eq!(std::fs::read_to_string(&nowhere).unwrap(), "hello");
    until("the bundle to be applied", || async {
        let status = site.status().await;
        (status["bundle"]["applied"] == 1 && result(&status, "File/motd") == "ok").then_some(())
    })
    .await;
    // What cannot be read is told by file and document before anything is done.
    site.file("shop/a.yaml", &format!("{HEAD}---\n{}", app("counter", "  units: -1\n")));
    let refused = site.put(&["--wait"], 1).await;
    assert!(refused.stderr.contains("a.yaml: document 2: spec.units"), "{}", refused.stderr);
    assert_eq!(site.status().await["bundle"]["accepted"], 1);
    site.delete().await;
    assert!(!std::path::Path::new(&nowhere).exists());
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_takes_long_is_cancelled() {
    let site = Site::start().await;
    let stubborn = |units: u8| {
        format!(
            "{HEAD}---\napiVersion: towline/v1\nkind: App\nmetadata: {{name: stubborn}}\nspec:\n  \
             command: [sh, -c, \"trap '' TERM; while true; do sleep 0.1; done\"]\n  \
             stop: {{gracePeriod: 5s}}\n  env: {{UNITS: \"{units}\"}}\n"
        )
    };
    site.run_with(&["bundle", "put", "site", "-f", "-", "--wait"], &stubborn(1)).await.expect(0);
    let (put, text) = (["bundle", "put", "site", "-f", "-", "--wait"], stubborn(2));
    let waiting = site.run_with(&put, &text);
    let cancelling = async {
        let job = until("the job to run", || async {
            let jobs = site.json(&["jobs", "site", "--state", "running"]).await;
            jobs["jobs"][0]["id"].as_str().map(str::to_owned)
        })
        .await;
        site.run(&["job", "cancel", "site", &job, "--reason", "too slow"]).await.expect(0);
    };
    let (ended, ()) = tokio::join!(waiting, cancelling);
    let ended = ended.expect(1);
    assert!(ended.stderr.contains("was cancelled"), "{ended:#?}");
    let late = site.run(&["--timeout", "1s", "bundle", "delete", "site", "shop", "--wait"]).await.expect(9);
    assert!(late.stderr.contains("towline job watch"), "{}", late.stderr);
    until("the bundle to go", || async {
        let list = site.json(&["bundle", "list", "site"]).await;
        list["bundles"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_runs_as_it_stands() {
    let site = Site::start().await;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/bundle/shop");
    let planned = site.run(&["bundle", "put", "site", "-f", example, "--dry-run"]).await.expect(0).stdout;
    assert!(planned.contains("4 to add, 0 to update, 0 to remove, 0 untouched"), "{planned}");
    assert!(planned.contains("spec.content: (hidden, blake3 ") && !planned.contains("apples"), "{planned}");
    let put = site.run(&["bundle", "put", "site", "-f", example, "--wait"]).await.expect(0).stdout;
    let begun: Vec<_> = ["Directory/shelf", "File/prices", "App/counter", "App/till"]
        .map(|workload| put.find(&format!("  {workload} add ok")).unwrap_or(usize::MAX))
        .into();
    assert!(begun.is_sorted() && begun.last() < Some(&usize::MAX), "in the declared order: {put}");
    until("the till to be open", || async {
        let log = site.run(&["logs", "site", "till"]).await;
        log.stdout.contains("the till is open: apples 2 pears 3").then_some(())
    })
    .await;
    site.delete().await;
    assert!(!std::path::Path::new("/tmp/towline-shop").exists());
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn z_c1_what_does_not_fit_is_refused_with_both_numbers() {
    let site = Site::start().await;
    let platform = site.hub.platform("site");
    let shelf = |size: &str| {
        let path = site.path("shelf");
        format!(
            "apiVersion: towline/v1\nkind: Directory\nmetadata: {{name: shelf}}\nspec: {{path: {path}, size: {size}}}\n"
        )
    };
    let web = app("web", "  ports: [{name: http, port: 8080}]\n");
    let content = format!("{HEAD}---\n{}---\n{web}", shelf("1Mi"));
    let put = ["bundle", "put", "site", "-f", "-", "--wait"];
    let before = platform.capacity(&CallContext::new()).await.unwrap();
    site.run_with(&put, &content).await.expect(0);
    let after = platform.capacity(&CallContext::new()).await.unwrap();
    assert_eq!(after.disk_bytes.reserved, before.disk_bytes.reserved + (1 << 20));
    assert!(
        after.disk_bytes.total > after.disk_bytes.reserved && after.cpu_millis.total >= 1_000,
        "{after:?}"
    );
    assert_eq!((after.bundles, after.workloads), (1, 2));
    let addresses = platform.addresses(&CallContext::new()).await.unwrap().addresses;
    let [address] = addresses.as_slice() else { panic!("one port is given: {addresses:?}") };
    assert_eq!(address.bundle.as_ref().map(|bundle| bundle.as_str()), Some("shop"));
    assert_eq!((address.resource.as_str(), address.protocol.as_str()), ("default/App/web", "tcp"));
    let shown = site.run(&["capacity", "site", "--output", "json"]).await.expect(0).objects();
    assert_eq!(shown[0]["disk_bytes"]["reserved"], after.disk_bytes.reserved);
    let table = site.run(&["addresses", "site"]).await.expect(0).stdout;
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[1], row[3], row[5]), (address.port.to_string().as_str(), "default/App/web", "shop"));

    let huge = format!("{HEAD}---\n{}---\n{web}", shelf("900Ti"));
    let refused = site.run_with(&put, &huge).await;
    assert_ne!(refused.code, Some(0), "{refused:#?}");
    assert!(
        refused.stderr.contains("989560464998400") && refused.stderr.contains("are free"),
        "the number asked for, and the one there is: {}",
        refused.stderr
    );
    assert_eq!(site.status().await["bundle"]["accepted"], 1, "nothing was accepted");
    site.delete().await;
    site.end().await;
}
