//! Who holds a lock: written down by the holder itself, so that whoever finds it held can tell it from another process that
//! was given its pid, and can end it where it is frozen.

use std::{fs, io, time::Duration};

use serde::{Deserialize, Serialize};
use towline_bus::clock::Moment;
use towline_protocol::limits;

use crate::proc::{self, Process};

/// A process may be stopped for so long before it loses what it holds: by then its lease has ended, and nobody listens to
/// it any more.
const STOPPED_MAX: Duration = limits::LEASE_HUB;

/// A process that holds something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) pid: i32,
    /// Clock ticks from the boot of the host to its start.
    pub(crate) start_time: u64,
    /// Names that boot: with another one nobody is meant.
    pub(crate) boot: String,
    /// The instance that it works for; none of one that only looks.
    #[serde(default)]
    pub(crate) instance: Option<String>,
}

impl Holder {
    /// This process.
    pub(crate) fn me(instance: Option<String>) -> Self {
        let own = rustix::process::getpid();
        Self {
            pid: own.as_raw_nonzero().get(),
            start_time: proc::inspect(own).map_or(0, |process| process.start_time),
            boot: boot(),
            instance,
        }
    }

    /// The very process, if it lives.
    pub(crate) fn find(&self) -> Option<Process> {
        if self.boot == boot() { proc::find((self.pid, self.start_time)) } else { None }
    }

    /// Ends the very process, and no other; one that has gone is no error.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.find().map_or(Ok(()), proc::kill)
    }
}

fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Since when somebody has been seen stopped, without a break.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stopped(Option<Moment>);

impl Stopped {
    /// Notes what is seen now; says whether it has been stopped for longer than its lease.
    pub(crate) fn seen(&mut self, stopped: bool, now: Moment) -> bool {
        if !stopped {
            self.0 = None;
            return false;
        }
        now.since(*self.0.get_or_insert(now)) > STOPPED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_stopped_without_a_break_for_longer_than_a_lease_is_frozen() {
        let at = |seconds| Moment::since_boot(Duration::from_secs(seconds));
        let mut stopped = Stopped::default();
        let seen: Vec<bool> = (10..=17).map(|second| stopped.seen(true, at(second))).collect();
        assert_eq!(seen, [false, false, false, false, false, false, false, true]);
        assert!(!stopped.seen(false, at(18)));
        assert!(!stopped.seen(true, at(19)) && !stopped.seen(true, at(25)) && stopped.seen(true, at(26)));
    }

    #[test]
    fn a_holder_of_another_boot_or_start_is_nobody() {
        let me = Holder::me(None);
        assert!(me.find().is_some_and(|process| !process.stopped));
        assert_eq!(Holder { boot: "another".to_owned(), ..me.clone() }.find(), None);
        assert_eq!(Holder { start_time: me.start_time + 1, ..me }.find(), None);
    }
}
