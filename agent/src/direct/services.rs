//! Direct resources as services: what is wanted, what is observed, and how that compares.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use towline_protocol::{
    ResourceId,
    capacity::AddressInUse,
    platform::{Service, ServiceStatus, Unit, UnitStatus as Word},
};

use super::{Direct, entry::Entry};
use crate::{runtime::UnitStatus, shim::Status};

impl Direct {
    /// All services, of `namespace` or of all namespaces, without those `ignored`, by id.
    pub fn all_services(&self, namespace: Option<&str>, ignored: &BTreeSet<ResourceId>) -> Vec<Service> {
        let in_namespace = |id: &str| namespace.is_none_or(|wanted| id.split('/').next() == Some(wanted));
        self.services(|id| in_namespace(id.as_str()) && !ignored.contains(id))
    }

    /// The services named, by id; what does not exist is not in the answer.
    pub fn some_services(&self, ids: &[ResourceId]) -> Vec<Service> {
        let wanted: BTreeSet<&ResourceId> = ids.iter().collect();
        wanted.into_iter().filter_map(|id| self.service(id)).collect()
    }

    /// How one service stands; none if nothing is known of it.
    pub(crate) fn service(&self, id: &ResourceId) -> Option<Service> {
        let (entry, units) = (self.entry(id.as_str()), self.inner.runtime.units_of(id.as_str()));
        let known = entry.is_some() || !units.is_empty();
        known.then(|| self.shown(id.clone(), entry.as_deref(), &units))
    }

    /// The ports that units have, by address and port.
    pub(crate) fn addresses(&self) -> Vec<AddressInUse> {
        let mut found = Vec::new();
        for unit in self.inner.runtime.list() {
            let Ok(resource) = unit.app.parse::<ResourceId>() else { continue };
            let bundle = self.inner.owners.owner(&unit.app);
            found.extend(unit.ports.iter().map(|port| AddressInUse {
                address: port.address.to_string(),
                port: port.host_port,
                protocol: port.protocol.word().to_owned(),
                resource: resource.clone(),
                bundle: bundle.clone(),
                unit: Some(unit.unit.clone()),
            }));
        }
        found.sort_by(|a, b| (&a.address, a.port, &a.protocol).cmp(&(&b.address, b.port, &b.protocol)));
        found
    }

    fn services(&self, wanted: impl Fn(&ResourceId) -> bool) -> Vec<Service> {
        let mut units: BTreeMap<String, Vec<UnitStatus>> = BTreeMap::new();
        for unit in self.inner.runtime.list() {
            units.entry(unit.app.clone()).or_default().push(unit);
        }
        let entries = self.entries().clone();
        let ids: BTreeSet<&String> = entries.keys().chain(units.keys()).collect();
        let none = Vec::new();
        ids.into_iter()
            .filter_map(|id| id.parse::<ResourceId>().ok().filter(&wanted))
            .map(|id| {
                let units = units.get(id.as_str()).unwrap_or(&none);
                let entry = entries.get(id.as_str()).map(AsRef::as_ref);
                self.shown(id, entry, units)
            })
            .collect()
    }

    fn shown(&self, id: ResourceId, entry: Option<&Entry>, units: &[UnitStatus]) -> Service {
        let busy = self.is_busy(id.as_str());
        let drift = self.file_drift(id.as_str());
        let mut service = service(id, entry, units, busy, drift);
        let missing = wanted(entry).saturating_sub(units.len());
        service.units.extend(self.sightings().gone_of(service.id.as_str(), missing));
        let resources = entry.and_then(|entry| Some(&entry.manifest.as_ref().ok()?.spec.resources));
        let limits = resources.and_then(|resources| self.inner.runtime.limits(resources).ok().flatten());
        service.metadata.extend(limits.map(|limits| ("limits".to_owned(), limits)));
        service
    }
}

