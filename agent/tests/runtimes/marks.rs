//! The mark on an engine, between agents that share nothing but the engine.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::time::Instant;
use towline_agent::{
    manifest,
    mark::Mark,
    runtime::{
        Runtime, RuntimeError, RuntimeKind, UnitSpec,
        docker::{DockerConfig, DockerRuntime},
    },
};
use towline_protocol::{Epoch, StoreId};

use crate::{
    engine::{Engine, IMAGE},
    proxy::{Fate, Proxy},
    until,
};

/// For a mark to be raised and shown: a successor waits for turns.
const PATIENCE: Duration = Duration::from_secs(150);

const INSTANCE: &str = "test/marks";

/// An agent on a machine of its own: with its own store, and marks in `dir`.
async fn agent(engine: &Engine, dir: &Path, store: u128, epoch: u64) -> DockerRuntime {
    agent_at(&engine.socket, mark(dir, store, epoch)).await
}

async fn agent_at(socket: &Path, mark: Mark) -> DockerRuntime {
    DockerRuntime::open(DockerConfig::unnamed(INSTANCE, socket, mark)).await
}

fn mark(dir: &Path, store: u128, epoch: u64) -> Mark {
    let store = StoreId::new(uuid::Uuid::from_u128(store));
    let served = Some(Epoch::new(epoch).unwrap());
    Mark::open(dir, &INSTANCE.parse().unwrap(), store, served).unwrap()
}

fn spec() -> UnitSpec {
    let yaml = format!(
        "apiVersion: towline/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n  image: {IMAGE}\n  command: [sleep, \"1000\"]\n  \
         docker: {{networkMode: none}}\n  stop: {{gracePeriod: 0s}}\n"
    );
    let manifest = manifest::parse(RuntimeKind::Docker, "test", yaml.as_bytes()).unwrap().remove(0);
    UnitSpec { manifest: Arc::new(manifest), generation: "g1".to_owned() }
}

