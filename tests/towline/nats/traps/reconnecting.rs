//! When connections come back, and where to: N-B8, N-B14, N-B16.

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use towline_bus::Transport as _;
use towline_bus::task::Tasks;
use towline_bus::transport::LinkState;
use towline_bus::transport::nats::NatsTransport;
use towline_tests::nats::{NatsServer, Proxy, free_port};
use towline_tests::wait::until;

use super::{await_link, config, connect, connect_with, publish, subscribe};

/// async-nats by itself: a fleet of 2,000 tried 26,000 times in ten seconds, and came back within 200 ms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b8_a_fleet_does_not_storm_its_server() {
    const FLEET: usize = 200;
    const AWAY: Duration = Duration::from_secs(2);
    let server = NatsServer::start("").await;
    let proxy = Proxy::before(server.address()).await;
    let fleet = join_all((0..FLEET).map(|_| connect(proxy.url()))).await;
    let before = proxy.attempts().len();
    proxy.cut();
    let cut_at = Instant::now();
    tokio::time::sleep(AWAY).await;
    let while_away = proxy.attempts().len() - before;
    proxy.join();
    let mut coming: FuturesUnordered<_> = fleet
        .iter()
        .map(|link| async {
            await_link(link, LinkState::Connected).await;
            cut_at.elapsed()
        })
        .collect();
    // Some wait for half a minute: that is what spreads a fleet.
    let mut back = Vec::new();
    while back.len() < FLEET * 9 / 10 {
        back.push(coming.next().await.unwrap());
    }
    // Waits of 0.1 + U(0…0.5), U(0…1), U(0…2): at most 2.7 attempts a client in each of 300 simulated outages.
    assert!(while_away <= FLEET * 4, "{while_away} attempts by {FLEET} clients in {AWAY:?}");
    let soonest = proxy.attempts()[before] - cut_at;
    assert!(soonest >= Duration::from_millis(100), "the first came back after {soonest:?}");
    let within = |from: &Duration| *from..*from + Duration::from_millis(100);
    let busiest = back.iter().map(|from| back.iter().filter(|at| within(from).contains(*at)).count()).max();
    assert!(busiest.unwrap() <= FLEET / 4, "{busiest:?} of {FLEET} came back within 100 ms");
    let most = *back.last().unwrap();
    assert!(most < AWAY + Duration::from_secs(6), "nine of ten took {most:?}");
}

#[tokio::test]
async fn n_b14_a_server_that_comes_later_is_found() {
    let port = free_port();
    let link = NatsTransport::connect(&config(format!("nats://127.0.0.1:{port}"))).await.unwrap();
    let refused = publish(&link, "early", "").await;
    assert!(refused.is_err(), "there is no server yet");
    let mut heard = subscribe(&link, "later").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(*link.link().borrow(), LinkState::Disconnected);
    let proxy_less = NatsServer::start_at(port, "").await;
    await_link(&link, LinkState::Connected).await;
    publish(&link, "later", "found").await.unwrap();
    assert_eq!(super::next(&mut heard).await.payload, "found");
    drop(proxy_less);
}

/// A server in lame duck mode tells its clients once, and ends them later. They go by themselves, not all at once, and
/// whoever asks something meanwhile is answered or learns that the connection is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_b16_clients_leave_a_server_that_leaves() {
    const CLIENTS: usize = 30;
    let [leaving, staying] = NatsServer::pair().await;
    let proxy = Proxy::before(leaving.address()).await;
    let answering = connect(staying.url()).await;
    let tasks = Tasks::new();
    let mut questions = subscribe(&answering, "question").await;
    tasks.spawn("answers", async move {
        while let Some(question) = questions.next().await {
            let Some(reply) = question.reply else { continue };
            let _ = answering.publish(reply.to_string(), None, question.payload).await;
        }
    });
    let mut config = config(proxy.url());
    config.servers.push(staying.url());
    let clients = join_all((0..CLIENTS).map(|_| connect_with(&config))).await;
    let there = proxy.open();
    assert!(there >= 3, "the client chooses among its servers: {there} of {CLIENTS} are on the first");
    let left_at = Instant::now();
    leaving.leave();
    for (number, client) in clients.iter().enumerate() {
        tasks.spawn("client", ask_on(client.clone(), number, tasks.stopping().clone()));
    }
    let mut open = there;
    let mut gone = Vec::new();
    // The server itself begins to end them after 10 s, and takes two minutes for it: nobody waits that long here.
    until("all clients to leave", || {
        let now = proxy.open();
        gone.resize(gone.len() + open.saturating_sub(now), left_at.elapsed());
        open = open.min(now);
        async move { (now == 0).then_some(()) }
    })
    .await;
    let last = *gone.last().unwrap();
    let spread = last - *gone.first().unwrap();
    assert!(spread > Duration::from_secs(1), "{there} clients left within {spread:?}");
    for client in &clients {
        await_link(client, LinkState::Connected).await;
    }
    assert!(!tasks.stopping().is_cancelled(), "a question was never answered");
    tasks.stop(Duration::from_secs(1)).await;
}

/// Asks again and again, until all have moved.
async fn ask_on(client: std::sync::Arc<NatsTransport>, number: usize, all_moved: CancellationToken) {
    let mut answers = subscribe(&client, &format!("answer.{number}")).await;
    while !all_moved.is_cancelled() {
        let reply = Some(format!("answer.{number}"));
        if client.publish("question".to_owned(), reply, "".into()).await.is_ok() {
            let mut link = client.link();
            let lost = link.wait_for(|state| *state == LinkState::Disconnected);
            let answered = async {
                tokio::select! { _ = answers.next() => {}, _ = lost => {} }
            };
            super::in_time("an answer, or the loss of the connection", answered).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a cluster says of its servers is not asked: behind their firewall they have other addresses, and those of web
/// sockets come as plain ones.
#[tokio::test]
async fn n_b16_only_named_servers_are_tried() {
    let [unnamed, named] = NatsServer::pair().await;
    let link = connect(named.url()).await;
    named.kill();
    await_link(&link, LinkState::Disconnected).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(*link.link().borrow(), LinkState::Disconnected, "it went where nobody sent it");
    named.restart().await;
    await_link(&link, LinkState::Connected).await;
    drop(unnamed);
}
