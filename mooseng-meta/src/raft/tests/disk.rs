//! A disk in memory that loses, at a crash, any part of what was not synced.

use mooseng_core::seam::{Disk, DiskFile, Rng};
use parking_lot::Mutex;
use std::{collections::BTreeMap, io, sync::Arc};

#[derive(Default, Debug)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
}

type Names = BTreeMap<String, Arc<Mutex<Content>>>;

#[derive(Default, Debug)]
struct Inner {
    live: Names,
    durable: Names,
    /// Changes until the power fails; `None` is never.
    fuse: Option<u64>,
    dead: bool,
    /// Flushes of files with this in their name fail.
    bad: Option<&'static str>,
    /// Flushes of what has this in its name do nothing; see [`CrashDisk::leave_out_syncs_of`].
    idle: Option<&'static str>,
}

/// See the module.
#[derive(Clone, Default, Debug)]
pub struct CrashDisk(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct CrashFile {
    disk: CrashDisk,
    name: String,
    content: Arc<Mutex<Content>>,
}

fn off() -> io::Error {
    io::Error::other("the power is off")
}

impl CrashDisk {
    /// The power fails at the `changes`-th change from now.
    pub fn fail_after(&self, changes: u64) {
        self.0.lock().fuse = Some(changes);
    }

    /// Flushes of files with this in their name fail from now on.
    pub fn fail_syncs_of(&self, name: &'static str) {
        self.0.lock().bad = Some(name);
    }

    /// Flushes of files with this in their name, and of directories (`directory NAME`), do nothing from
    /// now on, as if nobody had called them.
    pub fn leave_out_syncs_of(&self, name: &'static str) {
        self.0.lock().idle = Some(name);
    }

    fn leaves_out(&self, name: &str) -> bool {
        self.0.lock().idle.is_some_and(|idle| name.contains(idle))
    }

    pub fn is_dead(&self) -> bool {
        self.0.lock().dead
    }

    /// Cuts the power now.
    pub fn kill(&self) {
        self.0.lock().dead = true;
    }

    /// What is found after the crash: of unsynced sectors any may have arrived, names only if
    /// their directory was synced.
    pub fn after_crash(&self, rng: &dyn Rng) -> Self {
        Self::found(&self.0.lock().durable, rng)
    }

    /// The same where all names have arrived by themselves, which a filesystem may do at any time.
    pub fn after_crash_with_names(&self, rng: &dyn Rng) -> Self {
        Self::found(&self.0.lock().live, rng)
    }

    fn found(there: &Names, rng: &dyn Rng) -> Self {
        let mut names = Names::new();
        for (name, content) in there {
            let content = content.lock();
            let len = if rng.next_u64() & 1 == 0 { content.live.len() } else { content.durable.len() };
            let mut found = vec![0; len];
            for (i, sector) in found.chunks_mut(512).enumerate() {
                let from = if rng.next_u64() & 1 == 0 { &content.live } else { &content.durable };
                let rest = from.get(i * 512..).unwrap_or_default();
                let take = rest.len().min(sector.len());
                sector[..take].copy_from_slice(&rest[..take]);
            }
            let content = Content { durable: found.clone(), live: found };
            names.insert(name.clone(), Arc::new(Mutex::new(content)));
        }
        let new = Self::default();
        new.0.lock().durable = names.clone();
        new.0.lock().live = names;
        new
    }

    /// What is durable now, on another disk.
    pub fn copy(&self) -> Self {
        let new = Self::default();
        for (name, content) in &self.0.lock().durable {
            new.put(name, &content.lock().durable);
        }
        new
    }

    /// One bit of a file, live and durable.
    pub fn flip(&self, name: &str, bit: usize) {
        let content = Arc::clone(&self.0.lock().live[name]);
        let mut content = content.lock();
        content.live[bit / 8] ^= 1 << (bit % 8);
        content.durable = content.live.clone();
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.0.lock().live[name].lock().live.clone()
    }

    pub fn put(&self, name: &str, bytes: &[u8]) {
        let content = Arc::new(Mutex::new(Content { live: bytes.to_vec(), durable: bytes.to_vec() }));
        let mut inner = self.0.lock();
        inner.durable.insert(name.into(), Arc::clone(&content));
        inner.live.insert(name.into(), content);
    }

    fn alive(&self) -> io::Result<()> {
        if self.0.lock().dead { Err(off()) } else { Ok(()) }
    }

    /// Counts a change; the one at which the power fails does not happen.
    fn change(&self) -> io::Result<()> {
        let mut inner = self.0.lock();
        if inner.dead {
            return Err(off());
        }
        if let Some(left) = inner.fuse.as_mut() {
            if *left == 0 {
                inner.dead = true;
                return Err(off());
            }
            *left -= 1;
        }
        Ok(())
    }

    fn file(&self, name: &str, content: &Arc<Mutex<Content>>) -> Arc<dyn DiskFile> {
        Arc::new(CrashFile { disk: self.clone(), name: name.into(), content: Arc::clone(content) })
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, name.to_owned())
}

fn in_dir<'a>(name: &'a str, dir: &str) -> Option<&'a str> {
    let rest = if dir.is_empty() { Some(name) } else { name.strip_prefix(dir)?.strip_prefix('/') };
    rest.filter(|rest| !rest.contains('/'))
}

