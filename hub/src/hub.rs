//! The hub, put together: what it is told, how it starts, and how it ends.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::get;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use towline_bus::event::BusEvent;
use towline_bus::message_bus::{BusConfig, StartError};
use towline_bus::task::Tasks;
use towline_bus::{MessageBus, Transport, clock};

use crate::api::{self, Api};
use crate::events::{EventLog, record_all};
use crate::limits;
use crate::metrics::HubMetrics;
use crate::registry::Registry;
use crate::server::serve;
use crate::store::{OpenStoreError, Store, StoreError};
use crate::token::{Token, TokenError};
use crate::version_pings::ping_versions;

/// What a hub is told at its start.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Where it keeps its state; made if it is not there.
    pub data_dir: PathBuf,
    /// Where the API listens. Port 0 takes any that is free.
    pub listen: SocketAddr,
    /// Where `/metrics` listens; `None` for nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// The file that holds the API's token; `None` for `<data-dir>/token`, made if it is not there.
    pub token_file: Option<PathBuf>,
    /// How often the version of each connected instance is asked for, within a quarter.
    pub version_ping_every: Duration,
    /// The bus: the root of its subjects, and this replica's name.
    pub bus: BusConfig,
}

impl HubConfig {
    /// The address that the API listens on by default.
    pub const LISTEN: &str = "127.0.0.1:7400";
    /// The address that `/metrics` listens on by default.
    pub const METRICS_LISTEN: &str = "127.0.0.1:7401";

    /// The defaults, with a data directory.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            metrics_listen: Some(SocketAddr::from(([127, 0, 0, 1], 7401))),
            token_file: None,
            version_ping_every: limits::VERSION_PING_EVERY,
            bus: BusConfig::default(),
        }
    }
}

/// Why a hub did not start. Nothing of it goes on in the background.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// The store was opened, and then failed.
    #[error("the hub's store could not be read")]
    Read(#[from] StoreError),
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// An address could not be taken.
    #[error("cannot listen on {address} for {what}: {}", listen_remedy(source, address, flag))]
    Listen {
        /// What should listen: `the API`, `metrics`.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The flag that chooses another address.
        flag: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The bus did not start.
    #[error("the hub's bus did not start")]
    Bus(#[from] StartError),
    /// Two metrics bear one name.
    #[error("the hub's metrics could not be made")]
    Metrics(#[from] prometheus::Error),
}

fn listen_remedy(source: &io::Error, address: &SocketAddr, flag: &str) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!("port {} is in use; stop what holds it, or choose another with {flag}", address.port())
        }
        io::ErrorKind::PermissionDenied => {
            format!("port {} is reserved for the system; choose one above 1023 with {flag}", address.port())
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{} is not an address of this host; choose another with {flag}", address.ip())
        }
        _ => format!("choose another address with {flag}"),
    }
}

/// Why a hub ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RunError {
    /// One of its tasks panicked; the log says which. Half a hub is worse than none.
    #[error("a part of the hub failed; see the log above")]
    Failed,
}

/// A hub that listens, and does not serve yet: [`Hub::run`] does.
#[derive(Debug)]
pub struct Hub {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    version_ping_every: Duration,
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    events: mpsc::Receiver<BusEvent>,
    api: Arc<Api>,
}

