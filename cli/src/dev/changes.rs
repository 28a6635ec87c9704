//! What has changed between two looks at the services: one line each. Pure.

use std::collections::BTreeMap;

use towline_hub::api::types::{ServiceInfo, ServiceList, UnitInfo};

use crate::show::{Style, ports_text, word};

/// Lines about what has changed, without the time.
pub(super) fn changes(before: &ServiceList, after: &ServiceList, style: Style) -> Vec<String> {
    let old: BTreeMap<_, _> = before.services.iter().map(|service| (&service.id, service)).collect();
    let new: BTreeMap<_, _> = after.services.iter().map(|service| (&service.id, service)).collect();
    let mut lines = Vec::new();
    for (id, service) in &new {
        let earlier = old.get(id);
        lines.extend(unit_changes(earlier.map_or(&[], |earlier| &earlier.units[..]), service, style));
        if earlier.is_none_or(|earlier| earlier.status != service.status) {
            lines.push(format!("{id} is {}", word(service.status.as_str(), style)));
        }
    }
    let gone = old.keys().filter(|id| !new.contains_key(*id));
    lines.extend(gone.map(|id| format!("{id} is gone")));
    lines
}

fn unit_changes(before: &[UnitInfo], service: &ServiceInfo, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    for unit in &service.units {
        let earlier = before.iter().find(|earlier| earlier.id == unit.id);
        let same = earlier.is_some_and(|earlier| {
            earlier.status == unit.status && earlier.pid == unit.pid && earlier.restarts == unit.restarts
        });
        if !same {
            lines.push(format!("{} {} is {}", service.id, unit.id, describe(unit, style)));
        }
    }
    for earlier in before.iter().filter(|earlier| service.units.iter().all(|unit| unit.id != earlier.id)) {
        lines.push(format!("{} {} is gone", service.id, earlier.id));
    }
    lines
}

fn describe(unit: &UnitInfo, style: Style) -> String {
    let mut facts = vec![word(unit.status.as_str(), style)];
    facts.extend(unit.pid.map(|pid| format!("pid {pid}")));
    facts.extend((!unit.ports.is_empty()).then(|| ports_text(&unit.ports)));
    facts.extend((unit.restarts > 0).then(|| format!("restarts {}", unit.restarts)));
    facts.extend(unit.reason.as_deref().map(|reason| word(reason, style)));
    facts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLAIN: Style = Style { colour: false };

    fn list(services: serde_json::Value) -> ServiceList {
        serde_json::from_value(json!({ "services": services })).unwrap()
    }

    #[test]
    fn each_change_is_told_once() {
        let none = list(json!([]));
        let up = list(json!([{"id": "a", "status": "ready", "units": [
            {"id": "a-1", "status": "started", "pid": 7, "ports": {"http": 80}}]}]));
        let down = list(json!([{"id": "a", "status": "degraded", "units": [
            {"id": "a-1", "status": "error", "restarts": 2, "reason": "exited with 1"}]}]));
        let other = list(
            json!([{"id": "a", "status": "ready", "units": [{"id": "a-2", "status": "started", "pid": 8}]}]),
        );
        assert_eq!(changes(&none, &up, PLAIN), ["a a-1 is started, pid 7, http=80", "a is ready"]);
        assert_eq!(changes(&up, &up, PLAIN), Vec::<String>::new());
        assert_eq!(
            changes(&up, &down, PLAIN),
            ["a a-1 is error, restarts 2, exited with 1", "a is degraded"]
        );
        assert_eq!(changes(&up, &other, PLAIN), ["a a-2 is started, pid 8", "a a-1 is gone"]);
        assert_eq!(changes(&up, &none, PLAIN), ["a is gone"]);
    }
}
