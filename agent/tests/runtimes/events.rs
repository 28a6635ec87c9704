//! What an engine does, heard from before the first act on: it remembers the last few hundred events alone, and all tests beside
//! this one make some.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::{EventMessage, VolumeCreateRequest},
    query_parameters::{EventsOptions, RemoveVolumeOptions},
};
use futures::StreamExt as _;
use tokio::{task::JoinHandle, time::Instant};

use crate::engine::Engine;

/// How long anything may take. No healthy machine gets there.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something that an engine did with a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Such as `create`; what an `exec` ran is left out.
    pub(crate) action: String,
    labels: HashMap<String, String>,
}

impl Event {
    /// The app of the container, empty if it has none.
    pub(crate) fn app(&self) -> &str {
        self.label("dev.towline.app")
    }

    /// The role of a helper, empty for a unit.
    pub(crate) fn role(&self) -> &str {
        self.label("dev.towline.role")
    }

    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

async fn client(engine: &Engine) -> Docker {
    let socket = engine.socket.display().to_string();
    let client = Docker::connect_with_unix(&socket, 24 * 3600, API_DEFAULT_VERSION).unwrap();
    client.negotiate_version().await.unwrap()
}

/// Listens to an engine until it is dropped.
pub(crate) struct Events {
    instance: String,
    heard: Arc<Mutex<Vec<EventMessage>>>,
    listener: JoinHandle<()>,
}

impl Events {
    /// Events of the containers of `instance`, from here on.
    pub(crate) async fn of(engine: &Engine, instance: &str) -> Self {
        let client = client(engine).await;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        let listener = tokio::spawn(async move {
            let mut events = client.events(None::<EventsOptions>);
            while let Some(Ok(event)) = events.next().await {
                all.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
        });
        let events = Self { instance: instance.to_owned(), heard, listener };
        events.catch_up(engine).await;
        events
    }

    /// Waits until all is heard that the engine has done by now: until it tells of something that is done for that alone.
    async fn catch_up(&self, engine: &Engine) {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let begun = Instant::now();
        loop {
            // Each time another, for the first may be made before the engine is listened to.
            let name = format!("towline-heard-{}", MADE.fetch_add(1, Ordering::Relaxed));
            engine.docker(&["volume", "create", &name]);
            engine.docker(&["volume", "rm", &name]);
            let tried = Instant::now();
            while tried.elapsed() < Duration::from_secs(2) {
                if self.has_heard_of(&name) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(begun.elapsed() < PATIENCE && !self.listener.is_finished(), "the engine tells no events");
        }
    }

    fn has_heard_of(&self, id: &str) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().any(|event| event.actor.as_ref().is_some_and(|actor| actor.id.as_deref() == Some(id)))
    }

    fn now(&self) -> Vec<Event> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let event = |event: &EventMessage| {
            let labels = event.actor.clone()?.attributes?;
            let is_ours = labels.get("dev.towline.instance") == Some(&self.instance);
            is_ours.then_some(Event { action: event.action.clone()?, labels })
        };
        heard.iter().filter_map(event).collect()
    }

    /// All that the engine has done by now, in its order.
    pub(crate) async fn all(&self, engine: &Engine) -> Vec<Event> {
        self.catch_up(engine).await;
        self.now()
    }

    /// Waits until it has done something so many times, and no more often.
    pub(crate) async fn counted(&self, action: &str, count: usize) {
        let begun = Instant::now();
        while self.now().iter().filter(|event| event.action == action).count() != count {
            assert!(begun.elapsed() < PATIENCE, "{action}: {:?}", self.now());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// However much the engine does between an act and its counting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_forgotten_that_came_after_the_first() {
    let engine = Engine::without_network("events");
    let label = "dev.towline.instance=test/heard";
    let events = Events::of(&engine, "test/heard").await;
    let create = ["create", "--label", label, "--label", "dev.towline.app=a", crate::engine::IMAGE];
    let id = engine.docker(&create);
    // More than it remembers.
    let client = client(&engine).await;
    for _ in 0..300 {
        let volume =
            VolumeCreateRequest { name: Some("filler".to_owned()), ..VolumeCreateRequest::default() };
        client.create_volume(volume).await.unwrap();
        client.remove_volume("filler", None::<RemoveVolumeOptions>).await.unwrap();
    }
    engine.docker(&["rm", &id]);
    let all = events.all(&engine).await;
    let told: Vec<(&str, &str)> = all.iter().map(|event| (event.action.as_str(), event.app())).collect();
    assert_eq!(told, [("create", "a"), ("destroy", "a")]);
    engine.end();
}
