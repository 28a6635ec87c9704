//! What `towline-hub` is told on its command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{Args, Parser, Subcommand};
use towline_bus::transport::nats::NatsConfig;
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
    /// NATS servers: `nats://`, `tls://`, `ws://` or `wss://`, all of one kind.
    #[arg(
        long,
        env = "TOWLINE_NATS",
        value_name = "URL[,URL]",
        value_delimiter = ',',
        default_value = "nats://127.0.0.1:4222"
    )]
    pub(crate) nats: Vec<String>,
    /// Credentials for NATS: a file with a user's JWT and key.
    #[arg(long, env = "TOWLINE_CREDS", value_name = "FILE")]
    pub(crate) creds: Option<PathBuf>,
    /// Certificates to trust instead of the system's, for `tls://` and `wss://`, in PEM.
    #[arg(long, env = "TOWLINE_NATS_CA", value_name = "FILE")]
    pub(crate) nats_ca: Option<PathBuf>,
    /// Where the API listens.
    #[arg(long, env = "TOWLINE_LISTEN", value_name = "ADDRESS", default_value = HubConfig::LISTEN)]
    pub(crate) listen: SocketAddr,
    /// Where `/metrics` listens.
    #[arg(long, env = "TOWLINE_METRICS_LISTEN", value_name = "ADDRESS", default_value = HubConfig::METRICS_LISTEN)]
    pub(crate) metrics_listen: SocketAddr,
    /// Where the hub keeps its state.
    #[arg(long, env = "TOWLINE_DATA_DIR", value_name = "DIR", default_value = "/var/lib/towline-hub")]
    pub(crate) data_dir: PathBuf,
    /// The file that holds the API's token [default: made as <DIR>/token].
    #[arg(long, env = "TOWLINE_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// A variable that is set to nothing is not set: so shells and unit files take one back.
pub(crate) fn without_empty_variables(command: clap::Command) -> clap::Command {
    command.mut_subcommands(without_empty_variables).mut_args(|arg| {
        let is_empty = |name| std::env::var_os(name).is_some_and(|value| value.is_empty());
        if arg.get_env().is_some_and(is_empty) { arg.env(Resettable::Reset) } else { arg }
    })
}

impl From<&ServeArgs> for NatsConfig {
    fn from(args: &ServeArgs) -> Self {
        Self {
            servers: args.nats.clone(),
            name: "towline-hub".to_owned(),
            credentials: args.creds.clone(),
            ca_file: args.nats_ca.clone(),
        }
    }
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
