//! The battery over processes.

use std::{path::Path, sync::Arc};

use futures::future::BoxFuture;
use tempfile::TempDir;
use towline_agent::runtime::{
    Runtime,
    battery::{BATTERY, Place, REACHING},
    process::{DEFAULT_PATH, ProcessConfig, ProcessRuntime},
};

struct Processes {
    dir: TempDir,
    shared: TempDir,
}

/// Units below `dir`.
pub(crate) fn config(dir: &Path) -> ProcessConfig {
    ProcessConfig {
        data_dir: dir.to_owned(),
        instance: dir.display().to_string(),
        shim: vec![env!("CARGO_BIN_EXE_towline-agent").into(), "shim".into()],
        path: DEFAULT_PATH.to_owned(),
        extra_path: None,
        mark: crate::mark(dir),
    }
}

impl Place for Processes {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Runtime>> {
        let config = config(self.dir.path());
        Box::pin(async {
            let runtime = ProcessRuntime::open(config).await.expect("a directory of our own can be used");
            Arc::new(runtime) as Arc<dyn Runtime>
        })
    }

    fn open_other(&self) -> BoxFuture<'_, Arc<dyn Runtime>> {
        let config = ProcessConfig { mark: crate::others_mark(self.dir.path()), ..config(self.dir.path()) };
        Box::pin(async {
            let runtime = ProcessRuntime::open(config).await.expect("a directory of our own can be used");
            Arc::new(runtime) as Arc<dyn Runtime>
        })
    }

    fn lines(&self) -> String {
        String::new()
    }

    fn shared(&self) -> &Path {
        self.shared.path()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_battery_holds_on_processes() {
    for case in crate::cases(&[BATTERY, REACHING]) {
        let dir = || tempfile::tempdir().unwrap();
        case.run(&Processes { dir: dir(), shared: dir() }).await;
    }
}
