//! Files of containers: changed under those that run on, held to what is declared, gone with what has them.

use towline_agent::shim::Status;
use towline_protocol::bundle::{
    BundleStatusRequest, DeleteBundleRequest, PutBundleRequest, RetryBundleRequest,
};

use super::*;
use crate::{events::Event, until};

/// For an app to be up, and its files to be looked at.
const PATIENCE: Duration = Duration::from_secs(90);

fn with_files(restarts: bool, files: &str) -> String {
    sleeper(&format!("  restartOnConfigChange: {restarts}\n  files: [{files}]\n"))
}

impl Bench {
    fn cat(&self, container: &str, path: &str) -> String {
        self.engine.docker(&["exec", container, "cat", path])
    }

    fn started_at(&self, container: &str) -> String {
        self.engine.docker(&["inspect", "--format", "{{.State.StartedAt}}", container])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d10_files_are_rewritten_under_containers_that_run_on_or_replace_them_as_the_app_says() {
    let bench = Bench::new("rewritten").await;
    bench.apply(&with_files(false, "{path: /etc/a.conf, content: one, owner: web}")).await.unwrap();
    let before = bench.containers();
    let started = bench.started_at(&before[0]);
    let more =
        "{path: /etc/a.conf, content: two, owner: web}, {path: /conf/b.conf, content: new, mode: \"0640\"}";
    bench.apply(&with_files(false, more)).await.unwrap();
    assert_eq!(bench.containers(), before);
    assert_eq!(bench.cat(&before[0], "/etc/a.conf"), "two");
    let shown = "stat -c '%a %u %g' /etc/a.conf /conf/b.conf";
    assert_eq!(bench.engine.docker(&["exec", &before[0], "sh", "-c", shown]), "600 33 0\n640 0 0");
    // What somebody did within is undone when the same is applied again, and nothing else.
    let spoil = "echo other > /etc/a.conf; rm /conf/b.conf";
    bench.engine.docker(&["exec", &before[0], "sh", "-c", spoil]);
    bench.apply(&with_files(false, more)).await.unwrap();
    assert_eq!(bench.cat(&before[0], "/etc/a.conf"), "two");
    assert_eq!(bench.cat(&before[0], "/conf/b.conf"), "new");
    assert_eq!((bench.containers(), bench.started_at(&before[0])), (before.clone(), started), "it runs on");
    // One that was stopped has them when it starts, in the same pass.
    bench.engine.docker(&["exec", &before[0], "sh", "-c", spoil]);
    bench.engine.docker(&["stop", "--time", "0", &before[0]]);
    bench.apply(&with_files(false, more)).await.unwrap();
    bench.until("readiness", is_ready).await;
    assert_eq!(
        (bench.containers(), bench.cat(&before[0], "/etc/a.conf")),
        (before.clone(), "two".to_owned())
    );
    // The engine takes no file out of a container.
    bench.apply(&with_files(false, "{path: /etc/a.conf, content: two, owner: web}")).await.unwrap();
    let after = bench.containers();
    assert!(after.len() == 1 && after != before, "{after:?}");
    let left = bench.engine.docker(&[
        "exec",
        &after[0],
        "sh",
        "-c",
        "ls /conf 2>&1 | wc -l; ls /conf/b.conf 2>&1 || true",
    ]);
    assert!(left.contains("No such file"), "{left}");
    bench.apply(&with_files(true, "{path: /etc/a.conf, content: three, owner: web}")).await.unwrap();
    assert_ne!(bench.containers(), after, "its units are replaced");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_d13_files_that_cannot_be_written_into_a_container_are_told_by_name() {
    let bench = Bench::new("unwritable").await;
    let files = |content: &str| {
        format!("{{path: /etc/a.conf, content: {content}}}, {{path: /etc/b/c.conf, content: {content}}}")
    };
    bench.apply(&with_files(false, &files("one"))).await.unwrap();
    let before = bench.containers();
    let spoil = "rm -r /etc/b; echo > /etc/b";
    bench.engine.docker(&["exec", &before[0], "sh", "-c", spoil]);
    let error = bench.apply(&with_files(false, &files("hunter2"))).await.unwrap_err();
    let text = &error.errors["default/App/web"].message;
    assert!(
        text.contains("spec.files: cannot write those of") && text.contains("written were: /etc/a.conf"),
        "{text}"
    );
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    bench.engine.docker(&["exec", &before[0], "rm", "/etc/b"]);
    bench.apply(&with_files(false, &files("two"))).await.unwrap();
    assert_eq!(
        (bench.containers(), bench.cat(&before[0], "/etc/b/c.conf")),
        (before.clone(), "two".to_owned())
    );
    bench.end().await;
}

fn drift(service: &Service) -> Option<&str> {
    service.metadata.get("drift").map(String::as_str)
}

/// An agent looks at files in its own time, and when it is asked to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_c3_drift_of_files_in_containers_is_mended_or_reported_as_the_app_says() {
    let every = Duration::from_millis(200);
    let mended = Bench::among_others("mended", |config| config.look_at_files = every).await;
    let told = Bench::among_others("told", |config| config.look_at_files = every).await;
    let spec = |drift: &str| {
        sleeper(&format!(
            "  drift: {drift}\n  files: [{{path: /etc/a.conf, content: hunter2, owner: web}}]\n"
        ))
    };
    mended.apply(&spec("repair")).await.unwrap();
    told.apply(&spec("report")).await.unwrap();
    let (web, quiet) = (mended.containers(), told.containers());
    let starts = [mended.started_at(&web[0]), told.started_at(&quiet[0])];
    let is_whole = |bench: &Bench| {
        let look = "stat -c '%F %a %U' /etc/a.conf 2>&1; cat /etc/a.conf 2>&1 || true";
        let shown = bench.engine.docker(&["exec", &bench.containers()[0], "sh", "-c", look]);
        shown == "regular file 600 web\nhunter2"
    };
    assert!(is_whole(&mended) && is_whole(&told));
    for (spoil, word) in [
        ("echo other > /etc/a.conf", "has other content"),
        ("rm /etc/a.conf", "is gone"),
        ("chmod 644 /etc/a.conf", "has another mode"),
        ("chown root /etc/a.conf", "has another owner"),
        ("rm /etc/a.conf; ln -s /etc/passwd /etc/a.conf", "is not a file"),
    ] {
        for (bench, ids) in [(&mended, &web), (&told, &quiet)] {
            bench.engine.docker(&["exec", &ids[0], "sh", "-c", spoil]);
        }
        let tells = |service: &Service| drift(service).is_some_and(|drift| drift.contains(word));
        let service = told.until(word, tells).await;
        assert_eq!(service.status, ServiceStatus::Degraded);
        assert!(!drift(&service).unwrap().contains("hunter2"), "{service:?}");
        mended.until("repair", |_| is_whole(&mended)).await;
        assert!(!is_whole(&told), "it is only reported");
        told.apply(&spec("report")).await.unwrap();
        assert!(is_whole(&told), "until somebody asks for it");
        assert_eq!(drift(&told.service().await), None);
    }
    assert_eq!((mended.containers(), told.containers()), (web.clone(), quiet.clone()));
    assert_eq!([mended.started_at(&web[0]), told.started_at(&quiet[0])], starts, "they run on");
    mended.end().await;
    told.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_c3_a_file_in_a_container_that_cannot_be_looked_at_is_told_with_its_unit() {
    let bench =
        Bench::among_others("unreadable", |config| config.look_at_files = Duration::from_millis(200)).await;
    bench.apply(&sleeper("  drift: repair\n  files: [{path: /conf/a.conf, content: one}]\n")).await.unwrap();
    let before = bench.containers();
    let unit = bench.service().await.units[0].id.clone();
    // A link to itself: nobody comes through, the engine neither.
    bench.engine.docker(&["exec", &before[0], "sh", "-c", "rm -r /conf; ln -s conf /conf"]);
    let expected =
        format!("files cannot be looked at: spec.files[0]: cannot look at /conf/a.conf of {unit}: ");
    let tells = |service: &Service| drift(service).is_some_and(|drift| drift.starts_with(&expected));
    let service = bench.until("the reason", tells).await;
    assert_eq!(service.status, ServiceStatus::Degraded);
    bench.engine.docker(&["exec", &before[0], "rm", "/conf"]);
    bench.until("repair", |service| drift(service).is_none()).await;
    assert_eq!(
        (bench.cat(&before[0], "/conf/a.conf"), bench.containers()),
        ("one".to_owned(), before.clone())
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_c3_a_retry_looks_at_the_files_of_containers_at_once() {
    let bench = Bench::new("asked").await;
    let app = |name: &str, drift: &str| {
        let more = format!("  drift: {drift}\n  files: [{{path: /etc/a.conf, content: one}}]\n");
        format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\nspec:\n{}", sleeper(&more))
    };
    let content = format!("{}---\n{}", app("mended", "repair"), app("told", "report"));
    let shop = || "shop".parse().unwrap();
    bench.platform.put_bundle(&CallContext::new(), &PutBundleRequest::new(shop(), content)).await.unwrap();
    bench.told.counted("start", 2).await;
    let of = |name: &str| bench.engine.containers(&format!("dev.towline.app=default/App/{name}")).remove(0);
    let (mended, told) = (of("mended"), of("told"));
    let ready = async || {
        let units = bench.agent.direct().runtime().list();
        units.len() == 2 && units.iter().all(|unit| unit.state.status == Status::Started)
    };
    until(PATIENCE, "both to be up", ready).await;
    for id in [&mended, &told] {
        bench.engine.docker(&["exec", id, "sh", "-c", "echo other > /etc/a.conf"]);
    }
    let retry = RetryBundleRequest { bundle: shop(), workloads: Vec::new() };
    bench.platform.retry_bundle(&CallContext::new(), &retry).await.unwrap();
    until(PATIENCE, "the repair", async || bench.cat(&mended, "/etc/a.conf") == "one").await;
    let is_told = async || {
        let request = BundleStatusRequest { bundle: shop(), after: None, limit: None };
        let status = bench.platform.bundle_status(&CallContext::new(), &request).await.unwrap();
        let drift = status.workloads.iter().find_map(|workload| workload.drift.as_ref());
        drift.is_some_and(|drift| drift.message.contains("/etc/a.conf of told-"))
    };
    until(PATIENCE, "the report", is_told).await;
    assert_eq!(bench.cat(&told, "/etc/a.conf"), "other");
    let request = DeleteBundleRequest::new(shop());
    bench.platform.delete_bundle(&CallContext::new(), &request).await.unwrap();
    bench.told.counted("destroy", 2).await;
    bench.end().await;
}

/// The engine's own record says that nothing was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_y1_what_is_exported_and_applied_again_changes_nothing() {
    let bench = Bench::new("round-trip").await;
    let files = "  units: 2\n  files: [{path: /etc/a.conf, content: one}]\n  env: {A: b}\n";
    bench.apply(&sleeper(files)).await.unwrap();
    let before = bench.containers();
    let exported = bench.platform.export(&CallContext::new()).await.unwrap();
    let past = bench.told.all(&bench.engine).await.len();
    let documents = towline_agent::manifest::identify("export", &exported).unwrap();
    let definitions: Vec<Definition> = documents
        .into_iter()
        .map(|(id, definition)| Definition { id: id.parse().unwrap(), definition, is_async: false })
        .collect();
    assert_eq!(definitions.len(), 1);
    bench.platform.apply(&CallContext::new(), &definitions).await.unwrap();
    assert_eq!(bench.containers(), before);
    let events = bench.told.all(&bench.engine).await.split_off(past);
    // Reading a file is an event, too: it changes nothing.
    let is_read = |event: &Event| event.action == "archive-path";
    assert!(events.iter().all(is_read) && !events.is_empty(), "{events:?}");
    assert_eq!(bench.platform.export(&CallContext::new()).await.unwrap(), exported);
    bench.end().await;
}
