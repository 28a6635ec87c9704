//! Who grants epochs. One authority in memory stands here; the hub's store is the other.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use thiserror::Error;
use towline_protocol::{BootId, Epoch, InstanceId, StoreId};

use crate::clock;

/// The session that was activated last for an instance. It is what a restarted hub knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its epoch.
    pub epoch: Epoch,
    /// The process behind it.
    pub boot: BootId,
    /// The store behind the process.
    pub store: StoreId,
    /// The epoch from which on no other store was active; none where no other is known. A store that served last under
    /// an older one was passed over.
    pub since: Option<Epoch>,
    /// Its agent said goodbye: nobody need wait for its lease.
    pub ended: bool,
}

/// The outcome of a compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activation {
    /// The grant is active now, and durable.
    Won,
    /// Somebody else's is.
    Lost {
        /// The one that is active.
        active: Option<Grant>,
    },
    /// Nobody knows: read [`Authority::active`] again.
    Unknown,
}

/// Who else asks the same authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replicas {
    /// Nobody: one process at a time has it, and knows all leases that are given.
    One,
    /// Other hubs, now or at any time. What they said to an agent is not known here.
    Several,
}

/// What a claim is known by: its repetitions, and the other replicas that hear it, are given the same epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimId {
    /// The process that claims.
    pub boot: BootId,
    /// Drawn anew for each claim.
    pub nonce: u64,
}

/// Why an authority could not answer. Nothing was granted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the authority over epochs failed: {reason}")]
pub struct AuthorityError {
    /// What went wrong.
    pub reason: String,
}

/// Grants epochs. Implementations are durable to their own degree, and say which.
///
/// All methods are cancel safe in this sense: a call that was dropped may have taken effect, and repeating it is sound.
#[async_trait]
pub trait Authority: Send + Sync + 'static {
    /// Whether other hubs may ask it, too. Whoever says [`Replicas::One`] sees to it that it is so.
    fn replicas(&self) -> Replicas {
        Replicas::Several
    }

    /// Reserves an epoch above every one reserved before for this instance, and above `above`, the last one that the
    /// claimer saw. If the last reservation was made for the same claim, it is returned again. A store that is new starts
    /// at Unix milliseconds, so that epochs do not go back even after a restored backup.
    ///
    /// # Errors
    /// When the store fails, or no epoch is left below 2^53.
    async fn reserve(
        &self,
        instance: &InstanceId,
        claim: ClaimId,
        above: Option<Epoch>,
    ) -> Result<Epoch, AuthorityError>;

    /// Makes `grant` the active one if `expected` still is, and it is newer.
    ///
    /// # Errors
    /// When the store fails before anything was written.
    async fn activate(
        &self,
        instance: &InstanceId,
        expected: Option<Epoch>,
        grant: Grant,
    ) -> Result<Activation, AuthorityError>;

    /// Notes that the session of this epoch ended of its own will, if it is still the active one.
    ///
    /// # Errors
    /// When the store fails; its lease will be waited for then.
    async fn end(&self, instance: &InstanceId, epoch: Epoch) -> Result<(), AuthorityError>;

    /// The active grant of one instance: no older than what was active, to any replica, when this was asked. Each renewal
    /// asks it, so it should answer from memory, at its first poll.
    ///
    /// # Errors
    /// When the store fails, or does not know.
    async fn active(&self, instance: &InstanceId) -> Result<Option<Grant>, AuthorityError>;

    /// All active grants: what a hub starts from.
    ///
    /// # Errors
    /// When the store fails.
    async fn all_active(&self) -> Result<Vec<(InstanceId, Grant)>, AuthorityError>;

    /// Forgets the active grant of an instance that was deleted. Its reservations stay: should the name come back, its
    /// epochs still grow.
    ///
    /// # Errors
    /// When the store fails.
    async fn forget(&self, instance: &InstanceId) -> Result<(), AuthorityError>;
}

