//! Jobs: how far accepted work is. Whoever follows one sees its records in order, over cuts of the stream, and ends as the
//! job does.

use std::time::Duration;

use towline_bus::clock;
use towline_hub::api::types::{JobCancelled, JobInfo, JobList, JobRecordInfo, JobWithRecords};
use towline_protocol::job::JobState;
use towline_protocol::limits::{CALL_TIME_MAX, PAGE_ITEMS_MAX};
use towline_protocol::{InstanceId, JobId, Method};

use super::Session;
use super::watch::{Outage, passing, read, refused};
use crate::args::{JobArgs, JobCommand, JobsArgs};
use crate::client::{Attempt, Reply, Request};
use crate::failure::{Exit, Failure};
use crate::show::{job_text, jobs_table, record_line, title, took, word};

/// How long `--wait` waits when nobody says otherwise: as long as the longest call.
const WAIT: Duration = CALL_TIME_MAX;

pub(super) async fn list(session: &Session, args: JobsArgs) -> Result<(), Failure> {
    let JobsArgs { at, bundle, state, limit } = args;
    let instance = session.target.instance(at)?;
    let request = Request::get(Request::path_of(&instance, "/jobs"))
        .with_some("bundle", bundle.map(|bundle| bundle.to_string()))
        .with("limit", limit.to_string())
        .within(Method::ListJobs.default_time());
    let request = state.into_iter().fold(request, |request, state| request.with("state", state));
    let reply = session.client.fetch(&request).await?;
    let style = session.screen.style();
    session.screen.answer(&reply, |reply| Ok(jobs_table(&reply.read::<JobList>()?, clock::unix_ms(), style)))
}

pub(super) async fn run(session: &Session, command: JobCommand) -> Result<(), Failure> {
    match command {
        JobCommand::Show(JobArgs { instance, job }) => {
            let reply = session.client.fetch(&get(&instance, job)).await?;
            let style = session.screen.style();
            session.screen.answer(&reply, |reply| {
                Ok(job_text(&reply.read::<JobWithRecords>()?, clock::unix_ms(), style))
            })
        }
        JobCommand::Watch(JobArgs { instance, job }) => {
            // What was never there is an error at once.
            session.client.fetch(&get(&instance, job)).await?;
            follow(session, &instance, job, session.timeout).await
        }
        JobCommand::Cancel { at: JobArgs { instance, job }, reason, retry } => {
            let request = Request::post_bare(path(&instance, job, "/cancel"))
                .with_some("reason", reason)
                .within(Method::CancelJob.default_time())
                .changing(Attempt::new(&instance, retry.key));
            let reply = session.client.fetch(&request).await?;
            session.screen.answer(&reply, |reply: &Reply| {
                let JobCancelled { job, .. } = reply.read()?;
                let told = if job.state.is_terminal() { "" } else { ", and was told to end" };
                Ok(format!("{} is {}{told}\n", title(&job), job.state))
            })
        }
    }
}

fn path(instance: &InstanceId, job: JobId, below: &str) -> String {
    Request::path_of(instance, &format!("/jobs/{job}{below}"))
}

fn get(instance: &InstanceId, job: JobId) -> Request {
    Request::get(path(instance, job, ""))
        .with("limit", PAGE_ITEMS_MAX.to_string())
        .within(Method::GetJob.default_time())
}

/// Follows a job that was accepted just now, as long as `--wait` does.
pub(super) async fn outcome(session: &Session, instance: &InstanceId, job: JobId) -> Result<(), Failure> {
    follow(session, instance, job, Some(session.timeout.unwrap_or(WAIT))).await
}

/// Shows a job's records until it ends, and ends as it did.
async fn follow(
    session: &Session,
    instance: &InstanceId,
    job: JobId,
    patience: Option<Duration>,
) -> Result<(), Failure> {
    let following = async {
        let mut outage = Outage::of_what_works();
        records(session, instance, job, &mut outage).await?;
        ended(session, instance, job, &mut outage).await
    };
    let ended = match patience {
        Some(patience) => tokio::time::timeout(patience, following).await.ok(),
        None => Some(following.await),
    };
    let late = || {
        let after = patience.map(|patience| format!(" after {}", humantime::format_duration(patience)));
        let text = format!("the job has not ended{}", after.unwrap_or_default());
        Failure::new(Exit::TimedOut, text).with_help(format!(
            "it goes on by itself: follow it with `towline job watch {instance} {job}`, or wait longer with --timeout"
        ))
    };
    let job = match ended {
        Some(Ok(job)) => job,
        Some(Err(failure)) if failure.exit() == Exit::TimedOut => return Err(late()),
        Some(Err(failure)) => return Err(failure),
        None => return Err(late()),
    };
    let style = session.screen.style();
    session.screen.item(&job, |job| {
        format!("{}  {} in {}", word(job.state.as_str(), style), title(job), took(job, clock::unix_ms()))
    })?;
    verdict(instance, &job)
}