fn shown(engine: &Engine) -> Vec<String> {
    let label = format!("label=dev.towline.mark={INSTANCE}");
    let names = engine.docker(&["volume", "ls", "--quiet", "--filter", &label]);
    names.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_with_stores_of_their_own_never_both_change_one_engine() {
    let engine = Engine::without_network("marks");
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let old = agent(&engine, dirs[0].path(), 1, 5).await;
    let first = old.start(&spec()).await.unwrap();
    assert_eq!(shown(&engine), ["towline-mark-test.marks-5"]);

    let new = agent(&engine, dirs[1].path(), 2, 6).await;
    let (mut last_of_old, fenced) = (first.created, Instant::now());
    let first_of_new = async { new.start(&spec()).await.unwrap() };
    let old_goes_on = async {
        loop {
            match old.start(&spec()).await {
                Ok(unit) => last_of_old = unit.created,
                Err(RuntimeError::Fenced { reason }) => return reason,
                Err(other) => panic!("{other}"),
            }
            assert!(fenced.elapsed() < Duration::from_secs(100), "the older agent goes on and on");
        }
    };
    let (unit, reason) = tokio::join!(first_of_new, old_goes_on);
    assert_eq!(reason, "another agent acts for this instance: epoch 6");
    assert!(unit.created > last_of_old, "{} made before {last_of_old}", unit.created);
    assert_eq!(shown(&engine), ["towline-mark-test.marks-6"], "what was before is removed");
    for refused in [
        old.stop(&first.unit).await,
        old.delete(&first.unit).await,
        old.start_again(&first.unit).await.map(drop),
    ] {
        assert!(matches!(refused, Err(RuntimeError::Fenced { .. })), "{refused:?}");
    }
    assert!(!old.observe("default/App/web", None).await.unwrap().is_empty(), "it may look");

    // Somebody tidies up. Whoever was fenced stays so, and whoever acts shows it again.
    engine.docker(&["volume", "rm", "towline-mark-test.marks-6"]);
    assert!(matches!(old.start(&spec()).await, Err(RuntimeError::Fenced { .. })));
    until(PATIENCE, "the mark to be shown again", async || shown(&engine) == ["towline-mark-test.marks-6"])
        .await;

    // The same store again, in its next process, waits for nobody.
    new.close().await;
    let again = agent(&engine, dirs[1].path(), 2, 7).await;
    again.delete_all().await.unwrap();
    assert_eq!(shown(&engine), ["towline-mark-test.marks-7"]);
    again.close().await;
    old.close().await;
}

/// Meanwhile another agent took over, which waits no longer than any change takes to be begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_waited_for_a_way_to_the_engine_looks_once_more_who_may_change_it() {
    let engine = Engine::without_network("marks-way");
    let proxy = Proxy::before(&engine);
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let old = agent_at(&proxy.socket, mark(dirs[0].path(), 1, 5)).await;
    let unit = old.start(&spec()).await.unwrap();
    let looked = Instant::now();
    proxy.rule(|request| match request {
        "GET /containers/json" => Fate::Cut,
        "GET /version" => Fate::Held,
        _ => Fate::Passes,
    });
    assert!(old.observe(&unit.app, None).await.is_err(), "the way is lost");
    let asked = proxy.count("GET", "/version");
    let stop = async {
        let stopped = old.stop(&unit.unit).await;
        assert!(
            matches!(stopped, Err(RuntimeError::Fenced { .. } | RuntimeError::Unknown { .. })),
            "{stopped:?}"
        );
    };
    let take_over = async {
        until(PATIENCE, "a new way to be sought", async || proxy.count("GET", "/version") > asked).await;
        let new = agent(&engine, dirs[1].path(), 2, 6).await;
        until(PATIENCE, "its mark", async || {
            shown(&engine).contains(&"towline-mark-test.marks-6".to_owned())
        })
        .await;
        // From when on an earlier look counts no more.
        tokio::time::sleep_until(looked + Duration::from_secs(6)).await;
        proxy.release();
        new
    };
    let ((), new) = tokio::join!(stop, take_over);
    assert_eq!(proxy.count("POST", "/stop"), 0, "nothing was begun");
    assert!(engine.is_running(&engine.docker(&["inspect", "--format", "{{.Id}}", &unit.unit])));
    new.delete_all().await.unwrap();
    new.close().await;
    old.close().await;
}

/// A holder that does not let go is killed, and this one is only slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_over_waits_for_one_call_of_a_slow_engine_and_not_for_a_whole_start() {
    let engine = Engine::without_network("marks-slow");
    let (proxy, dir) = (Proxy::before(&engine), tempfile::tempdir().unwrap());
    let old = agent_at(&proxy.socket, mark(dir.path(), 1, 5)).await;
    proxy.rule(|request| match request {
        "POST /containers/create" => Fate::Held,
        _ => Fate::Passes,
    });
    let slow = async {
        let started = old.start(&spec()).await;
        assert!(matches!(started, Err(RuntimeError::Fenced { .. })), "{started:?}");
    };
    let take_over = async {
        until(PATIENCE, "a container to be made", async || proxy.count("POST", "/containers/create") == 1)
            .await;
        let marks = dir.path().to_owned();
        let raised = tokio::task::spawn_blocking(move || mark(&marks, 2, 6));
        let shows =
            |file: &Path| std::fs::read_to_string(file).is_ok_and(|text| text.contains("\"epoch\":6"));
        let is_shown =
            async || std::fs::read_dir(dir.path()).unwrap().any(|file| shows(&file.unwrap().path()));
        until(PATIENCE, "the mark to be raised", is_shown).await;
        assert!(!raised.is_finished(), "it waits for the call");
        proxy.release();
        raised.await.unwrap();
        assert_eq!(proxy.count("POST", "/start"), 0, "and for nothing after it");
    };
    tokio::join!(slow, take_over);
    assert_eq!(proxy.count("POST", "/start"), 0);
    old.close().await;
}
