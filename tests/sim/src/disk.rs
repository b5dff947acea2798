//! `SimDisk`: a disk with pending and durable state. A crash keeps what was synced and a seeded
//! choice of what was not, torn at 512-byte sectors; a kill (the process dies, the machine lives)
//! keeps everything. Handles of a process that died are dead: whatever still holds them gets EIO.
//! A medium may also be ill ([`Ill`]), and its bits may rot.

mod bytes;
mod copies;
mod ills;
mod traces;

pub use copies::Copied;
pub use ills::Ill;

pub use bytes::PAGE_BYTES;
use bytes::{Bytes, Change};
use ills::{Deed, Health, broken};
use mooseng_core::seam::{Disk, DiskFile, Rng};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Weak},
};
use traces::Trace;

/// Where the data begins in a chunk's file: what goes astray or rots before it is another thing.
pub const DATA_FROM: u64 = 320 << 10;
/// The chunks' files.
pub const CHUNKS: &str = "chunks/";

#[derive(Debug, Default)]
struct Content {
    durable: Bytes,
    current: Bytes,
    pending: Vec<Change>,
    /// Whether an fsync ever reached it.
    synced: bool,
}

impl Content {
    /// Whether nothing of a change takes room that is not the file's already.
    fn has_room(&self, change: &Change) -> bool {
        match change {
            Change::Write { at, data } => self.current.has_room(*at, data.len() as u64),
            Change::Allocate(len) => self.current.has_room(0, *len),
            Change::SetLen(_) | Change::Punch { .. } => true,
        }
    }

    /// All pending changes are on the medium.
    fn settle(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable);
        }
        self.synced = true;
    }

    /// What the kernel has and the medium has not, and nobody will write any more, is gone.
    fn drop_cache(&mut self) {
        self.current = self.durable.clone();
        for change in &self.pending {
            change.apply(&mut self.current);
        }
    }

    /// What pending changes leave of themselves when they are not kept.
    fn tear(&mut self, rng: &dyn Rng) {
        let pending = std::mem::take(&mut self.pending);
        for change in pending.iter().flat_map(|c| c.survivor(rng)) {
            change.apply(&mut self.durable);
        }
    }
}

type FileRef = Arc<Mutex<Content>>;

#[derive(Clone, Debug)]
enum NameChange {
    Set(String, FileRef),
    Remove(String),
}

#[derive(Debug, Default)]
struct State {
    boot: u64,
    names: BTreeMap<String, FileRef>,
    durable_names: BTreeMap<String, FileRef>,
    pending_names: Vec<NameChange>,
    /// All files that there were, also those without a name that somebody has open.
    made: Vec<Weak<Mutex<Content>>>,
}

impl State {
    fn change(&mut self, change: NameChange) {
        apply_name(&mut self.names, &change);
        self.pending_names.push(change);
    }
}

fn apply_name(names: &mut BTreeMap<String, FileRef>, change: &NameChange) {
    match change {
        NameChange::Set(name, file) => drop(names.insert(name.clone(), file.clone())),
        NameChange::Remove(name) => drop(names.remove(name)),
    }
}

fn dir_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// The medium, which outlives the processes that use it.
#[derive(Clone)]
pub struct SimMedium {
    label: String,
    capacity: u64,
    state: Arc<Mutex<State>>,
    removed: Arc<Mutex<Option<Arc<Removed>>>>,
    health: Arc<Mutex<Health>>,
    trace: Arc<Trace>,
}

impl SimMedium {
    /// An empty medium of so many bytes.
    pub fn new(label: &str, capacity: u64) -> Self {
        let (state, removed, health, trace) = Default::default();
        Self { label: label.into(), capacity, state, removed, health, trace }
    }

    /// The disk as a process that starts now sees it.
    pub fn mount(&self) -> Arc<dyn Disk> {
        Arc::new(SimDisk { medium: self.clone(), boot: self.state.lock().boot })
    }

    /// The process dies, the machine lives: everything written stays.
    pub fn kill(&self) {
        self.state.lock().boot += 1;
    }

    /// Power fails: unsynced changes survive by the generator's choice.
    pub fn crash(&self, rng: &dyn Rng) {
        let mut s = self.state.lock();
        s.boot += 1;
        let keep = (rng.next_u64() as usize) % (s.pending_names.len() + 1);
        let changes: Vec<_> = s.pending_names.drain(..).take(keep).collect();
        for c in &changes {
            apply_name(&mut s.durable_names, c);
        }
        s.names = s.durable_names.clone();
        for file in s.names.values() {
            let mut f = file.lock();
            f.tear(rng);
            f.current = f.durable.clone();
        }
    }

    /// The end of a run: the content goes, whoever still has the medium.
    pub fn wipe(&self) {
        let mut s = self.state.lock();
        s.boot += 1;
        for file in s.made.iter().filter_map(Weak::upgrade) {
            *file.lock() = Content::default();
        }
        *s = State { boot: s.boot, ..State::default() };
    }

