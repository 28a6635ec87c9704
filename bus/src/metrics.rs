//! What the bus counts. Names as in `docs/operations.md`; labels are bounded, never an instance id.

use std::sync::{Arc, OnceLock};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use towline_protocol::{CallError, Method};

use crate::clock::{self, Moment};
use crate::transport::TransportEvent;

/// Buckets of every call histogram, in seconds: 1 ms to 20 min, the longest allowed call.
pub const CALL_SECONDS_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1200.0];

/// How long calls take, by method and outcome. Clones share their values.
#[derive(Debug, Clone)]
pub struct CallSeconds {
    /// The histogram.
    pub all: HistogramVec,
    /// The series of calls that succeeded, by method: looked up once, and not for each call.
    ok: Arc<[OnceLock<Histogram>; Method::ALL.len()]>,
}

impl CallSeconds {
    /// Makes the histogram and registers it.
    pub(crate) fn register(registry: &Registry, name: &str, help: &str) -> Result<Self, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(CALL_SECONDS_BUCKETS.to_vec());
        let all = HistogramVec::new(options, &["method", "outcome"])?;
        registry.register(Box::new(all.clone()))?;
        Ok(Self { all, ok: Arc::new([const { OnceLock::new() }; Method::ALL.len()]) })
    }

    /// Measures a call that began at `begun` and has ended now.
    pub(crate) fn observe<T>(&self, method: Method, begun: Moment, result: &Result<T, CallError>) {
        let seconds = clock::now().since(begun).as_secs_f64();
        let series = |outcome| self.all.with_label_values(&[method.name(), outcome]);
        // The table's rows are numbered in its order.
        match (result, self.ok.get(method as usize)) {
            (Ok(_), Some(ok)) => ok.get_or_init(|| series(OK)).observe(seconds),
            _ => series(outcome_label(result)).observe(seconds),
        }
    }
}

/// The `outcome` label of a call that succeeded.
const OK: &str = "ok";

/// The metrics of one side of the bus. Clones share their values.
#[derive(Debug, Clone)]
pub struct BusMetrics {
    /// Sessions told to stand down for a newer one, each once.
    pub kicks: IntCounter,
    /// How often the transport connected again.
    pub reconnects: IntCounter,
    /// Bytes of payload, by direction `in` or `out`.
    pub payload_bytes: IntCounterVec,
    /// Bytes of payload that came in: one of the series above, looked up once and not for each message.
    pub bytes_in: IntCounter,
    /// Bytes of payload that went out.
    pub bytes_out: IntCounter,
    /// What was refused instead of being acted on, by reason.
    pub refusals: IntCounterVec,
    /// Calls under way.
    pub in_flight: IntGauge,
    /// How long calls take on the caller's side, by method and outcome.
    pub call_seconds: CallSeconds,
}

impl BusMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// When the registry already has metrics of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let payload_bytes = IntCounterVec::new(
            Opts::new("towline_bus_payload_bytes", "Bytes of payload, by direction."),
            &["direction"],
        )?;
        let metrics = Self {
            bytes_in: payload_bytes.with_label_values(&["in"]),
            bytes_out: payload_bytes.with_label_values(&["out"]),
            payload_bytes,
            kicks: IntCounter::new(
                "towline_bus_kicks_total",
                "Sessions told to stand down for a newer one.",
            )?,
            reconnects: IntCounter::new(
                "towline_bus_reconnects_total",
                "How often the transport connected again.",
            )?,
            refusals: IntCounterVec::new(
                Opts::new("towline_bus_refusals_total", "Messages refused instead of acted on, by reason."),
                &["reason"],
            )?,
            in_flight: IntGauge::new("towline_bus_in_flight_requests", "Calls under way.")?,
            call_seconds: CallSeconds::register(
                registry,
                "towline_hub_call_duration_seconds",
                "How long calls take on the caller's side, unavailable instances and lost calls included.",
            )?,
        };
        registry.register(Box::new(metrics.kicks.clone()))?;
        registry.register(Box::new(metrics.reconnects.clone()))?;
        registry.register(Box::new(metrics.payload_bytes.clone()))?;
        registry.register(Box::new(metrics.refusals.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        Ok(metrics)
    }

    /// Counts among the refusals what a transport has to tell, until it is closed or `stopping` is cancelled.
    pub(crate) async fn count_events(
        self,
        mut events: broadcast::Receiver<TransportEvent>,
        stopping: CancellationToken,
    ) {
        let count = |reason, times| self.refusals.with_label_values(&[reason]).inc_by(times);
        while let Some(event) = stopping.run_until_cancelled(events.recv()).await {
            match event {
                Ok(TransportEvent::PermissionDenied { .. }) => count("permission_denied", 1),
                Ok(TransportEvent::SlowConsumer { .. }) => count("slow_consumer", 1),
                Ok(TransportEvent::CredentialsRefused { .. }) => count("credentials_refused", 1),
                Ok(TransportEvent::PayloadRefused) => count("payload_refused", 1),
                Err(RecvError::Lagged(missed)) => count("missed_event", missed),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Metrics that no registry shows.
    #[must_use]
    pub fn unregistered() -> Self {
        Self::register(&Registry::new()).expect("a new registry has no such names")
    }
}

/// The `outcome` label of a call: `ok`, or the code of its error. A code of a newer peer counts as `other`, which keeps
/// the label bounded.
#[must_use]
pub fn outcome_label<T>(result: &Result<T, CallError>) -> &str {
    match result {
        Ok(_) => OK,
        Err(error) => match &error.code {
            towline_protocol::Code::Other(_) => "other",
            known => known.as_str(),
        },
    }
}
