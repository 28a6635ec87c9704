//! The hub's HTTP API, from the outside.
//!
//! In: a [`Request`]. Out: the hub's answer, or a [`ClientError`] that says whether anything was sent: that decides
//! between *unavailable* and *unknown outcome*.

mod request;
pub(crate) mod sse;
mod stream;

use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use thiserror::Error;
use towline_hub::api::types::Problem;

pub(crate) use self::request::{Attempt, Request};
pub(crate) use self::sse::SseEvent;
pub(crate) use self::stream::EventStream;
use crate::failure::{Exit, Failure, plainly};
use crate::target::{HubUrl, Target};

/// How long a connection to a hub may take to come about, before the next one is tried.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How much longer than the hub we wait for its answer: the hub knows better what came of it.
const SLACK: Duration = Duration::from_secs(2);

/// Why there is no answer to show.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// No hub took the connection. Nothing was sent.
    #[error("no hub answers at {tried}")]
    Unreachable {
        /// Each address with its reason.
        tried: String,
        /// Nobody named a hub; we guessed.
        guessed: bool,
    },
    /// The hub answered with a problem.
    #[error("{}", problem.detail)]
    Refused {
        /// What it said.
        problem: Box<Problem>,
        /// What was attempted, if it would have changed anything.
        attempt: Option<Attempt>,
    },
    /// The request was sent, and no answer came.
    #[error("the connection to {hub} was cut: {reason}")]
    Cut {
        /// The hub.
        hub: String,
        /// What the system said.
        reason: String,
        /// What was attempted, if it would have changed anything.
        attempt: Option<Attempt>,
    },
    /// The request was sent, and no answer came in time.
    #[error("{hub} did not answer within {}", humantime::format_duration(*after))]
    TimedOut {
        /// The hub.
        hub: String,
        /// How long we waited.
        after: Duration,
        /// What was attempted, if it would have changed anything.
        attempt: Option<Attempt>,
    },
    /// Something answers, and it is no hub.
    #[error("what answers at {hub} is no Towline hub: {reason}")]
    Garbled {
        /// The address.
        hub: String,
        /// What was wrong with the answer.
        reason: String,
    },
    /// The request cannot be made.
    #[error("cannot make an HTTP client: {0}")]
    Setup(String),
}

impl ClientError {
    /// Whether repeating a reading request may help because it did not get through. Of a refusal, its problem says so.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Cut { .. } | Self::TimedOut { .. })
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Unreachable { guessed: true, .. } => Failure::new(Exit::Unavailable, message)
                .with_help("start one with `towline dev`, or name yours with --hub or TOWLINE_HUB"),
            ClientError::Unreachable { guessed: false, .. } => Failure::new(Exit::Unavailable, message)
                .with_help("check the address (--hub, TOWLINE_HUB), and that the hub runs"),
            ClientError::Refused { problem, attempt } => {
                let failure = Failure::from_problem(*problem);
                match attempt {
                    Some(attempt) if failure.exit() == Exit::UnknownOutcome => {
                        failure.with_help(attempt.remedy())
                    }
                    _ => failure,
                }
            }
            ClientError::Cut { attempt: Some(attempt), .. }
            | ClientError::TimedOut { attempt: Some(attempt), .. } => {
                Failure::new(Exit::UnknownOutcome, format!("{message}; the work may have been done"))
                    .with_help(attempt.remedy())
            }
            ClientError::TimedOut { attempt: None, .. } => {
                Failure::new(Exit::TimedOut, message).with_help("wait longer with --timeout")
            }
            ClientError::Cut { attempt: None, .. } => {
                Failure::new(Exit::Unavailable, message).with_help("nothing was changed; repeat the command")
            }
            ClientError::Garbled { .. } => {
                Failure::error(message).with_help("check the address (--hub, TOWLINE_HUB)")
            }
            ClientError::Setup(_) => Failure::error(message),
        }
    }
}

/// A client of one hub, or of several that are tried in order. Clones share connections.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    target: Target,
    timeout: Option<Duration>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// The body, as the hub sent it.
    pub(crate) body: Bytes,
    hub: String,
}

impl Reply {
    /// The body as a type of the API.
    ///
    /// # Errors
    /// When it is something else.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| ClientError::Garbled { hub: self.hub.clone(), reason: error.to_string() })
    }
}

