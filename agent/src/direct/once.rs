//! Doing a call once per request id, however often it is asked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use serde::Serialize;
use towline_protocol::{CallError, Code, Effect};

use super::{Caller, Direct, Journal};
use crate::store::OutcomeKey;

type Answer = Shared<BoxFuture<'static, Result<(), CallError>>>;

/// Calls under way, by request id. Bounded by what the session lets in.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<HashMap<String, (OutcomeKey, Answer)>>);

/// Digest of what a call asks.
pub(super) fn question<T: Serialize>(method: &str, args: &[T]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(method.as_bytes());
    // Into a hasher, arguments of 64 MiB need no second copy.
    rmp_serde::encode::write(&mut hasher, args)
        .expect("a hasher takes everything, and arguments came from messages");
    hasher.finalize().to_hex().to_string()
}

impl Direct {
    /// Does `work` as a task of its own, so that it goes on without its caller; a repetition gets the same outcome.
    pub(super) async fn once<W, F>(&self, caller: &Caller, question: String, work: W) -> Result<(), CallError>
    where
        W: FnOnce(Arc<tokio::sync::Mutex<Journal>>) -> F + Send + 'static,
        F: Future<Output = Result<(), CallError>> + Send + 'static,
    {
        if caller.pinned.is_some_and(|store| store != self.inner.store.id()) {
            return Err(CallError::unknown_outcome("another store of this instance saw the first attempt"));
        }
        let key = OutcomeKey { request: caller.request.to_string(), question };
        let answer = {
            let mut calls = self.inner.calls.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((known, answer)) = calls.get(&key.request) {
                same(known, &key)?;
                answer.clone()
            } else {
                // Under the same lock: between its end and its memory a call is always found in one of them.
                let remembered =
                    self.inner.store.outcome(&key.request).map_err(|error| failed(&error, Effect::None))?;
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

    fn begin<W, F>(&self, key: OutcomeKey, work: W) -> Answer
    where
        W: FnOnce(Arc<tokio::sync::Mutex<Journal>>) -> F + Send + 'static,
        F: Future<Output = Result<(), CallError>> + Send + 'static,
    {
        let direct = self.clone();
        let task = async move {
            let _forget = Forget { direct: direct.clone(), request: key.request.clone() };
            let journal = Arc::new(tokio::sync::Mutex::new(Journal::new(Arc::clone(&direct.inner.store))));
            let outcome = work(Arc::clone(&journal)).await;
            let Some(journal) = Arc::into_inner(journal) else {
                return Err(CallError::unknown_outcome("the call's journal is still in use"));
            };
            match journal.into_inner().finish(key, &outcome).await {
                Ok(()) => outcome,
                Err(error) => Err(failed(&error, Effect::Unknown)),
            }
        };
        let handle = self.inner.tasks.spawn_isolated("mutating-call", task);
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

fn failed(error: &crate::store::StoreError, effect: Effect) -> CallError {
    CallError::new(Code::Cluster, error.to_string())
        .with_effect(effect)
        .with_help("look at the agent's disk and log")
}

/// Takes a call off the list when its task ends, even by a panic.
struct Forget {
    direct: Direct,
    request: String,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.direct.inner.calls.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.request);
    }
}