    /// The file with most bytes up to the last that is not zero, of those whose names are meant; and how
    /// many these are.
    pub fn used(&self, of: impl Fn(&str) -> bool) -> Option<(String, u64)> {
        let s = self.state.lock();
        let used = s.names.iter().filter(|(n, _)| of(n)).map(|(n, f)| (n.clone(), f.lock().current.used()));
        used.max_by_key(|(_, used)| *used).filter(|(_, used)| *used > 0)
    }

    /// Flips one bit of a file, as the medium does by itself.
    pub fn flip(&self, name: &str, bit: u64) {
        if let Some(file) = self.state.lock().names.get(name) {
            let mut f = file.lock();
            f.current.flip(bit);
            f.durable.flip(bit);
        }
    }

    /// Something is wrong with it from now on.
    pub fn falls_ill(&self, ill: Ill, seed: u64) {
        self.health.lock().falls(ill, seed);
    }

    /// Files and directories that its illness was felt in so far, each time it was.
    pub fn felt(&self) -> Vec<String> {
        self.health.lock().felt.clone()
    }

    /// Whether a file has a name, be it another than the one by which it was opened.
    fn names(&self, file: &FileRef) -> bool {
        self.state.lock().names.values().any(|f| Arc::ptr_eq(f, file))
    }

    /// It is well again. What failed fsyncs lost shows now at the latest.
    pub fn recovers(&self) {
        self.health.lock().recovers();
        self.state.lock().names.values().for_each(|f| f.lock().drop_cache());
    }

    /// A bit of a file whose name is meant flips, on a page that was written, from page `from` on. Which file,
    /// and which bit.
    pub fn rots(&self, rng: &dyn Rng, of: impl Fn(&str) -> bool, from: u64) -> Option<(String, u64)> {
        let names: Vec<String> = self.state.lock().names.keys().filter(|n| of(n)).cloned().collect();
        let name = names.get((rng.next_u64() % names.len().max(1) as u64) as usize)?;
        let file = self.state.lock().names.get(name).cloned()?;
        let mut f = file.lock();
        let pages: Vec<u64> = f.current.pages().filter(|p| *p >= from).collect();
        let page = pages.get((rng.next_u64() % pages.len().max(1) as u64) as usize)?;
        let bit = page * PAGE_BYTES * 8 + rng.next_u64() % (PAGE_BYTES * 8);
        if bit / 8 >= f.current.len {
            return None;
        }
        f.current.flip(bit);
        f.durable.flip(bit);
        Some((name.clone(), bit))
    }

    /// Tells somebody of each file that is removed and was synced once, by its name and first bytes.
    pub fn watch(&self, removed: Arc<Removed>) {
        *self.removed.lock() = Some(removed);
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.state.lock().names.contains_key(name)
    }
}

/// Bytes of a removed file that are told.
const HEAD: usize = 2 * mooseng_chunk::format::PAGE;
/// Hears of a file that is removed.
pub type Removed = dyn Fn(&str, &[u8]) + Send + Sync;

struct SimDisk {
    medium: SimMedium,
    boot: u64,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({})", self.medium.label)
    }
}

