//! A disk that fills up, fails or stalls when a test says so.

use std::{
    fs::OpenOptions,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use redb::{Builder, StorageBackend, backends::FileBackend};

use super::Opener;

/// What the disk does now.
#[derive(Debug, Default, Clone)]
pub(crate) struct Faults {
    full: Arc<AtomicBool>,
    stall_ms: Arc<AtomicUsize>,
    flushes: Arc<AtomicUsize>,
}

impl Faults {
    pub(crate) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    pub(crate) fn set_stall(&self, stall: Duration) {
        self.stall_ms.store(stall.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn flushes(&self) -> usize {
        self.flushes.load(Ordering::SeqCst)
    }

    pub(crate) fn opener(&self) -> Opener {
        let faults = self.clone();
        Opener::new(move |path| {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            let disk = Disk { file: FileBackend::new(file)?, faults: faults.clone() };
            Builder::new().create_with_backend(disk)
        })
    }
}

#[derive(Debug)]
struct Disk {
    file: FileBackend,
    faults: Faults,
}

impl Disk {
    fn admit(&self) -> io::Result<()> {
        if self.faults.full.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"));
        }
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.admit()?;
        self.file.set_len(len)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the disk is what is slow here, on the writer's own thread"
    )]
    fn sync_data(&self) -> io::Result<()> {
        let stall = self.faults.stall_ms.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(u64::try_from(stall).unwrap()));
        self.faults.flushes.fetch_add(1, Ordering::SeqCst);
        self.admit()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.admit()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
