//! The way to one engine: connecting, how long an answer may take, and what its errors mean.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error,
    models::ContainerSummary,
    query_parameters::{ListContainersOptions, RemoveContainerOptions},
};
use towline_bus::task::Tasks;

use super::{
    endpoint::{Endpoint, SshConfig, TlsFiles},
    ssh::Tunnel,
};
use crate::{mark::Fenced, runtime::RuntimeError};

/// What an engine is called in errors.
pub(super) const ENGINE: &str = "the docker engine";

/// How long the engine may take for what it does at once: lists, looks, the start of a container.
pub(super) const QUICK: Duration = Duration::from_secs(20);

/// How long fetching an image may take.
pub(crate) const PULL: Duration = Duration::from_secs(20 * 60);

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
    /// It was not asked, for another agent may change it, and we may not.
    Fenced(String),
}

impl Refusal {
    /// As the error of `what`.
    pub(super) fn of(self, what: impl Into<String>) -> RuntimeError {
        match self {
            Self::NotFound(reason) | Self::Said { message: reason, .. } => {
                RuntimeError::Engine { what: what.into(), reason }
            }
            Self::Fenced(reason) => RuntimeError::Fenced { reason },
            Self::Silent(reason) => RuntimeError::Unknown { runtime: ENGINE.to_owned(), reason },
        }
    }
}

impl From<Fenced> for Refusal {
    fn from(fenced: Fenced) -> Self {
        Self::Fenced(fenced.to_string())
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
            other => Self::Silent(whole(&other)),
        }
    }
}

/// The way to an engine.
#[derive(Debug)]
enum Way {
    Direct(Endpoint),
    Ssh(Tunnel),
}

/// One engine.
#[derive(Debug)]
pub(super) struct Engine {
    way: Way,
    /// As negotiated; anew after it did not answer, for it may be another version then.
    client: Mutex<Option<Docker>>,
}