fn dead() -> io::Error {
    io::Error::other("the process that had this disk has died")
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

impl SimDisk {
    fn state(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let s = self.medium.state.lock();
        if s.boot == self.boot { Ok(s) } else { Err(dead()) }
    }
    fn handle(&self, name: &str, file: FileRef) -> Arc<dyn DiskFile> {
        let (medium, boot, name) = (self.medium.clone(), self.boot, name.to_owned());
        Arc::new(SimFile { file, medium, boot, name })
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.state()?.names.get(name).cloned().ok_or_else(|| not_found(name))?;
        Ok(self.handle(name, file))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut s = self.state()?;
        if s.names.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} exists")));
        }
        if self.medium.health.lock().is_full() {
            return Err(self.medium.health.lock().refuses(name));
        }
        let file = FileRef::default();
        s.made.retain(|f| f.strong_count() > 0);
        s.made.push(Arc::downgrade(&file));
        s.change(NameChange::Set(name.into(), file.clone()));
        drop(s);
        Ok(self.handle(name, file))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        let mut s = self.state()?;
        let file = s.names.get(name).cloned().ok_or_else(|| not_found(name))?;
        s.change(NameChange::Remove(name.into()));
        drop(s);
        // One that was never finished was nothing yet.
        let removed = self.medium.removed.lock().clone().filter(|_| file.lock().synced);
        if let Some(removed) = removed {
            let mut head = vec![0; HEAD];
            // Zeros of a shorter one.
            let _ = file.lock().current.read(0, &mut head);
            removed(name, &head);
        }
        Ok(())
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut s = self.state()?;
        let file = s.names.get(from).cloned().ok_or_else(|| not_found(from))?;
        s.change(NameChange::Set(to.into(), file));
        s.change(NameChange::Remove(from.into()));
        Ok(())
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let s = self.state()?;
        let of_dir = s.names.keys().filter(|n| dir_of(n) == dir);
        Ok(of_dir.map(|n| n.rsplit('/').next().unwrap_or(n).to_owned()).collect())
    }
    fn list_dirs(&self, dir: &str) -> io::Result<Vec<String>> {
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let s = self.state()?;
        let mut dirs: Vec<String> = s
            .names
            .keys()
            .filter_map(|n| n.strip_prefix(&prefix)?.split_once('/').map(|(d, _)| d.to_owned()))
            .collect();
        dirs.dedup();
        Ok(dirs)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut s = self.state()?;
        self.medium.trace.synced(dir);
        if self.medium.health.lock().lies(dir) {
            return Ok(());
        }
        if self.medium.health.lock().fails(Deed::Sync, dir) {
            return Err(broken());
        }
        let (now, later) = std::mem::take(&mut s.pending_names).into_iter().partition::<Vec<_>, _>(|c| {
            let (NameChange::Set(n, _) | NameChange::Remove(n)) = c;
            dir_of(n) == dir
        });
        for c in &now {
            apply_name(&mut s.durable_names, c);
        }
        s.pending_names = later;
        Ok(())
    }
    fn space(&self) -> io::Result<(u64, u64)> {
        let s = self.state()?;
        let used: u64 = s.names.values().map(|f| f.lock().current.len).sum();
        let free =
            if self.medium.health.lock().is_full() { 0 } else { self.medium.capacity.saturating_sub(used) };
        Ok((self.medium.capacity, free))
    }
    fn describe(&self) -> String {
        self.medium.label.clone()
    }
}

struct SimFile {
    file: FileRef,
    medium: SimMedium,
    boot: u64,
    name: String,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.medium.label)
    }
}

impl SimFile {
    fn alive(&self) -> io::Result<()> {
        if self.medium.state.lock().boot == self.boot { Ok(()) } else { Err(dead()) }
    }
    fn change(&self, change: Change) -> io::Result<()> {
        self.alive()?;
        self.medium.trace.changed(&self.name, &change);
        let mut health = self.medium.health.lock();
        let mut f = self.file.lock();
        if health.is_full() && !f.has_room(&change) {
            return Err(health.refuses(&self.name));
        }
        if health.fails(Deed::Write, &self.name) {
            for part in change.survivor(health.rng()) {
                part.apply(&mut f.current);
                f.pending.push(part);
            }
            return Err(broken());
        }
        if let Some(change) = self.led_astray(change, &mut health, &mut f) {
            change.apply(&mut f.current);
            f.pending.push(change);
        }
        Ok(())
    }