impl Client {
    /// A client for a target. It connects when it is used.
    ///
    /// # Errors
    /// When the system's HTTP client cannot be made.
    pub(crate) fn new(target: Target, timeout: Option<Duration>) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIME)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("towline/", env!("CARGO_PKG_VERSION")));
        if target.hubs.iter().all(HubUrl::is_loopback) {
            // A proxy would look for the hub on its own host.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| ClientError::Setup(root_cause(&error)))?;
        Ok(Self { http, target, timeout })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn fetch(&self, request: &Request) -> Result<Reply, ClientError> {
        let (response, hub) = self.send(request).await?;
        let body = response.bytes().await.map_err(|error| self.lost(hub, request, &error))?;
        Ok(Reply { body, hub: hub.to_string() })
    }

    /// Sends a request whose answer is taken piece by piece.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn open(&self, request: &Request) -> Result<EventStream, ClientError> {
        let (response, hub) = self.send(request).await?;
        Ok(EventStream::new(response, hub.to_string()))
    }

    /// Sends a request and hands each piece of the body to `take`, as it comes.
    ///
    /// # Errors
    /// [`ClientError`], or what `take` says.
    pub(crate) async fn pour<E: From<ClientError>>(
        &self,
        request: &Request,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut response, hub) = self.send(request).await?;
        loop {
            match response.chunk().await {
                Ok(Some(piece)) => take(&piece)?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.lost(hub, request, &error).into()),
            }
        }
    }

    async fn send(&self, request: &Request) -> Result<(reqwest::Response, &HubUrl), ClientError> {
        let mut tried = Vec::new();
        for hub in &self.target.hubs {
            match self.prepare(hub, request).send().await {
                Ok(response) => return Ok((self.accept(response, hub, request).await?, hub)),
                // Nothing was sent: the next one may be asked without any risk.
                Err(error) if error.is_connect() => tried.push(format!("{hub} ({})", root_cause(&error))),
                Err(error) => return Err(self.lost(hub, request, &error)),
            }
        }
        Err(ClientError::Unreachable { tried: tried.join(", "), guessed: self.target.guessed })
    }

    fn prepare(&self, hub: &HubUrl, request: &Request) -> reqwest::RequestBuilder {
        let mut http =
            self.http.request(request.method.clone(), hub.join(&request.path)).query(&request.query);
        if let Some(token) = &self.target.token {
            http = http.bearer_auth(token.expose());
        }
        if let Some(time) = self.timeout {
            http = http.header("towline-timeout", format!("{}ms", time.as_millis()));
        }
        if let Some(attempt) = &request.attempt {
            http = http.header("idempotency-key", attempt.key.as_str());
        }
        if let Some(id) = &request.last_event_id {
            http = http.header("last-event-id", id);
        }
        if let Some(version) = request.if_version {
            http = http.header("if-match", format!("\"{version}\""));
        }
        if let Some((body, kind)) = &request.body {
            http = http.header("content-type", *kind).body(body.clone());
        }
        match self.patience(request) {
            Some(patience) => http.timeout(patience),
            None => http,
        }
    }

    /// How long we wait; a stream lasts as long as it lasts.
    fn patience(&self, request: &Request) -> Option<Duration> {
        request.time.map(|time| self.timeout.unwrap_or(time) + SLACK)
    }

    async fn accept(
        &self,
        response: reqwest::Response,
        hub: &HubUrl,
        request: &Request,
    ) -> Result<reqwest::Response, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| self.lost(hub, request, &error))?;
        match serde_json::from_slice(&body) {
            Ok(problem) => {
                Err(ClientError::Refused { problem: Box::new(problem), attempt: request.attempt.clone() })
            }
            Err(_) => {
                Err(ClientError::Garbled { hub: hub.to_string(), reason: format!("it says HTTP {status}") })
            }
        }
    }

    fn lost(&self, hub: &HubUrl, request: &Request, error: &reqwest::Error) -> ClientError {
        let (hub, attempt) = (hub.to_string(), request.attempt.clone());
        match self.patience(request) {
            Some(after) if error.is_timeout() => ClientError::TimedOut { hub, after, attempt },
            _ => ClientError::Cut { hub, reason: root_cause(error), attempt },
        }
    }
}

/// What lies at the bottom of an error: `connection refused`, not the three layers above it.
pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(inner) = deepest.source() {
        deepest = inner;
    }
    plainly(deepest)
}
