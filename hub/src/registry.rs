//! Which instances there are, and how each stands: what the store has on record, beside what the bus hears.
//!
//! The two are merged when somebody looks, never before: nothing here can go stale on its own. An instance that a session
//! serves and nobody created is put on record when it is first seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use thiserror::Error;
use towline_bus::authority::AuthorityError;
use towline_bus::message_bus::{InstanceView, MessageBus, PresenceView};
use towline_bus::transport::LinkState;
use towline_protocol::InstanceId;

use crate::limits;
use crate::store::{InstanceRecord, Origin, Store, StoreError};

/// One instance: its record, and what the bus knows of it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is on record.
    pub record: InstanceRecord,
    /// What the bus knows; `None` when no session ever served it.
    pub view: Option<InstanceView>,
}

impl Entry {
    /// Whether a session is heard now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.view, Some(InstanceView { presence: PresenceView::Connected { .. }, .. }))
    }

    /// The word for its presence: `connected`, `unreachable` or `never_seen`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.view.as_ref().map(|view| &view.presence) {
            Some(PresenceView::Connected { .. }) => "connected",
            Some(PresenceView::Unreachable { .. }) => "unreachable",
            Some(PresenceView::NeverSeen) | None => "never_seen",
        }
    }
}

/// Why an instance was not created.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CreateInstanceError {
    /// Somebody created it before.
    #[error("the instance `{id}` exists already")]
    Exists {
        /// The instance.
        id: InstanceId,
    },
    /// The hub has as many as it takes.
    #[error("the hub has {} instances on record and takes no more", limits::INSTANCES_MAX)]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an instance was not deleted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeleteInstanceError {
    /// There is none of this id.
    #[error("there is no instance `{id}`")]
    NotFound {
        /// The instance.
        id: InstanceId,
    },
    /// An agent serves it, and would put it on record again at once.
    #[error("the instance `{id}` is connected")]
    Connected {
        /// The instance.
        id: InstanceId,
    },
    /// The authority over epochs failed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The registry of one hub.
#[derive(Debug, Clone)]
pub struct Registry {
    store: Store,
    bus: MessageBus,
    records: Arc<Mutex<BTreeMap<InstanceId, InstanceRecord>>>,
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl Registry {
    /// Reads what is on record.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn load(store: Store, bus: MessageBus) -> Result<Self, StoreError> {
        let records = store.all_instances().await?.into_iter().map(|record| (record.id.clone(), record));
        let records = Arc::new(Mutex::new(records.collect()));
        Ok(Self { store, bus, records, changing: Arc::default() })
    }

    /// Whether the hub itself reaches the bus. While it does not, presence stands still.
    #[must_use]
    pub fn link(&self) -> LinkState {
        self.bus.link()
    }

    /// All instances, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Entry> {
        let mut views: BTreeMap<_, _> =
            self.bus.instances().into_iter().map(|view| (view.instance.clone(), view)).collect();
        let records = self.lock();
        let mut all: Vec<_> = records
            .values()
            .map(|record| Entry { record: record.clone(), view: views.remove(&record.id) })
            .collect();
        drop(records);
        all.extend(views.into_values().filter_map(not_yet_on_record));
        all.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        all
    }

    /// One instance.
    #[must_use]
    pub fn get(&self, instance: &InstanceId) -> Option<Entry> {
        let view = self.bus.instance(instance);
        let record = self.lock().get(instance).cloned();
        match record {
            Some(record) => Some(Entry { record, view }),
            None => view.and_then(not_yet_on_record),
        }
    }

    /// Puts an instance on record. One that was merely seen becomes a created one. Durable before the answer.
    ///
    /// # Errors
    /// [`CreateInstanceError`]; nothing was changed then.
    pub async fn create(
        &self,
        id: InstanceId,
        labels: BTreeMap<String, String>,
        now_unix_ms: u64,
    ) -> Result<Entry, CreateInstanceError> {
        let changing = self.changing.lock().await;
        let (found, count) = {
            let records = self.lock();
            (records.get(&id).cloned(), records.len())
        };
        let created_unix_ms = match found {
            Some(InstanceRecord { origin: Origin::FirstSeen, created_unix_ms, .. }) => created_unix_ms,
            Some(_) => return Err(CreateInstanceError::Exists { id }),
            None if count >= limits::INSTANCES_MAX => return Err(CreateInstanceError::Full),
            None => now_unix_ms,
        };
        let record = InstanceRecord { id, labels, created_unix_ms, origin: Origin::Created };
        self.put(record.clone()).await?;
        drop(changing);
        let view = self.bus.instance(&record.id);
        Ok(Entry { record, view })
    }

    /// Puts an instance on record because a session serves it. Does nothing if it is there.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn saw(&self, id: &InstanceId, now_unix_ms: u64) -> Result<(), StoreError> {
        if self.lock().contains_key(id) {
            return Ok(());
        }
        let _changing = self.changing.lock().await;
        let (known, count) = {
            let records = self.lock();
            (records.contains_key(id), records.len())
        };
        if known {
            return Ok(());
        }
        if count >= limits::INSTANCES_MAX {
            tracing::warn!(instance = %id, "not put on record: the hub has as many instances as it takes");
            return Ok(());
        }
        let record = InstanceRecord {
            id: id.clone(),
            labels: BTreeMap::new(),
            created_unix_ms: now_unix_ms,
            origin: Origin::FirstSeen,
        };
        self.put(record).await
    }

    /// Takes an instance off the record and forgets its session; its epochs still grow should it come back. With `force`
    /// also while it is connected.
    ///
    /// # Errors
    /// [`DeleteInstanceError`]; after a store's failure repeating the call is sound.
    pub async fn delete(&self, id: &InstanceId, force: bool) -> Result<(), DeleteInstanceError> {
        let _changing = self.changing.lock().await;
        let entry = self.get(id).ok_or_else(|| DeleteInstanceError::NotFound { id: id.clone() })?;
        if entry.is_connected() && !force {
            return Err(DeleteInstanceError::Connected { id: id.clone() });
        }
        self.bus.forget(id).await?;
        self.store.remove_instance(id).await?;
        self.lock().remove(id);
        Ok(())
    }

    /// The store first, then memory: what is shown is durable.
    async fn put(&self, record: InstanceRecord) -> Result<(), StoreError> {
        self.store.put_instance(record.clone()).await?;
        self.lock().insert(record.id.clone(), record);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, InstanceRecord>> {
        self.records.lock().expect("no holder of this lock panics")
    }
}

/// An instance that is served while its first event is still on its way to the store.
fn not_yet_on_record(view: InstanceView) -> Option<Entry> {
    let seen_unix_ms = match view.presence {
        PresenceView::Connected { since_unix_ms, .. } | PresenceView::Unreachable { since_unix_ms } => {
            since_unix_ms
        }
        PresenceView::NeverSeen => return None,
    };
    let record = InstanceRecord {
        id: view.instance.clone(),
        labels: BTreeMap::new(),
        created_unix_ms: seen_unix_ms,
        origin: Origin::FirstSeen,
    };
    Some(Entry { record, view: Some(view) })
}
