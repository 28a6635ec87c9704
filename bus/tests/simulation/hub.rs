//! A hub's process: for each instance a session and presence, fed as `message_bus::roster` feeds them.

use std::collections::VecDeque;
use std::time::Duration;

use towline_bus::authority::{Grant, Replicas};
use towline_bus::clock::Moment;
use towline_bus::presence::{Change, Hearing, Presence};
use towline_bus::session::{HubEffect, HubEvent, HubSession};
use towline_protocol::session::ClaimOutcome;
use towline_protocol::{Epoch, limits};

/// How often a hub looks at the clock.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// A freeze that a hub certainly notices is longer than this.
const SHORT_FREEZE: Duration = Duration::from_millis(1_250);

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) session: HubSession,
    pub(crate) presence: Presence,
    /// When anything of the instance last came to this process: what presence is measured against.
    pub(crate) truly_heard: Moment,
}

#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) up: bool,
    /// Which process this is; answers to an earlier one are for nobody.
    pub(crate) process: u64,
    pub(crate) linked: bool,
    pub(crate) frozen: bool,
    pub(crate) hearing: Hearing,
    /// It has seen by itself that its link was lost.
    saw_loss: bool,
    /// Since when it can hear again after it could not for long, by what is known from outside.
    pub(crate) hears_since: Moment,
    /// The latest moment up to which it may take silence for its own.
    pub(crate) deaf_until: Moment,
    frozen_at: Moment,
    /// Since a freeze it has not looked at the clock before this.
    pub(crate) looks_by: Moment,
    pub(crate) entries: Vec<Entry>,
    /// What came while it was frozen.
    pub(crate) waiting: VecDeque<(usize, HubEvent)>,
}

impl Hub {
    /// A process that starts from what the authority knows.
    pub(crate) fn start(process: u64, now: Moment, replicas: Replicas, grants: &[Option<Grant>]) -> Self {
        let entry = |grant: &Option<Grant>| Entry {
            session: grant.as_ref().map_or_else(
                || HubSession::new(replicas),
                |grant| HubSession::restored(replicas, now, grant),
            ),
            presence: grant.as_ref().map_or(Presence::NeverSeen, |_| Presence::Unreachable { since: now }),
            truly_heard: now,
        };
        Self {
            up: true,
            process,
            linked: true,
            frozen: false,
            hearing: Hearing::new(now),
            saw_loss: false,
            hears_since: now,
            deaf_until: now,
            frozen_at: now,
            looks_by: now,
            entries: grants.iter().map(entry).collect(),
            waiting: VecDeque::new(),
        }
    }

    pub(crate) fn freeze(&mut self, now: Moment) {
        (self.frozen, self.frozen_at) = (true, now);
    }

    pub(crate) fn thaw(&mut self, now: Moment) {
        self.frozen = false;
        // Shorter ones it need not notice: they are no longer than a heartbeat may be late.
        if now.since(self.frozen_at) > SHORT_FREEZE {
            self.hears_since = now;
        }
        self.looks_by = now + TICK;
        self.deaf_until = now + TICK + limits::RENEW_EVERY;
    }

    /// The link is lost, or there again. Its driver hears of it, or looks at the clock before it does.
    pub(crate) fn link(&mut self, now: Moment, linked: bool, is_told: bool) {
        if linked && !self.linked {
            self.hears_since = now;
            self.deaf_until = now + TICK + limits::RENEW_EVERY;
            // The news comes in the end: of an outage between two looks it is all that its driver has.
            if is_told || !self.saw_loss {
                self.hearing.regain(now);
            }
            self.saw_loss = false;
        }
        self.linked = linked;
    }

    pub(crate) const fn hears(&self) -> bool {
        self.up && self.linked
    }

    /// Where a call to the instance would go.
    pub(crate) fn target(&self, instance: usize) -> Option<Epoch> {
        let entry = &self.entries[instance];
        entry.session.target().filter(|_| entry.presence.is_connected()).map(|target| target.epoch)
    }

    /// Feeds one instance's machines.
    pub(crate) fn feed(&mut self, now: Moment, instance: usize, event: HubEvent) -> Vec<HubEffect> {
        let entry = &mut self.entries[instance];
        let from_authority = matches!(
            event,
            HubEvent::Reserved { .. } | HubEvent::Activated { .. } | HubEvent::EpochRead { .. }
        );
        if !from_authority && event != HubEvent::Tick {
            entry.truly_heard = now;
        }
        if let (HubEvent::Renewal { renewal, .. }, Some(target)) = (&event, entry.session.target())
            && (target.epoch, target.boot) == (renewal.epoch, renewal.boot)
        {
            entry.presence.hear(now);
        }
        let goodbye = matches!(event, HubEvent::Goodbye { .. });
        let before = entry.session.target().map(|target| target.epoch);
        let effects = entry.session.handle(now, event);
        let after = entry.session.target().map(|target| target.epoch);
        match after {
            Some(_) if effects.iter().any(is_resumed) => {
                entry.presence.hear(now);
            }
            Some(_) if before != after => entry.presence = Presence::Connected { since: now, heard: now },
            None if goodbye && before.is_some() => entry.presence.leave(now),
            _ => {}
        }
        effects
    }

    /// Looks at presence; says which instance it calls lost although it was heard, or its heartbeat waits to be read, or the hub
    /// could not hear it.
    pub(crate) fn look(&mut self, now: Moment) -> Option<String> {
        self.saw_loss |= !self.linked;
        let deaf_until = self.hearing.look(now, self.linked)?;
        let (waiting, hears_since) = (&self.waiting, self.hears_since);
        self.entries.iter_mut().enumerate().find_map(|(instance, entry)| {
            let lost = entry.presence.check(now, deaf_until)?;
            let Change::Lost { silent } = lost else { return Some(format!("odd change {lost:?}")) };
            let wrong = |why: &str| Some(format!("instance {instance} is called lost after {silent:?}{why}"));
            let target = entry.session.target();
            let is_heartbeat = |event: &HubEvent| {
                matches!((event, target), (HubEvent::Renewal { renewal, .. }, Some(target))
                    if (target.epoch, target.boot) == (renewal.epoch, renewal.boot))
            };
            let waits = || waiting.iter().any(|(of, event)| *of == instance && is_heartbeat(event));
            if now.since(hears_since) <= limits::PRESENCE_LOST_AFTER {
                return wrong(if waits() {
                    ", and its heartbeat waits unread"
                } else {
                    ", and the hub was deaf"
                });
            }
            if silent <= limits::PRESENCE_LOST_AFTER { wrong("") } else { None }
        })
    }
}

fn is_resumed(effect: &HubEffect) -> bool {
    matches!(effect, HubEffect::AnswerClaim { answer, .. } if answer.outcome == ClaimOutcome::Resumed)
}
