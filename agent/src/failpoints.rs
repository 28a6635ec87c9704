//! Named points where a test makes the agent die, stall or fail. Without the feature `failpoints` nothing of them is left.
//!
//! `TOWLINE_FAILPOINTS=pass.begun=kill,store.before-commit=error` says what happens where; `name=kill@3` the third time
//! that the agent comes by. `towline-agent failpoints` lists the names.

/// Every point, in the order of a put's way through the agent.
pub const NAMES: [&str; 14] = [
    "accept.checked",
    "store.before-commit",
    "store.after-commit",
    "accept.stored",
    "pass.worked-out",
    "pass.begun",
    "op.announced",
    "pipeline.step",
    "pipeline.undo",
    "label.written",
    "op.done",
    "op.recorded",
    "pass.before-end",
    "pass.ended",
];

/// Comes by a point. With an error as the second argument, returns it where a test says so.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        let _ = crate::failpoints::come_by($name);
    };
    ($name:literal, $error:expr) => {
        #[cfg(feature = "failpoints")]
        if crate::failpoints::come_by($name) {
            return Err($error);
        }
    };
}
pub(crate) use failpoint;

#[cfg(feature = "failpoints")]
mod armed {
    use std::{
        collections::HashMap,
        sync::{
            OnceLock,
            atomic::{AtomicU32, Ordering},
        },
    };

    use super::NAMES;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        Kill,
        Stall,
        Error,
    }

    struct Point {
        action: Action,
        /// Times to come by before it happens; 0 is always.
        at: u32,
        seen: AtomicU32,
    }

    static ARMED: OnceLock<HashMap<&'static str, Point>> = OnceLock::new();

    fn read(text: &str) -> HashMap<&'static str, Point> {
        let point = |entry: &str| {
            let (name, what) = entry.split_once('=')?;
            let name = NAMES.into_iter().find(|known| *known == name)?;
            let (what, at) = what.split_once('@').unwrap_or((what, "0"));
            let action = match what {
                "kill" => Action::Kill,
                "stall" => Action::Stall,
                "error" => Action::Error,
                _ => return None,
            };
            Some((name, Point { action, at: at.parse().ok()?, seen: AtomicU32::new(0) }))
        };
        let entries = text.split(',').filter(|entry| !entry.is_empty());
        entries
            .map(|entry| point(entry).expect("TOWLINE_FAILPOINTS is a list of name=kill|stall|error"))
            .collect()
    }

    /// Does what the environment says of this point; says whether it is to fail.
    #[expect(clippy::disallowed_methods, reason = "a test asks for a thread that does not come on")]
    pub(crate) fn come_by(name: &'static str) -> bool {
        let armed = ARMED.get_or_init(|| read(&std::env::var("TOWLINE_FAILPOINTS").unwrap_or_default()));
        let Some(point) = armed.get(name) else { return false };
        let times = point.seen.fetch_add(1, Ordering::SeqCst) + 1;
        if point.at != 0 && times != point.at {
            return false;
        }
        match point.action {
            Action::Kill => {
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).ok();
                true
            }
            Action::Stall => loop {
                std::thread::sleep(std::time::Duration::from_secs(3_600));
            },
            Action::Error => true,
        }
    }
}
#[cfg(feature = "failpoints")]
pub(crate) use armed::come_by;
