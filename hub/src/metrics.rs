//! What the hub counts. What can be counted is counted; what stands one way or another is looked up when it is asked for,
//! so that it is right after a crash, and a version that is gone leaves no gauge behind.

use std::collections::{BTreeMap, HashMap};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry as Prometheus};
use towline_bus::metrics::BusMetrics;

use crate::limits;
use crate::registry::{Entry, Registry};

/// The metrics of one hub. Clones share their values.
#[derive(Debug, Clone)]
pub struct HubMetrics {
    registry: Prometheus,
    /// What the bus counts.
    pub bus: BusMetrics,
    /// Version pings, by outcome.
    pub version_pings: IntCounterVec,
    /// Errors that the API answered with, by code.
    pub api_errors: IntCounterVec,
}

impl HubMetrics {
    /// Makes the metrics, in a registry of their own.
    ///
    /// # Errors
    /// When two of them bear one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Prometheus::new();
        let version_pings = IntCounterVec::new(
            Opts::new("towline_hub_version_pings_total", "Version pings to connected instances, by outcome."),
            &["outcome"],
        )?;
        let api_errors = IntCounterVec::new(
            Opts::new("towline_hub_api_errors_total", "Errors that the API answered with, by code."),
            &["code"],
        )?;
        // A series that begins at zero shows its first increment as one.
        version_pings.with_label_values(&["ok"]);
        registry.register(Box::new(version_pings.clone()))?;
        registry.register(Box::new(api_errors.clone()))?;
        Ok(Self { bus: BusMetrics::register(&registry)?, registry, version_pings, api_errors })
    }

    /// Shows how many instances stand how, and how many agents run which version.
    ///
    /// # Errors
    /// When it was called before.
    pub fn show(&self, instances: Registry) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(FleetCollector::new(instances)?))
    }

    /// All of it, in Prometheus' text format.
    ///
    /// # Errors
    /// When a value cannot be written as text.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Looks the fleet up at each scrape.
struct FleetCollector {
    instances: Registry,
    // Templates for the descriptions: each scrape fills gauges of its own, so that two at once do not mix.
    states: IntGaugeVec,
    versions: IntGaugeVec,
}

impl FleetCollector {
    fn new(instances: Registry) -> Result<Self, prometheus::Error> {
        Ok(Self { instances, states: states()?, versions: versions()? })
    }
}

fn states() -> Result<IntGaugeVec, prometheus::Error> {
    IntGaugeVec::new(Opts::new("towline_hub_instances", "Instances on record, by presence."), &["state"])
}

fn versions() -> Result<IntGaugeVec, prometheus::Error> {
    IntGaugeVec::new(Opts::new("towline_hub_agents", "Connected agents, by version."), &["version"])
}

impl Collector for FleetCollector {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = self.states.desc();
        all.extend(self.versions.desc());
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (Ok(states), Ok(versions)) = (states(), versions()) else { return Vec::new() };
        let fleet = Fleet::count(&self.instances.list());
        for (state, count) in fleet.states {
            states.with_label_values(&[state]).set(count);
        }
        for (version, count) in fleet.versions {
            versions.with_label_values(&[version.as_str()]).set(count);
        }
        let mut all = states.collect();
        all.extend(versions.collect());
        all
    }
}

/// How many instances stand how.
#[derive(Debug, PartialEq, Eq)]
struct Fleet {
    states: BTreeMap<&'static str, i64>,
    versions: BTreeMap<String, i64>,
}

impl Fleet {
    fn count(entries: &[Entry]) -> Self {
        let mut states = BTreeMap::from([("connected", 0), ("unreachable", 0), ("never_seen", 0)]);
        let mut versions = HashMap::new();
        for entry in entries {
            *states.entry(entry.state()).or_default() += 1;
            if entry.is_connected() {
                let version = entry.view.as_ref().and_then(|view| view.version.as_deref()).unwrap_or("");
                *versions.entry(version).or_default() += 1;
            }
        }
        Self { states, versions: commonest(versions) }
    }
}

/// Keeps the commonest versions; agents choose these words, so there is no telling how many there are.
fn commonest(versions: HashMap<&str, i64>) -> BTreeMap<String, i64> {
    let mut all: Vec<_> = versions.into_iter().collect();
    all.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
    let mut kept = BTreeMap::new();
    for (rank, (version, count)) in all.into_iter().enumerate() {
        let label = match version {
            "" => "unknown",
            _ if rank >= limits::VERSION_LABELS_MAX => "other",
            version => version,
        };
        *kept.entry(label.to_owned()).or_default() += count;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_bounded() {
        let names: Vec<_> = (0..200).map(|number| format!("1.0.{number}")).collect();
        let mut versions: HashMap<&str, i64> = names.iter().map(|name| (name.as_str(), 1)).collect();
        versions.insert("2.0.0", 50);
        let kept = commonest(versions);
        assert_eq!(kept.len(), limits::VERSION_LABELS_MAX + 1);
        assert_eq!(kept["2.0.0"], 50);
        assert_eq!(kept.values().sum::<i64>(), 250);
    }
}
