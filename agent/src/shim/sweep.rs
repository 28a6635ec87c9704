//! Killing all that is left of a unit, whatever it did to hide: own session, own group, other parent, cleared
//! environment.

use std::{collections::BTreeSet, time::Duration};

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
pub(super) async fn sweep(reaper: &mut Reaper) -> Result<(), String> {
    // As subreaper the shim inherits whoever loses its parent, so killing level by level reaches every descendant.
    kill_until_gone(proc::children, || reaper.reap()).await
}

/// Kills every process that carries the unit's marks: what a dead shim left behind.
///
/// # Errors
/// As [`sweep`].
pub(crate) async fn sweep_marked(instance: &str, unit: &str) -> Result<(), String> {
    kill_until_gone(|| proc::marked(instance, unit), || ()).await
}

async fn kill_until_gone(
    find: impl Fn() -> Vec<proc::Process>,
    mut reap: impl FnMut(),
) -> Result<(), String> {
    let mut left = BTreeSet::new();
    for _ in 0..LOOKS {
        reap();
        let found = find();
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
