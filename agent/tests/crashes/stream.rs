//! The stream of operations on an agent that is killed meanwhile. Which they are follows from the seed alone.

use std::time::Duration;

use towline_bus::{CallContext, Platform as _, message_bus::Remote};
use towline_protocol::{
    CallError, JobId, Name, RequestId,
    bundle::{
        DeleteBundleRequest, PauseBundleRequest, PutBundleRequest, ResumeBundleRequest, RetryBundleRequest,
    },
    job::CancelJobRequest,
};
use uuid::Uuid;

use crate::{
    random::Random,
    site::{Asked, Site},
};

/// One operation.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Put(Name, String),
    Delete(Name),
    Pause(Name),
    Resume(Name),
    Retry(Name),
    Cancel(JobId),
}

/// How the name of a workload ends that always fails.
pub(crate) const BAD: &str = "-bad";

/// Asks one thing after the other, until it is dropped.
pub(crate) async fn drive(site: &mut Site, far: &Remote, random: &mut Random) {
    loop {
        let op = next(site, random);
        ask(site, far, op).await;
        tokio::time::sleep(Duration::from_millis(random.below(120))).await;
    }
}

/// Asks `op`. That it was asked is noted first: who is dropped meanwhile does not know the answer.
pub(crate) async fn ask(site: &mut Site, far: &Remote, op: Op) {
    let request = RequestId::from_uuid(Uuid::new_v4());
    site.asked.push(Asked { request, op, answer: None });
    let asked = site.asked.last_mut().unwrap();
    asked.answer = Some(call(far, &asked.request, &asked.op).await);
}

/// Asks again what nobody knows the answer of.
pub(crate) async fn ask_again(site: &mut Site, far: &Remote) {
    for asked in site.asked.iter_mut().filter(|asked| asked.answer.is_none()) {
        asked.answer = Some(call(far, &asked.request, &asked.op).await);
    }
}

async fn call(far: &Remote, request: &RequestId, op: &Op) -> Result<Option<JobId>, CallError> {
    let cx = CallContext::with_id(request.clone());
    match op.clone() {
        Op::Put(bundle, content) => {
            far.put_bundle(&cx, &PutBundleRequest::new(bundle, content)).await.map(|answer| answer.job)
        }
        Op::Delete(bundle) => {
            let request = DeleteBundleRequest::new(bundle);
            far.delete_bundle(&cx, &request).await.map(|answer| answer.job)
        }
        Op::Pause(bundle) => {
            let request = PauseBundleRequest { bundle, reason: None };
            far.pause_bundle(&cx, &request).await.map(|answer| Some(answer.job))
        }
        Op::Resume(bundle) => {
            let request = ResumeBundleRequest { bundle, reason: None };
            far.resume_bundle(&cx, &request).await.map(|answer| Some(answer.job))
        }
        Op::Retry(bundle) => {
            let request = RetryBundleRequest { bundle, workloads: Vec::new() };
            far.retry_bundle(&cx, &request).await.map(|answer| Some(answer.job))
        }
        Op::Cancel(job) => {
            let request = CancelJobRequest { job, reason: None };
            far.cancel_job(&cx, &request).await.map(|answer| Some(answer.job.id))
        }
    }
}

/// What is asked next.
pub(crate) fn next(site: &Site, random: &mut Random) -> Op {
    let name = if random.below(2) == 0 { "a" } else { "b" };
    let bundle: Name = name.parse().unwrap();
    match random.below(14) {
        0 => Op::Delete(bundle),
        1 | 2 => Op::Pause(bundle),
        3 | 4 => Op::Resume(bundle),
        5 => Op::Retry(bundle),
        // Often: what is taken back must be under way by then, and not done yet.
        6..9 => match last_job(site) {
            Some(job) => Op::Cancel(job),
            None => Op::Retry(bundle),
        },
        _ => Op::Put(bundle, content(site, name, random)),
    }
}

fn last_job(site: &Site) -> Option<JobId> {
    site.asked.iter().rev().find_map(|asked| asked.answer.as_ref()?.as_ref().ok().copied().flatten())
}

/// The content of a bundle: apps, files and directories, some of them, and now and then a file that cannot be written.
fn content(site: &Site, bundle: &str, random: &mut Random) -> String {
    let host = site.host();
    let host = host.display();
    let document = |kind: &str, name: &str, spec: &str| {
        format!("---\napiVersion: towline/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
    };
    let mut text = String::new();
    for number in 0..2 {
        // Names of their own: a workload does not change its type.
        if random.below(3) > 0 {
            let name = format!("{bundle}-d{number}");
            text.push_str(&document("Directory", &name, &format!("path: {host}/{name}.d")));
        }
        if random.below(3) > 0 {
            let (name, content) = (format!("{bundle}-f{number}"), random.below(3));
            text.push_str(&document(
                "File",
                &name,
                &format!("path: {host}/{name}.f, content: \"{content}\""),
            ));
        }
        if random.below(3) > 0 {
            let (name, units, tag) = (format!("{bundle}-{number}"), 1 + random.below(2), random.below(3));
            text.push_str(&site.app(&name, &format!("v{tag}"), units));
        }
    }
    if random.below(3) == 0 {
        let name = format!("{bundle}{BAD}");
        text.push_str(&document("File", &name, &format!("path: {host}/missing/{name}, content: \"0\"")));
    }
    text
}
