//! Which instances there are, who serves them, and whether they are there: what the session driver writes, and callers
//! and the hub's API read.

use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::watch;
use towline_protocol::session::{ClaimOutcome, Health, Renewal};
use towline_protocol::{BootId, Epoch, InstanceId, StoreId};

use crate::authority::{Grant, Replicas};
use crate::clock::{self, Moment};
use crate::event::EventKind;
use crate::map::QuickMap;
use crate::presence::{Change, Presence};
use crate::session::{HubEffect, HubEvent, HubSession, Target};

/// An instance as it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceView {
    /// Which one.
    pub instance: InstanceId,
    /// Whether it is there.
    pub presence: PresenceView,
    /// The epoch that serves, or served last.
    pub epoch: Option<Epoch>,
    /// The process behind it.
    pub boot: Option<BootId>,
    /// The store behind the process.
    pub store: Option<StoreId>,
    /// The agent's build, if this hub heard it.
    pub version: Option<String>,
    /// The agent's runtime, if this hub heard it.
    pub runtime: Option<String>,
    /// The calls that it answers.
    pub calls: Vec<String>,
    /// How its work stands, as of its last heartbeat.
    pub health: Health,
    /// The digest of what it has applied, as of its last heartbeat.
    pub applied: Bytes,
}

/// Whether an instance is there, with the age of that knowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceView {
    /// It was heard within the bound.
    Connected {
        /// Since when, in Unix milliseconds of the hub's clock.
        since_unix_ms: u64,
        /// How long ago it was heard last.
        last_heard_ms_ago: u64,
    },
    /// It was not.
    Unreachable {
        /// When it was heard last, or this hub began to listen.
        since_unix_ms: u64,
    },
    /// It never served.
    NeverSeen,
}

impl PresenceView {
    fn of(presence: Presence, now: Moment, unix_ms: u64) -> Self {
        let ms_since = |then: Moment| u64::try_from(now.since(then).as_millis()).unwrap_or(u64::MAX);
        match presence {
            Presence::NeverSeen => Self::NeverSeen,
            Presence::Connected { since, heard } => Self::Connected {
                since_unix_ms: unix_ms.saturating_sub(ms_since(since)),
                last_heard_ms_ago: ms_since(heard),
            },
            Presence::Unreachable { since } => {
                Self::Unreachable { since_unix_ms: unix_ms.saturating_sub(ms_since(since)) }
            }
        }
    }
}

/// What an agent says of its health is shown to people, in a line.
const HEALTH_CHARS_MAX: usize = 512;

/// A digest is 32 bytes; a newer agent's may be longer.
const DIGEST_BYTES_MAX: usize = 64;

/// One instance's machines.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) session: HubSession,
    /// Who was called last. One that is active, and waits for those before it, has not been yet.
    served: Option<Target>,
    pub(super) presence: Presence,
    pub(super) health: Health,
    pub(super) applied: Bytes,
    /// The number of the last heartbeat of the session that serves.
    pub(super) last_heartbeat: u32,
}

impl Entry {
    /// Of an instance that never served.
    pub(super) fn new(replicas: Replicas) -> Self {
        Self {
            session: HubSession::new(replicas),
            served: None,
            presence: Presence::NeverSeen,
            health: Health::default(),
            applied: Bytes::new(),
            last_heartbeat: 0,
        }
    }
}

/// All instances. Its lock is held for moments only, never across an await.
#[derive(Debug)]
pub(super) struct Roster {
    entries: Mutex<QuickMap<InstanceId, Entry>>,
    changed: watch::Sender<u64>,
}

