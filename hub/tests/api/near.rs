//! The platform battery over the whole chain: HTTP, hub, bus, agent, mock.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::RequestBuilder;
use serde::de::DeserializeOwned;
use towline_bus::platform::{Ends, ItemStream, battery};
use towline_bus::{CallContext, Platform};
use towline_hub::api::types::{
    ActionInfo, Apply, DefinitionInfo, Done, LogLineInfo, Lookup, Pong, Problem, Search, ServiceList, Sync,
    Time, Version,
};
use towline_protocol::platform::{Definition, LogLine, LogsRequest, Service, SyncAction};
use towline_protocol::{CallError, ResourceId};

use crate::support::{SseReader, TestHub};

/// An instance behind the API of a hub, as a platform.
struct Near {
    hub: Arc<TestHub>,
}

const BASE: &str = "/v1/instances/default/shop";

async fn bytes(cx: &CallContext, request: RequestBuilder) -> Result<Bytes, CallError> {
    let response = request.header("idempotency-key", cx.id.as_str()).send().await.expect("the hub answers");
    let is_ok = response.status().is_success();
    let bytes = response.bytes().await.expect("the answer is whole");
    if is_ok {
        return Ok(bytes);
    }
    let problem: Problem = serde_json::from_slice(&bytes).expect("an error is a problem");
    Err(problem.into_call_error())
}

async fn json<T: DeserializeOwned>(cx: &CallContext, request: RequestBuilder) -> Result<T, CallError> {
    let bytes = bytes(cx, request).await?;
    Ok(serde_json::from_slice(&bytes).expect("the answer is what was asked for"))
}

fn services(list: ServiceList) -> Vec<Service> {
    list.services.into_iter().map(Into::into).collect()
}

#[async_trait]
impl Platform for Near {
    async fn ping(&self, cx: &CallContext) -> Result<(), CallError> {
        json::<Pong>(cx, self.hub.get(&format!("{BASE}/ping"))).await.map(drop)
    }

    async fn version(&self, cx: &CallContext) -> Result<String, CallError> {
        json::<Version>(cx, self.hub.get(&format!("{BASE}/version"))).await.map(|answer| answer.version)
    }

    async fn all_services(
        &self,
        cx: &CallContext,
        namespace: Option<&str>,
        ignored: &BTreeSet<ResourceId>,
    ) -> Result<Vec<Service>, CallError> {
        let request = if ignored.len() < 100 {
            let query = namespace.map(|namespace| ("namespace", namespace)).into_iter();
            let query: Vec<_> = query.chain(ignored.iter().map(|id| ("ignore", id.as_str()))).collect();
            self.hub.get(&format!("{BASE}/services")).query(&query)
        } else {
            let search = Search { namespace: namespace.map(str::to_owned), ignored: ignored.clone() };
            self.hub.post(&format!("{BASE}/services:search"), &search)
        };
        json(cx, request).await.map(services)
    }

    async fn some_services(&self, cx: &CallContext, ids: &[ResourceId]) -> Result<Vec<Service>, CallError> {
        let lookup = Lookup { ids: ids.to_vec() };
        json(cx, self.hub.post(&format!("{BASE}/services:lookup"), &lookup)).await.map(services)
    }

    async fn apply(&self, cx: &CallContext, definitions: &[Definition]) -> Result<(), CallError> {
        let definitions = definitions.iter().cloned().map(|Definition { id, definition, is_async }| {
            DefinitionInfo { id, definition: definition.into(), is_async }
        });
        let apply = Apply { definitions: definitions.collect() };
        json::<Done>(cx, self.hub.post(&format!("{BASE}/apply"), &apply)).await.map(drop)
    }

    async fn export(&self, cx: &CallContext) -> Result<Bytes, CallError> {
        bytes(cx, self.hub.get(&format!("{BASE}/export"))).await
    }

    async fn sync(&self, cx: &CallContext, actions: &[SyncAction]) -> Result<(), CallError> {
        let actions = actions.iter().cloned().map(|SyncAction { id, delete, apply }| ActionInfo {
            id,
            delete: delete.map(Into::into),
            apply: apply.map(Into::into),
        });
        let sync = Sync { actions: actions.collect() };
        json::<Done>(cx, self.hub.post(&format!("{BASE}/sync"), &sync)).await.map(drop)
    }

    async fn logs(&self, _cx: &CallContext, request: &LogsRequest) -> Result<ItemStream<LogLine>, CallError> {
        let mut query = vec![("app", request.app.to_string()), ("follow", request.follow.to_string())];
        query.extend(request.unit.clone().map(|unit| ("unit", unit)));
        query.extend(request.since_unix_ms.map(|ms| ("since", Time::from_unix_ms(ms).to_string())));
        query.extend(request.tail.map(|tail| ("tail", tail.to_string())));
        let asked = self.hub.get(&format!("{BASE}/logs")).query(&query);
        let response = asked.send().await.expect("the hub answers");
        if !response.status().is_success() {
            let problem: Problem = response.json().await.expect("an error is a problem");
            return Err(problem.into_call_error());
        }
        let (sink, stream) = ItemStream::channel();
        let mut events = SseReader::of(response);
        crate::support::spawn(async move {
            while let Some(event) = events.next().await {
                match event.name.as_str() {
                    "line" => {
                        let line: LogLineInfo = serde_json::from_str(&event.data).expect("a line");
                        sink.send(line.into()).await;
                    }
                    "error" => {
                        let problem: Problem = serde_json::from_str(&event.data).expect("a problem");
                        return sink.fail(problem.into_call_error()).await;
                    }
                    _ => return,
                }
            }
        });
        Ok(stream)
    }
}

#[tokio::test]
async fn platform_battery_over_http() {
    let (hub, _dir) = TestHub::start().await;
    let hub = Arc::new(hub);
    let (_agent, mock) = hub.agent("shop").await;
    let near = Near { hub: Arc::clone(&hub) };
    battery(Ends { near: &near, far: &mock }).await;
    drop(near);
    Arc::into_inner(hub).expect("nobody else holds the hub").stop().await;
}
