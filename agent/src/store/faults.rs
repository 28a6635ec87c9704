//! A disk that fills up, fails, stalls or loses its power when a test says so.

use std::{
    fs::OpenOptions,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use redb::{Builder, StorageBackend, backends::FileBackend};

use super::Opener;

/// What a disk is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Read,
    Write,
    Flush,
}

/// What the disk does now.
#[derive(Debug, Default, Clone)]
pub(crate) struct Faults {
    full: Arc<AtomicBool>,
    stall_ms: Arc<AtomicUsize>,
    flushes: Arc<AtomicUsize>,
    /// The one request that fails, and how many of its sort go well before it.
    failing: Arc<Mutex<Option<(Request, u32)>>>,
    /// What the disk has, unless that is the file itself.
    image: Option<Arc<Mutex<Image>>>,
    /// Power cuts so far: who had the disk open before the last one has it no more.
    cuts: Arc<AtomicU64>,
}

impl Faults {
    /// A disk that is none: it forgets everything with the last that holds it, and flushing it costs nothing.
    pub(crate) fn in_memory() -> Self {
        Self { image: Some(Arc::default()), ..Self::default() }
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    pub(crate) fn set_stall(&self, stall: Duration) {
        self.stall_ms.store(stall.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }

    /// Has one request fail, after `before` of its sort.
    pub(crate) fn fail_once(&self, request: Request, before: u32) {
        *self.failing.lock().unwrap() = Some((request, before));
    }

    /// Nothing fails from here on.
    pub(crate) fn mend(&self) {
        self.set_full(false);
        self.set_stall(Duration::ZERO);
        *self.failing.lock().unwrap() = None;
    }

    /// Cuts the power. Of the writes since the last flush, the first `kept` have reached the disk. Only in memory.
    pub(crate) fn cut(&self, kept: usize) {
        let mut image = self.image.as_ref().unwrap().lock().unwrap();
        self.cuts.fetch_add(1, Ordering::SeqCst);
        image.forget_all_but(kept);
    }

    pub(crate) fn flushes(&self) -> usize {
        self.flushes.load(Ordering::SeqCst)
    }

    pub(crate) fn opener(&self) -> Opener {
        let faults = self.clone();
        Opener::new(move |path| {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            let since = faults.cuts.load(Ordering::SeqCst);
            let medium: Box<dyn StorageBackend> = match &faults.image {
                Some(image) => Box::new(Memory(Arc::clone(image))),
                None => Box::new(FileBackend::new(file)?),
            };
            Builder::new().create_with_backend(Disk { medium, faults: faults.clone(), since })
        })
    }
}

#[derive(Debug)]
struct Disk {
    medium: Box<dyn StorageBackend>,
    faults: Faults,
    since: u64,
}

impl Disk {
    fn admit(&self, request: Request) -> io::Result<()> {
        if self.faults.cuts.load(Ordering::SeqCst) > self.since {
            return Err(io::Error::other("the power is off"));
        }
        let mut failing = self.faults.failing.lock().unwrap();
        match failing.as_mut().filter(|(which, _)| *which == request) {
            Some((_, 0)) => {
                *failing = None;
                return Err(io::Error::other("a test says so"));
            }
            Some((_, before)) => *before -= 1,
            None => {}
        }
        if self.faults.full.load(Ordering::SeqCst) && request != Request::Read {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"));
        }
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.medium.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.admit(Request::Read)?;
        self.medium.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.admit(Request::Write)?;
        self.medium.set_len(len)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the disk is what is slow here, on the writer's own thread"
    )]
    fn sync_data(&self) -> io::Result<()> {
        let stall = self.faults.stall_ms.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(u64::try_from(stall).unwrap()));
        self.faults.flushes.fetch_add(1, Ordering::SeqCst);
        self.admit(Request::Flush)?;
        self.medium.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.admit(Request::Write)?;
        self.medium.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.medium.close()
    }
}

/// What a disk in memory has, and how to lose what was not flushed.
#[derive(Debug, Default)]
struct Image {
    bytes: Vec<u8>,
    /// What was there before each write since the last flush, from which place on, and how long all was.
    before: Vec<(usize, Vec<u8>, usize)>,
}

impl Image {
    fn forget_all_but(&mut self, kept: usize) {
        while self.before.len() > kept {
            let Some((at, bytes, len)) = self.before.pop() else { return };
            self.bytes.resize(len, 0);
            self.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        self.before.clear();
    }
}

#[derive(Debug)]
struct Memory(Arc<Mutex<Image>>);

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().bytes.len().try_into().unwrap())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (image, at) = (self.0.lock().unwrap(), usize::try_from(offset).unwrap());
        out.copy_from_slice(image.bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut image, len) = (self.0.lock().unwrap(), usize::try_from(len).unwrap());
        let was = image.bytes.len();
        let cut_off = image.bytes.get(len..).unwrap_or_default().to_vec();
        image.before.push((len.min(was), cut_off, was));
        image.bytes.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.lock().unwrap().before.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut image, at) = (self.0.lock().unwrap(), usize::try_from(offset).unwrap());
        let len = image.bytes.len();
        let place = image.bytes.get_mut(at..at + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let before = place.to_vec();
        place.copy_from_slice(data);
        image.before.push((at, before, len));
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}