impl Disk for CrashDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.alive()?;
        let content = self.0.lock().live.get(name).cloned().ok_or_else(|| missing(name))?;
        Ok(self.file(name, &content))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.change()?;
        let content = Arc::new(Mutex::new(Content::default()));
        let mut inner = self.0.lock();
        if inner.live.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, name.to_owned()));
        }
        inner.live.insert(name.into(), Arc::clone(&content));
        drop(inner);
        Ok(self.file(name, &content))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.change()?;
        self.0.lock().live.remove(name).map(|_| ()).ok_or_else(|| missing(name))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change()?;
        let mut inner = self.0.lock();
        let content = inner.live.remove(from).ok_or_else(|| missing(from))?;
        inner.live.insert(to.into(), content);
        Ok(())
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.alive()?;
        Ok(self.0.lock().live.keys().filter_map(|n| in_dir(n, dir)).map(str::to_owned).collect())
    }
    fn list_dirs(&self, _dir: &str) -> io::Result<Vec<String>> {
        self.alive().map(|()| Vec::new())
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.change()?;
        if self.leaves_out(&format!("directory {dir}")) {
            return Ok(());
        }
        let mut inner = self.0.lock();
        inner.durable.retain(|n, _| in_dir(n, dir).is_none());
        let synced: Vec<_> = inner
            .live
            .iter()
            .filter(|(n, _)| in_dir(n, dir).is_some())
            .map(|(n, c)| (n.clone(), Arc::clone(c)))
            .collect();
        inner.durable.extend(synced);
        Ok(())
    }
    fn space(&self) -> io::Result<(u64, u64)> {
        Ok((1 << 40, 1 << 39))
    }
    fn describe(&self) -> String {
        "a disk that crashes".into()
    }
}

impl DiskFile for CrashFile {
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.alive()?;
        let content = self.content.lock();
        let from = content.live.get(at as usize..at as usize + buf.len());
        buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        // A write at which the power fails arrives in part, but is not durable either way.
        let outcome = self.disk.change();
        let data = if outcome.is_ok() { data } else { &data[..data.len() / 2] };
        let mut content = self.content.lock();
        let end = at as usize + data.len();
        if content.live.len() < end {
            content.live.resize(end, 0);
        }
        content.live[at as usize..end].copy_from_slice(data);
        outcome
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.change()?;
        if self.disk.0.lock().bad.is_some_and(|bad| self.name.contains(bad)) {
            return Err(io::Error::other("the medium is bad"));
        }
        if self.disk.leaves_out(&self.name) {
            return Ok(());
        }
        let mut content = self.content.lock();
        content.durable = content.live.clone();
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change()?;
        self.content.lock().live.resize(len as usize, 0);
        Ok(())
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.disk.change()?;
        let mut content = self.content.lock();
        let len = content.live.len().max(len as usize);
        content.live.resize(len, 0);
        Ok(())
    }
    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        self.disk.change()?;
        let mut content = self.content.lock();
        let end = content.live.len().min((at + len) as usize);
        content.live[at as usize..end].fill(0);
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        self.disk.alive().map(|()| self.content.lock().live.len() as u64)
    }
}
