//! Units that declare what they may use, and are held to it.

use std::{fs, path::PathBuf};

use serde_json::Value;
use towline_agent::{runtime::process::RuntimeError, shim::Status};

use crate::bench::*;

/// The control groups of a unit, as its shim is told.
fn groups(bench: &Bench, unit: &str) -> Vec<PathBuf> {
    let spec = fs::read(bench.dir.path().join("units").join(unit).join("spec.json")).unwrap();
    let spec: Value = serde_json::from_slice(&spec).unwrap();
    let groups = spec.pointer("/bounds/groups").and_then(Value::as_array).unwrap();
    groups.iter().map(|group| group.get("dir").and_then(Value::as_str).unwrap().into()).collect()
}

/// Starts what may be refused on a host without control groups, and is by name then.
async fn bounded(bench: &Bench, spec: &str, field: &str) -> Option<String> {
    match bench.start(spec).await {
        Ok(status) => Some(status.unit),
        Err(RuntimeError::Unbounded { field: refused, why }) => {
            assert_eq!(refused, format!("spec.resources.{field}"));
            assert!(why.contains("the agent may make no control groups"), "{why}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn more_memory_than_declared_is_not_to_be_had() {
    let bench = Bench::new().await;
    // It would keep all of that in memory.
    let script =
        shell("head -c 200000000 /dev/zero | tail -c 150000000 > /dev/null; echo \"ended $?\"; sleep 1000");
    let bounds = "  resources: {memory: 64Mi";
    let unit = match bounded(&bench, &format!("{script}{bounds}, swap: 1Mi}}\n"), "swap").await {
        Some(unit) => unit,
        // Then the limit of each process holds.
        None => bench.start(&format!("{script}{bounds}}}\n")).await.unwrap().unit,
    };
    let lines =
        lines(bench.runtime.logs(towline_agent::runtime::process::LogQuery { follow: true, ..query() }), 1);
    let lines = lines.await;
    let ended = texts(&lines).into_iter().find(|text| text.starts_with("ended ")).map(str::to_owned);
    assert_ne!(ended.as_deref(), Some("ended 0"), "{lines:?}");
    assert_eq!(bench.status(&unit).state.status, Status::Started, "what stays within is none the worse");
    bench.end().await;
}

#[tokio::test]
async fn a_unit_is_in_its_control_groups_from_the_start_and_they_go_with_it() {
    let bench = Bench::new().await;
    let spec =
        format!("{}  resources: {{cpu: 0.5, memory: 64Mi, pids: 8}}\n", shell("sleep 1000 & sleep 1000"));
    if let Some(unit) = bounded(&bench, &spec, "cpu").await {
        let pid = bench.status(&unit).state.pid.unwrap().to_string();
        let dirs = groups(&bench, &unit);
        assert!(!dirs.is_empty());
        for dir in &dirs {
            let inside = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
            assert!(inside.lines().any(|found| found == pid), "{pid} is not in {}: {inside}", dir.display());
        }
        // A shim that is killed leaves them, and the agent clears them away.
        kill(bench.status(&unit).state.shim.unwrap().0);
        bench.until(&unit, "the loss", |status| status.state.final_state).await;
        bench.runtime.delete(&unit).await.unwrap();
        assert!(dirs.iter().all(|dir| !dir.exists()), "{dirs:?}");
        let unit = bench.start(&spec).await.unwrap().unit;
        let dirs = groups(&bench, &unit);
        bench.runtime.stop(&unit).await.unwrap();
        assert!(dirs.iter().all(|dir| !dir.exists()), "{dirs:?}");
    }
    bench.end().await;
}

#[tokio::test]
async fn more_processes_than_declared_cannot_be_started() {
    let bench = Bench::new().await;
    let script = shell("for n in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait");
    let spec = format!("{script}  resources: {{pids: 5}}\n  restart: {{condition: never}}\n");
    if let Some(unit) = bounded(&bench, &spec, "pids").await {
        let ended = bench.until(&unit, "its end", |status| status.state.final_state).await;
        assert_eq!(ended.state.status, Status::Error, "{ended:?}");
    }
    bench.end().await;
}
