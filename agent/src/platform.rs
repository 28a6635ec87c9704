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
    CallError, ResourceId,
    platform::{Definition, LogLine, LogsRequest, Service, SyncAction},
};

use crate::{
    direct::{Caller, Direct, on_the_wire},
    runtime::process::UnitLogLine,
};

/// Answers for direct resources on the process runtime.
#[derive(Debug, Clone)]
pub(crate) struct AgentPlatform {
    direct: Direct,
    tasks: Tasks,
}

impl AgentPlatform {
    /// `tasks` own the streams.
    pub(crate) fn new(direct: Direct, tasks: Tasks) -> Self {
        Self { direct, tasks }
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
        self.direct.apply(&caller(cx), definitions).await
    }

    async fn export(&self, _cx: &CallContext) -> Result<Bytes, CallError> {
        Ok(self.direct.export())
    }

    async fn sync(&self, cx: &CallContext, actions: &[SyncAction]) -> Result<(), CallError> {
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
}

async fn forward(mut lines: tokio::sync::mpsc::Receiver<UnitLogLine>, sink: ItemSink<LogLine>) {
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            () = sink.closed() => return,
        };
        let Some(line) = line else { return };
        if !sink.send(on_the_wire(line)).await {
            return;
        }
    }
}
