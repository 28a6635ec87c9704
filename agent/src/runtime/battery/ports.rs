//! Ports of units.

use super::Stand;

pub(super) async fn ports_are_given_and_told(stand: &mut Stand<'_>) {
    let more = "  ports: [{name: http, port: 8080}, {name: admin, port: 8081}]\n";
    let (first, second) =
        (stand.start("exec sleep 1000", more).await, stand.start("exec sleep 1000", more).await);
    let mut taken: Vec<u16> = first.ports.iter().chain(&second.ports).map(|port| port.host_port).collect();
    assert_eq!(taken.len(), 4, "{first:?} {second:?}");
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 4, "each has ports of its own: {first:?} {second:?}");
    let port = taken.first().copied().expect("four ports");
    let fixed = format!("  ports: [{{name: http, port: 8080, hostPort: {port}}}]\n");
    stand.runtime.delete_all().await.expect("they go");
    let unit = stand.start("exec sleep 1000", &fixed).await;
    assert_eq!(unit.ports.first().map(|found| (found.host_port, found.fixed)), Some((port, true)));
    let refused = stand.runtime.start(&stand.spec("other", "exec sleep 1000", &fixed)).await;
    let error = refused.expect_err("the port is taken").to_string();
    assert!(error.contains(&port.to_string()), "{error}");
    assert_eq!(stand.runtime.units_of("default/App/other"), Vec::new(), "nothing is left of it");
}
