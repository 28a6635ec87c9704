//! The command line of `towline-agent`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use towline_agent::{
    runtime::{RuntimeKind, docker::DEFAULT_SOCKET},
    shim::ShimArgs,
    tether::TetherArgs,
};
use towline_protocol::InstanceId;

/// Runs workloads on this host on behalf of a Towline hub.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve an instance (what is done without a command).
    Run(RunArgs),
    /// Check options and data directory, and do nothing else.
    CheckConfig(RunArgs),
    /// List the points where a test can make this agent die, stall or fail.
    Failpoints,
    /// Stand over one unit (started by the agent, not by hand).
    #[command(hide = true)]
    Shim(ShimArgs),
    /// Become another program that does not outlive the agent (started by the agent, not by hand).
    #[command(hide = true)]
    Tether(TetherArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Where the bus is: one address or several.
    #[arg(long, env = "TOWLINE_NATS", value_name = "URL", value_delimiter = ',')]
    pub(crate) nats: Vec<String>,
    /// The instance to serve: `tenant/name`, or a name of the tenant `default`.
    #[arg(long, env = "TOWLINE_INSTANCE", value_name = "T/N")]
    pub(crate) instance: Option<InstanceId>,
    /// Credentials for the bus.
    #[arg(long, env = "TOWLINE_CREDS", value_name = "FILE")]
    pub(crate) creds: Option<PathBuf>,
    /// Certificates to trust instead of the system's, for `tls://` and `wss://`, in PEM.
    #[arg(long, env = "TOWLINE_NATS_CA", value_name = "FILE")]
    pub(crate) nats_ca: Option<PathBuf>,
    /// What runs workloads.
    #[arg(long, env = "TOWLINE_RUNTIME", value_name = "R", default_value_t = RuntimeKind::Process)]
    pub(crate) runtime: RuntimeKind,
    /// A file with the hosts of the docker runtime.
    #[arg(long, env = "TOWLINE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The socket of the docker runtime's engine, where no file says otherwise.
    #[arg(long, env = "TOWLINE_DOCKER_SOCKET", value_name = "FILE", default_value = DEFAULT_SOCKET)]
    pub(crate) docker_socket: PathBuf,
    /// Where store and units live.
    #[arg(long, env = "TOWLINE_DATA_DIR", value_name = "DIR", default_value = "/var/lib/towline-agent")]
    pub(crate) data_dir: PathBuf,
    /// Where it stands which agent may act on this host: the same for all agents of an instance here, whatever their data
    /// directories [default: /var/lib/towline/marks for root, else ~/.local/state/towline/marks].
    #[arg(long, env = "TOWLINE_MARK_DIR", value_name = "DIR")]
    pub(crate) mark_dir: Option<PathBuf>,
    /// Names the boot of this host: with another one, everything that is active is brought up again.
    #[arg(
        long,
        env = "TOWLINE_BOOT_ID_FILE",
        value_name = "FILE",
        default_value = "/proc/sys/kernel/random/boot_id"
    )]
    pub(crate) boot_id_file: PathBuf,
    /// Where metrics and health are shown.
    #[arg(long, env = "TOWLINE_METRICS_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:7402")]
    pub(crate) metrics_listen: SocketAddr,
}