/// The records, up to the one that ends the job.
async fn records(
    session: &Session,
    instance: &InstanceId,
    job: JobId,
    outage: &mut Outage,
) -> Result<(), Failure> {
    let mut request = Request::get(path(instance, job, "/events")).streaming();
    let style = session.screen.style();
    loop {
        let lost = match session.client.open(&request).await {
            Ok(mut stream) => {
                outage.opened();
                loop {
                    match stream.next().await {
                        Ok(Some(event)) => match event.name.as_str() {
                            "record" => {
                                outage.is_over();
                                let record: JobRecordInfo = read(&event)?;
                                session.screen.item(&record, |record| record_line(record, style))?;
                                request.resume_after(event.id);
                                if record.state.is_terminal() {
                                    return Ok(());
                                }
                            }
                            "end" => return Ok(()),
                            "error" => break refused(session, read(&event)?)?,
                            // A word of a newer hub.
                            _ => {}
                        },
                        Ok(None) => break Failure::error("the stream of the job was cut"),
                        Err(error) => break passing(session, error)?,
                    }
                }
            }
            Err(error) => passing(session, error)?,
        };
        outage.wait(session, lost).await?;
    }
}

/// The job, now that it has ended: it knows what failed.
async fn ended(
    session: &Session,
    instance: &InstanceId,
    job: JobId,
    outage: &mut Outage,
) -> Result<JobInfo, Failure> {
    loop {
        match session.client.fetch(&get(instance, job)).await {
            Ok(reply) => return Ok(reply.read::<JobWithRecords>()?.job),
            Err(error) => outage.wait(session, passing(session, error)?).await?,
        }
    }
}

/// How whoever waited for the job ends.
fn verdict(instance: &InstanceId, job: &JobInfo) -> Result<(), Failure> {
    let because = job.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    let told = |exit, what: &str| Failure::new(exit, format!("{} {what}{because}", title(job)));
    let failure = match &job.state {
        JobState::Done => return Ok(()),
        JobState::Failed => told(Exit::Cluster, "failed"),
        JobState::Cancelled => told(Exit::Error, "was cancelled"),
        JobState::Superseded => {
            told(Exit::Conflict, "was not carried out, for something newer took its place")
        }
        other => told(Exit::UnknownOutcome, &format!("is {other}")),
    };
    let details = job.errors.iter().flat_map(|(id, error)| {
        let help = error.help.iter().map(|help| format!("  help: {help}"));
        std::iter::once(format!("{id}: {}", error.message)).chain(help).collect::<Vec<_>>()
    });
    let failure = failure.with_details(details);
    Err(match &job.bundle {
        Some(bundle) if job.state == JobState::Failed => failure.with_help(format!(
            "what failed is tried again by itself: see `towline bundle status {instance} {bundle}`"
        )),
        _ => failure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whoever_waits_ends_as_the_job_does() {
        let instance: InstanceId = "shop-7".parse().unwrap();
        let states = [("done", 0), ("failed", 8), ("cancelled", 1), ("superseded", 7), ("asleep", 4)];
        for (state, exit) in states {
            let job: JobInfo = serde_json::from_value(json!({
                "id": "0".repeat(32), "kind": "put", "state": state, "bundle": "shop", "version": 3,
                "accepted_at": "2026-11-21T02:34:50Z", "records": 0, "message": "1 workload failed",
                "errors": {"App/web": {"code": "cluster", "message": "port 80 is taken", "help": "free it"}},
            }))
            .unwrap();
            let ended = verdict(&instance, &job).err();
            assert_eq!(ended.as_ref().map_or(0, |failure| failure.exit() as u8), exit, "{state}");
            if state == "failed" {
                let text = ended.unwrap().render();
                assert!(text.contains("error: put shop version 3 failed: 1 workload failed\n"), "{text}");
                assert!(text.contains("  App/web: port 80 is taken\n    help: free it\n"), "{text}");
                assert!(text.contains("towline bundle status default/shop-7 shop"), "{text}");
            }
        }
    }
}
