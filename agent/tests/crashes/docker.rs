//! The same on a real Docker engine, where units are containers.

use std::{collections::BTreeSet, ffi::OsString, path::Path, sync::Arc};

use crate::{
    engine::{Engine, IMAGE},
    killed_at_random_instants,
    place::Place,
    points::{failing_at_each_point, killed_at_each_point},
};

/// An engine of this machine, one for all tests.
struct Docker(Arc<Engine>);

impl Docker {
    fn shared() -> Arc<dyn Place> {
        Arc::new(Self(Engine::shared()))
    }

    /// Lines that the engine says of each container of an instance that is as `filter` says.
    fn listed(&self, instance: &str, filter: &str, format: &str) -> BTreeSet<String> {
        let label = format!("label=dev.towline.instance={instance}");
        let words = ["ps", "--all", "--no-trunc", "--filter", &label, "--filter", filter, "--format", format];
        self.0.docker(&words).lines().map(str::to_owned).collect()
    }
}

const UNIT: &str = r#"{{.Label "dev.towline.unit"}}"#;

impl Place for Docker {
    fn options(&self) -> Vec<OsString> {
        let socket = self.0.socket.clone().into_os_string();
        ["--runtime".into(), "docker".into(), "--docker-socket".into(), socket].into()
    }

    fn lines(&self, dir: &Path) -> String {
        let dir = dir.display();
        // With pids that mean the same here as there.
        format!(
            "  image: {IMAGE}\n  docker: {{pidMode: host, networkMode: none}}\n  mounts: [{{source: {dir}, target: {dir}}}]\n"
        )
    }

    fn running(&self, instance: &str) -> BTreeSet<String> {
        self.listed(instance, "status=running", UNIT)
    }

    fn idle(&self, instance: &str, _: &Path) -> BTreeSet<String> {
        let format = r#"{{.ID}} {{.Names}} [{{.Label "dev.towline.role"}}] {{.State}}"#;
        let all = self.listed(instance, "label=dev.towline.instance", format);
        let runs = |line: &String| line.ends_with("[] running");
        all.into_iter().filter(|line| !runs(line)).collect()
    }

    fn runs(&self, instance: &str, app: &str) -> BTreeSet<String> {
        let app = format!("label=dev.towline.app=default/App/{app}");
        let format = "{{.Id}} {{.State.StartedAt}} {{.RestartCount}}";
        let ids = self.listed(instance, &app, "{{.ID}}");
        ids.iter().map(|id| self.0.docker(&["inspect", "--format", format, id])).collect()
    }

    fn clear(&self, instance: &str) {
        for id in self.listed(instance, "label=dev.towline.instance", "{{.ID}}") {
            self.0.docker(&["rm", "--force", &id]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_instants_nothing_accepted_is_lost_on_docker() {
    killed_at_random_instants(&Docker::shared()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_point_nothing_accepted_is_lost_on_docker() {
    killed_at_each_point(&Docker::shared(), &["kill@2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_at_each_point_that_can_nothing_accepted_is_lost_on_docker() {
    failing_at_each_point(&Docker::shared()).await;
}
