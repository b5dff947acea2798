//! A disk that loses what was not synced, dies in the middle, fills up and rots, as it is told.

use mooseng_core::seam::{Disk, DiskFile};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    },
};

/// What a medium writes whole.
const SECTOR: usize = 512;
/// Bytes of the medium.
const TOTAL: u64 = 2 << 30;

#[derive(Default, Clone)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// After a failed fsync: what was written since. The rest passes for written, and never is.
    since: Option<BTreeSet<usize>>,
}

impl Content {
    fn changed(&mut self, bytes: std::ops::Range<usize>) {
        if let Some(since) = &mut self.since {
            since.extend(bytes.start / SECTOR..bytes.end.div_ceil(SECTOR));
        }
    }

    fn sync(&mut self) {
        let Some(since) = self.since.as_mut() else {
            self.durable = self.now.clone();
            return;
        };
        self.durable.resize(self.now.len(), 0);
        for sector in std::mem::take(since) {
            let end = ((sector + 1) * SECTOR).min(self.now.len());
            if sector * SECTOR < end {
                self.durable[sector * SECTOR..end].copy_from_slice(&self.now[sector * SECTOR..end]);
            }
        }
    }
}

type File = Arc<Mutex<Content>>;

#[derive(Default)]
struct Medium {
    files: Mutex<BTreeMap<String, File>>,
    boot: AtomicU64,
    /// Changes left before the process dies; negative: it lives on.
    left: AtomicI64,
    fail_syncs: AtomicBool,
    fail_reads: AtomicBool,
    full: AtomicBool,
    shares: AtomicBool,
    writes: AtomicU64,
}

/// What outlives the processes that use it.
#[derive(Clone, Default)]
pub struct CrashDisk(Arc<Medium>);

impl CrashDisk {
    pub fn new() -> Self {
        let disk = Self::default();
        disk.0.left.store(-1, SeqCst);
        disk
    }
    /// The disk as a process that starts now has it.
    pub fn mount(&self) -> Arc<dyn Disk> {
        self.0.left.store(-1, SeqCst);
        Arc::new(Mounted { medium: self.0.clone(), boot: self.0.boot.load(SeqCst) })
    }
    /// The process dies: everything written stays.
    pub fn kill(&self) {
        self.0.boot.fetch_add(1, SeqCst);
    }
    /// Power fails: what was not synced is gone.
    pub fn power_fails(&self) {
        self.kill();
        for f in self.0.files.lock().values() {
            let mut f = f.lock();
            (f.now, f.since) = (f.durable.clone(), None);
        }
    }
    /// Power fails: each sector that was not synced is kept or lost, as the seed decides.
    pub fn power_tears(&self, seed: u64) {
        self.kill();
        let mut state = seed | 1;
        let mut coin = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state & 4 == 0
        };
        for f in self.0.files.lock().values() {
            let mut f = f.lock();
            let (now, mut left) = (std::mem::take(&mut f.now), f.durable.clone());
            if coin() {
                left.resize(now.len(), 0);
            }
            for (to, from) in left.chunks_mut(SECTOR).zip(now.chunks(SECTOR)) {
                if to.len() == from.len() && to != from && coin() {
                    to.copy_from_slice(from);
                }
            }
            (f.now, f.durable, f.since) = (left.clone(), left, None);
        }
    }
    /// The process dies before the change after so many.
    pub fn dies_after(&self, changes: i64) {
        self.0.left.store(changes, SeqCst);
    }
    pub fn is_dead(&self) -> bool {
        self.0.left.load(SeqCst) == 0
    }
    /// What a failed fsync was to make durable never will be, though it is read, until it is written again.
    pub fn fail_syncs(&self, fail: bool) {
        self.0.fail_syncs.store(fail, SeqCst);
    }
    pub fn fail_reads(&self, fail: bool) {
        self.0.fail_reads.store(fail, SeqCst);
    }
    /// Writes that grow a file end with ENOSPC; `space` does not tell.
    pub fn fill(&self, full: bool) {
        self.0.full.store(full, SeqCst);
    }
    /// It tells the same space as others: a directory of a filesystem that they are on, too.
    pub fn shares_space(&self) {
        self.0.shares.store(true, SeqCst);
    }
    pub fn writes(&self) -> u64 {
        self.0.writes.load(SeqCst)
    }
    /// Flips bits of a file.
    pub fn rot(&self, name: &str, at: usize, mask: u8) {
        let files = self.0.files.lock();
        let mut f = files[name].lock();
        f.now[at] ^= mask;
        if let Some(b) = f.durable.get_mut(at) {
            *b ^= mask;
        }
    }
    /// What was written to a place went elsewhere: there are zeros.
    pub fn loses(&self, name: &str, place: std::ops::Range<usize>) {
        self.0.files.lock()[name].lock().now[place].fill(0);
    }
    /// A file is as it was when the other was copied from here.
    pub fn goes_back(&self, name: &str, to: &Self) {
        let then = to.0.files.lock()[name].lock().clone();
        *self.0.files.lock()[name].lock() = then;
    }
    pub fn len_of(&self, name: &str) -> usize {
        self.0.files.lock()[name].lock().now.len()
    }
    pub fn has(&self, name: &str) -> bool {
        self.0.files.lock().contains_key(name)
    }
    /// Everything as it is, on another medium.
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        let files = self.0.files.lock();
        *copy.0.files.lock() =
            files.iter().map(|(n, f)| (n.clone(), Arc::new(Mutex::new(f.lock().clone())))).collect();
        copy
    }
}

