//! Hub and agent under one roof: how they are put up, and how they are taken down without a trace.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use towline_agent::{Agent, AgentConfig, ServeError};
use towline_bus::MessageBus;
use towline_bus::task::Tasks;
use towline_bus::transport::memory::MemoryBroker;
use towline_hub::{Hub, HubConfig, RunError};
use towline_protocol::limits::CALL_TIME_MAX;
use towline_protocol::{Epoch, InstanceId};

use super::bundles;
use super::data_dir::DataDir;
use super::memory::Memory;
use super::orphans;
use crate::args::DevArgs;
use crate::context::{self, Context, Published};
use crate::failure::{Exit, Failure};

/// The instance that everything happens on.
const INSTANCE: &str = "default/local";

/// Where the API listens, on this host alone.
const PORT: u16 = 7400;

/// How long the tasks may take to end after hub and agent have said that they are done.
const PATIENCE: Duration = Duration::from_secs(5);

/// Hub, agent and where their data lives.
#[derive(Debug)]
pub(super) struct House {
    data: DataDir,
    site: Site,
    published: Option<Published>,
    agent: Arc<Agent>,
    serving: JoinHandle<Result<(), ServeError>>,
    running: JoinHandle<Result<(), RunError>>,
    leave: CancellationToken,
    shutdown: CancellationToken,
    tasks: Tasks,
}

/// What there is to know about a house by those who work in it.
#[derive(Debug, Clone)]
pub(super) struct Site {
    /// How to reach it.
    pub(super) context: Context,
    bus: MessageBus,
    serving: watch::Receiver<Option<Epoch>>,
    data: PathBuf,
    is_kept: bool,
    is_published: bool,
}

impl House {
    /// Puts up all of it. Nothing is left behind when that fails.
    ///
    /// # Errors
    /// What stands in the way: a port in use, a directory that belongs to another, …
    pub(super) async fn open(args: &DevArgs) -> Result<Self, Failure> {
        orphans::clear(&context::places()).await;
        let data = DataDir::open(args.data_dir.as_deref())?;
        let broker = MemoryBroker::new();
        let instance: InstanceId = INSTANCE.parse().map_err(|error| Failure::error(format!("{error}")))?;
        let config = HubConfig {
            listen: address_of(args),
            // A second listener would be a second port to be in use; the API says all that a trial needs.
            metrics_listen: None,
            ..HubConfig::new(data.path().join("hub"))
        };
        let hub = Hub::build(config, broker.connect()).await.map_err(|error| build_failure(&error))?;
        let opened = async { open_agent(&data, instance.clone()).await };
        let agent = match opened.await {
            Ok(agent) => Arc::new(agent),
            Err(failure) => {
                take_down(hub).await;
                return Err(failure);
            }
        };
        let hub_url = format!("http://{}", hub.address());
        let context = Context::of_this_process(hub_url, hub.token_path().to_owned(), instance)
            .with_scratch(data.scratch());
        let published = publish(&context);
        let site = Site {
            context,
            bus: hub.bus().clone(),
            serving: agent.serving(),
            data: data.path().to_owned(),
            is_kept: data.is_kept(),
            is_published: published.is_some(),
        };
        let (tasks, leave, shutdown) = (Tasks::new(), CancellationToken::new(), CancellationToken::new());
        let running = tasks.spawn_isolated("hub", hub.run(shutdown.clone()));
        let (link, server, leaving) = (broker.connect(), Arc::clone(&agent), leave.clone());
        let serving = tasks.spawn_isolated("agent", async move { server.serve(link, leaving).await });
        Ok(Self { data, site, published, agent, serving, running, leave, shutdown, tasks })
    }

    /// What there is to know about it.
    pub(super) fn site(&self) -> Site {
        self.site.clone()
    }

    /// Waits until hub or agent ends by itself, which neither should. Cancel safe.
    pub(super) async fn failed(&mut self) -> Failure {
        tokio::select! {
            ended = &mut self.running => match ended {
                Ok(Ok(())) => Failure::error("the hub ended by itself"),
                Ok(Err(error)) => Failure::error(chain(&error)),
                Err(error) => Failure::error(format!("the hub failed: {error}")),
            },
            ended = &mut self.serving => match ended {
                Ok(Ok(())) => Failure::error("the agent ended by itself"),
                Ok(Err(error)) => Failure::error(chain(&error)),
                Err(error) => Failure::error(format!("the agent failed: {error}")),
            },
        }
    }

