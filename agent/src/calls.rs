//! Doing a call once per request id, however often it is asked.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use towline_bus::task::Tasks;
use towline_protocol::{CallError, Code, RequestId, StoreId};

use crate::store::{OutcomeKey, Store};

/// Who asks for a change: enough to do it once.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The caller's id for the call.
    pub request: RequestId,
    /// The store that saw the first attempt, when this is a retry.
    pub pinned: Option<StoreId>,
    /// Cancelled when the caller takes the call back.
    pub cancelled: CancellationToken,
}

/// What a call answers, as it is remembered: nothing, or the response as JSON.
pub(crate) type Answered = Result<Option<String>, CallError>;

type Answer = Shared<BoxFuture<'static, Answered>>;

/// Calls under way, by request id; those that have ended are in the store. Bounded by what the session lets in. Cheap to
/// clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Calls {
    store: Arc<Store>,
    under_way: Arc<Mutex<HashMap<String, (OutcomeKey, Answer)>>>,
    tasks: Tasks,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Calls")
    }
}

/// Digest of what a call asks.
pub(crate) fn question<T: Serialize + ?Sized>(method: &str, args: &T) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(method.as_bytes());
    // Into a hasher, arguments of 64 MiB need no second copy.
    rmp_serde::encode::write(&mut hasher, args)
        .expect("a hasher takes everything, and arguments came from messages");
    hasher.finalize().to_hex().to_string()
}

impl Calls {
    /// `tasks` own the work.
    pub(crate) fn new(store: Arc<Store>, tasks: Tasks) -> Self {
        Self { store, under_way: Arc::default(), tasks }
    }

    /// Does `work` as a task of its own, so that it goes on without its caller; a repetition gets the same answer. The
    /// work itself writes its outcome under the key that it is given, in the transaction of what it did.
    pub(crate) async fn once<W, F>(&self, caller: &Caller, question: String, work: W) -> Answered
    where
        W: FnOnce(OutcomeKey) -> F + Send + 'static,
        F: Future<Output = Answered> + Send + 'static,
    {
        if caller.pinned.is_some_and(|store| store != self.store.id()) {
            return Err(CallError::unknown_outcome("another store of this instance saw the first attempt"));
        }
        let key = OutcomeKey { request: caller.request.to_string(), question };
        let answer = {
            let mut calls = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((known, answer)) = calls.get(&key.request) {
                same(known, &key)?;
                answer.clone()
            } else {
                // Under the same lock: between its end and its memory a call is always found in one of them.
                let remembered = self.store.outcome(&key.request).map_err(|error| error.refusal())?;
                if let Some((known, outcome)) = remembered {
                    same(&known, &key)?;
                    return outcome.0;
                }
                let answer = self.begin(key.clone(), work);
                calls.insert(key.request.clone(), (key, answer.clone()));
                answer
            }
        };
        answer.await
    }

    /// Whether a call with this id is under way, or was answered and is remembered.
    pub(crate) fn knows(&self, request: &RequestId) -> bool {
        let (request, calls) =
            (request.to_string(), self.under_way.lock().unwrap_or_else(PoisonError::into_inner));
        calls.contains_key(&request) || self.store.outcome(&request).is_ok_and(|known| known.is_some())
    }

    fn begin<W, F>(&self, key: OutcomeKey, work: W) -> Answer
    where
        W: FnOnce(OutcomeKey) -> F + Send + 'static,
        F: Future<Output = Answered> + Send + 'static,
    {
        let forget = Forget { calls: Arc::clone(&self.under_way), request: key.request.clone() };
        let task = async move {
            let _forget = forget;
            work(key).await
        };
        let handle = self.tasks.spawn_isolated("mutating-call", task);
        let lost = |_| Err(CallError::unknown_outcome("the agent failed in the middle of the call"));
        handle.map(move |result| result.unwrap_or_else(lost)).boxed().shared()
    }
}

fn same(known: &OutcomeKey, asked: &OutcomeKey) -> Result<(), CallError> {
    if known.question == asked.question {
        return Ok(());
    }
    let text = format!("request id {} was used for another call", asked.request);
    Err(CallError::new(Code::Conflict, text).with_help("use a new request id for each new call"))
}

/// Takes a call off the list when its task ends, even by a panic.
struct Forget {
    calls: Arc<Mutex<HashMap<String, (OutcomeKey, Answer)>>>,
    request: String,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.request);
    }
}
