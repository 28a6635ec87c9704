//! Children of the shim: its own, and those it adopts as subreaper.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, wait};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use super::state::Ended;

/// Reaps every child, and tells how those ended that are watched. Clones are one.
///
/// A shim has one thread, so whatever is watched before anybody waits for anything is watched in time.
#[derive(Debug, Clone, Default)]
pub(super) struct Reaper(Arc<Mutex<BTreeMap<i32, Entry>>>);

#[derive(Debug)]
struct Entry {
    ended: watch::Sender<Option<Ended>>,
    /// Nothing of its process group is to outlive it.
    whole: bool,
}

/// Hears how a child ends.
#[derive(Debug)]
pub(super) struct Watched(watch::Receiver<Option<Ended>>);

impl Reaper {
    /// A reaper that works by itself, as one of `tasks`.
    pub(super) fn start(tasks: &mut JoinSet<()>) -> io::Result<Self> {
        let mut children = signal(SignalKind::child())?;
        let reaper = Self::default();
        let at_work = reaper.clone();
        tasks.spawn(async move {
            // Signals merge, but one that comes after a reaping is never lost.
            while children.recv().await.is_some() {
                at_work.reap();
            }
        });
        Ok(reaper)
    }

    /// From now on it is told how the child `pid` ends.
    pub(super) fn watch(&self, pid: Pid) -> Watched {
        self.enter(pid, false)
    }

    /// As [`Reaper::watch`]; and what is left of the group that the child leads is killed with it.
    pub(super) fn watch_whole(&self, pid: Pid) -> Watched {
        self.enter(pid, true)
    }

    fn enter(&self, pid: Pid, whole: bool) -> Watched {
        let (ended, receiver) = watch::channel(None);
        self.entries().insert(pid.as_raw_nonzero().get(), Entry { ended, whole });
        Watched(receiver)
    }

    /// Collects every child that has ended by now.
    pub(super) fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(entry) = self.entries().remove(&pid.as_raw_nonzero().get()) {
                if entry.whole {
                    // Right away: while the group has a member, nobody else is given its number.
                    kill_process_group(pid, Signal::KILL).ok();
                }
                entry.ended.send_replace(Some(ended(status)));
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<i32, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// How it ended, if it has.
    pub(super) fn now(&self) -> Option<Ended> {
        self.0.borrow().clone()
    }

    /// Waits until it has ended; again and again the same answer. Cancel safe.
    pub(super) async fn end(&mut self) -> Ended {
        let ended = self.0.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        ended.unwrap_or(Ended::Lost)
    }
}

fn ended(status: WaitStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, Some(signal)) => Ended::Signaled(signal),
        (None, None) => Ended::Lost,
    }
}
