//! `towline-agent`: the agent, and the supervisors of its units.

mod args;

use std::{error::Error, io::IsTerminal as _, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use towline_agent::{
    Agent, AgentConfig,
    config::FileConfig,
    failpoints,
    mark::Mark,
    runtime::RuntimeKind,
    shim,
    store::{OpenStoreError, Store},
    tether,
};
use towline_bus::{
    Transport,
    transport::nats::{self, NatsConfig, NatsTransport},
};
use towline_protocol::InstanceId;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, RunArgs};

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    // Started by `ssh`, whose words are none of ours.
    if let Some(ended) = tether::tell_password() {
        return ended;
    }
    let cli = Cli::parse();
    let ended = match cli.command {
        // Before anything else: a shim must be small, and its second stage has a single thread.
        Some(Command::Shim(args)) => return shim::run(&args),
        Some(Command::Tether(args)) => return tether::run(&args),
        Some(Command::CheckConfig(args)) => check(&args),
        Some(Command::Failpoints) => return list_failpoints(),
        Some(Command::Run(args)) => run(&args),
        None => run(&cli.run),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(error.as_ref()),
    }
}

/// Where this build can be made to fail: a point a line, and what can happen there.
#[expect(clippy::print_stdout, reason = "this is what was asked for")]
fn list_failpoints() -> ExitCode {
    if !cfg!(feature = "failpoints") {
        return complain(&*Box::<dyn Error>::from(
            "this build has no failpoints; build with --features failpoints",
        ));
    }
    for point in failpoints::ALL {
        println!("{:<20} {}", point.name, if point.can_fail { "kill stall error" } else { "kill stall" });
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "this is the program's last word, and it may have no log yet")]
fn complain(error: &dyn Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

fn instance(args: &RunArgs) -> Result<InstanceId, &'static str> {
    args.instance.clone().ok_or("--instance is missing: name the instance to serve, such as acme/site-7")
}

fn bus(args: &RunArgs, instance: &InstanceId) -> NatsConfig {
    NatsConfig {
        servers: args.nats.clone(),
        name: format!("towline-agent {instance}"),
        credentials: args.creds.clone(),
        ca_file: args.nats_ca.clone(),
    }
}

/// Where marks are: named, or where this user keeps such things.
fn mark_dir(args: &RunArgs) -> Result<PathBuf, &'static str> {
    if let Some(named) = &args.mark_dir {
        return Ok(named.clone());
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/towline/marks"));
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let nowhere = "there is no home directory to keep marks in: name a place with --mark-dir";
    state.map(|state| state.join("towline/marks")).ok_or(nowhere)
}

/// What the configuration file says, if there is one.
fn file_config(args: &RunArgs) -> Result<FileConfig, Box<dyn Error>> {
    let Some(file) = &args.config else { return Ok(FileConfig::default()) };
    let config = FileConfig::read(file, &args.docker_socket)?;
    if !config.hosts.is_empty() && args.runtime != RuntimeKind::Docker {
        let (file, runtime) = (file.display(), args.runtime);
        return Err(format!(
            "{file}: docker.hosts: found hosts with engines, but the runtime is {runtime}: run it with --runtime docker"
        )
        .into());
    }
    Ok(config)
}

/// Everything that can be known before the bus is reached.
fn check(args: &RunArgs) -> Outcome {
    failpoints::arm()?;
    file_config(args)?;
    let instance = instance(args)?;
    nats::check(&bus(args, &instance))?;
    Mark::check(&mark_dir(args)?, &instance)?;
    match Store::open(&args.data_dir) {
        // It serves already; nothing is wrong with the options.
        Ok(_) | Err(OpenStoreError::Locked { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn run(args: &RunArgs) -> Outcome {
    failpoints::arm()?;
    let filter =
        EnvFilter::try_from_env("TOWLINE_LOG").unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(Box::pin(serve(args)));
    // What did not end within its grace must not hold the process.
    runtime.shutdown_background();
    ended
}

async fn serve(args: &RunArgs) -> Outcome {
    let (instance, file) = (instance(args)?, file_config(args)?);
    let transport: Arc<dyn Transport> = NatsTransport::connect(&bus(args, &instance)).await?;
    let mut config = AgentConfig::new(instance.clone(), &args.data_dir);
    config.runtime = args.runtime;
    config.docker_socket.clone_from(&args.docker_socket);
    config.docker_hosts = file.hosts;
    config.boot_id_file.clone_from(&args.boot_id_file);
    config.mark_dir = mark_dir(args)?;
    let agent = Agent::open(config, prometheus::Registry::new()).await?;
    // Before anybody can see that it is open, and ask it to end.
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let metrics = agent.listen_metrics(args.metrics_listen).await?;
    let data_dir = args.data_dir.display();
    tracing::info!(%instance, %metrics, %data_dir, "the agent serves as soon as a hub hears it");
    let mut signalled = async || {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    let stopping = CancellationToken::new();
    let serving = serve_and_close(agent, transport, stopping.clone());
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        ended = serving.as_mut() => return ended,
        () = signalled() => stopping.cancel(),
    }
    tracing::info!("finishing calls under way; units run on; a second signal ends it at once");
    // To the very end: closing may take as long as serving does.
    tokio::select! {
        ended = serving => ended,
        () = signalled() => Err("ended at once by a second signal".into()),
    }
}

async fn serve_and_close(
    agent: Agent,
    transport: Arc<dyn Transport>,
    stopping: CancellationToken,
) -> Outcome {
    let ended = agent.serve(Arc::clone(&transport), stopping).await;
    agent.close().await;
    transport.close().await;
    Ok(ended?)
}
