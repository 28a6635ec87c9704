//! The hub's half of the bus: it keeps the sessions, knows who is there, and makes calls.

mod driver;
mod remote;
mod roster;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use towline_protocol::subject::{Pattern, Root};
use towline_protocol::{CallError, Code, InstanceId, ReplicaId};
use uuid::Uuid;

use crate::authority::{Authority, AuthorityError};
use crate::event::BusEvent;
use crate::exchange::Caller;
use crate::metrics::BusMetrics;
use crate::platform::{CallContext, Platform as _};
use crate::task::Tasks;
use crate::transport::{LinkState, SubscribeError, Transport};

use self::driver::Driver;
use self::roster::Roster;

pub use self::remote::Remote;
pub use self::roster::{InstanceView, PresenceView};

/// Events that wait for whoever stores them. A fleet of ten thousand that comes back makes as many; storing one takes
/// well under a millisecond in a batch.
const EVENTS_MAX: usize = 16_384;

/// How long the bus's tasks may take to end: they only finish what they hold in hand.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What a bus is told at its start.
#[derive(Debug, Clone)]
pub struct BusConfig {
    /// The first token of every subject.
    pub root: Root,
    /// This replica's reply space.
    pub replica: ReplicaId,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self { root: Root::default(), replica: ReplicaId::new(Uuid::new_v4()) }
    }
}

/// Why a bus did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The authority does not say who serves.
    #[error("could not read the active sessions")]
    Authority(#[source] AuthorityError),
    /// The transport does not take subscriptions.
    #[error("could not listen on the bus")]
    Subscribe(#[source] SubscribeError),
}

/// The hub's half of the bus. Clones are the same bus.
#[derive(Debug, Clone)]
pub struct MessageBus {
    roster: Arc<Roster>,
    caller: Caller,
    authority: Arc<dyn Authority>,
    transport: Arc<dyn Transport>,
    tasks: Tasks,
}

impl std::fmt::Debug for dyn Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl MessageBus {
    /// Reads who served last, and begins to listen. Events come out of the receiver; whoever stores them must keep up.
    ///
    /// # Errors
    /// [`StartError`]; nothing goes on in the background then.
    pub async fn start(
        transport: Arc<dyn Transport>,
        authority: Arc<dyn Authority>,
        config: BusConfig,
        metrics: BusMetrics,
    ) -> Result<(Self, mpsc::Receiver<BusEvent>), StartError> {
        let grants = authority.all_active().await.map_err(StartError::Authority)?;
        let roster = Arc::new(Roster::restored(authority.replicas(), grants));
        let tasks = Tasks::new();
        let hearing = roster.clone();
        let caller = Caller::start(
            transport.clone(),
            config.root.clone(),
            config.replica,
            metrics.clone(),
            tasks.clone(),
            move |instance, epoch| hearing.hear(instance, epoch),
        )
        .await
        .map_err(StartError::Subscribe)?;
        let subscribe = |pattern: Pattern| transport.subscribe(config.root.pattern(&pattern), None);
        let asks = subscribe(Pattern::Asks).await.map_err(StartError::Subscribe)?;
        let heartbeats = subscribe(Pattern::Heartbeats).await.map_err(StartError::Subscribe)?;
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let driver = Driver::new(
            transport.clone(),
            config.root,
            authority.clone(),
            roster.clone(),
            metrics.clone(),
            events,
            tasks.clone(),
        );
        tasks.spawn("bus sessions", driver.run(asks, heartbeats));
        let counting = metrics.clone().count_events(transport.events(), tasks.stopping().clone());
        tasks.spawn("bus alarms", counting);
        Ok((Self { roster, caller, authority, transport, tasks }, receiver))
    }

    /// The platform of an instance. It never fails and does no IO: a call to an instance that is not there answers
    /// `unavailable`, at once.
    #[must_use]
    pub fn connect(&self, instance: &InstanceId) -> Remote {
        Remote::new(instance.clone(), self.roster.clone(), self.authority.clone(), self.caller.clone())
    }

    /// A round trip through an instance's platform.
    ///
    /// # Errors
    /// As every call.
    pub async fn ping(&self, instance: &InstanceId) -> Result<(), CallError> {
        self.connect(instance).ping(&CallContext::new()).await
    }

    /// Waits until an instance is connected. Cancel safe.
    ///
    /// # Errors
    /// `unavailable` when it is not within the time.
    pub async fn await_presence(&self, instance: &InstanceId, within: Duration) -> Result<(), CallError> {
        let mut changes = self.roster.changes();
        let present = async {
            while self.roster.target(instance, |_| ()).is_err() {
                // The sender lives in the roster that we hold.
                let _ = changes.changed().await;
            }
        };
        tokio::time::timeout(within, present).await.map_err(|_| {
            CallError::new(Code::Unavailable, format!("{instance} did not connect within {within:?}"))
        })
    }

    /// Every instance that served since this hub's store knows it, by id.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceView> {
        self.roster.views()
    }

    /// One of them.
    #[must_use]
    pub fn instance(&self, instance: &InstanceId) -> Option<InstanceView> {
        self.roster.view(instance)
    }

    /// Forgets an instance: its session is not known any more, and an agent that still renews must claim anew.
    ///
    /// # Errors
    /// When the authority fails; then it is not forgotten.
    pub async fn forget(&self, instance: &InstanceId) -> Result<(), AuthorityError> {
        self.authority.forget(instance).await?;
        self.roster.lock().remove(instance);
        self.roster.note_change();
        Ok(())
    }

    /// Whether this hub reaches the bus.
    #[must_use]
    pub fn link(&self) -> LinkState {
        *self.transport.link().borrow()
    }

    /// Stops listening. Calls under way end as lost.
    pub async fn stop(&self) {
        if !self.tasks.stop(STOP_GRACE).await {
            tracing::warn!("tasks of the bus did not end in time");
        }
    }
}
