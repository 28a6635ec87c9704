//! The store's one writer: a thread that commits all writes that wait in one transaction. A commit costs a flush of the
//! disk; when 10,000 agents come back at once, hundreds of claims share one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use redb::{Database, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use crate::limits;

/// The thread, and the way to it. Dropping it without [`Writer::finish`] lets the thread end on its own.
#[derive(Debug)]
pub(super) struct Writer {
    queue: WriteQueue,
    thread: JoinHandle<()>,
    well: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn start(database: Arc<Database>) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(limits::WRITE_QUEUE_MAX);
        let well = Arc::new(AtomicBool::new(true));
        let thread = {
            let well = Arc::clone(&well);
            let run = move || write_all(&database, receiver, &well);
            std::thread::Builder::new().name("hub-store".to_owned()).spawn(run)?
        };
        Ok(Self { queue: WriteQueue(sender), thread, well })
    }

    pub(super) fn queue(&self) -> WriteQueue {
        self.queue.clone()
    }

    /// Whether the last transaction went through.
    pub(super) fn is_well(&self) -> bool {
        self.well.load(Ordering::Relaxed) && !self.thread.is_finished()
    }

    /// Commits what waits, and ends the thread. Blocks until every [`WriteQueue`] is dropped.
    pub(super) fn finish(self) {
        drop(self.queue);
        if self.thread.join().is_err() {
            tracing::error!("the store's writer panicked");
        }
    }
}

/// Hands writes to the thread.
#[derive(Debug, Clone)]
pub(super) struct WriteQueue(mpsc::Sender<Box<dyn Job>>);

impl WriteQueue {
    pub(super) async fn write<T, W>(self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        self.write_and_note(work, |_| ()).await
    }

    /// Like [`Self::write`]; `note` is run before any caller is told, whether it was written or not.
    pub(super) async fn write_and_note<T, W, N>(self, work: W, note: N) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
        N: FnOnce(&Result<T, StoreError>) + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Write { work: Some(work), note, value: None, answer };
        self.0.send(Box::new(job)).await.map_err(|_| StoreError::Closed)?;
        // The thread needs every queue gone to end; this one is done.
        drop(self);
        answered.await.map_err(|_| StoreError::failed("the writer is gone"))?
    }
}

/// One write, without the types of its work and its answer.
trait Job: Send {
    fn run(&mut self, transaction: &WriteTransaction) -> Result<(), StoreError>;
    fn finish(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Write<T, W, N> {
    work: Option<W>,
    note: N,
    value: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W, N> Job for Write<T, W, N>
where
    T: Send,
    W: FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send,
    N: FnOnce(&Result<T, StoreError>) + Send,
{
    fn run(&mut self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        if let Some(work) = self.work.take() {
            self.value = Some(work(transaction)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { value, note, answer, .. } = *self;
        let value = committed.and_then(|()| value.ok_or_else(|| StoreError::failed("the work was not run")));
        note(&value);
        // A caller that went away does not need the answer.
        let _ = answer.send(value);
    }
}

fn write_all(database: &Database, mut jobs: mpsc::Receiver<Box<dyn Job>>, well: &AtomicBool) {
    while let Some(first) = jobs.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < limits::WRITE_BATCH_MAX {
            let Ok(job) = jobs.try_recv() else { break };
            batch.push(job);
        }
        let committed = commit(database, &mut batch);
        if let Err(error) = &committed {
            tracing::error!(%error, writes = batch.len(), "writes were lost; their callers were told");
        }
        well.store(committed.is_ok(), Ordering::Relaxed);
        for job in batch {
            job.finish(committed.clone());
        }
    }
}

/// All of the batch or nothing: a failure in here is the disk's, so no write of the batch could have gone through alone.
fn commit(database: &Database, batch: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
    let transaction = database.begin_write()?;
    for job in batch {
        job.run(&transaction)?;
    }
    transaction.commit().map_err(|error| StoreError::Unknown { reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::{ReadableTableMetadata as _, TableDefinition};

    const NUMBERS: TableDefinition<'_, u64, u64> = TableDefinition::new("numbers");

    #[tokio::test]
    async fn writes_that_wait_together_are_all_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let database = Arc::new(Database::create(file.path()).unwrap());
        let writer = Writer::start(Arc::clone(&database)).unwrap();
        let writes = (0..1_000_u64).map(|number| {
            writer.queue().write(move |transaction| {
                transaction.open_table(NUMBERS)?.insert(number, number)?;
                Ok(number)
            })
        });
        let answers = futures::future::join_all(writes).await;
        assert!(answers.into_iter().eq((0..1_000).map(Ok)));
        writer.finish();
        use redb::ReadableDatabase as _;
        let table = database.begin_read().unwrap().open_table(NUMBERS).unwrap();
        assert_eq!(table.len().unwrap(), 1_000);
    }
}
