//! The commands, with the mock at the end: what is sent, what is shown, and how each ends.

use towline_bus::platform::{MockPlatform, Seen};
use towline_bus::subscription::ActiveSubscription;
use towline_protocol::bundle::{Change, ChangeOp, PutBundleRequest, ResultState};
use towline_protocol::job::{Job, JobKind, JobRecord, JobState};
use towline_protocol::{Code, ItemError, JobId, Method};
use towline_tests::chain::HubChain;
use towline_tests::wait::until;

use super::support::Operator;

const HEAD: &str = "apiVersion: towline/v1\nkind: Bundle\nmetadata: {name: shop}\n";

/// A hub whose one instance is a mock.
struct Site {
    hub: HubChain,
    mock: MockPlatform,
    subscription: ActiveSubscription,
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
        let (mock, subscription) = hub.mock("site").await;
        let operator = Operator::new(&hub.url, &hub.token);
        Self { hub, mock, subscription, operator }
    }

    async fn end(self) {
        self.subscription.leave().await;
        self.hub.stop().await;
    }

    fn puts(&self) -> Vec<PutBundleRequest> {
        let put = |seen| if let Seen::PutBundle { request } = seen { Some(request) } else { None };
        self.mock.take_seen().into_iter().filter_map(put).collect()
    }
}

fn app(name: &str) -> String {
    format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec: {{command: [x]}}\n")
}

fn job(state: JobState) -> Job {
    Job {
        id: JobId::new(uuid::Uuid::new_v4()),
        kind: JobKind::Put,
        state,
        bundle: Some("shop".parse().unwrap()),
        version: Some(3),
        request: None,
        reason: None,
        accepted_unix_ms: 1_700_000_000_000,
        started_unix_ms: Some(1_700_000_000_000),
        ended_unix_ms: Some(1_700_000_001_000),
        records: 0,
        message: Some("1 workload failed".to_owned()),
        errors: [("App/web".to_owned(), ItemError::new(Code::Cluster, "port 80 is taken"))].into(),
    }
}

