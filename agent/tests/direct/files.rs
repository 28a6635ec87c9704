//! Files of apps: changed under units that run on, removed when they are not declared any more, and held to what is declared.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use towline_bus::CallContext;
use towline_protocol::{
    Effect,
    platform::{Service, ServiceStatus},
};

use crate::bench::*;

/// An app with these files, whose units run on when they change.
fn keeping(files: &str) -> String {
    sleeper(&format!("  units: 2\n  restartOnConfigChange: false\n  files: [{files}]\n"))
}

fn file(path: &Path, content: &str) -> String {
    format!("{{path: {}, content: {content}}}", path.display())
}

/// What each unit has at `path` in its working directory, by unit; without those that have nothing there.
fn within(bench: &Bench, path: &str) -> Vec<String> {
    let units = fs::read_dir(bench.dir.path().join("units")).unwrap();
    let mut found: Vec<PathBuf> =
        units.map(|unit| unit.unwrap().path().join("work").join(path)).filter(|path| path.exists()).collect();
    found.sort();
    found.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[tokio::test]
async fn f_d10_files_are_rewritten_under_units_that_run_on_or_replace_them_as_the_app_says() {
    let bench = Bench::new().await;
    let outside = tempfile::tempdir().unwrap();
    let conf = outside.path().join("conf");
    bench.apply("web", &keeping(&file(&conf, "one"))).await.unwrap();
    let before = bench.pids("web").await;
    assert_eq!(before.len(), 2);
    let both = format!("{}, {{path: in/side, content: two}}", file(&conf, "two"));
    bench.apply("web", &keeping(&both)).await.unwrap();
    assert_eq!(bench.pids("web").await, before, "units run on");
    assert_eq!(fs::read_to_string(&conf).unwrap(), "two");
    assert_eq!(within(&bench, "in/side"), ["two", "two"]);
    // An agent that starts finds all of it as it was left.
    let bench = bench.reopened().await;
    bench.until("web", "readiness", |service| service.status == ServiceStatus::Ready).await;
    bench.apply("web", &keeping(&both)).await.unwrap();
    assert_eq!(bench.pids("web").await, before);
    let restarting = keeping(&both).replace("restartOnConfigChange: false", "restartOnConfigChange: true");
    bench.apply("web", &restarting).await.unwrap();
    assert_eq!(bench.pids("web").await, before, "no file differs");
    bench.apply("web", &restarting.replace("content: two", "content: three")).await.unwrap();
    let after = bench.pids("web").await;
    assert!(after.len() == 2 && after.keys().all(|unit| !before.contains_key(unit)), "{after:?}");
    assert_eq!(within(&bench, "in/side"), ["three", "three"]);
    bench.end().await;
}

#[tokio::test]
async fn f_d10_a_stopped_unit_has_its_files_written_and_is_started_in_the_same_pass() {
    let bench = Bench::new().await;
    let spec = |content: &str| {
        let script = "cat conf; echo; exec sleep 1000";
        format!(
            "  command: [sh, -c, \"{script}\"]\n  restartOnConfigChange: false\n  drift: report\n  files: [{{path: conf, \
             content: {content}}}]\n"
        )
    };
    bench.apply("web", &spec("one")).await.unwrap();
    let before = bench.pids("web").await;
    bench.agent.direct().runtime().stop_all().await.unwrap();
    bench.apply("web", &spec("two")).await.unwrap();
    let after = bench.pids("web").await;
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "it is the same unit");
    assert_ne!(after, before);
    let query = towline_agent::runtime::LogQuery {
        app: "default/App/web".to_owned(),
        follow: true,
        ..Default::default()
    };
    let mut lines = bench.agent.direct().runtime().logs(query);
    let mut texts = Vec::new();
    while texts.last().map(String::as_str) != Some("two") {
        let line = tokio::time::timeout(Duration::from_secs(60), lines.recv())
            .await
            .expect("it writes what it read");
        texts.push(line.unwrap().unwrap().line.text);
    }
    drop(lines);
    bench.end().await;
}

