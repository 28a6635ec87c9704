//! What `towline-hub` is told on its command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use towline_hub::HubConfig;

/// Towline's hub: knows every instance, and routes calls to them.
#[derive(Parser)]
#[command(name = "towline-hub", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve (the default).
    Serve(ServeArgs),
    /// Check flags and files, and end.
    CheckConfig(ServeArgs),
}

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Where the NATS server is.
    #[arg(long, value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    pub(crate) nats: String,
    /// Where the API listens.
    #[arg(long, value_name = "ADDRESS", default_value = HubConfig::LISTEN)]
    pub(crate) listen: SocketAddr,
    /// Where `/metrics` listens.
    #[arg(long, value_name = "ADDRESS", default_value = HubConfig::METRICS_LISTEN)]
    pub(crate) metrics_listen: SocketAddr,
    /// Where the hub keeps its state.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/towline-hub")]
    pub(crate) data_dir: PathBuf,
    /// The file that holds the API's token [default: made as <DIR>/token].
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
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
