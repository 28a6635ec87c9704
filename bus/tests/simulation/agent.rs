//! An agent's process: its machine, its lease, what it hears, what waits in its buffers.

use std::collections::{BTreeSet, VecDeque};

use towline_bus::clock::Moment;
use towline_bus::session::{AgentEvent, AgentSession, Ask, HubEvent, Identity, Lease};
use towline_protocol::session::{ClaimMode, Leaving, Ready, Renewal};
use towline_protocol::{BootId, Epoch, StoreId};
use uuid::Uuid;

/// A call, as it travels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) epoch: Epoch,
    pub(crate) attempt: u64,
    /// Up to when it is wanted, in Unix milliseconds on its hub's clock.
    pub(crate) not_after: u64,
}

/// A place where an agent runs, one process after the other.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) instance: usize,
    pub(crate) boot: BootId,
    pub(crate) store: StoreId,
    /// The last epoch that it was told to begin under; its store keeps it, too.
    pub(crate) begun: Option<Epoch>,
    /// Recorded in its store before anything is done under it.
    last_epoch: Option<Epoch>,
    /// None while the process is dead, or has left.
    pub(crate) session: Option<AgentSession>,
    pub(crate) lease: Lease,
    pub(crate) hears: Option<Epoch>,
    pub(crate) linked: bool,
    pub(crate) frozen: bool,
    /// What came while it was frozen: answers and orders, and calls. Two tasks read them, so either may come first.
    pub(crate) events: VecDeque<AgentEvent>,
    pub(crate) calls: VecDeque<Call>,
    pub(crate) running: BTreeSet<u64>,
}

impl Agent {
    pub(crate) fn new(instance: usize, number: usize) -> Self {
        Self {
            instance,
            boot: boot(0),
            store: StoreId::new(Uuid::from_u128(number as u128 + 1)),
            begun: None,
            last_epoch: None,
            session: None,
            lease: Lease::default(),
            hears: None,
            linked: true,
            frozen: false,
            events: VecDeque::new(),
            calls: VecDeque::new(),
            running: BTreeSet::new(),
        }
    }

    /// A new process, over the same store.
    pub(crate) fn boot(&mut self, number: u64) {
        self.die();
        self.boot = boot(number);
    }

    /// Nothing of the process remains but its store.
    pub(crate) fn die(&mut self) {
        (self.session, self.lease, self.hears, self.frozen) = (None, Lease::default(), None, false);
        self.events.clear();
        self.calls.clear();
        self.running.clear();
    }

    pub(crate) fn claim(&mut self, mode: ClaimMode, seed: u64) {
        let identity = Identity {
            boot: self.boot,
            store: self.store,
            last_epoch: self.last_epoch,
            version: "1".into(),
            runtime: "mock".into(),
            calls: vec!["ping".into()],
        };
        self.session = Some(AgentSession::new(identity, mode, seed));
    }

    /// Hears an epoch's subjects from now on, if the bus is reached.
    pub(crate) fn hear(&mut self, epoch: Epoch) -> AgentEvent {
        self.last_epoch = Some(epoch);
        if !self.linked {
            self.hears = None;
            return AgentEvent::NotSubscribed { epoch };
        }
        self.hears = Some(epoch);
        self.lease.expect(epoch);
        AgentEvent::Subscribed { epoch }
    }

    /// The epoch whose calls may begin now. A frozen process may at any moment go on.
    pub(crate) fn may_begin(&self, now: Moment) -> Option<Epoch> {
        self.lease.held(now)
    }

    /// What a question looks like when it arrives at a hub.
    pub(crate) fn question(&self, number: u32, ask: Ask) -> HubEvent {
        let (boot, applied) = (self.boot, bytes::Bytes::new());
        match ask {
            Ask::Claim(claim) => HubEvent::Claim { number, claim },
            Ask::Ready(epoch) => HubEvent::Ready { number, ready: Ready { boot, epoch, applied } },
            Ask::Renewal(epoch) => {
                let renewal = Renewal { boot, epoch, applied, health: Default::default() };
                HubEvent::Renewal { number, renewal }
            }
            Ask::StandDown(epoch) => HubEvent::StoodDown { leaving: Leaving { boot, epoch } },
            Ask::Goodbye(epoch) => HubEvent::Goodbye { leaving: Leaving { boot, epoch } },
        }
    }
}

fn boot(number: u64) -> BootId {
    BootId::new(Uuid::from_u128(u128::from(number) + 0x1000))
}
