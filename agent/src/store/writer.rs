//! The store's one writer: a thread that commits all changes that wait in one transaction. A commit costs a flush of the
//! disk, whatever is in it.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use redb::WriteTransaction;
use tokio::sync::{mpsc, oneshot};
use towline_bus::clock;

use super::{StoreError, disk::Disk, file::File};
use crate::failpoints::failpoint;

/// Changes that wait for the disk: several for each call that the session lets in at once. Further ones are refused, for
/// a queue that only grows helps nobody.
const QUEUE: usize = 1_024;
/// Changes in one transaction: what is more waits for the next, so that none waits for thousands.
const BATCH: usize = 256;
/// How long a change waits for the disk before its caller is told that nobody knows. Far above any disk that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The thread, and the way to it. Dropping it ends the thread, after what waits was written.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// `disk` is kept to how it answers.
    pub(super) fn start(file: Arc<File>, disk: Arc<Disk>) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let run = move || write_all(&file, jobs, &disk);
        let thread = std::thread::Builder::new().name("agent-store".to_owned()).spawn(run)?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Queues `work`; the answer comes when it was committed, or was not.
    fn submit<T, W>(&self, work: W) -> Result<oneshot::Receiver<Result<T, StoreError>>, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Write { work: Some(work), value: None, answer };
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        queue.try_send(Box::new(job)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Behind(QUEUE),
            mpsc::error::TrySendError::Closed(_) => gone(),
        })?;
        Ok(answered)
    }

    /// Makes a change, and waits until it is known whether it was made.
    pub(super) async fn write_out<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        self.submit(work)?.await.map_err(|_| gone())?
    }

    pub(super) async fn write<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        let answered = tokio::time::timeout(PATIENCE, self.write_out(work)).await;
        answered.unwrap_or(Err(StoreError::Stalled(PATIENCE.as_secs())))
    }
}

fn gone() -> StoreError {
    StoreError::Failed("its writer has ended".to_owned())
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.take();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's writer panicked");
        }
    }
}

/// One change, without the types of its work and its answer.
trait Job: Send {
    fn run(&mut self, transaction: &WriteTransaction) -> Result<(), StoreError>;
    fn finish(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Write<T, W> {
    work: Option<W>,
    value: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W> Job for Write<T, W>
where
    T: Send,
    W: FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        if let Some(work) = self.work.take() {
            self.value = Some(work(transaction)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { value, answer, .. } = *self;
        let not_run = || StoreError::Failed("the change was not made".to_owned());
        // A caller that went away does not need the answer.
        answer.send(committed.and_then(|()| value.ok_or_else(not_run))).ok();
    }
}

/// All of the batch or nothing: what fails in here is the disk, so none could have gone through alone.
fn commit(file: &File, batch: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
    failpoint!("store.before-commit", StoreError::Failed("a test says so".to_owned()));
    file.write(|transaction| batch.iter_mut().try_for_each(|job| job.run(transaction)))?;
    // As a disk that has the change, and says that it failed.
    failpoint!("store.after-commit", StoreError::Failed("a test says so, afterwards".to_owned()));
    Ok(())
}

fn write_all(file: &File, mut jobs: mpsc::Receiver<Box<dyn Job>>, disk: &Disk) {
    while let Some(first) = jobs.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH {
            let Ok(job) = jobs.try_recv() else { break };
            batch.push(job);
        }
        disk.begins(clock::now());
        let committed = commit(file, &mut batch);
        if let Err(error) = &committed {
            tracing::error!(%error, changes = batch.len(), "changes were not written; whoever made them was told");
        }
        disk.ended(&committed);
        for job in batch {
            job.finish(committed.clone());
        }
    }
}
