//! The agent's own metrics, and the listener that shows all of them.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse as _, routing::get};
use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use towline_bus::{clock, clock::Moment, subscription::Vitals};
use towline_protocol::{
    job::JobState,
    session::{Health, HealthState},
};

use crate::{runtime::Runtime, shim::Status};

const STATES: [Status; 6] =
    [Status::Building, Status::Starting, Status::Started, Status::Error, Status::Stopped, Status::Unknown];

/// `towline_agent_drift_total{kind}`, registered.
///
/// # Errors
/// When the registry has one of this name already.
pub(crate) fn drift(registry: &Registry) -> Result<IntCounterVec, prometheus::Error> {
    let opts = Opts::new("towline_agent_drift_total", "Apps found otherwise than defined, by kind.");
    let drift = IntCounterVec::new(opts, &["kind"])?;
    registry.register(Box::new(drift.clone()))?;
    for kind in ["lost", "differs", "files"] {
        drift.with_label_values(&[kind]);
    }
    Ok(drift)
}

/// `towline_agent_job_duration_seconds{kind,outcome}`, registered.
///
/// # Errors
/// When the registry has one of this name already.
pub(crate) fn durations(registry: &Registry) -> Result<HistogramVec, prometheus::Error> {
    let opts = HistogramOpts::new(
        "towline_agent_job_duration_seconds",
        "How long jobs of bundles took from acceptance to end.",
    )
    .buckets(vec![0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_200.0]);
    let durations = HistogramVec::new(opts, &["kind", "outcome"])?;
    registry.register(Box::new(durations.clone()))?;
    Ok(durations)
}

/// How many things wait for the engine, and jobs that have not ended, by state.
pub(crate) type Load = Box<dyn Fn() -> (usize, BTreeMap<JobState, i64>) + Send + Sync>;

/// Looks at units, jobs and link when it is asked, so that nothing goes stale.
pub(crate) struct Observer {
    runtime: Arc<dyn Runtime>,
    load: Load,
    jobs: IntGaugeVec,
    depth: IntGauge,
    connected_since: watch::Receiver<Option<Moment>>,
    units: IntGaugeVec,
    connection: Gauge,
}

impl Observer {
    /// `towline_agent_units{state}`, `towline_agent_jobs{state}`, `towline_agent_queue_depth` and
    /// `towline_agent_connection_duration_seconds`, registered.
    ///
    /// # Errors
    /// When the registry has one of these names already.
    pub(crate) fn register(
        registry: &Registry,
        runtime: Arc<dyn Runtime>,
        connected_since: watch::Receiver<Option<Moment>>,
        load: Load,
    ) -> Result<(), prometheus::Error> {
        let observer = Self {
            runtime,
            load,
            jobs: IntGaugeVec::new(
                Opts::new("towline_agent_jobs", "Jobs that have not ended, by state."),
                &["state"],
            )?,
            depth: IntGauge::new("towline_agent_queue_depth", "Things that wait for the engine.")?,
            connected_since,
            units: IntGaugeVec::new(
                Opts::new("towline_agent_units", "Units, by observed state."),
                &["state"],
            )?,
            connection: Gauge::new(
                "towline_agent_connection_duration_seconds",
                "For how long this agent has been serving its instance; 0 when it does not.",
            )?,
        };
        registry.register(Box::new(observer))
    }
}

impl Collector for Observer {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = self.units.desc();
        all.extend(self.jobs.desc());
        all.extend(self.depth.desc());
        all.extend(self.connection.desc());
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut counts: BTreeMap<Status, i64> = STATES.into_iter().map(|state| (state, 0)).collect();
        for unit in self.runtime.list() {
            *counts.entry(unit.state.status).or_default() += 1;
        }
        for (state, count) in counts {
            self.units.with_label_values(&[state.as_str()]).set(count);
        }
        let since = *self.connected_since.borrow();
        self.connection.set(since.map_or(0.0, |since| clock::now().since(since).as_secs_f64()));
        let (depth, jobs) = (self.load)();
        self.depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
        for (state, count) in jobs {
            self.jobs.with_label_values(&[state.as_str()]).set(count);
        }
        let mut all = self.units.collect();
        all.extend(self.jobs.collect());
        all.extend(self.depth.collect());
        all.extend(self.connection.collect());
        all
    }
}

/// The metrics listener cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for metrics: {source}; choose another --metrics-listen")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

/// Serves `/metrics`, `/healthz` (503 with what does not come on) and `/readyz` (ready while serving) on `address` until
/// `stopping`. Returns the bound address and the work to be spawned.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) async fn listen(
    address: SocketAddr,
    registry: Registry,
    connected_since: watch::Receiver<Option<Moment>>,
    vitals: watch::Receiver<Vitals>,
    stopping: CancellationToken,
) -> Result<(SocketAddr, impl Future<Output = ()> + Send + 'static), ListenError> {
    let failed = |source| ListenError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let ready = move || async move {
        match *connected_since.borrow() {
            Some(_) => (StatusCode::OK, "serving\n"),
            None => (StatusCode::SERVICE_UNAVAILABLE, "not serving: no session with a hub\n"),
        }
    };
    let healthy = move || async move { told(&vitals.borrow().health) };
    let app = Router::new()
        .route("/metrics", get(show))
        .with_state(registry)
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready));
    let work = async move {
        let served = axum::serve(listener, app).with_graceful_shutdown(stopping.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "the metrics listener ended");
        }
    };
    Ok((bound, work))
}

/// How the agent's health is answered.
fn told(health: &Health) -> (StatusCode, String) {
    match health.state {
        HealthState::Healthy => (StatusCode::OK, "ok\n".to_owned()),
        ref state => {
            let detail = health.detail.as_deref().unwrap_or("nobody said why");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{state}: {detail}\n"))
        }
    }
}

async fn show(State(registry): State<Registry>) -> axum::response::Response {
    let encoder = prometheus::TextEncoder::new();
    match encoder.encode_to_string(&registry.gather()) {
        Ok(text) => ([("content-type", prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
