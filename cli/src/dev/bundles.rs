//! Bundles that somebody put while `towline dev` ran: files and directories of theirs lie outside its own directory.

use std::time::Duration;

use towline_bus::{CallContext, Platform};
use towline_protocol::bundle::{BundlePhase, DeleteBundleRequest, ListBundlesRequest};
use towline_protocol::job::{JobState, WatchJobRequest};
use towline_protocol::{CallError, Code, Name};

/// How long all of them may take to go: longer than the patience of any sensible unit.
const TIME: Duration = Duration::from_secs(60);

/// Deletes all bundles, and waits until they are gone. Returns what stays, a sentence each.
pub(super) async fn delete_all(platform: &dyn Platform) -> Vec<String> {
    let deleting = async {
        let listed = platform.list_bundles(&CallContext::new(), &ListBundlesRequest::default()).await;
        let mut stay = Vec::new();
        for bundle in listed.map(|page| page.bundles).unwrap_or_default() {
            if bundle.phase == BundlePhase::Deleted {
                continue;
            }
            if let Err(error) = delete(platform, &bundle.name).await {
                stay.push(format!("the bundle {} stays: {error}", bundle.name));
            }
        }
        stay
    };
    let late = || vec![format!("not every bundle was gone within {}", humantime::format_duration(TIME))];
    tokio::time::timeout(TIME, deleting).await.unwrap_or_else(|_| late())
}

async fn delete(platform: &dyn Platform, bundle: &Name) -> Result<(), CallError> {
    let cx = CallContext::new();
    let request = DeleteBundleRequest {
        reason: Some("`towline dev` ends".to_owned()),
        ..DeleteBundleRequest::new(bundle.clone())
    };
    let Some(job) = platform.delete_bundle(&cx, &request).await?.job else { return Ok(()) };
    let mut records = platform.watch_job(&cx, &WatchJobRequest { job, after: 0 }).await?;
    let mut last = None;
    while let Some(record) = records.next().await {
        last = Some(record?);
    }
    match last.filter(|last| last.state != JobState::Done) {
        None => Ok(()),
        Some(last) => {
            let why = last.message.unwrap_or_else(|| last.state.to_string());
            Err(CallError::new(Code::Cluster, why))
        }
    }
}