/// The epoch that follows what was reserved before and what the claimer saw: the rule that every authority follows.
///
/// # Errors
/// When it would pass 2^53.
pub fn next_epoch(
    reserved: Option<Epoch>,
    above: Option<Epoch>,
    now_unix_ms: u64,
) -> Result<Epoch, AuthorityError> {
    let floor = reserved.map_or(now_unix_ms, Epoch::get).max(above.map_or(0, Epoch::get));
    Epoch::new(floor.saturating_add(1)).map_err(|error| AuthorityError { reason: error.to_string() })
}

/// An authority whose grants last as long as the process: for hubs without a store, and for tests.
#[derive(Debug)]
pub struct MemoryAuthority {
    instances: Mutex<HashMap<InstanceId, Entry>>,
    replicas: Replicas,
}

impl Default for MemoryAuthority {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug, Default)]
struct Entry {
    reserved: Option<Epoch>,
    reserved_for: Option<ClaimId>,
    active: Option<Grant>,
}

impl MemoryAuthority {
    /// For one hub at a time. Has granted nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { instances: Mutex::default(), replicas: Replicas::One }
    }

    /// For several hubs in this process. Has granted nothing yet.
    #[must_use]
    pub fn shared() -> Self {
        Self { replicas: Replicas::Several, ..Self::new() }
    }

    fn with<R>(&self, instance: &InstanceId, work: impl FnOnce(&mut Entry) -> R) -> R {
        let mut instances = self.instances.lock().expect("no holder of this lock panics");
        work(instances.entry(instance.clone()).or_default())
    }
}

#[async_trait]
impl Authority for MemoryAuthority {
    fn replicas(&self) -> Replicas {
        self.replicas
    }

    async fn reserve(
        &self,
        instance: &InstanceId,
        claim: ClaimId,
        above: Option<Epoch>,
    ) -> Result<Epoch, AuthorityError> {
        self.with(instance, |entry| {
            if let Some(epoch) = entry.reserved.filter(|_| entry.reserved_for == Some(claim)) {
                return Ok(epoch);
            }
            let epoch = next_epoch(entry.reserved, above, clock::unix_ms())?;
            (entry.reserved, entry.reserved_for) = (Some(epoch), Some(claim));
            Ok(epoch)
        })
    }

    async fn activate(
        &self,
        instance: &InstanceId,
        expected: Option<Epoch>,
        grant: Grant,
    ) -> Result<Activation, AuthorityError> {
        Ok(self.with(instance, |entry| {
            let active = entry.active.as_ref().map(|grant| grant.epoch);
            if active == expected && active < Some(grant.epoch) {
                entry.active = Some(grant);
                Activation::Won
            } else {
                Activation::Lost { active: entry.active.clone() }
            }
        }))
    }

    async fn end(&self, instance: &InstanceId, epoch: Epoch) -> Result<(), AuthorityError> {
        self.with(instance, |entry| {
            if let Some(active) = entry.active.as_mut().filter(|active| active.epoch == epoch) {
                active.ended = true;
            }
        });
        Ok(())
    }

    async fn active(&self, instance: &InstanceId) -> Result<Option<Grant>, AuthorityError> {
        // Whoever only asks leaves no trace.
        let instances = self.instances.lock().expect("no holder of this lock panics");
        Ok(instances.get(instance).and_then(|entry| entry.active.clone()))
    }

    async fn all_active(&self) -> Result<Vec<(InstanceId, Grant)>, AuthorityError> {
        let instances = self.instances.lock().expect("no holder of this lock panics");
        Ok(instances
            .iter()
            .filter_map(|(instance, entry)| Some((instance.clone(), entry.active.clone()?)))
            .collect())
    }

    async fn forget(&self, instance: &InstanceId) -> Result<(), AuthorityError> {
        self.with(instance, |entry| entry.active = None);
        Ok(())
    }
}
