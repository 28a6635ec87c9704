//! How far a container with hooks has come. Pure.
//!
//! A hook may outlive the agent that began it, so what is still to be done must stand where the next agent finds it: in the
//! container's name, which the engine changes at once or not at all, also of a container that runs.
//!
//! | called | it |
//! |---|---|
//! | `web-1a2b3c4d.starting` | is not past `postStart`: one that runs was left by an agent that died |
//! | `web-1a2b3c4d` | is past it; once it has ended, `postStop` is due |
//! | `web-1a2b3c4d.ended` | is past `postStop` |

use std::path::PathBuf;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum as Word};
use jiff::Timestamp;

use super::super::{host::Seen, labels::Label};
use crate::{manifest::Hooks, shim::Status};

/// How far a container has come, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Phase {
    /// Its start has not come to its end.
    Starting,
    /// It has started.
    Up,
    /// It has ended, and was tidied up after.
    Ended,
}

impl Phase {
    /// Of a container that is to be started.
    pub(in super::super) fn before_start(hooks: &Hooks) -> Self {
        if hooks.post_start.is_empty() { Self::Up } else { Self::Starting }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Starting => ".starting",
            Self::Up => "",
            Self::Ended => ".ended",
        }
    }

    /// What the container of a unit is called.
    pub(in super::super) fn name(self, unit: &str) -> String {
        format!("{unit}{}", self.suffix())
    }

    /// From what a container is called; somebody else may have given it any name.
    fn read(name: &str, unit: &str) -> Self {
        let suffix = name.trim_start_matches('/').strip_prefix(unit);
        let mut phases = [Self::Starting, Self::Ended].into_iter();
        phases.find(|phase| suffix == Some(phase.suffix())).unwrap_or(Self::Up)
    }
}

/// The hooks of a container, and how far it has come with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Course {
    pub(in super::super) hooks: Hooks,
    /// Its declared files, from the root.
    pub(super) files: Vec<PathBuf>,
    pub(super) phase: Phase,
    /// Commands can run in it.
    pub(super) runs: bool,
    /// It does not run, and the engine does not start it by itself.
    pub(in super::super) is_idle: bool,
    /// It has been started before.
    was_started: bool,
}

impl Course {
    /// Of a container with this label, as it was found.
    pub(in super::super) fn read(label: &Label, found: &ContainerInspectResponse) -> Self {
        let state = found.state.as_ref();
        let is =
            |words: &[Word]| state.and_then(|state| state.status).is_some_and(|word| words.contains(&word));
        let started = state.and_then(|state| state.started_at.as_ref()?.parse::<Timestamp>().ok());
        Self {
            hooks: label.hooks.clone(),
            files: label.files.clone(),
            phase: Phase::read(found.name.as_deref().unwrap_or_default(), &label.unit),
            runs: is(&[Word::RUNNING]),
            is_idle: is(&[Word::CREATED, Word::EXITED, Word::DEAD]),
            // One that never was bears the beginning of times.
            was_started: started.is_some_and(|started| started > Timestamp::UNIX_EPOCH),
        }
    }

    /// It runs, and whoever started it did not come to `postStart`, or not to its end.
    pub(super) fn owes_post_start(&self) -> bool {
        self.runs && self.phase == Phase::Starting && !self.hooks.post_start.is_empty()
    }

    /// It has ended, and nobody has tidied up after it.
    pub(super) fn owes_post_stop(&self) -> bool {
        let has_ended = self.is_idle && self.was_started;
        has_ended && self.phase != Phase::Ended && !self.hooks.post_stop.is_empty()
    }
}

impl Seen {
    /// Shows a start that has not come to its end: as under way, or as one that is to be begun again because nobody is at it.
    pub(in super::super) fn show_start(&mut self, under_way: bool) {
        let owes = self.course.owes_post_start();
        if !owes && (!under_way || self.course.runs) {
            return;
        }
        // Nobody need look at it yet.
        self.check = None;
        let state = &mut self.status.state;
        (state.reason, state.health, state.last_end) = (None, None, None);
        state.final_state = !under_way;
        if under_way {
            state.status = Status::Starting;
        } else {
            (state.status, state.pid) = (Status::Stopped, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = "web-1a2b3c4d";

    fn course(phase: Phase, runs: bool, was_started: bool) -> Course {
        let one = || vec!["/bin/true".to_owned()];
        let hooks = Hooks { post_start: one(), post_stop: one(), ..Hooks::default() };
        Course { hooks, files: Vec::new(), phase, runs, is_idle: !runs, was_started }
    }

    #[test]
    fn a_phase_is_read_from_the_name_that_it_gives() {
        for phase in [Phase::Starting, Phase::Up, Phase::Ended] {
            assert_eq!(Phase::read(&format!("/{}", phase.name(UNIT)), UNIT), phase);
        }
        for other in ["/somebody", "/web-1a2b3c4d.startin", "/web-1a2b3c4d.starting.starting", ""] {
            assert_eq!(Phase::read(other, UNIT), Phase::Up, "{other}");
        }
    }

    #[test]
    fn what_is_due_is_told_by_the_phase_and_by_how_it_stands() {
        for (phase, runs, was_started, post_start, post_stop) in [
            (Phase::Starting, false, false, false, false),
            (Phase::Starting, true, true, true, false),
            (Phase::Starting, false, true, false, true),
            (Phase::Up, true, true, false, false),
            (Phase::Up, false, true, false, true),
            (Phase::Ended, false, true, false, false),
        ] {
            let course = course(phase, runs, was_started);
            assert_eq!(
                (course.owes_post_start(), course.owes_post_stop()),
                (post_start, post_stop),
                "{course:?}"
            );
            let none = Course { hooks: Hooks::default(), ..course };
            assert!(!none.owes_post_start() && !none.owes_post_stop(), "what is not declared is not due");
        }
        assert_eq!(Phase::before_start(&Hooks::default()), Phase::Up);
    }
}