    /// The same write, unless it went to another place of the file.
    fn led_astray(&self, change: Change, health: &mut Health, f: &mut Content) -> Option<Change> {
        let Change::Write { at, data } = change else { return Some(change) };
        let to = match self.name.starts_with(CHUNKS) {
            true => health.strays(at, DATA_FROM, f.current.pages(), &self.name),
            false => None,
        };
        let Some(to) = to else { return Some(Change::Write { at, data }) };
        let len = data.len() as u64;
        // The file is as long as if all were well.
        let end = Change::SetLen(f.current.len.max(at + len));
        end.apply(&mut f.current);
        f.pending.push(end);
        let data = data[..data.len().min(f.current.len.saturating_sub(to) as usize)].to_vec();
        let change = Change::Write { at: to, data };
        change.apply(&mut f.current);
        f.pending.push(change);
        None
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.alive()?;
        if self.medium.health.lock().fails(Deed::Read, &self.name) {
            return Err(broken());
        }
        self.file.lock().current.read(at, buf)
    }
    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write { at, data: data.to_vec() })
    }
    fn sync(&self) -> io::Result<()> {
        self.alive()?;
        self.medium.trace.synced(&self.name);
        // What another file has replaced is missed by nobody.
        let name = match self.medium.names(&self.file) {
            true => self.name.clone(),
            false => format!("replaced {}", self.name),
        };
        let mut health = self.medium.health.lock();
        let mut f = self.file.lock();
        if health.lies(&self.name) {
            f.synced = true;
            return Ok(());
        }
        if !health.fails(Deed::Sync, &name) {
            f.settle();
            return Ok(());
        }
        f.tear(health.rng());
        // The pages count as clean: whether they are dropped is the kernel's choice.
        if health.rng().next_u64().is_multiple_of(2) {
            f.drop_cache();
        }
        Err(broken())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.change(Change::Allocate(len))
    }
    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        self.change(Change::Punch { at, len })
    }
    fn len(&self) -> io::Result<u64> {
        self.alive()?;
        Ok(self.file.lock().current.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_host::SeededRng;

    #[test]
    fn a_crash_keeps_what_was_synced_and_only_that_for_sure() {
        let mut lost = 0;
        for seed in 0..64 {
            let rng = SeededRng::new(seed);
            let medium = SimMedium::new("d", 1 << 20);
            let disk = medium.mount();
            let file = disk.create("dir/a").unwrap();
            disk.sync_dir("dir").unwrap();
            file.write_at(0, b"synced").unwrap();
            file.sync().unwrap();
            file.write_at(6, b"-pending").unwrap();
            medium.crash(&rng);
            assert!(file.len().is_err(), "handles die with their process");
            let file = medium.mount().open("dir/a").unwrap();
            let mut buf = [0; 6];
            file.read_at(0, &mut buf).unwrap();
            assert_eq!(&buf, b"synced");
            lost += u32::from(file.len().unwrap() == 6);
        }
        assert!((1..64).contains(&lost), "some seeds lose the pending write, some keep it: {lost}");
    }

    #[test]
    fn a_kill_keeps_everything() {
        let medium = SimMedium::new("d", 1 << 20);
        medium.mount().create("a").unwrap().write_at(0, b"x").unwrap();
        medium.kill();
        assert_eq!(medium.mount().open("a").unwrap().len().unwrap(), 1);
    }

    #[test]
    fn a_failed_fsync_keeps_what_was_synced_and_is_not_made_up_for() {
        let mut lost = 0;
        for seed in 0..64 {
            let medium = SimMedium::new("d", 1 << 20);
            let file = medium.mount().create("a").unwrap();
            medium.mount().sync_dir("").unwrap();
            file.write_at(0, b"synced").unwrap();
            file.sync().unwrap();
            file.write_at(6, b"-pending").unwrap();
            medium.falls_ill(Ill::Syncs(1), seed);
            assert!(file.sync().is_err());
            assert_eq!(medium.felt(), ["a"]);
            let disk = medium.mount();
            let replaced = disk.create("b").unwrap();
            disk.create("c").unwrap();
            disk.rename("c", "b").unwrap();
            assert!(replaced.sync().is_err());
            assert_eq!(medium.felt(), ["a", "replaced b"]);
            medium.recovers();
            file.sync().unwrap();
            medium.crash(&SeededRng::new(seed));
            let file = medium.mount().open("a").unwrap();
            let mut buf = [0; 6];
            file.read_at(0, &mut buf).unwrap();
            assert_eq!(&buf, b"synced");
            lost += u32::from(file.len().unwrap() == 6);
        }
        assert!((1..64).contains(&lost), "{lost}");
    }

    #[test]
    fn a_full_medium_takes_what_needs_no_room() {
        let medium = SimMedium::new("d", 1 << 20);
        let file = medium.mount().create("a").unwrap();
        file.allocate(2 * PAGE_BYTES).unwrap();
        file.write_at(3 * PAGE_BYTES, b"x").unwrap();
        medium.falls_ill(Ill::Full, 1);
        file.write_at(PAGE_BYTES, b"x").unwrap();
        let full = |r: io::Result<()>| assert_eq!(r.unwrap_err().kind(), io::ErrorKind::StorageFull);
        full(file.write_at(2 * PAGE_BYTES, b"x"));
        full(medium.mount().create("b").map(drop));
        assert_eq!(medium.mount().space().unwrap().1, 0);
        medium.recovers();
        file.write_at(2 * PAGE_BYTES, b"x").unwrap();
    }

    #[test]
    fn a_write_that_goes_astray_is_acknowledged_and_a_bit_that_flips_is_of_the_pages_meant() {
        let medium = SimMedium::new("d", 1 << 20);
        let file = medium.mount().create("chunks/a").unwrap();
        file.write_at(DATA_FROM, &[1; 4096]).unwrap();
        file.write_at(DATA_FROM + PAGE_BYTES, &[2; 4096]).unwrap();
        medium.falls_ill(Ill::Strays(1), 1);
        file.write_at(DATA_FROM, &[3; 4096]).unwrap();
        medium.recovers();
        let read = || {
            let mut buf = [0; 8192];
            file.read_at(DATA_FROM, &mut buf).unwrap();
            buf
        };
        assert!(read()[..4096] == [1; 4096] && read()[4096..] == [3; 4096], "it went to the other page");
        let before = read();
        let first = DATA_FROM / PAGE_BYTES + 1;
        medium.rots(&SeededRng::new(1), |n| n.starts_with(CHUNKS), first).unwrap();
        assert_eq!(read().iter().zip(before).filter(|(a, b)| **a != *b).count(), 1);
        assert_eq!(read()[..4096], before[..4096]);
    }
}
