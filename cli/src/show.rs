//! What is shown, and how: tables for people, the API's JSON for programs, progress for whoever watches a terminal.

mod bundles;
mod doctor;
mod jobs;
mod progress;
mod room;
mod tables;

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

pub(crate) use self::bundles::{bundle_table, bundles_table, changes_table, plan_text};
pub(crate) use self::doctor::doctor_text;
pub(crate) use self::jobs::{job_text, jobs_table, record_line, title, took};
pub(crate) use self::progress::Progress;
pub(crate) use self::room::{addresses_table, capacity_table};
pub(crate) use self::tables::{
    Style, event_line, instance_table, instances_table, log_line, ports_text, services_table, time_of_day,
    word,
};
use crate::args::{Global, Output};
use crate::client::Reply;
use crate::failure::Failure;

/// The terminal, or whatever stands in its place.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    output: Output,
    style: Style,
    terminal: bool,
    progress: bool,
}

impl Screen {
    /// Looks at where output goes, and at what was asked for.
    pub(crate) fn new(global: &Global) -> Self {
        let wants_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let terminal = io::stdout().is_terminal();
        Self {
            output: global.output,
            style: Style { colour: wants_colour && terminal },
            terminal,
            progress: !global.no_progress && io::stderr().is_terminal(),
        }
    }

    /// Whether a program reads this.
    pub(crate) fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// Whether a terminal reads this, and does what text tells it.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// How text may look.
    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// Shows that something goes on, where somebody watches.
    pub(crate) fn progress(&self, text: impl Into<String>) -> Progress {
        Progress::new(self.progress, text.into())
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// When standard output takes them not.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| Failure::from_output(&error))
    }

    /// Writes text and a line end, if there is not one already.
    ///
    /// # Errors
    /// When standard output takes it not.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        let end = if text.ends_with('\n') { "" } else { "\n" };
        self.write(format!("{text}{end}").as_bytes())
    }

    /// Shows an answer: as the hub sent it, or as `table` renders it.
    ///
    /// # Errors
    /// When standard output takes it not, or `table` cannot read the answer.
    pub(crate) fn answer(
        &self,
        reply: &Reply,
        table: impl FnOnce(&Reply) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        if self.is_json() {
            return self.line(&String::from_utf8_lossy(&reply.body));
        }
        self.line(&table(reply)?)
    }

    /// Shows one item of a stream: as an object on a line, or as `text` renders it.
    ///
    /// # Errors
    /// When standard output takes it not.
    pub(crate) fn item<T: Serialize>(
        &self,
        item: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.is_json() {
            let json = serde_json::to_string(item).expect("the API's types are made of maps with text keys");
            return self.line(&json);
        }
        self.line(&text(item))
    }

    /// Says something beside the answer, to people only.
    pub(crate) fn note(&self, text: &str) {
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(io::stderr(), "{text}");
    }
}
