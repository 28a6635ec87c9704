//! `towline-agent`: the agent, and the supervisors of its units.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use towline_agent::{
    shim::{self, ShimArgs},
    store::{OpenStoreError, Store},
};
use towline_protocol::InstanceId;

/// Runs workloads on this host on behalf of a Towline hub.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve an instance (what is done without a command).
    Run(RunArgs),
    /// Check options and data directory, and do nothing else.
    CheckConfig(RunArgs),
    /// Stand over one unit (started by the agent, not by hand).
    #[command(hide = true)]
    Shim(ShimArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Where the bus is.
    #[arg(long, env = "TOWLINE_NATS", value_name = "URL")]
    nats: Option<String>,
    /// The instance to serve: `tenant/name`, or a name of the tenant `default`.
    #[arg(long, env = "TOWLINE_INSTANCE", value_name = "T/N")]
    instance: Option<InstanceId>,
    /// Credentials for the bus.
    #[arg(long, env = "TOWLINE_CREDS", value_name = "FILE")]
    creds: Option<PathBuf>,
    /// What runs workloads.
    #[arg(long, env = "TOWLINE_RUNTIME", default_value = "process", value_parser = ["process"])]
    runtime: String,
    /// Where store and units live.
    #[arg(long, env = "TOWLINE_DATA_DIR", value_name = "DIR", default_value = "/var/lib/towline-agent")]
    data_dir: PathBuf,
    /// Where metrics are shown.
    #[arg(long, env = "TOWLINE_METRICS_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:7402")]
    metrics_listen: SocketAddr,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        // Before anything else: a shim must be small, and its second stage single-threaded.
        Some(Command::Shim(args)) => return shim::run(&args),
        Some(Command::CheckConfig(args)) => check(&args, true),
        Some(Command::Run(args)) => run(&args),
        None => run(&cli.run),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => complain(&why),
    }
}

/// Everything that can be known before the bus is reached.
fn check(args: &RunArgs, lenient: bool) -> Result<(), String> {
    args.instance.as_ref().ok_or("--instance is missing: name the instance to serve, such as acme/site-7")?;
    if let Some(creds) = &args.creds {
        std::fs::metadata(creds).map_err(|error| format!("--creds {}: {error}", creds.display()))?;
    }
    match Store::open(&args.data_dir) {
        // It serves already; nothing is wrong with the options.
        Err(OpenStoreError::Locked { .. }) if lenient => Ok(()),
        opened => opened.map(drop).map_err(|error| error.to_string()),
    }
}

fn run(args: &RunArgs) -> Result<(), String> {
    check(args, false)?;
    match &args.nats {
        None => Err("--nats is missing: name the server to connect to".to_owned()),
        Some(url) => Err(format!(
            "cannot connect to {url}: this build has no NATS transport yet; try `towline dev`, which runs hub and agent in one \
             process"
        )),
    }
}

#[expect(clippy::print_stderr, reason = "this is the program's last word")]
fn complain(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::FAILURE
}
