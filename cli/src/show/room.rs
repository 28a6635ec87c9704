//! Room and addresses as people read them. Pure.

use comfy_table::Cell;
use indicatif::BinaryBytes;
use towline_hub::api::types::{AddressList, CapacityInfo, RoomInfo};

use super::tables::{Style, plain, render};

/// What an instance has room for, one kind a row. `FREE` is what a put may still ask for.
pub(crate) fn capacity_table(capacity: &CapacityInfo, style: Style) -> String {
    let mut table = style.table(&["ROOM", "TOTAL", "SYSTEM", "PROMISED", "FREE", "IN USE NOW"]);
    table.add_row(row("processors", &capacity.cpu_millis, processors));
    table.add_row(row("memory", &capacity.memory_bytes, bytes));
    table.add_row(row("disk", &capacity.disk_bytes, bytes));
    let CapacityInfo { bundles, workloads, .. } = capacity;
    format!("{}\nworkloads up or paused: {workloads}, of bundles: {bundles}\n", render(&table))
}

fn row(kind: &str, room: &RoomInfo, text: impl Fn(u64) -> String) -> [Cell; 6] {
    let RoomInfo { total, reserved, used, floor } = *room;
    let free = total.saturating_sub(floor).saturating_sub(reserved);
    let used = used.map_or_else(|| "-".to_owned(), &text);
    [kind.to_owned(), text(total), text(floor), text(reserved), text(free), used].map(Cell::new)
}

/// Which addresses are in use, one a row.
pub(crate) fn addresses_table(list: &AddressList, style: Style) -> String {
    if list.addresses.is_empty() {
        return "no addresses in use\n".to_owned();
    }
    let mut table = style.table(&["ADDRESS", "PORT", "PROTOCOL", "RESOURCE", "UNIT", "BUNDLE"]);
    for used in &list.addresses {
        table.add_row([
            Cell::new(plain(&used.address)),
            Cell::new(used.port),
            Cell::new(plain(&used.protocol)),
            Cell::new(plain(used.resource.as_str())),
            Cell::new(plain(used.unit.as_deref().unwrap_or("-"))),
            Cell::new(used.bundle.as_ref().map_or("-", |bundle| bundle.as_str())),
        ]);
    }
    render(&table)
}

/// Thousandths of a processor: `2`, or `0.25`.
fn processors(millis: u64) -> String {
    let text = format!("{}.{:03}", millis / 1_000, millis % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn bytes(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use towline_hub::api::types::AddressInfo;

    use super::*;

    const PLAIN: Style = Style { colour: false };

    #[test]
    fn room_is_shown_in_the_units_of_manifests() {
        let room = |total, reserved, used, floor| RoomInfo { total, reserved, used, floor };
        let capacity = CapacityInfo {
            cpu_millis: room(2_000, 250, Some(1_500), 0),
            memory_bytes: room(4 << 30, 1 << 30, Some(2 << 30), 256 << 20),
            disk_bytes: room(1 << 40, 0, None, 1 << 30),
            bundles: 1,
            workloads: 3,
        };
        let rows: Vec<Vec<String>> = capacity_table(&capacity, PLAIN)
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()))
            .map(|cells| cells.map(str::to_owned).collect())
            .collect();
        assert_eq!(rows[0], ["ROOM", "TOTAL", "SYSTEM", "PROMISED", "FREE", "IN USE NOW"]);
        assert_eq!(rows[1], ["processors", "2", "0", "0.25", "1.75", "1.5"]);
        assert_eq!(rows[2], ["memory", "4.00 GiB", "256.00 MiB", "1.00 GiB", "2.75 GiB", "2.00 GiB"]);
        assert_eq!(rows[3], ["disk", "1.00 TiB", "1.00 GiB", "0 B", "1023.00 GiB", "-"]);
        assert_eq!(rows[5], ["workloads up or paused: 3, of bundles: 1"]);
    }

    #[test]
    fn what_is_promised_twice_leaves_nothing_and_does_not_wrap() {
        let room = RoomInfo { total: 1, reserved: 5, used: None, floor: 1 };
        let capacity = CapacityInfo {
            cpu_millis: room.clone(),
            memory_bytes: room.clone(),
            disk_bytes: room,
            bundles: 0,
            workloads: 0,
        };
        assert!(capacity_table(&capacity, PLAIN).contains("0 B"));
    }

    #[test]
    fn addresses_name_who_has_them() {
        let used = |bundle: Option<&str>| AddressInfo {
            address: "127.0.0.1".to_owned(),
            port: 8_080,
            protocol: "tcp".to_owned(),
            resource: "default/App/web".parse().unwrap(),
            bundle: bundle.map(|bundle| bundle.parse().unwrap()),
            unit: Some("web-1\u{7}".to_owned()),
        };
        let text = addresses_table(&AddressList { addresses: vec![used(Some("shop")), used(None)] }, PLAIN);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["127.0.0.1", "8080", "tcp", "default/App/web", "web-1", "shop"]);
        assert_eq!(lines[2].last(), Some(&"-"));
        assert_eq!(addresses_table(&AddressList { addresses: Vec::new() }, PLAIN), "no addresses in use\n");
    }
}