impl Engine {
    /// What is needed to get there is kept up among `tasks`; `program` is that of the agent.
    pub(super) fn new(endpoint: Endpoint, program: &Path, tasks: &Tasks) -> Self {
        let way = match endpoint {
            Endpoint::Ssh(config) => Way::Ssh(Tunnel::open(config, program, tasks)),
            direct => Way::Direct(direct),
        };
        Self { way, client: Mutex::default() }
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
            let client = within(QUICK, self.client()).await?;
            question(client).await.map_err(Refusal::from)
        };
        self.answered(within(patience, asked).await)
    }

    /// The way to it, on which a question leaves at once: whoever must know when it does asks through this.
    ///
    /// # Errors
    /// That there is none within [`QUICK`].
    pub(super) async fn reach(&self) -> Result<Docker, Refusal> {
        self.answered(within(QUICK, self.client()).await)
    }

    /// As [`Engine::ask`], through what [`Engine::reach`] gave.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn ask_through<T>(
        &self,
        patience: Duration,
        asked: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Refusal> {
        self.answered(within(patience, async { asked.await.map_err(Refusal::from) }).await)
    }

    fn answered<T>(&self, answer: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(Refusal::Silent(_)) = answer {
            self.forget();
        }
        answer.map_err(|refusal| self.heard(refusal))
    }

    /// The containers that bear all of these labels, each `name` or `name=value`, whether they run or not.
    ///
    /// # Errors
    /// What it said, or that it was silent.
    pub(super) async fn labelled(&self, labels: Vec<String>) -> Result<Vec<ContainerSummary>, RuntimeError> {
        let filters = Some(HashMap::from([("label".to_owned(), labels)]));
        let options = ListContainersOptions { all: true, filters, ..ListContainersOptions::default() };
        let listed = self.ask(QUICK, async |client| client.list_containers(Some(options)).await).await;
        listed.map_err(|refusal| refusal.of("cannot list containers"))
    }

    /// A client that speaks the engine's version.
    ///
    /// # Errors
    /// That it does not answer.
    pub(super) async fn client(&self) -> Result<Docker, Refusal> {
        if let Some(client) = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(client);
        }
        // In a box: it is rarely made anew, and all that is asked has room for it.
        Box::pin(self.negotiate()).await
    }

    async fn negotiate(&self) -> Result<Docker, Refusal> {
        let (place, client) = self.connect().await?;
        let negotiated = tokio::time::timeout(QUICK, client.negotiate_version()).await;
        let client = match negotiated {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => {
                let why = self.with_remedy(whole(&error));
                return Err(self.heard(Refusal::Silent(format!("{place}: {why}"))));
            }
            Err(_) => return Err(Refusal::Silent(format!("{place}: it does not tell its version"))),
        };
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    /// The socket of a SOCKS proxy that leads to the ports of its host, where there is one.
    pub(super) fn ports(&self) -> Option<PathBuf> {
        match &self.way {
            Way::Ssh(tunnel) => Some(tunnel.ports()),
            Way::Direct(_) => None,
        }
    }

    /// Whether there is a way to its host, as far as that is known without asking.
    pub(super) fn is_reached(&self) -> bool {
        match &self.way {
            Way::Ssh(tunnel) => tunnel.is_up(),
            Way::Direct(_) => true,
        }
    }

    /// Where it is, and a client that will connect to it.
    ///
    /// # Errors
    /// Why there is no way to it.
    async fn connect(&self) -> Result<(String, Docker), Refusal> {
        let (place, client) = match &self.way {
            Way::Ssh(tunnel) => {
                let place = tunnel.place();
                match tunnel.socket().await {
                    Ok(socket) => {
                        let socket = socket.to_string_lossy();
                        (place, Docker::connect_with_unix(&socket, CLIENT, API_DEFAULT_VERSION))
                    }
                    Err(why) => return Err(Refusal::Silent(format!("{place}: {why}"))),
                }
            }
            Way::Direct(endpoint) => direct(endpoint),
        };
        let client = client.map_err(|error| Refusal::Silent(format!("{place}: {}", whole(&error))))?;
        Ok((place, client))
    }

    /// With what may be behind it where the client library cannot know: whoever does not accept our certificate says so after
    /// the handshake, and closes the connection; often that is all that is heard of it.
    fn with_remedy(&self, why: String) -> String {
        match &self.way {
            Way::Direct(Endpoint::Tcp { tls: Some(files), .. }) if why.contains("operation was canceled") => {
                let cert = files.cert.display();
                format!("{why}: it closed the connection at once, and may not accept the certificate {cert}")
            }
            _ => why,
        }
    }

    /// With what was heard on the way, which often says why.
    fn heard(&self, refusal: Refusal) -> Refusal {
        match (&self.way, refusal) {
            (Way::Ssh(tunnel), Refusal::Silent(reason)) => Refusal::Silent(match tunnel.last_words() {
                Some(words) if !reason.contains(&words) => format!("{reason} (ssh says: {words})"),
                _ => reason,
            }),
            (_, refusal) => refusal,
        }
    }

    fn forget(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What comes within `patience`.
async fn within<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    tokio::time::timeout(patience, answer).await.unwrap_or_else(|_| {
        Err(Refusal::Silent(format!("no answer within {}", humantime::format_duration(patience))))
    })
}

/// Removes a container with its unnamed volumes, whether it runs or not.
pub(super) fn removal() -> RemoveContainerOptions {
    RemoveContainerOptions { v: true, force: true, ..RemoveContainerOptions::default() }
}

fn direct(endpoint: &Endpoint) -> (String, Result<Docker, Error>) {
    match endpoint {
        Endpoint::Socket(socket) => {
            let socket = socket.to_string_lossy().into_owned();
            let client = Docker::connect_with_unix(&socket, CLIENT, API_DEFAULT_VERSION);
            (socket, client)
        }
        Endpoint::Tcp { address, tls: Some(TlsFiles { ca, cert, key }) } => {
            let client = Docker::connect_with_ssl(address, key, cert, ca, CLIENT, API_DEFAULT_VERSION);
            (address.clone(), client)
        }
        // Nobody asks here for the way through SSH, which has a socket of its own.
        Endpoint::Tcp { address, tls: None } | Endpoint::Ssh(SshConfig { address, .. }) => {
            (address.clone(), Docker::connect_with_http(address, CLIENT, API_DEFAULT_VERSION))
        }
    }
}

/// An error with what it came from: the outermost says the least.
fn whole(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        source = error.source();
    }
    text
}
