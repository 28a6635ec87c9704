//! Bundles: put, pause, resume, retry, delete. Each is answered with a job, which may be waited for.

use towline_hub::api::types::{BundleDeleted, BundlePut, JobAccepted};
use towline_protocol::bundle::PutOutcome;
use towline_protocol::{InstanceId, JobId, Method, Name};

use super::bundle_reads;
use super::changes::count;
use super::jobs;
use super::{Session, in_words_of_versions};
use crate::args::{BundleArgs, BundleCommand, DeleteArgs, OperateArgs, PutArgs, RetryArgs};
use crate::bundle::Bundle;
use crate::client::{Attempt, Request};
use crate::failure::{Exit, Failure};
use crate::input::read_sources;
use crate::show::{plan_text, word};

pub(super) async fn run(session: &Session, command: BundleCommand) -> Result<(), Failure> {
    match command {
        BundleCommand::Put(args) => put(session, args).await,
        BundleCommand::Get(args) => bundle_reads::get(session, args).await,
        BundleCommand::List(at) => bundle_reads::list(session, at).await,
        BundleCommand::Changes(args) => bundle_reads::changes(session, args).await,
        BundleCommand::Status(args) => bundle_reads::status(session, args).await,
        BundleCommand::Pause(args) => operate(session, "pause", Method::PauseBundle, args).await,
        BundleCommand::Resume(args) => operate(session, "resume", Method::ResumeBundle, args).await,
        BundleCommand::Retry(args) => retry(session, args).await,
        BundleCommand::Delete(args) => delete(session, args).await,
    }
}

/// The path of a bundle, or of something below it.
pub(super) fn path(instance: &InstanceId, bundle: &Name, below: &str) -> String {
    Request::path_of(instance, &format!("/bundles/{bundle}{below}"))
}

async fn put(session: &Session, args: PutArgs) -> Result<(), Failure> {
    let PutArgs { instance, bundle, files, dry_run, direct, force, adopt, if_version, wait, retry } = args;
    let bundle = Bundle::read(&read_sources(&files)?, bundle)?;
    let request = Request::put_documents(path(&instance, &bundle.name, ""), bundle.content.clone())
        .flag("dry_run", dry_run)
        .flag("direct", direct)
        .flag("force", force)
        .flag("adopt", adopt)
        .if_version(if_version)
        .within(Method::PutBundle.default_time());
    // What does nothing may be repeated without a key.
    let request = if dry_run { request } else { request.changing(Attempt::new(&instance, retry.key)) };
    let what = count(bundle.resources.len(), "resource");
    let progress = session.screen.progress(format!("putting {} with {what} to {instance}", bundle.name));
    let reply = session.client.fetch(&request).await;
    drop(progress);
    let origin_of = |id: &str| bundle.origin_of(id);
    let reply =
        reply.map_err(|error| bundle.in_place(in_words_of_versions(error.into())).with_origins(origin_of))?;
    let answer: BundlePut = reply.read()?;
    let style = session.screen.style();
    session.screen.answer(&reply, |_| {
        let BundlePut { outcome, version, changes, .. } = &answer;
        let head = format!("{}  {} version {version}", word(outcome.as_str(), style), bundle.name);
        Ok(match outcome {
            PutOutcome::Unchanged => format!("{head}: the content is what was accepted last\n"),
            PutOutcome::Planned => {
                format!("{}{head}: a dry run, nothing was done\n", plan_text(changes, dry_run, style))
            }
            _ => format!("{}{head}{}\n", plan_text(changes, dry_run, style), by_job(answer.job)),
        })
    })?;
    let Some(job) = answer.job.filter(|_| wait.wait) else { return Ok(()) };
    match jobs::outcome(session, &instance, job).await {
        // What was put long ago was carried out long ago, and its job is forgotten.
        Err(failure) if answer.outcome == PutOutcome::Unchanged && failure.exit() == Exit::NotFound => Ok(()),
        ended => ended.map_err(|failure| failure.with_origins(origin_of)),
    }
}

/// Which job it is, for whoever wants to follow it.
fn by_job(job: Option<JobId>) -> String {
    job.map(|job| format!("  job {job}")).unwrap_or_default()
}

async fn operate(
    session: &Session,
    operation: &str,
    method: Method,
    args: OperateArgs,
) -> Result<(), Failure> {
    let OperateArgs { at: BundleArgs { instance, bundle }, reason, wait, retry } = args;
    let request = Request::post_bare(path(&instance, &bundle, &format!("/{operation}")))
        .with_some("reason", reason)
        .within(method.default_time())
        .changing(Attempt::new(&instance, retry.key));
    accepted(session, (&instance, &bundle), request, wait.wait).await
}

async fn retry(session: &Session, args: RetryArgs) -> Result<(), Failure> {
    let RetryArgs { at: BundleArgs { instance, bundle }, workloads, wait, retry } = args;
    let request = Request::post_bare(path(&instance, &bundle, "/retry"))
        .within(Method::RetryBundle.default_time())
        .changing(Attempt::new(&instance, retry.key));
    let request =
        workloads.iter().fold(request, |request, workload| request.with("workload", workload.to_string()));
    accepted(session, (&instance, &bundle), request, wait.wait).await
}

/// Asks for an operation that answers a job and nothing else.
async fn accepted(
    session: &Session,
    (instance, bundle): (&InstanceId, &Name),
    request: Request,
    wait: bool,
) -> Result<(), Failure> {
    let reply = session.client.fetch(&request).await?;
    let JobAccepted { job, .. } = reply.read()?;
    session.screen.answer(&reply, |_| Ok(format!("accepted  {bundle}{}\n", by_job(Some(job)))))?;
    if wait { jobs::outcome(session, instance, job).await } else { Ok(()) }
}

async fn delete(session: &Session, args: DeleteArgs) -> Result<(), Failure> {
    let DeleteArgs { at: BundleArgs { instance, bundle }, reason, dry_run, direct, force, wait, retry } =
        args;
    let request = Request::delete(path(&instance, &bundle, ""))
        .with_some("reason", reason)
        .flag("dry_run", dry_run)
        .flag("direct", direct)
        .flag("force", force)
        .within(Method::DeleteBundle.default_time());
    let request = if dry_run { request } else { request.changing(Attempt::new(&instance, retry.key)) };
    let reply = session.client.fetch(&request).await?;
    let BundleDeleted { job, changes, .. } = reply.read()?;
    let style = session.screen.style();
    session.screen.answer(&reply, |_| {
        let plan = plan_text(&changes, dry_run, style);
        Ok(match job {
            Some(job) => format!("{plan}accepted  {bundle}{}\n", by_job(Some(job))),
            None => format!("{plan}planned  {bundle}: a dry run, nothing was done\n"),
        })
    })?;
    match job.filter(|_| wait.wait) {
        Some(job) => jobs::outcome(session, &instance, job).await,
        None => Ok(()),
    }
}
