//! What a user types: options, commands, and the help that teaches them.

mod bundle;
mod doctor;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{FalseyValueParser, Resettable};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use towline_agent::shim::ShimArgs;
use towline_agent::tether::TetherArgs;
use towline_protocol::{InstanceId, RequestId};

pub(crate) use self::bundle::{
    BundleArgs, BundleCommand, ChangesArgs, DeleteArgs, GetArgs, JobArgs, JobCommand, JobsArgs, OperateArgs,
    PutArgs, RetryArgs,
};
pub(crate) use self::doctor::DoctorArgs;
use crate::hello::HelloArgs;
use crate::ids::AppId;
use crate::input::Input;
use crate::target::HubUrl;
use crate::time::Since;

const EXAMPLES: &str = "\
Two minutes:
  towline dev                          hub, agent and two small apps in one process, until Ctrl-C
  towline services local               (second terminal) what runs there
  towline logs local hello -f          what it writes
  towline dev ./apps                   your own manifests; a changed file is applied again

Elsewhere:
  export TOWLINE_HUB=http://hub.example:7400 TOWLINE_TOKEN_FILE=~/.towline-token
  towline instances
  towline apply shop-7 -f web.yaml
  towline services shop-7 --output json | jq .services
  towline bundle put shop-7 -f ./shop --dry-run
  towline bundle put shop-7 -f ./shop --wait

Exit codes:
  0 ok · 1 error · 2 usage · 3 unavailable · 4 unknown outcome · 5 denied · 6 not found · 7 conflict
  8 cluster (some or all failed) · 9 timed out waiting";

/// Run anything on places you cannot reach, and always know how they stand.
#[derive(Debug, Parser)]
#[command(name = "towline", version, after_help = EXAMPLES, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A variable that is set to nothing is not set: so shells and unit files take one back.
pub(crate) fn without_empty_variables(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| {
        let is_empty = |name| std::env::var_os(name).is_some_and(|value| value.is_empty());
        if arg.get_env().is_some_and(is_empty) { arg.env(Resettable::Reset) } else { arg }
    })
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The hub's address; of several, the first that answers [default: a running `towline dev`, else http://127.0.0.1:7400]
    #[arg(long, global = true, env = "TOWLINE_HUB", value_name = "URL[,URL]", value_delimiter = ',')]
    pub(crate) hub: Vec<HubUrl>,
    /// The file that holds the hub's token [default: that of a running `towline dev`]
    #[arg(long, global = true, env = "TOWLINE_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A table for people, or the API's own JSON for programs
    #[arg(long, global = true, env = "TOWLINE_OUTPUT", value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Output,
    /// How long to wait for a call, or with `dev --once` until all has started: `30s`, `2m` [default: by command]
    #[arg(long, global = true, env = "TOWLINE_TIMEOUT", value_name = "D", value_parser = crate::time::parse_timeout)]
    pub(crate) timeout: Option<Duration>,
    /// Show no progress on the terminal
    #[arg(long, global = true, env = "TOWLINE_NO_PROGRESS", value_parser = FalseyValueParser::new())]
    pub(crate) no_progress: bool,
}

