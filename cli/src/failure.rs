//! How a command ends when it does not end well: an exit code for scripts, and sentences for people.

use std::fmt::Write as _;
use std::io;

use towline_hub::api::types::Problem;
use towline_protocol::{Code, Effect};

/// Exit codes. Stable: scripts depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; also when whoever read our output had enough of it.
    Ok = 0,
    /// Something else went wrong.
    Error = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Hub or instance cannot be reached, or has no room now; nothing was done.
    Unavailable = 3,
    /// The request was sent, and nobody knows what came of it.
    UnknownOutcome = 4,
    /// Not allowed.
    Denied = 5,
    /// What was named does not exist.
    NotFound = 6,
    /// Somebody else owns it, or it is already there.
    Conflict = 7,
    /// The runtime refused some or all of it.
    Cluster = 8,
    /// It took longer than we were told to wait.
    TimedOut = 9,
}

impl Exit {
    /// The code of a problem. What the API's door refuses has words of its own beside those of calls.
    pub(crate) fn of(problem: &Problem) -> Self {
        let code = Code::from_word(&problem.code);
        match (&code, &problem.effect) {
            (Code::Cluster, _) => Self::Cluster,
            // The effect, not the code, says whether to retry.
            (Code::UnknownOutcome, _) | (_, Effect::Unknown) => Self::UnknownOutcome,
            (Code::Unavailable | Code::Busy, _) => Self::Unavailable,
            (Code::Denied, _) => Self::Denied,
            (Code::NotFound, _) => Self::NotFound,
            (Code::Conflict | Code::Fenced | Code::Kicked, _) => Self::Conflict,
            (Code::Expired, _) => Self::TimedOut,
            _ => match problem.code.as_str() {
                "unauthorized" => Self::Denied,
                "not_ready" => Self::Unavailable,
                "request_timeout" => Self::TimedOut,
                _ => Self::Error,
            },
        }
    }
}

/// Why a command did not do what was asked.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    details: Vec<String>,
    help: Option<String>,
    problem: Option<Box<Problem>>,
}

impl Failure {
    /// A sentence, lower case, without a full stop.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), details: Vec::new(), help: None, problem: None }
    }

    /// Something that has no code of its own.
    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self::new(Exit::Error, message)
    }

    /// What the hub said.
    pub(crate) fn from_problem(problem: Problem) -> Self {
        let mut failure = Self::new(Exit::of(&problem), problem.detail.clone());
        failure.help.clone_from(&problem.help);
        for (id, error) in &problem.errors {
            failure.details.push(format!("{id}: {}", error.message));
            failure.details.extend(error.help.iter().map(|help| format!("  help: {help}")));
        }
        failure.problem = Some(Box::new(problem));
        failure
    }

    /// Writing to standard output failed. That nobody reads it any more is no failure.
    pub(crate) fn from_output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Ok, ""),
            _ => Self::error(format!("cannot write to standard output: {}", plainly(error))),
        }
    }

    /// Says what a person can do about it.
    #[must_use]
    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds lines below the message.
    #[must_use]
    pub(crate) fn with_details(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(details);
        self
    }

    /// Says for each resource where it came from: the hub knows ids alone.
    #[must_use]
    pub(crate) fn with_origins(mut self, origin_of: impl Fn(&str) -> Option<String>) -> Self {
        for detail in &mut self.details {
            let origin = detail.split_once(": ").and_then(|(id, _)| Some((id.len(), origin_of(id)?)));
            if let Some((at, origin)) = origin {
                detail.insert_str(at, &format!(" ({origin})"));
            }
        }
        self
    }

    /// Says the same in other words, with lines below; a program sees the hub's own.
    #[must_use]
    pub(crate) fn reworded(
        self,
        message: impl Into<String>,
        details: impl IntoIterator<Item = String>,
    ) -> Self {
        let message = message.into();
        Self { message, ..self }.with_details(details)
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// What went wrong, on one line.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// For people: the message, what it consists of, and what to do.
    pub(crate) fn render(&self) -> String {
        if self.exit == Exit::Ok {
            return String::new();
        }
        let mut text = format!("error: {}\n", self.message);
        for detail in &self.details {
            for line in detail.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
        if let Some(help) = &self.help {
            let _ = writeln!(text, "help: {help}");
        }
        text
    }

    /// For programs: the hub's problem document, or one of the same shape.
    pub(crate) fn render_json(&self) -> String {
        if self.exit == Exit::Ok {
            return String::new();
        }
        let document = match &self.problem {
            Some(problem) => serde_json::json!(problem),
            None => serde_json::json!({
                "code": self.exit.word(),
                "detail": self.message,
                "details": self.details,
                "help": self.help,
            }),
        };
        format!("{document}\n")
    }
}

/// What the system said, in the house's style: lower case.
pub(crate) fn plainly(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

impl Exit {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Usage => "usage",
            Self::Unavailable => "unavailable",
            Self::UnknownOutcome => "unknown_outcome",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Cluster => "cluster",
            Self::TimedOut => "timed_out",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_hub::api::types::ItemProblem;

    fn problem(code: &str, effect: Effect) -> Problem {
        Problem {
            kind: format!("urn:towline:problem:{code}"),
            title: code.to_owned(),
            status: 500,
            code: code.to_owned(),
            effect,
            detail: "it failed".to_owned(),
            help: Some("mend it".to_owned()),
            errors: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn exit_codes_are_those_of_the_surface() {
        for (code, exit) in [
            ("unavailable", 3),
            ("unknown_outcome", 4),
            ("expired", 9),
            ("cancelled", 1),
            ("busy", 3),
            ("denied", 5),
            ("invalid", 1),
            ("too_large", 1),
            ("not_found", 6),
            ("conflict", 7),
            ("fenced", 7),
            ("kicked", 7),
            ("fatal", 1),
            ("upgrade_needed", 1),
            ("unsupported", 1),
            ("cluster", 8),
            ("unauthorized", 5),
            ("malformed", 1),
            ("not_ready", 3),
            ("internal", 1),
            ("a word of a newer hub", 1),
        ] {
            assert_eq!(Exit::of(&problem(code, Effect::None)) as u8, exit, "{code}");
        }
        for code in ["kicked", "fatal", "internal", "unknown_outcome"] {
            assert_eq!(Exit::of(&problem(code, Effect::Unknown)), Exit::UnknownOutcome, "{code}");
        }
        assert_eq!(Exit::of(&problem("cluster", Effect::Partial)), Exit::Cluster);
    }

    #[test]
    fn errors_by_id_say_where_they_come_from() {
        let mut problem = problem("cluster", Effect::None);
        let item =
            ItemProblem { code: Code::Invalid, message: "spec.units: found -1".to_owned(), help: None };
        problem.errors.insert("default/App/web".to_owned(), item);
        let failure = Failure::from_problem(problem).with_origins(|id| {
            assert_eq!(id, "default/App/web");
            Some("web.yaml, document 2".to_owned())
        });
        assert_eq!(
            failure.render(),
            "error: it failed\n  default/App/web (web.yaml, document 2): spec.units: found -1\nhelp: mend it\n"
        );
        assert!(failure.render_json().contains("\"errors\""));
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let gone = Failure::from_output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((gone.exit() as u8, gone.render()), (0, String::new()));
        let full = Failure::from_output(&io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.exit() as u8, 1);
    }
}
