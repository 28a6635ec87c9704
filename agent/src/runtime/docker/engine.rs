//! The way to one engine: connecting, how long an answer may take, and what its errors mean.

use std::{path::PathBuf, sync::Mutex, sync::PoisonError, time::Duration};

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error};

use crate::runtime::RuntimeError;

/// How long the engine may take for what it does at once: lists, looks, the start of a container.
pub(super) const QUICK: Duration = Duration::from_secs(20);

/// How long fetching an image may take.
pub(super) const PULL: Duration = Duration::from_secs(20 * 60);

/// Beyond every wait of ours, in seconds: each call has its own.
const CLIENT: u64 = 24 * 3600;

/// Why the engine did not do what it was asked.
#[derive(Debug)]
pub(super) enum Refusal {
    /// What was named is not there.
    NotFound(String),
    /// It says no.
    Said { status: u16, message: String },
    /// It did not answer.
    Silent(String),
}

impl Refusal {
    /// As the error of `what`.
    pub(super) fn of(self, what: impl Into<String>) -> RuntimeError {
        match self {
            Self::NotFound(reason) | Self::Said { message: reason, .. } => {
                RuntimeError::Engine { what: what.into(), reason }
            }
            Self::Silent(reason) => RuntimeError::Unknown { runtime: "the docker engine".to_owned(), reason },
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code: 404, message } => Self::NotFound(message),
            Error::DockerResponseServerError { status_code: status, message } => {
                Self::Said { status, message }
            }
            // It answered, and in the middle of that it failed.
            Error::DockerStreamError { error } => Self::Said { status: 500, message: error },
            other => Self::Silent(other.to_string()),
        }
    }
}

/// One engine.
#[derive(Debug)]
pub(super) struct Engine {
    socket: PathBuf,
    /// As negotiated; anew after it did not answer, for it may be another version then.
    client: Mutex<Option<Docker>>,
}

impl Engine {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, client: Mutex::default() }
    }

    /// Asks it something that it answers within `patience`.
    ///
    /// # Errors
    /// What it said, or that it was silent.
    pub(super) async fn ask<T, F>(
        &self,
        patience: Duration,
        question: impl FnOnce(Docker) -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let asked = async {
            let client = self.client().await?;
            question(client).await.map_err(Refusal::from)
        };
        let answer = tokio::time::timeout(patience, asked).await.unwrap_or_else(|_| {
            Err(Refusal::Silent(format!("no answer within {}", humantime::format_duration(patience))))
        });
        if let Err(Refusal::Silent(_)) = answer {
            self.forget();
        }
        answer
    }

    /// A client that speaks the engine's version.
    ///
    /// # Errors
    /// That it does not answer.
    pub(super) async fn client(&self) -> Result<Docker, Refusal> {
        if let Some(client) = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(client);
        }
        let socket = self.socket.to_string_lossy();
        let client = Docker::connect_with_unix(&socket, CLIENT, API_DEFAULT_VERSION)
            .map_err(|error| Refusal::Silent(format!("{error}")))?;
        let negotiated = tokio::time::timeout(QUICK, client.negotiate_version()).await;
        let client = match negotiated {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(Refusal::Silent(format!("{socket}: {error}"))),
            Err(_) => return Err(Refusal::Silent(format!("{socket}: it does not tell its version"))),
        };
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    fn forget(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