struct Mounted {
    medium: Arc<Medium>,
    boot: u64,
}

impl fmt::Debug for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CrashDisk")
    }
}

struct Handle {
    file: File,
    medium: Arc<Medium>,
    boot: u64,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CrashFile")
    }
}

impl Medium {
    fn alive(&self, boot: u64) -> io::Result<()> {
        match self.boot.load(SeqCst) == boot && self.left.load(SeqCst) != 0 {
            true => Ok(()),
            false => Err(io::Error::other("the process has died")),
        }
    }
    fn change(&self, boot: u64) -> io::Result<()> {
        self.alive(boot)?;
        if self.left.load(SeqCst) > 0 {
            self.left.fetch_sub(1, SeqCst);
        }
        self.writes.fetch_add(1, SeqCst);
        Ok(())
    }
    fn handle(self: &Arc<Self>, file: File, boot: u64) -> Arc<dyn DiskFile> {
        Arc::new(Handle { file, medium: self.clone(), boot })
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

fn dir_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Disk for Mounted {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.medium.alive(self.boot)?;
        let file = self.medium.files.lock().get(name).cloned().ok_or_else(|| missing(name))?;
        Ok(self.medium.handle(file, self.boot))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.medium.change(self.boot)?;
        let file = File::default();
        if self.medium.files.lock().insert(name.into(), file.clone()).is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} is there")));
        }
        Ok(self.medium.handle(file, self.boot))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.medium.change(self.boot)?;
        self.medium.files.lock().remove(name).map(drop).ok_or_else(|| missing(name))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.medium.change(self.boot)?;
        let mut files = self.medium.files.lock();
        let file = files.remove(from).ok_or_else(|| missing(from))?;
        files.insert(to.into(), file);
        Ok(())
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let files = self.medium.files.lock();
        let here = files.keys().filter(|n| dir_of(n) == dir);
        Ok(here.map(|n| n.rsplit('/').next().unwrap_or(n).to_owned()).collect())
    }
    fn list_dirs(&self, dir: &str) -> io::Result<Vec<String>> {
        let files = self.medium.files.lock();
        let mut dirs: Vec<_> = files
            .keys()
            .filter_map(|n| n.strip_prefix(&format!("{dir}/"))?.split_once('/').map(|(d, _)| d.to_owned()))
            .collect();
        dirs.dedup();
        Ok(dirs)
    }
    fn sync_dir(&self, _: &str) -> io::Result<()> {
        self.medium.alive(self.boot)
    }
    fn space(&self) -> io::Result<(u64, u64)> {
        self.medium.alive(self.boot)?;
        if self.medium.shares.load(SeqCst) {
            return Ok((TOTAL, TOTAL / 2));
        }
        let used: usize = self.medium.files.lock().values().map(|f| f.lock().now.len()).sum();
        Ok((TOTAL, TOTAL - used as u64))
    }
    fn describe(&self) -> String {
        "crash disk".into()
    }
}

impl DiskFile for Handle {
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.medium.alive(self.boot)?;
        if self.medium.fail_reads.load(SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let f = self.file.lock();
        let (at, end) = (at as usize, at as usize + buf.len());
        let there = f.now.get(at..end).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        buf.copy_from_slice(there);
        Ok(())
    }
    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.medium.change(self.boot)?;
        let mut f = self.file.lock();
        let (at, end) = (at as usize, at as usize + data.len());
        if end > f.now.len() {
            if self.medium.full.load(SeqCst) {
                return Err(io::Error::from_raw_os_error(28));
            }
            f.now.resize(end, 0);
        }
        f.now[at..end].copy_from_slice(data);
        f.changed(at..end);
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.medium.change(self.boot)?;
        let mut f = self.file.lock();
        if self.medium.fail_syncs.load(SeqCst) {
            f.since = Some(BTreeSet::new());
            return Err(io::Error::other("the medium does not take it"));
        }
        f.sync();
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.medium.change(self.boot)?;
        self.file.lock().now.resize(len as usize, 0);
        Ok(())
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.set_len(len.max(self.len()?))
    }
    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        self.medium.change(self.boot)?;
        let mut f = self.file.lock();
        let end = ((at + len) as usize).min(f.now.len());
        let at = (at as usize).min(end);
        f.now[at..end].fill(0);
        f.changed(at..end);
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        self.medium.alive(self.boot)?;
        Ok(self.file.lock().now.len() as u64)
    }
}
