//! The platform of an instance that nobody serves.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use towline_protocol::platform::{Definition, LogLine, LogsRequest, Service, SyncAction};
use towline_protocol::{CallError, Code, ResourceId};

use super::{CallContext, ItemStream, Platform};

/// A platform whose every call answers `unavailable`, at once.
#[derive(Debug, Clone)]
pub struct Disconnected {
    why: String,
}

impl Disconnected {
    /// Nobody serves, for this reason: a sentence without a full stop.
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into() }
    }

    fn refuse<T>(&self) -> Result<T, CallError> {
        Err(CallError::new(Code::Unavailable, &*self.why))
    }
}

#[async_trait]
impl Platform for Disconnected {
    async fn ping(&self, _cx: &CallContext) -> Result<(), CallError> {
        self.refuse()
    }

    async fn version(&self, _cx: &CallContext) -> Result<String, CallError> {
        self.refuse()
    }

    async fn all_services(
        &self,
        _cx: &CallContext,
        _namespace: Option<&str>,
        _ignored: &BTreeSet<ResourceId>,
    ) -> Result<Vec<Service>, CallError> {
        self.refuse()
    }

    async fn some_services(&self, _cx: &CallContext, _ids: &[ResourceId]) -> Result<Vec<Service>, CallError> {
        self.refuse()
    }

    async fn apply(&self, _cx: &CallContext, _definitions: &[Definition]) -> Result<(), CallError> {
        self.refuse()
    }

    async fn export(&self, _cx: &CallContext) -> Result<Bytes, CallError> {
        self.refuse()
    }

    async fn sync(&self, _cx: &CallContext, _actions: &[SyncAction]) -> Result<(), CallError> {
        self.refuse()
    }

    async fn logs(
        &self,
        _cx: &CallContext,
        _request: &LogsRequest,
    ) -> Result<ItemStream<LogLine>, CallError> {
        self.refuse()
    }
}
