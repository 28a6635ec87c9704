//! A platform whose every call is measured.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use prometheus::{HistogramOpts, HistogramVec, Registry};
use towline_protocol::platform::{Definition, LogLine, LogsRequest, Service, SyncAction};
use towline_protocol::{CallError, Method, ResourceId};

use super::{CallContext, ItemStream, Platform};
use crate::clock;
use crate::metrics::{CALL_SECONDS_BUCKETS, outcome_label};

/// How long calls take where they are answered.
#[derive(Debug, Clone)]
pub struct PlatformMetrics {
    seconds: HistogramVec,
}

impl PlatformMetrics {
    /// Makes the histogram and registers it.
    ///
    /// # Errors
    /// When the registry already has one of this name.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "towline_platform_call_duration_seconds",
                "How long calls take on the agent's side, by method and outcome.",
            )
            .buckets(CALL_SECONDS_BUCKETS.to_vec()),
            &["method", "outcome"],
        )?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self { seconds })
    }
}

/// Measures every call to the platform within. A stream is measured until it is open.
#[derive(Clone)]
pub struct Instrumented {
    inner: Arc<dyn Platform>,
    metrics: PlatformMetrics,
}

impl std::fmt::Debug for Instrumented {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instrumented").finish_non_exhaustive()
    }
}

impl Instrumented {
    /// Measures this platform.
    #[must_use]
    pub fn new(inner: Arc<dyn Platform>, metrics: PlatformMetrics) -> Self {
        Self { inner, metrics }
    }

    async fn measured<T>(
        &self,
        method: Method,
        work: impl Future<Output = Result<T, CallError>> + Send,
    ) -> Result<T, CallError> {
        let begun = clock::now();
        let result = work.await;
        let seconds = clock::now().since(begun).as_secs_f64();
        self.metrics.seconds.with_label_values(&[method.name(), outcome_label(&result)]).observe(seconds);
        result
    }
}

#[async_trait]
impl Platform for Instrumented {
    async fn ping(&self, cx: &CallContext) -> Result<(), CallError> {
        self.measured(Method::Ping, self.inner.ping(cx)).await
    }

    async fn version(&self, cx: &CallContext) -> Result<String, CallError> {
        self.measured(Method::Version, self.inner.version(cx)).await
    }

    async fn all_services(
        &self,
        cx: &CallContext,
        namespace: Option<&str>,
        ignored: &BTreeSet<ResourceId>,
    ) -> Result<Vec<Service>, CallError> {
        self.measured(Method::AllServices, self.inner.all_services(cx, namespace, ignored)).await
    }

    async fn some_services(&self, cx: &CallContext, ids: &[ResourceId]) -> Result<Vec<Service>, CallError> {
        self.measured(Method::SomeServices, self.inner.some_services(cx, ids)).await
    }

    async fn apply(&self, cx: &CallContext, definitions: &[Definition]) -> Result<(), CallError> {
        self.measured(Method::Apply, self.inner.apply(cx, definitions)).await
    }

    async fn export(&self, cx: &CallContext) -> Result<Bytes, CallError> {
        self.measured(Method::Export, self.inner.export(cx)).await
    }

    async fn sync(&self, cx: &CallContext, actions: &[SyncAction]) -> Result<(), CallError> {
        self.measured(Method::Sync, self.inner.sync(cx, actions)).await
    }

    async fn logs(&self, cx: &CallContext, request: &LogsRequest) -> Result<ItemStream<LogLine>, CallError> {
        self.measured(Method::Logs, self.inner.logs(cx, request)).await
    }
}
