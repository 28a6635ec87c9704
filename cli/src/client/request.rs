//! What is asked of a hub.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde::Serialize;
use towline_protocol::{InstanceId, RequestId};
use uuid::Uuid;

/// How long the hub takes at most for what it answers by itself.
const OWN_TIME: Duration = Duration::from_secs(30);

/// A change that was asked for: what it takes to ask again without doing it twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The request's id.
    pub(crate) key: RequestId,
    /// Where it happens.
    pub(crate) instance: InstanceId,
}

impl Attempt {
    /// A first attempt, or a repetition of an earlier one.
    pub(crate) fn new(instance: &InstanceId, key: Option<RequestId>) -> Self {
        let key = key.unwrap_or_else(|| RequestId::from_uuid(Uuid::new_v4()));
        Self { key, instance: instance.clone() }
    }

    /// What to do when nobody knows what came of it.
    pub(crate) fn remedy(&self) -> String {
        let Self { key, instance } = self;
        format!(
            "look with `towline services {instance}`, or repeat the command with `--key {key}`: nothing is done twice then"
        )
    }
}

/// One request, whichever hub answers it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Option<(Bytes, &'static str)>,
    /// The version that must still be there.
    pub(super) if_version: Option<u64>,
    /// How long it takes at most when nobody says otherwise; `None` for a stream.
    pub(super) time: Option<Duration>,
    pub(super) attempt: Option<Attempt>,
    pub(super) last_event_id: Option<String>,
}

impl Request {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            body: None,
            if_version: None,
            time: Some(OWN_TIME),
            attempt: None,
            last_event_id: None,
        }
    }

    /// Reads something of the hub's own.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Deletes something of the hub's own.
    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// Sends JSON.
    pub(crate) fn post(path: impl Into<String>, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("the API's types are made of maps with text keys");
        Self { body: Some((body.into(), "application/json")), ..Self::new(Method::POST, path) }
    }

    /// Asks for something to be done that its path and parameters say.
    pub(crate) fn post_bare(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    /// Puts documents, as they are.
    pub(crate) fn put_documents(path: impl Into<String>, documents: Bytes) -> Self {
        Self { body: Some((documents, "application/yaml")), ..Self::new(Method::PUT, path) }
    }

    /// Only if what is changed is still at this version.
    #[must_use]
    pub(crate) fn if_version(mut self, version: Option<u64>) -> Self {
        self.if_version = version;
        self
    }

    /// Adds a parameter that is true.
    #[must_use]
    pub(crate) fn flag(self, name: &'static str, is_set: bool) -> Self {
        self.with_some(name, is_set.then_some("true"))
    }

    /// The path of something below an instance.
    pub(crate) fn path_of(instance: &InstanceId, below: &str) -> String {
        format!("/v1/instances/{}/{}{below}", instance.tenant, instance.name)
    }

    /// Adds a parameter.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Adds a parameter if there is one.
    #[must_use]
    pub(crate) fn with_some(self, name: &'static str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// A call to an instance, which takes at most so long when nobody says otherwise.
    #[must_use]
    pub(crate) fn within(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// The answer is a stream, without end.
    #[must_use]
    pub(crate) fn streaming(mut self) -> Self {
        self.time = None;
        self
    }

    /// It changes something.
    #[must_use]
    pub(crate) fn changing(mut self, attempt: Attempt) -> Self {
        self.attempt = Some(attempt);
        self
    }

    /// Go on after this event. One without an id (a gap) changes nothing: without any, all history would come again.
    pub(crate) fn resume_after(&mut self, id: Option<String>) {
        self.last_event_id = id.or_else(|| self.last_event_id.take());
    }
}
