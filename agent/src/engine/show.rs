//! Bundles and jobs, as they are shown.

use redb::ReadTransaction;
use towline_bus::{
    clock,
    platform::{ItemSink, ItemStream},
};
use towline_protocol::{
    CallError, Code, JobId, Name,
    bundle::{
        BundleChangesRequest, BundleChangesResponse, BundlePhase, BundleStatusRequest, BundleStatusResponse,
        BundleSummary, Drift, GetBundleRequest, GetBundleResponse, ListBundlesRequest, ListBundlesResponse,
        Observation, Retry, WorkloadStatus,
    },
    job::{GetJobRequest, GetJobResponse, JobRecord, ListJobsRequest, ListJobsResponse},
    limits,
    platform::ServiceStatus,
};

use super::{Engine, jobs::counts, observe, state::Bundle};
use crate::store::{StoreError, jobs, jobs::JobPage, records, rows::WorkloadRow};

impl Engine {
    /// Reads the store where that may block.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, CallError> {
        let store = self.inner.store.clone();
        let read = tokio::task::spawn_blocking(move || store.read(look)).await;
        let read = read.unwrap_or_else(|error| Err(StoreError::Failed(error.to_string())));
        read.map_err(|error| error.refusal())
    }

    /// A bundle as it was put.
    pub(crate) async fn get(&self, request: &GetBundleRequest) -> Result<GetBundleResponse, CallError> {
        let (summary, row) = {
            let state = self.state();
            let bundle = found(state.bundles.get(&request.bundle), &request.bundle)?;
            (summary(bundle), bundle.row.clone())
        };
        let version = request.version.unwrap_or(row.accepted);
        let content = self.content_of(&request.bundle, version).await?.ok_or_else(|| {
            CallError::new(Code::NotFound, format!("version {version} of {} is not kept", request.bundle))
        })?;
        Ok(GetBundleResponse {
            summary,
            version,
            digest: towline_protocol::ContentDigest::of(&content),
            content,
            envelope: row.envelope.filter(|_| version == row.accepted),
        })
    }

    /// All bundles that are not gone, by name.
    pub(crate) fn list(&self, request: &ListBundlesRequest) -> ListBundlesResponse {
        let limit = limits::page(request.limit);
        let state = self.state();
        let after = |name: &&Name| request.after.as_ref().is_none_or(|after| *name > after);
        let wanted = state.bundles.iter().filter(|(name, _)| after(name));
        let there = wanted.filter(|(_, bundle)| bundle.row.phase != BundlePhase::Deleted);
        let mut bundles: Vec<BundleSummary> =
            there.take(limit.saturating_add(1)).map(|(_, bundle)| summary(bundle)).collect();
        let next = more(&mut bundles, limit, |summary| summary.name.clone());
        ListBundlesResponse { bundles, next }
    }

    /// The record of a bundle; of one that is gone, too, and of `direct`.
    pub(crate) async fn changes(
        &self,
        request: &BundleChangesRequest,
    ) -> Result<BundleChangesResponse, CallError> {
        let (name, after, limit) = (request.bundle.clone(), request.after, limits::page(request.limit));
        let known = self.state().bundles.contains_key(&name) || records::is_reserved(&name);
        if !known {
            return Err(missing(&name));
        }
        let mut changes = self
            .look(move |transaction| {
                records::after(transaction, name.as_str(), after, limit.saturating_add(1))
            })
            .await?;
        let next = more(&mut changes, limit, |record| record.seq);
        Ok(BundleChangesResponse { changes, next })
    }

    /// How a bundle and its workloads stand. What is observed is looked at now.
    pub(crate) async fn status(
        &self,
        request: &BundleStatusRequest,
    ) -> Result<BundleStatusResponse, CallError> {
        let limit = limits::page(request.limit);
        let (summary, mut rows, bundle) = {
            let state = self.state();
            let bundle = state.bundles.get(&request.bundle).ok_or_else(|| missing(&request.bundle))?;
            let rows = bundle.shown(request.after.as_ref(), limit.saturating_add(1));
            (summary(bundle), rows, bundle.clone())
        };
        let next = more(&mut rows, limit, |row| row.id.clone());
        let mut workloads = Vec::with_capacity(rows.len());
        let mut looks = Vec::with_capacity(rows.len());
        for rows in rows.chunks(observe::TOGETHER) {
            looks.extend(self.observe(&request.bundle, rows).await?);
        }
        for (row, seen) in rows.into_iter().zip(looks) {
            let age_ms = bundle.age_ms(&row);
            let drift = bundle.drift.get(&row.id).map(|drifted| Drift {
                message: drifted.message.clone(),
                mending: drifted.mending,
                since_unix_ms: drifted.since_unix_ms,
                age_ms,
            });
            workloads.push(WorkloadStatus {
                observed: seen.map(|seen| Observation {
                    // What did not answer now is as old as its last answer.
                    age_ms: if seen.status == ServiceStatus::Unknown { age_ms } else { 0 },
                    status: seen.status,
                    reason: seen.reason,
                    units: seen.units,
                }),
                drift,
                retry: retry(&bundle, &row),
                id: row.id,
                resource: Some(row.resource),
                version: row.version,
                result: row.result,
            });
        }
        Ok(BundleStatusResponse { summary, workloads, next })
    }

    /// A job, and a page of its records.
    pub(crate) async fn job(&self, request: &GetJobRequest) -> Result<GetJobResponse, CallError> {
        let (id, after, limit) = (request.job, request.after, limits::page(request.limit));
        let found = self
            .look(move |transaction| {
                let records = jobs::steps(transaction, id, after, limit.saturating_add(1))?;
                Ok(jobs::job(transaction, id)?.map(|job| (job, records)))
            })
            .await?;
        let (job, mut records) = found.ok_or_else(|| no_job(id))?;
        let next = more(&mut records, limit, |record| record.seq);
        Ok(GetJobResponse { job, records, next })
    }

    /// Jobs, the newest first.
    pub(crate) async fn list_jobs(&self, request: &ListJobsRequest) -> Result<ListJobsResponse, CallError> {
        let page = JobPage {
            bundle: request.bundle.clone(),
            states: request.states.clone(),
            after: request.after,
            limit: limits::page(request.limit),
        };
        let (jobs, more) = self.look(move |transaction| jobs::page(transaction, &page)).await?;
        let next = jobs.last().map(|job| job.id).filter(|_| more);
        Ok(ListJobsResponse { jobs, next })
    }

    /// A job's records after `after`, as they are made; ends after the last.
    pub(crate) async fn watch_job(&self, id: JobId, after: u64) -> Result<ItemStream<JobRecord>, CallError> {
        self.look(move |transaction| jobs::job(transaction, id)).await?.ok_or_else(|| no_job(id))?;
        let (sink, stream) = ItemStream::channel();
        let engine = self.clone();
        let stopping = self.inner.tasks.stopping().clone();
        self.inner.tasks.spawn("job-watch", async move {
            stopping.run_until_cancelled(engine.follow(id, after, sink)).await;
        });
        Ok(stream)
    }

    async fn follow(&self, id: JobId, mut after: u64, sink: ItemSink<JobRecord>) {
        loop {
            // Before the look, so that what is stored between look and wait is not waited for.
            let mut progress = self.state().jobs.get(&id).map(|open| open.progress.subscribe());
            progress.iter_mut().for_each(|progress| drop(progress.borrow_and_update()));
            let records = self.look(move |transaction| jobs::steps(transaction, id, after, WATCHED)).await;
            let records = match records {
                Ok(records) => records,
                // Whoever watches must not take this for the end of the job.
                Err(error) => return sink.fail(error).await,
            };
            let whole = records.len() < WATCHED;
            for record in records {
                after = record.seq;
                let last = record.state.is_terminal();
                if !sink.send(record).await || last {
                    return;
                }
            }
            match progress {
                _ if !whole => {}
                Some(mut progress) => {
                    tokio::select! {
                        changed = progress.changed() => drop(changed),
                        () = sink.closed() => return,
                    }
                }
                None => return,
            }
        }
    }
}

