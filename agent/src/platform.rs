//! The agent as a [`Platform`]: what the hub may ask of it.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use towline_bus::{
    CallContext, Platform,
    platform::{ItemSink, ItemStream},
    task::Tasks,
};
use towline_protocol::{
    CallError, Code, ResourceId,
    bundle::{
        BundleChangesRequest, BundleChangesResponse, BundleStatusRequest, BundleStatusResponse,
        DeleteBundleRequest, DeleteBundleResponse, GetBundleRequest, GetBundleResponse, JobResponse,
        ListBundlesRequest, ListBundlesResponse, PauseBundleRequest, PutBundleRequest, PutBundleResponse,
        ResumeBundleRequest, RetryBundleRequest,
    },
    capacity::{AddressesResponse, CapacityResponse},
    job::{
        CancelJobRequest, CancelJobResponse, GetJobRequest, GetJobResponse, JobKind, JobRecord,
        ListJobsRequest, ListJobsResponse, WatchJobRequest,
    },
    platform::{Definition, LogLine, LogsRequest, Service, SyncAction},
};

use crate::{
    direct::{Caller, Direct, on_the_wire},
    engine::Engine,
    runtime::LogLines,
};

/// Answers for bundles and for direct resources on the process runtime.
#[derive(Debug, Clone)]
pub(crate) struct AgentPlatform {
    direct: Direct,
    engine: Engine,
    tasks: Tasks,
}

impl AgentPlatform {
    /// `tasks` own the streams.
    pub(crate) fn new(direct: Direct, engine: Engine, tasks: Tasks) -> Self {
        Self { direct, engine, tasks }
    }

    /// Lets a call that changes something begin only where this agent acts. One that began before is answered all the same:
    /// nobody is to believe that nothing was done.
    async fn permit(&self, cx: &CallContext) -> Result<(), CallError> {
        match self.direct.runtime().mark().permit().await {
            Err(_) if self.direct.calls().knows(&cx.id) => Ok(()),
            permitted => permitted,
        }
    }
}

fn caller(cx: &CallContext) -> Caller {
    Caller { request: cx.id.clone(), pinned: cx.store, cancelled: cx.cancelled.clone() }
}

#[async_trait]
impl Platform for AgentPlatform {
    async fn ping(&self, _cx: &CallContext) -> Result<(), CallError> {
        self.direct.runtime().list();
        Ok(())
    }

    async fn version(&self, _cx: &CallContext) -> Result<String, CallError> {
        Ok(crate::VERSION.to_owned())
    }

    async fn all_services(
        &self,
        _cx: &CallContext,
        namespace: Option<&str>,
        ignored: &BTreeSet<ResourceId>,
    ) -> Result<Vec<Service>, CallError> {
        Ok(self.direct.all_services(namespace, ignored))
    }

    async fn some_services(&self, _cx: &CallContext, ids: &[ResourceId]) -> Result<Vec<Service>, CallError> {
        Ok(self.direct.some_services(ids))
    }

    async fn apply(&self, cx: &CallContext, definitions: &[Definition]) -> Result<(), CallError> {
        self.permit(cx).await?;
        self.direct.apply(&caller(cx), definitions).await
    }

    async fn export(&self, _cx: &CallContext) -> Result<Bytes, CallError> {
        Ok(self.direct.export())
    }

    async fn sync(&self, cx: &CallContext, actions: &[SyncAction]) -> Result<(), CallError> {
        self.permit(cx).await?;
        self.direct.sync(&caller(cx), actions).await
    }

    async fn logs(&self, cx: &CallContext, request: &LogsRequest) -> Result<ItemStream<LogLine>, CallError> {
        let lines = self.direct.logs(request)?;
        let (sink, stream) = ItemStream::channel();
        let until = cx.cancelled.clone();
        self.tasks.spawn("log-stream", async move {
            until.run_until_cancelled(forward(lines, sink)).await;
        });
        Ok(stream)
    }

