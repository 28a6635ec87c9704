//! The real binaries over a real nats-server, under fire.

mod agents;
mod cli;
mod health;
mod marks;
mod namespaces;
mod outages;
mod round_trip;
mod servers;
mod takeover;

use std::path::PathBuf;

use bytes::Bytes;
use tokio::task::JoinHandle;
use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_protocol::platform::{Definition, SyncAction, UnitStatus};
use towline_protocol::{CallError, ResourceId};
use towline_tests::http_platform::HttpPlatform;
use towline_tests::nats::NatsServer;
use towline_tests::processes::{AgentProcess, HubProcess};
use towline_tests::wait::until;

/// A server and a hub, and agents as they are asked for.
struct Site {
    // Fields are dropped in this order.
    hub: HubProcess,
    server: NatsServer,
}

impl Site {
    async fn start() -> Self {
        let server = NatsServer::start("").await;
        let hub = HubProcess::start(server.url()).await;
        Self { hub, server }
    }

    /// An agent with a data directory of its own, which serves.
    async fn agent(&self, name: &str) -> AgentProcess {
        let agent = AgentProcess::start(name, self.server.url()).await;
        self.hub.until_state(name, "connected").await;
        agent
    }
}

fn id(name: &str) -> ResourceId {
    format!("default/App/{name}").parse().unwrap()
}

/// An app of one unit that runs a shell script.
fn script(name: &str, script: &str, more: &str) -> Bytes {
    let script = serde_json::to_string(script).unwrap();
    format!(
        "apiVersion: towline/v1\nkind: App\nmetadata: {{name: {name}}}\n\
         spec:\n  command: [sh, -c, {script}]\n{more}"
    )
    .into()
}

fn define(name: &str, definition: Bytes) -> Definition {
    Definition { id: id(name), definition, is_async: false }
}

/// An app that notes each of its starts in a file.
fn noting(name: &str, agent: &AgentProcess) -> Definition {
    let file = agent.dir().join(format!("starts-of-{name}"));
    define(name, script(name, &format!("echo started >> {}; exec sleep 1000", file.display()), ""))
}

fn starts(name: &str, agent: &AgentProcess) -> usize {
    let file = agent.dir().join(format!("starts-of-{name}"));
    std::fs::read_to_string(file).unwrap_or_default().lines().count()
}

/// Applies, and waits until it has started; returns its pid.
async fn apply(platform: &HttpPlatform, definition: Definition) -> u32 {
    let id = definition.id.clone();
    platform.apply(&CallContext::new(), &[definition]).await.unwrap();
    until("the unit to start", || pid(platform, &id)).await
}

async fn pid(platform: &HttpPlatform, id: &ResourceId) -> Option<u32> {
    let services = platform.some_services(&CallContext::new(), std::slice::from_ref(id)).await.ok()?;
    let unit = services.first()?.units.first()?;
    if unit.status == UnitStatus::Started { unit.pid } else { None }
}

/// An app that takes its whole grace period to stop.
struct Stubborn {
    definition: Definition,
    asked: PathBuf,
}

impl Stubborn {
    /// Applies it, and waits until it no longer ends at a mere word.
    async fn apply(platform: &HttpPlatform, agent: &AgentProcess, grace: &str) -> Self {
        let (deaf, asked) = (agent.dir().join("deaf"), agent.dir().join("asked-to-stop"));
        let text = format!(
            "trap 'echo x >> {}' TERM; echo x >> {}; while true; do sleep 0.1; done",
            asked.display(),
            deaf.display()
        );
        let definition = script("stubborn", &text, &format!("  stop: {{gracePeriod: {grace}}}\n"));
        let definition = define("stubborn", definition);
        apply(platform, definition.clone()).await;
        until("it to be deaf", || async { deaf.exists().then_some(()) }).await;
        Self { definition, asked }
    }

    /// Begins to delete it, and waits until the agent is at work on that.
    async fn delete(self, platform: &HttpPlatform) -> JoinHandle<Result<(), CallError>> {
        let platform = platform.clone();
        let delete = Some(self.definition.definition);
        let action = SyncAction { id: self.definition.id, delete, apply: None };
        let sync = tokio::spawn(async move { platform.sync(&CallContext::new(), &[action]).await });
        until("the sync to be at work", || async { self.asked.exists().then_some(()) }).await;
        sync
    }
}
