//! What a user types to have a host looked over.

use std::path::PathBuf;

use clap::Args;

pub(crate) const HELP: &str = "\
Looks at this very host, and needs no hub: processes, data directories, marks, and a Docker engine; with --config also at the
engines of all hosts that the agent's configuration names. Shown is what nobody has any more, such as units whose data directory was removed. What a running agent has, or a store that is there, is left
alone, and so is what nobody can tell the owner of. Run it as the user whose agents these were, or as root.

Examples:
  towline doctor                                   exit code 1 if there is anything
  towline doctor --config /etc/towline/agent.yaml  the agent's other hosts, too
  towline doctor --fix                             remove it, after asking
  towline doctor --fix --yes --output json
  towline doctor --data-dir /srv/agent --docker-socket /run/user/1000/docker.sock";

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Only these: units, paths, containers, as they are shown [default: all]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Remove what is found
    #[arg(long)]
    pub(crate) fix: bool,
    /// Do not ask before anything is removed
    #[arg(long, requires = "fix")]
    pub(crate) yes: bool,
    /// The data directory of an agent, besides those that processes, marks and containers name [default: /var/lib/towline-agent]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Vec<PathBuf>,
    /// A directory of marks [default: /var/lib/towline/marks and ~/.local/state/towline/marks]
    #[arg(long, value_name = "DIR")]
    pub(crate) mark_dir: Vec<PathBuf>,
    /// The socket of a Docker engine [default: /var/run/docker.sock, where it is there]
    #[arg(long, env = "TOWLINE_DOCKER_SOCKET", value_name = "FILE")]
    pub(crate) docker_socket: Option<PathBuf>,
    /// The configuration of an agent: the engines of its hosts are looked at, too
    #[arg(long, env = "TOWLINE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}
