//! The commands, each a few requests and a table.

mod bundle_reads;
mod bundles;
mod calls;
mod changes;
mod doctor;
mod instances;
mod jobs;
mod watch;

pub(crate) use self::changes::{definition, origin_of};
#[cfg(test)]
pub(crate) use self::doctor::Finding;
pub(crate) use self::doctor::Findings;
use std::time::Duration;

use clap::CommandFactory as _;
use towline_hub::api::types::Problem;

use crate::args::{Cli, Command, Global};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::show::Screen;
use crate::target::Target;
use crate::{dev, hello};

pub(crate) const SYNC_HELP: &str = "\
A file of actions:
  actions:
    - delete: {apiVersion: towline/v1, kind: App, metadata: {name: old}}
    - apply: |
        apiVersion: towline/v1
        kind: App
        metadata: {name: web}
        spec: {command: [/usr/bin/web]}
Each action deletes, then applies; a failed delete skips its own apply, and the rest goes on. Documents are written as
text (`|`, passed on byte for byte) or in place.

Example:
  towline sync local -f actions.yaml";

/// What commands that talk to a hub have in hand.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) target: Target,
    pub(crate) screen: Screen,
    /// Whether the caller bounds the time of calls.
    pub(crate) is_bounded: bool,
    /// The bound.
    pub(crate) timeout: Option<Duration>,
}

impl Session {
    fn open(global: &Global) -> Result<Self, Failure> {
        let target = Target::resolve(global)?;
        let client = Client::new(target.clone(), global.timeout)?;
        Ok(Self {
            client,
            target,
            screen: Screen::new(global),
            is_bounded: global.timeout.is_some(),
            timeout: global.timeout,
        })
    }
}

/// Runs a command to its end.
///
/// # Errors
/// Whatever keeps it from doing what was asked, with its exit code.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let session = || Session::open(&cli.global);
    match cli.command {
        Command::Dev(args) => Box::pin(dev::run(args, &cli.global)).await,
        Command::Hello(args) => hello::run(&args).await,
        Command::Instances(args) => instances::list(&session()?, args).await,
        Command::Instance(args) => instances::one(&session()?, args).await,
        Command::Ping(at) => calls::ping(&session()?, at).await,
        Command::Version(at) => calls::version(&session()?, at).await,
        Command::Services(args) => calls::services(&session()?, args).await,
        Command::Export(at) => calls::export(&session()?, at).await,
        Command::Import(args) => changes::import(&session()?, args).await,
        Command::Apply(args) => changes::apply(&session()?, args).await,
        Command::Sync(args) => changes::sync(&session()?, args).await,
        Command::Bundle(command) => Box::pin(bundles::run(&session()?, command)).await,
        Command::Jobs(args) => jobs::list(&session()?, args).await,
        Command::Job(command) => Box::pin(jobs::run(&session()?, command)).await,
        Command::Logs(args) => watch::logs(&session()?, args).await,
        Command::Events(args) => watch::events(&session()?, args).await,
        Command::Doctor(args) => doctor::run(args, &cli.global).await,
        Command::Completions { shell } => completions(&Screen::new(&cli.global), shell),
        Command::Shim(_) | Command::Tether(_) => {
            Err(Failure::error("what is started for another program comes before anything else"))
        }
    }
}

fn completions(screen: &Screen, shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "towline", &mut script);
    screen.write(&script)
}

/// The hub speaks of the headers of its API.
fn in_words_of_versions(failure: Failure) -> Failure {
    match failure.exit() {
        Exit::Conflict if failure.message().contains("`If-Match`") => failure.with_help(
            "look at what is there now with `towline bundle get`, make the change to that, and put it with its version",
        ),
        _ => failure,
    }
}

/// Whether a stream that ended so is worth being opened again.
fn is_passing(problem: &Problem, is_bounded: bool) -> bool {
    match problem.code.as_str() {
        "unavailable" | "unknown_outcome" | "busy" | "not_ready" => true,
        // The session was lost with the bus, or to a newer one; soon there is one again.
        "fenced" | "kicked" => true,
        // The longest call ends, a stream of logs need not; unless somebody bounded it.
        "expired" => !is_bounded,
        _ => false,
    }
}
