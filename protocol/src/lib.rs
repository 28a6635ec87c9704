//! What a hub and its agents say to each other.
//!
//! This crate is pure: it knows no runtime, no NATS client and no clock. It is the only place where a subject, a wire
//! field or a limit is spelled. Suggested reading order:
//!
//! | module | what it holds |
//! |---|---|
//! | [`id`] | checked names: instance, epoch, boot, store, request, resource |
//! | [`subject`] | every subject and pattern, printed and parsed |
//! | [`frame`] | the binary header that heads each payload |
//! | [`wire`] | MessagePack bodies, and enums that survive a newer peer |
//! | [`call`] | the call table: name, version, mutating or not, types |
//! | [`platform`] | what the calls carry: services, units, definitions, actions, log lines |
//! | [`bundle`], [`job`] | bundles and how they stand; durable operations and how far they are |
//! | [`capacity`] | what an instance has room for, and the addresses in use |
//! | [`session`] | claim, ready, renewal, kick, go |
//! | [`error`] | codes, effects, help |
//! | [`limits`] | every bound, with its reason |
//! | [`version`] | versions of the frame and of the call set |
//!
//! `docs/protocol.md` says the same for someone who writes an agent in another language.

pub mod bundle;
pub mod call;
pub mod capacity;
pub mod error;
pub mod frame;
pub mod id;
pub mod job;
pub mod limits;
pub mod platform;
pub mod session;
pub mod subject;
pub mod version;
pub mod wire;

pub use call::Method;
pub use error::{CallError, Code, Effect, ItemError};
pub use id::{
    AttemptId, BootId, ContentDigest, Epoch, InstanceId, JobId, Name, ReplicaId, RequestId, ResourceId,
    StoreId, WorkloadId,
};
