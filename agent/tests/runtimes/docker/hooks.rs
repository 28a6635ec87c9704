//! Hooks, as far as containers differ: who runs them is the agent, and it may die over them.

use std::{fs, future::Future};

use towline_agent::{
    manifest,
    runtime::{RuntimeError, UnitSpec},
    shim::Status,
};

use super::*;

fn hook(name: &str, script: &str) -> String {
    format!("{name}: [/bin/sh, -c, {}]", serde_json::to_string(script).unwrap())
}

fn sleeper_with(hooks: &[String], shared: &Path) -> String {
    let shared = shared.display();
    sleeper(&format!(
        "  mounts: [{{source: {shared}, target: {shared}}}]\n  hooks: {{{}}}\n",
        hooks.join(", ")
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_h1_a_hook_runs_once_after_the_start_and_its_failure_is_the_calls() {
    let bench = Bench::new("hooks").await;
    let shared = tempfile::tempdir().unwrap();
    let journal = shared.path().join("journal");
    let note = format!("echo $TOWLINE_UNIT >> {}", journal.display());
    let refused = bench.refusal(&sleeper_with(&[hook("postStart", "echo no; exit 3")], shared.path())).await;
    assert!(refused.contains("hook postStart exited with status 3: no"), "{refused}");
    let refused = bench.refusal(&sleeper_with(&[hook("preStart", "echo no; exit 4")], shared.path())).await;
    assert!(refused.contains("hook preStart exited with status 4: no"), "{refused}");
    assert_eq!(bench.containers(), Vec::<String>::new(), "neither unit nor helper is left");
    let spec = sleeper_with(&[hook("postStart", &note)], shared.path());
    for _ in 0..2 {
        bench.apply(&spec).await.unwrap();
        bench.until("readiness", is_ready).await;
        assert_eq!(fs::read_to_string(&journal).unwrap().lines().count(), 1, "once");
    }
    let name = bench.engine.docker(&["inspect", "--format", "{{.Name}}", &bench.containers().remove(0)]);
    assert_eq!(name.trim_start_matches('/'), fs::read_to_string(&journal).unwrap().trim());
    bench.end().await;
}

/// All at the same time, for that takes as long as hooks may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_hangs_is_killed_at_its_bound() {
    let shared = tempfile::tempdir().unwrap();
    let hangs = |name: &'static str| {
        let shared = shared.path();
        async move {
            let bench = Bench::new(&format!("hangs-{}", name.to_lowercase())).await;
            let script = format!("touch {}/{name}; echo hanging; sleep 1000", shared.display());
            (bench.apply(&sleeper_with(&[hook(name, &script)], shared)).await, bench)
        }
    };
    let starts = async |name| {
        let (applied, bench) = hangs(name).await;
        let error = applied.unwrap_err();
        let told = error.errors.values().next().map_or(error.message, |item| item.message.clone());
        assert!(told.contains(&format!("hook {name} was killed after 1m: hanging")), "{told}");
        assert_eq!(bench.containers(), Vec::<String>::new());
        bench.end().await;
    };
    let ends = async |name| {
        let (applied, bench) = hangs(name).await;
        applied.unwrap();
        // It goes all the same, and the helper with it.
        bench.end().await;
    };
    tokio::join!(starts("preStart"), starts("postStart"), ends("preStop"), ends("postStop"));
    for name in ["preStart", "postStart", "preStop", "postStop"] {
        assert!(shared.path().join(name).exists(), "{name} has run");
    }
}

/// A runtime without an agent around it, of which others follow upon each other.
struct Bare {
    place: Containers,
    runtime: Arc<dyn Runtime>,
}

impl Bare {
    async fn new(name: &str) -> Self {
        let (dir, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = Containers {
            engine: Engine::shared(),
            network: "",
            instance: format!("test/{name}"),
            dir,
            shared,
        };
        let runtime = place.open().await;
        Self { place, runtime }
    }

    fn spec(&self, hooks: &[String]) -> UnitSpec {
        let spec = sleeper_with(hooks, self.place.shared.path());
        let yaml = format!("apiVersion: towline/v1\nkind: App\nmetadata: {{name: web}}\nspec:\n{spec}");
        let manifest = manifest::parse(RuntimeKind::Docker, "test", yaml.as_bytes()).unwrap().remove(0);
        UnitSpec { manifest: Arc::new(manifest), generation: "g1".to_owned() }
    }

    /// A hook that writes down that it has begun, waits to be let go, and writes down that it is done.
    fn slow(&self, name: &str) -> String {
        let dir = self.place.shared.path().display();
        let script = format!(
            "echo begun >> {dir}/{name}; until [ -e {dir}/go ]; do sleep 0.05; done; echo done >> {dir}/{name}"
        );
        hook(name, &script)
    }

    fn said(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.place.shared.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until the hook has begun so often.
    async fn begun(&self, name: &str, times: usize) {
        let begun = async {
            while self.said(name).iter().filter(|word| *word == "begun").count() < times {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), begun).await.unwrap();
    }

    /// Begins `work`, and gives it up in the middle of the hook; another runtime follows.
    async fn dies_over<T>(&mut self, name: &str, work: impl Future<Output = Result<T, RuntimeError>>) {
        tokio::select! {
            done = work => panic!("it did not wait for {name}: {:?}", done.err()),
            () = self.begun(name, 1) => {}
        }
        self.runtime.close().await;
        self.runtime = self.place.open().await;
    }

    /// Does `work` again, and lets go when it has begun with the hook.
    async fn again<T>(&self, name: &str, work: impl Future<Output = Result<T, RuntimeError>>) -> T {
        let let_go = async {
            self.begun(name, 2).await;
            fs::write(self.place.shared.path().join("go"), "").unwrap();
        };
        let (done, ()) = tokio::join!(work, let_go);
        assert_eq!(
            self.said(name),
            ["begun", "begun", "done"],
            "what was at work was killed, and begun again"
        );
        done.unwrap()
    }

    async fn one(&self) -> towline_agent::runtime::UnitStatus {
        let units = self.runtime.observe("default/App/web", None).await.unwrap();
        <[_; 1]>::try_from(units).unwrap().into_iter().next().unwrap()
    }

    async fn end(self) {
        self.runtime.delete_all().await.unwrap();
        let label = format!("dev.towline.instance={}", self.place.instance);
        assert_eq!(
            self.place.engine.containers(&label),
            Vec::<String>::new(),
            "neither unit nor helper is left"
        );
        self.runtime.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_an_agent_dies_over_is_brought_to_its_end_by_the_next() {
    let _among_others = GATE.read().await;
    for name in ["preStart", "postStart"] {
        let mut bare = Bare::new(&format!("dies-over-{}", name.to_lowercase())).await;
        let (spec, runtime) = (bare.spec(&[bare.slow(name)]), Arc::clone(&bare.runtime));
        bare.dies_over(name, runtime.start(&spec)).await;
        let left = bare.one().await;
        assert_eq!(
            (left.state.status, left.state.final_state),
            (Status::Stopped, true),
            "{name}: to be started again"
        );
        let started = bare.again(name, bare.runtime.start_again(&left.unit)).await;
        assert_eq!((started.state.status, started.unit), (Status::Started, left.unit), "{name}");
        bare.runtime.start_again(&bare.one().await.unit).await.unwrap();
        assert_eq!(bare.said(name).len(), 3, "and not again");
        bare.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_an_agent_dies_over_is_brought_to_its_end_by_the_next() {
    let _among_others = GATE.read().await;
    for name in ["preStop", "postStop"] {
        let mut bare = Bare::new(&format!("dies-over-{}", name.to_lowercase())).await;
        let (spec, runtime) = (bare.spec(&[bare.slow(name)]), Arc::clone(&bare.runtime));
        let unit = runtime.start(&spec).await.unwrap().unit;
        bare.dies_over(name, runtime.delete(&unit)).await;
        bare.again(name, bare.runtime.delete(&unit)).await;
        bare.end().await;
    }
}

/// The agent was away when it ended; who starts it next tidies up first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_by_itself_is_tidied_up_after_before_it_starts_again() {
    let _among_others = GATE.read().await;
    let bare = Bare::new("tidied").await;
    let note = |name: &str| hook(name, &format!("echo {name} >> {}/all", bare.place.shared.path().display()));
    let spec = bare.spec(&[note("preStart"), note("postStop")]);
    let unit = bare.runtime.start(&spec).await.unwrap().unit;
    bare.place.engine.docker(&["stop", "--time", "0", &unit]);
    for _ in 0..2 {
        bare.runtime.start_again(&unit).await.unwrap();
        assert_eq!(bare.said("all"), ["preStart", "postStop", "preStart"]);
    }
    bare.end().await;
}