    /// Stops every unit, agent and hub, and removes what should not be kept.
    ///
    /// # Errors
    /// What could not be stopped or removed; the rest is, none the less.
    pub(super) async fn close(self) -> Result<(), Failure> {
        let Self { data, published, agent, serving, running, leave, shutdown, tasks, .. } = self;
        // First of all: nobody should find what is about to go.
        drop(published);
        let mut wrong = Vec::new();
        // Of a directory that is kept the next one finds its bundles again.
        if !data.is_kept() {
            wrong.extend(bundles::delete_all(&*agent.platform()).await);
        }
        leave.cancel();
        if !serving.is_finished() {
            // How it ended was told before, or it was told to end just now.
            let _ = serving.await;
        }
        if let Err(error) = agent.remove_units().await {
            wrong.push(format!("a unit could not be stopped: {}", chain(&error)));
        }
        match Arc::try_unwrap(agent) {
            Ok(agent) => agent.close().await,
            Err(_) => wrong.push("the agent is still in use".to_owned()),
        }
        shutdown.cancel();
        if !running.is_finished() {
            let _ = running.await;
        }
        if !tasks.stop(PATIENCE).await {
            wrong.push("hub or agent did not end in time".to_owned());
        }
        let place = data.path().to_owned();
        if wrong.is_empty() {
            wrong.extend(data.close().err().map(|error| format!("{}: {error}", place.display())));
        } else {
            wrong.push(format!("{} is kept", data.keep().display()));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::error("not everything could be stopped and removed").with_details(wrong))
    }
}

impl Site {
    /// Waits until the hub hears the agent, and the agent knows that it does: its first call would be refused else.
    ///
    /// The caller bounds the time.
    ///
    /// # Errors
    /// When the agent ended.
    pub(super) async fn await_presence(&self) -> Result<(), Failure> {
        let present = self.bus.await_presence(&self.context.instance, CALL_TIME_MAX).await;
        present.map_err(|error| Failure::new(Exit::TimedOut, error.to_string()))?;
        let mut serving = self.serving.clone();
        let served = serving.wait_for(Option::is_some).await;
        served.map(drop).map_err(|_| Failure::error("the agent ended before it served"))
    }

    /// Where what is applied is kept for the next time.
    pub(super) fn memory(&self) -> Memory {
        Memory::new(self.is_kept.then(|| self.data.join("applied.json")))
    }

    /// What a newcomer wants to know now.
    pub(super) fn introduction(&self, app: Option<&str>) -> String {
        let (towline, Context { hub, token_file, instance, .. }) = (program_name(), &self.context);
        let kept = if self.is_kept { "kept" } else { "removed at the end" };
        let flags = match self.is_published {
            true => String::new(),
            false => format!(" --hub {hub} --token-file {}", token_file.display()),
        };
        let local = &instance.name;
        let logs = app.map(|app| format!("  {towline}{flags} logs {local} {app} -f\n")).unwrap_or_default();
        format!(
            "\n\
             API    {hub} (described at /openapi.json)\n\
             token  {}\n\
             data   {} ({kept})\n\n\
             Try, in a second terminal:\n  \
             {towline}{flags} services {local}\n\
             {logs}\n\
             Following files and services; Ctrl-C stops everything.",
            token_file.display(),
            self.data.display(),
        )
    }
}

/// Whoever tries something once need not care which port, and may have another `towline dev` running.
fn address_of(args: &DevArgs) -> SocketAddr {
    let port = if args.once { 0 } else { PORT };
    args.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)))
}

async fn open_agent(data: &DataDir, instance: InstanceId) -> Result<Agent, Failure> {
    let bin = data.program_dir()?;
    let config =
        AgentConfig { extra_path: Some(bin), ..AgentConfig::new(instance, data.path().join("agent")) };
    Agent::open(config, Registry::new()).await.map_err(|error| Failure::error(chain(&error)))
}

/// A hub that was built and is not wanted any more still has to drain.
async fn take_down(hub: Hub) {
    let at_once = CancellationToken::new();
    at_once.cancel();
    let _ = hub.run(at_once).await;
}

fn build_failure(error: &towline_hub::BuildError) -> Failure {
    let failure = Failure::error(chain(error));
    match error {
        towline_hub::BuildError::Listen { .. } => {
            failure.with_help("`towline dev --listen 127.0.0.1:0` takes any port that is free")
        }
        _ => failure,
    }
}

/// Other commands find us by this. Without it they need flags, which the introduction then shows.
fn publish(context: &Context) -> Option<Published> {
    let place = context::places().into_iter().next()?;
    match context.publish(&place) {
        Ok(published) => Some(published),
        Err(error) => {
            tracing::warn!(place = %place.display(), %error, "other commands will not find this by themselves");
            None
        }
    }
}

/// An error with all that lies behind it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// How this program was called, for commands that can be copied.
fn program_name() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if called.components().count() > 1 { called.display().to_string() } else { "towline".to_owned() }
}
