//! Whether all that is wanted has started. Pure.

use std::fmt;

use towline_hub::api::types::{ServiceInfo, ServiceList};
use towline_protocol::ResourceId;
use towline_protocol::platform::{ServiceStatus, UnitStatus};

/// How far the start has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Readiness {
    services: usize,
    ready: usize,
    units: usize,
    /// What has not started, and why, one a line.
    pub(super) missing: Vec<String>,
}

impl Readiness {
    /// Compares what is there with what is wanted.
    pub(super) fn of(list: &ServiceList, wanted: &[ResourceId]) -> Self {
        let find = |id: &ResourceId| list.services.iter().find(|service| service.id == *id);
        let mut missing = Vec::new();
        for id in wanted {
            match find(id) {
                None => missing.push(format!("{id}: not there yet")),
                Some(service) if has_started(service) => {}
                Some(service) => missing.push(why_not(service)),
            }
        }
        let units = wanted.iter().filter_map(find).flat_map(|service| &service.units);
        Self {
            services: wanted.len(),
            ready: wanted.len() - missing.len(),
            units: units.filter(|unit| unit.status == UnitStatus::Started).count(),
            missing,
        }
    }

    /// Whether nothing is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} services ready, {} units started", self.ready, self.services, self.units)
    }
}

/// A service of which nothing is wanted (any more) has done what it should.
fn has_started(service: &ServiceInfo) -> bool {
    matches!(service.status, ServiceStatus::Ready | ServiceStatus::Stopped)
}

fn why_not(service: &ServiceInfo) -> String {
    let mut reasons: Vec<&str> = service.excuse.as_deref().into_iter().collect();
    reasons.extend(service.metadata.get("failure").map(String::as_str));
    let units = service.units.iter().filter(|unit| unit.status != UnitStatus::Started);
    let units: Vec<String> = units
        .map(|unit| match &unit.reason {
            Some(reason) => format!("{} is {} ({reason})", unit.id, unit.status),
            None => format!("{} is {}", unit.id, unit.status),
        })
        .collect();
    reasons.extend(units.iter().map(String::as_str));
    let reasons = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
    format!("{} is {}{reasons}", service.id, service.status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list(services: serde_json::Value) -> ServiceList {
        serde_json::from_value(json!({ "services": services })).unwrap()
    }

    #[test]
    fn all_that_is_wanted_must_have_started() {
        let wanted: Vec<ResourceId> = ["a", "b"].iter().map(|id| id.parse().unwrap()).collect();
        let started = json!({"id": "a", "status": "ready", "units": [{"id": "a-1", "status": "started"}]});
        let broken = json!({"id": "b", "status": "degraded", "units": [
            {"id": "b-1", "status": "error", "reason": "exited with 1"}, {"id": "b-2", "status": "started"}]});
        let other = json!({"id": "other", "status": "degraded"});
        let half = Readiness::of(&list(json!([started, other])), &wanted);
        assert_eq!(half.missing, ["b: not there yet"]);
        assert_eq!(half.to_string(), "1 of 2 services ready, 1 units started");
        let degraded = Readiness::of(&list(json!([started, broken])), &wanted);
        assert_eq!(degraded.missing, ["b is degraded: b-1 is error (exited with 1)"]);
        let done = json!({"id": "b", "status": "stopped"});
        assert!(Readiness::of(&list(json!([started, done])), &wanted).is_complete());
        assert!(Readiness::of(&list(json!([])), &[]).is_complete());
    }
}
