//! The hub's HTTP API as a platform: what goes in as arguments must come out at the far end, errors included.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use towline_bus::platform::{CallContext, ItemStream, Platform};
use towline_bus::task::Tasks;
use towline_hub::api::types::{
    ActionInfo, AddressList, Apply, BundleContent, BundleDeleted, BundleList, BundlePut, BundleRecords,
    BundleStanding, CapacityInfo, DefinitionInfo, JobAccepted, JobCancelled, JobList, JobRecordInfo,
    JobWithRecords, LogLineInfo, Lookup, Pong, Problem, Search, ServiceList, Sync, Version,
};
use towline_protocol::bundle::{
    BundleChangesRequest, BundleChangesResponse, BundleStatusRequest, BundleStatusResponse,
    DeleteBundleRequest, DeleteBundleResponse, GetBundleRequest, GetBundleResponse, JobResponse,
    ListBundlesRequest, ListBundlesResponse, PauseBundleRequest, PutBundleRequest, PutBundleResponse,
    ResumeBundleRequest, RetryBundleRequest,
};
use towline_protocol::capacity::{AddressesResponse, CapacityResponse};
use towline_protocol::job::{
    CancelJobRequest, CancelJobResponse, GetJobRequest, GetJobResponse, JobRecord, ListJobsRequest,
    ListJobsResponse, WatchJobRequest,
};
use towline_protocol::platform::{Definition, LogLine, LogsRequest, Service, SyncAction};
use towline_protocol::{CallError, Code, InstanceId, Name, ResourceId};

/// One instance, through the API.
#[derive(Debug, Clone)]
pub struct HttpPlatform {
    client: reqwest::Client,
    base: String,
    token: String,
    tasks: Tasks,
}

impl HttpPlatform {
    /// The instance at this hub.
    #[must_use]
    pub fn new(hub: &str, token: &str, instance: &InstanceId) -> Self {
        Self {
            client: reqwest::Client::new(),
            base: format!("{hub}/v1/instances/{instance}"),
            token: token.to_owned(),
            tasks: Tasks::new(),
        }
    }

    fn request(&self, method: Method, path: &str, cx: &CallContext) -> RequestBuilder {
        let request = self.client.request(method, format!("{}/{path}", self.base)).bearer_auth(&self.token);
        let request = request.header("Idempotency-Key", cx.id.as_str());
        match cx.time {
            Some(time) => request.header("Towline-Timeout", format!("{}ms", time.as_millis())),
            None => request,
        }
    }

    fn get(&self, path: &str, cx: &CallContext) -> RequestBuilder {
        self.request(Method::GET, path, cx)
    }

    /// The items of a stream of server-sent events.
    fn events<I, T>(&self, response: Response) -> ItemStream<T>
    where
        I: DeserializeOwned + Into<T>,
        T: Send + 'static,
    {
        let (sink, stream) = ItemStream::channel();
        self.tasks.spawn_isolated("http events", async move {
            let mut bytes = response.bytes_stream();
            let mut text = Vec::new();
            while let Some(Ok(more)) = bytes.next().await {
                text.extend_from_slice(&more);
                while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
                    let event: Vec<u8> = text.drain(..end + 2).collect();
                    match read_event::<I, T>(&String::from_utf8_lossy(&event)) {
                        Event::Item(item) => {
                            if !sink.send(item).await {
                                return;
                            }
                        }
                        Event::Error(error) => return sink.fail(error).await,
                        Event::End => return,
                        Event::Other => {}
                    }
                }
            }
            sink.fail(CallError::unknown_outcome("the API broke the stream off")).await;
        });
        stream
    }

    /// An operation on a bundle that answers a job.
    async fn operate(
        &self,
        cx: &CallContext,
        (bundle, operation): (&Name, &str),
        query: Vec<(&str, String)>,
    ) -> Result<JobResponse, CallError> {
        let request = self.request(Method::POST, &format!("bundles/{bundle}/{operation}"), cx).query(&query);
        json::<JobAccepted>(request).await.map(|answer| JobResponse { job: answer.job })
    }

    fn post(&self, path: &str, cx: &CallContext) -> RequestBuilder {
        self.request(Method::POST, path, cx)
    }
}

