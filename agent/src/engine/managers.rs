//! The managers of this agent, one for each kind of workload.

mod app;
mod directory;
mod file;
mod label;
mod remembered;

use std::{io, iter, path::Path, sync::Arc};

use futures::{StreamExt as _, stream};
use serde_json::Value;
use towline_protocol::{Code, ItemError, StoreId, platform::ServiceStatus};

use self::label::Labels;
use super::{
    manager::{Known, Manager, Mend, Seen, Traits, Work},
    pipeline::Stop,
};
use crate::{
    direct::Direct,
    manifest::Complaint,
    runtime::{RuntimeKind, process::blocking},
};

/// All of them, in the order their kinds start in unless a bundle says otherwise. `data_dir` and `store`
/// are the agent's own.
pub(crate) fn all(data_dir: &Path, store: StoreId, direct: Direct) -> Vec<Arc<dyn Manager>> {
    let labels = Labels::new(data_dir, store);
    vec![
        Arc::new(directory::Directories::new(labels.clone())),
        Arc::new(file::Files::new(labels)),
        Arc::new(app::Apps::new(direct)),
    ]
}

/// The kinds of all of them, in the same order.
pub(super) const KINDS: [&str; 3] = [directory::KIND, file::KIND, app::KIND];

/// Reads a document as the manager of `kind` does, without one; none when there is none of this kind.
pub(super) fn read(kind: &str, document: &[u8]) -> Option<Result<Traits, Vec<Complaint>>> {
    Some(match kind {
        directory::KIND => directory::read_traits(document),
        file::KIND => file::read_traits(document),
        app::KIND => app::read_traits(RuntimeKind::Process, document),
        _ => return None,
    })
}

/// Reads a label and writes it again; none when it is no label.
pub(super) fn reread_label(json: &[u8]) -> Option<Vec<u8>> {
    label::Label::read(json).ok()?.written().ok()
}

/// Runs what waits for a disk where that is allowed.
async fn on_disk(work: impl FnOnce() -> Result<Value, Stop> + Send + 'static) -> Result<Value, Stop> {
    blocking(move || Ok(work())).await.unwrap_or_else(|error| Err(label::refused(&error).into()))
}

/// A definition that was accepted, and cannot be read again.
pub(super) fn unreadable(complaints: Vec<Complaint>) -> ItemError {
    let text = complaints.iter().map(|complaint| format!("{}: {}", complaint.path, complaint.text));
    ItemError::new(Code::Invalid, text.collect::<Vec<_>>().join("; "))
}

/// Looks by one thread, one after the other: handing over a look costs more than most looks do.
const LOOKS_A_THREAD: usize = 64;
/// Threads that look at the same time: what waits for a disk waits together.
const THREADS: usize = 4;

/// Looks at each of `works` where that may wait for a disk, in their order.
async fn look_on_disk(works: Vec<Work>, look: impl Fn(&Work) -> Seen + Clone + Send + 'static) -> Vec<Seen> {
    let mut works = works.into_iter();
    let parts = iter::from_fn(|| {
        let part: Vec<Work> = works.by_ref().take(LOOKS_A_THREAD).collect();
        (!part.is_empty()).then_some(part)
    });
    let looks = parts.map(|part| {
        let (count, look) = (part.len(), look.clone());
        let seen = blocking(move || Ok(part.iter().map(look).collect::<Vec<_>>()));
        async move { seen.await.unwrap_or_else(|error| vec![Seen::unknown(error.to_string()); count]) }
    });
    stream::iter(looks).buffered(THREADS).concat().await
}

fn ready() -> Seen {
    Seen { status: ServiceStatus::Ready, reason: None, units: Vec::new(), drift: None, mend: Mend::Nobody }
}

/// It differs; `repair` has the engine mend it.
fn drifted(drift: String, repair: bool) -> Seen {
    Seen {
        status: ServiceStatus::Degraded,
        reason: Some(drift.clone()),
        drift: Some(drift),
        mend: if repair { Mend::Engine } else { Mend::Nobody },
        ..ready()
    }
}

/// Removes labelled paths whose resource is not `known`: an agent died before it could.
async fn clean_up(
    labels: Labels,
    kind: &'static str,
    known: Arc<Known>,
    remove: impl Fn(&Path) -> io::Result<()> + Send + 'static,
) -> Vec<String> {
    let work = move || {
        let mut removed = Vec::new();
        for stranger in labels.strangers(kind, &known) {
            match labels.clear(&stranger, &known, &remove) {
                Ok(false) => {}
                Ok(true) => removed.push(stranger.path.display().to_string()),
                Err(error) => {
                    tracing::warn!(error = error.message, "a leftover cannot be removed");
                }
            }
        }
        Ok(removed)
    };
    blocking(work).await.unwrap_or_default()
}
