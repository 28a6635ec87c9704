//! `towline-hub`: the control plane as a process.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use towline_bus::Transport;
use towline_hub::{Hub, HubConfig};
use tracing_subscriber::EnvFilter;

/// Towline's hub: knows every instance, and routes calls to them.
#[derive(Parser)]
#[command(name = "towline-hub", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default).
    Serve(ServeArgs),
    /// Check flags and files, and end.
    CheckConfig(ServeArgs),
}

#[derive(Args)]
struct ServeArgs {
    /// Where the NATS server is.
    #[arg(long, value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    nats: String,
    /// Where the API listens.
    #[arg(long, value_name = "ADDRESS", default_value = HubConfig::LISTEN)]
    listen: SocketAddr,
    /// Where `/metrics` listens.
    #[arg(long, value_name = "ADDRESS", default_value = HubConfig::METRICS_LISTEN)]
    metrics_listen: SocketAddr,
    /// Where the hub keeps its state.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/towline-hub")]
    data_dir: PathBuf,
    /// The file that holds the API's token [default: made as <DIR>/token].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl From<&ServeArgs> for HubConfig {
    fn from(args: &ServeArgs) -> Self {
        Self {
            listen: args.listen,
            metrics_listen: Some(args.metrics_listen),
            token_file: args.token_file.clone(),
            ..Self::new(&args.data_dir)
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("TOWLINE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let ended = runtime.block_on(async {
        match cli.command {
            Some(Command::CheckConfig(args)) => check_config(&args),
            Some(Command::Serve(args)) => Box::pin(serve(&args)).await,
            None => Box::pin(serve(&cli.serve)).await,
        }
    });
    // What did not end within its grace must not hold the process.
    runtime.shutdown_background();
    ended.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    tracing::error!("{error:#}");
    ExitCode::FAILURE
}

async fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let hub = Hub::build(args.into(), transport(&args.nats)?).await?;
    tracing::info!(api = %hub.address(), token_file = %hub.token_path().display(), "the hub serves");
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut signalled = async || {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    let shutdown = CancellationToken::new();
    let mut running = std::pin::pin!(hub.run(shutdown.clone()));
    tokio::select! {
        ended = running.as_mut() => return Ok(ended?),
        () = signalled() => shutdown.cancel(),
    }
    tracing::info!("the hub drains; a second signal ends it at once");
    tokio::select! {
        ended = running => Ok(ended?),
        () = signalled() => anyhow::bail!("ended at once by a second signal"),
    }
}

fn transport(url: &str) -> anyhow::Result<Arc<dyn Transport>> {
    anyhow::bail!(
        "cannot reach {url}: this build has no NATS transport yet; `towline dev` runs a hub and an agent in one process"
    )
}

fn check_config(args: &ServeArgs) -> anyhow::Result<()> {
    if let Some(path) = &args.token_file {
        towline_hub::token::Token::read(path)?;
    }
    let dir = towline_hub::data_dir::DataDir::claim(&args.data_dir)?;
    tracing::info!(data_dir = %dir.path().display(), "flags and files are sound");
    transport(&args.nats).map(drop)
}