fn broken(error: &reqwest::Error) -> CallError {
    CallError::unknown_outcome(format!("the API did not answer as it should: {error:?}"))
}

/// The response if it is a success, else the error that its problem document tells.
async fn send(request: RequestBuilder) -> Result<Response, CallError> {
    let response = request.send().await.map_err(|error| broken(&error))?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let problem: Problem = response.json().await.map_err(|error| broken(&error))?;
    if problem.status != status.as_u16() {
        return Err(CallError::new(Code::Invalid, format!("{status} came with {problem:?}")));
    }
    Err(problem.into_call_error())
}

async fn json<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, CallError> {
    send(request).await?.json().await.map_err(|error| broken(&error))
}

fn services(list: ServiceList) -> Vec<Service> {
    list.services.into_iter().map(Into::into).collect()
}

#[async_trait]
impl Platform for HttpPlatform {
    async fn ping(&self, cx: &CallContext) -> Result<(), CallError> {
        json::<Pong>(self.get("ping", cx)).await.map(|_| ())
    }

    async fn version(&self, cx: &CallContext) -> Result<String, CallError> {
        json::<Version>(self.get("version", cx)).await.map(|answer| answer.version)
    }

    async fn all_services(
        &self,
        cx: &CallContext,
        namespace: Option<&str>,
        ignored: &BTreeSet<ResourceId>,
    ) -> Result<Vec<Service>, CallError> {
        // What fits a URL goes there; ten thousand ids do not.
        if ignored.len() > 100 {
            let search = Search { namespace: namespace.map(str::to_owned), ignored: ignored.clone() };
            return json(self.post("services:search", cx).json(&search)).await.map(services);
        }
        let query: Vec<(&str, &str)> = namespace
            .map(|namespace| ("namespace", namespace))
            .into_iter()
            .chain(ignored.iter().map(|id| ("ignore", id.as_str())))
            .collect();
        json(self.get("services", cx).query(&query)).await.map(services)
    }

    async fn some_services(&self, cx: &CallContext, ids: &[ResourceId]) -> Result<Vec<Service>, CallError> {
        json(self.post("services:lookup", cx).json(&Lookup { ids: ids.to_vec() })).await.map(services)
    }

    async fn apply(&self, cx: &CallContext, definitions: &[Definition]) -> Result<(), CallError> {
        let definitions = definitions.iter().map(|Definition { id, definition, is_async }| DefinitionInfo {
            id: id.clone(),
            definition: definition.clone().into(),
            is_async: *is_async,
        });
        send(self.post("apply", cx).json(&Apply { definitions: definitions.collect() })).await.map(|_| ())
    }

    async fn export(&self, cx: &CallContext) -> Result<Bytes, CallError> {
        send(self.get("export", cx)).await?.bytes().await.map_err(|error| broken(&error))
    }

    async fn sync(&self, cx: &CallContext, actions: &[SyncAction]) -> Result<(), CallError> {
        let actions = actions.iter().map(|SyncAction { id, delete, apply }| ActionInfo {
            id: id.clone(),
            delete: delete.clone().map(Into::into),
            apply: apply.clone().map(Into::into),
        });
        send(self.post("sync", cx).json(&Sync { actions: actions.collect() })).await.map(|_| ())
    }

    async fn logs(&self, cx: &CallContext, request: &LogsRequest) -> Result<ItemStream<LogLine>, CallError> {
        let mut query = vec![("app", request.app.to_string()), ("follow", request.follow.to_string())];
        query.extend(request.unit.clone().map(|unit| ("unit", unit)));
        query.extend(request.tail.map(|tail| ("tail", tail.to_string())));
        query.extend(request.since_unix_ms.map(|since| ("since", rfc3339(since))));
        let response = send(self.get("logs", cx).query(&query)).await?;
        Ok(self.events::<LogLineInfo, _>(response))
    }

