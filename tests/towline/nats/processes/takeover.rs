//! Two agents for one instance, as processes.

use rustix::process::Signal;
use towline_bus::Platform as _;
use towline_bus::platform::CallContext;
use towline_protocol::{Code, Effect};
use towline_tests::processes::AgentProcess;
use towline_tests::wait::until;

use super::{Site, Stubborn, apply, id, noting, starts};

/// A process that was really stopped through the takeover does nothing of what waits in its socket when it thaws.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_k4_a_frozen_agent_thaws_and_does_nothing() {
    let site = Site::start().await;
    let old = site.agent("a").await;
    let platform = site.hub.platform("a");
    apply(&platform, noting("web", &old)).await;
    let first = site.hub.until_state("a", "connected").await;
    // A call that it has begun, and will answer when nobody waits any more.
    let begun = Stubborn::apply(&platform, &old, "1s").await.delete(&platform).await;
    old.program.signal(Signal::STOP);
    // A call to its epoch, which it cannot begin before it thaws.
    let buffered = {
        let (platform, definition) = (platform.clone(), noting("buffered", &old));
        tokio::spawn(async move { platform.apply(&CallContext::new(), &[definition]).await })
    };
    let mut new = AgentProcess::start("a", site.server.url()).await;
    for call in [begun, buffered] {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!((&error.code, &error.effect), (&Code::UnknownOutcome, &Effect::Unknown), "{error:?}");
    }
    let second = until("the takeover", || async {
        Some(site.hub.until_state("a", "connected").await).filter(|now| *now > first)
    })
    .await;
    platform.ping(&CallContext::new()).await.unwrap();
    assert_eq!(site.hub.metric("towline_bus_kicks_total").await, Some(1.0));
    const LATE: &str = "towline_bus_refusals_total{reason=\"late_reply\"}";
    let late = site.hub.metric(LATE).await.unwrap_or(0.0);

    let mut old = old;
    old.program.signal(Signal::CONT);
    old.program.says("standing by until the other has gone", 0).await;
    let fenced = || async { old.metric("towline_bus_refusals_total{reason=\"fenced\"}").await };
    until("what was buffered to be refused", || async { fenced().await.filter(|count| *count >= 1.0) }).await;
    until("its late replies to be refused", || async {
        site.hub.metric(LATE).await.filter(|count| *count >= late + 2.0)
    })
    .await;
    assert_eq!((starts("buffered", &old), starts("web", &old)), (0, 1), "it began nothing more");
    assert_eq!(site.hub.until_state("a", "connected").await, second, "the new one serves on");
    assert_eq!(site.hub.metric("towline_bus_kicks_total").await, Some(1.0), "no kicking war");

    // It is a standby indeed: it serves when the other has gone.
    assert!(new.program.terminate().await.success());
    let third = until("the standby to serve", || async {
        Some(site.hub.until_state("a", "connected").await).filter(|now| *now > second)
    });
    third.await;
    until("the units of the first store", || async { super::pid(&platform, &id("web")).await }).await;
    assert_eq!((starts("buffered", &old), starts("web", &old)), (0, 1));
}