/// Records read at once for someone who watches.
const WATCHED: usize = 256;

fn found<'a>(bundle: Option<&'a Bundle>, name: &Name) -> Result<&'a Bundle, CallError> {
    bundle.ok_or_else(|| missing(name))
}

fn missing(name: &Name) -> CallError {
    CallError::new(Code::NotFound, format!("there is no bundle {name}"))
}

fn no_job(id: JobId) -> CallError {
    CallError::new(Code::NotFound, format!("there is no job {id}; those that ended long ago are forgotten"))
}

/// Cuts a page to its size; says after what the next one begins, if there is one.
fn more<T, K>(items: &mut Vec<T>, limit: usize, key: impl Fn(&T) -> K) -> Option<K> {
    let there_is = items.len() > limit;
    items.truncate(limit);
    items.last().filter(|_| there_is).map(key)
}

fn summary(bundle: &Bundle) -> BundleSummary {
    let row = &bundle.row;
    BundleSummary {
        name: row.name.clone(),
        description: row.description.clone(),
        phase: row.phase.clone(),
        accepted: row.accepted,
        applied: row.applied,
        digest: row.digest,
        counts: counts(bundle),
        since_unix_ms: row.since_unix_ms,
        job: Some(row.job),
    }
}

fn retry(bundle: &Bundle, row: &WorkloadRow) -> Option<Retry> {
    let due = bundle.due.filter(|_| row.attempts > 0 && !row.given_up)?;
    let wait = due.since(clock::now());
    Some(Retry { attempts: row.attempts, in_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) })
}