impl Roster {
    /// What a hub begins with: everyone who served before, unreachable until heard.
    pub(super) fn restored(replicas: Replicas, grants: Vec<(InstanceId, Grant)>) -> Self {
        let now = clock::now();
        let entry = |grant: &Grant| Entry {
            session: HubSession::restored(replicas, now, grant),
            presence: Presence::Unreachable { since: now },
            ..Entry::new(replicas)
        };
        let entries = grants.iter().map(|(instance, grant)| (instance.clone(), entry(grant))).collect();
        Self { entries: Mutex::new(entries), changed: watch::Sender::new(0) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, QuickMap<InstanceId, Entry>> {
        self.entries.lock().expect("no holder of this lock panics")
    }

    /// Wakes those who wait for presence.
    pub(super) fn note_change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Where calls go now, and whether anybody is known to be there.
    ///
    /// `look` takes from the target what is needed: a copy of all of it, with every call's name, would be the dearest
    /// part of a call.
    pub(super) fn target<T>(
        &self,
        instance: &InstanceId,
        look: impl FnOnce(&Target) -> T,
    ) -> Result<T, &'static str> {
        let entries = self.lock();
        let Some(entry) = entries.get(instance) else { return Err("was never seen") };
        match (entry.presence, entry.session.target()) {
            (Presence::Connected { .. }, Some(target)) => Ok(look(target)),
            (Presence::NeverSeen, _) => Err("was never seen"),
            (Presence::Unreachable { .. }, _) => Err("is unreachable"),
            // It was learned from the authority, after a race that another hub won: it will claim in a moment.
            (_, None) if entry.session.last().is_some_and(|last| last.calls.is_empty()) => {
                Err("has not said yet what it can")
            }
            (_, None) => Err("is being taken over"),
        }
    }

    /// A valid frame of this session was heard.
    pub(super) fn hear(&self, instance: &InstanceId, epoch: Epoch) {
        if let Some(entry) = self.lock().get_mut(instance)
            && entry.presence.is_connected()
            && entry.session.target().is_some_and(|target| target.epoch == epoch)
        {
            entry.presence.hear(clock::now());
        }
    }

    pub(super) fn view(&self, instance: &InstanceId) -> Option<InstanceView> {
        let (now, unix_ms) = (clock::now(), clock::unix_ms());
        self.lock().get(instance).map(|entry| entry.view(instance, now, unix_ms))
    }

    pub(super) fn views(&self) -> Vec<InstanceView> {
        let (now, unix_ms) = (clock::now(), clock::unix_ms());
        let mut views: Vec<_> =
            self.lock().iter().map(|(instance, entry)| entry.view(instance, now, unix_ms)).collect();
        views.sort_by(|a, b| a.instance.cmp(&b.instance));
        views
    }
}

/// What there is to tell those who watch.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) epoch: Epoch,
    pub(super) kind: EventKind,
    pub(super) heartbeat: u32,
    pub(super) detail: String,
}

impl Entry {
    /// Feeds both machines, and says what is to be done and told.
    pub(super) fn handle(&mut self, now: Moment, event: HubEvent) -> (Vec<HubEffect>, Vec<Told>) {
        let mut told = Vec::new();
        if let HubEvent::Renewal { number, renewal } = &event {
            self.note_renewal(now, *number, renewal, &mut told);
        }
        let said_goodbye = matches!(event, HubEvent::Goodbye { .. });
        let before = self.session.target().map(|target| target.epoch);
        let effects = self.session.handle(now, event);
        let after = self.session.target().map(|target| target.epoch);
        if after.is_some() && (before != after || effects.iter().any(is_resumed)) {
            self.served = self.session.target().cloned();
        }
        match after {
            Some(epoch) if effects.iter().any(is_resumed) => {
                self.hear(now, epoch, "the agent resumed", &mut told)
            }
            Some(_) if before != after => self.presence = Presence::Connected { since: now, heard: now },
            None if said_goodbye && before.is_some() => self.presence.leave(now),
            _ => {}
        }
        (effects, told)
    }

    fn note_renewal(&mut self, now: Moment, number: u32, renewal: &Renewal, told: &mut Vec<Told>) {
        let is_ours = |target: &&Target| (target.epoch, target.boot) == (renewal.epoch, renewal.boot);
        if self.session.target().filter(is_ours).is_none() {
            return;
        }
        self.last_heartbeat = number;
        self.health = renewal.health.clone();
        if let Some(detail) = &mut self.health.detail {
            *detail = detail.chars().take(HEALTH_CHARS_MAX).collect();
        }
        self.applied =
            Bytes::copy_from_slice(renewal.applied.get(..DIGEST_BYTES_MAX).unwrap_or(&renewal.applied));
        self.hear(now, renewal.epoch, "the agent is heard again", told);
    }

    fn hear(&mut self, now: Moment, epoch: Epoch, how: &str, told: &mut Vec<Told>) {
        if self.presence.hear(now) == Some(Change::Returned) {
            let (kind, heartbeat) = (EventKind::Reconnected, self.last_heartbeat);
            told.push(Told { epoch, kind, heartbeat, detail: how.to_owned() });
        }
    }

    /// Who serves, or served last.
    pub(super) fn last(&self) -> Option<&Target> {
        self.served.as_ref().or_else(|| self.session.last())
    }

    fn view(&self, instance: &InstanceId, now: Moment, unix_ms: u64) -> InstanceView {
        let last = self.last();
        let told = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        InstanceView {
            instance: instance.clone(),
            presence: PresenceView::of(self.presence, now, unix_ms),
            epoch: last.map(|target| target.epoch),
            boot: last.map(|target| target.boot),
            store: last.map(|target| target.store),
            version: last.and_then(|target| told(&target.version)),
            runtime: last.and_then(|target| told(&target.runtime)),
            calls: last.map(|target| target.calls.names()).unwrap_or_default(),
            health: self.health.clone(),
            applied: self.applied.clone(),
        }
    }
}

fn is_resumed(effect: &HubEffect) -> bool {
    matches!(effect, HubEffect::AnswerClaim { answer, .. } if answer.outcome == ClaimOutcome::Resumed)
}
