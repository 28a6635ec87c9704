//! Hub and agent that know several servers of one cluster.

use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_tests::nats::NatsServer;
use towline_tests::processes::{AgentProcess, HubProcess};
use towline_tests::wait::until;

use super::{apply, noting, pid, starts};

/// Whichever server dies, both come back through the other. Where they are at first is theirs to choose; after the first
/// death both are at the one that is left, so that the second is sure to be of the one in use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_is_left_for_the_other_of_its_cluster() {
    let servers = NatsServer::pair().await;
    let both = format!("{},{}", servers[0].url(), servers[1].url());
    let hub = HubProcess::start(both.clone()).await;
    let mut agent = AgentProcess::start("a", both).await;
    let epoch = hub.until_state("a", "connected").await;
    let platform = hub.platform("a");
    let noted = noting("web", &agent);
    let unit = apply(&platform, noted.clone()).await;
    for dying in [0, 1] {
        let (hub_log, agent_log) = (hub.program.log().len(), agent.program.log().len());
        servers[dying].kill();
        if dying == 1 {
            agent.program.says("the connection to NATS was lost", agent_log).await;
            agent.program.says("connected to NATS", agent_log).await;
            until("the hub to be back, too", || async {
                hub.program.log().get(hub_log..)?.contains("connected to NATS").then_some(())
            })
            .await;
        }
        until("a ping", || async { platform.ping(&CallContext::new()).await.ok() }).await;
        assert_eq!(hub.until_state("a", "connected").await, epoch, "it keeps its epoch");
        servers[dying].restart().await;
    }
    assert_eq!(pid(&platform, &noted.id).await, Some(unit));
    assert_eq!(starts("web", &agent), 1, "the unit ran on");
    assert_eq!(hub.metric("towline_bus_kicks_total").await, Some(0.0), "nobody was kicked");
}