    async fn put_bundle(
        &self,
        cx: &CallContext,
        request: &PutBundleRequest,
    ) -> Result<PutBundleResponse, CallError> {
        let PutBundleRequest { bundle, version, content, dry_run, force, adopt, envelope: _ } = request;
        let mut query = vec![("direct", true.to_string())];
        query.extend(version.map(|version| ("version", version.to_string())));
        let flags = [("dry_run", dry_run), ("force", force), ("adopt", adopt)];
        query.extend(flags.into_iter().filter(|(_, set)| **set).map(|(name, _)| (name, true.to_string())));
        let put = self.request(Method::PUT, &format!("bundles/{bundle}"), cx).query(&query);
        let put = put.header("Content-Type", "application/yaml").body(content.clone());
        let BundlePut { request_id: _, outcome, version, digest, job, changes } = json(put).await?;
        Ok(PutBundleResponse { outcome, version, digest, job, changes: all(changes) })
    }

    async fn delete_bundle(
        &self,
        cx: &CallContext,
        request: &DeleteBundleRequest,
    ) -> Result<DeleteBundleResponse, CallError> {
        let DeleteBundleRequest { bundle, reason, dry_run, force } = request;
        let mut query = vec![("dry_run", dry_run.to_string()), ("force", force.to_string())];
        query.extend(reason.clone().map(|reason| ("reason", reason)));
        let delete = self.request(Method::DELETE, &format!("bundles/{bundle}"), cx).query(&query);
        let BundleDeleted { request_id: _, job, changes } = json(delete).await?;
        Ok(DeleteBundleResponse { job, changes: all(changes) })
    }

    async fn pause_bundle(
        &self,
        cx: &CallContext,
        request: &PauseBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.operate(cx, (&request.bundle, "pause"), because(request.reason.as_ref())).await
    }

    async fn resume_bundle(
        &self,
        cx: &CallContext,
        request: &ResumeBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.operate(cx, (&request.bundle, "resume"), because(request.reason.as_ref())).await
    }

    async fn retry_bundle(
        &self,
        cx: &CallContext,
        request: &RetryBundleRequest,
    ) -> Result<JobResponse, CallError> {
        let workloads = request.workloads.iter().map(|workload| ("workload", workload.to_string()));
        self.operate(cx, (&request.bundle, "retry"), workloads.collect()).await
    }

    async fn get_bundle(
        &self,
        cx: &CallContext,
        request: &GetBundleRequest,
    ) -> Result<GetBundleResponse, CallError> {
        let GetBundleRequest { bundle, version } = request;
        let query: Vec<_> = version.map(|version| ("version", version)).into_iter().collect();
        let got: BundleContent = json(self.get(&format!("bundles/{bundle}"), cx).query(&query)).await?;
        let BundleContent { bundle, version, digest, content, envelope } = got;
        let envelope = envelope.map(Into::into);
        Ok(GetBundleResponse { summary: bundle.into(), version, digest, content: content.into(), envelope })
    }

    async fn list_bundles(
        &self,
        cx: &CallContext,
        request: &ListBundlesRequest,
    ) -> Result<ListBundlesResponse, CallError> {
        let query = page(request.after.as_ref(), request.limit);
        let BundleList { bundles, next } = json(self.get("bundles", cx).query(&query)).await?;
        Ok(ListBundlesResponse { bundles: all(bundles), next })
    }

    async fn bundle_changes(
        &self,
        cx: &CallContext,
        request: &BundleChangesRequest,
    ) -> Result<BundleChangesResponse, CallError> {
        let query = page(Some(&request.after), request.limit);
        let path = format!("bundles/{}/changes", request.bundle);
        let BundleRecords { changes, next } = json(self.get(&path, cx).query(&query)).await?;
        Ok(BundleChangesResponse { changes: all(changes), next })
    }

    async fn bundle_status(
        &self,
        cx: &CallContext,
        request: &BundleStatusRequest,
    ) -> Result<BundleStatusResponse, CallError> {
        let query = page(request.after.as_ref(), request.limit);
        let path = format!("bundles/{}/status", request.bundle);
        let BundleStanding { bundle, workloads, next } = json(self.get(&path, cx).query(&query)).await?;
        Ok(BundleStatusResponse { summary: bundle.into(), workloads: all(workloads), next })
    }

