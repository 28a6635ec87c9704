//! `towline`: the operators' command, and `towline dev`, which runs all of it in one process.
//!
//! A library only so that its readers of foreign bytes can be fuzzed; the binary is one line.

mod actions;
mod args;
mod bundle;
mod client;
mod command;
mod context;
mod dev;
#[doc(hidden)]
pub mod doors;
mod failure;
mod hello;
mod ids;
mod input;
mod show;
mod target;
mod time;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use towline_agent::{shim, tether};
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, Output};
use crate::failure::Failure;

/// Does what the command line says; returns what the process is to end with. Call it from `main` before anything else, in
/// particular before any thread is started.
#[must_use]
pub fn main() -> ExitCode {
    // Started by `ssh`, whose words are none of ours.
    if let Some(ended) = tether::tell_password() {
        return ended;
    }
    let parsed = args::without_empty_variables(Cli::command()).try_get_matches();
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        // Help and version come this way, too. Whoever pipes them into `head` has had enough: no error.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    if let Command::Shim(args) = &cli.command {
        // First of all, for it must be alone in its process.
        return shim::run(args);
    }
    if let Command::Tether(args) = &cli.command {
        return tether::run(args);
    }
    let filter = EnvFilter::try_from_env("TOWLINE_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    let output = cli.global.output;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = if output == Output::Json { failure.render_json() } else { failure.render() };
            // Nobody is left to tell when standard error is gone.
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::from(failure.exit() as u8)
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Runtime::new().map_err(|error| Failure::error(format!("cannot start: {error}")))?;
    let ended = runtime.block_on(command::run(cli));
    // What did not end in its time must not hold the process: a second signal ends it at once.
    runtime.shutdown_background();
    ended
}
