use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use towline_hub::api::types::{
    AddressInfo, BundleInfo, BundleRecord, CapacityInfo, ChangeInfo, EnvelopeInfo, JobInfo, JobRecordInfo,
    LogLineInfo, ServiceInfo, WorkloadInfo,
};
use towline_protocol::bundle::{
    BundleChangesRequest, BundleChangesResponse, BundleStatusRequest, BundleStatusResponse,
    DeleteBundleRequest, GetBundleRequest, GetBundleResponse, ListBundlesRequest, PauseBundleRequest,
    PutBundleRequest, PutBundleResponse, ResumeBundleRequest, RetryBundleRequest,
};
use towline_protocol::call::{CallBody, Request};
use towline_protocol::capacity::{AddressesRequest, AddressesResponse, CapacityRequest, CapacityResponse};
use towline_protocol::job::{
    CancelJobRequest, GetJobRequest, JobRecord, ListJobsRequest, ListJobsResponse, WatchJobRequest,
};
use towline_protocol::platform::{
    AllServicesRequest, ApplyRequest, ExportRequest, LogLine, LogsRequest, PingRequest, ServicesResponse,
    SomeServicesRequest, SyncRequest, VersionRequest,
};
use towline_protocol::session::{Claim, ClaimAnswer, Leaving, Ready, Renewal, RenewalAnswer, SessionOrder};
use towline_protocol::{CallError, wire};

use crate::unreadable;

/// A body from the bus, whatever it says that it is: what was read is written so that it is read again, and what an agent
/// says can be shown.
pub fn message(data: &[u8]) {
    call::<PingRequest>(data);
    call::<VersionRequest>(data);
    call::<AllServicesRequest>(data);
    call::<SomeServicesRequest>(data);
    call::<ApplyRequest>(data);
    call::<ExportRequest>(data);
    call::<SyncRequest>(data);
    call::<LogsRequest>(data);
    bundles(data);
    reads_back::<Claim>(data);
    reads_back::<ClaimAnswer>(data);
    reads_back::<Ready>(data);
    reads_back::<SessionOrder>(data);
    reads_back::<Renewal>(data);
    reads_back::<RenewalAnswer>(data);
    reads_back::<Leaving>(data);
    reads_back::<CallError>(data);
    // A batch of a stream.
    let lines = reads_back::<Vec<LogLine>>(data).into_iter().flatten();
    lines.chain(reads_back::<LogLine>(data)).map(LogLineInfo::from).for_each(shown);
    let services = reads_back::<ServicesResponse>(data).unwrap_or_default().services;
    services.into_iter().map(ServiceInfo::from).for_each(shown);
}

/// The calls of V6, and what the hub shows of their answers.
fn bundles(data: &[u8]) {
    call::<PutBundleRequest>(data);
    call::<DeleteBundleRequest>(data);
    call::<PauseBundleRequest>(data);
    call::<ResumeBundleRequest>(data);
    call::<RetryBundleRequest>(data);
    call::<GetBundleRequest>(data);
    call::<ListBundlesRequest>(data);
    call::<BundleChangesRequest>(data);
    call::<BundleStatusRequest>(data);
    call::<GetJobRequest>(data);
    call::<ListJobsRequest>(data);
    call::<WatchJobRequest>(data);
    call::<CancelJobRequest>(data);
    call::<CapacityRequest>(data);
    call::<AddressesRequest>(data);
    let records = reads_back::<Vec<JobRecord>>(data).into_iter().flatten();
    records.chain(reads_back::<JobRecord>(data)).map(JobRecordInfo::from).for_each(shown);
    if let Some(GetBundleResponse { summary, envelope, .. }) = reads_back(data) {
        shown(BundleInfo::from(summary));
        envelope.map(EnvelopeInfo::from).into_iter().for_each(shown);
    }
    let status = reads_back::<BundleStatusResponse>(data).map(|status| status.workloads);
    status.into_iter().flatten().map(WorkloadInfo::from).for_each(shown);
    let changes = reads_back::<BundleChangesResponse>(data).unwrap_or_default().changes;
    changes.into_iter().map(BundleRecord::from).for_each(shown);
    let put = reads_back::<PutBundleResponse>(data).map(|put| put.changes);
    put.into_iter().flatten().map(ChangeInfo::from).for_each(shown);
    let jobs = reads_back::<ListJobsResponse>(data).unwrap_or_default().jobs;
    jobs.into_iter().map(JobInfo::from).for_each(shown);
    reads_back::<CapacityResponse>(data).map(CapacityInfo::from).into_iter().for_each(shown);
    let addresses = reads_back::<AddressesResponse>(data).unwrap_or_default().addresses;
    addresses.into_iter().map(AddressInfo::from).for_each(shown);
}

fn call<R>(data: &[u8])
where
    R: Request<Response: PartialEq + Debug> + PartialEq + Debug,
{
    reads_back::<CallBody<R>>(data);
    reads_back::<R>(data);
    reads_back::<R::Response>(data);
}

fn reads_back<T>(data: &[u8]) -> Option<T>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let value = wire::decode::<T>(data).ok()?;
    let written = wire::encode(&value);
    match wire::decode::<T>(&written) {
        Ok(again) => assert_eq!(again, value),
        Err(error) => unreadable(&value, &error),
    }
    Some(value)
}

/// What the hub makes of it for a client, the client reads.
fn shown<T: Serialize + DeserializeOwned + Debug>(value: T) {
    let read = serde_json::to_vec(&value).and_then(|written| serde_json::from_slice::<T>(&written));
    if let Err(error) = read {
        unreadable(&value, &error);
    }
}
