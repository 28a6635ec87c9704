//! `towline-agent`: the agent, and the supervisors of its units.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use towline_agent::shim::{self, ShimArgs};

/// Runs workloads on this host on behalf of a Towline hub.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Stand over one unit (started by the agent, not by hand).
    Shim(ShimArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Some(Command::Shim(args)) => shim::run(&args),
        None => ExitCode::FAILURE,
    }
}
