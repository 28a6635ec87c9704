//! What is to hold after a list of jobs, told from the jobs alone.

use std::collections::BTreeMap;

use towline_protocol::{
    Name,
    job::{Job, JobKind, JobRecord, JobState},
};

/// How a bundle is to stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stand {
    /// The version that is to hold; none when it is to be gone, or never was.
    pub(crate) version: Option<u64>,
    pub(crate) paused: bool,
}

/// Asserts that a job has ended, with one terminal record, its last, and nothing missing before it; `records` are all it has.
pub(crate) fn ended_once(job: &Job, records: &[JobRecord]) {
    let terminal: Vec<&JobState> =
        records.iter().map(|record| &record.state).filter(|state| state.is_terminal()).collect();
    assert_eq!(terminal, [&job.state], "{job:?} {records:?}");
    assert!(records.last().unwrap().state.is_terminal(), "{records:?}");
    let numbers: Vec<u64> = records.iter().map(|record| record.seq).collect();
    assert_eq!(numbers, (1..=job.records).collect::<Vec<_>>(), "{job:?}");
}

/// How each bundle is to stand after `jobs`, the oldest first. One that was taken back, or gave way, changes nothing; one
/// that failed is tried again until it is done.
pub(crate) fn stands(jobs: &[Job]) -> BTreeMap<Name, Stand> {
    let mut stands: BTreeMap<Name, Stand> = BTreeMap::new();
    for job in jobs {
        let Some(bundle) = &job.bundle else { continue };
        let stand = stands.entry(bundle.clone()).or_default();
        if !matches!(job.state, JobState::Done | JobState::Failed) {
            continue;
        }
        match job.kind {
            JobKind::Put => stand.version = job.version,
            JobKind::Delete => *stand = Stand::default(),
            JobKind::Pause => stand.paused = true,
            JobKind::Resume => stand.paused = false,
            _ => {}
        }
    }
    stands
}
