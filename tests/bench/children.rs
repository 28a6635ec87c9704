//! The other side, in processes of their own.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use towline_bus::metrics::BusMetrics;
use towline_bus::platform::MockPlatform;
use towline_bus::subscribe;
use towline_protocol::limits;
use towline_protocol::platform::{Service, ServiceStatus, ServicesResponse, Unit, UnitStatus};
use towline_tests::chain::{mock_config, nats_link};
use towline_tests::noise::noise;

/// A child that ends with its parent's interest in it.
pub(crate) struct Owned(pub(crate) Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts this program again as a child.
pub(crate) fn spawn(args: &[&str]) -> Owned {
    let this = std::env::current_exe().unwrap();
    Owned(Command::new(this).arg("child").args(args).stdin(Stdio::null()).spawn().unwrap())
}

/// What a child does.
pub(crate) async fn run(args: &[String]) {
    let url = args[1].clone();
    match args[0].as_str() {
        "raw" => raw_responder(&url, args[2].clone(), args[3].parse().unwrap()).await,
        "raw-services" => raw_services(&url, args[2].clone()).await,
        "agents" => agents(&url, &args[2], args[3].parse().unwrap(), args[4].parse().unwrap()).await,
        other => panic!("no child `{other}`"),
    }
    std::future::pending::<()>().await;
}

/// Answers every request on a subject with so many bytes.
async fn raw_responder(url: &str, subject: String, reply_bytes: usize) {
    let client = async_nats::connect(url).await.unwrap();
    let mut requests = client.subscribe(subject).await.unwrap();
    let reply = Bytes::from(vec![7; reply_bytes]);
    while let Some(request) = requests.next().await {
        // As the responder of the bus does: a task for each request.
        let (client, reply) = (client.clone(), reply.clone());
        tokio::spawn(async move { client.publish(request.reply.unwrap(), reply).await });
    }
}

/// Answers every request on a subject with a thousand services, which it copies and encodes each time, as a mock does.
async fn raw_services(url: &str, subject: String) {
    let client = async_nats::connect(url).await.unwrap();
    let mut requests = client.subscribe(subject).await.unwrap();
    let services: Vec<Service> = (0..SERVICES).map(service).collect();
    while let Some(request) = requests.next().await {
        let (client, services) = (client.clone(), services.clone());
        tokio::spawn(async move {
            let reply = rmp_serde::to_vec_named(&ServicesResponse { services }).unwrap();
            client.publish(request.reply.unwrap(), reply.into()).await
        });
    }
}

/// Services of the agent that is asked for all of them.
pub(crate) const SERVICES: usize = 1_000;

/// Agents `<prefix>-0 …` with a mock each, all on one connection; `config_bytes` is what each exports. With something to
/// export they begin one after the other, so that their heartbeats are spread over the interval.
async fn agents(url: &str, prefix: &str, count: usize, config_bytes: usize) {
    let link = nats_link(url.to_owned()).await;
    let metrics = BusMetrics::unregistered();
    let mut held = Vec::new();
    let config_of_each = noise(config_bytes);
    let apart = if config_bytes == 0 || count == 1 {
        Duration::ZERO
    } else {
        limits::RENEW_EVERY / u32::try_from(count).unwrap()
    };
    for number in 0..count {
        let mock = MockPlatform::new();
        mock.set_version("1");
        mock.set_config(config_of_each.clone());
        if count == 1 {
            mock.set_services((0..SERVICES).map(service).collect());
        }
        let config = mock_config(&format!("{prefix}-{number}"), metrics.clone());
        held.push(subscribe(link.clone(), config, Arc::new(mock)).await.unwrap());
        if !apart.is_zero() {
            tokio::time::sleep(apart).await;
        }
    }
    std::future::pending::<()>().await;
}

fn service(number: usize) -> Service {
    let unit = Unit {
        id: format!("service-{number}-1"),
        status: UnitStatus::Started,
        reason: None,
        since_unix_ms: Some(1_700_000_000_000),
        pid: Some(4_242),
        restarts: 0,
        ports: [("http".to_owned(), 31_000)].into(),
        image: None,
        host: None,
    };
    Service {
        id: format!("default/App/service-{number}").parse().unwrap(),
        address: Some("127.0.0.1:31000".to_owned()),
        metadata: [("generation".to_owned(), format!("{number:016x}"))].into(),
        status: ServiceStatus::Ready,
        units: vec![unit],
        excuse: None,
    }
}
