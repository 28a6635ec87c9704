//! Named points where a test makes the agent die, stall or fail. Without the feature `failpoints` nothing of them is left.
//!
//! `TOWLINE_FAILPOINTS=pass.begun=kill@3,store.before-commit=error` says what happens where: with `@3` the third time that
//! the agent comes by, else each time. `towline-agent failpoints` lists the points, and what can happen at each.

/// A point, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failpoint {
    /// As `TOWLINE_FAILPOINTS` spells it.
    pub name: &'static str,
    /// Something is done there that can fail, so that a test may have it fail; else it can only die or stall there.
    pub can_fail: bool,
}

/// Every point, in the order of a put's way through the agent.
pub const ALL: [Failpoint; 19] = [
    point("accept.checked", true),
    point("store.before-commit", true),
    point("store.after-commit", true),
    point("accept.stored", false),
    point("pass.worked-out", true),
    point("pass.begun", false),
    point("op.announced", false),
    point("pipeline.step", true),
    // Of each runtime: a container or a directory is there, has its name, its files; its command runs; it has ended.
    point("unit.created", false),
    point("unit.renamed", false),
    point("unit.files-written", false),
    point("unit.started", false),
    point("unit.stopped", false),
    point("pipeline.undo", true),
    point("label.written", true),
    point("op.done", false),
    point("op.recorded", false),
    point("pass.before-end", false),
    point("pass.ended", false),
];

const fn point(name: &'static str, can_fail: bool) -> Failpoint {
    Failpoint { name, can_fail }
}

/// Why `TOWLINE_FAILPOINTS` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArmError {
    /// This build has none: whoever set it would wait in vain for what it says.
    #[error(
        "TOWLINE_FAILPOINTS is set, and this build has no failpoints: unset it, or build with --features failpoints"
    )]
    NotBuilt,
    /// It cannot be read.
    #[error(
        "TOWLINE_FAILPOINTS: found {found:?}, allowed is name=kill|stall|error, with @3 for the third time alone"
    )]
    Syntax {
        /// The part that cannot be read.
        found: String,
    },
    /// There is no such point.
    #[error(
        "TOWLINE_FAILPOINTS: found {found:?}, allowed are the names that `towline-agent failpoints` lists"
    )]
    Unknown {
        /// The name.
        found: String,
    },
    /// Nothing is done there that can fail.
    #[error("TOWLINE_FAILPOINTS: nothing can fail at {name}, allowed are kill and stall")]
    CannotFail {
        /// The point.
        name: &'static str,
    },
}

/// Has happen what the environment says, from here on. For the program alone: a library does not read its surroundings.
///
/// # Errors
/// When it cannot be done as it is said; nothing happens anywhere then.
pub fn arm() -> Result<(), ArmError> {
    let text = std::env::var_os("TOWLINE_FAILPOINTS").unwrap_or_default();
    if text.is_empty() {
        return Ok(());
    }
    #[cfg(feature = "failpoints")]
    {
        armed::arm(&text.to_string_lossy())
    }
    #[cfg(not(feature = "failpoints"))]
    {
        Err(ArmError::NotBuilt)
    }
}

/// Comes by a point. One that can fail has an error as its second argument, and returns it where a test says so.
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

    use super::{ALL, ArmError};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        Kill,
        Stall,
        Error,
    }

    #[derive(Debug)]
    struct Armed {
        action: Action,
        /// The one time that it happens; each time if there is none.
        at: Option<u32>,
        seen: AtomicU32,
    }

    static ARMED: OnceLock<HashMap<&'static str, Armed>> = OnceLock::new();

    pub(super) fn arm(text: &str) -> Result<(), ArmError> {
        let entries = text.split(',').filter(|entry| !entry.is_empty());
        let points = entries.map(read).collect::<Result<_, _>>()?;
        ARMED.get_or_init(|| points);
        Ok(())
    }

    fn read(entry: &str) -> Result<(&'static str, Armed), ArmError> {
        let syntax = || ArmError::Syntax { found: entry.to_owned() };
        let (name, what) = entry.split_once('=').ok_or_else(syntax)?;
        let (what, at) = match what.split_once('@') {
            Some((what, at)) => (what, Some(at.parse().ok().filter(|at: &u32| *at > 0).ok_or_else(syntax)?)),
            None => (what, None),
        };
        let action = match what {
            "kill" => Action::Kill,
            "stall" => Action::Stall,
            "error" => Action::Error,
            _ => return Err(syntax()),
        };
        let known = ALL.into_iter().find(|known| known.name == name);
        let point = known.ok_or_else(|| ArmError::Unknown { found: name.to_owned() })?;
        if action == Action::Error && !point.can_fail {
            return Err(ArmError::CannotFail { name: point.name });
        }
        Ok((point.name, Armed { action, at, seen: AtomicU32::new(0) }))
    }

    /// Does what was said of this point; says whether it is to fail.
    #[expect(clippy::disallowed_methods, reason = "a test asks for a thread that does not come on")]
    pub(crate) fn come_by(name: &'static str) -> bool {
        let Some(point) = ARMED.get().and_then(|armed| armed.get(name)) else { return false };
        let times = point.seen.fetch_add(1, Ordering::SeqCst) + 1;
        if point.at.is_some_and(|at| times != at) {
            return false;
        }
        tracing::warn!(name, action = ?point.action, "a test has it happen here");
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

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_cannot_be_done_is_refused() {
            let refused = |text: &str| read(text).unwrap_err();
            for text in ["op.done", "op.done=die", "op.done=kill@0", "op.done=kill@x"] {
                assert_eq!(refused(text), ArmError::Syntax { found: text.to_owned() });
            }
            assert_eq!(refused("op.doen=kill"), ArmError::Unknown { found: "op.doen".to_owned() });
            assert_eq!(refused("op.done=error"), ArmError::CannotFail { name: "op.done" });
            let (name, armed) = read("label.written=error@3").unwrap();
            assert_eq!((name, armed.action, armed.at), ("label.written", Action::Error, Some(3)));
        }
    }
}
#[cfg(feature = "failpoints")]
pub(crate) use armed::come_by;