    async fn get_job(&self, cx: &CallContext, request: &GetJobRequest) -> Result<GetJobResponse, CallError> {
        let query = page(Some(&request.after), request.limit);
        let path = format!("jobs/{}", request.job);
        let JobWithRecords { job, records, next } = json(self.get(&path, cx).query(&query)).await?;
        Ok(GetJobResponse { job: job.into(), records: all(records), next })
    }

    async fn list_jobs(
        &self,
        cx: &CallContext,
        request: &ListJobsRequest,
    ) -> Result<ListJobsResponse, CallError> {
        let mut query = page(request.after.as_ref(), request.limit);
        query.extend(request.bundle.as_ref().map(|bundle| ("bundle", bundle.to_string())));
        query.extend(request.states.iter().map(|state| ("state", state.to_string())));
        let JobList { jobs, next } = json(self.get("jobs", cx).query(&query)).await?;
        Ok(ListJobsResponse { jobs: all(jobs), next })
    }

    async fn watch_job(
        &self,
        cx: &CallContext,
        request: &WatchJobRequest,
    ) -> Result<ItemStream<JobRecord>, CallError> {
        let events = self.get(&format!("jobs/{}/events", request.job), cx);
        let response = send(events.header("Last-Event-ID", request.after)).await?;
        Ok(self.events::<JobRecordInfo, _>(response))
    }

    async fn cancel_job(
        &self,
        cx: &CallContext,
        request: &CancelJobRequest,
    ) -> Result<CancelJobResponse, CallError> {
        let cancel = self.request(Method::POST, &format!("jobs/{}/cancel", request.job), cx);
        let cancel = cancel.query(&because(request.reason.as_ref()));
        json::<JobCancelled>(cancel).await.map(|answer| CancelJobResponse { job: answer.job.into() })
    }

    async fn capacity(&self, cx: &CallContext) -> Result<CapacityResponse, CallError> {
        json::<CapacityInfo>(self.get("capacity", cx)).await.map(Into::into)
    }

    async fn addresses(&self, cx: &CallContext) -> Result<AddressesResponse, CallError> {
        let list: AddressList = json(self.get("addresses", cx)).await?;
        Ok(AddressesResponse { addresses: all(list.addresses) })
    }
}

fn all<A, B: From<A>>(items: Vec<A>) -> Vec<B> {
    items.into_iter().map(Into::into).collect()
}

fn page(after: Option<&impl ToString>, limit: Option<u32>) -> Vec<(&'static str, String)> {
    let after = after.map(|after| ("after", after.to_string()));
    after.into_iter().chain(limit.map(|limit| ("limit", limit.to_string()))).collect()
}

fn because(reason: Option<&String>) -> Vec<(&'static str, String)> {
    reason.map(|reason| ("reason", reason.clone())).into_iter().collect()
}

/// A server-sent event.
enum Event<T> {
    Item(T),
    Error(CallError),
    End,
    Other,
}

fn read_event<I: DeserializeOwned + Into<T>, T>(text: &str) -> Event<T> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
    let data = field("data:").unwrap_or_default();
    let broken = |error: serde_json::Error| CallError::unknown_outcome(format!("{error} in {data}"));
    match field("event:") {
        Some("line" | "record") => match serde_json::from_str::<I>(data) {
            Ok(item) => Event::Item(item.into()),
            Err(error) => Event::Error(broken(error)),
        },
        Some("error") => match serde_json::from_str::<Problem>(data) {
            Ok(problem) => Event::Error(problem.into_call_error()),
            Err(error) => Event::Error(broken(error)),
        },
        Some("end") => Event::End,
        _ => Event::Other,
    }
}

fn rfc3339(unix_ms: u64) -> String {
    serde_json::to_value(towline_hub::api::types::Time::from_unix_ms(unix_ms))
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}
