//! What a user types about bundles and jobs.

use clap::{Args, Subcommand};
use towline_protocol::{InstanceId, JobId, Name, WorkloadId};

use super::{At, Retry};
use crate::input::Input;

const PUT_HELP: &str = "\
A bundle is a named, versioned set of resources: what it holds no more is removed, what it holds anew is added. The agent
answers once it has accepted it, and carries it out by itself, whatever becomes of the hub. A head document may name it:
  apiVersion: towline/v1
  kind: Bundle
  metadata: {name: shop, description: what we sell}
  spec: {startOrder: [Directory, File, App]}

Examples:
  towline bundle put shop-7 -f ./shop --dry-run     what would change, and how
  towline bundle put shop-7 -f ./shop --wait        progress, and the outcome as exit code
  towline bundle put shop-7 web -f web.yaml         the name, where no head document says it
  render | towline bundle put shop-7 -f -
  towline bundle put shop-7 -f ./shop --if-version 3     only if nobody else has changed it since";

const STATUS_HELP: &str = "\
Three things are told apart: RESULT is what came of the last operation, OBSERVED what is seen of the workload and how
long ago, DRIFT how it differs from what was put. `accepted` and `applied` are versions.

Example:
  towline bundle status shop-7 shop";

#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Put a bundle: what it holds from now on, as a whole
    #[command(after_help = PUT_HELP)]
    Put(PutArgs),
    /// Write the documents of a bundle to standard output, byte for byte as they were put
    Get(GetArgs),
    /// List the bundles of an instance, and how each stands
    List(At),
    /// Show the record of a bundle: every result, oldest first
    Changes(ChangesArgs),
    /// Show how a bundle and its workloads stand
    #[command(after_help = STATUS_HELP)]
    Status(BundleArgs),
    /// Stop the workloads of a bundle, until it is resumed
    Pause(OperateArgs),
    /// Start the workloads of a paused bundle again
    Resume(OperateArgs),
    /// Try failed workloads again now, instead of when their back-off ends
    Retry(RetryArgs),
    /// Delete a bundle and all that belongs to it; it stays visible until everything is gone
    Delete(DeleteArgs),
}

/// A bundle of an instance.
#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    /// The instance: `name` or `tenant/name`
    #[arg(value_name = "I")]
    pub(crate) instance: InstanceId,
    /// The bundle
    #[arg(value_name = "B")]
    pub(crate) bundle: Name,
}

/// Whether to stay until the work is done.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Show the progress of the job until it ends: exit code 8 if some of it failed, 9 after --timeout [default: 20m]
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The instance: `name` or `tenant/name`
    #[arg(value_name = "I")]
    pub(crate) instance: InstanceId,
    /// The bundle [default: what the head document says]
    #[arg(value_name = "B")]
    pub(crate) bundle: Option<Name>,
    /// A file, a directory (its *.yaml and *.yml, sorted) or `-` for standard input; may be repeated
    #[arg(short, long = "file", value_name = "F", required = true)]
    pub(crate) files: Vec<Input>,
    /// Show what would change, and do nothing
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Go straight to the agent, which is what every put does today
    #[arg(long)]
    pub(crate) direct: bool,
    /// Take a version that is not above the last accepted one, and carry unchanged content out again
    #[arg(long)]
    pub(crate) force: bool,
    /// Take over resources that belong to no bundle yet
    #[arg(long)]
    pub(crate) adopt: bool,
    /// Only if the bundle is still at this version; else it is a conflict
    #[arg(long, value_name = "N")]
    pub(crate) if_version: Option<u64>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) retry: Retry,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(crate) at: BundleArgs,
    /// One of the versions that are still kept [default: the last accepted one]
    #[arg(long, value_name = "N")]
    pub(crate) at_version: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ChangesArgs {
    #[command(flatten)]
    pub(crate) at: BundleArgs,
    /// Only records after this sequence
    #[arg(long, value_name = "SEQ", default_value_t = 0, hide_default_value = true)]
    pub(crate) after: u64,
}

#[derive(Debug, Args)]
pub(crate) struct OperateArgs {
    #[command(flatten)]
    pub(crate) at: BundleArgs,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) retry: Retry,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    pub(crate) at: BundleArgs,
    /// Only this workload, `App/web`; may be repeated [default: all that failed]
    #[arg(long = "workload", value_name = "W")]
    pub(crate) workloads: Vec<WorkloadId>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) retry: Retry,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) at: BundleArgs,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Show what would be removed, and do nothing
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Go straight to the agent, which is what every deletion does today
    #[arg(long)]
    pub(crate) direct: bool,
    /// Give up on what cannot be removed, instead of trying again until it can
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) retry: Retry,
}

#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    #[command(flatten)]
    pub(crate) at: At,
    /// Only those about this bundle
    #[arg(long, value_name = "B")]
    pub(crate) bundle: Option<Name>,
    /// Only those in this state; may be repeated
    #[arg(long, value_name = "STATE", value_parser = ["pending", "running", "done", "failed", "cancelled", "superseded"])]
    pub(crate) state: Vec<String>,
    /// At most so many of the newest
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
}

/// A job of an instance: its id alone does not say where it is.
#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The instance: `name` or `tenant/name`
    #[arg(value_name = "I")]
    pub(crate) instance: InstanceId,
    /// The job, as `towline jobs` shows it
    #[arg(value_name = "J")]
    pub(crate) job: JobId,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Show a job with its progress so far
    Show(JobArgs),
    /// Show the progress of a job until it ends; its outcome is the exit code
    Watch(JobArgs),
    /// Take a job back: one that has not begun ends at once, one under way undoes what it was doing
    Cancel {
        #[command(flatten)]
        at: JobArgs,
        /// Why, for the record
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        retry: Retry,
    },
}