#[tokio::test]
async fn f_d16_a_file_that_is_not_declared_any_more_is_removed_where_we_wrote_it_and_only_there() {
    let bench = Bench::new().await;
    let outside = tempfile::tempdir().unwrap();
    let path = |name: &str| outside.path().join(name);
    let all =
        [file(&path("a"), "a"), file(&path("b"), "b"), "{path: in/a, content: a}".to_owned()].join(", ");
    bench.apply("web", &keeping(&all)).await.unwrap();
    let before = bench.pids("web").await;
    fs::write(path("theirs"), "theirs").unwrap();
    // Ours by the label, whatever somebody has written into it.
    fs::write(path("b"), "changed by hand").unwrap();
    bench.apply("web", &keeping(&file(&path("a"), "a"))).await.unwrap();
    assert_eq!(bench.pids("web").await, before);
    assert!(!path("b").exists() && path("a").exists());
    assert_eq!(within(&bench, "in/a"), Vec::<String>::new());
    // What was never ours is not taken over, nor removed with the app.
    let error = bench.apply("web", &keeping(&file(&path("theirs"), "ours"))).await.unwrap_err();
    assert_eq!(error.effect, Effect::None, "{error}");
    assert!(error.errors["default/App/web"].message.contains("exists and is not of this app"), "{error}");
    assert_eq!(fs::read_to_string(path("a")).unwrap(), "a", "what was there before holds");
    let bench = bench.reopened().await;
    bench.apply("web", &keeping("")).await.unwrap();
    assert!(!path("a").exists(), "the label outlives the agent");
    assert_eq!(bench.pids("web").await, before);
    bench.platform.sync(&CallContext::new(), &[action("web", true, None)]).await.unwrap();
    let left: Vec<_> =
        fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["theirs"]);
    bench.end().await;
}

#[tokio::test]
async fn f_d13_what_was_written_before_a_failure_is_said_and_taken_back() {
    let bench = Bench::new().await;
    let outside = tempfile::tempdir().unwrap();
    let path = |name: &str| outside.path().join(name);
    let files = |content: &str, last: &str| {
        [file(&path("a"), content), file(&path("b"), content), file(&path(last), content)].join(", ")
    };
    fs::create_dir(path("dir")).unwrap();
    bench.apply("web", &keeping(&files("one", "dir/c"))).await.unwrap();
    let before = bench.pids("web").await;
    let error = bench.apply("web", &keeping(&files("two", "no-dir/c"))).await.unwrap_err();
    let text = &error.errors["default/App/web"].message;
    let written = format!("(written before: {}, {})", path("a").display(), path("b").display());
    assert!(text.contains("spec.files[2]: cannot write") && text.contains(&written), "{text}");
    assert_eq!(error.effect, Effect::None);
    for name in ["a", "b", "dir/c"] {
        assert_eq!(fs::read_to_string(path(name)).unwrap(), "one", "{name}");
    }
    assert_eq!(bench.pids("web").await, before);
    bench.end().await;
}

