//! What is done to a workload, and what its result is. Pure.

use towline_protocol::bundle::{ChangeOp, ResultState};

use super::pipeline::{Ran, Verdict};

/// What is done to one workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// It is new.
    Add,
    /// It changes.
    Update,
    /// It is there; make sure of it.
    Again,
    /// It goes.
    Remove,
    /// It stops until it is resumed.
    Pause,
    /// It starts again.
    Resume,
}

impl Verb {
    /// As a person is told.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Update => "update",
            Self::Again => "check",
            Self::Remove => "remove",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }

    /// As the plan calls it.
    pub(crate) fn op(self) -> ChangeOp {
        match self {
            Self::Add => ChangeOp::Add,
            Self::Remove => ChangeOp::Remove,
            Self::Update | Self::Again | Self::Pause | Self::Resume => ChangeOp::Update,
        }
    }

    /// What takes it back.
    pub(crate) fn inverse(self) -> Option<Self> {
        match self {
            Self::Add => Some(Self::Remove),
            Self::Update => Some(Self::Update),
            Self::Remove => Some(Self::Add),
            Self::Pause => Some(Self::Resume),
            Self::Resume => Some(Self::Pause),
            Self::Again => None,
        }
    }
}

/// A result as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// None where there was nothing to do and nothing to record.
    pub(crate) state: Option<ResultState>,
    pub(crate) message: Option<String>,
    pub(crate) failed: bool,
}

/// What `ran` means for a workload whose state was `before`; `None` for an operation that has only to be recorded.
pub(crate) fn recorded(verb: Verb, before: &ResultState, ran: Option<&Ran>) -> Recorded {
    let done = |state| Recorded { state: Some(state), message: None, failed: false };
    let success = match verb {
        Verb::Add | Verb::Update | Verb::Again | Verb::Resume => ResultState::Ok,
        Verb::Remove => ResultState::Deleted,
        Verb::Pause => ResultState::Paused,
    };
    let Some(Err(stop)) = ran.map(|ran| &ran.result) else { return done(success) };
    let message = Some(stop.error.message.clone());
    let failed = |state| Recorded { state: Some(state), message: message.clone(), failed: true };
    match stop.verdict {
        Verdict::NoAction if verb == Verb::Add => Recorded { state: None, message: None, failed: false },
        // It is as it is to be: what failed before does so no more.
        Verdict::NoAction if !matches!(before, ResultState::Ok | ResultState::Paused) => done(success),
        Verdict::NoAction => done(before.clone()),
        // Something is left of it, so nothing says that what was before still holds.
        _ if !ran.is_some_and(|ran| ran.undone) => failed(ResultState::Error),
        Verdict::Unchanged => failed(ResultState::Unchanged),
        // What was before still holds, for it was brought back.
        Verdict::Failed if verb == Verb::Update => failed(ResultState::Unchanged),
        Verdict::Failed | Verdict::Halfway => failed(ResultState::Error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use towline_protocol::Code;

    use super::{super::pipeline::Stop, *};

    fn ran(result: Result<Value, Stop>) -> Ran {
        Ran { result, undone: true, taken: Vec::new() }
    }

    fn stopped(verdict: Verdict) -> Ran {
        ran(Err(Stop::new(verdict, Code::Cluster, "the cause").context("around it")))
    }

    fn state(verb: Verb, ran: &Ran) -> (Option<ResultState>, Option<String>, bool) {
        let Recorded { state, message, failed } = recorded(verb, &ResultState::Ok, Some(ran));
        (state, message, failed)
    }

    #[test]
    fn z_p1_what_a_manager_says_becomes_a_result() {
        let text = Some("around it: the cause".to_owned());
        assert_eq!(state(Verb::Add, &ran(Ok(Value::Null))), (Some(ResultState::Ok), None, false));
        assert_eq!(
            state(Verb::Add, &stopped(Verdict::Failed)),
            (Some(ResultState::Error), text.clone(), true)
        );
        assert_eq!(
            state(Verb::Add, &stopped(Verdict::Unchanged)),
            (Some(ResultState::Unchanged), text, true)
        );
    }

    #[test]
    fn z_p4_nothing_to_do_is_not_recorded_unless_it_is_an_update() {
        let nothing = stopped(Verdict::NoAction);
        assert_eq!(state(Verb::Add, &nothing), (None, None, false));
        let again = recorded(Verb::Update, &ResultState::Paused, Some(&nothing));
        assert_eq!(again.state, Some(ResultState::Paused));
        let failed_before = recorded(Verb::Update, &ResultState::Error, Some(&nothing));
        assert_eq!((failed_before.state, failed_before.failed), (Some(ResultState::Ok), false));
    }

    #[test]
    fn z_u6_an_update_that_was_undone_leaves_what_was() {
        let undone = stopped(Verdict::Failed);
        assert_eq!(state(Verb::Update, &undone).0, Some(ResultState::Unchanged));
        let stuck = Ran { undone: false, ..undone };
        assert_eq!(state(Verb::Update, &stuck).0, Some(ResultState::Error));
    }
}