fn record(seq: u64, state: JobState) -> JobRecord {
    JobRecord {
        seq,
        at_unix_ms: 1_700_000_000_000,
        state,
        workload: Some("App/web".parse().unwrap()),
        op: Some(ChangeOp::Add),
        step: Some(format!("step {seq}")),
        result: Some(ResultState::Ok),
        message: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_a_file_and_standard_input_are_put_verbatim() {
    let site = Site::start().await;
    let (web, head) = (app("web"), HEAD.trim_end());
    site.file("shop/b.yml", &web);
    site.file("shop/a.yaml", head);
    site.file("shop/notes.txt", "not: yaml: at all");
    let dir = site.path("shop");
    let put = site.run(&["bundle", "put", "site", "-f", &dir, "--wait"]).await.expect(0);
    let lines: Vec<_> = put.stdout.lines().collect();
    assert!(lines[1].starts_with("accepted  shop version 1  job "), "{lines:?}");
    assert!(lines[2].ends_with("running") && lines[3].ends_with("done"), "progress in order: {lines:?}");
    assert!(lines[4].starts_with("done  put shop version 1"), "{lines:?}");
    let [request] = site.puts().try_into().unwrap();
    assert_eq!(
        (request.bundle.as_str(), &request.content[..]),
        ("shop", format!("{head}\n---\n{web}").as_bytes())
    );

    let one = site.file("one.yaml", &web);
    site.run(&["bundle", "put", "site", "other", "-f", &one, "--force", "--adopt"]).await.expect(0);
    let [request] = site.puts().try_into().unwrap();
    assert_eq!((request.bundle.as_str(), &request.content[..]), ("other", web.as_bytes()));
    assert!(request.force && request.adopt && !request.dry_run);
    let same = site.run_with(&["bundle", "put", "site", "other", "-f", "-"], &web).await.expect(0);
    assert!(same.stdout.starts_with("unchanged  other version 1"), "{}", same.stdout);
    let text = site.run(&["bundle", "get", "site", "other"]).await.expect(0).stdout;
    assert_eq!(text, web, "what was put comes back byte for byte");

    let _ = site.puts();
    let nameless = site.run(&["bundle", "put", "site", "-f", &one]).await.expect(2);
    assert!(nameless.stderr.contains("has no name"), "{}", nameless.stderr);
    let other = site.run(&["bundle", "put", "site", "other", "-f", &dir]).await.expect(1);
    assert!(other.stderr.contains("names `shop`"), "{}", other.stderr);
    assert_eq!(site.puts(), [], "nothing was sent");
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_shows_what_would_change() {
    let site = Site::start().await;
    let file = site.file("shop.yaml", &format!("{HEAD}---\n{}", app("web")));
    let put = ["bundle", "put", "site", "-f", &file];
    let change = |workload: &str, op, diff: Option<&str>| Change {
        workload: workload.parse().unwrap(),
        resource: None,
        op,
        reason: None,
        diff: diff.map(str::to_owned),
        units: Vec::new(),
    };
    site.mock.set_put_changes(vec![
        change("App/old", ChangeOp::Remove, None),
        change("App/web", ChangeOp::Update, Some("-  units: 1\n+  units: 2\n")),
    ]);
    let planned = site.run(&[&put[..], &["--dry-run"]].concat()).await.expect(0);
    assert_eq!(
        planned.stdout,
        "- remove     App/old\n~ update     App/web\n      -  units: 1\n      +  units: 2\n\
         0 to add, 1 to update, 1 to remove, 0 untouched\nplanned  shop version 1: a dry run, nothing was done\n"
    );
    let json = site.run(&[&put[..], &["--dry-run", "--output", "json"]].concat()).await.expect(0);
    assert_eq!(json.objects()[0]["changes"][1]["diff"], "-  units: 1\n+  units: 2\n");
    site.run(&["bundle", "status", "site", "shop"]).await.expect(6);
    site.run(&[&put[..], &["--dry-run", "--wait"]].concat()).await.expect(2);

    site.run(&put).await.expect(0);
    site.run(&[&put[..], &["--if-version", "1", "--key", "again"]].concat()).await.expect(0);
    std::fs::write(&file, format!("{HEAD}---\n{}", app("other"))).unwrap();
    site.run(&[&put[..], &["--if-version", "1"]].concat()).await.expect(0);
    std::fs::write(&file, HEAD).unwrap();
    let late = site.run(&[&put[..], &["--if-version", "1"]].concat()).await.expect(7);
    assert!(
        late.stderr.contains("is at version 2") && late.stderr.contains("towline bundle get"),
        "{}",
        late.stderr
    );

    let wrong = ItemError::new(Code::Invalid, "spec.units: found -1");
    let refusal = towline_protocol::CallError {
        errors: [("App/web".to_owned(), wrong)].into(),
        ..towline_protocol::CallError::new(Code::Invalid, "1 workload is wrong")
    };
    site.mock.fail(Method::PutBundle, Some(refusal));
    std::fs::write(&file, format!("{HEAD}---\n{}", app("web"))).unwrap();
    let refused = site.run(&put).await.expect(1);
    assert!(refused.stderr.contains("shop.yaml, document 2): spec.units: found -1"), "{}", refused.stderr);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_job_is_shown_while_it_runs_and_its_end_is_the_exit_code() {
    let site = Site::start().await;
    for (end, code) in
        [(JobState::Done, 0), (JobState::Failed, 8), (JobState::Cancelled, 1), (JobState::Superseded, 7)]
    {
        let held = job(JobState::Running);
        site.mock.add_job(held.clone(), vec![record(1, JobState::Running)]);
        let args = ["--output", "json", "job", "watch", "site", &held.id.to_string()];
        let watching = site.run(&args);
        let feeding = async {
            let watched = |seen: &Seen| matches!(seen, Seen::WatchJob { .. });
            until("the watch", || {
                std::future::ready(site.mock.take_seen().iter().any(watched).then_some(()))
            })
            .await;
            site.mock.add_record(held.id, record(2, JobState::Running));
            site.mock.add_record(held.id, record(3, end.clone()));
        };
        let (ended, ()) = tokio::join!(watching, feeding);
        let ended = ended.expect(code);
        let objects = ended.objects();
        let seqs: Vec<_> = objects.iter().filter_map(|object| object["seq"].as_u64()).collect();
        assert_eq!(seqs, [1, 2, 3]);
        assert_eq!(objects.last().unwrap()["state"], end.as_str());
        assert_eq!(ended.stderr.contains("port 80 is taken"), code != 0, "{}", ended.stderr);
    }
    let held = job(JobState::Running);
    site.mock.add_job(held.clone(), vec![record(1, JobState::Running)]);
    let id = held.id.to_string();
    let late = site.run(&["--timeout", "1s", "job", "watch", "site", &id]).await.expect(9);
    assert!(late.stderr.contains("has not ended after 1s"), "{}", late.stderr);
    let cancelled = site.run(&["job", "cancel", "site", &id, "--reason", "no"]).await.expect(0);
    assert_eq!(cancelled.stdout, "put shop version 3 is cancelled\n");
    site.run(&["job", "cancel", "site", &id]).await.expect(7);
    let shown = site.run(&["job", "show", "site", &id]).await.expect(0).stdout;
    assert!(shown.contains("App/web add step 1 ok"), "{shown}");
    site.run(&["job", "watch", "site", &"0".repeat(32)]).await.expect(6);
    site.run(&["job", "show", "site", "7"]).await.expect(2);
    let jobs = site.run(&["jobs", "site", "--state", "failed", "--bundle", "shop"]).await.expect(0).stdout;
    assert_eq!(jobs.lines().count(), 2, "{jobs}");
    let jobs = site.json(&["jobs", "site", "--limit", "2"]).await;
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(2));
    site.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_name_their_job_and_may_be_waited_for() {
    let site = Site::start().await;
    let put = ["bundle", "put", "site", "shop", "-f", "-"];
    site.run_with(&put, &app("web")).await.expect(0);
    for operation in ["pause", "resume"] {
        let args = ["bundle", operation, "site", "shop", "--reason", "so be it", "--wait"];
        let ended = site.run(&args).await.expect(0);
        assert!(ended.stdout.starts_with("accepted  shop  job "), "{}", ended.stdout);
        assert!(ended.stdout.contains(&format!("done  {operation} shop version 1 in ")), "{}", ended.stdout);
    }
    let retry = ["bundle", "retry", "site", "shop", "--workload", "App/web", "--workload", "File/x"];
    site.run(&retry).await.expect(0);
    let seen = site.mock.take_seen();
    let retried = seen.iter().find_map(|seen| match seen {
        Seen::RetryBundle { request } => Some(request.workloads.len()),
        _ => None,
    });
    assert_eq!(retried, Some(2));
    let list = site.run(&["bundle", "list", "site"]).await.expect(0).stdout;
    assert!(list.contains("shop    active  1         1"), "{list}");
    let status = site.run(&["bundle", "status", "site", "shop"]).await.expect(0).stdout;
    assert!(status.contains("accepted   version 1\n"), "{status}");
    site.run(&["bundle", "changes", "site", "shop"]).await.expect(0);
    let planned = site.run(&["bundle", "delete", "site", "shop", "--dry-run"]).await.expect(0);
    assert!(planned.stdout.contains("planned  shop: a dry run"), "{}", planned.stdout);
    site.run(&["bundle", "delete", "site", "shop", "--reason", "gone", "--wait"]).await.expect(0);
    assert_eq!(site.json(&["bundle", "list", "site"]).await["bundles"][0]["phase"], "deleted");
    site.run(&["bundle", "pause", "site", "none"]).await.expect(6);
    site.run(&["bundle", "list", "elsewhere"]).await.expect(3);
    site.end().await;
}
