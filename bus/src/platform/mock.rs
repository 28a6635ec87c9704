//! A platform that answers as it is told, and remembers what it was asked: for tests of whoever talks to platforms.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use towline_protocol::platform::{Definition, LogLine, LogsRequest, Service, SyncAction};
use towline_protocol::{CallError, Method, RequestId, ResourceId};

use super::{CallContext, ItemStream, Platform};

/// One call, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the arguments of the platform's calls")]
pub enum Seen {
    Ping,
    Version,
    AllServices { namespace: Option<String>, ignored: BTreeSet<ResourceId> },
    SomeServices { ids: Vec<ResourceId> },
    Apply { definitions: Vec<Definition> },
    Export,
    Sync { actions: Vec<SyncAction> },
    Logs { request: LogsRequest },
}

/// Answers as it is told. Clones are the same platform.
#[derive(Debug, Clone, Default)]
pub struct MockPlatform {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    version: String,
    services: Vec<Service>,
    config: Bytes,
    lines: Vec<LogLine>,
    failures: HashMap<Method, CallError>,
    delays: HashMap<Method, Duration>,
    seen: Vec<Seen>,
    /// Mutating work that was really begun, by request id: each must stand here once.
    executed: Vec<RequestId>,
}

impl MockPlatform {
    /// Answers everything, with little.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The answer to `version`.
    pub fn set_version(&self, version: impl Into<String>) {
        self.lock().version = version.into();
    }

    /// The services that there are.
    pub fn set_services(&self, services: Vec<Service>) {
        self.lock().services = services;
    }

    /// The answer to `export`.
    pub fn set_config(&self, config: Bytes) {
        self.lock().config = config;
    }

    /// The lines of every log.
    pub fn set_lines(&self, lines: Vec<LogLine>) {
        self.lock().lines = lines;
    }

    /// Every call of this method fails so, until told otherwise.
    pub fn fail(&self, method: Method, error: Option<CallError>) {
        match error {
            Some(error) => self.lock().failures.insert(method, error),
            None => self.lock().failures.remove(&method),
        };
    }

    /// Every call of this method takes so long.
    pub fn delay(&self, method: Method, delay: Duration) {
        self.lock().delays.insert(method, delay);
    }

    /// What was asked so far, in order; forgets it.
    #[must_use]
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.lock().seen)
    }

    /// The request ids of the mutating work that was begun, in order.
    #[must_use]
    pub fn executed(&self) -> Vec<RequestId> {
        self.lock().executed.clone()
    }

    async fn answer<T>(
        &self,
        method: Method,
        cx: &CallContext,
        seen: Seen,
        answer: impl FnOnce(&State) -> T + Send,
    ) -> Result<T, CallError> {
        let delay = {
            let mut state = self.lock();
            state.seen.push(seen);
            if method.is_mutating() {
                state.executed.push(cx.id.clone());
            }
            state.delays.get(&method).copied()
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let state = self.lock();
        match state.failures.get(&method) {
            Some(error) => Err(error.clone()),
            None => Ok(answer(&state)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

#[async_trait]
impl Platform for MockPlatform {
    async fn ping(&self, cx: &CallContext) -> Result<(), CallError> {
        self.answer(Method::Ping, cx, Seen::Ping, |_| ()).await
    }

    async fn version(&self, cx: &CallContext) -> Result<String, CallError> {
        self.answer(Method::Version, cx, Seen::Version, |state| state.version.clone()).await
    }

    async fn all_services(
        &self,
        cx: &CallContext,
        namespace: Option<&str>,
        ignored: &BTreeSet<ResourceId>,
    ) -> Result<Vec<Service>, CallError> {
        let seen = Seen::AllServices { namespace: namespace.map(str::to_owned), ignored: ignored.clone() };
        let is_wanted = |service: &&Service| {
            let own = service.id.as_str().split('/').next();
            !ignored.contains(&service.id) && namespace.is_none_or(|wanted| own == Some(wanted))
        };
        self.answer(Method::AllServices, cx, seen, |state| {
            state.services.iter().filter(is_wanted).cloned().collect()
        })
        .await
    }

    async fn some_services(&self, cx: &CallContext, ids: &[ResourceId]) -> Result<Vec<Service>, CallError> {
        let seen = Seen::SomeServices { ids: ids.to_vec() };
        let wanted: BTreeSet<_> = ids.iter().collect();
        self.answer(Method::SomeServices, cx, seen, |state| {
            state.services.iter().filter(|service| wanted.contains(&service.id)).cloned().collect()
        })
        .await
    }

    async fn apply(&self, cx: &CallContext, definitions: &[Definition]) -> Result<(), CallError> {
        self.answer(Method::Apply, cx, Seen::Apply { definitions: definitions.to_vec() }, |_| ()).await
    }

    async fn export(&self, cx: &CallContext) -> Result<Bytes, CallError> {
        self.answer(Method::Export, cx, Seen::Export, |state| state.config.clone()).await
    }

    async fn sync(&self, cx: &CallContext, actions: &[SyncAction]) -> Result<(), CallError> {
        self.answer(Method::Sync, cx, Seen::Sync { actions: actions.to_vec() }, |_| ()).await
    }

    async fn logs(&self, cx: &CallContext, request: &LogsRequest) -> Result<ItemStream<LogLine>, CallError> {
        let seen = Seen::Logs { request: request.clone() };
        let lines = self.answer(Method::Logs, cx, seen, |state| state.lines.clone()).await?;
        let (sink, stream) = ItemStream::channel();
        crate::task::Tasks::new().spawn_isolated("mock logs", async move {
            for line in lines {
                if !sink.send(line).await {
                    return;
                }
            }
        });
        Ok(stream)
    }
}
