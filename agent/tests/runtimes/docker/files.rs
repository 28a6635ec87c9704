//! Files of containers: changed under those that run on, held to what is declared, gone with what has them.

use super::*;
use crate::events::Event;

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
