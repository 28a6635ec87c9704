//! A state of the protocol: the machines themselves, and what is under way between them.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};
use std::hash::{DefaultHasher, Hasher as _};
use std::rc::Rc;

use towline_bus::authority::{ClaimId, Grant};
use towline_bus::clock::Moment;
use towline_bus::session::{AgentEvent, AgentSession, HubEvent, HubSession};
use towline_protocol::session::SessionOrder;
use towline_protocol::{BootId, Epoch};

/// A part of a state, shared by the states that have it in common, with its fingerprint.
#[derive(Debug, Clone)]
pub(crate) struct Part<T> {
    value: Rc<T>,
    pub(crate) fingerprint: u128,
}

impl<T: Debug> Part<T> {
    pub(crate) fn new(value: T) -> Self {
        let fingerprint = fingerprint(&value);
        Self { value: Rc::new(value), fingerprint }
    }

    pub(crate) fn get(&self) -> &T {
        &self.value
    }

    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R
    where
        T: Clone,
    {
        let mut value = (*self.value).clone();
        let result = change(&mut value);
        *self = Self::new(value);
        result
    }
}

/// Of all that a machine consists of, private fields included: `Debug` tells every field, and no part of the product
/// needs a `Hash` for our sake.
fn fingerprint(value: &impl Debug) -> u128 {
    thread_local! {
        static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
    }
    TEXT.with_borrow_mut(|text| {
        text.clear();
        write!(text, "{value:?}").expect("a string takes everything");
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(salt);
            hasher.write(text.as_bytes());
            u128::from(hasher.finish())
        };
        (half(0) << 64) | half(1)
    })
}

#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) boot: BootId,
    pub(crate) session: AgentSession,
    /// Its last session was kicked, and it came back as a standby.
    pub(crate) came_back: bool,
    pub(crate) lease: Option<(Epoch, Moment)>,
    pub(crate) hears: Option<Epoch>,
    pub(crate) frozen_at: Option<Moment>,
    /// When it asked last, whatever it was: for the mutant that counts from there.
    pub(crate) asked_at: Moment,
}

/// What the authority holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub(crate) reserved: Option<Epoch>,
    pub(crate) reserved_for: Option<ClaimId>,
    pub(crate) active: Option<Grant>,
}

#[derive(Debug, Clone)]
pub(crate) enum Mail {
    /// To those of the hubs whose bit is set. Each may hear it, or miss it.
    ToHubs(u8, HubEvent),
    /// The authority answers one process of a hub at any time: surely, but for what was read.
    FromAuthority(usize, HubEvent),
    /// A mutant keeps its compare-and-set until then.
    Held(usize, Moment, Option<Epoch>, Grant),
    ToAgent(usize, AgentEvent),
    /// To whoever hears the epoch when it arrives.
    Order(SessionOrder),
}

/// What may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) freezes: u8,
    pub(crate) doublings: u8,
    pub(crate) hub_restarts: u8,
    pub(crate) doubts: u8,
}

#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) clock: u8,
    pub(crate) now: Moment,
    pub(crate) hubs: Vec<Part<HubSession>>,
    pub(crate) agents: Vec<Part<Agent>>,
    pub(crate) record: Part<Record>,
    /// A set, in the order of sending.
    pub(crate) mail: Vec<(u8, Part<Mail>)>,
    pub(crate) budget: Budget,
    pub(crate) wrong: Option<&'static str>,
}

impl State {
    pub(crate) fn fingerprint(&self) -> u128 {
        let parts = self.hubs.iter().map(|part| part.fingerprint);
        let parts = parts.chain(self.agents.iter().map(|part| part.fingerprint));
        let parts: Vec<_> = parts.chain([self.record.fingerprint]).collect();
        let mail: Vec<_> = self.mail.iter().map(|(sent, part)| (*sent, part.fingerprint)).collect();
        fingerprint(&(self.clock, parts, mail, self.budget, self.wrong))
    }

    /// Puts a message under way. Of those that cannot be told apart one is enough; of too many the oldest is lost, but
    /// never the authority's.
    pub(crate) fn send(&mut self, mail: Mail, mail_max: usize) {
        let mail = Part::new(mail);
        if self.mail.iter().any(|(_, other)| other.fingerprint == mail.fingerprint) {
            return;
        }
        self.mail.push((self.clock, mail));
        self.mail.sort_by_key(|(sent, mail)| (*sent, mail.fingerprint));
        if self.mail.len() > mail_max {
            let is_lost = |(_, mail): &(u8, Part<Mail>)| match mail.get() {
                Mail::FromAuthority(_, event) => matches!(event, HubEvent::EpochRead { .. }),
                Mail::Held(..) => false,
                _ => true,
            };
            if let Some(oldest) = self.mail.iter().position(is_lost) {
                self.mail.remove(oldest);
            }
        }
    }

    /// Exactly one serves, and every hub calls it.
    pub(crate) fn is_at_rest(&self) -> bool {
        let served =
            self.agents.iter().find_map(|agent| agent.get().lease.filter(|(_, until)| self.now <= *until));
        let Some((epoch, _)) = served.filter(|_| self.serving() == 1) else { return false };
        self.hubs.iter().all(|hub| hub.get().target().is_some_and(|target| target.epoch == epoch))
    }

    pub(crate) fn serving(&self) -> usize {
        let serves = |agent: &Part<Agent>| agent.get().lease.is_some_and(|(_, until)| self.now <= until);
        self.agents.iter().filter(|agent| serves(agent)).count()
    }
}