#[tokio::test]
async fn f_c3_drift_of_files_is_mended_or_reported_as_the_app_says() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::looking_at_files(dir, Duration::from_millis(200)).await;
    let outside = tempfile::tempdir().unwrap();
    let (mended, told) = (outside.path().join("mended"), outside.path().join("told"));
    let spec = |path: &Path, drift: &str| {
        sleeper(&format!("  drift: {drift}\n  files: [{}]\n", file(path, "hunter2")))
    };
    bench.apply("web", &spec(&mended, "repair")).await.unwrap();
    bench.apply("quiet", &spec(&told, "report")).await.unwrap();
    let (web, quiet) = (bench.pids("web").await, bench.pids("quiet").await);
    let spoil = |path: &Path, how: usize| match how {
        0 => fs::write(path, "other").unwrap(),
        1 => fs::remove_file(path).unwrap(),
        2 => fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap(),
        _ => {
            fs::remove_file(path).unwrap();
            symlink("/etc/passwd", path).unwrap();
        }
    };
    let is_whole = |path: &Path| {
        let meta = fs::symlink_metadata(path);
        meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o777 == 0o600)
            && fs::read_to_string(path).is_ok_and(|text| text == "hunter2")
    };
    for (how, word) in
        ["has other content", "is gone", "has another mode", "is not a file"].into_iter().enumerate()
    {
        spoil(&mended, how);
        spoil(&told, how);
        let tells = |service: &Service| {
            let drift = service.metadata.get("drift");
            service.status == ServiceStatus::Degraded && drift.is_some_and(|drift| drift.contains(word))
        };
        bench.until("quiet", word, tells).await;
        bench.until("web", "repair", |_| is_whole(&mended)).await;
        assert!(!is_whole(&told), "it is only reported");
        // Somebody asks for it to be as it was: then it is.
        bench.apply("quiet", &spec(&told, "report")).await.unwrap();
        assert!(is_whole(&told));
        let service = bench.service("quiet").await;
        assert!(!service.metadata.contains_key("drift"), "{service:?}");
    }
    assert_eq!((bench.pids("web").await, bench.pids("quiet").await), (web, quiet), "units run on");
    let metrics = prometheus::TextEncoder::new().encode_to_string(&bench.registry.gather()).unwrap();
    let counted =
        metrics.lines().find_map(|line| line.strip_prefix("towline_agent_drift_total{kind=\"files\"} "));
    assert!(counted.is_some_and(|count| count.parse::<u32>().unwrap() >= 8), "{metrics}");
    bench.end().await;
}

/// What cannot be looked at is not taken for sound; as soon as it can be, it is mended.
#[tokio::test]
async fn f_c3_a_file_that_cannot_be_looked_at_is_told_with_its_unit() {
    let bench = Bench::looking_at_files(tempfile::tempdir().unwrap(), Duration::from_millis(200)).await;
    let outside = tempfile::tempdir().unwrap();
    let (dir, conf) = (outside.path().join("dir"), outside.path().join("dir/conf"));
    fs::create_dir(&dir).unwrap();
    let spec = sleeper(&format!("  drift: repair\n  files: [{}]\n", file(&conf, "hunter2")));
    bench.apply("web", &spec).await.unwrap();
    let before = bench.pids("web").await;
    let unit = before.keys().next().unwrap().clone();
    // A name that no system takes.
    fs::remove_dir_all(&dir).unwrap();
    symlink("x".repeat(300), &dir).unwrap();
    let tells = |service: &Service| {
        let drift = service.metadata.get("drift");
        let named = |drift: &String| {
            drift.starts_with("files cannot be looked at: spec.files[0]: ")
                && drift.contains(&format!(" of {unit}: "))
        };
        service.status == ServiceStatus::Degraded && drift.is_some_and(named)
    };
    bench.until("web", "the reason", tells).await;
    assert_eq!(bench.pids("web").await, before, "it runs on");
    fs::remove_file(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    bench.until("web", "repair", |service| !service.metadata.contains_key("drift")).await;
    assert_eq!(fs::read_to_string(&conf).unwrap(), "hunter2");
    bench.end().await;
}

/// The unit is another user's, and may lead the agent, which has more rights, nowhere.
#[tokio::test]
async fn no_link_of_a_unit_leads_the_agent_out_of_its_directory() {
    let bench = Bench::new().await;
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("conf"), "theirs").unwrap();
    let spec = |content: &str| {
        sleeper(&format!(
            "  restartOnConfigChange: false\n  files: [{{path: in/conf, content: {content}}}]\n"
        ))
    };
    bench.apply("web", &spec("one")).await.unwrap();
    let unit = bench.pids("web").await.into_keys().next().unwrap();
    let way = bench.dir.path().join("units").join(unit).join("work/in");
    fs::remove_dir_all(&way).unwrap();
    symlink(outside.path(), &way).unwrap();
    let error = bench.apply("web", &spec("two")).await.unwrap_err();
    assert!(error.errors["default/App/web"].message.contains("spec.files[0]: cannot write"), "{error}");
    assert_eq!(fs::read_to_string(outside.path().join("conf")).unwrap(), "theirs");
    fs::remove_file(&way).unwrap();
    bench.apply("web", &spec("two")).await.unwrap();
    assert_eq!(within(&bench, "in/conf"), ["two"]);
    bench.end().await;
}
