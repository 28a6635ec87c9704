//! Killing all that is left of a unit, whatever it did to hide: own session, own group, other parent, cleared
//! environment.

use std::{collections::BTreeSet, time::Duration};

use futures::FutureExt as _;
use rustix::process::Pid;
use tokio::time::sleep;

use super::reaper::Reaper;
use crate::proc;

/// Between two looks. A killed process is gone within a few of them.
const PAUSE: Duration = Duration::from_millis(10);
/// Looks before what still lives counts as unkillable: 5 s.
const LOOKS: u32 = 500;

/// Kills every descendant of this shim; returns when they are gone.
///
/// # Errors
/// The pids that could not be killed within 5 s (another user's, or stuck in the kernel).
pub(super) async fn sweep(reaper: &Reaper) -> Result<(), String> {
    // As subreaper the shim inherits whoever loses its parent, so killing level by level reaches every descendant.
    kill_until_gone(|| std::future::ready(Ok(proc::children())), || reaper.reap()).await
}

/// Kills every process that carries the unit's marks: what a dead shim left behind.
///
/// # Errors
/// As [`sweep`].
pub(crate) async fn sweep_marked(instance: &str, unit: &str) -> Result<(), String> {
    let find = || {
        let (instance, unit) = (instance.to_owned(), unit.to_owned());
        // Reads the environment of every process of the host; the agent's own threads have other work.
        let look = tokio::task::spawn_blocking(move || proc::marked(&instance, &unit));
        look.map(|looked| looked.map_err(|error| format!("could not look for what is left: {error}")))
    };
    kill_until_gone(find, || ()).await
}

async fn kill_until_gone<F: Future<Output = Result<Vec<proc::Process>, String>>>(
    find: impl Fn() -> F,
    mut reap: impl FnMut(),
) -> Result<(), String> {
    let mut left = BTreeSet::new();
    for _ in 0..LOOKS {
        reap();
        let found = find().await?;
        if found.is_empty() {
            return Ok(());
        }
        left = found.iter().map(|process| process.pid.as_raw_nonzero().get()).collect();
        let refused = found.into_iter().filter_map(|process| proc::kill(process).err()).count();
        if refused == left.len() && refused > 0 {
            break;
        }
        sleep(PAUSE).await;
    }
    Err(format!("could not kill {}", left.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")))
}

/// Whether the process group led by `leader` has a member still.
pub(super) fn group_lives(leader: Pid) -> bool {
    rustix::process::test_kill_process_group(leader).is_ok()
}
