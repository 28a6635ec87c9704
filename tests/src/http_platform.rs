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
    ActionInfo, Apply, DefinitionInfo, LogLineInfo, Lookup, Pong, Problem, Search, ServiceList, Sync, Version,
};
use towline_protocol::platform::{Definition, LogLine, LogsRequest, Service, SyncAction};
use towline_protocol::{CallError, Code, InstanceId, ResourceId};

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
        let (sink, stream) = ItemStream::channel();
        self.tasks.spawn_isolated("http logs", async move {
            let mut bytes = response.bytes_stream();
            let mut text = Vec::new();
            while let Some(Ok(more)) = bytes.next().await {
                text.extend_from_slice(&more);
                while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
                    let event: Vec<u8> = text.drain(..end + 2).collect();
                    match read_event(&String::from_utf8_lossy(&event)) {
                        Event::Line(line) => {
                            if !sink.send(line).await {
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
        Ok(stream)
    }
}

/// A server-sent event of the logs route.
enum Event {
    Line(LogLine),
    Error(CallError),
    End,
    Other,
}

fn read_event(text: &str) -> Event {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
    let data = field("data:").unwrap_or_default();
    match field("event:") {
        Some("line") => match serde_json::from_str::<LogLineInfo>(data) {
            Ok(line) => Event::Line(line.into()),
            Err(error) => Event::Error(CallError::unknown_outcome(format!("{error} in {data}"))),
        },
        Some("error") => match serde_json::from_str::<Problem>(data) {
            Ok(problem) => Event::Error(problem.into_call_error()),
            Err(error) => Event::Error(CallError::unknown_outcome(format!("{error} in {data}"))),
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