    async fn put_bundle(
        &self,
        cx: &CallContext,
        request: &PutBundleRequest,
    ) -> Result<PutBundleResponse, CallError> {
        if !request.dry_run {
            self.permit(cx).await?;
        }
        self.engine.put(&caller(cx), request.clone()).await
    }

    async fn delete_bundle(
        &self,
        cx: &CallContext,
        request: &DeleteBundleRequest,
    ) -> Result<DeleteBundleResponse, CallError> {
        if !request.dry_run {
            self.permit(cx).await?;
        }
        self.engine.delete(&caller(cx), request.clone()).await
    }

    async fn pause_bundle(
        &self,
        cx: &CallContext,
        request: &PauseBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.permit(cx).await?;
        let PauseBundleRequest { bundle, reason } = request.clone();
        self.engine.operation(&caller(cx), JobKind::Pause, bundle, reason, Vec::new()).await
    }

    async fn resume_bundle(
        &self,
        cx: &CallContext,
        request: &ResumeBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.permit(cx).await?;
        let ResumeBundleRequest { bundle, reason } = request.clone();
        self.engine.operation(&caller(cx), JobKind::Resume, bundle, reason, Vec::new()).await
    }

    async fn retry_bundle(
        &self,
        cx: &CallContext,
        request: &RetryBundleRequest,
    ) -> Result<JobResponse, CallError> {
        self.permit(cx).await?;
        let RetryBundleRequest { bundle, workloads } = request.clone();
        // Whoever asks for a retry wants to know how things stand now.
        self.direct.look_at_files_of(&bundle);
        self.engine.operation(&caller(cx), JobKind::Retry, bundle, None, workloads).await
    }

    async fn get_bundle(
        &self,
        _cx: &CallContext,
        request: &GetBundleRequest,
    ) -> Result<GetBundleResponse, CallError> {
        self.engine.get(request).await
    }

    async fn list_bundles(
        &self,
        _cx: &CallContext,
        request: &ListBundlesRequest,
    ) -> Result<ListBundlesResponse, CallError> {
        Ok(self.engine.list(request))
    }

    async fn bundle_changes(
        &self,
        _cx: &CallContext,
        request: &BundleChangesRequest,
    ) -> Result<BundleChangesResponse, CallError> {
        self.engine.changes(request).await
    }

    async fn bundle_status(
        &self,
        _cx: &CallContext,
        request: &BundleStatusRequest,
    ) -> Result<BundleStatusResponse, CallError> {
        self.engine.status(request).await
    }

    async fn get_job(&self, _cx: &CallContext, request: &GetJobRequest) -> Result<GetJobResponse, CallError> {
        self.engine.job(request).await
    }

    async fn list_jobs(
        &self,
        _cx: &CallContext,
        request: &ListJobsRequest,
    ) -> Result<ListJobsResponse, CallError> {
        self.engine.list_jobs(request).await
    }

    async fn watch_job(
        &self,
        _cx: &CallContext,
        request: &WatchJobRequest,
    ) -> Result<ItemStream<JobRecord>, CallError> {
        self.engine.watch_job(request.job, request.after).await
    }

    async fn cancel_job(
        &self,
        cx: &CallContext,
        request: &CancelJobRequest,
    ) -> Result<CancelJobResponse, CallError> {
        self.permit(cx).await?;
        self.engine.cancel(&caller(cx), request.job, request.reason.clone()).await
    }

    async fn capacity(&self, _cx: &CallContext) -> Result<CapacityResponse, CallError> {
        self.engine.capacity()
    }

    async fn addresses(&self, _cx: &CallContext) -> Result<AddressesResponse, CallError> {
        Ok(AddressesResponse { addresses: self.direct.addresses() })
    }
}

async fn forward(mut lines: LogLines, sink: ItemSink<LogLine>) {
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            () = sink.closed() => return,
        };
        match line {
            Some(Ok(line)) => {
                if !sink.send(on_the_wire(line)).await {
                    return;
                }
            }
            Some(Err(error)) => return sink.fail(CallError::new(Code::Cluster, error.to_string())).await,
            None => return,
        }
    }
}
