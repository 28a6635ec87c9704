//! Readers of foreign bytes for the fuzzer: nothing else may reach them from outside.

use bytes::Bytes;
use towline_hub::api::types::ActionInfo;

use crate::actions::actions;
use crate::client::sse::Parser;
use crate::input::Source;

/// Reads the file of `towline sync`.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub fn sync_file(bytes: Bytes) -> Result<Vec<ActionInfo>, String> {
    let source = Source { name: "fuzz".to_owned(), bytes };
    let found = actions(&[source]).map_err(|error| error.to_string())?;
    Ok(found.into_iter().map(|action| action.info).collect())
}

/// An event: its name, what it says, and its place in the stream.
pub type Event = (String, String, Option<String>);

/// Reads a stream of events that comes in pieces; none when a line of it is too long.
pub fn events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<Event>> {
    let mut parser = Parser::default();
    let mut found = Vec::new();
    for piece in pieces {
        found.extend(parser.push(piece).ok()?.into_iter().map(|event| (event.name, event.data, event.id)));
    }
    Some(found)
}
