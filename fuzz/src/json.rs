use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use towline_hub::api::types::{
    ActionInfo, AddressList, Apply, BundleContent, BundleDeleted, BundleList, BundlePut, BundleRecords,
    BundleStanding, CapacityInfo, CreateInstance, DefinitionInfo, Done, Event, Gap, Health, Healthy,
    Instance, InstanceList, ItemProblem, JobAccepted, JobCancelled, JobList, JobRecordInfo, JobWithRecords,
    LogLineInfo, Lookup, Pong, Presence, Problem, ResourceBytes, Search, ServiceInfo, ServiceList, Session,
    Sync, UnitInfo, Version,
};
use towline_protocol::platform::{LogLine, Service};

use crate::unreadable;

/// A body of the HTTP API, read by the hub or by a client: what was read is written so that it is read again, and what
/// has a form on the bus comes back from there as it was.
pub fn json(data: &[u8]) {
    reads_back::<CreateInstance>(data);
    reads_back::<Lookup>(data);
    reads_back::<Search>(data);
    reads_back::<Apply>(data);
    reads_back::<DefinitionInfo>(data);
    reads_back::<Sync>(data);
    reads_back::<ActionInfo>(data);
    reads_back::<ResourceBytes>(data);
    answers(data);
    bundles(data);
    if let Some(service) = reads_back::<ServiceInfo>(data) {
        assert_eq!(ServiceInfo::from(Service::from(service.clone())), service);
    }
    if let Some(line) = reads_back::<LogLineInfo>(data) {
        assert_eq!(LogLineInfo::from(LogLine::from(line.clone())), line);
    }
    if let Some(problem) = reads_back::<Problem>(data) {
        let detail = problem.detail.clone();
        assert!(problem.into_call_error().to_string().starts_with(&detail));
    }
}

fn answers(data: &[u8]) {
    reads_back::<ItemProblem>(data);
    reads_back::<InstanceList>(data);
    reads_back::<Instance>(data);
    reads_back::<Presence>(data);
    reads_back::<Health>(data);
    reads_back::<Session>(data);
    reads_back::<Pong>(data);
    reads_back::<Version>(data);
    reads_back::<ServiceList>(data);
    reads_back::<UnitInfo>(data);
    reads_back::<Done>(data);
    reads_back::<Event>(data);
    reads_back::<Gap>(data);
    reads_back::<Healthy>(data);
}

/// Of bundles and jobs; each holds what is in it.
fn bundles(data: &[u8]) {
    reads_back::<BundlePut>(data);
    reads_back::<BundleDeleted>(data);
    reads_back::<BundleList>(data);
    reads_back::<BundleContent>(data);
    reads_back::<BundleRecords>(data);
    reads_back::<BundleStanding>(data);
    reads_back::<JobAccepted>(data);
    reads_back::<JobList>(data);
    reads_back::<JobWithRecords>(data);
    reads_back::<JobCancelled>(data);
    reads_back::<JobRecordInfo>(data);
    reads_back::<CapacityInfo>(data);
    reads_back::<AddressList>(data);
}

pub(crate) fn reads_back<T>(data: &[u8]) -> Option<T>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let value = serde_json::from_slice::<T>(data).ok()?;
    match serde_json::to_string(&value) {
        Err(error) => unreadable(&value, &error),
        Ok(written) => match serde_json::from_str::<T>(&written) {
            Ok(again) => assert_eq!(again, value, "written as {written}"),
            Err(error) => unreadable(&written, &error),
        },
    }
    Some(value)
}
