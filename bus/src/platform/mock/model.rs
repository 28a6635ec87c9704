//! A small model of what an agent's engine answers: bundles with versions, and jobs that end at once.

use std::collections::{BTreeMap, HashMap};

use tokio::sync::watch;
use towline_protocol::bundle::{
    BundleChangesResponse, BundlePhase, BundleStatusResponse, BundleSummary, Change, ChangeRecord, Envelope,
    GetBundleResponse, ListBundlesResponse, PutBundleRequest, PutBundleResponse, PutOutcome,
};
use towline_protocol::capacity::{AddressInUse, CapacityResponse};
use towline_protocol::job::{
    GetJobResponse, Job, JobKind, JobRecord, JobState, ListJobsRequest, ListJobsResponse,
};
use towline_protocol::{CallError, Code, ContentDigest, JobId, Name, RequestId, limits};
use uuid::Uuid;

/// When everything in the model happens, in Unix milliseconds.
const AT_UNIX_MS: u64 = 1_700_000_000_000;

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) bundles: BTreeMap<Name, Held>,
    /// In the order in which they were accepted.
    pub(super) jobs: Vec<HeldJob>,
    /// What each put changes.
    pub(super) put_changes: Vec<Change>,
    pub(super) capacity: CapacityResponse,
    pub(super) addresses: Vec<AddressInUse>,
    /// Outcomes of mutating calls, as bytes, by request id.
    pub(super) answered: HashMap<RequestId, Vec<u8>>,
}

/// A bundle that was put.
#[derive(Debug)]
pub(super) struct Held {
    summary: BundleSummary,
    put: PutBundleRequest,
    pub(super) status: Option<BundleStatusResponse>,
    pub(super) changes: Vec<ChangeRecord>,
}

/// A job, and a bell that rings with each of its records.
#[derive(Debug)]
pub(super) struct HeldJob {
    pub(super) job: Job,
    pub(super) records: Vec<JobRecord>,
    pub(super) bell: watch::Sender<u64>,
}

impl HeldJob {
    pub(super) fn new(job: Job, records: Vec<JobRecord>) -> Self {
        Self { job, records, bell: watch::Sender::new(0) }
    }

    pub(super) fn add(&mut self, record: JobRecord) {
        self.job.records = record.seq;
        self.job.state = record.state.clone();
        self.records.push(record);
        self.bell.send_modify(|rung| *rung += 1);
    }
}

fn record(seq: u64, state: JobState) -> JobRecord {
    JobRecord {
        seq,
        at_unix_ms: AT_UNIX_MS,
        state,
        workload: None,
        op: None,
        step: None,
        result: None,
        message: None,
    }
}

fn no_bundle(name: &Name) -> CallError {
    CallError::new(Code::NotFound, format!("there is no bundle `{name}`"))
}

fn no_job(job: JobId) -> CallError {
    CallError::new(Code::NotFound, format!("there is no job `{job}`"))
}

/// A page of what is there, and the last item's key if there is more.
fn page<T, K>(
    items: impl Iterator<Item = T>,
    limit: Option<u32>,
    key: impl Fn(&T) -> K,
) -> (Vec<T>, Option<K>) {
    let most = limits::page(limit);
    let mut found: Vec<T> = items.take(most + 1).collect();
    let more = found.len() > most;
    found.truncate(most);
    let next = found.last().filter(|_| more).map(key);
    (found, next)
}

impl Model {
    pub(super) fn put(
        &mut self,
        id: &RequestId,
        put: &PutBundleRequest,
    ) -> Result<PutBundleResponse, CallError> {
        let digest = ContentDigest::of(&put.content);
        let held = self.bundles.get(&put.bundle).map(|held| &held.summary);
        let same =
            held.filter(|held| held.digest == digest && put.version.is_none_or(|v| v == held.accepted));
        if let Some(held) = same.filter(|_| !put.force) {
            let (version, job) = (held.accepted, held.job);
            return Ok(PutBundleResponse {
                outcome: PutOutcome::Unchanged,
                version,
                digest,
                job,
                changes: Vec::new(),
            });
        }
        let last = held.map_or(0, |held| held.accepted);
        let version = put.version.unwrap_or(last + 1);
        if version <= last && !put.force {
            let text =
                format!("version {version} of `{}` is not above {last}, the last accepted one", put.bundle);
            return Err(CallError::new(Code::Conflict, text));
        }
        let changes = self.put_changes.clone();
        if put.dry_run {
            return Ok(PutBundleResponse {
                outcome: PutOutcome::Planned,
                version,
                digest,
                job: None,
                changes,
            });
        }
        let job = self.accept(id, JobKind::Put, &put.bundle, version, None);
        let summary = BundleSummary {
            name: put.bundle.clone(),
            description: String::new(),
            phase: BundlePhase::Active,
            accepted: version,
            applied: Some(version),
            digest,
            counts: BTreeMap::new(),
            since_unix_ms: AT_UNIX_MS,
            job: Some(job),
        };
        let held = Held { summary, put: put.clone(), status: None, changes: Vec::new() };
        self.bundles.insert(put.bundle.clone(), held);
        Ok(PutBundleResponse { outcome: PutOutcome::Accepted, version, digest, job: Some(job), changes })
    }