impl Hub {
    /// Opens the store, takes the addresses and starts the bus.
    ///
    /// # Errors
    /// [`BuildError`], each with what to do about it.
    pub async fn build(config: HubConfig, transport: Arc<dyn Transport>) -> Result<Self, BuildError> {
        // Addresses first: they are the likeliest to be wrong, and taking them changes nothing.
        let (listener, address) = listen(config.listen, "the API", "--listen").await?;
        let (metrics_listener, metrics_address) = match config.metrics_listen {
            None => (None, None),
            Some(wanted) => {
                let (listener, address) = listen(wanted, "metrics", "--metrics-listen").await?;
                (Some(listener), Some(address))
            }
        };
        let store = open_store(config.data_dir.clone()).await?;
        match assemble(&config, &store, transport).await {
            Ok((api, events)) => Ok(Self {
                address,
                metrics_address,
                version_ping_every: config.version_ping_every,
                listener,
                metrics_listener,
                events,
                api: Arc::new(api),
            }),
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    /// Where the API listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `/metrics` listens.
    #[must_use]
    pub const fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// The file that holds the API's token.
    #[must_use]
    pub fn token_path(&self) -> &Path {
        self.api.token.path()
    }

    /// The bus, for whoever runs the hub within a process of their own.
    #[must_use]
    pub fn bus(&self) -> &MessageBus {
        &self.api.bus
    }

    /// Serves until `shutdown`, then drains: no more connections, watches end, requests and changes under way are
    /// finished within [`limits::DRAIN_GRACE`], the bus stops, the last events are stored, the data directory is given
    /// back. Not cancel safe: a dropped call leaves tasks behind until their runtime ends.
    ///
    /// # Errors
    /// When a part of the hub failed; it drains then all the same.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let Self { listener, metrics_listener, events, api, version_ping_every, .. } = self;
        let tasks = api.tasks.clone();
        let recording = Tasks::new();
        let record = record_all(events, api.log.clone(), api.registry.clone(), recording.stopping().clone());
        recording.spawn("record events", record);
        let (router, _) = api::router(Arc::clone(&api));
        tasks.spawn("serve api", serve(listener, router, limits::CONNECTIONS_MAX, tasks.clone()));
        if let Some(listener) = metrics_listener {
            let router = metrics_router(api.metrics.clone());
            tasks.spawn(
                "serve metrics",
                serve(listener, router, limits::METRICS_CONNECTIONS_MAX, tasks.clone()),
            );
        }
        let counts = api.metrics.version_pings.clone();
        let pings =
            ping_versions(version_ping_every, api.bus.clone(), api.registry.clone(), counts, tasks.clone());
        tasks.spawn("ping versions", pings);

        let failed = tokio::select! {
            () = shutdown.cancelled() => false,
            () = tasks.stopping().cancelled() => true,
            () = recording.stopping().cancelled() => true,
        };
        drain(&api, &tasks, &recording).await;
        if failed { Err(RunError::Failed) } else { Ok(()) }
    }
}

async fn drain(api: &Api, tasks: &Tasks, recording: &Tasks) {
    let begun = clock::now();
    if !tasks.stop(limits::DRAIN_GRACE).await {
        tracing::warn!(grace = ?limits::DRAIN_GRACE, "requests or changes did not end in time; they are cut off");
    }
    api.bus.stop().await;
    if !recording.stop(limits::RECORD_GRACE).await {
        tracing::warn!("the last events were not stored");
    }
    api.store.close().await;
    tracing::info!(took = ?clock::now().since(begun), "the hub has drained");
}

async fn listen(
    wanted: SocketAddr,
    what: &'static str,
    flag: &'static str,
) -> Result<(TcpListener, SocketAddr), BuildError> {
    let refused = |source| BuildError::Listen { what, address: wanted, flag, source };
    let listener = TcpListener::bind(wanted).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok((listener, address))
}

async fn open_store(data_dir: PathBuf) -> Result<Store, BuildError> {
    let path = data_dir.join("hub.redb");
    let opening = tokio::task::spawn_blocking(move || Store::open(&data_dir));
    let opened = opening.await.unwrap_or_else(|_| {
        Err(OpenStoreError::Unreadable { path, reason: "opening it panicked".to_owned() })
    });
    Ok(opened?)
}

/// Everything behind the listeners.
async fn assemble(
    config: &HubConfig,
    store: &Store,
    transport: Arc<dyn Transport>,
) -> Result<(Api, mpsc::Receiver<BusEvent>), BuildError> {
    let token = match &config.token_file {
        Some(path) => Token::read(path)?,
        None => Token::read_or_make(&config.data_dir.join("token"))?,
    };
    let metrics = HubMetrics::new()?;
    let log = EventLog::open(store.clone()).await?;
    let authority = Arc::new(store.clone());
    let (bus, events) =
        MessageBus::start(transport, authority, config.bus.clone(), metrics.bus.clone()).await?;
    let built = async {
        let registry = Registry::load(store.clone(), bus.clone()).await?;
        metrics.show(registry.clone())?;
        Ok::<_, BuildError>(registry)
    };
    let registry = match built.await {
        Ok(registry) => registry,
        Err(error) => {
            bus.stop().await;
            return Err(error);
        }
    };
    let api = Api {
        bus,
        registry,
        store: store.clone(),
        log,
        token,
        metrics,
        tasks: Tasks::new(),
        bodies: Api::body_permits(),
        document: OnceLock::new(),
    };
    Ok((api, events))
}

fn metrics_router(metrics: HubMetrics) -> Router {
    let render = async move || match metrics.render() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    };
    let elsewhere = async || (StatusCode::NOT_FOUND, "there is only `GET /metrics` here\n");
    Router::new().route("/metrics", get(render)).fallback(elsewhere)
}
