//! NATS and the hub go and come back; agents stay.

use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_protocol::Code;
use towline_protocol::platform::SyncAction;
use towline_tests::nats::NatsServer;
use towline_tests::processes::{AgentProcess, HubProcess};
use towline_tests::wait::until;

use super::{Site, Stubborn, apply, noting, pid, starts};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_hub_and_nats_start_in_any_order() {
    let server = NatsServer::start("").await;
    server.kill();
    let agent = AgentProcess::start("first", server.url()).await;
    let hub = HubProcess::start(server.url()).await;
    assert_eq!(hub.instance("first").await, None, "there is no bus yet");
    server.restart().await;
    hub.until_state("first", "connected").await;
    let second = AgentProcess::start("second", server.url()).await;
    hub.until_state("second", "connected").await;
    for name in ["first", "second"] {
        until("a ping", || async { hub.platform(name).ping(&CallContext::new()).await.ok() }).await;
    }
    drop((agent, second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_restart_keeps_epochs_and_units() {
    let site = Site::start().await;
    let (a, b) = (site.agent("a").await, site.agent("b").await);
    let epochs = [site.hub.until_state("a", "connected").await, site.hub.until_state("b", "connected").await];
    let platform = site.hub.platform("a");
    let noted = noting("web", &a);
    let before = apply(&platform, noted.clone()).await;
    site.server.kill();
    until("the hub to say that it has no bus", || async {
        let error = platform.ping(&CallContext::new()).await.err()?;
        error.help.is_some_and(|help| help.contains("nothing was sent")).then_some(())
    })
    .await;
    site.server.restart().await;
    for (name, epoch) in ["a", "b"].into_iter().zip(epochs) {
        let platform = site.hub.platform(name);
        until("a ping", || async { platform.ping(&CallContext::new()).await.ok() }).await;
        assert_eq!(site.hub.until_state(name, "connected").await, epoch, "{name} keeps its epoch");
    }
    assert_eq!(pid(&platform, &noted.id).await, Some(before));
    assert_eq!(starts("web", &a), 1, "the unit ran on");
    assert_eq!(site.hub.metric("towline_bus_kicks_total").await, Some(0.0), "nobody was kicked");
    drop((a, b));
}

/// Once in order, and once with SIGKILL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_restart_keeps_epochs_and_presence_comes_back() {
    let mut site = Site::start().await;
    let agents = [site.agent("a").await, site.agent("b").await];
    let web = apply(&site.hub.platform("a"), noting("web", &agents[0])).await;
    let epochs = [site.hub.until_state("a", "connected").await, site.hub.until_state("b", "connected").await];
    for clean in [true, false] {
        if clean {
            assert!(site.hub.program.terminate().await.success(), "it ends in order");
        } else {
            site.hub.program.kill();
        }
        site.hub.start_again().await;
        for (name, epoch) in ["a", "b"].into_iter().zip(epochs) {
            assert_eq!(site.hub.until_state(name, "connected").await, epoch, "{name}, clean: {clean}");
            site.hub.platform(name).ping(&CallContext::new()).await.unwrap();
        }
        assert_eq!(pid(&site.hub.platform("a"), &super::id("web")).await, Some(web));
        assert_eq!(site.hub.metric("towline_hub_instances{state=\"connected\"}").await, Some(2.0));
        assert_eq!(site.hub.metric("towline_bus_kicks_total").await, Some(0.0), "nobody was kicked");
    }
    assert_eq!(starts("web", &agents[0]), 1, "the unit ran on");
}

/// The agent goes on with what it was asked, and a retry with the same key is told what came of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_in_the_middle_of_a_call_is_asked_again() {
    let mut site = Site::start().await;
    let agent = site.agent("a").await;
    let platform = site.hub.platform("a");
    let stubborn = Stubborn::apply(&platform, &agent, "2s").await;
    let noted = noting("web", &agent);
    let actions = [
        SyncAction { id: stubborn.definition.id, delete: Some(stubborn.definition.definition), apply: None },
        SyncAction { id: noted.id.clone(), delete: None, apply: Some(noted.definition) },
    ];
    let cx = CallContext::new();
    let first = {
        let (platform, cx, actions) = (platform.clone(), cx.clone(), actions.clone());
        tokio::spawn(async move { platform.sync(&cx, &actions).await })
    };
    until("the sync to be at work", || async { stubborn.asked.exists().then_some(()) }).await;
    site.hub.program.kill();
    assert_eq!(first.await.unwrap().unwrap_err().code, Code::UnknownOutcome);
    site.hub.start_again().await;
    site.hub.until_state("a", "connected").await;
    platform.sync(&cx, &actions).await.unwrap();
    let before = pid(&platform, &noted.id).await;
    platform.sync(&cx, &actions).await.unwrap();
    assert!(before.is_some() && pid(&platform, &noted.id).await == before);
    until("its note", || async { (starts("web", &agent) > 0).then_some(()) }).await;
    assert_eq!(starts("web", &agent), 1, "it was done once");
    let asked = std::fs::read_to_string(&stubborn.asked).unwrap();
    assert_eq!(asked.lines().count(), 1, "and deleted once");
}