/// How answers are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For programs; streams are one object a line
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Try all of Towline: hub, agent and your apps in one process, without configuration
    #[command(after_help = crate::dev::EXAMPLES)]
    Dev(DevArgs),
    /// List the instances, and how each stands
    Instances(InstancesArgs),
    /// Create, show or delete an instance
    #[command(subcommand)]
    Instance(InstanceCommand),
    /// Make a round trip through an instance's runtime
    Ping(At),
    /// Show which build of the agent serves an instance
    Version(At),
    /// Show what an instance runs, unit by unit
    #[command(
        after_help = "Examples:\n  towline services local\n  towline services local web App/ticker\n  towline services local --namespace shop --ignore shop/App/web"
    )]
    Services(ServicesArgs),
    /// Apply manifests to an instance
    #[command(
        after_help = "Examples:\n  towline apply local -f web.yaml\n  towline apply local -f ./apps -f extra.yaml\n  render | towline apply local -f -"
    )]
    Apply(ApplyArgs),
    /// Delete and apply in order, as a file of actions says
    #[command(after_help = crate::command::SYNC_HELP)]
    Sync(SyncArgs),
    /// Write all that was applied to an instance to standard output, byte for byte
    Export(At),
    /// Apply what was exported; what is there already is not touched
    #[command(
        after_help = "Examples:\n  towline export shop-7 > shop-7.yaml\n  towline import shop-7 -f shop-7.yaml\n  towline export shop-7 | towline import shop-8"
    )]
    Import(ImportArgs),
    /// Show what an app writes
    #[command(
        after_help = "Examples:\n  towline logs local hello -f\n  towline logs local shop/App/web --since 10m --tail 100"
    )]
    Logs(LogsArgs),
    /// Put, show, pause, resume and delete bundles: named, versioned sets of resources
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// List the jobs of an instance, the newest first
    #[command(
        after_help = "Examples:\n  towline jobs shop-7 --bundle shop\n  towline jobs shop-7 --state failed --state running"
    )]
    Jobs(JobsArgs),
    /// Show, watch or cancel a job
    #[command(subcommand)]
    Job(JobCommand),
    /// Show what happens to instances
    Events(EventsArgs),
    /// Find what agents left on this host that nobody has any more, and remove it
    #[command(after_help = self::doctor::HELP)]
    Doctor(DoctorArgs),
    /// Write the completions of a shell to standard output
    #[command(
        after_help = "Example:\n  towline completions bash > ~/.local/share/bash-completion/completions/towline"
    )]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// The demo service: a tiny web server, for `towline dev` to have something to run
    Hello(HelloArgs),
    /// Stand over one unit (started by the agent, not by hand)
    #[command(hide = true)]
    Shim(ShimArgs),
    /// Become another program that does not outlive this one (started by `towline doctor`, not by hand)
    #[command(hide = true)]
    Tether(TetherArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// A manifest, or a directory of them [default: an example that ships with Towline]
    pub(crate) path: Option<PathBuf>,
    /// Wait until all has started, show it, stop it, leave nothing behind, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// Where the API listens; port 0 takes any that is free [default: 127.0.0.1:7400; with --once any that is free]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Where data is kept from one run to the next [default: a fresh directory, removed at the end]
    #[arg(long, value_name = "D")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct InstancesArgs {
    /// Only those of this tenant
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Only those that stand so
    #[arg(long, value_parser = ["connected", "unreachable", "never_seen"])]
    pub(crate) state: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InstanceCommand {
    /// Put an instance on record
    Create {
        /// Its name, or `tenant/name`
        name: InstanceId,
        /// Your own words about it; may be repeated
        #[arg(long = "label", value_name = "K=V", value_parser = parse_label)]
        labels: Vec<(String, String)>,
    },
    /// Show one instance with all that is known of it
    Show {
        /// Its name, or `tenant/name`
        name: InstanceId,
    },
    /// Take an instance off the record; what runs there goes on running
    Delete {
        /// Its name, or `tenant/name`
        name: InstanceId,
        /// Also while its agent is connected
        #[arg(long)]
        force: bool,
    },
}

/// An instance, which in `towline dev` need not be named.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The instance: `name` or `tenant/name` [default: the one of a running `towline dev`]
    #[arg(value_name = "I")]
    pub(crate) instance: Option<InstanceId>,
}

#[derive(Debug, Args)]
pub(crate) struct ServicesArgs {
    #[command(flatten)]
    pub(crate) at: At,
    /// Only these: `web`, `App/web` or `namespace/App/web`
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<AppId>,
    /// Only those of this namespace
    #[arg(long, conflicts_with = "ids")]
    pub(crate) namespace: Option<String>,
    /// All but this one; may be repeated
    #[arg(long, value_name = "ID", conflicts_with = "ids")]
    pub(crate) ignore: Vec<AppId>,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) at: At,
    /// A file, a directory (its *.yaml and *.yml, sorted) or `-` for standard input; may be repeated
    #[arg(short, long = "file", value_name = "F", required = true)]
    pub(crate) files: Vec<Input>,
    /// Answer once the manifests are accepted, without waiting until they run
    #[arg(long = "async")]
    pub(crate) is_async: bool,
    #[command(flatten)]
    pub(crate) retry: Retry,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) at: At,
    /// A file, a directory (its *.yaml and *.yml, sorted) or `-`; may be repeated [default: standard input]
    #[arg(short, long = "file", value_name = "F")]
    pub(crate) files: Vec<Input>,
    /// Answer once the manifests are accepted, without waiting until they run
    #[arg(long = "async")]
    pub(crate) is_async: bool,
    #[command(flatten)]
    pub(crate) retry: Retry,
}

#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    #[command(flatten)]
    pub(crate) at: At,
    /// A file of actions, a directory of them or `-` for standard input; may be repeated
    #[arg(short, long = "file", value_name = "F", required = true)]
    pub(crate) files: Vec<Input>,
    #[command(flatten)]
    pub(crate) retry: Retry,
}

/// What makes a second attempt the same request.
#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// The Idempotency-Key of an earlier attempt, so that nothing is done twice [default: a new one]
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<RequestId>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The instance: `name` or `tenant/name`
    #[arg(value_name = "I")]
    pub(crate) instance: InstanceId,
    /// The app: `web`, `App/web` or `namespace/App/web`
    pub(crate) app: AppId,
    /// Go on with lines as they come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only lines that are not older: `10m`, or `2026-11-21T02:34:50Z`
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<Since>,
    /// Begin with so many of the newest lines
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<u64>,
    /// Only this unit
    #[arg(long, value_name = "U")]
    pub(crate) unit: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with events as they come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only events that are not older: `10m`, or `2026-11-21T02:34:50Z`
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<Since>,
    /// Only of this instance
    #[arg(long, value_name = "I")]
    pub(crate) instance: Option<InstanceId>,
    /// Only of this kind; may be repeated
    #[arg(long)]
    pub(crate) kind: Vec<String>,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is `key=value`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn labels_have_a_key() {
        assert_eq!(parse_label("site=oslo"), Ok(("site".to_owned(), "oslo".to_owned())));
        assert_eq!(parse_label("note=a=b"), Ok(("note".to_owned(), "a=b".to_owned())));
        assert!(parse_label("site").is_err());
        assert!(parse_label("=oslo").is_err());
    }
}