    /// An operation on a bundle that there is: it puts it into the phase.
    pub(super) fn operate(
        &mut self,
        id: &RequestId,
        kind: JobKind,
        bundle: &Name,
        phase: Option<BundlePhase>,
        reason: Option<&str>,
    ) -> Result<JobId, CallError> {
        let version = self.held(bundle)?.summary.accepted;
        let job = self.accept(id, kind, bundle, version, reason);
        if let (Some(held), Some(phase)) = (self.bundles.get_mut(bundle), phase) {
            held.summary.phase = phase;
            held.summary.job = Some(job);
        }
        Ok(job)
    }

    fn accept(
        &mut self,
        id: &RequestId,
        kind: JobKind,
        bundle: &Name,
        version: u64,
        reason: Option<&str>,
    ) -> JobId {
        let job = Job {
            id: JobId::new(Uuid::new_v4()),
            kind,
            state: JobState::Done,
            bundle: Some(bundle.clone()),
            version: Some(version),
            request: Some(id.clone()),
            reason: reason.map(str::to_owned),
            accepted_unix_ms: AT_UNIX_MS,
            started_unix_ms: Some(AT_UNIX_MS),
            ended_unix_ms: Some(AT_UNIX_MS),
            records: 2,
            message: None,
            errors: BTreeMap::new(),
        };
        let id = job.id;
        self.jobs.push(HeldJob::new(job, vec![record(1, JobState::Running), record(2, JobState::Done)]));
        id
    }

    pub(super) fn held(&self, bundle: &Name) -> Result<&Held, CallError> {
        self.bundles.get(bundle).ok_or_else(|| no_bundle(bundle))
    }

    pub(super) fn job(&self, job: JobId) -> Result<&HeldJob, CallError> {
        self.jobs.iter().find(|held| held.job.id == job).ok_or_else(|| no_job(job))
    }

    pub(super) fn job_mut(&mut self, job: JobId) -> Result<&mut HeldJob, CallError> {
        self.jobs.iter_mut().find(|held| held.job.id == job).ok_or_else(|| no_job(job))
    }

    pub(super) fn get(&self, bundle: &Name, version: Option<u64>) -> Result<GetBundleResponse, CallError> {
        let Held { summary, put, .. } = self.held(bundle)?;
        if let Some(version) = version.filter(|version| *version != summary.accepted) {
            let text = format!("version {version} of `{bundle}` is not kept");
            return Err(CallError::new(Code::NotFound, text));
        }
        let envelope: Option<Envelope> = put.envelope.clone();
        Ok(GetBundleResponse {
            summary: summary.clone(),
            version: summary.accepted,
            digest: summary.digest,
            content: put.content.clone(),
            envelope,
        })
    }

    pub(super) fn list(&self, after: Option<&Name>, limit: Option<u32>) -> ListBundlesResponse {
        let items = self.bundles.values().map(|held| held.summary.clone());
        let later = items.filter(|summary| after.is_none_or(|after| summary.name > *after));
        let (bundles, next) = page(later, limit, |summary| summary.name.clone());
        ListBundlesResponse { bundles, next }
    }

    pub(super) fn changes(
        &self,
        bundle: &Name,
        after: u64,
        limit: Option<u32>,
    ) -> Result<BundleChangesResponse, CallError> {
        let later = self.held(bundle)?.changes.iter().filter(|change| change.seq > after).cloned();
        let (changes, next) = page(later, limit, |change| change.seq);
        Ok(BundleChangesResponse { changes, next })
    }

    pub(super) fn status(&self, bundle: &Name) -> Result<BundleStatusResponse, CallError> {
        let Held { summary, status, .. } = self.held(bundle)?;
        let nothing = || BundleStatusResponse { summary: summary.clone(), workloads: Vec::new(), next: None };
        Ok(status.clone().unwrap_or_else(nothing))
    }

    pub(super) fn get_job(
        &self,
        job: JobId,
        after: u64,
        limit: Option<u32>,
    ) -> Result<GetJobResponse, CallError> {
        let held = self.job(job)?;
        let later = held.records.iter().filter(|record| record.seq > after).cloned();
        let (records, next) = page(later, limit, |record| record.seq);
        Ok(GetJobResponse { job: held.job.clone(), records, next })
    }

    pub(super) fn list_jobs(&self, request: &ListJobsRequest) -> ListJobsResponse {
        let ListJobsRequest { bundle, states, after, limit } = request;
        let newest_first = self.jobs.iter().rev().map(|held| held.job.clone());
        let older = newest_first
            .skip_while(|job| after.is_some_and(|after| job.id != after))
            .skip(usize::from(after.is_some()));
        let wanted = older.filter(|job| {
            (bundle.is_none() || job.bundle == *bundle) && (states.is_empty() || states.contains(&job.state))
        });
        let (jobs, next) = page(wanted, *limit, |job| job.id);
        ListJobsResponse { jobs, next }
    }

    pub(super) fn cancel(&mut self, job: JobId) -> Result<Job, CallError> {
        let held = self.job_mut(job)?;
        if held.job.state.is_terminal() {
            let text = format!("the job has ended already: it is {}", held.job.state);
            return Err(CallError::new(Code::Conflict, text));
        }
        let seq = held.job.records + 1;
        held.add(record(seq, JobState::Cancelled));
        Ok(held.job.clone())
    }
}
