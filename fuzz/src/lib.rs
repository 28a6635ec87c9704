//! What must hold for any bytes from outside: one function for each door, which panics when it does not.
//!
//! `make fuzz` looks for inputs that break them (the binaries in `fuzz_targets/`), and `make test` feeds them everything
//! that was found so far (`tests/corpus.rs`). The reasons are in `docs/decisions/0010-fuzzing.md`, 0015 and 0033.

mod archive;
mod bundle;
mod config;
mod container;
mod container_log;
mod credentials;
mod events;
mod file_answer;
mod frame;
mod headers;
mod http_status;
mod id;
mod join;
mod json;
mod label;
mod log_line;
mod manifest;
mod mark;
mod message;
mod names;
mod process;
mod query;
mod registry;
mod shim_command;
mod subject;
mod sync_file;
mod time;
mod unit_state;

use std::fmt::{Debug, Display};
use std::str::FromStr;

pub use archive::archive;
pub use bundle::bundle;
pub use config::config;
pub use container::container;
pub use container_log::container_log;
pub use credentials::credentials;
pub use events::events;
pub use file_answer::file_answer;
pub use frame::frame;
pub use headers::headers;
pub use http_status::http_status;
pub use id::id;
pub use join::join;
pub use json::json;
pub use label::label;
pub use log_line::log_line;
pub use manifest::manifest;
pub use mark::mark;
pub use message::message;
pub use names::names;
pub use process::process;
pub use query::query;
pub use registry::registry;
pub use shim_command::shim_command;
pub use subject::subject;
pub use sync_file::sync_file;
pub use time::time;
pub use unit_state::unit_state;

/// A door: its name, which is also that of its corpus and its binary, and what must hold there.
pub type Target = (&'static str, fn(&[u8]));

/// All doors.
pub const TARGETS: &[Target] = &[
    ("archive", archive),
    ("bundle", bundle),
    ("config", config),
    ("container", container),
    ("container_log", container_log),
    ("credentials", credentials),
    ("events", events),
    ("file_answer", file_answer),
    ("frame", frame),
    ("headers", headers),
    ("http_status", http_status),
    ("id", id),
    ("join", join),
    ("json", json),
    ("label", label),
    ("log_line", log_line),
    ("manifest", manifest),
    ("mark", mark),
    ("message", message),
    ("names", names),
    ("process", process),
    ("query", query),
    ("registry", registry),
    ("shim_command", shim_command),
    ("subject", subject),
    ("sync_file", sync_file),
    ("time", time),
    ("unit_state", unit_state),
];

/// What is parsed and printed is parsed into the same value again, and printed into the same text.
fn text_reads_back<T>(text: &str) -> Option<T>
where
    T: FromStr<Err: Display> + Display + PartialEq + Debug,
{
    match text.parse::<T>() {
        Ok(value) => {
            let printed = value.to_string();
            match printed.parse::<T>() {
                Ok(again) => assert_eq!(again, value, "{text:?} is printed as {printed:?}"),
                Err(error) => unreadable(&printed, &error),
            }
            Some(value)
        }
        Err(error) => {
            // A complaint is shown to people, whatever they wrote.
            assert!(!error.to_string().is_empty(), "{text:?} is refused without a word");
            None
        }
    }
}

#[expect(clippy::panic, reason = "a panic is how the engine learns of a fault")]
fn unreadable(written: &dyn Debug, error: &dyn Display) -> ! {
    panic!("we cannot read what we wrote: {error}: {written:?}");
}
