//! `towline-hub`: the control plane as a process.

mod args;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, FromArgMatches as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use towline_bus::Transport as _;
use towline_bus::transport::nats::NatsTransport;
use towline_hub::Hub;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, ServeArgs};

fn main() -> ExitCode {
    let matches = args::without_empty_variables(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let filter =
        EnvFilter::try_from_env("TOWLINE_LOG").unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn"));
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
    let nats = NatsTransport::connect(&args.into()).await?;
    let served = serve_over(args, nats.clone()).await;
    // What was answered last must not stay in a buffer.
    nats.close().await;
    served
}

async fn serve_over(args: &ServeArgs, nats: Arc<NatsTransport>) -> anyhow::Result<()> {
    let hub = Hub::build(args.into(), nats).await?;
    let metrics = hub.metrics_address().map_or_else(|| "none".to_owned(), |address| address.to_string());
    let token_file = hub.token_path().display();
    tracing::info!(api = %hub.address(), %metrics, %token_file, "the hub serves");
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

fn check_config(args: &ServeArgs) -> anyhow::Result<()> {
    if let Some(path) = &args.token_file {
        towline_hub::token::Token::read(path)?;
    }
    let dir = towline_hub::data_dir::DataDir::claim(&args.data_dir)?;
    towline_bus::transport::nats::check(&args.into())?;
    tracing::info!(data_dir = %dir.path().display(), "flags and files are sound");
    Ok(())
}
