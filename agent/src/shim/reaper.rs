//! Children of the shim: its own, and those it adopts as subreaper.

use std::io;

use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::state::Ended;

/// Reaps every child, and remembers how the one that matters ended.
#[derive(Debug)]
pub(super) struct Reaper {
    children: Signal,
    main: Option<Pid>,
    ended: Option<Ended>,
}

impl Reaper {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { children: signal(SignalKind::child())?, main: None, ended: None })
    }

    /// From now on `pid` is the child whose end matters.
    pub(super) fn watch(&mut self, pid: Pid) {
        self.main = Some(pid);
        self.ended = None;
    }

    /// Waits until the watched child has ended; again and again the same answer. Cancel safe.
    pub(super) async fn ended(&mut self) -> Ended {
        loop {
            self.reap();
            if let Some(ended) = &self.ended {
                return ended.clone();
            }
            // Signals merge, but one that comes after the reaping above is never lost.
            if self.children.recv().await.is_none() {
                return Ended::Lost;
            }
        }
    }

    /// Collects every child that has ended by now.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if Some(pid) == self.main {
                self.main = None;
                self.ended = Some(ended(status));
            }
        }
    }
}

fn ended(status: WaitStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, Some(signal)) => Ended::Signaled(signal),
        (None, None) => Ended::Lost,
    }
}
