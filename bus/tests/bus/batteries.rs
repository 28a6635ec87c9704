//! Both batteries over the memory transport.

use std::sync::Arc;

use async_trait::async_trait;
use towline_bus::Transport;
use towline_bus::platform::{BATTERY, Ends};
use towline_bus::transport::battery::{self, Venue};
use towline_bus::transport::memory::{MemoryBroker, MemoryTransport, Permissions};

use super::fixture::Hub;

/// X-B1 to X-B12, X-B15, X-B18: hub's bus, memory transport, agent's bus, mock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_b1_to_b18_over_memory() {
    let hub = Hub::start().await;
    let agent = hub.serving("battery").await;
    let remote = hub.connect("battery");
    for case in BATTERY {
        println!("{}", case.name);
        case.run(Ends { near: &remote, far: &agent.mock }).await;
    }
    assert_eq!(hub.metrics.in_flight.get(), 0);
}

/// The battery holds for the mock itself, without anything between.
#[tokio::test]
async fn the_mock_passes_its_own_battery() {
    let mock = towline_bus::platform::MockPlatform::new();
    towline_bus::platform::battery(Ends { near: &mock, far: &mock }).await;
}

#[derive(Default)]
struct Memory {
    broker: MemoryBroker,
    connections: std::sync::Mutex<Vec<Arc<MemoryTransport>>>,
}

impl Memory {
    fn find(&self, connection: &Arc<dyn Transport>) -> Arc<MemoryTransport> {
        let wanted = Arc::as_ptr(connection).cast::<()>();
        let connections = self.connections.lock().unwrap();
        connections.iter().find(|known| Arc::as_ptr(known).cast::<()>() == wanted).unwrap().clone()
    }
}

#[async_trait]
impl Venue for Memory {
    async fn connect(
        &self,
        publish: Option<Vec<String>>,
        subscribe: Option<Vec<String>>,
    ) -> Arc<dyn Transport> {
        let connection = self.broker.connect_with(Permissions { publish, subscribe });
        self.connections.lock().unwrap().push(connection.clone());
        connection
    }

    async fn cut(&self, connection: &Arc<dyn Transport>) {
        self.find(connection).cut();
    }

    async fn join(&self, connection: &Arc<dyn Transport>) {
        self.find(connection).join();
    }
}

#[tokio::test]
async fn transport_battery_over_memory() {
    battery::battery(&Memory::default()).await;
}