fn service(
    id: ResourceId,
    entry: Option<&Entry>,
    units: &[UnitStatus],
    busy: bool,
    drift: Option<String>,
) -> Service {
    let manifest = entry.and_then(|entry| entry.manifest.as_ref().ok());
    let wanted = wanted(entry);
    let mut metadata = BTreeMap::new();
    if let Some(entry) = entry {
        let facts = &entry.resource.facts;
        metadata.insert("generation".to_owned(), facts.generation.clone());
        metadata.insert("digest".to_owned(), facts.digest.clone());
        metadata.insert("units".to_owned(), wanted.to_string());
        if let Some(applied) =
            i64::try_from(facts.applied_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok())
        {
            metadata.insert("applied".to_owned(), applied.to_string());
        }
        metadata.extend(facts.failure.iter().map(|failure| ("failure".to_owned(), failure.clone())));
    }
    let labels = manifest.into_iter().flat_map(|manifest| &manifest.labels);
    metadata.extend(labels.map(|(name, value)| (format!("label.{name}"), value.clone())));
    let excuse = match entry.map(|entry| &entry.manifest) {
        None => Some(
            "its units run, but its definition is not stored: a call was cut short; apply or delete it"
                .to_owned(),
        ),
        Some(Err(why)) => Some(format!("its stored definition is not readable: {why}")),
        Some(Ok(_)) => None,
    };
    metadata.extend(drift.map(|drift| ("drift".to_owned(), drift)));
    let failed = excuse.is_some() || metadata.contains_key("failure") || metadata.contains_key("drift");
    Service {
        id,
        address: address(units),
        metadata,
        status: status(wanted, units, busy, failed),
        units: units.iter().map(unit).collect(),
        excuse,
    }
}

/// How many units there are to be.
pub(super) fn wanted(entry: Option<&Entry>) -> usize {
    let manifest = entry.and_then(|entry| entry.manifest.as_ref().ok());
    manifest.map_or(0, |manifest| usize::try_from(manifest.spec.units).unwrap_or(usize::MAX))
}

/// How a service stands as a whole.
fn status(wanted: usize, units: &[UnitStatus], busy: bool, failed: bool) -> ServiceStatus {
    let count = |status: Status| units.iter().filter(|unit| unit.state.status == status).count();
    // Done by its own declaration, as a job is: it counts as what was wanted.
    let up = count(Status::Started);
    let sound = up + count(Status::Stopped);
    if busy {
        ServiceStatus::Updating
    } else if failed || count(Status::Error) > 0 {
        ServiceStatus::Degraded
    } else if count(Status::Starting) + count(Status::Building) > 0 {
        ServiceStatus::Updating
    } else if wanted == 0 || (up == 0 && sound >= wanted) {
        ServiceStatus::Stopped
    } else if sound >= wanted {
        ServiceStatus::Ready
    } else {
        ServiceStatus::Degraded
    }
}

/// The first port of the first unit that runs.
fn address(units: &[UnitStatus]) -> Option<String> {
    let running = units.iter().find(|unit| unit.state.status == Status::Started && !unit.ports.is_empty())?;
    running.ports.first().map(|port| std::net::SocketAddr::new(port.address, port.host_port).to_string())
}

fn unit(status: &UnitStatus) -> Unit {
    let state = &status.state;
    Unit {
        id: status.unit.clone(),
        status: match state.status {
            Status::Building => Word::Building,
            Status::Starting => Word::Starting,
            Status::Started => Word::Started,
            Status::Error => Word::Error,
            Status::Stopped => Word::Stopped,
            Status::Unknown => Word::Unknown,
        },
        reason: state.reason.clone(),
        since_unix_ms: u64::try_from(state.since.as_millisecond()).ok(),
        pid: state.pid.and_then(|pid| u32::try_from(pid).ok()),
        restarts: state.restarts,
        ports: status.ports.iter().map(|port| (port.name.clone(), port.host_port)).collect(),
        image: None,
        host: status.host.clone(),
    }
}
